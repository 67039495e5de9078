"""C2 and C3: mean and variance of estimates of one and the same policy gradient.

A policy is trained half-way and then fixed. Its trajectories are shared by all estimators, so each sees equal
environment steps, and each is a sum over a batch of N trajectories

    ĝ = (1/N) Σ_n Σ_t ∇ log π_θ(a_t|s_t) W_t

with weights W_t of its own. The task is CartPole whose episodes end after LIMIT steps, for good, and γ = 1: a Monte
Carlo estimator's expectation is then exactly ∇J. The variance is the trace of the covariance of ĝ. Both it and squared
biases are in units of the policy's ‖∇J‖², estimated without the noise's share, so that policies are comparable.

Bias is measured on paired differences: d = ĝ − ĝ_ref on the same trajectories, ĝ_ref being that of G_t − V(s_t).

Beside the lectures' estimators stand two. b*(s) is the baseline that makes this trace least among those linear in the
last hidden units of V, as V is itself: what V is to be near to. The mean that includes the trajectory itself is biased
by a known amount, towards (1 − 1/N) ĝ: a test for bias that is worth something finds it.
"""

import copy
import functools
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from torch import Tensor

from a2c import gae
from reinforce_baseline import Adam, Agent, collect_episodes, derive_seed, make_envs, mean_baseline, reward_to_go

from .. import ROOT
from . import COLOURS, errorbars, markdown, spread

SEEDS = (1, 2, 3, 4, 5)
LIMIT = 100  # steps after which an episode ends
HALF_WAY = 35  # mean return of the last 100 episodes at which training stops
BATCH = 16  # trajectories of one estimate of the gradient, N: reinforce_baseline.py's
BLOCKS = 50  # blocks of estimates, the units of the test for bias
BLOCK = 40  # estimates in each
FIT = 4000  # trajectories that V and the optimal baselines are fitted to
LAMBDAS = (0.0, 0.5, 0.9, 0.95, 0.99)  # and 1, which is G_t − V(s_t)
STEPS = (5, 20)  # n of the n-step advantages; n = 1 is λ = 0
CRITICS = {"fitted": "V fitted at the policy", "own": "V of training"}
FLIPS = 10_000
REFERENCE = "fitted λ=1"  # G_t − V(s_t)
ROWS = {  # C2's: what an estimator is called, and whether theory says that it is unbiased
    "R": ("R(τ)", True),
    "R − b*": ("R(τ) − b*, one a parameter", True),
    "G": ("Gₜ", True),
    "G − mean": ("Gₜ − mean of the others", True),
    "own λ=1": ("Gₜ − V(sₜ), V of training", True),
    REFERENCE: ("Gₜ − V(sₜ)", True),
    "G − b*(s)": ("Gₜ − b*(sₜ), the least found", True),
    "G − mean of all": ("Gₜ − mean, itself included", False),
    "fitted n=20": ("20-step advantage", False),
    "fitted n=5": ("5-step advantage", False),
    "fitted λ=0.95": ("GAE, λ = 0.95", False),
    "fitted λ=0.9": ("GAE, λ = 0.9", False),
    "fitted λ=0.5": ("GAE, λ = 0.5", False),
    "fitted λ=0": ("one-step advantage, λ = 0", False),
}
SIZES = (16, 256, 4096)  # trajectories in a batch that C3 sums squared bias and variance for

gym.register(
    "ShortCartPole-v0",
    entry_point="gymnasium.envs.classic_control.cartpole:CartPoleEnv",
    vector_entry_point="gymnasium.envs.classic_control.cartpole:CartPoleVectorEnv",
    max_episode_steps=LIMIT,
)


def half_trained(seed: int) -> Agent:
    """The agent of a run of reinforce_baseline.py that stops half-way to the largest return."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--env-id", f"{__name__}:ShortCartPole-v0", "--run-dir", folder, "--target-return", HALF_WAY]
        words += ["--gamma", 1, "--seed", seed]
        command = [sys.executable, ROOT / "reinforce_baseline.py", *map(str, words)]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        state = torch.load(Path(folder, "checkpoint.pt"), weights_only=True)["agent"]
    envs = make_envs("ShortCartPole-v0", 1)
    agent = Agent(envs.single_observation_space, envs.single_action_space)
    agent.load_state_dict(state)
    return agent


@dataclass
class Trajectories:
    """M trajectories of at most T steps, as `collect_episodes` has them."""

    x: Tensor
    """(T, M, obs_dim) normalised observations"""
    action: Tensor
    reward: Tensor
    valid: Tensor

    def __post_init__(self):
        self.to_go = reward_to_go(self.reward, 1.0)  # (T, M)
        still = torch.cat([self.valid[1:], torch.zeros_like(self.valid[:1])])
        self.last = self.valid & ~still  # (T, M) after which there is nothing to come

    @classmethod
    def sample(cls, agent: Agent, number: int, seed: int) -> "Trajectories":
        torch.manual_seed(seed)
        obs, action, reward, valid, _ = next(collect_episodes(make_envs("ShortCartPole-v0", number), agent, seed))
        return cls(agent.normalize(obs), action, reward, valid)


def gradients(agent: Agent, x: Tensor, action: Tensor, weight: Tensor) -> Tensor:
    """Σ_s ∇ log π_θ(a_s|s_s) W_s (K, P) for each of K estimators' weights (K, S), by the actor's P parameters.

    x (S, obs_dim), action (S,). The derivatives by what the linear layers give are the same for all weights but for a
    factor; a layer's gradient is the product of these and of what the layer is fed.
    """
    fed, given, hidden = [], [], x
    for layer in agent.actor:
        fed.append(hidden)
        hidden = layer(hidden)
        given.append(hidden)
    deltas = torch.autograd.grad(agent.log_prob(hidden, action)[0].sum(), given[::2])
    found = []
    for inputs, delta in zip(fed[::2], deltas):  # (S, in), (S, out)
        weighted = weight.unsqueeze(-1) * delta  # (K, S, out)
        found += [(weighted.mT @ inputs.detach()).flatten(1), weighted.sum(1)]
    return torch.cat(found, -1)


def batches(agent: Agent, data: Trajectories, weight: Tensor, size: int) -> Iterator[Tensor]:
    """ĝ (K, P) of K estimators' weights (K, T, M), from one batch of `size` trajectories after the other."""
    for start in range(0, data.x.shape[1], size):
        part = slice(start, start + size)
        x, action, valid, weights = data.x[:, part], data.action[:, part], data.valid[:, part], weight[:, :, part]
        yield gradients(agent, x[valid], action[valid], weights[:, valid]) / size


def fit_value(agent: Agent, data: Trajectories, epochs: int = 10) -> tuple[Callable, Callable]:
    """V(s) (T, M), least squares on the rewards-to-go, from the run's own critic on; and φ(s) (T, M, F).

    These are V's last hidden units and 1, so that V is linear in them. Functions of x (T, M, obs_dim).
    """
    critic, scale = copy.deepcopy(agent.critic), data.to_go[data.valid].std()
    inputs, target = data.x[data.valid], data.to_go[data.valid] / scale
    optimizer = Adam(critic.parameters(), 1e-3)
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - epoch / epochs)
        for indices in torch.randperm(len(target)).split(1024):
            loss = (critic(inputs[indices]) - target[indices]).square().mean()
            critic.zero_grad()
            loss.backward()
            optimizer.step()

    def features(x: Tensor) -> Tensor:
        hidden = critic[:-2](x)
        return torch.cat([hidden, torch.ones_like(hidden[..., :1])], -1)

    return torch.no_grad()(lambda x: critic(x) * scale), torch.no_grad()(features)


def fit_baselines(agent: Agent, data: Trajectories, features: Tensor) -> tuple[Tensor, Tensor]:
    """Two baselines of least variance: b (P,) for R(τ), one for each parameter; w (F,) of w·φ(s_t) for G_t.

    b_i* = E[g_i² R] / E[g_i²], g = ∇ log p(τ). w minimises the mean square, summed over the parameters, of
    Σ_t ∇ log π_t (G_t − w·φ(s_t)), as the mean does not depend on w: a problem of least squares. features (T, M, F).
    """
    weight = torch.cat([torch.ones_like(data.to_go)[None], data.to_go[None], features.movedim(-1, 0)])
    size = features.shape[-1]
    squared, by_return, normal, right = 0, 0, torch.zeros(size, size, dtype=torch.double), torch.zeros(size).double()
    for returns, (score, reinforce, *by_feature) in zip(data.to_go[0], batches(agent, data, weight, 1)):
        squared += score.square()
        by_return += score.square() * returns
        by_feature = torch.stack(by_feature)  # (F, P)
        normal += by_feature @ by_feature.T
        right += by_feature @ reinforce
    return by_return / squared, torch.linalg.lstsq(normal, right, driver="gelsd").solution.float()


def n_step(advantage: Tensor, n: int) -> Tensor:
    """r_t + … + r_{t+n−1} + V(s_{t+n}) − V(s_t) (T, M), of G_t − V(s_t), which is the same with n = ∞, and γ = 1."""
    return advantage - torch.cat([advantage[n:], torch.zeros_like(advantage[:n])])  # [n-step]


def weights(data: Trajectories, batch: int, values: dict[str, Tensor], best: Tensor) -> dict[str, Tensor]:
    """W_t (T, M) of each estimator; values (T, M) of the critics and the best baseline w·φ(s_t) (T, M) are given."""
    to_go, valid, last = data.to_go, data.valid, data.last
    rows = [column.reshape(-1, batch) for column in (to_go, valid)]  # a step of a batch
    mean, running = mean_baseline(*rows).view_as(to_go), rows[1].sum(1, keepdim=True).clamp(min=1)
    share = (1 / running).expand_as(rows[0]).reshape(to_go.shape)  # of each trajectory in the mean of all that run
    found = {"score": torch.ones_like(to_go), "R": to_go[:1].expand_as(to_go), "G": to_go, "G − mean": to_go - mean}
    found |= {"G − mean of all": (to_go - mean) * (1 - share), "G − b*(s)": to_go - best}
    for critic, value in values.items():
        padded, never = torch.cat([value * valid, torch.zeros_like(value[:1])]), torch.zeros_like(valid)
        for lam in (*LAMBDAS, 1.0):
            found[f"{critic} λ={lam:g}"] = gae(data.reward, padded, last, never, 1.0, lam)
        for n in STEPS:
            found[f"{critic} n={n}"] = n_step(found[f"{critic} λ=1"] * valid, n)
    return found


@dataclass
class Measured:
    """What is known of the estimators at a policy."""

    mean_return: float
    explained: dict[str, float]
    """share of the variance of G_t that each critic explains"""
    variance: dict[str, float]
    """trace of the covariance of an estimate from a batch"""
    gram: dict[str, np.ndarray]
    """(BLOCKS, BLOCKS) inner products of the blocks' means of ĝ − ĝ_ref; of the reference, of ĝ_ref itself"""

    def __post_init__(self):
        self.norm = squared_mean(self.gram[REFERENCE])  # ‖∇J‖²


def squared_mean(gram: np.ndarray) -> float:
    """‖E[d]‖² without bias, of inner products (B, B) of independent d: the mean over different ones."""
    return (gram.sum() - gram.trace()) / (len(gram) * (len(gram) - 1))


def excess(gram: np.ndarray) -> float:
    """The squared norm of the mean d over what noise alone would give: its expectation is 1 where E[d] = 0."""
    return gram.sum() / gram.trace()


def flips(gram: np.ndarray, seed: int = 0) -> np.ndarray:
    """The excess (FLIPS,) with the signs of d at random."""
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (FLIPS, len(gram)))
    return ((signs @ gram) * signs).sum(1) / gram.trace()


def flip_test(grams: list[np.ndarray]) -> float:
    """p of no bias at any policy: how often the excess, mean over policies, is as large with signs of d at random.

    The d are means of many estimates, so all but symmetric about E[d].
    """
    flipped = sum(flips(gram, seed) for seed, gram in enumerate(grams))
    return (1 + (flipped >= sum(map(excess, grams)) * (1 - 1e-9)).sum()) / (1 + FLIPS)


def moments(agent: Agent, blocks: Iterable, size: int, b: Tensor) -> tuple[dict, dict]:
    """variance and gram of Measured, from blocks of trajectories with their weights, taken in batches of `size`.

    R − b_i* takes the score's place: its estimate is R's less b times the score's.
    """
    means, squares, count = [], 0, 0
    for data, weight in blocks:
        names, total = list(weight), 0
        score, plain = names.index("score"), names.index("R")
        found = list(batches(agent, data, torch.stack(list(weight.values())), size))
        for g in found:  # (K, P)
            g[score] = g[plain] - b * g[score]
            squares, total = squares + g.square().sum(1).double(), total + g.double()
        means.append(total / len(found))
        count += len(found)
    means = torch.stack(means)  # (blocks, K, P)
    variance = (squares - count * means.mean(0).square().sum(-1)) / (count - 1)
    means[:, [k for k, name in enumerate(names) if name != REFERENCE]] -= means[:, names.index(REFERENCE), None]
    gram = torch.einsum("bkp,ckp->kbc", means, means)
    names[score] = "R − b*"
    return dict(zip(names, variance.tolist())), dict(zip(names, gram.numpy()))


@functools.cache
def measure(seed: int) -> Measured:
    """Half-train a policy from this seed, fit the baselines at it, and compare the estimators on new trajectories."""
    agent = half_trained(seed)
    fit, held_out = (Trajectories.sample(agent, FIT, derive_seed(seed, purpose)) for purpose in (10, 11))
    fitted, features = fit_value(agent, fit)
    b, w = fit_baselines(agent, fit, features(fit.x))

    @torch.no_grad()
    def values(x: Tensor) -> dict[str, Tensor]:
        return {"fitted": fitted(x), "own": agent.critic(x) * agent.return_stats.std()}

    def blocks():
        for i in range(BLOCKS):
            data = Trajectories.sample(agent, BATCH * BLOCK, derive_seed(seed, 12, i))
            yield data, weights(data, BATCH, values(data.x), features(data.x) @ w)

    target = held_out.to_go[held_out.valid]
    left = {name: (target - value[held_out.valid]).var() for name, value in values(held_out.x).items()}
    explained = {name: float(1 - variance / target.var()) for name, variance in left.items()}
    return Measured(float(held_out.to_go[0].mean()), explained, *moments(agent, blocks(), BATCH, b))


# ---------------------------------------------------------------- pictures and tables


def variance(policies: list[Measured], name: str, batch: int = BATCH) -> np.ndarray:
    """Of an estimate from `batch` trajectories, in per cent of ‖∇J‖², per policy."""
    return np.array([100 * m.variance[name] * BATCH / batch / m.norm for m in policies])


def squared_bias(policies: list[Measured], name: str) -> np.ndarray:
    """In per cent of ‖∇J‖², per policy; below 0 where noise makes it so."""
    if name == REFERENCE:
        return np.zeros(len(policies))
    return np.array([100 * squared_mean(m.gram[name]) / m.norm for m in policies])


def bias_columns(policies: list[Measured], name: str) -> list[str]:
    """Squared bias, and p of none."""
    if name == REFERENCE:
        return ["–", "reference"]
    p = flip_test([m.gram[name] for m in policies])
    return [spread(squared_bias(policies, name)), "< 0.001" if p < 0.001 else f"{p:.3f}"]


def setting(policies: list[Measured]) -> str:
    """What both claims' tables are about."""
    fitted, own = (spread([100 * m.explained[name] for m in policies]) for name in CRITICS)
    return (
        f"CartPole whose episodes end after {LIMIT} steps, γ = 1; {len(policies)} policies, each trained from its own "
        f"seed until the last 100 episodes had a mean return of {HALF_WAY}, and then fixed. Theirs is "
        f"{spread([m.mean_return for m in policies])}. An estimate is from a batch of {BATCH} trajectories, the same "
        f"for all estimators; there are {BLOCKS * BLOCK:,} batches a policy.\n\n"
        "Variance (the trace of the estimate's covariance) and squared bias are in % of ‖∇J‖²; in brackets are 95 % "
        f"bootstrap intervals over the policies. V is least squares on {FIT:,} separate trajectories of the policy and "
        f"explains {fitted} % of the variance of Gₜ; V of training is what the run itself had, {own} %; b*(s) is "
        "fitted to the same trajectories, for the least variance among what is linear in V's last hidden units. "
        "*p of none*: how often signs at random make the mean differ as much from that of Gₜ − V(sₜ) on the same "
        "trajectories, all policies together; it is for each row by itself.\n"
    )


def c2(runs: Path) -> tuple[Figure, str]:
    """Causality and baselines: the variance of each estimator, and whether its mean is the gradient."""
    policies = [measure(seed) for seed in SEEDS]
    table = [["weight Wₜ", "unbiased", "variance, %", "of R(τ)'s, %", "of b*(s)'s, ×", "squared bias, %", "p of none"]]
    figure = Figure(figsize=(9.6, 5.0), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    noise = []
    for y, (name, (label, unbiased)) in enumerate(ROWS.items()):
        values = variance(policies, name)
        shares = 100 * values / variance(policies, "R"), values / variance(policies, "G − b*(s)")
        table.append([label, "yes" if unbiased else "no", *map(spread, (values, *shares))])
        table[-1] += bias_columns(policies, name)
        colour, level = COLOURS[0 if unbiased else 1], np.full(len(policies), y)
        left.plot(values, level, "o", color=colour, markersize=4, alpha=0.4, markeredgewidth=0)
        left.errorbar(values.mean(), y, xerr=errorbars(values)[:, None], fmt="D", color=colour, markersize=5, capsize=3)
        if name == REFERENCE:
            right.text(1, y, "the reference", ha="center", va="center", fontsize=9)
            continue
        ratios = [excess(m.gram[name]) for m in policies]
        right.plot(ratios, level, "o", color=colour, markersize=5, alpha=0.6, markeredgewidth=0)
        noise += [flips(m.gram[name]) for m in policies if unbiased]
    left.set_yticks(range(len(ROWS)), [label for label, _ in ROWS.values()])
    left.invert_yaxis()
    left.set(xscale="log", xlabel=f"trace of the covariance, {BATCH} trajectories, % of ‖∇J‖²", title="variance")
    left.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    right.axvspan(0.01, np.quantile(noise, 0.95), color=COLOURS[6], alpha=0.2, linewidth=0, zorder=0)
    right.set(xscale="log", xlim=(0.03, 1.3 * BLOCKS), title="is the mean ∇J?")
    right.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    right.set_xlabel(
        "squared distance of the mean from that of Gₜ − V(sₜ),\nover what is expected without bias (grey: 95 % of that)"
    )
    return figure, f"{setting(policies)}\n{markdown(table)}\n"


def c3(runs: Path) -> tuple[Figure, str]:
    """Squared bias, variance and their sum, from the one-step advantage to the Monte Carlo one."""
    policies, lambdas = [measure(seed) for seed in SEEDS], (*LAMBDAS, 1.0)
    at = {f"λ={lam:g}": 1 / (1 - lam) for lam in LAMBDAS} | {"λ=1": 600.0} | {f"n={n}": n for n in STEPS}
    table = [["critic", "advantage", "variance", "squared bias", "p of none", *(f"sum, {n:,}" for n in SIZES)]]
    figure = Figure(figsize=(9.6, 4.4), dpi=110, layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    for ax, line, (critic, called) in zip(axes, ("-", "--"), CRITICS.items()):
        for name in (f"{critic} {advantage}" for advantage in at):
            table.append([called, name.split()[1], spread(variance(policies, name)), *bias_columns(policies, name)])
            sums = [variance(policies, name, size) + squared_bias(policies, name) for size in SIZES]
            table[-1] += [*map(spread, sums)]
        for kind, marker in (("λ", "o"), ("n", "s")):
            for of, colour, label in ((variance, COLOURS[0], "variance"), (squared_bias, COLOURS[1], "squared bias")):
                shown = [name for name in at if name[0] == kind and (name != "λ=1" or of is variance)]
                values = [of(policies, f"{critic} {name}") for name in shown]
                style = {"color": colour, "capsize": 3, "linewidth": 1.5, "markersize": 5}
                style |= {"linestyle": line} if kind == "λ" else {"linestyle": "", "markerfacecolor": "white"}
                label += "" if kind == "λ" else ", n-step"
                error = np.stack([errorbars(v) for v in values], 1)
                ax.errorbar(
                    [at[name] for name in shown], np.mean(values, 1), error, marker=marker, label=label, **style
                )
        ax.set_title(called)
        for size, colour in zip(SIZES, COLOURS[2:]):
            names = [f"{critic} λ={lam:g}" for lam in lambdas]
            sums = [(variance(policies, name, size) + squared_bias(policies, name)).mean() for name in names]
            x, least = [at[name.split()[1]] for name in names], int(np.argmin(sums))
            axes[2].plot(x, sums, line, color=colour, linewidth=1.5, label=f"{size:,}" if line == "-" else None)
            axes[2].plot(x[least], sums[least], "*", color=colour, markersize=12)
    for ax in axes:
        ax.set(xscale="log", yscale="log", xlabel="λ, drawn at 1/(1−λ); n-step at n")
        ax.set_xticks([at[f"λ={lam:g}"] for lam in lambdas], [f"{lam:g}" for lam in lambdas], fontsize=8)
        ax.minorticks_off()
    axes[0].yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes[0].set_ylabel(f"% of ‖∇J‖², variance of {BATCH} trajectories")
    axes[2].set_title("their sum, least at the star")
    axes[0].legend(fontsize=8)
    axes[2].legend(fontsize=8, title="trajectories in a batch\n(dashed: V of training)", title_fontsize=8)
    return figure, f"{setting(policies)}\n{markdown(table)}\n"
