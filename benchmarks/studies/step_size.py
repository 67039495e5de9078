"""C4: the return after training against the step size and the epochs, without a constraint, with the KL penalty and
with the clip; and the surrogates and the return along the line from θ_k to the θ_{k+1} of each."""

import copy
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

import ppo_clip
import ppo_kl

from ..readers import read_folder
from ..stats import WINDOW
from . import COLOURS, Run, errorbars, markdown, read_runs, spread
from .training import trained

METHODS = {"none": "no constraint", "kl": "KL penalty", "clip": "clip"}
COLOUR = dict(zip(METHODS, (COLOURS[1], COLOURS[5], COLOURS[0])))
STEP_SIZES = "3e-4", "1e-3", "3e-3", "1e-2", "3e-2"  # at 10 epochs
EPOCHS = {1: "epochs-1", 3: "epochs-3", 10: "lr-3e-3", 30: "epochs-30"}  # the cells, at step size 3e-3
SEEDS = range(1, 6)
XS = np.array([0, *2.0 ** np.arange(-2, 5)])
SCRIPTS = {"none": (ppo_kl, {"kl_coef": 0.0}), "kl": (ppo_kl, {}), "clip": (ppo_clip, {})}
TRAINING = {"env_id": "Hopper-v4", "total_timesteps": 40_000, "learning_rate": 3e-3, "anneal_lr": False}  # up to θ_k
TARGET_KL = ppo_kl.Args.target_kl
QUANTITIES = "return", "surrogate", "clipped surrogate", "KL"
KL_TAGS = {"none": "losses/kl", "kl": "losses/kl", "clip": "losses/approx_kl"}


def record(script: ModuleType, **flags) -> list[tuple[dict, tuple]]:
    """Of each rollout of a training, the agent's state_dict that it was sampled with and what `collect` yielded."""
    records, collect = [], script.collect

    def recorded(envs, agent, *args):
        for rollout in collect(envs, agent, *args):
            records.append((copy.deepcopy(agent.state_dict()), rollout))
            yield rollout

    with mock.patch.object(script, "collect", recorded), trained(script, **flags):
        return records


def update(script: ModuleType, before: dict, rollout: tuple, **flags) -> dict:
    """θ_{k+1}, as a state_dict: the script's own update from θ_k with a rollout, with a new optimiser."""
    after = []

    def replayed(envs, agent, *args):
        agent.load_state_dict(before)
        while True:
            yield rollout
            after.append(copy.deepcopy(agent.state_dict()))

    with mock.patch.object(script, "collect", replayed):
        steps = 2 * int(rollout[5].sum())  # the next rollout is asked for: that is when the first update is over
        with trained(script, **flags | {"total_timesteps": steps}):
            return after[0]


def along(before: dict, rollout: tuple, after: dict, xs: np.ndarray, episodes: int, args: ppo_clip.Args) -> dict:
    """Along θ_k + x (θ_{k+1} − θ_k), each (len(xs),): the mean return of so many episodes, the surrogates and KL."""
    envs = ppo_clip.make_envs(args.env_id, 1)
    agent = ppo_clip.Agent(envs.single_observation_space, envs.single_action_space).requires_grad_(False)
    agent.load_state_dict(before)
    obs, action, reward, terminated, truncated, valid, discounted, _ = rollout
    if args.norm_reward:
        agent.return_stats.update(discounted[valid])
        reward = reward / agent.return_stats.std()
    x = agent.normalize(obs)
    advantage = ppo_clip.gae(reward, agent.critic(x), terminated, truncated, args.gamma, args.gae_lambda)[valid]
    x, action = x[:-1][valid], action[valid]
    old_out, old_log_std = agent.actor(x), agent.log_std.clone()
    old_log_prob = agent.log_prob(old_out, action)[0]

    def act(obs: np.ndarray) -> np.ndarray:
        return agent.to_env(agent.sample(agent.normalize(torch.as_tensor(obs, dtype=torch.float32))))

    found = {name: [] for name in QUANTITIES}
    for at in xs:
        for name, parameter in agent.named_parameters():
            parameter.copy_(torch.lerp(before[name], after[name], at))
        out = agent.actor(x)
        log_prob = agent.log_prob(out, action)[0]
        for name, clip_coef in (("surrogate", np.inf), ("clipped surrogate", args.clip_coef)):
            found[name].append(-ppo_clip.policy_loss(log_prob, old_log_prob, advantage, clip_coef)[0].item())
        gaussian = old_out, old_log_std, out, agent.log_std
        kl = ppo_kl.softmax_kl(old_out, out) if agent.discrete else ppo_kl.gaussian_kl(*gaussian)
        found["KL"].append(kl.mean().item())
        torch.manual_seed(args.seed)
        returns = ppo_clip.evaluate(act, ppo_clip.make_envs(args.env_id, episodes), ppo_clip.derive_seed(args.seed, 2))
        found["return"].append(returns.mean())
    return {name: np.array(values) for name, values in found.items()}


def lines(seed: int, episodes: int = 32) -> dict[str, dict]:
    """`along` one update by each method, from the same θ_k and rollout, the last of a training with the clip."""
    before, rollout = record(ppo_clip, seed=seed, **TRAINING)[-1]
    args, found = ppo_clip.Args(seed=seed, **TRAINING), {}
    for method, (script, flags) in SCRIPTS.items():
        after = update(script, before, rollout, seed=seed, **TRAINING | flags)
        found[method] = along(before, rollout, after, XS, episodes, args)
    return found


def best(run: Run) -> float:
    """The greatest mean return over a twentieth of training."""
    return np.convolve(run.curve, np.ones(WINDOW) / WINDOW, "valid").max()


def overshoots(run: Run, method: str, limit: float) -> float:
    """Share of the run's updates whose logged KL(π_θk ‖ π_θ) is above the limit, in nats.

    ppo_kl.py logs it as it is when the update has ended; ppo_clip.py an estimate, averaged over its minibatches.
    """
    return float((read_folder(run.dir, (KL_TAGS[method],))[1] > limit).mean())


def draw_finals(ax, cells: dict[float, str], read: dict[tuple[str, str], list[Run]]) -> None:
    """Final return of each method over what the keys of `cells` are."""
    for shift, method in zip((0.94, 1, 1.06), METHODS):  # side by side
        at = np.array(list(cells)) * shift
        finals = [[run.final for run in read[method, cell]] for cell in cells.values()]
        bars = np.stack([errorbars(values) for values in finals], 1)
        style = {"color": COLOUR[method], "marker": "o", "markersize": 4, "capsize": 3, "label": METHODS[method]}
        ax.errorbar(at, np.array([np.mean(values) for values in finals]), bars, **style)
    ax.set_xscale("log")
    ax.set_ylim(0, 520)


def draw_line(ax, values: np.ndarray, colour: str, end: float, **style) -> None:
    """The mean over the seeds (seeds, len(XS)), shaded with its 95 % interval, for 0 < x ≤ end."""
    drawn = (XS > 0) & (XS <= end)
    mean, (below, above) = values.mean(0)[drawn], np.stack([errorbars(column) for column in values.T[drawn]], 1)
    ax.plot(XS[drawn], mean, color=colour, **style)
    ax.fill_between(XS[drawn], mean - below, mean + above, color=colour, alpha=0.18, linewidth=0)


def draw_lines(returns, surrogates: dict, found: list[dict]) -> None:
    """Changes since x = 0: the return along each method's update; both surrogates, for some of them, up to x = 4."""
    axes = {"return": returns} | surrogates
    for method, colour in COLOUR.items():
        change = {name: np.stack([seed[method][name] - seed[method][name][0] for seed in found]) for name in QUANTITIES}
        draw_line(returns, change["return"], colour, np.inf, marker="o", markersize=4)
        if method in surrogates:
            draw_line(surrogates[method], change["surrogate"], colour, 4, label="L")
            draw_line(surrogates[method], change["clipped surrogate"], colour, 4, linestyle="--", label="L clipped")
    for name, ax in axes.items():
        ax.axvline(1, color=COLOURS[6], linestyle=":")
        ax.axhline(0, color=COLOURS[6], linewidth=0.8)
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.set_xlabel(r"$x$ of $\theta_k + x\,(\theta_{k+1} - \theta_k)$")
        if name in METHODS:
            ax.set_title(f"surrogate, {METHODS[name]}: L(x) − L(0)", fontsize=10)
            ax.legend(frameon=False, loc="upper left")
    returns.set_title(f"return, {TRAINING['env_id']}: J(x) − J(0)", fontsize=10)


def tables(read: dict[tuple[str, str], list[Run]], found: list[dict]) -> str:
    """Final returns, what of the best was lost, overshoots, and the ends and peaks of the lines; 95 % intervals."""
    settings = [*((f"lr-{lr}", lr, "10") for lr in STEP_SIZES)]
    settings += [(cell, "3e-3", str(epochs)) for epochs, cell in EPOCHS.items() if epochs != 10]
    finals, lost = [[["step size", "epochs", *METHODS.values()]] for _ in range(2)]
    limits = {f"> {factor * TARGET_KL:.4g}": factor * TARGET_KL for factor in (1, 1.5)}
    over = [["step size", "epochs", *(f"{name} {limit}" for name in METHODS.values() for limit in limits)]]
    for cell, *setting in settings:
        runs = [read[method, cell] for method in METHODS]
        finals.append([*setting, *(spread([run.final for run in seeds]) for seeds in runs)])
        lost.append([*setting, *(spread([best(run) - run.final for run in seeds]) for seeds in runs)])
        over.append(setting.copy())
        for method, seeds in zip(METHODS, runs):
            over[-1] += [spread([100 * overshoots(run, method, limit) for run in seeds]) for limit in limits.values()]
    ends, thousandths = (0, 1, 4), ("surrogate", "clipped surrogate", "KL")
    line = [["update", "quantity", *(f"at x = {x:g}" for x in ends), "greatest at x, median"]]
    for method, text in METHODS.items():
        for name in QUANTITIES:
            values = np.stack([seed[method][name] for seed in found])
            at = spread(XS[values.argmax(1)], np.median) if name != "KL" else "–"
            scale, unit = (1000, ", thousandths") if name in thousandths else (1, "")
            cells = [spread(scale * values[:, np.flatnonzero(XS == x)[0]]) for x in ends]
            line.append([text, name + unit, *cells, at])
    target = f"{TRAINING['env_id']}, {TRAINING['total_timesteps']:,} steps"
    return "\n\n".join(
        [
            f"Final training return on CartPole-v1, {len(SEEDS)} seeds, mean (95 % bootstrap interval)",
            markdown(finals),
            "What was lost again: the best mean return over a twentieth of training, less the final return",
            markdown(lost),
            "Updates that overshoot: per cent of a run's updates whose KL(π_θk ‖ π_θ), in nats, is above the target or "
            "1.5 times that. The clip's is ppo_clip.py's estimate, averaged over the update's minibatches",
            markdown(over),
            f"Along θ_k + x (θ_{{k+1}} − θ_k), one update by each method with step size {TRAINING['learning_rate']:g}, "
            f"from the same θ_k and rollout of a training with the clip ({target}), {len(found)} seeds",
            markdown(line) + "\n",
        ]
    )


def c4(runs: Path) -> tuple[Figure, str]:
    names = dict.fromkeys([*(f"lr-{lr}" for lr in STEP_SIZES), *EPOCHS.values()])
    read = {
        (method, cell): read_runs(runs, "CartPole-v1", f"c4-{method}-{cell}") for cell in names for method in METHODS
    }
    found = [lines(seed) for seed in SEEDS]

    figure = Figure(figsize=(9.6, 7.4), dpi=110, layout="constrained")
    axes = figure.subplot_mosaic([["size"] * 3 + ["epochs"] * 3, ["return"] * 2 + ["none"] * 2 + ["clip"] * 2])
    for name, cells in (("size", {float(lr): f"lr-{lr}" for lr in STEP_SIZES}), ("epochs", EPOCHS)):
        draw_finals(axes[name], cells, read)
        axes[name].set_xticks(list(cells), [f"{at:g}" for at in cells])
        axes[name].set_xticks([], minor=True)
    axes["size"].set_ylabel("final return, CartPole-v1")
    axes["size"].set_xlabel("Adam's step size (10 epochs)")
    axes["epochs"].set_xlabel("epochs, passes over each rollout (step size 0.003)")
    draw_lines(axes["return"], {method: axes[method] for method in ("none", "clip")}, found)
    handles, labels = axes["size"].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return figure, tables(read, found)
