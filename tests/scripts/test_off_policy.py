"""DDPG and SAC: targets and losses against loops in float64, the density, the replay buffer, and
the loop around them.
"""

import copy
from typing import NamedTuple

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

import ddpg
import sac
from helpers import agent_for, modules_defining
from run_folder import checkpoint, scalar_values, steps_taken, summary
from tiny_envs import BOX, Timetable, timetables

f64 = torch.float64
both = pytest.mark.parametrize("module", modules_defining("ReplayBuffer"))


def networks(module):
    """An agent of 3 observations and 2 actions, and a target that differs, both in float64."""
    torch.manual_seed(0)
    agent = module.Agent(Box(-1, 1, (3,)), BOX).double()
    target = module.Agent(Box(-1, 1, (3,)), BOX).double()
    return agent, target.requires_grad_(False)


def losses(module):
    """Of the critic and of the actor."""
    soft = "soft_" if module is sac else ""
    return getattr(module, f"{soft}critic_loss"), getattr(module, f"{soft}actor_loss")


class Transitions(NamedTuple):
    """The columns of a minibatch."""

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    terminated: Tensor


def minibatch(size=9):
    """Random transitions, some of them terminated."""
    torch.manual_seed(1)
    return Transitions(
        obs=torch.randn(size, 3, dtype=f64),
        next_obs=torch.randn(size, 3, dtype=f64),
        action=torch.rand(size, 2, dtype=f64) * 2 - 1,
        reward=torch.randn(size, 1, dtype=f64),
        terminated=(torch.arange(size) % 3 == 0).to(f64)[:, None],
    )


def rows_of(batch: Transitions) -> list[Transitions]:
    """The same transitions, one by one, in NumPy."""
    columns = [column.numpy() for column in batch]
    return [Transitions(*row) for row in zip(*columns)]


def forward(net, *inputs, twin=None) -> np.ndarray:
    """A network's output for one sample, one layer at a time.

    `twin` is the first or the second of sac.py's critics.
    """
    parameters = [parameter.detach().numpy() for parameter in net.parameters()]
    x = np.concatenate(inputs)
    for i, (weight, bias) in enumerate(zip(parameters[::2], parameters[1::2])):
        if twin is not None:
            weight = weight[twin].T
            bias = bias[twin, 0]
        if i > 0:
            x = np.maximum(x, 0)
        x = weight @ x + bias
    return x


def test_ddpgs_losses_equal_a_loop():
    agent, target = networks(ddpg)
    batch = minibatch()
    critic_loss = actor_loss = 0.0
    values = []
    for row in rows_of(batch):
        next_action = np.tanh(forward(target.actor, row.next_obs))
        next_value = forward(target.critic, row.next_obs, next_action).item()
        y = row.reward.item() + (0 if row.terminated else 0.9 * next_value)
        values.append(forward(agent.critic, row.obs, row.action).item())
        critic_loss += (values[-1] - y) ** 2 / 9
        own_action = np.tanh(forward(agent.actor, row.obs))
        actor_loss -= forward(agent.critic, row.obs, own_action).item() / 9
    loss, metrics = ddpg.critic_loss(agent, target, batch, 0.9)
    assert abs(loss.item() - critic_loss) < 1e-12
    assert abs(metrics["losses/qf_values"].item() - np.mean(values)) < 1e-12
    loss, _ = ddpg.actor_loss(agent, batch.obs)
    assert abs(loss.item() - actor_loss) < 1e-12


def test_the_deterministic_policy_gradient_by_hand():
    """E[ ∇_θ π_θ(s) ∇_a Q(s, a) ], one sample, action dimension and parameter tensor at a time."""
    agent, _ = networks(ddpg)
    obs = minibatch().obs
    parameters = list(agent.actor.parameters())
    by_hand = [torch.zeros_like(parameter) for parameter in parameters]
    for s in obs:
        action = agent.act(s)
        a = action.detach().requires_grad_()
        [dq_da] = torch.autograd.grad(agent.q(s, a).sum(), a)
        for i in range(2):
            da_dtheta = torch.autograd.grad(action[i], parameters, retain_graph=True)
            for total, derivative in zip(by_hand, da_dtheta):
                total += derivative * dq_da[i] / len(obs)
    loss, _ = ddpg.actor_loss(agent, obs)
    for gradient, expected in zip(torch.autograd.grad(-loss, parameters), by_hand):
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-14)


def tanh_policy(actor, obs, noise) -> tuple[np.ndarray, float]:
    """An action of sac.py's policy and its log π, by torch.distributions."""
    mean, log_std = np.split(forward(actor, obs), 2)
    std = np.exp(-5 + (2 + 5) * (np.tanh(log_std) + 1) / 2)
    normal = Independent(Normal(torch.tensor(mean), torch.tensor(std)), 1)
    policy = TransformedDistribution(normal, [TanhTransform()])
    action = np.tanh(mean + std * noise)
    return action, policy.log_prob(torch.tensor(action)).item()


def test_sacs_losses_equal_a_loop(monkeypatch):
    """With the noise given, the soft value and both losses of every sample."""
    agent, target = networks(sac)
    agent.log_alpha.data.fill_(np.log(0.3))
    batch = minibatch()
    noise = torch.randn(9, 2, dtype=f64)
    monkeypatch.setattr(torch, "randn_like", lambda mean: noise)

    def twin_values(critic, *inputs) -> list[float]:
        return [forward(critic, *inputs, twin=twin).item() for twin in (0, 1)]

    critic_loss = actor_loss = entropy = 0.0
    for row, eps in zip(rows_of(batch), noise.numpy()):
        next_action, log_prob = tanh_policy(agent.actor, row.next_obs, eps)
        next_value = min(twin_values(target.critic, row.next_obs, next_action)) - 0.3 * log_prob
        y = row.reward.item() + (0 if row.terminated else 0.9 * next_value)
        for value in twin_values(agent.critic, row.obs, row.action):
            critic_loss += (value - y) ** 2 / 9
        own_action, log_prob = tanh_policy(agent.actor, row.obs, eps)
        value = min(twin_values(agent.critic, row.obs, own_action))
        actor_loss += (0.3 * log_prob - value) / 9
        entropy -= log_prob / 9
    loss, _ = sac.soft_critic_loss(agent, target, batch, 0.9)
    assert abs(loss.item() - critic_loss) < 1e-6
    loss, metrics = sac.soft_actor_loss(agent, batch.obs)
    assert abs(loss.item() - actor_loss) < 1e-6
    assert abs(metrics["losses/entropy"].item() - entropy) < 1e-6


def test_twin_layers_are_two_linear_layers_with_the_usual_initial_weights():
    layer = sac.TwinLinear(300, 200)
    x = torch.randn(2, 7, 300)
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
    mean = torch.tensor([mean], dtype=f64)
    log_std = torch.tensor([log_std], dtype=f64)
    action, log_prob = sac.tanh_gaussian(mean, log_std, noise)
    inside = action[:, 0].abs() < 1 - 1e-13  # beyond it float64 cannot tell actions apart
    integral = torch.trapezoid(log_prob.exp()[inside, 0], action[inside, 0]).item()
    assert abs(integral - 1) < 1e-4


@pytest.mark.parametrize("u", [-4.0, -1.0, 0.0, 0.3, 2.5, 6.0])
def test_the_change_of_variables_numerically(u):
    """π(a) = N(u) / |da/du|, the derivative by a difference of tanh."""
    mean = torch.tensor([0.2], dtype=f64)
    log_std = torch.tensor([-0.4], dtype=f64)
    noise = (torch.tensor([u], dtype=f64) - mean) / log_std.exp()
    _, log_prob = sac.tanh_gaussian(mean, log_std, noise)
    slope = (np.tanh(u + 1e-5) - np.tanh(u - 1e-5)) / 2e-5
    log_normal = Normal(mean, log_std.exp()).log_prob(torch.tensor(u, dtype=f64)).item()
    assert abs(log_prob.item() - (log_normal - np.log(slope))) < 1e-4


@pytest.mark.parametrize("u", [-300.0, -40.0, 40.0, 300.0])
def test_far_in_the_tails_the_density_is_finite_and_right_in_float32(u):
    """There log(1 − tanh²(u)) = 2 log 2 − 2 |u|; computed from tanh it would be −∞."""
    mean = torch.tensor([u], requires_grad=True)
    log_std = torch.tensor([0.0])
    noise = torch.tensor([0.5])
    action, log_prob = sac.tanh_gaussian(mean, log_std, noise)
    log_normal = -(0.5**2) / 2 - np.log(2 * np.pi) / 2
    expected = log_normal - (2 * np.log(2) - 2 * abs(u + 0.5))
    assert action.item() == np.sign(u)
    assert abs(log_prob.item() / expected - 1) < 1e-5
    [gradient] = torch.autograd.grad(log_prob, mean)
    assert abs(gradient.item() - 2 * np.sign(u)) < 1e-5


def test_the_pathwise_gradient_has_a_lower_variance_than_the_score_function():
    """Of d/dμ E[f(a)] for f(a) = −(a − 0.5)², from the same samples.

    Both agree with a difference of the mean.
    """
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
def test_what_does_not_vary_in_the_random_steps_is_not_blown_up(module, train_here, monkeypatch):
    """Nor do the targets remember how they came about.

    A graph that grew with every update would fill the memory.
    """
    lerp = torch._foreach_lerp_
    targets = []

    def recording(tensors, *rest):
        targets.append(tensors)
        return lerp(tensors, *rest)

    monkeypatch.setattr(torch, "_foreach_lerp_", recording)
    flags = {"total_timesteps": 60, "learning_starts": 50, "batch_size": 8, "eval_episodes": 1}
    run_dir = train_here(module, env_id="tiny_envs:Blind-v0", **flags)
    agent = checkpoint(run_dir)["agent"]
    assert agent["obs_mean"].tolist() == [1, 1] and agent["obs_std"].tolist() == [1, 1]
    assert len(targets) == 10
    assert not any(tensor.requires_grad for tensors in targets for tensor in tensors)


@both
def test_an_update_moves_its_own_parameters_alone(module):
    agent, _ = networks(module)
    before = copy.deepcopy(agent.state_dict())
    _, actor_loss = losses(module)
    gradients, _ = module.gradient(actor_loss, agent.actor, agent, minibatch().obs)
    module.descend(module.Adam(agent.actor.parameters(), fused=True), 1e-2, gradients)
    assert all(parameter.grad is None for parameter in agent.critic.parameters())
    for name, tensor in agent.state_dict().items():
        assert torch.equal(tensor, before[name]) == (not name.startswith("actor")), name


def rows(*first_numbers, width=10):
    """Rows of a buffer; each counts on from its first number."""
    return torch.stack([torch.arange(n, n + width, dtype=torch.float32) for n in first_numbers])


def first_numbers(buffer) -> list[float]:
    """Of the rows that the buffer holds."""
    return buffer.rows[: buffer.added, 0].tolist()


@both
class TestReplayBuffer:
    def buffer(self, module, capacity=5):
        return module.ReplayBuffer(capacity, 3, 2, torch.device("cpu"))

    def test_a_sample_is_whole_rows_split_into_columns(self, module):
        buffer = self.buffer(module)
        buffer.add(rows(100, 200, 300))
        torch.manual_seed(0)
        columns = buffer.sample(1000)
        assert [len(column) for column in columns] == [1000] * 5
        assert [column.shape[1] for column in columns] == [3, 2, 1, 3, 1]
        drawn = torch.cat(columns, -1)
        assert (drawn == drawn[:, :1] + torch.arange(10)).all()
        numbers, counts = drawn[:, 0].unique(return_counts=True)
        assert numbers.tolist() == [100, 200, 300]  # never the empty rest
        assert counts.min() > 270

    def test_the_oldest_rows_are_replaced(self, module):
        buffer = self.buffer(module)
        for n in (1, 2, 3, 4):
            buffer.add(rows(100 * n, 100 * n + 50))
        assert buffer.added == 8
        assert sorted(first_numbers(buffer)) == [250, 300, 350, 400, 450]

    @pytest.mark.parametrize("added", [3, 5, 8])
    def test_a_state_restored_goes_on_as_the_buffer_would(self, module, added):
        buffer = self.buffer(module)
        for n in range(added):
            buffer.add(rows(n))
        state = buffer.state_dict()
        oldest_first = list(range(max(0, added - 5), added))
        assert state["rows"][:, 0].tolist() == oldest_first
        assert state["rows"].untyped_storage().nbytes() == min(added, 5) * 10 * 4
        restored = self.buffer(module, 5)
        larger = self.buffer(module, 9)
        smaller = self.buffer(module, 2)
        for other in (restored, larger, smaller):
            other.load_state_dict(copy.deepcopy(state))
            other.add(rows(77))
        buffer.add(rows(77))
        assert sorted(first_numbers(restored)) == sorted(first_numbers(buffer))
        assert first_numbers(larger) == [*oldest_first, 77]
        assert sorted(first_numbers(smaller)) == [added - 1, 77]


class BoxTimetable(Timetable):
    action_space = BOX


def transitions_by_definition(actions, num_steps=9) -> list[list[float]]:
    """The rows of two environments that end at different times, less the steps that only reset.

    An environment's episodes are given as (length, terminated at its end). The reward of step k of
    an episode is 10 · episode + k + 1.
    """
    found = []
    for env, episodes in enumerate([[(2, True), (3, False), (1, True)], [(4, False), (4, False)]]):
        t = 0
        for episode, (length, terminates) in enumerate(episodes):
            for k in range(length):
                if t < num_steps:
                    terminated = terminates and k == length - 1
                    reward = 10 * episode + k + 1
                    action = actions[t][env].tolist()
                    found.append([episode, k, *action, reward, episode, k + 1, terminated])
                t += 1
            t += 1  # the reset
    return found


@both
def test_every_transition_of_environments_that_end_at_different_times(module):
    """The vector reuses its arrays: the true last observation, no reset step, nothing mixed."""
    ends = [(2, "terminated"), (3, "truncated"), (1, "both")], [(4, "truncated")]
    envs = timetables(*ends, env_class=BoxTimetable)
    actions = []

    def act(obs):
        assert obs.shape == (2, 2)
        actions.append(torch.rand(2, 2) * 2 - 1)
        return actions[-1]

    found = []
    episodes = []
    transitions = module.interact(envs, agent_for(module, envs), act, seed=0)
    for _ in range(9):
        new, ended = next(transitions)
        found += new.tolist()
        episodes += ended
    expected = transitions_by_definition(actions)
    np.testing.assert_allclose(sorted(found), sorted(expected), rtol=1e-6)
    assert sorted(episodes) == [(3.0, 2), (10.0, 4), (21.0, 1), (36.0, 3), (50.0, 4)]


def all_differ(actions) -> bool:
    return len({tuple(action) for action in actions.tolist()}) == len(actions)


@both
def test_exploration_is_random_at_first_and_drawn_for_each_environment_and_dimension(
    module, completed_run, tmp_path
):
    # In Blind, all environments show the same.
    flags = ("--env-id", "tiny_envs:Blind-v0", "--num-envs", 8, "--eval-episodes", 2)
    flags += ("--learning-starts", 800, "--total-timesteps", 1600, "--updates-per-step", 0.05)
    completed_run(module.__name__, *flags, "--run-dir", "r")
    state = checkpoint(tmp_path / "r")
    obs = state["buffer"]["rows"][:, :2]
    action = state["buffer"]["rows"][:, 2:4]
    first = action[:792]
    later = action[800:]
    uniform_std = (1 / 3) ** 0.5
    assert abs(first.mean()) < 0.1 and abs(first.std() / uniform_std - 1) < 0.05
    assert first.abs().max() <= 1 and later.abs().max() <= 1
    assert all_differ(first) and all_differ(later)
    if module is ddpg:
        # What is left of the actions without the policy's part, which is almost constant over the
        # last few steps.
        agent = module.Agent(Box(-1, 1, (2,)), Box(-1, 1, (2,)))
        agent.load_state_dict(state["agent"])
        noise = (action - agent.act(agent.normalize(obs))).detach()[-80:]
        assert 0.07 < noise.std() < 0.14
        assert abs(np.corrcoef(noise.T)[0, 1]) < 0.4


@both
@pytest.mark.parametrize("per_step, num_envs", [(1, 1), (0.5, 3), (2, 4)])
def test_updates_are_counted_per_step_of_every_environment(module, short_run, per_step, num_envs):
    flags = ("--updates-per-step", per_step, "--num-envs", num_envs, "--total-timesteps", 600)
    run_dir = short_run(module.__name__, *flags)
    result = summary(run_dir)
    state = checkpoint(run_dir)
    assert 600 <= result["global_step"] < 600 + num_envs
    assert result["updates"] == np.ceil(per_step * (result["global_step"] - 200))
    of_actor = np.ceil(result["updates"] / module.Args().policy_frequency)
    assert steps_taken(state["critic_optimizer"]) == result["updates"]
    assert steps_taken(state["actor_optimizer"]) == of_actor
    assert len(state["buffer"]["rows"]) == result["global_step"]


@both
def test_the_targets_follow_in_closed_form(module, short_run, completed_run):
    """With step sizes of zero the networks stand still.

    After k updates the targets are θ + (1 − τ)^k (θ̄₀ − θ).
    """
    script = module.__name__
    flags = ("--policy-lr", 0, "--q-lr", 0, "--tau", 0.01)
    run_dir = short_run(script, *flags, "--total-timesteps", 300)
    state = checkpoint(run_dir)
    networks = ("critic",) if script == "sac" else ("actor", "critic")
    names = [name for name in state["target"] if name.startswith(networks)]
    torch.manual_seed(0)
    start = {name: torch.randn_like(state["target"][name]) for name in names}
    state["target"] |= start
    torch.save(state, run_dir / "checkpoint.pt")
    completed_run(script, "--resume", "r", "--total-timesteps", 400)
    after = checkpoint(run_dir)
    for name in names:
        network = after["agent"][name]
        expected = network + 0.99**100 * (start[name] - network)
        torch.testing.assert_close(after["target"][name], expected, rtol=1e-4, atol=1e-5)


@both
def test_a_resumed_run_begins_with_the_buffer_and_the_networks_it_had(
    module, short_run, completed_run
):
    """And not with random actions: what was stored stays in front, every part goes on."""
    script = module.__name__
    run_dir = short_run(script)
    before = checkpoint(run_dir)
    zero = ("--policy-lr", 0, "--q-lr", 0, "--tau", 0)
    completed_run(script, "--resume", "r", "--total-timesteps", 1300, *zero)
    after = checkpoint(run_dir)
    rows = after["buffer"]["rows"]
    assert torch.equal(rows[:1200], before["buffer"]["rows"])
    assert len(rows) == 1300
    assert after["count"]["updates"] == before["count"]["updates"] + 100
    for part in ("agent", "target"):
        for name, tensor in before[part].items():
            assert torch.equal(tensor, after[part][name]), name
    moments_before = before["critic_optimizer"]["state"][0]
    moments_after = after["critic_optimizer"]["state"][0]
    assert moments_after["step"] == moments_before["step"] + 100
    assert not torch.equal(moments_after["exp_avg"], moments_before["exp_avg"])
    if script == "ddpg":
        agent = module.Agent(Box(-1, 1, (3,)), Box(-2, 2, (1,)))
        agent.load_state_dict(after["agent"])
        obs = rows[1200:, :3]
        action = rows[1200:, 3:4]
        assert (action - agent.act(agent.normalize(obs))).std() < 0.2  # uniformly random: 0.6
    if script == "sac":
        assert before["agent"]["log_alpha"] != 0
        assert 0 < steps_taken(before["alpha_optimizer"]) < steps_taken(after["alpha_optimizer"])


@both
@pytest.mark.parametrize(
    "random_steps, total, num_rows",
    [(200, 1190, 200), (200, 1210, 1200), (50, 1190, 1050), (250, 400, 250), (50, 400, 0)],
)
def test_the_observation_statistics_are_those_of_the_buffer(
    module, short_run, random_steps, total, num_rows
):
    """When the random steps end, and in sac.py every 1,000 steps after it.

    With 0 rows here there are none.
    """
    if module is ddpg:
        num_rows = min(num_rows, random_steps)
    flags = ("--learning-starts", random_steps, "--total-timesteps", total)
    flags += ("--num-envs", 1, "--updates-per-step", 0.02)
    run_dir = short_run(module.__name__, *flags, "--norm-obs" if num_rows else "--no-norm-obs")
    state = checkpoint(run_dir)
    mean = torch.zeros(3)
    std = torch.ones(3)
    if num_rows:
        obs = state["buffer"]["rows"][:num_rows, :3]
        mean = obs.mean(0)
        std = obs.std(0, correction=0)
    torch.testing.assert_close(state["agent"]["obs_mean"], mean)
    torch.testing.assert_close(state["agent"]["obs_std"], std)


def test_a_fixed_temperature_stays_fixed(short_run):
    fixed = short_run("sac", "--no-autotune", "--alpha", 0.37, run_dir="fixed")
    tuned = short_run("sac", "--alpha", 0.37, run_dir="tuned")
    fixed_values = {round(value, 6) for value in scalar_values(fixed, "losses/alpha")}
    tuned_values = {round(value, 6) for value in scalar_values(tuned, "losses/alpha")}
    assert fixed_values == {0.37}
    assert len(tuned_values) > 3


def float32_losses(module):
    """Of the critic and of the actor: loss, its network, its inputs; of 256 transitions."""
    agent, target = networks(module)
    agent.float()
    target.float()
    batch = [column.float() for column in minibatch(256)]
    critic_loss, actor_loss = losses(module)
    return [
        (critic_loss, agent.critic, (agent, target, batch, 0.9)),
        (actor_loss, agent.actor, (agent, batch[0])),
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler about itself
@both
def test_compiled_gradients_are_those_of_the_plain_ones(module):
    """With the same noise; and they are one graph."""
    compiled = torch.compile(module.gradient, fullgraph=True, options={"fallback_random": True})
    one_graph = torch._dynamo.config.patch(trace_autograd_ops=True)(compiled)
    for loss, network, inputs in float32_losses(module):
        found = []
        for gradient in (module.gradient, one_graph):
            torch.manual_seed(2)
            gradients, metrics = gradient(loss, network, *inputs)
            found.append([*gradients, *metrics.values()])
        for plain, fused in zip(*found):
            torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-5)


@both
def test_the_flag_bf16_changes_the_losses_and_not_by_much(module, short_run):
    found = []
    for name, flags in (("float32", ()), ("bfloat16", ("--bf16",))):
        run_dir = short_run(module.__name__, "--total-timesteps", 300, *flags, run_dir=name)
        found.append(scalar_values(run_dir, "losses/qf_loss")[0])
    float32, bfloat16 = found
    assert float32 != bfloat16 and abs(bfloat16 / float32 - 1) < 0.1


@both
def test_without_bf16_products_have_all_of_float32s_digits(module, train_here):
    """oneDNN may be given leave to round to bfloat16; on this processor too, it must not."""
    flags = {"total_timesteps": 40, "learning_starts": 20, "batch_size": 8, "eval_episodes": 1}
    train_here(module, **flags, cuda=False)
    torch.manual_seed(0)
    a, b = torch.randn(2, 256, 256)
    exact = a.double() @ b.double()
    rounded = a.bfloat16().double() @ b.bfloat16().double()
    error = (a @ b - exact).abs().max()
    rounding = (rounded - exact).abs().max()
    assert error < 1e-3 * rounding


@both
def test_bf16_is_close_to_float32(module):
    """Of the losses and the gradients of one minibatch, at the initial weights."""
    for loss_of, network, inputs in float32_losses(module):
        found = []
        for enabled in (False, True):
            torch.manual_seed(2)
            rounding_loss_of = torch.autocast("cpu", torch.bfloat16, enabled=enabled)(loss_of)
            gradients, metrics = module.gradient(rounding_loss_of, network, *inputs)
            loss = next(iter(metrics.values()))
            found.append((loss, torch.cat([g.flatten() for g in gradients])))
        (loss, gradient), (rough_loss, rough_gradient) = found
        assert rough_loss.dtype == rough_gradient.dtype == torch.float32
        assert loss != rough_loss and abs(rough_loss - loss) < 0.02 * (1 + abs(loss))
        assert torch.cosine_similarity(gradient, rough_gradient, 0) > 0.99
