"""C8b, the discrete half of C8: score function, Gumbel-softmax and straight-through, exactly.

    J(θ) = E_a[ f(a) ],  a ∈ {0, 1},  P(a = 1) = p = 1 / (1 + e^−θ),  f(a) = (a − T)²

    score function    ∇ log π_θ(a) (f(a) − b)
    Gumbel-softmax    ∇ f(y),  y = softmax((log p_i + g_i) / τ), g_i ~ Gumbel(0, 1)
    straight-through  f'(a) ∇y,  a = the larger y rounded to 1

Of two actions only the difference of the two Gumbels counts, and that is logistic: so every mean
and variance is an integral over one number, computed on a grid of its quantiles.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..tables import markdown_table
from .common import BLUE, GREY, ORANGE, VERMILION

T = 0.45  # as in Tucker et al. 2017: the two values of f lie close together
LOGITS = (0.0, 2.0)  # θ: p = 0.5 and 0.88
TEMPERATURES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
QUANTILES = (np.arange(1_000_000) + 0.5) / 1_000_000
LOGISTIC = np.log(QUANTILES / (1 - QUANTILES))  # g_1 − g_0, each as likely as the others


@dataclass
class Moments:
    """Of an estimator of ∇J."""

    mean: float
    variance: float


def f(y):
    return (y - T) ** 2


def slope_of_f(y):
    return 2 * (y - T)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def exact_gradient(theta: float) -> float:
    """∇J = p (1 − p) (f(1) − f(0))."""
    p = sigmoid(theta)
    return p * (1 - p) * (f(1) - f(0))


def objective(theta: float) -> float:
    p = sigmoid(theta)
    return p * f(1) + (1 - p) * f(0)


def score_function(theta: float, baseline: float) -> Moments:
    """∇ log π(a) is a − p."""
    p = sigmoid(theta)
    weights = np.array([1 - p, p])
    actions = np.array([0, 1])
    estimate = (actions - p) * (f(actions) - baseline)
    mean = weights @ estimate
    return Moments(mean, weights @ (estimate - mean) ** 2)


def relaxed(theta: float, temperature: float, straight_through: bool) -> Moments:
    """Gumbel-softmax, or its straight-through form."""
    y = sigmoid((theta + LOGISTIC) / temperature)
    dy = y * (1 - y) / temperature  # ∇_θ y
    at = np.round(y) if straight_through else y
    estimate = slope_of_f(at) * dy
    return Moments(estimate.mean(), estimate.var())


def relative(theta: float, moments: Moments) -> tuple[float, float]:
    """Bias and standard deviation in units of ‖∇J‖."""
    exact = exact_gradient(theta)
    return (moments.mean - exact) / exact, moments.variance**0.5 / abs(exact)


def estimators(theta: float) -> dict[str, Moments]:
    """All that are compared, by name."""
    found = {
        "score function": score_function(theta, baseline=0.0),
        "score function, b = J": score_function(theta, objective(theta)),
    }
    for temperature in TEMPERATURES:
        name = f"Gumbel-softmax, τ = {temperature:g}"
        found[name] = relaxed(theta, temperature, straight_through=False)
    for temperature in TEMPERATURES:
        name = f"straight-through, τ = {temperature:g}"
        found[name] = relaxed(theta, temperature, straight_through=True)
    return found


def table() -> list[list[str]]:
    rows = [["p", "estimator", "bias / ∇J", "deviation / ‖∇J‖"]]
    for theta in LOGITS:
        for name, moments in estimators(theta).items():
            bias, deviation = relative(theta, moments)
            rows.append(
                [
                    f"{sigmoid(theta):.2f}",
                    name,
                    f"{100 * bias:+.0f} %",
                    f"{round(deviation, 6):.3g}",
                ]
            )
    return rows


def draw() -> Figure:
    figure = Figure(figsize=(9.6, 3.6), dpi=110, layout="constrained")
    axes = figure.subplots(1, 2)
    temperatures = np.geomspace(TEMPERATURES[0], TEMPERATURES[-1], 30)
    for theta, style in zip(LOGITS, ("-", "--")):
        p = f"p = {sigmoid(theta):.2f}"
        for straight_through, colour in ((False, BLUE), (True, ORANGE)):
            name = "straight-through" if straight_through else "Gumbel-softmax"
            both = []
            for temperature in temperatures:
                both.append(relative(theta, relaxed(theta, temperature, straight_through)))
            bias, deviation = np.array(both).T
            axes[0].plot(temperatures, bias, style, color=colour, label=f"{name}, {p}")
            axes[1].plot(temperatures, deviation, style, color=colour)
        for baseline, colour in ((0.0, VERMILION), (objective(theta), GREY)):
            _, deviation = relative(theta, score_function(theta, baseline))
            label = f"score function, b = {'J' if baseline else '0'}, {p}"
            axes[1].axhline(deviation, linestyle=style, color=colour, label=label)
    axes[0].axhline(0, color=GREY, linewidth=1)
    axes[0].set_title("bias / ∇J")
    axes[1].set_title("standard deviation / ‖∇J‖")
    axes[1].set_yscale("symlog", linthresh=1)  # with b = J and p = 0.5 the deviation is 0
    axes[1].set_ylim(-0.1, 200)
    for ax in axes:
        ax.set_xscale("log")
        ax.set_xlabel("temperature τ")
        ax.legend(fontsize=7)
    return figure


def study(runs: Path) -> tuple[Figure, str]:
    """Needs no runs."""
    return draw(), f"f(a) = (a − {T})² of one of two actions.\n\n{markdown_table(table())}\n"
