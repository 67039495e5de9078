"""DDPG and SAC: targets and losses against loops in float64, the density, the replay buffer, the loop around them."""

import copy
import shutil
import signal

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import nn
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

import ddpg
import sac
from helpers import modules_defining, short_run_flags
from run_folder import checkpoint, scalars, summary
from tiny_envs import BOX, Timetable

f64 = torch.float64
both = pytest.mark.parametrize("module", modules_defining("ReplayBuffer"))


def networks(module):
    """An agent of 3 observations and 2 actions, and a target that differs from it, both in float64."""
    torch.manual_seed(0)
    agent, target = (module.Agent(Box(-1, 1, (3,)), BOX).double() for _ in range(2))
    return agent, target.requires_grad_(False)


def losses(module):
    """Of the critic and of the actor."""
    soft = "soft_" if module is sac else ""
    return getattr(module, f"{soft}critic_loss"), getattr(module, f"{soft}actor_loss")


def minibatch(size=9):
    """Random transitions, some of them terminated."""
    torch.manual_seed(1)
    obs, next_obs, action = (
        torch.randn(size, 3, dtype=f64),
        torch.randn(size, 3, dtype=f64),
        torch.rand(size, 2, dtype=f64),
    )
    terminated = (torch.arange(size) % 3 == 0).to(f64)[:, None]
    return obs, action * 2 - 1, torch.randn(size, 1, dtype=f64), next_obs, terminated


def forward(net, x, twin=None) -> np.ndarray:
    """A network's output, one sample and one layer at a time; of sac.py's critics the first or the second."""
    parameters = [parameter.detach().numpy() for parameter in net.parameters()]
    for i, (weight, bias) in enumerate(zip(parameters[::2], parameters[1::2])):
        if twin is not None:
            weight, bias = weight[twin].T, bias[twin, 0]
        x = np.maximum(x, 0) if i else x
        x = weight @ x + bias
    return x


def test_ddpgs_losses_equal_a_loop():
    agent, target = networks(ddpg)
    batch = minibatch()
    critic_loss, actor_loss, values = 0.0, 0.0, []
    for s, a, r, s2, terminated in zip(*(column.numpy() for column in batch)):
        a2 = np.tanh(forward(target.actor, s2))
        y = r + (0 if terminated else 0.9 * forward(target.critic, np.concatenate([s2, a2])))
        values.append(forward(agent.critic, np.concatenate([s, a])).item())
        critic_loss += (values[-1] - y.item()) ** 2 / 9
        actor_loss -= (
            forward(agent.critic, np.concatenate([s, np.tanh(forward(agent.actor, s))])).item() / 9
        )
    loss, metrics = ddpg.critic_loss(agent, target, batch, 0.9)
    assert (
        abs(loss.item() - critic_loss) < 1e-12
        and abs(metrics["losses/qf_values"].item() - np.mean(values)) < 1e-12
    )
    assert abs(ddpg.actor_loss(agent, batch[0])[0].item() - actor_loss) < 1e-12


def test_the_deterministic_policy_gradient_by_hand():
    """E[ ∇_θ π_θ(s) ∇_a Q(s, a) ], one sample, one action dimension and one parameter tensor at a time."""
    agent, _ = networks(ddpg)
    obs, parameters = minibatch()[0], list(agent.actor.parameters())
    by_hand = [torch.zeros_like(parameter) for parameter in parameters]
    for s in obs:
        action = agent.act(s)
        a = action.detach().requires_grad_()
        [dq_da] = torch.autograd.grad(agent.q(s, a).sum(), a)
        for i in range(2):
            for total, d in zip(
                by_hand, torch.autograd.grad(action[i], parameters, retain_graph=True)
            ):
                total += d * dq_da[i] / len(obs)
    loss, _ = ddpg.actor_loss(agent, obs)
    for gradient, expected in zip(torch.autograd.grad(-loss, parameters), by_hand):
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-14)


def test_sacs_losses_equal_a_loop(monkeypatch):
    """With the noise given, the soft value and both losses of every sample; log π by torch.distributions."""
    agent, target = networks(sac)
    agent.log_alpha.data.fill_(np.log(0.3))
    batch, noise = minibatch(), torch.randn(9, 2, dtype=f64)
    monkeypatch.setattr(torch, "randn_like", lambda mean: noise)

    def policy(s, eps):
        mean, log_std = np.split(forward(agent.actor, s), 2)
        std = np.exp(-5 + (2 + 5) * (np.tanh(log_std) + 1) / 2)
        normal = Independent(Normal(torch.tensor(mean), torch.tensor(std)), 1)
        action = torch.tensor(np.tanh(mean + std * eps))
        return action.numpy(), TransformedDistribution(normal, [TanhTransform()]).log_prob(
            action
        ).item()

    critic_loss = actor_loss = entropy = 0.0
    for s, a, r, s2, terminated, eps in zip(*(column.numpy() for column in batch), noise.numpy()):
        a2, log_prob = policy(s2, eps)
        next_value = (
            min(forward(target.critic, np.concatenate([s2, a2]), twin).item() for twin in (0, 1))
            - 0.3 * log_prob
        )
        y = r.item() + (0 if terminated else 0.9 * next_value)
        inputs = np.concatenate([s, a])
        critic_loss += (
            sum((forward(agent.critic, inputs, twin).item() - y) ** 2 for twin in (0, 1)) / 9
        )
        a, log_prob = policy(s, eps)
        inputs = np.concatenate([s, a])
        actor_loss += (
            0.3 * log_prob - min(forward(agent.critic, inputs, twin).item() for twin in (0, 1))
        ) / 9
        entropy -= log_prob / 9
    assert abs(sac.soft_critic_loss(agent, target, batch, 0.9)[0].item() - critic_loss) < 1e-6
    loss, metrics = sac.soft_actor_loss(agent, batch[0])
    assert (
        abs(loss.item() - actor_loss) < 1e-6
        and abs(metrics["losses/entropy"].item() - entropy) < 1e-6
    )


def test_twin_layers_are_two_linear_layers_with_the_usual_initial_weights():
    layer, x = sac.TwinLinear(300, 200), torch.randn(2, 7, 300)
    for i in range(2):
        expected = nn.functional.linear(x[i], layer.weight[i].T, layer.bias[i, 0])
        torch.testing.assert_close(layer(x)[i], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer(x[0])[i], layer(x[0].expand(2, -1, -1))[i])
        for parameter in (layer.weight[i], layer.bias[i]):  # uniform in ±1/√300
            assert 0.95 < parameter.abs().max() * 300**0.5 <= 1
    assert not torch.equal(layer.weight[0], layer.weight[1])


@pytest.mark.parametrize("mean, log_std", [(0.0, 0.0), (0.7, -1.0), (-1.5, 0.5), (3.0, -2.0)])
def test_the_tanh_gaussians_density_integrates_to_one(mean, log_std):
    """Over the action, by the trapezoidal rule on a grid that is even in the noise."""
    noise = torch.linspace(-8, 8, 20_001, dtype=f64)[:, None]
    action, log_prob = sac.tanh_gaussian(
        torch.tensor([mean], dtype=f64), torch.tensor([log_std], dtype=f64), noise
    )
    inside = action[:, 0].abs() < 1 - 1e-13  # beyond it float64 cannot tell actions apart
    assert abs(torch.trapezoid(log_prob.exp()[inside, 0], action[inside, 0]).item() - 1) < 1e-4


@pytest.mark.parametrize("u", [-4.0, -1.0, 0.0, 0.3, 2.5, 6.0])
def test_the_change_of_variables_numerically(u):
    """π(a) = N(u) / |da/du|, the derivative by a difference of tanh."""
    mean, log_std = torch.tensor([0.2], dtype=f64), torch.tensor([-0.4], dtype=f64)
    noise = (torch.tensor([u], dtype=f64) - mean) / log_std.exp()
    _, log_prob = sac.tanh_gaussian(mean, log_std, noise)
    slope = (np.tanh(u + 1e-5) - np.tanh(u - 1e-5)) / 2e-5
    expected = Normal(mean, log_std.exp()).log_prob(torch.tensor(u, dtype=f64)).item() - np.log(
        slope
    )
    assert abs(log_prob.item() - expected) < 1e-4


@pytest.mark.parametrize("u", [-300.0, -40.0, 40.0, 300.0])
def test_far_in_the_tails_the_density_is_finite_and_right_in_float32(u):
    """There log(1 − tanh²(u)) = 2 log 2 − 2 |u|; computed from tanh it would be −∞."""
    action, log_prob = sac.tanh_gaussian(
        torch.tensor([u]), torch.tensor([0.0]), torch.tensor([0.5])
    )
    expected = -(0.5**2) / 2 - np.log(2 * np.pi) / 2 - (2 * np.log(2) - 2 * abs(u + 0.5))
    assert action.item() == np.sign(u) and abs(log_prob.item() / expected - 1) < 1e-5
    mean = torch.tensor([u], requires_grad=True)
    [gradient] = torch.autograd.grad(
        sac.tanh_gaussian(mean, torch.tensor([0.0]), torch.tensor([0.5]))[1], mean
    )
    assert abs(gradient.item() - 2 * np.sign(u)) < 1e-5


def test_the_pathwise_gradient_has_a_lower_variance_than_the_score_function():
    """Of d/dμ E[f(a)] for f(a) = −(a − 0.5)², from the same samples; both agree with a difference of the mean."""
    torch.manual_seed(0)
    noise = torch.randn(200_000, 1, dtype=f64)
    log_std = torch.tensor([-0.5], dtype=f64)

    def f(mean):
        action, _ = sac.tanh_gaussian(mean, log_std, noise)
        return -(action - 0.5).square().squeeze(-1)

    mean = torch.zeros(200_000, 1, dtype=f64, requires_grad=True)
    [pathwise] = torch.autograd.grad(f(mean).sum(), mean)
    score = f(mean).detach() * (noise / log_std.exp())[:, 0]
    truth = (f(torch.tensor(1e-4)).mean() - f(torch.tensor(-1e-4)).mean()) / 2e-4
    for estimate in (pathwise[:, 0], score):
        assert abs(estimate.mean() - truth) < 5 * estimate.std() / 200_000**0.5 + 1e-6
    assert pathwise.var() < score.var() / 2


def test_the_temperature_falls_while_the_entropy_is_above_its_target():
    agent, _ = networks(sac)
    for entropy, sign in ((-1.0, 1), (-2.0, 0), (-3.0, -1)):  # the target is −2 nats
        loss = sac.temperature_loss(agent, torch.tensor(entropy))
        [gradient] = torch.autograd.grad(loss, [agent.log_alpha])
        assert np.sign(gradient.item()) == sign and loss.item() == gradient.item()


@both
def test_what_does_not_vary_in_the_random_steps_is_not_blown_up(module, tmp_path, monkeypatch):
    """Nor do the targets remember how they came about: a graph that grew with every update would fill the memory."""
    lerp, targets = torch._foreach_lerp_, []
    monkeypatch.setattr(
        torch,
        "_foreach_lerp_",
        lambda tensors, *rest: targets.append(tensors) or lerp(tensors, *rest),
    )
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest keeps its own
    flags = {"total_timesteps": 60, "learning_starts": 50, "batch_size": 8, "eval_episodes": 1}
    module.train(module.Args(env_id="tiny_envs:Blind-v0", run_dir=str(tmp_path / "r"), **flags))
    agent = checkpoint(tmp_path / "r")["agent"]
    assert agent["obs_mean"].tolist() == [1, 1] and agent["obs_std"].tolist() == [1, 1]
    assert len(targets) == 10 and not any(
        tensor.requires_grad for tensors in targets for tensor in tensors
    )


@both
def test_an_update_moves_its_own_parameters_alone(module):
    agent, _ = networks(module)
    before = copy.deepcopy(agent.state_dict())
    gradients, _ = module.gradient(losses(module)[1], agent.actor, agent, minibatch()[0])
    module.descend(module.Adam(agent.actor.parameters(), fused=True), 1e-2, gradients)
    assert all(parameter.grad is None for parameter in agent.critic.parameters())
    for name, tensor in agent.state_dict().items():
        assert torch.equal(tensor, before[name]) == (not name.startswith("actor")), name


def rows(*first_numbers, width=10):
    return torch.stack([torch.arange(n, n + width, dtype=torch.float32) for n in first_numbers])


@both
class TestReplayBuffer:
    def buffer(self, module, capacity=5):
        return module.ReplayBuffer(capacity, 3, 2, torch.device("cpu"))

    def test_a_sample_is_whole_rows_split_into_columns(self, module):
        buffer = self.buffer(module)
        buffer.add(rows(100, 200, 300))
        torch.manual_seed(0)
        columns = buffer.sample(1000)
        assert [tuple(column.shape) for column in columns] == [
            (1000, 3),
            (1000, 2),
            (1000, 1),
            (1000, 3),
            (1000, 1),
        ]
        drawn = torch.cat(columns, -1)
        assert (drawn == drawn[:, :1] + torch.arange(10)).all()
        counts = drawn[:, 0].unique(return_counts=True)
        assert (
            counts[0].tolist() == [100, 200, 300] and counts[1].min() > 270
        )  # never the empty rest

    def test_the_oldest_rows_are_replaced(self, module):
        buffer = self.buffer(module)
        for n in (1, 2, 3, 4):
            buffer.add(rows(100 * n, 100 * n + 50))
        assert buffer.added == 8
        assert sorted(buffer.rows[:, 0].tolist()) == [250, 300, 350, 400, 450]

    @pytest.mark.parametrize("added", [3, 5, 8])
    def test_a_state_restored_goes_on_as_the_buffer_would(self, module, added):
        buffer = self.buffer(module)
        for n in range(added):
            buffer.add(rows(n))
        state = buffer.state_dict()
        assert state["rows"][:, 0].tolist() == list(
            range(max(0, added - 5), added)
        )  # the oldest first
        assert state["rows"].untyped_storage().nbytes() == min(added, 5) * 10 * 4
        restored, larger, smaller = (self.buffer(module, capacity) for capacity in (5, 9, 2))
        for other in (restored, larger, smaller):
            other.load_state_dict(copy.deepcopy(state))
            other.add(rows(77))
        buffer.add(rows(77))
        assert sorted(restored.rows[: restored.added, 0].tolist()) == sorted(
            buffer.rows[: buffer.added, 0].tolist()
        )
        assert larger.rows[: larger.added, 0].tolist() == [*state["rows"][:, 0].tolist(), 77]
        assert sorted(smaller.rows[:, 0].tolist()) == [added - 1, 77]


class BoxTimetable(Timetable):
    action_space = BOX


@both
def test_every_transition_of_environments_that_end_at_different_times(module):
    """Two environments in a vector that reuses its arrays: the true last observation, no reset step, nothing mixed."""
    ends = [(2, "terminated"), (3, "truncated"), (1, "both")], [(4, "truncated")]
    envs = gym.vector.SyncVectorEnv([lambda ends=e: BoxTimetable(ends) for e in ends], copy=False)
    agent = module.Agent(envs.single_observation_space, envs.single_action_space)
    actions = []

    def act(obs):
        assert obs.shape == (2, 2)
        actions.append(torch.rand(2, 2) * 2 - 1)
        return actions[-1]

    transitions, found, episodes = module.interact(envs, agent, act, seed=0), [], []
    for _ in range(9):
        new, ended = next(transitions)
        found += new.tolist()
        episodes += ended
    wanted = []
    for env, lengths in enumerate(
        [((2, "terminated"), (3, "truncated"), (1, "both")), ((4, "truncated"), (4, ""))]
    ):
        t = 0
        for episode, (length, how) in enumerate(lengths):
            for k in range(length):
                if t < 9:
                    terminated = k == length - 1 and how in ("terminated", "both")
                    reward = 10 * episode + k + 1
                    wanted.append(
                        [episode, k, *actions[t][env].tolist(), reward, episode, k + 1, terminated]
                    )
                t += 1
            t += 1  # the reset
    np.testing.assert_allclose(sorted(found), sorted(wanted), rtol=1e-6)
    assert sorted(episodes) == [(3.0, 2), (10.0, 4), (21.0, 1), (36.0, 3), (50.0, 4)]


@both
def test_exploration_is_random_at_first_and_drawn_for_each_environment_and_dimension(
    module, run, tmp_path
):
    flags = (
        "--num-envs",
        8,
        "--env-id",
        "tiny_envs:Blind-v0",  # which shows all environments the same
        "--learning-starts",
        800,
        "--updates-per-step",
        0.05,
    )
    script = module.__name__
    assert (
        run(
            script, *flags, "--total-timesteps", 1600, "--run-dir", "r", "--eval-episodes", 2
        ).returncode
        == 0
    )
    stored = checkpoint(tmp_path / "r")["buffer"]["rows"]
    obs, action = stored[:, :2], stored[:, 2:4]
    first, later = action[:792], action[800:]
    assert (
        abs(first.mean()) < 0.1
        and abs(first.std() / (1 / 3) ** 0.5 - 1) < 0.05
        and first.abs().max() <= 1
    )
    assert later.abs().max() <= 1 and len({tuple(pair) for pair in later.tolist()}) == len(later)
    assert len({tuple(pair) for pair in first.tolist()}) == len(first)
    if script == "ddpg":
        # what is left of the actions without the policy's part, almost constant over the last few steps
        agent = module.Agent(Box(-1, 1, (2,)), Box(-1, 1, (2,)))
        agent.load_state_dict(checkpoint(tmp_path / "r")["agent"])
        noise = (action - agent.act(agent.normalize(obs))).detach()[-80:]
        assert 0.07 < noise.std() < 0.14 and abs(np.corrcoef(noise.T)[0, 1]) < 0.4


@both
@pytest.mark.parametrize("per_step, num_envs", [(1, 1), (0.5, 3), (2, 4)])
def test_updates_are_counted_per_step_of_every_environment(
    module, run, tmp_path, per_step, num_envs
):
    flags = ("--updates-per-step", per_step, "--num-envs", num_envs, "--total-timesteps", 600)
    script = module.__name__
    assert run(script, *short_run_flags(script), *flags, "--run-dir", "r").returncode == 0
    result, state = summary(tmp_path / "r"), checkpoint(tmp_path / "r")
    assert 600 <= result["global_step"] < 600 + num_envs
    assert result["updates"] == np.ceil(per_step * (result["global_step"] - 200))
    taken = {
        name: state[name]["state"][0]["step"].item()
        for name in ("critic_optimizer", "actor_optimizer")
    }
    of_actor = np.ceil(result["updates"] / module.Args().policy_frequency)
    assert taken == {"critic_optimizer": result["updates"], "actor_optimizer": of_actor}
    assert len(state["buffer"]["rows"]) == result["global_step"]


@both
def test_the_targets_follow_in_closed_form(module, run, tmp_path):
    """With step sizes of zero the networks stand still, and after k updates the targets are θ + (1 − τ)^k (θ̄₀ − θ)."""
    script, networks = module.__name__, {"sac": "critic"}.get(module.__name__, "")
    flags = (*short_run_flags(script), "--policy-lr", 0, "--q-lr", 0, "--tau", 0.01)
    assert run(script, *flags, "--total-timesteps", 300, "--run-dir", "r").returncode == 0
    state = checkpoint(tmp_path / "r")
    torch.manual_seed(0)
    names = [name for name in state["target"] if name.startswith(networks or ("actor", "critic"))]
    start = {name: torch.randn_like(state["target"][name]) for name in names}
    state["target"] |= start
    torch.save(state, tmp_path / "r" / "checkpoint.pt")
    assert run(script, "--resume", "r", "--total-timesteps", 400).returncode == 0
    after = checkpoint(tmp_path / "r")
    for name in names:
        expected = after["agent"][name] + 0.99**100 * (start[name] - after["agent"][name])
        torch.testing.assert_close(after["target"][name], expected, rtol=1e-4, atol=1e-5)


@both
def test_a_resumed_run_begins_with_the_buffer_and_the_networks_it_had(module, run, tmp_path):
    """And not with random actions: what was stored stays in front, every part of the checkpoint goes on."""
    script = module.__name__
    assert run(script, *short_run_flags(script), "--run-dir", "r").returncode == 0
    before = checkpoint(tmp_path / "r")
    shutil.copytree(tmp_path / "r", tmp_path / "still")
    zero = ("--policy-lr", 0, "--q-lr", 0, "--tau", 0)
    assert run(script, "--resume", "still", "--total-timesteps", 1300, *zero).returncode == 0
    after = checkpoint(tmp_path / "still")
    assert torch.equal(after["buffer"]["rows"][:1200], before["buffer"]["rows"])
    assert (
        len(after["buffer"]["rows"]) == 1300
        and after["count"]["updates"] == before["count"]["updates"] + 100
    )
    for part in ("agent", "target"):
        assert all(torch.equal(tensor, after[part][name]) for name, tensor in before[part].items())
    moments = [state["critic_optimizer"]["state"][0] for state in (before, after)]
    assert moments[1]["step"] == moments[0]["step"] + 100 and not torch.equal(
        *(m["exp_avg"] for m in moments)
    )
    if script == "ddpg":
        agent = module.Agent(Box(-1, 1, (3,)), Box(-2, 2, (1,)))
        agent.load_state_dict(after["agent"])
        obs, action = after["buffer"]["rows"][1200:, :3], after["buffer"]["rows"][1200:, 3:4]
        assert (action - agent.act(agent.normalize(obs))).std() < 0.2  # uniformly random: 0.6
    if script == "sac":
        assert before["agent"]["log_alpha"] != 0
        assert (
            after["alpha_optimizer"]["state"][0]["step"]
            > before["alpha_optimizer"]["state"][0]["step"]
            > 0
        )


@both
@pytest.mark.parametrize(
    "random, total, rows",
    [(200, 1190, 200), (200, 1210, 1200), (50, 1190, 1050), (250, 400, 250), (50, 400, 0)],
)
def test_the_observation_statistics_are_those_of_the_buffer(
    module, run, tmp_path, random, total, rows
):
    """When the random steps end, and in sac.py every 1,000 steps after it; or, here with 0 rows, none."""
    rows = min(rows, random) if module is ddpg else rows
    flags = (
        "--learning-starts",
        random,
        "--total-timesteps",
        total,
        "--num-envs",
        1,
        "--updates-per-step",
        0.02,
    )
    flag = "--norm-obs" if rows else "--no-norm-obs"
    assert (
        run(
            module.__name__, *short_run_flags(module.__name__), *flags, flag, "--run-dir", "r"
        ).returncode
        == 0
    )
    state = checkpoint(tmp_path / "r")
    obs = state["buffer"]["rows"][:rows, :3]
    expected = (obs.mean(0), obs.std(0, correction=0)) if rows else (torch.zeros(3), torch.ones(3))
    for name, statistic in zip(("obs_mean", "obs_std"), expected):
        torch.testing.assert_close(state["agent"][name], statistic)


def test_a_fixed_temperature_stays_fixed(run, tmp_path):
    for name, flags in (
        ("fixed", ("--no-autotune", "--alpha", 0.37)),
        ("tuned", ("--alpha", 0.37)),
    ):
        assert run("sac", *short_run_flags("sac"), *flags, "--run-dir", name).returncode == 0
        values = {round(value, 6) for _, value in scalars(tmp_path / name)["losses/alpha"]}
        assert values == {0.37} if name == "fixed" else len(values) > 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler about itself
@both
def test_compiled_gradients_are_those_of_the_plain_ones(module):
    """With the same noise; and they are one graph."""
    compiled = torch.compile(module.gradient, fullgraph=True, options={"fallback_random": True})
    one_graph = torch._dynamo.config.patch(trace_autograd_ops=True)(compiled)
    agent, target = (network.float() for network in networks(module))
    batch = [column.float() for column in minibatch(256)]
    inputs = (agent, target, batch, 0.9), (agent, batch[0])
    for loss_of, given, net in zip(losses(module), inputs, (agent.critic, agent.actor)):
        found = []
        for gradient_of in (module.gradient, one_graph):
            torch.manual_seed(2)
            gradients, metrics = gradient_of(loss_of, net, *given)
            found.append([*gradients, *metrics.values()])
        for plain, fused in zip(*found):
            torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-5)


@both
def test_the_flag_bf16_changes_the_losses_and_not_by_much(module, run, tmp_path):
    found = []
    for name, flags in (("float32", ()), ("bfloat16", ("--bf16",))):
        budget = ("--total-timesteps", 300, "--run-dir", name)
        assert (
            run(module.__name__, *short_run_flags(module.__name__), *budget, *flags).returncode == 0
        )
        found.append(scalars(tmp_path / name)["losses/qf_loss"][0][1])
    assert found[0] != found[1] and abs(found[1] / found[0] - 1) < 0.1


@both
def test_without_bf16_products_have_all_of_float32s_digits(module, tmp_path, monkeypatch):
    """oneDNN is given leave to round to bfloat16 where it does not; on this processor too, it must not."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest keeps its own
    flags = {
        "total_timesteps": 40,
        "learning_starts": 20,
        "batch_size": 8,
        "eval_episodes": 1,
        "cuda": False,
    }
    module.train(module.Args(run_dir=str(tmp_path / "r"), **flags))
    torch.manual_seed(0)
    a, b = torch.randn(2, 256, 256)
    exact = a.double() @ b.double()
    rounded = a.bfloat16().double() @ b.bfloat16().double()
    error, rounding = ((product - exact).abs().max() for product in (a @ b, rounded))
    assert error < 1e-3 * rounding


@both
def test_bf16_is_close_to_float32(module):
    """Of the losses and the gradients of one minibatch, at the initial weights."""
    agent, target = (network.float() for network in networks(module))
    batch = [column.float() for column in minibatch(256)]
    inputs = (agent, target, batch, 0.9), (agent, batch[0])
    for loss_of, given, net in zip(losses(module), inputs, (agent.critic, agent.actor)):
        found = []
        for enabled in (False, True):
            torch.manual_seed(2)
            rough_loss_of = torch.autocast("cpu", torch.bfloat16, enabled=enabled)(loss_of)
            gradients, metrics = module.gradient(rough_loss_of, net, *given)
            found.append(
                (next(iter(metrics.values())), torch.cat([g.flatten() for g in gradients]))
            )
        (loss, gradient), (rough_loss, rough_gradient) = found
        assert rough_loss.dtype == rough_gradient.dtype == torch.float32
        assert loss != rough_loss and abs(rough_loss - loss) < 0.02 * (1 + abs(loss))
        assert torch.cosine_similarity(gradient, rough_gradient, 0) > 0.99
