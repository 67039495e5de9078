"""C8: the pathwise gradient against the score function's, of the same soft objective.

    J(θ) = E_s E_{a~π_θ}[ f(s, a) ],  f = minᵢ Q_φᵢ(s, a) − α log π_θ(a|s)        φ and α are fixed

    pathwise        ∇ f(s, a_θ(ε)),  a_θ(ε) = tanh(μ + σ ε): sac.py's own
    score function  ∇ log π_θ(a|s) (f(s, a) − b(s))

The score function needs no term for the log π_θ that is part of f, as E_a[∇ log π_θ(a|s)] = 0.

Actor and critics are the same for all. The variance of a gradient is the trace of its covariance:
of the mean over 256 replayed states with K actions each.

Shapes: B states, K actions a state, P parameters of the actor, M replayed states.
"""

from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import gmean
from torch import Tensor

import sac

from ..tables import format_number, markdown_table
from .common import (
    BLUE,
    GREY,
    ORANGE,
    PINK,
    VERMILION,
    error_bars,
    mean_with_interval,
    short_training,
    stack_error_bars,
    with_interval,
)

ENVIRONMENTS = ("Pendulum-v1", "HalfCheetah-v4")  # of one and of six actions
SEEDS = range(1, 6)
STATES = 256  # sac.py's batch
ACTIONS = (1, 4, 16)  # in each state, K
COMPARED = 4  # the K that the picture's ratios are of
ACTION_BUDGET = 256  # actions in each state for a variance: ACTION_BUDGET / K gradients

PLAIN = "score function"
VALUE = "score function, b = V(s)"
OTHERS = "score function, b = others"
PATHWISE = "pathwise"
ESTIMATOR_COLOURS = {PLAIN: VERMILION, VALUE: ORANGE, OTHERS: PINK, PATHWISE: BLUE}
SHORT_NAMES = {PLAIN: "no baseline", VALUE: "b = V(s)", OTHERS: "b = others"}


# ---------------------------------------------------------------- what is used of sac.py


@dataclass
class Learner:
    """What J is of: an actor, its critics, and α."""

    agent: sac.Agent
    alpha: Tensor


def train(env_id: str, seed: int, steps: int, learning_starts: int) -> tuple[Learner, Tensor]:
    """A learner after a short training, and the states that it has seen.

    The states are normalised observations (M, obs_dim).
    """
    flags = {
        "env_id": env_id,
        "seed": seed,
        "total_timesteps": steps,
        "learning_starts": learning_starts,
    }
    with short_training(sac, **flags) as folder:
        checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    envs = sac.make_envs(env_id, 1)
    agent = sac.Agent(envs.single_observation_space, envs.single_action_space)
    agent.load_state_dict(checkpoint["agent"])
    alpha = checkpoint["temperature"]["log_alpha"].exp()
    states = agent.normalize(checkpoint["buffer"]["obs"])
    return Learner(agent, alpha), states


def num_action_dimensions(env_id: str) -> int:
    return sac.make_envs(env_id, 1).single_action_space.shape[0]


def at_fixed_action(mean: Tensor, log_std: Tensor, noise: Tensor, tanh_gaussian=sac.tanh_gaussian):
    """In place of sac.tanh_gaussian: the same action and log π_θ(a|s), but the action is fixed.

    So the gradient of log π_θ(a|s) is the score. The noise is worked out from u = atanh(a), which
    is detached from θ. It is not worked out from a, which a saturated tanh has rounded.
    """
    std = log_std.exp()
    u = (mean + std * noise).detach()
    action, log_prob = tanh_gaussian(mean, log_std, (u - mean) / std)
    return action.detach(), log_prob


def soft_value(learner: Learner, x: Tensor, action: Tensor, log_prob: Tensor) -> Tensor:
    """f(s, a) (...) of x (..., obs_dim) and actions (..., act_dim)."""
    q1 = learner.agent.q1(x, action)
    q2 = learner.agent.q2(x, action)
    return sac.soft_value(q1, q2, learner.alpha, log_prob)


def sample(learner: Learner, x: Tensor) -> tuple[Tensor, Tensor]:
    """f(s, a) of sampled actions, a constant; and log π_θ(a|s), whose gradient is the score.

    x is (..., obs_dim), both results are (...).
    """
    with mock.patch.object(sac, "tanh_gaussian", at_fixed_action):
        action, log_prob = learner.agent.sample(x)
    with torch.no_grad():
        f = soft_value(learner, x, action, log_prob)
    return f, log_prob


def gradient(learner: Learner, objective: Tensor) -> Tensor:
    """∇_θ of a number, all the actor's parameters in one vector (P,)."""
    parameters = list(learner.agent.actor.parameters())
    gradients = torch.autograd.grad(objective, parameters, retain_graph=True)
    return torch.cat([g.flatten() for g in gradients])


def pathwise_gradient(learner: Learner, x: Tensor, num_actions: int) -> Tensor:
    """sac.py's gradient (P,) of J at states x (B, obs_dim) with K actions each."""
    repeated = x.repeat(num_actions, 1)
    action, log_prob = learner.agent.sample(repeated)
    return gradient(learner, soft_value(learner, repeated, action, log_prob).mean())


# ---------------------------------------------------------------- measurements


def estimates(learner: Learner, x: Tensor, value: Tensor, num_actions: int) -> dict[str, Tensor]:
    """One estimate (P,) of ∇J by each estimator at states x (B, obs_dim).

    `value` (B,) is V(s). The score function's estimates share their actions. The mean of the
    K − 1 others as a baseline needs K > 1.
    """
    f, log_prob = sample(learner, x.expand(num_actions, *x.shape))  # (K, B)
    weights = {PLAIN: f, VALUE: f - value}
    if num_actions > 1:
        others = (f.sum(0) - f) / (num_actions - 1)
        weights[OTHERS] = f - others
    found = {}
    for name, weight in weights.items():
        found[name] = gradient(learner, (log_prob * weight).mean())
    found[PATHWISE] = pathwise_gradient(learner, x, num_actions)
    return found


@dataclass
class GradientMoments:
    """Of an estimator's gradients."""

    mean: Tensor
    """(P,)"""
    trace: float
    """of their covariance"""


def moments(
    learner: Learner, x: Tensor, value: Tensor, num_actions: int, repeats: int
) -> dict[str, GradientMoments]:
    """The moments of each estimator, from `repeats` estimates; see `estimates`."""
    found = [estimates(learner, x, value, num_actions) for _ in range(repeats)]
    by_name = {}
    for name in found[0]:
        g = torch.stack([one[name] for one in found])  # (repeats, P)
        by_name[name] = GradientMoments(g.mean(0), g.var(0).sum().item())
    return by_name


def state_variance(learner: Learner, states: Tensor, repeats: int) -> float:
    """The variance of ∇J that the draw of the states alone makes, of states (M, obs_dim).

    Two gradients at the same batch have independent actions. So only what the states share is left
    of their product.
    """
    first = []
    second = []
    for _ in range(repeats):
        x = states[torch.randint(len(states), (STATES,))]
        first.append(pathwise_gradient(learner, x, 4))
        second.append(pathwise_gradient(learner, x, 4))
    first_g = torch.stack(first)  # (repeats, P)
    second_g = torch.stack(second)
    products = (first_g - first_g.mean(0)) * (second_g - second_g.mean(0))
    return products.sum().item() / (repeats - 1)


@dataclass
class Measurement:
    """Variances and tests of one seed's actor; variances are in units of ‖∇J‖²."""

    variance: dict[str, dict[int, float]]
    """by estimator and K"""
    states: float
    """the variance that the draw of the states alone makes"""
    share: dict[str, float]
    """each estimator's mean along the pathwise one's, over its length: 1 if they agree"""
    distance: dict[str, float]
    """squared distance of its mean from the pathwise one's, over what is expected if they agree"""


def measure(learner: Learner, states: Tensor, budget: int) -> Measurement:
    """Variances and tests of a learner at 256 of its replayed states (M, obs_dim), normalised."""
    x = states[torch.randint(len(states), (STATES,))]
    with torch.no_grad():
        f, _ = sample(learner, x.expand(256, *x.shape))
        value = f.mean(0)
    by_actions = {k: moments(learner, x, value, k, budget // k) for k in ACTIONS}

    means = {}
    traces = {}
    errors = {}  # the variance of each mean
    for name in ESTIMATOR_COLOURS:
        found = {k: by_name[name] for k, by_name in by_actions.items() if name in by_name}
        means[name] = torch.stack([m.mean for m in found.values()]).mean(0)
        traces[name] = {k: m.trace for k, m in found.items()}
        error = sum(trace * k / budget for k, trace in traces[name].items())
        errors[name] = error / len(found) ** 2
    pathwise = means[PATHWISE]
    squared_norm = pathwise.square().sum().item() - errors[PATHWISE]

    variance = {}
    share = {}
    distance = {}
    for name, mean in means.items():
        variance[name] = {k: trace / squared_norm for k, trace in traces[name].items()}
        share[name] = (mean @ pathwise).item() / squared_norm
        squared_distance = (mean - pathwise).square().sum().item()
        distance[name] = squared_distance / (errors[name] + errors[PATHWISE])
    states_alone = state_variance(learner, states, budget // 4) / squared_norm
    return Measurement(variance, states_alone, share, distance)


def ratios(seeds: list[Measurement], name: str, num_actions: int) -> list[float]:
    """Each seed's variance of an estimator over the pathwise one's, with as many actions."""
    found = []
    for seed in seeds:
        found.append(seed.variance[name][num_actions] / seed.variance[PATHWISE][num_actions])
    return found


# ---------------------------------------------------------------- the picture


def draw_variances(ax, env_id: str, seeds: list[Measurement]) -> None:
    """Each estimator's variance over K."""
    for name, colour in ESTIMATOR_COLOURS.items():
        actions = list(seeds[0].variance[name])
        samples = [[seed.variance[name][k] for seed in seeds] for k in actions]
        ax.errorbar(
            actions,
            [gmean(sample) for sample in samples],
            stack_error_bars(samples, gmean),
            label=name,
            color=colour,
            marker="s" if name == PATHWISE else "o",
            markersize=4,
            capsize=3,
        )
    states = np.mean([seed.states for seed in seeds])
    label = f"draw of the {STATES} states alone"
    ax.axhline(states, color=GREY, linestyle="--", label=label)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xticks(ACTIONS, ACTIONS)
    ax.set_xticks([], minor=True)
    ax.set_xlabel("actions sampled in each state")
    dimensions = num_action_dimensions(env_id)
    plural = "s" if dimensions > 1 else ""
    ax.set_title(f"{env_id}: a of {dimensions} dimension{plural}", fontsize=10)


def draw_ratios(ax, results: dict[str, list[Measurement]]) -> None:
    """How many times the pathwise gradient's variance each of the score function's is."""
    for offset, marker, (env_id, seeds) in zip((-0.15, 0.15), "oD", results.items()):
        for position, name in enumerate(SHORT_NAMES):
            x = position + offset
            values = ratios(seeds, name, COMPARED)
            mean = gmean(values)
            style = {"color": ESTIMATOR_COLOURS[name], "marker": marker}
            ax.scatter([x] * len(values), values, s=12, alpha=0.4, linewidths=0, **style)
            bars = error_bars(values, gmean)[:, None]
            ax.errorbar(x, mean, bars, capsize=3, **style)
            # The smaller of the environments' means is named below its seeds, the other above.
            means = [gmean(ratios(other, name, COMPARED)) for other in results.values()]
            if mean <= min(means):
                y = min(values) / 1.7
                alignment = "top"
            else:
                y = max(values) * 1.7
                alignment = "bottom"
            text = f"{env_id.split('-')[0]}\n× {format_number(mean)}"
            ax.text(x, y, text, ha="center", va=alignment, fontsize=8)
    ax.axhline(1, color=ESTIMATOR_COLOURS[PATHWISE])
    ax.set_yscale("log")
    ax.set_xticks(range(len(SHORT_NAMES)), SHORT_NAMES.values())
    ax.set_xlim(-0.6, len(SHORT_NAMES) - 0.4)
    ax.set_ylim(0.1, ax.get_ylim()[1] * 5)
    ax.set_title(f"score function / pathwise, {COMPARED} actions", fontsize=10)


def draw(results: dict[str, list[Measurement]]) -> Figure:
    """The variances of each environment, and their ratios."""
    figure = Figure(figsize=(9.6, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots(1, 3)
    for ax, (env_id, seeds) in zip(axes, results.items()):
        draw_variances(ax, env_id, seeds)
    limits = np.array([ax.get_ylim() for ax in axes[:2]])
    for ax in axes[:2]:
        ax.set_ylim(limits.min(), limits.max())
    axes[0].set_ylabel("variance of the gradient / its squared length")
    draw_ratios(axes[2], results)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


# ---------------------------------------------------------------- tables


def variances_table(results: dict[str, list[Measurement]]) -> list[list[str]]:
    """Each estimator's variance, and that of the draw of the states."""
    rows = [["environment", "gradient", *action_columns()]]
    for env_id, seeds in results.items():
        for name in ESTIMATOR_COLOURS:
            row = [env_id, name]
            for k in ACTIONS:
                if k in seeds[0].variance[name]:
                    values = [seed.variance[name][k] for seed in seeds]
                    row.append(with_interval(gmean, values))
                else:
                    row.append("–")
            rows.append(row)
        states = mean_with_interval([seed.states for seed in seeds])
        rows.append([env_id, f"draw of the {STATES} states alone", *[states] * len(ACTIONS)])
    return rows


def ratios_table(results: dict[str, list[Measurement]]) -> list[list[str]]:
    """The score function's variances over the pathwise gradient's."""
    rows = [["environment", "gradient", *action_columns()]]
    for env_id, seeds in results.items():
        for name in SHORT_NAMES:
            row = [env_id, name]
            for k in ACTIONS:
                if k in seeds[0].variance[name]:
                    row.append(with_interval(gmean, ratios(seeds, name, k)))
                else:
                    row.append("–")
            rows.append(row)
    return rows


def means_table(results: dict[str, list[Measurement]]) -> list[list[str]]:
    """Whether the score function's means are the pathwise gradient's."""
    head = ["environment", "gradient", "share of the pathwise mean"]
    rows = [[*head, "squared distance / expected"]]
    for env_id, seeds in results.items():
        for name in SHORT_NAMES:
            share = mean_with_interval([seed.share[name] for seed in seeds])
            distance = mean_with_interval([seed.distance[name] for seed in seeds])
            rows.append([env_id, name, share, distance])
    return rows


def action_columns() -> list[str]:
    return ["1 action" if k == 1 else f"{k} actions" for k in ACTIONS]


def tables(results: dict[str, list[Measurement]]) -> str:
    kind = f"{len(SEEDS)} seeds, geometric mean (95 % bootstrap interval)"
    return f"""\
Variance of the gradient over its squared length, {STATES} states, {kind}

{markdown_table(variances_table(results))}

The same over the pathwise gradient's, {kind}

{markdown_table(ratios_table(results))}

Do the means agree? Both columns are 1 if they do: the mean gradient along the pathwise one's, over
its length; the squared distance of the two means over what their variances make of it. Mean (95 %
interval)

{markdown_table(means_table(results))}
"""


def study(
    runs: Path, steps: int = 3000, learning_starts: int = 1000, budget: int = ACTION_BUDGET
) -> tuple[Figure, str]:
    """Needs no runs: trains its own actors and critics, for `steps` environment steps."""
    results = {env_id: [] for env_id in ENVIRONMENTS}
    for env_id in ENVIRONMENTS:
        for seed in SEEDS:
            learner, states = train(env_id, seed, steps, learning_starts)
            torch.manual_seed(seed)
            results[env_id].append(measure(learner, states, budget))
    return draw(results), tables(results)
