"""DDPG, TD3 and SAC: targets and losses against loops in float64, the density, the replay buffer,
and what `train` does with them: every update of a run is compared with one written down here.
"""

import copy
from dataclasses import dataclass
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

import ddpg
import sac
import td3
from helpers import agent_for, modules_defining
from run_folder import checkpoint, scalar_values, steps_taken, summary
from tiny_envs import BOX, Timetable, timetables

f64 = torch.float64
both = pytest.mark.parametrize("module", modules_defining("ReplayBuffer"))


def make_agent(module, seed=0):
    """An agent of 3 observations and 2 actions, in float64."""
    torch.manual_seed(seed)
    return module.Agent(Box(-1, 1, (3,)), BOX).double()


class Row(NamedTuple):
    """A transition."""

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    terminated: Tensor


def minibatch(module, size=9):
    """Random transitions, some of them terminated."""
    torch.manual_seed(1)
    return module.Batch(
        obs=torch.randn(size, 3, dtype=f64),
        next_obs=torch.randn(size, 3, dtype=f64),
        action=torch.rand(size, 2, dtype=f64) * 2 - 1,
        reward=torch.randn(size, dtype=f64),
        terminated=(torch.arange(size) % 3 == 0).to(f64),
    )


def rows_of(batch) -> list[Row]:
    """The same transitions, one by one, in float64."""
    columns = [getattr(batch, name).double() for name in Row._fields]
    return [Row(*row) for row in zip(*columns)]


# ---------------------------------------------------------------- the formulas, a sample at a time


def forward(net: nn.Module, *inputs: Tensor) -> Tensor:
    """A network's output for one sample, one layer at a time, without the tanh of an actor.

    A layer has a weight and a bias; that of a layer norm is a vector. A ReLU stands before every
    linear layer but the first.
    """
    parameters = list(net.parameters())
    x = torch.cat(inputs)
    for i, (weight, bias) in enumerate(zip(parameters[::2], parameters[1::2])):
        is_linear = weight.ndim == 2
        if is_linear and i > 0:
            x = torch.where(x > 0, x, 0)
        if is_linear:
            x = (weight * x).sum(1) + bias
        else:
            variance = (x - x.mean()).square().mean()
            x = weight * (x - x.mean()) / (variance + 1e-5).sqrt() + bias
    return x


def value(critic: nn.Module, obs: Tensor, action: Tensor) -> Tensor:
    """Q(s, a) of one sample."""
    [q] = forward(critic, obs, action)
    return q


def tanh_policy(actor: nn.Module, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """An action of sac.py's policy and its log π, by torch.distributions."""
    mean, log_std = forward(actor, obs).split(len(noise))
    std = (-5 + (2 + 5) * (log_std.tanh() + 1) / 2).exp()
    tanh = TanhTransform(cache_size=1)  # the cache spares it the inverse
    policy = TransformedDistribution(Independent(Normal(mean, std), 1), [tanh])
    action = tanh(mean + std * noise)
    return action, policy.log_prob(action)


def ddpg_target(networks, row: Row, gamma: float) -> Tensor:
    """What the critic is fitted to, by the target networks."""
    if row.terminated:
        return row.reward
    next_action = forward(networks["target_actor"], row.next_obs).tanh()
    return row.reward + gamma * value(networks["target_critic"], row.next_obs, next_action)


def ddpg_critic_loss(networks, rows: list[Row], gamma: float) -> Tensor:
    total = 0
    for row in rows:
        q = value(networks["agent"].critic, row.obs, row.action)
        total = total + (q - ddpg_target(networks, row, gamma).detach()) ** 2
    return total / len(rows)


def ddpg_actor_loss(networks, rows: list[Row]) -> Tensor:
    agent = networks["agent"]
    total = 0
    for row in rows:
        total = total - value(agent.critic, row.obs, forward(agent.actor, row.obs).tanh())
    return total / len(rows)


def td3_target(networks, row: Row, noise: Tensor, gamma: float) -> Tensor:
    """What both critics are fitted to; the noise is clipped to ±0.25."""
    if row.terminated:
        return row.reward
    next_action = forward(networks["target_actor"], row.next_obs).tanh()
    for i, eps in enumerate(noise.tolist()):
        shifted = next_action[i] + max(min(eps, 0.25), -0.25)
        next_action[i] = max(min(shifted, 1.0), -1.0)
    next_q1 = value(networks["target_q1"], row.next_obs, next_action)
    next_q2 = value(networks["target_q2"], row.next_obs, next_action)
    return row.reward + gamma * (next_q1 if next_q1 < next_q2 else next_q2)


def td3_critic_loss(networks, rows: list[Row], noise: Tensor, gamma: float) -> Tensor:
    """The sum of both critics' losses."""
    agent = networks["agent"]
    total = 0
    for row, eps in zip(rows, noise):
        y = td3_target(networks, row, eps, gamma).detach()
        for critic in (agent.q1, agent.q2):
            total = total + (value(critic, row.obs, row.action) - y) ** 2
    return total / len(rows)


def td3_actor_loss(networks, rows: list[Row]) -> Tensor:
    agent = networks["agent"]
    total = 0
    for row in rows:
        total = total - value(agent.q1, row.obs, forward(agent.actor, row.obs).tanh())
    return total / len(rows)


def sac_target(networks, row: Row, noise: Tensor, gamma: float, alpha: float) -> Tensor:
    """What both critics are fitted to."""
    if row.terminated:
        return row.reward
    next_action, log_prob = tanh_policy(networks["agent"].actor, row.next_obs, noise)
    next_q1 = value(networks["target_q1"], row.next_obs, next_action)
    next_q2 = value(networks["target_q2"], row.next_obs, next_action)
    smaller = next_q1 if next_q1 < next_q2 else next_q2
    return row.reward + gamma * (smaller - alpha * log_prob)


def sac_critic_loss(networks, rows: list[Row], noise: Tensor, gamma: float, alpha: float) -> Tensor:
    """The sum of both critics' losses."""
    agent = networks["agent"]
    total = 0
    for row, eps in zip(rows, noise):
        y = sac_target(networks, row, eps, gamma, alpha).detach()
        for critic in (agent.q1, agent.q2):
            total = total + (value(critic, row.obs, row.action) - y) ** 2
    return total / len(rows)


def sac_actor_loss(networks, rows: list[Row], noise: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """The loss, and the entropy of the policy as the samples estimate it."""
    agent = networks["agent"]
    total = 0
    entropy = 0
    for row, eps in zip(rows, noise):
        action, log_prob = tanh_policy(agent.actor, row.obs, eps)
        q1 = value(agent.q1, row.obs, action)
        q2 = value(agent.q2, row.obs, action)
        smaller = q1 if q1 < q2 else q2
        total = total + alpha * log_prob - smaller
        entropy = entropy - log_prob
    return total / len(rows), entropy / len(rows)


def test_ddpgs_functions_equal_a_loop():
    agent = make_agent(ddpg)
    target = make_agent(ddpg, seed=5)
    networks = {"agent": agent, "target_actor": target.actor, "target_critic": target.critic}
    batch = minibatch(ddpg)
    next_value = target.critic(batch.next_obs, target.actor(batch.next_obs))
    y = ddpg.td_target(batch.reward, batch.terminated, next_value, 0.9)
    expected = torch.stack([ddpg_target(networks, row, 0.9) for row in rows_of(batch)])
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    loss = ddpg.critic_loss(agent.critic(batch.obs, batch.action), y)
    assert abs(loss - ddpg_critic_loss(networks, rows_of(batch), 0.9)) < 1e-12
    loss = ddpg.actor_loss(agent.critic(batch.obs, agent.actor(batch.obs)))
    assert abs(loss - ddpg_actor_loss(networks, rows_of(batch))) < 1e-12


def test_the_deterministic_policy_gradient_by_hand():
    """E[ ∇_θ π_θ(s) ∇_a Q(s, a) ], one sample, action dimension and parameter tensor at a time."""
    agent = make_agent(ddpg)
    obs = minibatch(ddpg).obs
    parameters = list(agent.actor.parameters())
    by_hand = [torch.zeros_like(parameter) for parameter in parameters]
    for s in obs:
        action = agent.actor(s)
        a = action.detach().requires_grad_()
        [dq_da] = torch.autograd.grad(agent.critic(s, a), a)
        for i in range(2):
            da_dtheta = torch.autograd.grad(action[i], parameters, retain_graph=True)
            for total, derivative in zip(by_hand, da_dtheta):
                total += derivative * dq_da[i] / len(obs)
    loss = ddpg.actor_loss(agent.critic(obs, agent.actor(obs)))
    for gradient, expected in zip(torch.autograd.grad(-loss, parameters), by_hand):
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-14)


def test_sacs_functions_equal_a_loop(monkeypatch):
    """With the noise given: the target, both losses and the entropy."""
    agent = make_agent(sac)
    target = make_agent(sac, seed=5)
    networks = {"agent": agent, "target_q1": target.q1, "target_q2": target.q2}
    batch = minibatch(sac)
    rows = rows_of(batch)
    noise = torch.randn(9, 2, dtype=f64)
    alpha = sac.Temperature(0.3)()
    assert abs(alpha.item() - 0.3) < 1e-6
    alpha = alpha.item()
    monkeypatch.setattr(torch, "randn_like", lambda mean: noise)

    next_action, log_prob = agent.sample(batch.next_obs)
    next_q1 = target.q1(batch.next_obs, next_action)
    next_q2 = target.q2(batch.next_obs, next_action)
    assert (next_q1 < next_q2).any() and (next_q1 > next_q2).any()
    next_value = sac.soft_value(next_q1, next_q2, alpha, log_prob)
    y = sac.td_target(batch.reward, batch.terminated, next_value, 0.9)
    in_a_loop = [sac_target(networks, row, eps, 0.9, alpha) for row, eps in zip(rows, noise)]
    torch.testing.assert_close(y, torch.stack(in_a_loop), rtol=0, atol=1e-10)

    loss = 0
    for critic in (agent.q1, agent.q2):
        loss = loss + sac.critic_loss(critic(batch.obs, batch.action), y)
    assert abs(loss - sac_critic_loss(networks, rows, noise, 0.9, alpha)) < 1e-10

    action, log_prob = agent.sample(batch.obs)
    q1 = agent.q1(batch.obs, action)
    q2 = agent.q2(batch.obs, action)
    loss = -sac.soft_value(q1, q2, alpha, log_prob).mean()
    expected, entropy = sac_actor_loss(networks, rows, noise, alpha)
    assert abs(loss - expected) < 1e-10
    assert abs(-log_prob.mean() - entropy) < 1e-10


# ---------------------------------------------------------------- the updates of a run


class Weather(gym.Env):
    """Random observations and rewards, whatever the action; an episode ends in one way or another.

    The observations have a mean and a deviation, so that it matters to normalise them.
    """

    observation_space = Box(-np.inf, np.inf, (3,))
    action_space = BOX

    def _obs(self):
        return (5 + 3 * self.np_random.normal(size=3)).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._obs(), {}

    def step(self, action):
        terminated = self.np_random.random() < 0.3
        truncated = self.np_random.random() < 0.2
        return self._obs(), self.np_random.normal(), terminated, truncated, {}


gym.register("Weather-v0", Weather)


@dataclass
class Update:
    """What happened from the draw of one minibatch to that of the next.

    Networks are copies, in float64, with the gradients that they had: `networks[0]` when the
    minibatch was drawn, then one for each optimiser's step, before the step; at last as they were
    left.
    """

    batch: object
    networks: list[dict[str, nn.Module]]
    optimizers: list[str]  # the names of those that took a step
    gradients: list[list[Tensor]]
    noise: list[Tensor]
    metrics: dict[str, float]


BATCH = 16


@pytest.fixture
def updates_of(monkeypatch, train_here):
    """Trains with a script in this process and returns its updates."""

    def updates_of(module, **args) -> list[Update]:
        updates = []
        parts = {}

        def networks() -> dict[str, nn.Module]:
            copies = {}
            for name, part in parts.items():
                if isinstance(part, nn.Module):
                    copies[name] = copy.deepcopy(part).double()
                    for new, old in zip(copies[name].parameters(), part.parameters()):
                        new.grad = None if old.grad is None else old.grad.double()
            return copies

        class Run(module.Run):
            def __init__(self, *given, **named):
                parts.update(named)
                super().__init__(*given, **named)

            def metric(self, tag, value):
                if updates:
                    updates[-1].metrics[tag] = torch.as_tensor(value).item()
                super().metric(tag, value)

        class Adam(module.Adam):
            def step(self):
                [name] = [name for name, part in parts.items() if part is self]
                [group] = self.param_groups
                updates[-1].optimizers.append(name)
                updates[-1].gradients.append([p.grad.clone() for p in group["params"]])
                updates[-1].networks.append(networks())
                super().step()

        draw = module.ReplayBuffer.sample
        randn_like = torch.randn_like

        def sample(buffer, batch_size):
            if updates:
                updates[-1].networks.append(networks())
            batch = draw(buffer, batch_size)
            updates.append(Update(batch, [networks()], [], [], [], {}))
            return batch

        def recorded_randn_like(mean):
            noise = randn_like(mean)
            if updates and len(mean) == BATCH:  # a minibatch's, not an action's
                updates[-1].noise.append(noise.double())
            return noise

        monkeypatch.setattr(module, "Run", Run)
        monkeypatch.setattr(module, "Adam", Adam)
        monkeypatch.setattr(module.ReplayBuffer, "sample", sample)
        monkeypatch.setattr(torch, "randn_like", recorded_randn_like)
        flags = {"env_id": "Weather-v0", "learning_starts": 40, "total_timesteps": 46}
        flags |= {"batch_size": BATCH, "eval_episodes": 1, "cuda": False}
        train_here(module, **flags | args)
        updates[-1].networks.append(networks())
        assert len(updates) == 6
        return updates

    return updates_of


def normalized_rows(update: Update) -> list[Row]:
    """The minibatch as the networks see it."""
    stats = update.networks[0]["agent"].obs_stats
    std = stats.var.sqrt()
    rows = []
    for row in rows_of(update.batch):
        obs = (row.obs - stats.mean) / std
        next_obs = (row.next_obs - stats.mean) / std
        rows.append(row._replace(obs=obs, next_obs=next_obs))
    return rows


def assert_gradients(found: list[Tensor], loss: Tensor, parameters) -> None:
    """Of a float32 computation; to a share of the largest in each tensor."""
    for gradient, expected in zip(found, torch.autograd.grad(loss, list(parameters)), strict=True):
        assert expected.abs().max() > 0
        assert (gradient - expected).abs().max() < 1e-3 * expected.abs().max()


def changed(before: dict[str, nn.Module], after: dict[str, nn.Module]) -> set[str]:
    """The networks whose parameters differ, such as agent.actor and target_actor."""
    found = set()
    for name in before:
        old = before[name].state_dict()
        for key, tensor in after[name].state_dict().items():
            if not torch.equal(old[key], tensor):
                found.add(f"agent.{key.split('.')[0]}" if name == "agent" else name)
    return found


def assert_critics_keep_their_gradients(update: Update, critics: list[str]) -> None:
    """What the actor's loss adds to none of them."""
    for critic in critics:
        for networks in update.networks[2:]:
            parameters = getattr(networks["agent"], critic).parameters()
            before = getattr(update.networks[1]["agent"], critic).parameters()
            for parameter, old in zip(parameters, before):
                assert torch.equal(parameter.grad, old.grad)


def assert_targets_follow(update: Update, targets: dict[str, str], tau: float) -> None:
    """At the update's end, by the share τ of the way; `targets` gives each one's network."""
    before = update.networks[0]
    after = update.networks[-1]
    for target, name in targets.items():
        network = getattr(after["agent"], name)
        parameters = zip(
            before[target].parameters(), network.parameters(), after[target].parameters()
        )
        for old, goal, new in parameters:
            assert not new.requires_grad and new.grad is None
            torch.testing.assert_close(new, (1 - tau) * old + tau * goal, rtol=1e-5, atol=1e-7)


FAST = {"gamma": 0.9, "tau": 0.05, "policy_lr": 3e-3, "q_lr": 1e-2}  # the targets are left behind


@pytest.mark.parametrize("policy_frequency", [1, 3])
def test_every_update_of_ddpg_is_that_of_the_formulas(updates_of, policy_frequency):
    """Its gradients, what they change, the targets, and what is logged."""
    updates = updates_of(ddpg, **FAST, policy_frequency=policy_frequency)
    for number, update in enumerate(updates):
        with_actor = number % policy_frequency == 0
        rows = normalized_rows(update)
        assert {row.terminated.item() for row in rows} == {0, 1}

        agent = update.networks[0]["agent"]
        loss = ddpg_critic_loss(update.networks[0], rows, 0.9)
        assert_gradients(update.gradients[0], loss, agent.critic.parameters())
        assert update.metrics["losses/qf_loss"] == pytest.approx(loss.item(), rel=1e-4)
        values = [value(agent.critic, row.obs, row.action).item() for row in rows]
        logged = update.metrics["losses/qf_values"]
        assert logged == pytest.approx(np.mean(values), rel=1e-4, abs=1e-5)
        if with_actor:
            agent = update.networks[2]["agent"]
            loss = ddpg_actor_loss(update.networks[2], rows)
            assert_gradients(update.gradients[1], loss, agent.actor.parameters())
            logged = update.metrics["losses/actor_loss"]
            assert logged == pytest.approx(loss.item(), rel=1e-4, abs=1e-5)

        targets = {"target_actor": "actor", "target_critic": "critic"}
        of_each_step = [changed(*pair) for pair in zip(update.networks, update.networks[1:])]
        if with_actor:
            assert update.optimizers == ["critic_optimizer", "actor_optimizer"]
            assert of_each_step == [set(), {"agent.critic"}, {"agent.actor", *targets}]
        else:
            assert update.optimizers == ["critic_optimizer"]
            assert of_each_step == [set(), {"agent.critic", *targets}]
        assert_critics_keep_their_gradients(update, ["critic"])
        assert_targets_follow(update, targets, 0.05)


@pytest.mark.parametrize("policy_frequency", [1, 3])
def test_every_update_of_td3_is_that_of_the_formulas(updates_of, policy_frequency):
    """And actor and targets wait for their turn."""
    smoothing = {"policy_noise": 0.3, "noise_clip": 0.25}
    updates = updates_of(td3, **FAST, **smoothing, policy_frequency=policy_frequency)
    clipped = torch.cat([update.noise[0] for update in updates]).abs() * 0.3 > 0.25
    assert clipped.any() and not clipped.all()
    for number, update in enumerate(updates):
        rows = normalized_rows(update)
        assert {row.terminated.item() for row in rows} == {0, 1}
        [noise] = update.noise
        agent = update.networks[0]["agent"]
        loss = td3_critic_loss(update.networks[0], rows, 0.3 * noise, 0.9)
        critics = [*agent.q1.parameters(), *agent.q2.parameters()]
        assert_gradients(update.gradients[0], loss, critics)
        assert update.metrics["losses/qf_loss"] == pytest.approx(loss.item() / 2, rel=1e-4)

        targets = {"target_actor": "actor", "target_q1": "q1", "target_q2": "q2"}
        of_each_step = [changed(*pair) for pair in zip(update.networks, update.networks[1:])]
        if number % policy_frequency == 0:
            agent = update.networks[2]["agent"]
            loss = td3_actor_loss(update.networks[2], rows)
            assert_gradients(update.gradients[1], loss, agent.actor.parameters())
            logged = update.metrics["losses/actor_loss"]
            assert logged == pytest.approx(loss.item(), rel=1e-4, abs=1e-5)
            assert update.optimizers == ["critic_optimizer", "actor_optimizer"]
            expected = [set(), {"agent.q1", "agent.q2"}, {"agent.actor", *targets}]
            assert_targets_follow(update, targets, 0.05)
        else:
            assert update.optimizers == ["critic_optimizer"]
            expected = [set(), {"agent.q1", "agent.q2"}]
        assert of_each_step == expected
        assert_critics_keep_their_gradients(update, ["q1", "q2"])


@pytest.mark.parametrize("policy_frequency", [1, 3])
@pytest.mark.parametrize("autotune", [True, False])
def test_every_update_of_sac_is_that_of_the_formulas(updates_of, policy_frequency, autotune):
    """Its gradients, what they change, the targets, and what is logged."""
    args = {**FAST, "policy_frequency": policy_frequency, "autotune": autotune, "alpha": 0.7}
    updates = updates_of(sac, **args)
    smaller = set()
    for number, update in enumerate(updates):
        with_actor = number % policy_frequency == 0
        rows = normalized_rows(update)
        assert {row.terminated.item() for row in rows} == {0, 1}
        log_alpha = update.networks[0]["temperature"].log_alpha
        alpha = log_alpha.exp().item()
        if number == 0:
            assert alpha == pytest.approx(1.0 if autotune else 0.7)

        agent = update.networks[0]["agent"]
        loss = sac_critic_loss(update.networks[0], rows, update.noise[0], 0.9, alpha)
        critic_parameters = [*agent.q1.parameters(), *agent.q2.parameters()]
        assert_gradients(update.gradients[0], loss, critic_parameters)
        assert update.metrics["losses/qf_loss"] == pytest.approx(loss.item() / 2, rel=1e-4)
        values = []
        for row in rows:
            q1 = value(agent.q1, row.obs, row.action).item()
            q2 = value(agent.q2, row.obs, row.action).item()
            values += [q1, q2]
            smaller.add("q1" if q1 < q2 else "q2")
        logged = update.metrics["losses/qf_values"]
        assert logged == pytest.approx(np.mean(values), rel=1e-4, abs=1e-5)
        if with_actor:
            agent = update.networks[2]["agent"]
            loss, entropy = sac_actor_loss(update.networks[2], rows, update.noise[1], alpha)
            assert_gradients(update.gradients[1], loss, agent.actor.parameters())
            logged = update.metrics["losses/actor_loss"]
            assert logged == pytest.approx(loss.item(), rel=1e-4, abs=1e-5)
            assert update.metrics["losses/entropy"] == pytest.approx(entropy.item(), rel=1e-4)
            assert update.metrics["losses/alpha"] == pytest.approx(alpha)
        if with_actor and autotune:
            [gradient] = update.gradients[2]
            # Of α (H + act_dim / 2) in log α; act_dim is 2.
            assert gradient.item() == pytest.approx(alpha * (entropy.item() + 1), rel=1e-4)

        targets = {"target_q1": "q1", "target_q2": "q2"}
        critics = {"agent.q1", "agent.q2"}
        of_each_step = [changed(*pair) for pair in zip(update.networks, update.networks[1:])]
        if with_actor and autotune:
            assert update.optimizers == ["critic_optimizer", "actor_optimizer", "alpha_optimizer"]
            last = {"temperature", *targets}
            assert of_each_step == [set(), critics, {"agent.actor"}, last]
        elif with_actor:
            assert update.optimizers == ["critic_optimizer", "actor_optimizer"]
            assert of_each_step == [set(), critics, {"agent.actor", *targets}]
        else:
            assert update.optimizers == ["critic_optimizer"]
            assert of_each_step == [set(), critics | targets.keys()]
        assert_critics_keep_their_gradients(update, ["q1", "q2"])
        assert_targets_follow(update, targets, 0.05)
    assert smaller == {"q1", "q2"}


# ---------------------------------------------------------------- the density and the temperature


@pytest.mark.parametrize("mean, log_std", [(0.0, 0.0), (0.7, -1.0), (-1.5, 0.5), (3.0, -2.0)])
def test_the_tanh_gaussians_density_integrates_to_one(mean, log_std):
    """Over the action, by the trapezoidal rule on a grid that is even in the noise."""
    noise = torch.linspace(-8, 8, 20_001, dtype=f64)[:, None]
    mean = torch.tensor([mean], dtype=f64)
    log_std = torch.tensor([log_std], dtype=f64)
    action, log_prob = sac.tanh_gaussian(mean, log_std, noise)
    inside = action[:, 0].abs() < 1 - 1e-13  # beyond it float64 cannot tell actions apart
    integral = torch.trapezoid(log_prob.exp()[inside], action[inside, 0]).item()
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
    """What is learned is log α; the entropy is data."""
    temperature = sac.Temperature(0.3)
    for nats, sign in ((-1.0, 1), (-2.0, 0), (-3.0, -1)):
        entropy = torch.tensor(nats, requires_grad=True)
        loss = sac.temperature_loss(temperature(), entropy, target_entropy=-2.0)
        loss.backward()
        gradient = temperature.log_alpha.grad.item()
        assert np.sign(gradient) == sign and entropy.grad is None
        assert loss.item() == gradient == pytest.approx(0.3 * (nats + 2))
        temperature.zero_grad()


@both
def test_what_does_not_vary_in_the_random_steps_is_not_blown_up(module, train_here):
    flags = {"total_timesteps": 60, "learning_starts": 50, "batch_size": 8, "eval_episodes": 1}
    run_dir = train_here(module, env_id="tiny_envs:Blind-v0", **flags)
    agent = module.Agent(Box(-1, 1, (2,)), Box(-1, 1, (2,)))
    agent.load_state_dict(checkpoint(run_dir)["agent"])
    assert agent.obs_stats.mean.tolist() == [1, 1] and agent.obs_stats.var.tolist() == [0, 0]
    assert agent.normalize(torch.tensor([1.0, 3.0])).tolist() == [0, 2]


# ---------------------------------------------------------------- replay buffer and steps


WIDTHS = {"obs": 3, "action": 2, "reward": None, "next_obs": 3, "terminated": None}


def transitions(module, *first_numbers):
    """Transitions; the numbers of each count on from its first number, over all columns."""
    columns = {}
    offset = 0
    for name, width in WIDTHS.items():
        first = torch.tensor(first_numbers, dtype=torch.float32) + offset
        columns[name] = first if width is None else first[:, None] + torch.arange(width)
        offset += width or 1
    return module.Batch(**columns)


def rows(batch) -> Tensor:
    """The same, a row of ten numbers for each transition."""
    columns = [getattr(batch, name) for name in WIDTHS]
    return torch.cat([c[:, None] if c.dim() == 1 else c for c in columns], 1)


def first_numbers(buffer) -> list[float]:
    """Of the transitions that the buffer holds."""
    return buffer.obs[: buffer.added, 0].tolist()


@both
class TestReplayBuffer:
    def buffer(self, module, capacity=5):
        return module.ReplayBuffer(capacity, 3, 2, torch.device("cpu"))

    def test_a_sample_is_whole_transitions(self, module):
        buffer = self.buffer(module)
        buffer.add(transitions(module, 100, 200, 300))
        torch.manual_seed(0)
        batch = buffer.sample(1000)
        for name, width in WIDTHS.items():
            assert getattr(batch, name).shape == (1000,) if width is None else (1000, width)
        drawn = rows(batch)
        assert (drawn == drawn[:, :1] + torch.arange(10)).all()
        numbers, counts = drawn[:, 0].unique(return_counts=True)
        assert numbers.tolist() == [100, 200, 300]  # never the empty rest
        assert counts.min() > 270

    def test_the_oldest_transitions_are_replaced(self, module):
        buffer = self.buffer(module)
        for n in (1, 2, 3, 4):
            buffer.add(transitions(module, 100 * n, 100 * n + 50))
        assert buffer.added == 8
        assert sorted(first_numbers(buffer)) == [250, 300, 350, 400, 450]
        drawn = rows(buffer.sample(200))
        assert (drawn == drawn[:, :1] + torch.arange(10)).all()
        assert drawn[:, 0].unique().tolist() == [250, 300, 350, 400, 450]

    @pytest.mark.parametrize("added", [3, 5, 8])
    def test_a_state_restored_goes_on_as_the_buffer_would(self, module, added):
        buffer = self.buffer(module)
        for n in range(added):
            buffer.add(transitions(module, n))
        state = buffer.state_dict()
        oldest_first = list(range(max(0, added - 5), added))
        assert list(state) == list(WIDTHS)
        expected = rows(transitions(module, *oldest_first))
        assert torch.equal(rows(module.Batch(**state)), expected)
        num_bytes = [column.untyped_storage().nbytes() for column in state.values()]
        assert sum(num_bytes) == min(added, 5) * 10 * 4
        restored = self.buffer(module, 5)
        larger = self.buffer(module, 9)
        smaller = self.buffer(module, 2)
        for other in (restored, larger, smaller):
            other.load_state_dict(copy.deepcopy(state))
            other.add(transitions(module, 77))
        buffer.add(transitions(module, 77))
        assert sorted(first_numbers(restored)) == sorted(first_numbers(buffer))
        assert first_numbers(larger) == [*oldest_first, 77]
        assert sorted(first_numbers(smaller)) == [added - 1, 77]


class BoxTimetable(Timetable):
    """It remembers what actions it got."""

    action_space = BOX
    received = []

    def step(self, action):
        self.received.append(action.tolist())
        return super().step(action)


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
def test_every_transition_of_environments_that_end_at_different_times(module, monkeypatch):
    """The vector reuses its arrays: the true last observation, no reset step, nothing mixed.

    What is remembered is the action in units of the bounds, what the environment gets is scaled.
    """
    monkeypatch.setattr(BoxTimetable, "received", [])
    ends = [(2, "terminated"), (3, "truncated"), (1, "both")], [(4, "truncated")]
    envs = timetables(*ends, env_class=BoxTimetable)
    agent = agent_for(module, envs)
    stepper = module.Stepper(envs, torch.device("cpu"), seed=0)
    actions = []
    found = []
    episodes = []
    sent = []
    for _ in range(9):
        assert stepper.obs.shape == (2, 2)
        resets = stepper.done.copy()
        action = torch.rand(2, 2) * 2 - 1
        env_action = agent.to_env(action)
        batch, ended = stepper.step(action, env_action)
        assert len(batch.reward) == 2 - resets.sum()
        actions.append(action)
        found += rows(batch).tolist()
        episodes += ended
        sent += env_action[~resets].tolist()
    expected = transitions_by_definition(actions)
    np.testing.assert_allclose(sorted(found), sorted(expected), rtol=1e-6)
    assert sorted(episodes) == [(3.0, 2), (10.0, 4), (21.0, 1), (36.0, 3), (50.0, 4)]
    assert BoxTimetable.received == sent
    low, high = torch.tensor(sent).aminmax(dim=0)
    assert (low >= torch.tensor(BOX.low)).all() and (high <= torch.tensor(BOX.high)).all()


# ---------------------------------------------------------------- whole runs


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
    obs = state["buffer"]["obs"]
    action = state["buffer"]["action"]
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
        noise = (action - agent.actor(agent.normalize(obs))).detach()[-80:]
        assert 0.15 < noise.std() < 0.26
        assert abs(np.corrcoef(noise.T)[0, 1]) < 0.4


@pytest.mark.quick_for("ddpg")
@both
@pytest.mark.parametrize("per_step, num_envs", [(1, 1), (0.5, 3), (2, 4)])
def test_updates_are_counted_per_step_of_every_environment(module, short_run, per_step, num_envs):
    flags = ("--updates-per-step", per_step, "--num-envs", num_envs, "--total-timesteps", 600)
    run_dir = short_run(module.__name__, *flags)
    result = summary(run_dir)
    state = checkpoint(run_dir)
    assert 600 <= result["global_step"] < 600 + num_envs
    updates = np.ceil(per_step * (result["global_step"] - 200))
    of_actor = np.ceil(updates / module.Args().policy_frequency)
    assert steps_taken(state["critic_optimizer"]) == updates
    assert steps_taken(state["actor_optimizer"]) == of_actor
    assert len(state["buffer"]["obs"]) == result["global_step"]


TARGETS = {
    "ddpg": {"target_actor": "actor", "target_critic": "critic"},
    "td3": {"target_actor": "actor", "target_q1": "q1", "target_q2": "q2"},
    "sac": {"target_q1": "q1", "target_q2": "q2"},
}


@pytest.mark.quick_for("ddpg")
@both
def test_the_targets_follow_in_closed_form(module, short_run, completed_run):
    """With step sizes of zero the networks stand still.

    After k updates the targets are θ + (1 − τ)^k (θ̄₀ − θ).
    """
    script = module.__name__
    flags = ("--policy-lr", 0, "--q-lr", 0, "--tau", 0.01, "--policy-frequency", 1)
    flags += ("--updates-per-step", 1)
    run_dir = short_run(script, *flags, "--total-timesteps", 300)
    state = checkpoint(run_dir)
    torch.manual_seed(0)
    start = {}
    for target in TARGETS[script]:
        start[target] = {name: torch.randn_like(old) for name, old in state[target].items()}
    torch.save(state | start, run_dir / "checkpoint.pt")
    completed_run(script, "--resume", "r", "--total-timesteps", 400)
    after = checkpoint(run_dir)
    for target, network in TARGETS[script].items():
        for name, first in start[target].items():
            goal = after["agent"][f"{network}.{name}"]
            expected = goal + 0.99**100 * (first - goal)
            torch.testing.assert_close(after[target][name], expected, rtol=1e-4, atol=1e-5)


@both
@pytest.mark.slow
def test_a_resumed_run_begins_with_the_buffer_and_the_networks_it_had(
    module, short_run, completed_run
):
    """And not with random actions: what was stored stays in front, every part goes on."""
    script = module.__name__
    run_dir = short_run(script, "--updates-per-step", 1)
    before = checkpoint(run_dir)
    zero = ("--policy-lr", 0, "--q-lr", 0, "--tau", 1e-30)
    completed_run(script, "--resume", "r", "--total-timesteps", 800, *zero)
    after = checkpoint(run_dir)
    assert list(after["buffer"]) == list(WIDTHS)
    for name, column in after["buffer"].items():
        assert torch.equal(column[:700], before["buffer"][name]) and len(column) == 800
    critic_steps = steps_taken(before["critic_optimizer"])
    assert critic_steps == 500 and steps_taken(after["critic_optimizer"]) == 600
    for part in ("agent", *TARGETS[script]):
        for name, tensor in before[part].items():
            assert torch.equal(tensor, after[part][name]), name
    moments_before = before["critic_optimizer"]["state"][0]
    moments_after = after["critic_optimizer"]["state"][0]
    assert not torch.equal(moments_after["exp_avg"], moments_before["exp_avg"])
    if script in ("ddpg", "td3"):
        agent = module.Agent(Box(-1, 1, (3,)), Box(-2, 2, (1,)))
        agent.load_state_dict(after["agent"])
        obs = after["buffer"]["obs"][700:]
        action = after["buffer"]["action"][700:]
        assert (action - agent.actor(agent.normalize(obs))).std() < 0.2  # uniformly random: 0.6
    if script == "sac":
        assert before["temperature"]["log_alpha"] != 0
        assert before["temperature"] == after["temperature"]
        assert 0 < steps_taken(before["alpha_optimizer"]) < steps_taken(after["alpha_optimizer"])


@pytest.mark.quick_for("ddpg")
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
    if module in (ddpg, td3):
        num_rows = min(num_rows, random_steps)
    flags = ("--learning-starts", random_steps, "--total-timesteps", total)
    flags += ("--num-envs", 1, "--updates-per-step", 0.02)
    run_dir = short_run(module.__name__, *flags, "--norm-obs" if num_rows else "--no-norm-obs")
    state = checkpoint(run_dir)
    mean = torch.zeros(3)
    var = torch.ones(3)
    if num_rows:
        obs = state["buffer"]["obs"][:num_rows]
        mean = obs.mean(0)
        var = obs.var(0, correction=0)
    torch.testing.assert_close(state["agent"]["obs_stats.mean"], mean)
    torch.testing.assert_close(state["agent"]["obs_stats.var"], var)


@pytest.mark.slow
def test_a_fixed_temperature_stays_fixed(short_run, completed_run):
    fixed = short_run("sac", "--no-autotune", "--alpha", 0.37, run_dir="fixed")
    tuned = short_run("sac", "--alpha", 0.37, run_dir="tuned")
    fixed_values = {round(value, 6) for value in scalar_values(fixed, "losses/alpha")}
    tuned_values = {round(value, 6) for value in scalar_values(tuned, "losses/alpha")}
    assert fixed_values == {0.37}
    assert len(tuned_values) > 3
    completed_run("sac", "--resume", "fixed", "--total-timesteps", 800, "--alpha", 0.5)
    assert round(scalar_values(fixed, "losses/alpha")[-1], 6) == 0.5


@both
def test_products_have_all_of_float32s_digits(module, train_here):
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
