"""C4: whether a large step collapses performance, and whether PPO's constraint keeps it.

Measured are the return after training, over the step size and over the epochs, without a
constraint, with the KL penalty and with the clip; and the surrogates and the return along the line
from θ_k to the θ_{k+1} of each method.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

import ppo_clip
import ppo_kl

from ..stats import WINDOW
from ..tables import markdown_table
from .common import (
    BLUE,
    GREY,
    SKY_BLUE,
    VERMILION,
    FinishedRun,
    final_returns,
    mean_with_interval,
    read_cell,
    read_course,
    short_training,
    stack_error_bars,
    with_interval,
)

METHODS = {"none": "no constraint", "kl": "KL penalty", "clip": "clip"}
METHOD_COLOURS = {"none": VERMILION, "kl": SKY_BLUE, "clip": BLUE}
SHIFTS = {"none": 0.94, "kl": 1.0, "clip": 1.06}  # side by side in the picture
KL_TAGS = {"none": "losses/kl", "kl": "losses/kl", "clip": "losses/approx_kl"}
SEEDS = range(1, 6)

STEP_SIZE_CELLS = {  # at 10 epochs
    "3e-4": "lr-3e-4",
    "1e-3": "lr-1e-3",
    "3e-3": "lr-3e-3",
    "1e-2": "lr-1e-2",
    "3e-2": "lr-3e-2",
}
EPOCH_CELLS = {1: "epochs-1", 3: "epochs-3", 10: "lr-3e-3", 30: "epochs-30"}  # at step size 3e-3

XS = np.array([0, 0.25, 0.5, 1, 2, 4, 8, 16])  # points θ_k + x (θ_{k+1} − θ_k)
QUANTITIES = ("return", "surrogate", "clipped surrogate", "KL")
THOUSANDTHS = ("surrogate", "clipped surrogate", "KL")  # shown in thousandths

TRAINING = {  # up to θ_k
    "env_id": "Hopper-v4",
    "total_timesteps": 40_000,
    "learning_rate": 3e-3,
    "anneal_lr": False,
}

Line = dict[str, np.ndarray]
"""each of QUANTITIES at each of XS, (len(XS),)"""


# ------------------------------------------------- what is used of ppo_clip.py and ppo_kl.py

SCRIPTS = {"none": ppo_kl, "kl": ppo_kl, "clip": ppo_clip}
METHOD_FLAGS = {  # the penalty and the clip alone
    "none": {"kl_coef": 0.0, "early_stop": False},
    "kl": {"early_stop": False},
    "clip": {"target_kl": 1e9},
}
TARGET_KL = ppo_kl.Args.target_kl


@dataclass
class Iteration:
    """What an iteration of a training begins with."""

    before: dict
    """the agent's state_dict at θ_k"""
    rollout: ppo_clip.Rollout
    """what the script's `collect` gave"""


def record(script: ModuleType, **flags) -> list[Iteration]:
    """Train a script, and return what each of its iterations began with."""
    iterations = []
    collect = script.Collector.collect

    def recorded(collector, num_steps: int) -> ppo_clip.Rollout:
        rollout = collect(collector, num_steps)
        before = copy.deepcopy(collector.agent.state_dict())
        iterations.append(Iteration(before, rollout))
        return rollout

    with mock.patch.object(script.Collector, "collect", recorded):
        with short_training(script, **flags):
            return iterations


def update(script: ModuleType, iteration: Iteration, **flags) -> dict:
    """θ_{k+1} as a state_dict: the script's own update from θ_k, with a new optimiser.

    The observations' statistics stay those of θ_k, and so does what follows them.
    """
    states = []  # of the agent at each rollout: θ_k, then θ_{k+1}

    def replayed(collector, num_steps: int) -> ppo_clip.Rollout:
        if not states:
            collector.agent.load_state_dict(iteration.before)
        states.append(copy.deepcopy(collector.agent.state_dict()))
        return iteration.rollout

    # The script asks for the second rollout when the first update is over.
    two_rollouts = {"total_timesteps": 2 * int(iteration.rollout.valid.sum()), "norm_obs": False}
    with mock.patch.object(script.Collector, "collect", replayed):
        with short_training(script, **{**flags, **two_rollouts}):
            return states[1]


def make_agent(env_id: str) -> ppo_clip.Agent:
    envs = ppo_clip.make_envs(env_id, 1)
    agent = ppo_clip.Agent(envs.single_observation_space, envs.single_action_space)
    return agent.requires_grad_(False)


class Surrogates:
    """The surrogates and the KL of an agent's parameters, against θ_k on its rollout.

    M is the number of valid steps of the rollout.
    """

    def __init__(self, agent: ppo_clip.Agent, rollout: ppo_clip.Rollout, args: ppo_clip.Args):
        """The agent is at θ_k; its statistics of rewards are updated with the rollout."""
        valid = rollout.valid
        reward = rollout.reward
        if args.norm_reward:
            agent.discounted_sum_stats.update(rollout.discounted_sum[valid])
            reward = reward / agent.discounted_sum_stats.std
        x = agent.normalize(rollout.obs)  # (T+1, N, obs_dim)
        value = agent.value(x)  # (T+1, N)
        advantage = ppo_clip.gae(
            reward, value, rollout.terminated, rollout.truncated, args.gamma, args.gae_lambda
        )  # (T, N)
        self.clip_coef = args.clip_coef
        self.x = x[:-1][valid]  # (M, obs_dim)
        self.action = rollout.action[valid]  # (M, ...)
        self.advantage = advantage[valid]  # (M,)
        self.old_out = agent.actor(self.x)  # (M, num_outputs)
        self.old_log_std = agent.log_std.clone()
        self.old_log_prob, _ = agent.log_prob_and_entropy(self.old_out, self.action)  # (M,)

    def measure(self, agent: ppo_clip.Agent) -> dict[str, float]:
        """Both surrogates and the exact KL, in nats, at the agent's parameters."""
        out = agent.actor(self.x)
        log_prob, _ = agent.log_prob_and_entropy(out, self.action)
        ratio = (log_prob - self.old_log_prob).exp()
        if agent.discrete:
            kl = ppo_kl.softmax_kl(self.old_out, out)
        else:
            kl = ppo_kl.gaussian_kl(self.old_out, self.old_log_std, out, agent.log_std)
        return {
            "surrogate": self.surrogate(ratio, np.inf),
            "clipped surrogate": self.surrogate(ratio, self.clip_coef),
            "KL": kl.mean().item(),
        }

    def surrogate(self, ratio: torch.Tensor, clip_coef: float) -> float:
        return -ppo_clip.policy_loss(ratio, self.advantage, clip_coef).item()


def mean_return(agent: ppo_clip.Agent, args: ppo_clip.Args, episodes: int) -> float:
    """Mean return of the stochastic policy over so many episodes."""

    def act(obs: np.ndarray) -> np.ndarray:
        x = agent.normalize(torch.as_tensor(obs, dtype=torch.float32))
        return agent.to_env(agent.sample(agent.actor(x)))

    torch.manual_seed(args.seed)
    envs = ppo_clip.make_envs(args.env_id, episodes)
    seed = ppo_clip.derive_seed(args.seed, 2)
    returns, _ = ppo_clip.evaluate(act, envs, seed)
    return returns.mean()


# ---------------------------------------------------------------- along the line of an update


def measure_line(
    iteration: Iteration, after: dict, xs: np.ndarray, episodes: int, args: ppo_clip.Args
) -> Line:
    """Each of QUANTITIES at each of the points θ_k + x (θ_{k+1} − θ_k), (len(xs),).

    `after` is θ_{k+1} as a state_dict. The return is the mean over so many episodes.
    """
    agent = make_agent(args.env_id)
    agent.load_state_dict(iteration.before)
    surrogates = Surrogates(agent, iteration.rollout, args)
    line = {name: [] for name in QUANTITIES}
    for x in xs:
        for name, parameter in agent.named_parameters():
            parameter.copy_(torch.lerp(iteration.before[name], after[name], x))
        for name, value in surrogates.measure(agent).items():
            line[name].append(value)
        line["return"].append(mean_return(agent, args, episodes))
    return {name: np.array(values) for name, values in line.items()}


def measure_updates(seed: int, episodes: int = 32) -> dict[str, Line]:
    """The line of one update by each method, from the same θ_k and rollout.

    They are those of the last iteration of a training with the clip.
    """
    last = record(ppo_clip, seed=seed, **TRAINING, **METHOD_FLAGS["clip"])[-1]
    args = ppo_clip.Args(seed=seed, **TRAINING)
    lines = {}
    for method, script in SCRIPTS.items():
        after = update(script, last, seed=seed, **TRAINING, **METHOD_FLAGS[method])
        lines[method] = measure_line(last, after, XS, episodes, args)
    return lines


# ---------------------------------------------------------------- whole trainings

Cells = dict[tuple[str, str], list[FinishedRun]]
"""the runs by method and cell"""


def read_cells(runs: Path) -> Cells:
    cells = {}
    for cell in {**STEP_SIZE_CELLS, **EPOCH_CELLS}.values():
        for method in METHODS:
            cells[method, cell] = read_cell(runs, "CartPole-v1", f"c4-{method}-{cell}")
    return cells


def best_return(run: FinishedRun) -> float:
    """The greatest mean return over a twentieth of training."""
    return np.convolve(run.curve, np.ones(WINDOW) / WINDOW, "valid").max()


def overshoots(run: FinishedRun, method: str, limit: float) -> float:
    """Share of the run's updates whose logged KL(π_θk ‖ π_θ) is above the limit, in nats.

    ppo_kl.py logs the KL at the end of the update. ppo_clip.py logs an estimate, averaged over the
    update's minibatches.
    """
    kl = read_course(run, KL_TAGS[method])
    return float((kl > limit).mean())


# ---------------------------------------------------------------- the picture


def draw_finals(ax, cells: Cells, settings: dict[float, str]) -> None:
    """The final return of each method over a setting; `settings` has the cell of each."""
    for method, name in METHODS.items():
        finals = [final_returns(cells[method, cell]) for cell in settings.values()]
        ax.errorbar(
            np.array(list(settings)) * SHIFTS[method],
            np.array([sample.mean() for sample in finals]),
            stack_error_bars(finals),
            color=METHOD_COLOURS[method],
            marker="o",
            markersize=4,
            capsize=3,
            label=name,
        )
    ax.set_xscale("log")
    ax.set_ylim(0, 520)
    ax.set_xticks(list(settings), [f"{setting:g}" for setting in settings])
    ax.set_xticks([], minor=True)


def draw_line(ax, values: np.ndarray, colour: str, end: float, **style) -> None:
    """The mean over the seeds (seeds, len(XS)), shaded with its interval, for 0 < x ≤ end."""
    drawn = (XS > 0) & (XS <= end)
    x = XS[drawn]
    seeds = values[:, drawn]
    mean = seeds.mean(0)
    below, above = stack_error_bars(seeds.T)
    ax.plot(x, mean, color=colour, **style)
    ax.fill_between(x, mean - below, mean + above, color=colour, alpha=0.18, linewidth=0)


def changes(updates: list[dict[str, Line]], method: str, quantity: str) -> np.ndarray:
    """How much a quantity has changed since x = 0, (seeds, len(XS))."""
    values = np.stack([lines[method][quantity] for lines in updates])
    return values - values[:, :1]


def draw_returns(ax, updates: list[dict[str, Line]]) -> None:
    """The change of the return along each method's update."""
    for method, colour in METHOD_COLOURS.items():
        change = changes(updates, method, "return")
        draw_line(ax, change, colour, np.inf, marker="o", markersize=4)
    ax.set_title(f"return, {TRAINING['env_id']}: J(x) − J(0)", fontsize=10)
    finish_line_panel(ax)


def draw_surrogates(ax, updates: list[dict[str, Line]], method: str) -> None:
    """The change of both surrogates along a method's update, up to x = 4."""
    colour = METHOD_COLOURS[method]
    draw_line(ax, changes(updates, method, "surrogate"), colour, 4, label="L")
    clipped = changes(updates, method, "clipped surrogate")
    draw_line(ax, clipped, colour, 4, linestyle="--", label="L clipped")
    ax.set_title(f"surrogate, {METHODS[method]}: L(x) − L(0)", fontsize=10)
    finish_line_panel(ax)
    ax.legend(frameon=False, loc="upper left")


def finish_line_panel(ax) -> None:
    """Mark x = 1 and no change, and label the axis."""
    ax.axvline(1, color=GREY, linestyle=":")
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.set_xlabel(r"$x$ of $\theta_k + x\,(\theta_{k+1} - \theta_k)$")


def draw(cells: Cells, updates: list[dict[str, Line]]) -> Figure:
    figure = Figure(figsize=(9.6, 7.4), dpi=110, layout="constrained")
    upper = ["size"] * 3 + ["epochs"] * 3
    lower = ["return"] * 2 + ["none"] * 2 + ["clip"] * 2
    axes = figure.subplot_mosaic([upper, lower])
    step_sizes = {float(step_size): cell for step_size, cell in STEP_SIZE_CELLS.items()}
    draw_finals(axes["size"], cells, step_sizes)
    draw_finals(axes["epochs"], cells, EPOCH_CELLS)
    axes["size"].set_ylabel("final return, CartPole-v1")
    axes["size"].set_xlabel("Adam's step size (10 epochs)")
    axes["epochs"].set_xlabel("epochs, passes over each rollout (step size 0.003)")
    draw_returns(axes["return"], updates)
    draw_surrogates(axes["none"], updates, "none")
    draw_surrogates(axes["clip"], updates, "clip")
    handles, labels = axes["size"].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return figure


# ---------------------------------------------------------------- tables


@dataclass
class Setting:
    """A row of the tables of whole trainings."""

    step_size: str
    epochs: str
    cell: str


def settings() -> list[Setting]:
    found = [Setting(step_size, "10", cell) for step_size, cell in STEP_SIZE_CELLS.items()]
    for epochs, cell in EPOCH_CELLS.items():
        if epochs != 10:
            found.append(Setting("3e-3", str(epochs), cell))
    return found


def finals_table(cells: Cells) -> list[list[str]]:
    """The final returns."""
    rows = [["step size", "epochs", *METHODS.values()]]
    for setting in settings():
        row = [setting.step_size, setting.epochs]
        for method in METHODS:
            row.append(mean_with_interval(final_returns(cells[method, setting.cell])))
        rows.append(row)
    return rows


def losses_table(cells: Cells) -> list[list[str]]:
    """What of the best return was lost again."""
    rows = [["step size", "epochs", *METHODS.values()]]
    for setting in settings():
        row = [setting.step_size, setting.epochs]
        for method in METHODS:
            lost = [best_return(run) - run.final_return for run in cells[method, setting.cell]]
            row.append(mean_with_interval(lost))
        rows.append(row)
    return rows


def overshoots_table(cells: Cells) -> list[list[str]]:
    """Percent of the updates whose KL is above the target, and above 1.5 times that."""
    limits = (TARGET_KL, 1.5 * TARGET_KL)
    head = ["step size", "epochs"]
    for name in METHODS.values():
        for limit in limits:
            head.append(f"{name} > {limit:.4g}")
    rows = [head]
    for setting in settings():
        row = [setting.step_size, setting.epochs]
        for method in METHODS:
            runs = cells[method, setting.cell]
            for limit in limits:
                shares = [100 * overshoots(run, method, limit) for run in runs]
                row.append(mean_with_interval(shares))
        rows.append(row)
    return rows


def lines_table(updates: list[dict[str, Line]]) -> list[list[str]]:
    """The quantities at some points of each method's line, and where they are greatest."""
    shown = (0, 1, 4)
    points = [f"at x = {x:g}" for x in shown]
    rows = [["update", "quantity", *points, "greatest at x, median"]]
    for method, name in METHODS.items():
        for quantity in QUANTITIES:
            values = np.stack([lines[method][quantity] for lines in updates])
            peak = "–"
            if quantity != "KL":
                peak = with_interval(np.median, XS[values.argmax(1)])
            scale = 1
            label = quantity
            if quantity in THOUSANDTHS:
                scale = 1000
                label = f"{quantity}, thousandths"
            cells = []
            for x in shown:
                at_x = values[:, list(XS).index(x)]
                cells.append(mean_with_interval(scale * at_x))
            rows.append([name, label, *cells, peak])
    return rows


def tables(cells: Cells, updates: list[dict[str, Line]]) -> str:
    target = f"{TRAINING['env_id']}, {TRAINING['total_timesteps']:,} steps"
    step_size = f"{TRAINING['learning_rate']:g}"
    return f"""\
Final training return on CartPole-v1, {len(SEEDS)} seeds, mean (95 % bootstrap interval)

{markdown_table(finals_table(cells))}

What was lost again: the best mean return over a twentieth of training, less the final return

{markdown_table(losses_table(cells))}

Updates that overshoot: per cent of a run's updates whose KL(π_θk ‖ π_θ), in nats, is above the
target or 1.5 times that. The clip's is ppo_clip.py's estimate, averaged over the update's
minibatches

{markdown_table(overshoots_table(cells))}

Along θ_k + x (θ_{{k+1}} − θ_k), one update by each method with step size {step_size}, from the same
θ_k and rollout of a training with the clip ({target}), {len(updates)} seeds

{markdown_table(lines_table(updates))}
"""


def study(runs: Path) -> tuple[Figure, str]:
    cells = read_cells(runs)
    updates = [measure_updates(seed) for seed in SEEDS]
    return draw(cells, updates), tables(cells, updates)
