"""Truncation, masking and autoreset, on environments whose numbers are known."""

import copy
import importlib

import gymnasium as gym
import numpy as np
import pytest
import torch

from helpers import agent_for, modules_defining
from run_folder import checkpoint, scalar_values
from tiny_envs import timetables

ENDS = ("terminated", "truncated", "both")


CPU = torch.device("cpu")


def collector_for(module, envs, gamma=0.5):
    """Collects rollouts of an untrained agent."""
    return module.Collector(envs, agent_for(module, envs), CPU, gamma, seed=0)


def episode_collector_for(module, envs):
    """Collects episodes of an untrained agent."""
    return module.EpisodeCollector(envs, agent_for(module, envs), CPU, seed=0)


@pytest.mark.parametrize("module", modules_defining("Collector"))
class TestCollector:
    def test_every_number_of_a_rollout(self, module):
        envs = timetables([(2, "terminated"), (3, "truncated")])
        rollout = collector_for(module, envs).collect(7)
        # episode 0: steps 1, 2, terminated; a reset; episode 1: steps 1, 2, 3, truncated; a reset
        first_episode = [[0, 0], [0, 1], [0, 2]]
        second_episode = [[1, 0], [1, 1], [1, 2], [1, 3]]
        assert rollout.obs[:, 0].tolist() == [*first_episode, *second_episode, [2, 0]]
        assert rollout.action.shape == (7, 1)
        assert rollout.reward[:, 0].tolist() == [1, 2, 0, 11, 12, 13, 0]
        assert rollout.valid[:, 0].tolist() == [True, True, False, True, True, True, False]
        assert rollout.terminated[:, 0].nonzero().tolist() == [[1]]
        assert rollout.truncated[:, 0].nonzero().tolist() == [[5]]
        assert rollout.discounted_sum[:, 0].tolist() == [1, 2.5, 0, 11, 17.5, 21.75, 0]
        assert rollout.episodes == [(3.0, 2), (36.0, 3)]

    def test_the_types_of_a_rollout(self, module):
        """float32 for networks, bool for masks, and plain numbers for the log."""
        rollout = collector_for(module, timetables([(2, "both")])).collect(4)
        for name in ("obs", "reward", "discounted_sum"):
            assert getattr(rollout, name).dtype == torch.float32, name
        for name in ("terminated", "truncated", "valid"):
            assert getattr(rollout, name).dtype == torch.bool, name
        for episode_return, length in rollout.episodes:
            assert type(episode_return) is float and type(length) is int

    def test_the_actions_are_those_that_were_sampled_and_taken(self, module):
        """In the order of the steps; the environment gets them counted from its space's start."""
        envs = gym.make_vec("tiny_envs:IdentityDiscrete-v0", 3)
        taken = []
        step = envs.step

        def recording_step(action):
            taken.append(action.copy())
            return step(action)

        envs.step = recording_step
        rollout = collector_for(module, envs).collect(20)
        np.testing.assert_array_equal(rollout.action.numpy() + 5, np.stack(taken))
        assert len(rollout.action.unique()) == 3

    def test_what_is_carried_from_one_rollout_into_the_next(self, module):
        ends = [(2, "terminated")], [(3, "terminated")]
        collector = collector_for(module, timetables(*ends))
        parts = [collector.collect(2) for _ in range(4)]
        whole = collector_for(module, timetables(*ends)).collect(8)
        for name in ("reward", "terminated", "truncated", "valid", "discounted_sum"):
            joined = torch.cat([getattr(part, name) for part in parts])
            assert torch.equal(joined, getattr(whole, name)), name
        valid = whole.valid.T.tolist()
        assert valid[0] == [True, True, False, True, True, False, True, True]
        assert valid[1] == [True, True, True, False, True, True, True, False]
        episodes = [episode for part in parts for episode in part.episodes]
        assert sorted(episodes) == sorted(whole.episodes)
        assert sorted(episodes) == [(3.0, 2), (6.0, 3), (23.0, 2), (36.0, 3), (43.0, 2)]
        for before, after in zip(parts, parts[1:]):
            assert torch.equal(before.obs[-1], after.obs[0])

    def test_a_rollout_of_nothing_but_resets_is_passed_over(self, module):
        collector = collector_for(module, timetables(*[[(1, "truncated")]] * 3))
        for episode in range(3):
            rollout = collector.collect(1)
            assert rollout.valid.all() and rollout.truncated.all()
            assert rollout.episodes == [(10 * episode + 1, 1)] * 3
            assert (rollout.obs[:, :, 0] == episode).all()
            assert (rollout.reward == 10 * episode + 1).all()

    @pytest.mark.parametrize("how", ENDS)
    @pytest.mark.parametrize("length", [1, 3, 4])
    def test_advantages_at_an_end(self, module, how, length):
        """An episode that ends at the first, a middle, or the last of 4 steps.

        V(s) = 100 · episode + steps.
        """
        rollout = collector_for(module, timetables([(length, how)])).collect(4)
        value = rollout.obs @ torch.tensor([100.0, 1.0])
        ends = rollout.terminated, rollout.truncated
        advantage = module.gae(rollout.reward, value, *ends, 0.5, 0.5)
        # within the episode r_t = t + 1 and V(s_t) = t, so δ_t = (t + 1) + γ (t + 1) − t
        expected = 0.0
        for t in reversed(range(length)):
            has_value_after = t < length - 1 or how == "truncated"
            after = t + 1 if has_value_after else 0.0
            expected = (t + 1) + 0.5 * after - t + 0.25 * expected
            assert advantage[t, 0] == expected, t


@pytest.mark.parametrize("module", modules_defining("EpisodeCollector"))
class TestEpisodeCollector:
    @pytest.mark.parametrize("how", ENDS)
    def test_every_number_of_an_iteration(self, module, how):
        collector = episode_collector_for(module, timetables([(2, how)], [(4, "terminated")]))
        # While environment 1 runs on, environment 0 is reset and begins an episode that does not
        # count.
        first = collector.collect()
        assert first.obs[:3, 0].tolist() == [[0, 0], [0, 1], [0, 2]]
        assert first.obs[:, 1].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3]]
        assert first.action.shape == (4, 2)
        assert first.reward.T.tolist() == [[1, 2, 0, 0], [1, 2, 3, 4]]
        assert first.reward.dtype == torch.float32
        assert first.valid.T.tolist() == [[True, True, False, False], [True] * 4]

        second = collector.collect()
        # Episode 1 of environment 0 was begun and left.
        assert second.obs[0].tolist() == [[2, 0], [1, 0]]
        assert second.valid.T.tolist() == [[True, True, False, False], [True] * 4]
        assert second.reward.T.tolist() == [[21, 22, 0, 0], [11, 12, 13, 14]]

    def test_short_episodes_are_not_favoured(self, module):
        """One episode of each environment, though the first has time for twenty."""
        envs = timetables([(1, "truncated")], [(20, "truncated")])
        collector = episode_collector_for(module, envs)
        for _ in range(3):
            assert collector.collect().valid.sum(0).tolist() == [1, 20]

    def test_returns_and_lengths_are_logged_of_each_environments_episode(
        self, module, train_here, monkeypatch
    ):
        """Not of those that were begun and left."""
        envs = timetables([(2, "terminated")], [(4, "truncated")])
        envs.spec = gym.spec("Timetable-v0")
        evaluation_envs = timetables([(1, "terminated")])
        checked_envs = timetables([(1, "terminated")])
        checked_envs.spec = envs.spec
        made = iter([checked_envs, envs, evaluation_envs])
        monkeypatch.setattr(module, "make_envs", lambda *_: next(made))
        flags = {"env_id": "tiny_envs:Timetable-v0", "num_envs": 2, "eval_episodes": 1}
        run_dir = train_here(module, total_timesteps=12, **flags)
        first = [(3, 2), (10, 4)]
        second = [(43, 2), (50, 4)]
        expected = [np.mean([value for value, _ in ended]) for ended in (first, second)]
        assert scalar_values(run_dir, "charts/episodic_return") == expected
        assert scalar_values(run_dir, "charts/episodic_length") == [3, 3]
        count = checkpoint(run_dir)["count"]
        assert count["global_step"] == 12 and count["episodes"] == 4
        assert checkpoint(run_dir)["last100"] == [3, 10, 43, 50]


@pytest.mark.quick_for("ppo_clip")
@pytest.mark.parametrize("module", modules_defining("make_envs"))
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Acrobot-v1", "Pendulum-v1"])
def test_gymnasium_keeps_the_contract_of_next_step(module, env_id):
    """The step after an end only resets: no reward, no end, whatever the action.

    CartPole has a native vector version, the others are in a SyncVectorEnv.
    """
    envs = module.make_envs(env_id, 4)
    assert envs.metadata["autoreset_mode"] == gym.vector.AutoresetMode.NEXT_STEP
    envs.reset(seed=0)
    envs.action_space.seed(0)
    done = np.zeros(4, dtype=bool)
    resets = 0
    for _ in range(1100):
        obs, reward, terminated, truncated, _ = envs.step(envs.action_space.sample())
        assert not reward[done].any()
        assert not terminated[done].any() and not truncated[done].any()
        if env_id == "CartPole-v1":
            assert (np.abs(obs[done]) <= 0.05).all()
        if env_id == "Acrobot-v1":
            assert (obs[done][:, [0, 2]] >= 0.99).all()  # cosines of angles within ± 0.1
        resets += done.sum()
        done = terminated | truncated
    assert resets >= 8


@pytest.mark.parametrize("module", modules_defining("evaluate"))
class TestEvaluate:
    def test_one_episode_of_each_environment(self, module):
        """Environments with episodes of 1, 2 and 5 steps: the short ones are not counted twice."""
        envs = timetables(*[[(n, "truncated")] for n in (1, 2, 5)])
        returns, lengths = module.evaluate(lambda obs: np.zeros(3, int), envs, 0)
        assert returns.tolist() == [1, 3, 15]
        assert lengths.tolist() == [1, 2, 5]

    def test_is_repeatable_and_its_seed_matters(self, module):
        def returns(seed):
            envs = module.make_envs("CartPole-v1", 20)
            returns, _ = module.evaluate(lambda obs: (obs[:, 2] > 0).astype(int), envs, seed)
            return returns

        assert (returns(5) == returns(5)).all()
        assert (returns(5) != returns(6)).any()


@pytest.mark.parametrize("module", modules_defining("load_policy"))
def test_box_actions_are_scaled_to_the_bounds_of_a_single_environment(module):
    envs = gym.make_vec("tiny_envs:IdentityBox-v0", 3)  # bounds ±2 and 0 to 0.5
    agent = agent_for(module, envs)
    actions = torch.tensor([[-1.0, -1.0], [0.0, 0.0], [0.5, 0.5], [1.0, 1.0]])
    assert agent.to_env(actions).tolist() == [[-2, 0], [0, 0.25], [1, 0.375], [2, 0.5]]


@pytest.mark.parametrize("module", modules_defining("Agent", "Discrete"))
def test_discrete_actions_start_where_the_space_does(module):
    agent = agent_for(module, gym.make_vec("tiny_envs:IdentityDiscrete-v0", 1))
    assert agent.to_env(torch.tensor([0, 2])).tolist() == [5, 7]


@pytest.mark.parametrize("module", modules_defining("Agent", "Discrete"))
def test_box_actions_are_clipped(module):
    agent = agent_for(module, gym.make_vec("tiny_envs:IdentityBox-v0", 1))
    assert agent.to_env(torch.tensor([[9.0, -9.0]])).tolist() == [[2, 0]]


@pytest.mark.parametrize("module", modules_defining("Agent", "gaussian_policy"))
class TestAgent:
    def test_the_stored_action_is_not_clipped(self, module):
        envs = module.make_envs("tiny_envs:IdentityBox-v0", 50)
        if hasattr(module, "EpisodeCollector"):
            rollout = episode_collector_for(module, envs).collect()
        else:
            rollout = collector_for(module, envs).collect(20)
        assert rollout.action.abs().max() > 1

    @pytest.mark.usefixtures("process_group")
    def test_the_observation_statistics_are_part_of_the_network(self, module):
        envs = gym.make_vec("CartPole-v1", 1)
        agent = agent_for(module, envs)
        other = agent_for(module, envs)
        obs = torch.randn(8, 4)
        before = agent.actor(agent.normalize(obs))
        agent.obs_stats.update(torch.randn(50, 4) * 3 + 1)
        after = agent.actor(agent.normalize(obs))
        assert not torch.equal(before, after)
        other.load_state_dict(agent.state_dict())
        assert torch.equal(after, other.actor(other.normalize(obs)))
        torch.testing.assert_close(agent.normalize(agent.obs_stats.mean), torch.zeros(4))


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("script", ["ppo_clip", "ppo_kl", "ppo_ddp", "trpo"])
def test_new_statistics_leave_the_policy_what_it_is_at_their_mean(script, env_id):
    module = importlib.import_module(script)
    torch.manual_seed(0)
    envs = gym.make_vec(env_id, 1)
    agent = agent_for(module, envs).double()
    obs_dim = agent.actor[0].in_features
    obs = 5 * torch.randn(300, obs_dim, dtype=torch.float64) + torch.arange(1, 1 + obs_dim)
    before = {name: value.clone() for name, value in agent.state_dict().items()}

    agent.update_obs_stats(obs[:100])
    assert not agent.actor[0].bias.any()  # the first statistics change no weight
    for batch in (obs[100:200], 10 * obs[200:] + 7):
        old_stats = copy.deepcopy(agent.obs_stats)
        old_actor = copy.deepcopy(agent.actor)
        agent.update_obs_stats(batch)
        mean = agent.obs_stats.mean
        assert (mean - old_stats.mean).abs().mean() > 0.1
        old_out = old_actor((mean - old_stats.mean) / old_stats.std)
        torch.testing.assert_close(agent.actor(agent.normalize(mean)), old_out)
        assert not torch.allclose(old_actor(agent.normalize(mean)), old_out, rtol=1e-3)
    assert agent.obs_stats.count == 300
    for name, value in agent.state_dict().items():
        if "stats" not in name and name != "actor.0.bias":
            assert torch.equal(value, before[name])
