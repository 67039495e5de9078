"""C2: causality and baselines lower the variance of the gradient, and leave its mean alone."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from ..tables import markdown_table
from .common import BLUE, GREY, VERMILION, error_bars, mean_with_interval
from .gradient_estimators import (
    BATCH,
    BEST_PARAMETER_BASELINE,
    BEST_STATE_BASELINE,
    MEAN_BASELINE,
    MEAN_OF_ALL,
    REFERENCE,
    RETURN_MEAN_OF_ALL,
    TO_GO,
    TRAJECTORY_RETURN,
    PolicyMeasurement,
    bias_cells,
    describe_setting,
    excess,
    flipped_excesses,
    lambda_name,
    measure_policies,
    n_step_name,
    relative_variance,
)


@dataclass
class Row:
    """An estimator in the table and the picture."""

    label: str
    unbiased: bool
    """whether theory says so"""

    def colour(self) -> str:
        return BLUE if self.unbiased else VERMILION


ROWS = {
    TRAJECTORY_RETURN: Row("R(τ)", True),
    BEST_PARAMETER_BASELINE: Row("R(τ) − b*, one a parameter (L4)", True),
    TO_GO: Row("Gₜ", True),
    MEAN_BASELINE: Row("Gₜ − mean of the others", True),
    lambda_name("own", 1): Row("Gₜ − V(sₜ), V of training", True),
    REFERENCE: Row("Gₜ − V(sₜ)", True),
    BEST_STATE_BASELINE: Row("Gₜ − b*(sₜ), the least found", True),
    RETURN_MEAN_OF_ALL: Row("R(τ) − mean, itself included (L1)", False),
    MEAN_OF_ALL: Row("Gₜ − mean, itself included", False),
    n_step_name("fitted", 20): Row("20-step advantage", False),
    n_step_name("fitted", 5): Row("5-step advantage", False),
    lambda_name("fitted", 0.95): Row("GAE, λ = 0.95", False),
    lambda_name("fitted", 0.9): Row("GAE, λ = 0.9", False),
    lambda_name("fitted", 0.5): Row("GAE, λ = 0.5", False),
    lambda_name("fitted", 0): Row("one-step advantage, λ = 0", False),
}


def table(policies: list[PolicyMeasurement]) -> list[list[str]]:
    """Variance and squared bias of each estimator."""
    rows = [["weight Wₜ", "unbiased", "variance, %", "of R(τ)'s, %", "of b*(s)'s, ×"]]
    rows[0] += ["squared bias, %", "p of none"]
    of_return = relative_variance(policies, TRAJECTORY_RETURN)
    least = relative_variance(policies, BEST_STATE_BASELINE)
    for name, row in ROWS.items():
        variance = relative_variance(policies, name)
        cells = [
            row.label,
            "yes" if row.unbiased else "no",
            mean_with_interval(variance),
            mean_with_interval(100 * variance / of_return),
            mean_with_interval(variance / least),
        ]
        rows.append(cells + bias_cells(policies, name))
    return rows


def draw_variances(ax, policies: list[PolicyMeasurement]) -> None:
    """The variance of each estimator: the policies and their mean."""
    for level, (name, row) in enumerate(ROWS.items()):
        colour = row.colour()
        values = relative_variance(policies, name)
        levels = np.full(len(policies), level)
        ax.plot(values, levels, "o", color=colour, markersize=4, alpha=0.4, markeredgewidth=0)
        bars = error_bars(values)[:, None]
        ax.errorbar(values.mean(), level, xerr=bars, fmt="D", color=colour, markersize=5, capsize=3)
    ax.set_yticks(range(len(ROWS)), [row.label for row in ROWS.values()])
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.set_xlabel(f"trace of the covariance, {BATCH} trajectories, % of ‖∇J‖²")
    ax.set_title("variance")
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def draw_biases(ax, policies: list[PolicyMeasurement]) -> None:
    """How far each mean is from the reference's, beside how far it is without bias."""
    noise = []
    for level, (name, row) in enumerate(ROWS.items()):
        if name == REFERENCE:
            ax.text(1, level, "the reference", ha="center", va="center", fontsize=9)
            continue
        grams = [m.gram[name] for m in policies]
        excesses = [excess(gram) for gram in grams]
        levels = np.full(len(policies), level)
        ax.plot(
            excesses, levels, "o", color=row.colour(), markersize=5, alpha=0.6, markeredgewidth=0
        )
        if row.unbiased:
            noise += [flipped_excesses(gram) for gram in grams]
    num_blocks = len(policies[0].gram[REFERENCE])
    ax.axvspan(0.01, np.quantile(noise, 0.95), color=GREY, alpha=0.2, linewidth=0, zorder=0)
    ax.set_xscale("log")
    ax.set_xlim(0.03, 1.3 * num_blocks)
    ax.set_title("is the mean ∇J?")
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.set_xlabel(
        "squared distance of the mean from\n"
        "that of Gₜ − V(sₜ), over what is expected\n"
        "without bias (grey: 95 % of that)"
    )


def study(runs: Path) -> tuple[Figure, str]:
    """Needs no runs: trains its own policies."""
    policies = measure_policies()
    figure = Figure(figsize=(9.6, 5.0), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    draw_variances(left, policies)
    draw_biases(right, policies)
    return figure, f"{describe_setting(policies)}\n{markdown_table(table(policies))}\n"
