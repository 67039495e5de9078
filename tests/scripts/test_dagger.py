"""DAgger's data and what becomes of it: who acts, who labels, what is kept."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch.distributions import Categorical, Normal

import dagger
from helpers import agent_for, modules_defining, write_identity_expert
from recorded_training import check_gradients, gradients, mean_and_deviation, record_training
from references import distribution
from run_folder import checkpoint, scalar_values, scalars, summary
from tiny_envs import BOX, timetables

ENDS = [(2, "terminated"), (3, "truncated")]


def collector_for(envs, expert, agent=None):
    """Collects labels of an expert; the learner is an untrained agent, or the one given."""
    return dagger.LabelCollector(envs, agent or agent_for(dagger, envs), expert, seed=0)


def oracle(obs):
    """Labels that tell the state they belong to."""
    return (10 * obs[:, 0] + obs[:, 1]).astype(np.int64)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_every_visited_state_is_labelled_by_the_expert_whoever_acts(beta):
    envs = timetables(ENDS, [(1, "both")])
    collector = collector_for(envs, oracle)
    new = collector.collect(7, beta)
    # environment 0: 2 steps, a reset, 3 steps, a reset; environment 1: a step and a reset, in turn
    visited = [[0, 0], [0, 0], [0, 1], [1, 0], [1, 0], [1, 1], [2, 0], [1, 2], [3, 0]]
    assert sorted(new.obs.tolist()) == sorted(visited)
    assert new.label.tolist() == oracle(new.obs.numpy()).tolist()
    assert sorted(new.episodes) == [(1.0, 1), (3.0, 2), (11.0, 1), (21.0, 1), (31.0, 1), (36.0, 3)]

    # What the last step led to is where it goes on.
    more = collector.collect(3, beta)
    assert sorted(more.obs.tolist()) == [[2, 0], [2, 1], [4, 0]]
    assert more.label.tolist() == oracle(more.obs.numpy()).tolist()


@pytest.mark.parametrize("num_steps", [1, 3])
def test_a_collection_of_nothing_but_resets_goes_on(num_steps):
    """Of episodes of one step; with T = 1 every other step only resets, in all environments."""
    collector = collector_for(timetables(*[[(1, "both")]] * 2), oracle)
    episode = 0
    for _ in range(4):
        new = collector.collect(num_steps, 0.5)
        assert len(new.obs) > 0
        numbers = [number for number, _ in new.obs.tolist()]
        assert numbers[0] == episode
        episode = numbers[-1] + 1


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
    new = collector_for(envs, expert, agent).collect(20, beta)
    assert (new.label == 1).all()
    standard_error = (beta * (1 - beta) / 4000) ** 0.5
    assert abs(np.mean(taken) - beta) < 4 * standard_error + 1e-9
    if 0 < beta < 1:
        assert all(0 < np.mean(action) < 1 for action in taken)


def test_with_beta_1_the_states_are_the_experts_own():
    expert = dagger.balance
    envs = dagger.make_envs("CartPole-v1", 3)
    collector = collector_for(envs, expert)
    new = collector.collect(50, 1.0)
    envs = dagger.make_envs("CartPole-v1", 3)
    first, _ = envs.reset(seed=0)
    states = [first.copy()]
    for _ in range(50):
        next_state, *_ = envs.step(expert(states[-1]))
        states.append(next_state.copy())
    labels = [expert(state) for state in states[:-1]]
    np.testing.assert_array_equal(new.obs, np.concatenate(states[:-1]))
    np.testing.assert_array_equal(new.label, np.concatenate(labels))
    np.testing.assert_array_equal(collector.obs, states[-1])


@pytest.mark.parametrize("action_space", [Discrete(3, start=5), BOX])
def test_imitation_loss_equals_the_likelihood(action_space):
    """Up to a constant −log π of a softmax, or of a Gaussian with σ = 1 in units of the bounds."""
    torch.manual_seed(0)
    action_space.seed(0)
    agent = dagger.Agent(Box(-1, 1, (3,)), action_space).double()
    x = torch.randn(40, 3, dtype=torch.float64) * 1e3  # some outputs beyond the bounds
    label = torch.as_tensor(np.stack([action_space.sample() for _ in range(40)]))
    out = agent.actor(x)
    loss = dagger.imitation_loss(agent, out, label)
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
    seen = dagger.disagreement(agent, out, label)
    assert abs(seen.item() - disagreement) < 1e-6
    assert 0 < disagreement < 1 and not seen.requires_grad


@pytest.mark.parametrize("action_space", [Discrete(3, start=5), BOX])
def test_labels_are_turned_into_the_units_of_the_actor_and_back(action_space):
    agent = dagger.Agent(Box(-1, 1, (3,)), action_space)
    action_space.seed(0)
    label = np.stack([action_space.sample() for _ in range(20)])
    action = agent.from_env(torch.as_tensor(label))
    np.testing.assert_allclose(agent.to_env(action), label, rtol=1e-5, atol=1e-6)
    assert action.min() >= (0 if agent.discrete else -1)
    assert action.max() <= (2 if agent.discrete else 1)


@pytest.mark.parametrize(
    "schedule, shares",
    [("first", [0, 0, 0]), ("linear", [0.75, 0.5, 0]), ("exponential", [0.1**0.5, 0.1, 0.01])],
)
def test_the_experts_share_after_a_quarter_a_half_and_all_of_the_budget(schedule, shares):
    seen = [dagger.expert_share(schedule, progress) for progress in (0.25, 0.5, 1.0)]
    assert seen == pytest.approx(shares, rel=1e-12)


def test_the_dataset_keeps_what_it_is_given_and_its_state_is_restored():
    obs = torch.arange(6.0).reshape(3, 2)
    dataset = dagger.Dataset(obs, torch.tensor([0, 1, 0]))
    dataset.add(torch.ones(2, 2), torch.tensor([1, 1]))
    assert dataset.label.tolist() == [0, 1, 0, 1, 1] and dataset.label.dtype == torch.int64
    assert dataset.obs.tolist() == [[0, 1], [2, 3], [4, 5], [1, 1], [1, 1]]
    state = dataset.state_dict()
    assert state["obs"].untyped_storage().nbytes() == 5 * 2 * 4  # a checkpoint has no more of it
    other = dagger.Dataset(obs[:0], torch.tensor([], dtype=torch.int64))
    other.load_state_dict(copy.deepcopy(state))
    other.add(torch.zeros(1, 2), torch.tensor([0]))
    assert torch.equal(other.obs[:5], dataset.obs) and other.obs[5].tolist() == [0, 0]
    assert other.label.tolist() == [0, 1, 0, 1, 1, 0]
    assert len(dataset.obs) == len(state["obs"]) == 5


@pytest.mark.parametrize("kind", ["Discrete", "Box"])
def test_every_gradient_of_a_run(kind, train_here, monkeypatch, tmp_path):
    """Of minibatches of all labels so far, seen through the statistics of all states so far."""
    env_id = f"tiny_envs:Ragged{kind}-v0"
    write_identity_expert(env_id, tmp_path / "expert.pt")
    flags = {"env_id": env_id, "expert": str(tmp_path / "expert.pt"), "num_envs": 4}
    flags |= {"num_steps": 10, "total_timesteps": 80, "num_updates": 3, "batch_size": 16}
    record = record_training(dagger, train_here, monkeypatch, eval_episodes=1, **flags)

    def loss_in(agent, x, label):
        policy = distribution(agent, agent.actor(x), torch.zeros(()))  # σ = 1
        return -policy.log_prob(agent.from_env(label)).mean()

    at_perfection = 0.0 if kind == "Discrete" else np.log(2 * np.pi)  # of the Gaussian, two times ½
    mean = 0.0
    std = 1.0
    on_new_states = []
    losses = []
    for i, new in enumerate(record.rollouts):
        first_agent = record.agent_before(3 * i)
        x = (new.obs.double() - mean) / std
        on_new_states.append(loss_in(first_agent, x, new.label).item() - at_perfection)
        obs = torch.cat([earlier.obs for earlier in record.rollouts[: i + 1]]).double()
        label = torch.cat([earlier.label for earlier in record.rollouts[: i + 1]])
        mean, std = mean_and_deviation([obs])
        found = []
        for index in range(3 * i, 3 * i + 3):
            agent = record.agent_before(index)
            chosen = record.draws[index]
            assert len(chosen) == 16
            loss = loss_in(agent, ((obs - mean) / std)[chosen], label[chosen])
            check_gradients(record.steps[index], gradients(loss, agent))
            found.append(loss.item() - at_perfection)
        losses.append(np.mean(found))
    assert len(record.steps) == len(record.draws) == 3 * len(record.rollouts) > 3
    last_draws = torch.cat(record.draws[-3:])
    assert last_draws.min() < len(obs) / 4 and last_draws.max() > len(obs) * 3 / 4
    logged = scalar_values(record.run_dir, "losses/imitation_loss")
    assert logged == pytest.approx(losses, rel=1e-4)
    logged = scalar_values(record.run_dir, "losses/imitation_loss_on_new_states")
    assert logged == pytest.approx(on_new_states, rel=1e-4)


def dataset_of(run_dir) -> dict[str, np.ndarray]:
    return dict(np.load(run_dir / "dataset.npz"))


def begins_with(obs, first) -> bool:
    return bool((obs[: len(first)] == first).all())


@pytest.mark.slow
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
    completed_run("dagger", "--resume", "r", "--total-timesteps", 1000)
    assert len(dataset_of(run_dir)["obs"]) == len(resumed["obs"])  # nothing is left to do


@pytest.mark.parametrize("env_id, at_least", [("CartPole-v1", 475), ("Pendulum-v1", -200)])
def test_the_scripted_experts(env_id, at_least):
    returns, _ = dagger.evaluate(dagger.SCRIPTED[env_id], dagger.make_envs(env_id, 100), seed=0)
    assert returns.mean() >= at_least


@pytest.mark.slow
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


@pytest.mark.slow
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
