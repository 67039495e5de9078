"""DAgger's data and what becomes of it: who acts, who labels, what is kept."""

import copy
import signal

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch.distributions import Categorical, Normal

import dagger
from helpers import modules_defining
from run_folder import checkpoint, scalars, summary
from tiny_envs import BOX, timetables

ENDS = [(2, "terminated"), (3, "truncated")]


def begin(envs):
    """The state before the first rollout."""
    return envs.reset(seed=0)[0], np.zeros(envs.num_envs, dtype=bool), *np.zeros((2, envs.num_envs))


def collect(envs, expert, beta, num_steps, state, agent=None):
    agent = agent or dagger.Agent(envs.single_observation_space, envs.single_action_space)
    return dagger.collect_labels(envs, agent, expert, beta, num_steps, state)


def oracle(obs):
    """Labels that tell the state they belong to."""
    return (10 * obs[:, 0] + obs[:, 1]).astype(np.int64)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_every_visited_state_is_labelled_by_the_expert_whoever_acts(beta):
    envs = timetables(ENDS, [(1, "both")])
    obs, label, episodes, state = collect(envs, oracle, beta, 7, begin(envs))
    # environment 0: 2 steps, a reset, 3 steps, a reset; environment 1: a step and a reset, in turn
    visited = [[0, 0], [0, 0], [0, 1], [1, 0], [1, 0], [1, 1], [2, 0], [1, 2], [3, 0]]
    assert sorted(obs.tolist()) == sorted(visited)
    assert label.tolist() == oracle(obs.numpy()).tolist()
    assert sorted(episodes) == [(1.0, 1), (3.0, 2), (11.0, 1), (21.0, 1), (31.0, 1), (36.0, 3)]

    more, *_ = collect(
        envs, oracle, beta, 3, state
    )  # what the last step led to is where it goes on
    assert sorted(more.tolist()) == [[2, 0], [2, 1], [4, 0]]


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_the_expert_acts_with_probability_beta(beta):
    """A learner that always answers 0, an expert that always answers 1; each environment is drawn for itself."""
    envs, taken = gym.make_vec("tiny_envs:Timetable-v0", 200, "sync"), []
    agent = dagger.Agent(envs.single_observation_space, envs.single_action_space)
    with torch.no_grad():
        agent.actor[-1].bias.copy_(torch.tensor([1e3, 0.0]))
    step = envs.step
    envs.step = lambda action: taken.append(action.copy()) or step(action)
    _, label, *_ = collect(
        envs, lambda obs: np.ones(len(obs), dtype=np.int64), beta, 20, begin(envs), agent
    )
    assert (label == 1).all()
    assert abs(np.mean(taken) - beta) < 4 * (beta * (1 - beta) / 4000) ** 0.5 + 1e-9
    if 0 < beta < 1:
        assert all(0 < np.mean(action) < 1 for action in taken)


def test_with_beta_1_the_states_are_the_experts_own():
    envs, expert = dagger.make_envs("CartPole-v1", 3), dagger.balance
    obs, label, _, (after, *_) = collect(envs, expert, 1.0, 50, begin(envs))
    envs = dagger.make_envs("CartPole-v1", 3)
    states = [envs.reset(seed=0)[0].copy()]
    for _ in range(50):
        states.append(envs.step(expert(states[-1]))[0].copy())
    np.testing.assert_array_equal(obs, np.concatenate(states[:-1]))
    np.testing.assert_array_equal(label, np.concatenate([expert(state) for state in states[:-1]]))
    np.testing.assert_array_equal(after, states[-1])


@pytest.mark.parametrize("action_space", [Discrete(3, start=5), BOX])
def test_imitation_loss_equals_the_likelihood(action_space):
    """Up to a constant −log π of a softmax, and of a Gaussian with σ = 1 in units in which the bounds are [−1, 1]."""
    torch.manual_seed(0)
    action_space.seed(0)
    agent = dagger.Agent(Box(-1, 1, (3,)), action_space).double()
    x = torch.randn(40, 3, dtype=torch.float64) * 1e3  # some outputs beyond the bounds
    label = torch.as_tensor(np.stack([action_space.sample() for _ in range(40)]))
    loss, metrics = dagger.imitation_loss(agent, x, label)
    out, expected, differs = agent.actor(x), 0.0, 0.0
    for i in range(40):
        if isinstance(action_space, Discrete):
            expected -= Categorical(logits=out[i]).log_prob(label[i] - 5).item() / 40
            differs += (out[i].argmax() != label[i] - 5).item() / 40
        else:
            in_units = torch.tensor([label[i, 0] / 2, label[i, 1] * 4 - 1], dtype=torch.float64)
            expected -= (
                Normal(out[i], 1).log_prob(in_units) + np.log(2 * np.pi) / 2
            ).sum().item() / 40
            assert out.abs().max() > 1
            differs += ((out[i].clamp(-1, 1) - in_units).abs() > 0.1).double().mean().item() / 40
    assert abs(loss.item() - expected) < 1e-6
    assert abs(metrics["losses/disagreement"].item() - differs) < 1e-6


def test_the_dataset_keeps_what_it_is_given_and_its_state_leaves_the_room_behind():
    first = torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 0])
    dataset = dagger.Dataset(*first, room=5, device=torch.device("cpu"))
    dataset.add(torch.ones(2, 2), torch.tensor([1, 1]))
    assert dataset.size == 5 and dataset.label.tolist() == [0, 1, 0, 1, 1]
    assert dataset.obs.tolist() == [[0, 1], [2, 3], [4, 5], [1, 1], [1, 1]]
    state = dataset.state_dict()
    assert state["obs"].untyped_storage().nbytes() == 5 * 2 * 4
    other = dagger.Dataset(first[0][:0], first[1][:0], room=9, device=torch.device("cpu"))
    other.load_state_dict(copy.deepcopy(state))
    other.add(torch.zeros(1, 2), torch.tensor([0]))
    assert other.size == 6 and torch.equal(other.obs[:5], dataset.obs)


@pytest.mark.parametrize("flags", [(), ("--beta-schedule", "linear"), ("--bc-only",)])
def test_the_dataset_holds_one_label_for_each_step_and_grows_on(run, tmp_path, flags):
    short = ("--total-timesteps", 2000, "--num-envs", 7, "--num-updates", 20, "--eval-episodes", 2)
    assert run("dagger", *short, *flags, "--run-dir", "r").returncode == 0
    data, count = dict(np.load(tmp_path / "r" / "dataset.npz")), checkpoint(tmp_path / "r")["count"]
    assert len(data["obs"]) == len(data["label"]) == count["global_step"] >= 2000
    assert (data["label"] == dagger.balance(data["obs"])).all()
    logged = scalars(tmp_path / "r")
    assert [value for _, value in logged["charts/labels"]] == [
        step for step, _ in logged["charts/labels"]
    ]
    assert {value for _, value in logged["eval/expert_return"]} == {500.0}
    beta = [value for _, value in logged["charts/beta"]]
    if flags == ("--bc-only",):
        assert set(beta) == {1}
    elif flags:
        assert beta == sorted(beta, reverse=True) and beta[0] == 1 and 0 < beta[-1] < 0.2
    else:
        assert beta == [1] + [0] * (len(beta) - 1)

    assert run("dagger", *short, "--dataset", "r/dataset.npz", "--run-dir", "more").returncode == 0
    more, count = np.load(tmp_path / "more" / "dataset.npz"), checkpoint(tmp_path / "more")["count"]
    assert len(more["obs"]) == len(data["obs"]) + count["global_step"]
    assert (
        scalars(tmp_path / "more")["charts/beta"][0][1] == 1
    )  # before its first fit the learner knows nothing
    assert (more["obs"][: len(data["obs"])] == data["obs"]).all()

    assert run("dagger", "--resume", "r", "--total-timesteps", 3000).returncode == 0
    resumed = np.load(tmp_path / "r" / "dataset.npz")
    assert (resumed["obs"][: len(data["obs"])] == data["obs"]).all()
    assert len(resumed["obs"]) == checkpoint(tmp_path / "r")["count"]["global_step"] >= 3000
    less = run("dagger", "--resume", "r", "--total-timesteps", 1000)
    assert less.returncode == 0 and "finished" in less.stdout, less.stderr


@pytest.mark.parametrize("env_id, at_least", [("CartPole-v1", 475), ("Pendulum-v1", -200)])
def test_the_scripted_experts(env_id, at_least):
    returns = dagger.evaluate(dagger.SCRIPTED[env_id], dagger.make_envs(env_id, 100), seed=0)
    assert returns.mean() >= at_least


@pytest.mark.parametrize("module", modules_defining("gae"))
def test_a_policy_of_another_script_is_the_expert(module, run, tmp_path):
    """With its own observation statistics: the expert's return is the one its script has measured."""
    script = module.__name__
    assert run(script, "--total-timesteps", 20_000, "--run-dir", "expert").returncode == 0
    for expert in ("expert", "expert/policy.pt"):
        done = run(
            "dagger",
            "--expert",
            expert,
            "--total-timesteps",
            2000,
            "--run-dir",
            f"of {expert[-2:]}",
        )
        assert done.returncode == 0, done.stderr
        measured = scalars(tmp_path / f"of {expert[-2:]}")["eval/expert_return"][0][1]
        assert abs(measured - summary(tmp_path / "expert")["eval_return_mean"]) < 1e-3
    data, policy = (
        np.load(tmp_path / "of rt" / "dataset.npz"),
        dagger.load_policy(tmp_path / "expert" / "policy.pt"),
    )
    assert (policy(data["obs"]) == data["label"]).all()


def test_dagger_beats_cloning_where_cloning_must_fail(tmp_path, monkeypatch):
    """On the trail one step in two goes wrong for any learner; only who saw the states beside it knows the way back."""

    def guide(obs):
        height = obs[:, 1].round()
        return np.where(
            height == 0, (np.sin(1e4 * obs[:, 0]) > 0).astype(np.int64), np.where(height > 0, 2, 3)
        )

    monkeypatch.setitem(dagger.SCRIPTED, "tiny_envs:Trail-v0", guide)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest keeps its own
    returns = {}
    for bc_only in (False, True):
        flags = {"total_timesteps": 4000, "num_envs": 8, "num_updates": 50, "bc_only": bc_only}
        dagger.train(
            dagger.Args(env_id="tiny_envs:Trail-v0", run_dir=str(tmp_path / f"{bc_only}"), **flags)
        )
        returns[bc_only] = summary(tmp_path / f"{bc_only}")["eval_return_mean"]
    assert scalars(tmp_path / "True")["eval/expert_return"][0][1] == 50
    assert returns[False] > 45 and returns[True] < 20
