"""C11: L3's theory on small Markov decision processes, exactly: the lemma, the bound, the ratios.

Nothing is sampled. A process has STATES states and ACTIONS actions; all expectations are sums.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..tables import markdown_table
from .common import BLUE, GREEN, ORANGE, VERMILION, stack_error_bars, with_interval

STATES = 8
ACTIONS = 3
PROCESSES = range(101, 111)  # seeds of the processes and their policies
DISCOUNTS = (0.5, 0.9, 0.99, 0.999)
DISTANCES = (1e-4, 1e-3, 1e-2, 1e-1)  # E_s[KL(π' ‖ π)], in nats
HORIZONS = (1, 10, 100, 1000)


@dataclass
class Process:
    """A Markov decision process whose episodes go on for ever."""

    start: np.ndarray  # (S,) distribution of the first state
    transition: np.ndarray  # (S, A, S) distribution of the next state
    reward: np.ndarray  # (S, A)


def random_process(seed: int) -> tuple[Process, np.ndarray, np.ndarray]:
    """A process, log π (S, A) of a policy, and a direction (S, A) in which to change it."""
    rng = np.random.default_rng(seed)
    start = rng.dirichlet(np.ones(STATES))
    transition = rng.dirichlet(np.full(STATES, 0.3), size=(STATES, ACTIONS))
    reward = rng.uniform(size=(STATES, ACTIONS))
    log_pi = log_softmax(rng.normal(size=(STATES, ACTIONS)))
    return Process(start, transition, reward), log_pi, rng.normal(size=(STATES, ACTIONS))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


# ---------------------------------------------------------------- exact quantities


def state_transition(process: Process, pi: np.ndarray) -> np.ndarray:
    """P(s'|s) under a policy, (S, S)."""
    return np.einsum("sa,sat->st", pi, process.transition)


def values(process: Process, pi: np.ndarray, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """V^π (S,) and A^π (S, A)."""
    mean_reward = (pi * process.reward).sum(-1)
    v = np.linalg.solve(np.eye(STATES) - gamma * state_transition(process, pi), mean_reward)
    q = process.reward + gamma * process.transition @ v
    return v, q - v[:, None]


def objective(process: Process, pi: np.ndarray, gamma: float) -> float:
    """J(π) = E[ Σ_t γ^t r_t ]."""
    v, _ = values(process, pi, gamma)
    return process.start @ v


def discounted_states(process: Process, pi: np.ndarray, gamma: float) -> np.ndarray:
    """d^π(s) = (1 − γ) Σ_t γ^t P(s_t = s), (S,)."""
    matrix = np.eye(STATES) - gamma * state_transition(process, pi).T
    return (1 - gamma) * np.linalg.solve(matrix, process.start)


def expected_advantage(process: Process, pi, new_pi, states, gamma: float) -> float:
    """E_{s ~ states, a ~ π'}[ A^π(s, a) ] / (1 − γ).

    With d^{π'} for `states` that is the performance difference lemma's right side, with d^π it is
    L_π(π').
    """
    _, advantage = values(process, pi, gamma)
    return states @ (new_pi * advantage).sum(-1) / (1 - gamma)


def mean_kl(process: Process, log_pi, new_log_pi, gamma: float) -> float:
    """E_{s ~ d^π}[ KL(π' ‖ π)[s] ], in nats."""
    kl = (np.exp(new_log_pi) * (new_log_pi - log_pi)).sum(-1)
    return discounted_states(process, np.exp(log_pi), gamma) @ kl


def bound_constant(process: Process, pi, new_pi, gamma: float) -> float:
    """C = √2 γ ε / (1 − γ)², ε = max_s |E_{a ~ π'}[A^π(s, a)]|; Achiam et al. 2017, corollary 3."""
    _, advantage = values(process, pi, gamma)
    epsilon = np.abs((new_pi * advantage).sum(-1)).max()
    return 2**0.5 * gamma * epsilon / (1 - gamma) ** 2


def at_distance(process: Process, log_pi, direction, distance: float, gamma: float) -> np.ndarray:
    """log π' (S, A) along a direction of the logits, at this mean KL; by bisection."""
    low, high = 0.0, 1.0
    while mean_kl(process, log_pi, log_softmax(log_pi + high * direction), gamma) < distance:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        new_log_pi = log_softmax(log_pi + middle * direction)
        if mean_kl(process, log_pi, new_log_pi, gamma) < distance:
            low = middle
        else:
            high = middle
    return log_softmax(log_pi + high * direction)


def ratio_variances(process: Process, log_pi, new_log_pi, horizon: int) -> tuple[float, float]:
    """Variance of ρ_T alone and of ρ_1 ⋯ ρ_T, where ρ_t = π'(a_t|s_t) / π(a_t|s_t), under π.

    The second moment of the product is carried from state to state.
    """
    pi = np.exp(log_pi)
    square = np.exp(2 * (new_log_pi - log_pi))
    probability = process.start  # of the state
    moment = process.start  # E[ (ρ_1 ⋯ ρ_t)² 1(s) ]
    for _ in range(horizon - 1):
        moment = np.einsum("s,sa,sat->t", moment, pi * square, process.transition)
        probability = np.einsum("s,sa,sat->t", probability, pi, process.transition)
    of_the_step = probability @ (pi * square).sum(-1) - 1
    of_the_product = moment @ (pi * square).sum(-1) - 1
    return of_the_step, of_the_product


# ---------------------------------------------------------------- the study


@dataclass
class Row:
    """What is measured at one γ and one distance; arrays (processes,)."""

    gamma: float
    distance: float
    lemma_error: np.ndarray  # |both sides' difference| / |J(π') − J(π)|
    error: np.ndarray  # |J(π') − J(π) − L_π(π')| / |J(π') − J(π)|
    looseness: np.ndarray  # the bound over the error that it bounds
    constant: np.ndarray  # C
    guaranteed: np.ndarray  # whether L_π(π') − C √KL > 0, for π' along the advantages


def measure(gamma: float, distance: float) -> Row:
    found = {name: [] for name in ("lemma", "error", "looseness", "constant", "guaranteed")}
    for seed in PROCESSES:
        process, log_pi, direction = random_process(seed)
        pi = np.exp(log_pi)
        new_pi = np.exp(at_distance(process, log_pi, direction, distance, gamma))
        difference = objective(process, new_pi, gamma) - objective(process, pi, gamma)
        new_states = discounted_states(process, new_pi, gamma)
        lemma = expected_advantage(process, pi, new_pi, new_states, gamma)
        states = discounted_states(process, pi, gamma)
        surrogate = expected_advantage(process, pi, new_pi, states, gamma)
        constant = bound_constant(process, pi, new_pi, gamma)
        error = abs(difference - surrogate)
        found["lemma"].append(abs(lemma - difference) / abs(difference))
        found["error"].append(error / abs(difference))
        found["looseness"].append(constant * distance**0.5 / error)
        found["constant"].append(constant)

        # A step as an algorithm would take it: towards the actions of positive advantage.
        _, advantage = values(process, pi, gamma)
        better = np.exp(at_distance(process, log_pi, advantage, distance, gamma))
        gain = expected_advantage(process, pi, better, states, gamma)
        penalty = bound_constant(process, pi, better, gamma) * distance**0.5
        found["guaranteed"].append(gain - penalty > 0)
    columns = [np.array(column) for column in found.values()]
    return Row(gamma, distance, *columns)


def bound_table(rows: list[Row]) -> list[list[str]]:
    """A row for each γ and distance."""
    table = [["γ", "E[KL]", "lemma's error", "L's error", "bound / error", "C", "steps guaranteed"]]
    for row in rows:
        guaranteed = f"{row.guaranteed.sum()} of {len(row.guaranteed)}"
        cells = [f"{row.gamma:g}", f"{row.distance:g}", f"{row.lemma_error.max():.0e}"]
        cells.append(with_interval(np.median, 100 * row.error) + " %")
        cells.append(with_interval(np.median, row.looseness))
        table.append([*cells, with_interval(np.median, row.constant), guaranteed])
    return table


def variances(distance: float, horizon: int) -> np.ndarray:
    """The two variances of each process, (2, processes); the distance is that with γ = 0.99."""
    found = []
    for seed in PROCESSES:
        process, log_pi, direction = random_process(seed)
        new_log_pi = at_distance(process, log_pi, direction, distance, 0.99)
        found.append(ratio_variances(process, log_pi, new_log_pi, horizon))
    return np.array(found).T


def ratio_table() -> list[list[str]]:
    """A row for each distance and horizon, with the medians of the processes."""
    table = [["E[KL]", "steps", "variance of one ratio", "variance of their product"]]
    for distance in DISTANCES:
        for horizon in HORIZONS:
            one, product = np.median(variances(distance, horizon), axis=1)
            table.append([f"{distance:g}", f"{horizon:,}", f"{one:.2g}", f"{product:.2g}"])
    return table


def draw(rows: list[Row]) -> Figure:
    figure = Figure(figsize=(9.6, 3.6), dpi=110, layout="constrained")
    errors, constants, ratios = figure.subplots(1, 3)
    colours = dict(zip(DISCOUNTS, (BLUE, GREEN, ORANGE, VERMILION)))
    style = {"marker": "o", "markersize": 4, "capsize": 3}
    for gamma, colour in colours.items():
        of_gamma = [row for row in rows if row.gamma == gamma]
        looseness = [row.looseness for row in of_gamma]
        bars = stack_error_bars(looseness, np.median)
        medians = np.median(looseness, 1)
        errors.errorbar(DISTANCES, medians, bars, color=colour, label=f"γ = {gamma:g}", **style)
    errors.set_title("the bound over the error")
    errors.set_xlabel("E[KL(π' ‖ π)], nats")
    errors.set_ylim(10, 1e7)
    errors.legend(fontsize=8, loc="upper left", ncols=2)

    of_distance = [row for row in rows if row.distance == 0.01]
    horizon = [1 / (1 - row.gamma) for row in of_distance]
    bars = stack_error_bars([row.constant for row in of_distance], np.median)
    medians = [np.median(row.constant) for row in of_distance]
    constants.errorbar(horizon, medians, bars, color=VERMILION, label="C", **style)
    constants.set_title("C, where E[KL] = 0.01")
    constants.set_xlabel("1/(1−γ)")

    steps = np.unique(np.geomspace(1, 1000, 25).astype(int))
    for distance, colour in zip(DISTANCES, (BLUE, GREEN, ORANGE, VERMILION)):
        both = np.array([np.median(variances(distance, int(t)), axis=1) for t in steps])
        ratios.plot(steps, both[:, 1], color=colour, label=f"KL {distance:g}")
        ratios.plot(steps, both[:, 0], "--", color=colour)
    ratios.set_ylim(1e-5, 1e12)
    ratios.set_title("variance of ρ₁⋯ρ_T")
    ratios.set_xlabel("T (dashed: of ρ_T alone)")
    ratios.legend(fontsize=8)
    for ax in (errors, constants, ratios):
        ax.set_xscale("log")
        ax.set_yscale("log")
    return figure


def study(runs: Path) -> tuple[Figure, str]:
    """Needs no runs."""
    rows = [measure(gamma, distance) for gamma in DISCOUNTS for distance in DISTANCES]
    setting = f"Medians of {len(PROCESSES)} random processes of {STATES} states, {ACTIONS} actions."
    bound = markdown_table(bound_table(rows))
    ratios = markdown_table(ratio_table())
    return draw(rows), f"{setting}\n\n{bound}\n\nImportance ratios.\n\n{ratios}\n"
