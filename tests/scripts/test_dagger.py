"""DAgger's data and what becomes of it: who acts, who labels, what is kept."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch.distributions import Categorical, Normal

import dagger
from helpers import agent_for, modules_defining
from run_folder import checkpoint, scalar_values, scalars, summary
from tiny_envs import BOX, timetables

ENDS = [(2, "terminated"), (3, "truncated")]


def start_of(envs):
    """The state before the first rollout: observations, done flags, returns, lengths."""
    obs, _ = envs.reset(seed=0)
    num_envs = envs.num_envs
    return obs, np.zeros(num_envs, dtype=bool), np.zeros(num_envs), np.zeros(num_envs)


def collect(envs, expert, beta, num_steps, state, agent=None):
    agent = agent or agent_for(dagger, envs)
    return dagger.collect_labels(envs, agent, expert, beta, num_steps, state)


def oracle(obs):
    """Labels that tell the state they belong to."""
    return (10 * obs[:, 0] + obs[:, 1]).astype(np.int64)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_every_visited_state_is_labelled_by_the_expert_whoever_acts(beta):
    envs = timetables(ENDS, [(1, "both")])
    obs, label, episodes, state = collect(envs, oracle, beta, 7, start_of(envs))
    # environment 0: 2 steps, a reset, 3 steps, a reset; environment 1: a step and a reset, in turn
    visited = [[0, 0], [0, 0], [0, 1], [1, 0], [1, 0], [1, 1], [2, 0], [1, 2], [3, 0]]
    assert sorted(obs.tolist()) == sorted(visited)
    assert label.tolist() == oracle(obs.numpy()).tolist()
    assert sorted(episodes) == [(1.0, 1), (3.0, 2), (11.0, 1), (21.0, 1), (31.0, 1), (36.0, 3)]

    # What the last step led to is where it goes on.
    more, *_ = collect(envs, oracle, beta, 3, state)
    assert sorted(more.tolist()) == [[2, 0], [2, 1], [4, 0]]


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_the_expert_acts_with_probability_beta(beta):
    """A learner always answers 0, an expert always 1; each environment is drawn for itself."""
    envs = gym.make_vec("tiny_envs:Timetable-v0", 200, "sync")
    agent = agent_for(dagger, envs)
    with torch.no_grad():
        agent.actor[-1].bias.copy_(torch.tensor([1e3, 0.0]))
    taken = []
    step = envs.step

    def recording_step(action):
        taken.append(action.copy())
        return step(action)

    def expert(obs):
        return np.ones(len(obs), dtype=np.int64)

    envs.step = recording_step
    _, label, *_ = collect(envs, expert, beta, 20, start_of(envs), agent)
    assert (label == 1).all()
    standard_error = (beta * (1 - beta) / 4000) ** 0.5
    assert abs(np.mean(taken) - beta) < 4 * standard_error + 1e-9
    if 0 < beta < 1:
        assert all(0 < np.mean(action) < 1 for action in taken)


def test_with_beta_1_the_states_are_the_experts_own():
    expert = dagger.balance
    envs = dagger.make_envs("CartPole-v1", 3)
    obs, label, _, (after, *_) = collect(envs, expert, 1.0, 50, start_of(envs))
    envs = dagger.make_envs("CartPole-v1", 3)
    first, _ = envs.reset(seed=0)
    states = [first.copy()]
    for _ in range(50):
        next_state, *_ = envs.step(expert(states[-1]))
        states.append(next_state.copy())
    np.testing.assert_array_equal(obs, np.concatenate(states[:-1]))
    np.testing.assert_array_equal(label, np.concatenate([expert(state) for state in states[:-1]]))
    np.testing.assert_array_equal(after, states[-1])


@pytest.mark.parametrize("action_space", [Discrete(3, start=5), BOX])
def test_imitation_loss_equals_the_likelihood(action_space):
    """Up to a constant −log π of a softmax, or of a Gaussian with σ = 1 in units of the bounds."""
    torch.manual_seed(0)
    action_space.seed(0)
    agent = dagger.Agent(Box(-1, 1, (3,)), action_space).double()
    x = torch.randn(40, 3, dtype=torch.float64) * 1e3  # some outputs beyond the bounds
    label = torch.as_tensor(np.stack([action_space.sample() for _ in range(40)]))
    loss, metrics = dagger.imitation_loss(agent, x, label)
    out = agent.actor(x)
    expected = 0.0
    disagreement = 0.0
    for i in range(40):
        if isinstance(action_space, Discrete):
            log_prob = Categorical(logits=out[i]).log_prob(label[i] - 5)
            differs = (out[i].argmax() != label[i] - 5).double()
        else:
            # Bounds of ±2, and of 0 and 0.5.
            in_units = torch.tensor([label[i, 0] / 2, label[i, 1] * 4 - 1], dtype=torch.float64)
            log_prob = (Normal(out[i], 1).log_prob(in_units) + np.log(2 * np.pi) / 2).sum()
            differs = ((out[i].clamp(-1, 1) - in_units).abs() > 0.1).double().mean()
            assert out.abs().max() > 1
        expected -= log_prob.item() / 40
        disagreement += differs.item() / 40
    assert abs(loss.item() - expected) < 1e-6
    assert abs(metrics["losses/disagreement"].item() - disagreement) < 1e-6


def test_the_dataset_keeps_what_it_is_given_and_its_state_leaves_the_room_behind():
    obs = torch.arange(6.0).reshape(3, 2)
    label = torch.tensor([0, 1, 0])
    dataset = dagger.Dataset(obs, label, room=5, device=torch.device("cpu"))
    dataset.add(torch.ones(2, 2), torch.tensor([1, 1]))
    assert dataset.size == 5 and dataset.label.tolist() == [0, 1, 0, 1, 1]
    assert dataset.obs.tolist() == [[0, 1], [2, 3], [4, 5], [1, 1], [1, 1]]
    state = dataset.state_dict()
    assert state["obs"].untyped_storage().nbytes() == 5 * 2 * 4
    other = dagger.Dataset(obs[:0], label[:0], room=9, device=torch.device("cpu"))
    other.load_state_dict(copy.deepcopy(state))
    other.add(torch.zeros(1, 2), torch.tensor([0]))
    assert other.size == 6 and torch.equal(other.obs[:5], dataset.obs)


def dataset_of(run_dir) -> dict[str, np.ndarray]:
    return dict(np.load(run_dir / "dataset.npz"))


def begins_with(obs, first) -> bool:
    return bool((obs[: len(first)] == first).all())


@pytest.mark.parametrize("flags", [(), ("--beta-schedule", "linear"), ("--bc-only",)])
def test_the_dataset_holds_one_label_for_each_step_and_grows_on(completed_run, tmp_path, flags):
    short = ("--total-timesteps", 2000, "--num-envs", 7, "--num-updates", 20, "--eval-episodes", 2)
    run_dir = tmp_path / "r"
    completed_run("dagger", *short, *flags, "--run-dir", "r")
    data = dataset_of(run_dir)
    num_labels = len(data["obs"])
    assert num_labels == len(data["label"]) == checkpoint(run_dir)["count"]["global_step"] >= 2000
    assert (data["label"] == dagger.balance(data["obs"])).all()
    assert all(step == labels for step, labels in scalars(run_dir)["charts/labels"])
    assert set(scalar_values(run_dir, "eval/expert_return")) == {500.0}
    beta = scalar_values(run_dir, "charts/beta")
    if flags == ("--bc-only",):
        assert set(beta) == {1}
    elif flags:
        assert beta == sorted(beta, reverse=True) and beta[0] == 1 and 0 < beta[-1] < 0.2
    else:
        assert beta == [1] + [0] * (len(beta) - 1)

    completed_run("dagger", *short, "--dataset", "r/dataset.npz", "--run-dir", "more")
    more = dataset_of(tmp_path / "more")
    new_steps = checkpoint(tmp_path / "more")["count"]["global_step"]
    assert len(more["obs"]) == num_labels + new_steps
    assert begins_with(more["obs"], data["obs"])
    # Before its first fit the learner knows nothing.
    assert scalar_values(tmp_path / "more", "charts/beta")[0] == 1

    completed_run("dagger", "--resume", "r", "--total-timesteps", 3000)
    resumed = dataset_of(run_dir)
    assert begins_with(resumed["obs"], data["obs"])
    assert len(resumed["obs"]) == checkpoint(run_dir)["count"]["global_step"] >= 3000
    less = completed_run("dagger", "--resume", "r", "--total-timesteps", 1000)
    assert "finished" in less.stdout


@pytest.mark.parametrize("env_id, at_least", [("CartPole-v1", 475), ("Pendulum-v1", -200)])
def test_the_scripted_experts(env_id, at_least):
    returns = dagger.evaluate(dagger.SCRIPTED[env_id], dagger.make_envs(env_id, 100), seed=0)
    assert returns.mean() >= at_least


@pytest.mark.parametrize("module", modules_defining("gae"))
def test_a_policy_of_another_script_is_the_expert(module, completed_run, tmp_path):
    """With its own observation statistics: its return is the one that its script has measured."""
    completed_run(module.__name__, "--total-timesteps", 20_000, "--run-dir", "expert")
    expert_return = summary(tmp_path / "expert")["eval_return_mean"]
    for name, expert in (("of-folder", "expert"), ("of-file", "expert/policy.pt")):
        flags = ("--expert", expert, "--total-timesteps", 2000)
        completed_run("dagger", *flags, "--run-dir", name)
        measured = scalar_values(tmp_path / name, "eval/expert_return")[0]
        assert abs(measured - expert_return) < 1e-3
    data = dataset_of(tmp_path / "of-file")
    policy = dagger.load_policy(tmp_path / "expert" / "policy.pt")
    assert (policy(data["obs"]) == data["label"]).all()


def trail_guide(obs):
    """The expert on the trail: the right one of 0 and 1; beside it, back."""
    height = obs[:, 1].round()
    on_trail = (np.sin(1e4 * obs[:, 0]) > 0).astype(np.int64)
    beside = np.where(height > 0, 2, 3)
    return np.where(height == 0, on_trail, beside)


def test_dagger_beats_cloning_where_cloning_must_fail(train_here, monkeypatch):
    """On the trail one step in two goes wrong for any learner.

    Only who saw the states beside it knows the way back.
    """
    monkeypatch.setitem(dagger.SCRIPTED, "tiny_envs:Trail-v0", trail_guide)
    flags = {"total_timesteps": 4000, "num_envs": 8, "num_updates": 50}
    flags["env_id"] = "tiny_envs:Trail-v0"
    with_dagger = train_here(dagger, "dagger", **flags)
    cloning = train_here(dagger, "cloning", bc_only=True, **flags)
    assert scalar_values(cloning, "eval/expert_return")[0] == 50
    assert summary(with_dagger)["eval_return_mean"] > 45
    assert summary(cloning)["eval_return_mean"] < 20
