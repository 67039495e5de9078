"""Truncation, masking and autoreset, on environments whose numbers are known."""

from typing import NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from helpers import agent_for, modules_defining
from tiny_envs import timetables

ENDS = ("terminated", "truncated", "both")


class Rollout(NamedTuple):
    """What a script's `collect` yields, (T, N) each; the observations are (T+1, N, 2)."""

    obs: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor
    discounted_return: Tensor
    episodes: list


class Episodes(NamedTuple):
    """What a script's `collect_episodes` yields, (T, N) each."""

    obs: Tensor
    action: Tensor
    reward: Tensor
    valid: Tensor
    episodes: list


def rollouts_of(module, envs, num_steps, gamma=0.5):
    """One rollout after the other, of an untrained agent."""
    for columns in module.collect(envs, agent_for(module, envs), num_steps, gamma, seed=0):
        yield Rollout(*columns)


def episodes_of(module, envs):
    """One iteration's episodes after the other, of an untrained agent."""
    for columns in module.collect_episodes(envs, agent_for(module, envs), seed=0):
        yield Episodes(*columns)


@pytest.mark.parametrize("module", modules_defining("collect"))
class TestCollect:
    def test_every_number_of_a_rollout(self, module):
        envs = timetables([(2, "terminated"), (3, "truncated")])
        rollout = next(rollouts_of(module, envs, 7))
        # episode 0: steps 1, 2, terminated; a reset; episode 1: steps 1, 2, 3, truncated; a reset
        first_episode = [[0, 0], [0, 1], [0, 2]]
        second_episode = [[1, 0], [1, 1], [1, 2], [1, 3]]
        assert rollout.obs[:, 0].tolist() == [*first_episode, *second_episode, [2, 0]]
        assert rollout.action.shape == (7, 1)
        assert rollout.reward[:, 0].tolist() == [1, 2, 0, 11, 12, 13, 0]
        assert rollout.valid[:, 0].tolist() == [True, True, False, True, True, True, False]
        assert rollout.terminated[:, 0].nonzero().tolist() == [[1]]
        assert rollout.truncated[:, 0].nonzero().tolist() == [[5]]
        assert rollout.discounted_return[:, 0].tolist() == [1, 2.5, 0, 11, 17.5, 21.75, 0]
        assert rollout.episodes == [(3.0, 2), (36.0, 3)]

    def test_what_is_carried_from_one_rollout_into_the_next(self, module):
        ends = [(2, "terminated")], [(3, "terminated")]
        rollouts = rollouts_of(module, timetables(*ends), 2)
        parts = [next(rollouts) for _ in range(4)]
        whole = next(rollouts_of(module, timetables(*ends), 8))
        for name in ("reward", "terminated", "truncated", "valid", "discounted_return"):
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
        rollouts = rollouts_of(module, timetables(*[[(1, "truncated")]] * 3), 1)
        for episode in range(3):
            rollout = next(rollouts)
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
        rollout = next(rollouts_of(module, timetables([(length, how)]), 4))
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


@pytest.mark.parametrize("module", modules_defining("collect_episodes"))
class TestCollectEpisodes:
    @pytest.mark.parametrize("how", ENDS)
    def test_every_number_of_an_iteration(self, module, how):
        iterations = episodes_of(module, timetables([(2, how)], [(4, "terminated")]))
        # While environment 1 runs on, environment 0 is reset and begins an episode that does not
        # count.
        first = next(iterations)
        assert first.obs[:3, 0].tolist() == [[0, 0], [0, 1], [0, 2]]
        assert first.obs[:, 1].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3]]
        assert first.action.shape == (4, 2)
        assert first.reward.T.tolist() == [[1, 2, 0, 0], [1, 2, 3, 4]]
        assert first.reward.dtype == torch.float32
        assert first.valid.T.tolist() == [[True, True, False, False], [True] * 4]
        assert first.episodes == [(3, 2), (10, 4)]

        second = next(iterations)
        # Episode 1 of environment 0 was begun and left.
        assert second.obs[0].tolist() == [[2, 0], [1, 0]]
        assert second.valid.T.tolist() == [[True, True, False, False], [True] * 4]
        assert second.reward.T.tolist() == [[21, 22, 0, 0], [11, 12, 13, 14]]
        assert second.episodes == [(43, 2), (50, 4)]

    def test_short_episodes_are_not_favoured(self, module):
        """One episode of each environment, though the first has time for twenty."""
        iterations = episodes_of(module, timetables([(1, "truncated")], [(20, "truncated")]))
        for _ in range(3):
            iteration = next(iterations)
            assert iteration.valid.sum(0).tolist() == [1, 20]
            assert len(iteration.episodes) == 2


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
        assert module.evaluate(lambda obs: np.zeros(3, int), envs, 0).tolist() == [1, 3, 15]

    def test_is_repeatable_and_its_seed_matters(self, module):
        def returns(seed):
            envs = module.make_envs("CartPole-v1", 20)
            return module.evaluate(lambda obs: (obs[:, 2] > 0).astype(int), envs, seed)

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
        if hasattr(module, "collect_episodes"):
            rollout = next(episodes_of(module, envs))
        else:
            rollout = next(rollouts_of(module, envs, 20))
        assert rollout.action.abs().max() > 1

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
