"""C3: squared bias, variance and their sum, from the one-step advantage to the Monte Carlo one."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from ..tables import markdown_table
from .common import (
    BLUE,
    GREEN,
    ORANGE,
    PINK,
    VERMILION,
    mean_with_interval,
    stack_error_bars,
)
from .gradient_estimators import (
    BATCH,
    CRITICS,
    LAMBDAS,
    N_STEPS,
    PolicyMeasurement,
    bias_cells,
    describe_setting,
    lambda_name,
    measure_policies,
    n_step_name,
    relative_squared_bias,
    relative_variance,
)

SIZE_COLOURS = {16: GREEN, 256: PINK, 4096: ORANGE}  # by trajectories in a batch
LINE_STYLES = {"fitted": "-", "own": "--"}
MONTE_CARLO_X = 600.0  # where λ = 1 is drawn, whose 1/(1−λ) is infinite


def lambda_x(lam: float) -> float:
    """Where a λ is drawn: at about the steps that it looks ahead."""
    return MONTE_CARLO_X if lam == 1 else 1 / (1 - lam)


def squared_error(policies: list[PolicyMeasurement], name: str, size: int) -> np.ndarray:
    """Variance of a batch of so many trajectories plus squared bias, % of ‖∇J‖², (policies,)."""
    return relative_variance(policies, name, size) + relative_squared_bias(policies, name)


def table(policies: list[PolicyMeasurement]) -> list[list[str]]:
    """Variance, squared bias and their sum, of each advantage with each critic."""
    sums = [f"sum, {size:,}" for size in SIZE_COLOURS]
    rows = [["critic", "advantage", "variance", "squared bias", "p of none", *sums]]
    for critic, label in CRITICS.items():
        names = [lambda_name(critic, lam) for lam in (*LAMBDAS, 1.0)]
        names += [n_step_name(critic, n) for n in N_STEPS]
        for name in names:
            variance = mean_with_interval(relative_variance(policies, name))
            row = [label, name.removeprefix(f"{critic} "), variance]
            row += bias_cells(policies, name)
            for size in SIZE_COLOURS:
                row.append(mean_with_interval(squared_error(policies, name, size)))
            rows.append(row)
    return rows


def draw_critic(ax, policies: list[PolicyMeasurement], critic: str) -> None:
    """Variance and squared bias of a critic's advantages: over λ as lines, over n as squares."""
    lambdas = (*LAMBDAS, 1.0)
    with_lambda = {
        "linestyle": LINE_STYLES[critic],
        "marker": "o",
        "capsize": 3,
        "linewidth": 1.5,
        "markersize": 5,
    }
    with_n = {
        "linestyle": "",
        "marker": "s",
        "markerfacecolor": "white",
        "capsize": 3,
        "linewidth": 1.5,
        "markersize": 5,
    }

    def draw(x, values, colour: str, label: str, style: dict) -> None:
        bars = stack_error_bars(values)
        ax.errorbar(x, np.mean(values, 1), bars, color=colour, label=label, **style)

    x = [lambda_x(lam) for lam in lambdas]
    variances = [relative_variance(policies, lambda_name(critic, lam)) for lam in lambdas]
    draw(x, variances, BLUE, "variance", with_lambda)
    x = [lambda_x(lam) for lam in LAMBDAS]  # λ = 1 has no bias to draw
    biases = [relative_squared_bias(policies, lambda_name(critic, lam)) for lam in LAMBDAS]
    draw(x, biases, VERMILION, "squared bias", with_lambda)
    variances = [relative_variance(policies, n_step_name(critic, n)) for n in N_STEPS]
    draw(N_STEPS, variances, BLUE, "variance, n-step", with_n)
    biases = [relative_squared_bias(policies, n_step_name(critic, n)) for n in N_STEPS]
    draw(N_STEPS, biases, VERMILION, "squared bias, n-step", with_n)
    ax.set_title(CRITICS[critic])


def draw_sums(ax, policies: list[PolicyMeasurement]) -> None:
    """The sum of variance and squared bias over λ, with a star where it is least."""
    lambdas = (*LAMBDAS, 1.0)
    x = [lambda_x(lam) for lam in lambdas]
    for critic, line_style in LINE_STYLES.items():
        for size, colour in SIZE_COLOURS.items():
            sums = []
            for lam in lambdas:
                sums.append(squared_error(policies, lambda_name(critic, lam), size).mean())
            label = f"{size:,}" if critic == "fitted" else None
            ax.plot(x, sums, line_style, color=colour, linewidth=1.5, label=label)
            least = int(np.argmin(sums))
            ax.plot(x[least], sums[least], "*", color=colour, markersize=12)
    ax.set_title("their sum, least at the star")


def draw(policies: list[PolicyMeasurement]) -> Figure:
    figure = Figure(figsize=(9.6, 4.4), dpi=110, layout="constrained")
    fitted, own, sums = figure.subplots(1, 3, sharey=True)
    draw_critic(fitted, policies, "fitted")
    draw_critic(own, policies, "own")
    draw_sums(sums, policies)
    lambdas = (*LAMBDAS, 1.0)
    ticks = [lambda_x(lam) for lam in lambdas]
    names = [f"{lam:g}" for lam in lambdas]
    for ax in (fitted, own, sums):
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("λ, drawn at 1/(1−λ); n-step at n")
        ax.set_xticks(ticks, names, fontsize=8)
        ax.minorticks_off()
    fitted.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    fitted.set_ylabel(f"% of ‖∇J‖², variance of {BATCH} trajectories")
    fitted.legend(fontsize=8)
    title = "trajectories in a batch\n(dashed: V of training)"
    sums.legend(fontsize=8, title=title, title_fontsize=8)
    return figure


def study(runs: Path) -> tuple[Figure, str]:
    """Needs no runs: trains its own policies, the same as C2's."""
    policies = measure_policies()
    return draw(policies), f"{describe_setting(policies)}\n{markdown_table(table(policies))}\n"
