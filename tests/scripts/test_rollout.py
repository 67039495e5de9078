"""Truncation, masking and autoreset, on environments whose numbers are known."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from helpers import modules_defining
from tiny_envs import timetables

ENDS = ("terminated", "truncated", "both")


def begin(module, envs, num_steps, gamma=0.5):
    agent = module.Agent(envs.single_observation_space, envs.single_action_space)
    return module.collect(envs, agent, num_steps, gamma, seed=0)


@pytest.mark.parametrize("module", modules_defining("collect"))
class TestCollect:
    def test_every_number_of_a_rollout(self, module):
        rollouts = begin(module, timetables([(2, "terminated"), (3, "truncated")]), 7)
        obs, action, reward, terminated, truncated, valid, discounted, episodes = next(rollouts)
        # episode 0: steps 1, 2, terminated; a reset; episode 1: steps 1, 2, 3, truncated; a reset
        assert obs[:, 0].tolist() == [
            [0, 0],
            [0, 1],
            [0, 2],
            [1, 0],
            [1, 1],
            [1, 2],
            [1, 3],
            [2, 0],
        ]
        assert action.shape == (7, 1)
        assert reward[:, 0].tolist() == [1, 2, 0, 11, 12, 13, 0]
        assert valid[:, 0].tolist() == [True, True, False, True, True, True, False]
        assert terminated[:, 0].nonzero().tolist() == [[1]]
        assert truncated[:, 0].nonzero().tolist() == [[5]]
        assert discounted[:, 0].tolist() == [1, 2.5, 0, 11, 17.5, 21.75, 0]
        assert episodes == [(3.0, 2), (36.0, 3)]

    def test_what_is_carried_from_one_rollout_into_the_next(self, module):
        envs = timetables([(2, "terminated")], [(3, "terminated")])
        parts = [next(rollouts) for rollouts in [begin(module, envs, 2)] for _ in range(4)]
        whole = next(begin(module, timetables([(2, "terminated")], [(3, "terminated")]), 8))
        for i in range(2, 7):
            assert torch.equal(torch.cat([part[i] for part in parts]), whole[i])
        assert whole[5][:, 0].tolist() == [True, True, False, True, True, False, True, True]
        assert whole[5][:, 1].tolist() == [True, True, True, False, True, True, True, False]
        assert sorted(sum((part[-1] for part in parts), [])) == sorted(whole[-1])
        assert sorted(whole[-1]) == [(3.0, 2), (6.0, 3), (23.0, 2), (36.0, 3), (43.0, 2)]
        for before, after in zip(parts, parts[1:]):
            assert torch.equal(before[0][-1], after[0][0])

    def test_a_rollout_of_nothing_but_resets_is_passed_over(self, module):
        rollouts = begin(module, timetables(*[[(1, "truncated")]] * 3), 1)
        for episode in range(3):
            obs, _, reward, _, truncated, valid, _, episodes = next(rollouts)
            assert valid.all() and truncated.all() and episodes == [(10 * episode + 1, 1)] * 3
            assert (obs[:, :, 0] == episode).all() and (reward == 10 * episode + 1).all()

    @pytest.mark.parametrize("how", ENDS)
    @pytest.mark.parametrize("at", ["first", "middle", "last"])
    def test_advantages_at_an_end(self, module, how, at):
        """An episode that ends at the first, a middle, or the last of 4 steps, with V(s) = 100 · episode + steps."""
        length = {"first": 1, "middle": 3, "last": 4}[at]
        obs, _, reward, terminated, truncated, *_ = next(
            begin(module, timetables([(length, how)]), 4)
        )
        value = obs @ torch.tensor([100.0, 1.0])
        advantage = module.gae(reward, value, terminated, truncated, 0.5, 0.5)
        # within the episode r_t = t + 1 and V(s_t) = t, so δ_t = (t + 1) + γ (t + 1) − t
        expected = 0.0
        for t in reversed(range(length)):
            after = 0.0 if t == length - 1 and how != "truncated" else t + 1
            expected = (t + 1) + 0.5 * after - t + 0.25 * expected
            assert advantage[t, 0] == expected, t


@pytest.mark.parametrize("module", modules_defining("collect_episodes"))
class TestCollectEpisodes:
    def begin(self, module, envs):
        agent = module.Agent(envs.single_observation_space, envs.single_action_space)
        return module.collect_episodes(envs, agent, seed=0)

    @pytest.mark.parametrize("how", ENDS)
    def test_every_number_of_an_iteration(self, module, how):
        batches = self.begin(module, timetables([(2, how)], [(4, "terminated")]))
        obs, action, reward, valid, episodes = next(batches)
        # while environment 1 runs on, environment 0 is reset and begins an episode that does not count
        assert obs[:, 0].tolist()[:3] == [[0, 0], [0, 1], [0, 2]]
        assert obs[:, 1].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3]]
        assert action.shape == (4, 2)
        assert reward.T.tolist() == [[1, 2, 0, 0], [1, 2, 3, 4]] and reward.dtype == torch.float32
        assert valid.T.tolist() == [[True, True, False, False], [True] * 4]
        assert episodes == [(3, 2), (10, 4)]

        obs, _, reward, valid, episodes = next(batches)
        assert obs[0].tolist() == [[2, 0], [1, 0]]  # episode 1 of environment 0 was begun and left
        assert valid.T.tolist() == [[True, True, False, False], [True] * 4]
        assert reward.T.tolist() == [[21, 22, 0, 0], [11, 12, 13, 14]]
        assert episodes == [(43, 2), (50, 4)]

    def test_short_episodes_are_not_favoured(self, module):
        """One episode of each environment, though the first could have had twenty in the meantime."""
        for batch, _ in zip(
            self.begin(module, timetables([(1, "truncated")], [(20, "truncated")])), range(3)
        ):
            assert batch[3].sum(0).tolist() == [1, 20] and len(batch[-1]) == 2


@pytest.mark.parametrize("module", modules_defining("make_envs"))
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Acrobot-v1", "Pendulum-v1"])
def test_gymnasium_keeps_the_contract_of_next_step(module, env_id):
    """The step after an end only resets: no reward, no end, whatever the action; native and Sync vector versions."""
    envs = module.make_envs(env_id, 4)
    assert envs.metadata["autoreset_mode"] == gym.vector.AutoresetMode.NEXT_STEP
    envs.reset(seed=0)
    envs.action_space.seed(0)
    done, resets = np.zeros(4, bool), 0
    for _ in range(1100):
        obs, reward, terminated, truncated, _ = envs.step(envs.action_space.sample())
        assert not reward[done].any() and not (terminated | truncated)[done].any()
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
        assert module.evaluate(lambda obs: np.zeros(3, int), envs, 0).tolist() == [1, 3, 15]

    def test_is_repeatable_and_its_seed_matters(self, module):
        def returns(seed):
            return module.evaluate(
                lambda obs: (obs[:, 2] > 0).astype(int), module.make_envs("CartPole-v1", 20), seed
            )

        assert (returns(5) == returns(5)).all() and (returns(5) != returns(6)).any()


@pytest.mark.parametrize("module", modules_defining("load_policy"))
def test_box_actions_are_scaled_to_the_bounds_of_a_single_environment(module):
    env = gym.make("tiny_envs:IdentityBox-v0")  # bounds ±2 and 0 to 0.5
    agent = module.Agent(env.observation_space, env.action_space)
    actions = torch.tensor([[-1.0, -1.0], [0.0, 0.0], [0.5, 0.5], [1.0, 1.0]])
    assert agent.to_env(actions).tolist() == [[-2, 0], [0, 0.25], [1, 0.375], [2, 0.5]]


@pytest.mark.parametrize("module", modules_defining("Agent", "Discrete"))
def test_discrete_actions_start_where_the_space_does(module):
    env = gym.make("tiny_envs:IdentityDiscrete-v0")
    agent = module.Agent(env.observation_space, env.action_space)
    assert agent.to_env(torch.tensor([0, 2])).tolist() == [5, 7]


@pytest.mark.parametrize("module", modules_defining("Agent", "Discrete"))
def test_box_actions_are_clipped(module):
    env = gym.make("tiny_envs:IdentityBox-v0")
    agent = module.Agent(env.observation_space, env.action_space)
    assert agent.to_env(torch.tensor([[9.0, -9.0]])).tolist() == [[2, 0]]


@pytest.mark.parametrize("module", modules_defining("Agent", "gaussian_policy"))
class TestAgent:
    def test_the_stored_action_is_not_clipped(self, module):
        envs = module.make_envs("tiny_envs:IdentityBox-v0", 50)
        agent = module.Agent(envs.single_observation_space, envs.single_action_space)
        whole = (
            module.collect_episodes(envs, agent, 0) if hasattr(module, "collect_episodes") else None
        )
        _, action, *_ = next(whole or module.collect(envs, agent, 20, 0.5, 0))
        assert action.abs().max() > 1

    def test_the_observation_statistics_are_part_of_the_network(self, module):
        env = gym.make("CartPole-v1")
        agent, other = (module.Agent(env.observation_space, env.action_space) for _ in range(2))
        obs = torch.randn(8, 4)
        before = agent.actor(agent.normalize(obs))
        agent.obs_stats.update(torch.randn(50, 4) * 3 + 1)
        after = agent.actor(agent.normalize(obs))
        assert not torch.equal(before, after)
        other.load_state_dict(agent.state_dict())
        assert torch.equal(after, other.actor(other.normalize(obs)))
        torch.testing.assert_close(agent.normalize(agent.obs_stats.mean), torch.zeros(4))
