"""C8: the pathwise gradient and the score function's, of the same soft objective at the same actor and critics.

    J(θ) = E_s E_{a~π_θ}[ f(s, a) ],  f = minᵢ Q_φᵢ(s, a) − α log π_θ(a|s)        φ and α are fixed

    pathwise        ∇ f(s, a_θ(ε)),  a_θ(ε) = tanh(μ + σ ε): sac.py's own
    score function  ∇ log π_θ(a|s) (f(s, a) − b(s)),  as E_a[∇ log π_θ(a|s)] = 0 takes care of f's own log π_θ

The variance of a gradient is the trace of its covariance: of the mean over 256 replayed states with K actions each.
"""

from pathlib import Path
from unittest import mock

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import gmean
from torch import Tensor

import sac

from . import COLOURS, errorbars, markdown, number, spread
from .training import trained

ENVIRONMENTS = "Pendulum-v1", "HalfCheetah-v4"  # of one and six actions
SEEDS = range(1, 6)
STATES = 256  # sac.py's batch
ACTIONS = 1, 4, 16  # a state, K
COMPARED = 4  # the K that the picture's ratios are of
BUDGET = 256  # actions a state that each variance is measured with: BUDGET / K gradients
PATHWISE, PLAIN, VALUE, OTHERS = "pathwise", "score function", "score function, b = V(s)", "score function, b = others"
COLOUR = dict(zip((PLAIN, VALUE, OTHERS, PATHWISE), (COLOURS[1], COLOURS[4], COLOURS[3], COLOURS[0])))


def at_fixed_action(mean: Tensor, log_std: Tensor, noise: Tensor, tanh_gaussian=sac.tanh_gaussian):
    """In place of sac.tanh_gaussian: the same action and log π_θ(a|s), through which only the score is differentiated.

    The noise is worked out from u = atanh(a), which does not follow θ, not from a, which a saturated tanh has rounded.
    """
    u = (mean + log_std.exp() * noise).detach()
    action, log_prob = tanh_gaussian(mean, log_std, (u - mean) / log_std.exp())
    return action.detach(), log_prob


def sample(agent: sac.Agent, x: Tensor) -> tuple[Tensor, Tensor]:
    """f(s, a) of sampled actions, a constant, and log π_θ(a|s) whose gradient is the score, both (..., 1)."""
    with mock.patch.object(sac, "tanh_gaussian", at_fixed_action):
        action, log_prob = agent.sample(x)
    with torch.no_grad():
        q = agent.q(x.flatten(0, -2), action.flatten(0, -2)).min(-1).values
        return q.view_as(log_prob) - agent.log_alpha.exp() * log_prob, log_prob


def gradient(agent: sac.Agent, objective: Tensor) -> Tensor:
    """∇_θ of a number, all the actor's parameters in one vector (P,)."""
    gradients = torch.autograd.grad(objective, list(agent.actor.parameters()), retain_graph=True)
    return torch.cat([g.flatten() for g in gradients])


def pathwise_gradient(agent: sac.Agent, x: Tensor, num_actions: int) -> Tensor:
    """sac.py's gradient (P,) of J at states x (B, obs_dim) with K actions each."""
    return gradient(agent, -sac.soft_actor_loss(agent, x.repeat(num_actions, 1))[0])


def estimates(agent: sac.Agent, x: Tensor, value: Tensor, num_actions: int) -> dict[str, Tensor]:
    """One estimate (P,) of ∇J by each estimator at states x (B, obs_dim), whose V(s) are `value` (B, 1).

    The score function's share their actions. The mean of the K − 1 others as a baseline needs more than one.
    """
    f, log_prob = sample(agent, x.expand(num_actions, *x.shape))  # (K, B, 1)
    weights = {PLAIN: f, VALUE: f - value}
    if num_actions > 1:
        weights[OTHERS] = f - (f.sum(0) - f) / (num_actions - 1)
    found = {name: gradient(agent, (log_prob * weight).mean()) for name, weight in weights.items()}
    return found | {PATHWISE: pathwise_gradient(agent, x, num_actions)}


def moments(agent: sac.Agent, x: Tensor, value: Tensor, num_actions: int, repeats: int) -> dict:
    """The mean (P,) of each estimator's gradients and the trace of their covariance, from `repeats` of them."""
    found = [estimates(agent, x, value, num_actions) for _ in range(repeats)]
    stacked = {name: torch.stack([one[name] for one in found]) for name in found[0]}
    return {name: (g.mean(0), g.var(0).sum().item()) for name, g in stacked.items()}


def state_variance(agent: sac.Agent, states: Tensor, repeats: int) -> float:
    """Trace of the covariance of ∇J that the sampling of states alone makes, of batches of states (M, obs_dim).

    Two gradients at the same batch have independent actions: only what the states share is left of their product.
    """
    pairs = []
    for _ in range(repeats):
        x = states[torch.randint(len(states), (STATES,))]
        pairs.append(torch.stack([pathwise_gradient(agent, x, 4) for _ in range(2)]))
    first, second = torch.stack(pairs, 1)  # (repeats, P) each
    return ((first - first.mean(0)) * (second - second.mean(0))).sum().item() / (repeats - 1)


def measure(agent: sac.Agent, states: Tensor, budget: int) -> dict:
    """Variances and tests of one seed's actor at 256 of its replayed states, normalised (M, obs_dim).

    variance[name][K] is in units of the squared length of ∇J; `share` is an estimator's mean along the pathwise one's,
    1 if they agree; `distance` the squared distance of their means over what their variances make of it, likewise.
    """
    x = states[torch.randint(len(states), (STATES,))]
    with torch.no_grad():
        value = sample(agent, x.expand(256, *x.shape))[0].mean(0)
    by_actions = {k: moments(agent, x, value, k, budget // k) for k in ACTIONS}
    means, variance, error = {}, {}, {}
    for name in COLOUR:
        found = {k: by_name[name] for k, by_name in by_actions.items() if name in by_name}
        means[name] = torch.stack([mean for mean, _ in found.values()]).mean(0)
        error[name] = sum(trace * k / budget for k, (_, trace) in found.items()) / len(found) ** 2
        variance[name] = {k: trace for k, (_, trace) in found.items()}
    square = means[PATHWISE].square().sum().item() - error[PATHWISE]
    return {
        "variance": {name: {k: trace / square for k, trace in by_k.items()} for name, by_k in variance.items()},
        "states": state_variance(agent, states, budget // 4) / square,
        "share": {name: (mean @ means[PATHWISE]).item() / square for name, mean in means.items()},
        "distance": {
            name: (mean - means[PATHWISE]).square().sum().item() / (error[name] + error[PATHWISE])
            for name, mean in means.items()
        },
    }


def train(env_id: str, seed: int, steps: int, learning_starts: int) -> tuple[sac.Agent, Tensor]:
    """An actor and its critics after a short training, and the states they have seen, normalised (M, obs_dim)."""
    with trained(sac, env_id=env_id, seed=seed, total_timesteps=steps, learning_starts=learning_starts) as folder:
        checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    envs = sac.make_envs(env_id, 1)
    agent = sac.Agent(envs.single_observation_space, envs.single_action_space)
    agent.load_state_dict(checkpoint["agent"])
    return agent, agent.normalize(checkpoint["buffer"]["rows"][:, : len(agent.obs_mean)])


def draw_variances(ax, seeds: list[dict]) -> None:
    """Each estimator's variance over K."""
    for name, colour in COLOUR.items():
        values = {k: [seed["variance"][name][k] for seed in seeds] for k in seeds[0]["variance"][name]}
        bars = np.stack([errorbars(sample, gmean) for sample in values.values()], 1)
        style = {"color": colour, "marker": "s" if name == PATHWISE else "o", "markersize": 4, "capsize": 3}
        ax.errorbar(list(values), [gmean(sample) for sample in values.values()], bars, label=name, **style)
    states = np.mean([seed["states"] for seed in seeds])
    ax.axhline(states, color=COLOURS[6], linestyle="--", label=f"draw of the {STATES} states alone")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xticks(ACTIONS, ACTIONS)
    ax.set_xticks([], minor=True)
    ax.set_xlabel("actions sampled in each state")


def ratios(seeds: list[dict], name: str, num_actions: int) -> list[float]:
    """Each seed's variance of an estimator over the pathwise one's, with as many actions."""
    return [seed["variance"][name][num_actions] / seed["variance"][PATHWISE][num_actions] for seed in seeds]


def draw_ratios(ax, results: dict[str, list[dict]]) -> None:
    """How many times the pathwise gradient's variance each of the score function's is: seeds, and their mean."""
    names = [name for name in COLOUR if name != PATHWISE]
    for offset, marker, (env_id, seeds) in zip((-0.15, 0.15), "oD", results.items()):
        for at, name in enumerate(names):
            values, style = ratios(seeds, name, COMPARED), {"color": COLOUR[name], "marker": marker}
            ax.scatter([at + offset] * len(values), values, s=12, alpha=0.4, linewidths=0, **style)
            ax.errorbar(at + offset, gmean(values), errorbars(values, gmean)[:, None], capsize=3, **style)
            text = f"{env_id.split('-')[0]}\n× {number(gmean(values))}"
            below = gmean(values) <= min(gmean(ratios(other, name, COMPARED)) for other in results.values())
            place = {"ha": "center", "va": "top" if below else "bottom", "fontsize": 8}
            ax.text(at + offset, min(values) / 1.7 if below else max(values) * 1.7, text, **place)
    ax.axhline(1, color=COLOUR[PATHWISE])
    ax.set_yscale("log")
    ax.set_xticks(range(len(names)), ["no baseline", "b = V(s)", "b = others"])
    ax.set_xlim(-0.6, len(names) - 0.4)
    ax.set_ylim(0.1, ax.get_ylim()[1] * 5)
    ax.set_title(f"score function / pathwise, {COMPARED} actions", fontsize=10)


def tables(results: dict[str, list[dict]]) -> str:
    """Variances, ratios, and whether the means agree: means over the seeds with their 95 % intervals."""
    columns = [f"{k} action{'s' * (k > 1)}" for k in ACTIONS]
    variances, over, means = [[["environment", "gradient", *columns]] for _ in range(3)]
    means[0][2:] = ["share of the pathwise mean", "squared distance / expected"]
    for env_id, seeds in results.items():
        for name in COLOUR:
            ks = [k for k in ACTIONS if k in seeds[0]["variance"][name]]
            missing = ["–"] * (len(ACTIONS) - len(ks))
            variances.append([env_id, name, *missing])
            variances[-1] += [spread([seed["variance"][name][k] for seed in seeds], gmean) for k in ks]
            if name != PATHWISE:
                over.append([env_id, name, *missing, *(spread(ratios(seeds, name, k), gmean) for k in ks)])
                means.append(
                    [env_id, name, *(spread([seed[key][name] for seed in seeds]) for key in ("share", "distance"))]
                )
        states = spread([seed["states"] for seed in seeds])
        variances.append([env_id, f"draw of the {STATES} states alone", *[states] * len(ACTIONS)])
    kind = f"{len(SEEDS)} seeds, geometric mean (95 % bootstrap interval)"
    return "\n\n".join(
        [
            f"Variance of the gradient over its squared length, {STATES} states, {kind}",
            markdown(variances),
            f"The same over the pathwise gradient's, {kind}",
            markdown(over),
            "Do the means agree? Both columns are 1 if they do: the mean gradient along the pathwise one's, over its "
            "length; the squared distance of the two means over what their variances make of it. Mean (95 % interval)",
            markdown(means) + "\n",
        ]
    )


def c8(runs: Path, steps: int = 3000, learning_starts: int = 1000, budget: int = BUDGET) -> tuple[Figure, str]:
    """Needs no runs: trains its own actors and critics, for `steps` environment steps."""
    results = {env_id: [] for env_id in ENVIRONMENTS}
    for env_id in ENVIRONMENTS:
        for seed in SEEDS:
            agent, states = train(env_id, seed, steps, learning_starts)
            torch.manual_seed(seed)
            results[env_id].append(measure(agent, states, budget))

    figure = Figure(figsize=(9.6, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots(1, 3)
    for ax, (env_id, seeds) in zip(axes, results.items()):
        draw_variances(ax, seeds)
        actions = sac.make_envs(env_id, 1).single_action_space.shape[0]
        ax.set_title(f"{env_id}: a of {actions} dimension{'s' * (actions > 1)}", fontsize=10)
    ends = np.array([ax.get_ylim() for ax in axes[:2]])
    for ax in axes[:2]:
        ax.set_ylim(ends.min(), ends.max())
    axes[0].set_ylabel("variance of the gradient / its squared length")
    draw_ratios(axes[2], results)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure, tables(results)
