"""What C2 and C3 share: mean and variance of estimates of one and the same policy gradient.

A policy is trained half-way and then fixed. All estimators share its trajectories, so each sees
equal environment steps. Each is a sum over a batch of N trajectories

    ĝ = (1/N) Σ_n Σ_t ∇ log π_θ(a_t|s_t) W_t

with weights W_t of its own. The task is CartPole whose episodes end after LIMIT steps, for good,
and γ = 1. So a Monte Carlo estimator's expectation is exactly ∇J. The variance is the trace of the
covariance of ĝ. Variances and squared biases are in units of the policy's ‖∇J‖², which is estimated
without the noise's share. So policies can be compared.

Bias is measured on paired differences: d = ĝ − ĝ_ref on the same trajectories, where ĝ_ref is the
estimate with G_t − V(s_t).

Beside the lectures' estimators stand two. b*(s) is the baseline that makes this trace least among
those linear in the last hidden units of V. V is linear in them, too: b*(s) is what V is to be near
to. The mean that includes the trajectory itself is biased by a known amount, towards (1 − 1/N) ĝ.
A good test for bias finds it.

Shapes: K estimators, M trajectories of at most T steps, S states, P parameters of the actor, F
features, B blocks.
"""

import copy
import functools
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from a2c import gae
from reinforce_baseline import (
    Adam,
    Agent,
    EpisodeCollector,
    derive_seed,
    make_envs,
    mean_baseline,
    reward_to_go,
)

from .. import ROOT
from .common import mean_with_interval

SEEDS = (1, 2, 3, 4, 5)
LIMIT = 100  # steps after which an episode ends
HALF_WAY = 35  # mean return of the last 100 episodes at which training stops
BATCH = 16  # trajectories of one estimate of the gradient, N: reinforce_baseline.py's
BLOCKS = 50  # blocks of estimates, the units of the test for bias
BLOCK = 40  # estimates in each
FIT = 4000  # trajectories that V and the optimal baselines are fitted to
LAMBDAS = (0.0, 0.5, 0.9, 0.95, 0.99)  # and 1, which is G_t − V(s_t)
N_STEPS = (5, 20)  # n of the n-step advantages; n = 1 is λ = 0
FLIPS = 10_000  # random signs that the test for bias draws
CRITICS = {"fitted": "V fitted at the policy", "own": "V of training"}
ENV_ID = "ShortCartPole-v0"

# The names of the estimators, beside those of `lambda_name` and `n_step_name`.
SCORE = "score"  # W_t = 1; only a part of others
TRAJECTORY_RETURN = "R"
RETURN_MEAN_OF_ALL = "R − mean of all"
BEST_PARAMETER_BASELINE = "R − b*"
TO_GO = "G"
MEAN_BASELINE = "G − mean"
MEAN_OF_ALL = "G − mean of all"
BEST_STATE_BASELINE = "G − b*(s)"


def lambda_name(critic: str, lam: float) -> str:
    """The estimator with the generalised advantage of a critic of CRITICS."""
    return f"{critic} λ={lam:g}"


def n_step_name(critic: str, n: int) -> str:
    """The estimator with the n-step advantage of a critic of CRITICS."""
    return f"{critic} n={n}"


REFERENCE = lambda_name("fitted", 1)  # G_t − V(s_t)

gym.register(
    ENV_ID,
    entry_point="gymnasium.envs.classic_control.cartpole:CartPoleEnv",
    vector_entry_point="gymnasium.envs.classic_control.cartpole:CartPoleVectorEnv",
    max_episode_steps=LIMIT,
)


# ------------------------------------- what is used of reinforce_baseline.py and of a2c.py


def half_trained(seed: int) -> Agent:
    """The agent of a run of reinforce_baseline.py that stops half-way to the largest return."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, ROOT / "reinforce_baseline.py"]
        command += ["--env-id", f"{__name__}:{ENV_ID}"]
        command += ["--run-dir", folder]
        command += ["--target-return", str(HALF_WAY)]
        command += ["--gamma", "1", "--baseline", "value"]
        command += ["--seed", str(seed)]
        nowhere = subprocess.DEVNULL
        subprocess.run(command, cwd=ROOT, check=True, stdout=nowhere, stderr=nowhere)
        checkpoint = torch.load(Path(folder, "checkpoint.pt"), weights_only=True)
    envs = make_envs(ENV_ID, 1)
    agent = Agent(envs.single_observation_space, envs.single_action_space)
    agent.load_state_dict(checkpoint["agent"])
    return agent


@dataclass
class Trajectories:
    """M trajectories of at most T steps."""

    x: Tensor
    """(T, M, obs_dim) normalised observations"""
    action: Tensor
    """(T, M)"""
    reward: Tensor
    """(T, M), 0 after the trajectory's end"""
    valid: Tensor
    """(T, M), False after the trajectory's end"""

    def __post_init__(self):
        self.to_go = reward_to_go(self.reward, 1.0)  # (T, M)
        no_step = torch.zeros_like(self.valid[:1])
        next_valid = torch.cat([self.valid[1:], no_step])
        self.last = self.valid & ~next_valid  # (T, M) the last step of each trajectory

    @classmethod
    def sample(cls, agent: Agent, number: int, seed: int) -> "Trajectories":
        """So many trajectories of the agent's policy."""
        torch.manual_seed(seed)
        envs = make_envs(ENV_ID, number)
        episodes = EpisodeCollector(envs, agent, torch.device("cpu"), seed).collect()
        x = agent.normalize(episodes.obs)
        return cls(x, episodes.action, episodes.reward, episodes.valid)


def critic_of_training(agent: Agent, x: Tensor) -> Tensor:
    """V(s) (T, M) as the run itself had it, of x (T, M, obs_dim)."""
    return agent.value(x) * agent.return_stats.std


def gradients(agent: Agent, x: Tensor, action: Tensor, weight: Tensor) -> Tensor:
    """Σ_s ∇ log π_θ(a_s|s_s) W_s (K, P) for the weights (K, S) of K estimators.

    x (S, obs_dim), action (S,). The derivative of log π by the output of a linear layer is the same
    for all weights but for a factor. A layer's gradient is the product of that derivative and of
    the layer's input.
    """
    inputs = []
    outputs = []
    hidden = x
    for layer in agent.actor:
        inputs.append(hidden)
        hidden = layer(hidden)
        outputs.append(hidden)
    log_prob, _ = agent.log_prob_and_entropy(hidden, action)
    # Every other layer is linear; those between are activations.
    deltas = torch.autograd.grad(log_prob.sum(), outputs[::2])
    parts = []
    for layer_input, delta in zip(inputs[::2], deltas):  # (S, in), (S, out)
        weighted = weight.unsqueeze(-1) * delta  # (K, S, out)
        of_weights = weighted.mT @ layer_input.detach()  # (K, out, in)
        of_biases = weighted.sum(1)  # (K, out)
        parts.append(of_weights.flatten(1))
        parts.append(of_biases)
    return torch.cat(parts, -1)


def leave_one_out_mean(to_go: Tensor, valid: Tensor, batch: int) -> Tensor:
    """Mean G_t (T, M) of the other trajectories of the same batch that still run at t."""
    rows = to_go.reshape(-1, batch)  # a step of a batch a row
    valid_rows = valid.reshape(-1, batch)
    return mean_baseline(rows, valid_rows).view_as(to_go)


def advantage(data: Trajectories, value: Tensor, lam: float) -> Tensor:
    """Generalised advantage estimate (T, M) of values (T, M), with γ = 1.

    An episode's end counts as a termination: the time limit is part of the task.
    """
    after_the_end = torch.zeros_like(value[:1])
    padded = torch.cat([value * data.valid, after_the_end])  # (T+1, M)
    never = torch.zeros_like(data.valid)
    return gae(data.reward, padded, data.last, never, 1.0, lam)


# ---------------------------------------------------------------- critics and baselines


class FittedCritic:
    """V(s), fitted to rewards-to-go; and its features φ(s), in which V is linear."""

    def __init__(self, critic: nn.Sequential, scale: Tensor):
        """The critic's output times `scale` is V."""
        self.critic = critic
        self.scale = scale

    @torch.no_grad()
    def value(self, x: Tensor) -> Tensor:
        """V(s) (T, M) of x (T, M, obs_dim)."""
        return self.critic(x).squeeze(-1) * self.scale

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """φ(s) (T, M, F) of x (T, M, obs_dim): the last hidden units and 1."""
        hidden = self.critic[:-1](x)
        return torch.cat([hidden, torch.ones_like(hidden[..., :1])], -1)


def fit_critic(agent: Agent, data: Trajectories, epochs: int = 10) -> FittedCritic:
    """Fit V by least squares on the rewards-to-go. The fit begins with the run's own critic."""
    critic = copy.deepcopy(agent.critic)
    scale = data.to_go[data.valid].std()
    x = data.x[data.valid]
    target = data.to_go[data.valid] / scale
    optimizer = Adam(critic.parameters(), 1e-3)
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - epoch / epochs)
        for indices in torch.randperm(len(target)).split(1024):
            value = critic(x[indices]).squeeze(-1)
            loss = (value - target[indices]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return FittedCritic(critic, scale)


@dataclass
class BestBaselines:
    """The baselines of least variance."""

    by_parameter: Tensor
    """b (P,): a baseline of R(τ) for each parameter"""
    by_state: Tensor
    """w (F,): w·φ(s_t) is a baseline of G_t"""


def fit_baselines(agent: Agent, data: Trajectories, features: Tensor) -> BestBaselines:
    """The baselines of least variance, from single trajectories; features (T, M, F).

    b_i = E[g_i² R] / E[g_i²], where g = ∇ log p(τ). w minimises the mean square of
    Σ_t ∇ log π_t (G_t − w·φ(s_t)), summed over the parameters: as the mean does not depend on w,
    that is the variance. It is a problem of least squares.
    """
    ones = torch.ones_like(data.to_go)
    weight = torch.cat([ones[None], data.to_go[None], features.movedim(-1, 0)])  # (2 + F, T, M)
    num_features = features.shape[-1]
    squared = 0
    squared_by_return = 0
    normal_matrix = torch.zeros(num_features, num_features, dtype=torch.double)
    right_side = torch.zeros(num_features, dtype=torch.double)
    returns = data.to_go[0]
    for trajectory_return, g in zip(returns, batch_gradients(agent, data, weight, 1)):
        score = g[0]  # (P,)
        of_to_go = g[1]  # (P,)
        of_features = g[2:]  # (F, P)
        squared += score.square()
        squared_by_return += score.square() * trajectory_return
        normal_matrix += of_features @ of_features.T
        right_side += of_features @ of_to_go
    solution = torch.linalg.lstsq(normal_matrix, right_side, driver="gelsd").solution
    return BestBaselines(squared_by_return / squared, solution.float())


# ---------------------------------------------------------------- the estimators


def batch_gradients(
    agent: Agent, data: Trajectories, weight: Tensor, size: int
) -> Iterator[Tensor]:
    """ĝ (K, P) with weights (K, T, M), of one batch of `size` trajectories after the other."""
    for start in range(0, data.x.shape[1], size):
        part = slice(start, start + size)
        valid = data.valid[:, part]
        x = data.x[:, part][valid]
        action = data.action[:, part][valid]
        batch_weight = weight[:, :, part][:, valid]
        yield gradients(agent, x, action, batch_weight) / size


def n_step_advantage(advantage: Tensor, n: int) -> Tensor:
    """r_t + … + r_{t+n−1} + V(s_{t+n}) − V(s_t) (T, M), with γ = 1.

    `advantage` (T, M) is G_t − V(s_t), the same with n = ∞.
    """
    later = torch.cat([advantage[n:], torch.zeros_like(advantage[:n])])
    return advantage - later  # [n-step]


def estimator_weights(
    data: Trajectories, batch: int, values: dict[str, Tensor], best_baseline: Tensor
) -> dict[str, Tensor]:
    """W_t (T, M) of each estimator.

    `values` (T, M) are those of each of CRITICS, `best_baseline` (T, M) is b*(s_t).
    """
    to_go = data.to_go
    mean = leave_one_out_mean(to_go, data.valid, batch)
    running = data.valid.reshape(-1, batch).sum(1, keepdim=True).clamp(min=1)
    # The share of a trajectory in the mean of all that still run, itself included.
    share = (1 / running).expand(-1, batch).reshape(to_go.shape)
    returns = to_go[0]
    mean_return = returns.reshape(-1, batch).mean(1).repeat_interleave(batch)  # of each one's batch
    weights = {
        SCORE: torch.ones_like(to_go),
        TRAJECTORY_RETURN: returns.expand_as(to_go),
        RETURN_MEAN_OF_ALL: (returns - mean_return).expand_as(to_go),
        TO_GO: to_go,
        MEAN_BASELINE: to_go - mean,
        MEAN_OF_ALL: (to_go - mean) * (1 - share),
        BEST_STATE_BASELINE: to_go - best_baseline,
    }
    for critic, value in values.items():
        for lam in (*LAMBDAS, 1.0):
            weights[lambda_name(critic, lam)] = advantage(data, value, lam)
        monte_carlo = weights[lambda_name(critic, 1)] * data.valid
        for n in N_STEPS:
            weights[n_step_name(critic, n)] = n_step_advantage(monte_carlo, n)
    return weights


@dataclass
class EstimatorMoments:
    """Variance and means of the estimators, by name."""

    variance: dict[str, float]
    """trace of the covariance of an estimate from a batch"""
    gram: dict[str, np.ndarray]
    """(B, B) inner products of the blocks' means of ĝ − ĝ_ref; of the reference, of ĝ_ref itself"""


def measure_moments(
    agent: Agent,
    blocks: Iterable[tuple[Trajectories, dict[str, Tensor]]],
    batch: int,
    by_parameter: Tensor,
) -> EstimatorMoments:
    """Variance and means, from blocks of trajectories with their weights.

    R(τ) with the baseline b of each parameter takes the score's place: its estimate is that of R(τ)
    less b times the score.
    """
    means = []
    squares = 0
    count = 0
    for data, weights in blocks:
        names = list(weights)
        score = names.index(SCORE)
        trajectory_return = names.index(TRAJECTORY_RETURN)
        total = 0
        estimates = list(batch_gradients(agent, data, torch.stack(list(weights.values())), batch))
        for g in estimates:  # (K, P)
            g[score] = g[trajectory_return] - by_parameter * g[score]
            squares = squares + g.square().sum(1).double()
            total = total + g.double()
        means.append(total / len(estimates))
        count += len(estimates)
    names[score] = BEST_PARAMETER_BASELINE
    block_means = torch.stack(means)  # (B, K, P)
    squared_means = block_means.mean(0).square().sum(-1)
    variances = (squares - count * squared_means) / (count - 1)  # (K,)
    reference = block_means[:, names.index(REFERENCE)].clone()
    variance = {}
    gram = {}
    for k, name in enumerate(names):
        difference = block_means[:, k]
        if name != REFERENCE:
            difference = difference - reference
        variance[name] = variances[k].item()
        gram[name] = (difference @ difference.T).numpy()
    return EstimatorMoments(variance, gram)


# ---------------------------------------------------------------- the test for bias


def squared_mean(gram: np.ndarray) -> float:
    """‖E[d]‖² without bias, of inner products (B, B) of independent d: the mean of unlike pairs."""
    unlike = gram.sum() - gram.trace()
    return unlike / (len(gram) * (len(gram) - 1))


def excess(gram: np.ndarray) -> float:
    """The squared norm of the mean d over what noise alone would give.

    Its expectation is 1 if E[d] = 0.
    """
    return gram.sum() / gram.trace()


def flipped_excesses(gram: np.ndarray, seed: int = 0) -> np.ndarray:
    """The excess (FLIPS,) with the signs of d at random."""
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 1.0], (FLIPS, len(gram)))
    return ((signs @ gram) * signs).sum(1) / gram.trace()


def flip_test(grams: list[np.ndarray]) -> float:
    """p of no bias at any policy, of the gram of each.

    It is how often the excess, summed over the policies, is as large with signs of d at random. The
    d are means of many estimates, so they are all but symmetric about E[d].
    """
    flipped = sum(flipped_excesses(gram, seed) for seed, gram in enumerate(grams))
    seen = sum(excess(gram) for gram in grams)
    as_large = (flipped >= seen * (1 - 1e-9)).sum()  # rounding does not count
    return (1 + as_large) / (1 + FLIPS)


# ---------------------------------------------------------------- a policy's measurement


@dataclass
class PolicyMeasurement:
    """What is known of the estimators at a policy."""

    mean_return: float
    explained: dict[str, float]
    """share of the variance of G_t that each of CRITICS explains"""
    variance: dict[str, float]
    """as in `EstimatorMoments`"""
    gram: dict[str, np.ndarray]
    """as in `EstimatorMoments`"""

    def squared_norm(self) -> float:
        """‖∇J‖²."""
        return squared_mean(self.gram[REFERENCE])


@functools.cache
def measure_policy(seed: int) -> PolicyMeasurement:
    """Half-train a policy from a seed and compare the estimators on new trajectories of it."""
    agent = half_trained(seed)
    fit = Trajectories.sample(agent, FIT, derive_seed(seed, 10))
    held_out = Trajectories.sample(agent, FIT, derive_seed(seed, 11))
    critic = fit_critic(agent, fit)
    baselines = fit_baselines(agent, fit, critic.features(fit.x))

    @torch.no_grad()
    def values(x: Tensor) -> dict[str, Tensor]:
        return {"fitted": critic.value(x), "own": critic_of_training(agent, x)}

    def blocks() -> Iterator[tuple[Trajectories, dict[str, Tensor]]]:
        for i in range(BLOCKS):
            data = Trajectories.sample(agent, BATCH * BLOCK, derive_seed(seed, 12, i))
            best_baseline = critic.features(data.x) @ baselines.by_state
            yield data, estimator_weights(data, BATCH, values(data.x), best_baseline)

    target = held_out.to_go[held_out.valid]
    explained = {}
    for name, value in values(held_out.x).items():
        left = (target - value[held_out.valid]).var()
        explained[name] = float(1 - left / target.var())
    moments = measure_moments(agent, blocks(), BATCH, baselines.by_parameter)
    return PolicyMeasurement(
        mean_return=float(held_out.to_go[0].mean()),
        explained=explained,
        variance=moments.variance,
        gram=moments.gram,
    )


def measure_policies() -> list[PolicyMeasurement]:
    return [measure_policy(seed) for seed in SEEDS]


# ---------------------------------------------------------------- what both tables show


def relative_variance(
    policies: list[PolicyMeasurement], name: str, batch: int | None = None
) -> np.ndarray:
    """Variance of an estimate from `batch` trajectories, in per cent of ‖∇J‖², (policies,).

    The batch is BATCH if none is given.
    """
    larger = 1 if batch is None else batch / BATCH
    variances = [100 * m.variance[name] / larger / m.squared_norm() for m in policies]
    return np.array(variances)


def relative_squared_bias(policies: list[PolicyMeasurement], name: str) -> np.ndarray:
    """Squared bias in per cent of ‖∇J‖², (policies,); below 0 where noise makes it so."""
    if name == REFERENCE:
        return np.zeros(len(policies))
    biases = [100 * squared_mean(m.gram[name]) / m.squared_norm() for m in policies]
    return np.array(biases)


def bias_cells(policies: list[PolicyMeasurement], name: str) -> list[str]:
    """Squared bias, and p of none."""
    if name == REFERENCE:
        return ["–", "reference"]
    squared_bias = mean_with_interval(relative_squared_bias(policies, name))
    p = flip_test([m.gram[name] for m in policies])
    return [squared_bias, "< 0.001" if p < 0.001 else f"{p:.3f}"]


def describe_setting(policies: list[PolicyMeasurement]) -> str:
    """What both claims' tables are about."""
    mean_return = mean_with_interval([m.mean_return for m in policies])
    fitted = mean_with_interval([100 * m.explained["fitted"] for m in policies])
    own = mean_with_interval([100 * m.explained["own"] for m in policies])
    return f"""\
CartPole whose episodes end after {LIMIT} steps, γ = 1; {len(policies)} policies, each trained from
its own seed until the last 100 episodes had a mean return of {HALF_WAY}, and then fixed. Theirs is
{mean_return}. An estimate is from a batch of {BATCH} trajectories, the same for all estimators;
there are {BLOCKS * BLOCK:,} batches a policy.

Variance (the trace of the estimate's covariance) and squared bias are in % of ‖∇J‖²; in brackets
are 95 % bootstrap intervals over the policies. V is least squares on {FIT:,} separate trajectories
of the policy and explains {fitted} % of the variance of Gₜ; V of training is what the run itself
had, {own} %; b*(s) is fitted to the same trajectories, for the least variance among what is linear
in V's last hidden units. *p of none*: how often signs at random make the mean differ as much from
that of Gₜ − V(sₜ) on the same trajectories, all policies together; it is for each row by itself.
"""
