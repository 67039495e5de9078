"""The exercises, in the ladder's order."""

from collections.abc import Callable
from dataclasses import dataclass

from . import BadInput, estimates

CARTPOLE = ("--env-id", "CartPole-v1")
# Short runs, whose curves a student waits for.
RUNS = {
    "reinforce": (*CARTPOLE, "--total-timesteps", "40000"),
    "reinforce_baseline": (*CARTPOLE, "--total-timesteps", "40000"),
    "a2c": (*CARTPOLE, "--total-timesteps", "30000"),
    "ppo_clip": (*CARTPOLE, "--total-timesteps", "20480"),
    "ppo_kl": (*CARTPOLE, "--total-timesteps", "20480"),
    "trpo": (*CARTPOLE, "--total-timesteps", "20480"),
    "ddpg": ("--env-id", "Pendulum-v1", "--total-timesteps", "3000", "--learning-starts", "400"),
    "td3": ("--env-id", "Pendulum-v1", "--total-timesteps", "3000", "--learning-starts", "400"),
    "sac": ("--env-id", "Pendulum-v1", "--total-timesteps", "3000", "--learning-starts", "400"),
    "dagger": (*CARTPOLE, "--total-timesteps", "8192"),
}
BALANCING = ("--env-id", "InvertedPendulum-v4", "--total-timesteps", "30720")  # Box actions


@dataclass(frozen=True)
class Exercise:
    """What is to be written, and what checks it.

    place       the function or Class.method that it is in
    task        what to write, with shapes
    check       gets the function or class; where a line is asked for, a grading.Line
    statements  how many from the tagged one on are to be written; None for the function's body
    sets        the variable that the line sets, where a line is asked for
    flags       of the short run; None for the script's in RUNS
    """

    name: str
    script: str
    tag: str
    equation: str
    lecture: str
    place: str
    task: str
    check: Callable
    statements: int | None = None
    sets: str | None = None
    flags: tuple[str, ...] | None = None

    def run_flags(self) -> tuple[str, ...]:
        return RUNS[self.script] if self.flags is None else self.flags


EXERCISES = [
    Exercise(
        name="reward-to-go",
        script="reinforce",
        tag="reward-to-go",
        equation="G_t = Σ_{t'≥t} γ^{t'−t} r_{t'}",
        lecture="L1 L3 L4 L5",
        place="reward_to_go",
        task="return G (T, N) of reward (T, N) and gamma.",
        check=estimates.check_reward_to_go,
    ),
    Exercise(
        name="td-error",
        script="a2c",
        tag="td-error",
        equation="δ_t = r_t + γ V(s_{t+1}) − V(s_t), without V(s_{t+1}) after a termination",
        lecture="L3 L4 L5",
        place="gae",
        task="set delta (T, N) from reward (T, N), value (T+1, N), has_next_value (T, N), gamma.",
        check=estimates.check_td_error,
        statements=1,
        sets="delta",
    ),
    Exercise(
        name="gae",
        script="ppo_clip",
        tag="gae",
        equation="Â_t = δ_t + γλ Â_{t+1}, to the episode's end",
        lecture="L4",
        place="gae",
        task="return the advantages (T, N).",
        check=estimates.check_gae,
    ),
]


def find(name: str) -> Exercise:
    """The exercise of this name; raises BadInput if there is none."""
    for exercise in EXERCISES:
        if exercise.name == name:
            return exercise
    raise BadInput(f"there is no exercise {name}: python -m exercises lists them")
