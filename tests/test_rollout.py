"""Truncation, masking and autoreset, on environments whose numbers are known."""

import gymnasium as gym
import numpy as np
import pytest
import tiny_envs
import torch
from test_math import having

ENDS = ("terminated", "truncated", "both")


def timetable(*ends):
    """One environment for each list of ends."""
    return gym.vector.SyncVectorEnv([lambda ends=e: tiny_envs.Timetable(ends) for e in ends])


def begin(module, envs):
    obs, _ = envs.reset(seed=0)
    n = envs.num_envs
    agent = module.Agent(envs.single_observation_space, envs.single_action_space)
    return agent, module.EnvState(obs, np.zeros(n, bool), np.zeros(n), np.zeros(n, int))


@pytest.mark.parametrize("module", having("collect", "EnvState"))
class TestCollect:
    def test_every_number_of_a_rollout(self, module):
        envs = timetable([(2, "terminated"), (3, "truncated")])
        agent, state = begin(module, envs)
        rollout, finished = module.collect(envs, agent, state, 7)
        # episode 0: steps 1, 2, terminated; a reset; episode 1: steps 1, 2, 3, truncated; a reset
        assert rollout.obs[:, 0].tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2], [1, 3], [2, 0]]
        assert rollout.reward[:, 0].tolist() == [1, 2, 0, 11, 12, 13, 0]
        assert rollout.valid[:, 0].tolist() == [True, True, False, True, True, True, False]
        assert rollout.terminated[:, 0].nonzero().tolist() == [[1]]
        assert rollout.truncated[:, 0].nonzero().tolist() == [[5]]
        assert finished == [(3.0, 2), (36.0, 3)]

    def test_the_mask_is_right_across_the_boundary_of_two_rollouts(self, module):
        envs = timetable([(2, "terminated")], [(3, "terminated")])
        agent, state = begin(module, envs)
        whole, parts = [], []
        for _ in range(4):
            rollout, finished = module.collect(envs, agent, state, 2)
            whole.append(rollout.valid)
            parts += finished
        assert torch.cat(whole)[:, 0].tolist() == [True, True, False, True, True, False, True, True]
        assert torch.cat(whole)[:, 1].tolist() == [True, True, True, False, True, True, True, False]
        assert sorted(parts) == [(3.0, 2), (6.0, 3), (23.0, 2), (36.0, 3), (43.0, 2)]

    def test_a_rollout_of_nothing_but_resets(self, module):
        envs = timetable(*[[(1, "truncated")]] * 3)
        agent, state = begin(module, envs)
        first, _ = module.collect(envs, agent, state, 1)
        second, finished = module.collect(envs, agent, state, 1)
        assert first.valid.all() and not second.valid.any() and finished == []

    @pytest.mark.parametrize("how", ENDS)
    @pytest.mark.parametrize("at", ["first", "middle", "last"])
    def test_advantages_at_an_end(self, module, how, at):
        """An episode that ends at the first, a middle, or the last of 4 steps, with V(s) = 100 · episode + steps."""
        length = {"first": 1, "middle": 3, "last": 4}[at]
        envs = timetable([(length, how)])
        agent, state = begin(module, envs)
        rollout, _ = module.collect(envs, agent, state, 4)
        value = rollout.obs @ torch.tensor([100.0, 1.0])
        advantage = module.gae(rollout.reward, value, rollout.terminated, rollout.truncated, 0.5, 0.5)
        # within the episode r_t = t + 1 and V(s_t) = t, so δ_t = (t + 1) + γ (t + 1) − t
        expected = 0.0
        for t in reversed(range(length)):
            after = 0.0 if t == length - 1 and how != "truncated" else t + 1
            expected = (t + 1) + 0.5 * after - t + 0.25 * expected
            assert advantage[t, 0] == expected, t


@pytest.mark.parametrize("module", having("make_envs"))
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Acrobot-v1", "Pendulum-v1"])
def test_gymnasium_keeps_the_contract_of_next_step(module, env_id):
    """The step after an end only resets: no reward, no end, whatever the action; native and Sync vector versions."""
    envs = module.make_envs(env_id, 4)
    envs.reset(seed=0)
    envs.action_space.seed(0)
    done, resets = np.zeros(4, bool), 0
    for _ in range(1100):
        obs, reward, terminated, truncated, _ = envs.step(envs.action_space.sample())
        assert not reward[done].any() and not (terminated | truncated)[done].any()
        low = {"CartPole-v1": -0.05, "Acrobot-v1": -1.0, "Pendulum-v1": -1.0}[env_id]
        assert (obs[done][:, 0] >= low).all() and (obs[done][:, 0] <= -low).all()
        resets += done.sum()
        done = terminated | truncated
    assert resets >= 8


@pytest.mark.parametrize("module", having("evaluate"))
class TestEvaluate:
    def test_one_episode_of_each_environment(self, module, monkeypatch):
        """Environments with episodes of 1, 2 and 5 steps: the short ones are not counted twice."""
        monkeypatch.setattr(module, "make_envs", lambda *_: timetable(*[[(n, "truncated")] for n in (1, 2, 5)]))
        returns = module.evaluate(lambda obs: np.zeros(3, int), "any", 3, 0)
        assert returns.tolist() == [1, 3, 15]

    def test_is_repeatable_and_its_seed_matters(self, module):
        def act(obs):
            return (obs[:, 2] > 0).astype(int)

        first, again, other = (module.evaluate(act, "CartPole-v1", 20, seed) for seed in (5, 5, 6))
        assert (first == again).all() and (first != other).any()


@pytest.mark.parametrize("module", having("Agent"))
class TestAgent:
    def test_discrete_actions_start_where_the_space_does(self, module):
        env = gym.make("tiny_envs:IdentityDiscrete-v0")
        agent = module.Agent(env.observation_space, env.action_space)
        assert agent.to_env(torch.tensor([0, 2])).tolist() == [5, 7]

    def test_box_actions_are_clipped_and_scaled_to_the_bounds_of_a_single_environment(self, module):
        env = gym.make("tiny_envs:IdentityBox-v0")  # bounds ±2 and 0 to 0.5
        agent = module.Agent(env.observation_space, env.action_space)
        actions = torch.tensor([[-1.0, -1.0], [0.0, 0.0], [0.5, 0.5], [9.0, -9.0]])
        assert agent.to_env(actions).tolist() == [[-2, 0], [0, 0.25], [1, 0.375], [2, 0]]

    def test_the_stored_action_is_not_clipped(self, module):
        envs = module.make_envs("tiny_envs:IdentityBox-v0", 50)
        agent, state = begin(module, envs)
        rollout, _ = module.collect(envs, agent, state, 20)
        assert rollout.action.abs().max() > 1

    def test_a_step_of_the_statistics_changes_policy_and_value(self, module):
        """They are part of the network: what it returns depends on them, and its state_dict carries them."""
        env = gym.make("CartPole-v1")
        agent = module.Agent(env.observation_space, env.action_space)
        obs = torch.randn(8, 4)
        before = agent.policy(agent.normalize(obs)).logits
        agent.obs_stats.update(torch.randn(5, 8, 4) * 3 + 1, torch.ones(5, 8))
        other = module.Agent(env.observation_space, env.action_space)
        other.load_state_dict(agent.state_dict())
        after = agent.policy(agent.normalize(obs)).logits
        assert not torch.equal(before, after)
        assert torch.equal(after, other.policy(other.normalize(obs)).logits)
        torch.testing.assert_close(agent.normalize(agent.obs_stats.mean), torch.zeros(4))
