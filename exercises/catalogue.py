"""The exercises, in the ladder's order."""

from collections.abc import Callable
from dataclasses import dataclass

from . import (
    BadInput,
    densities,
    estimates,
    imitation,
    off_policy,
    surrogates,
    trust_regions,
)

CARTPOLE = ("--env-id", "CartPole-v1")
SMALL_ITERATIONS = ("--num-envs", "4", "--num-steps", "200", "--num-updates", "150")
OFF_POLICY = ("ddpg", "td3", "sac")
PENDULUM = ("--env-id", "Pendulum-v1", "--total-timesteps", "3000", "--learning-starts", "400")
# Short runs, whose curves a student waits for.
RUNS = {
    "reinforce": (*CARTPOLE, "--total-timesteps", "40000"),
    "reinforce_baseline": (*CARTPOLE, "--total-timesteps", "40000"),
    "a2c": (*CARTPOLE, "--total-timesteps", "30000"),
    "ppo_clip": (*CARTPOLE, "--total-timesteps", "20480"),
    "ppo_kl": (*CARTPOLE, "--total-timesteps", "20480"),
    "trpo": (*CARTPOLE, "--total-timesteps", "20480"),
    "ddpg": PENDULUM,
    "td3": PENDULUM,
    "sac": PENDULUM,
    "dagger": ("--env-id", "Pendulum-v1", "--total-timesteps", "8000", *SMALL_ITERATIONS),
}
BALANCING = ("--env-id", "InvertedPendulum-v4", "--total-timesteps", "30720")  # Box actions
MEAN_BASELINE = (*RUNS["reinforce_baseline"], "--baseline", "mean")


@dataclass(frozen=True)
class Exercise:
    """What is to be written, and what checks it.

    place       the function or Class.method that it is in
    task        what to write, with shapes
    check       gets the function or class; where a line is asked for, a grading.Line
    statements  how many from the tagged one on are to be written; None for the function's body
    sets        the variable that the line sets, where a line is asked for
    flags       of the short run; None for the script's in RUNS
    keeps_inputs  the script needs the tensors that it hands over afterwards, unchanged
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
    keeps_inputs: bool = True

    def run_flags(self) -> tuple[str, ...]:
        return RUNS[self.script] if self.flags is None else self.flags


EXERCISES = [
    Exercise(
        name="score-function",
        script="reinforce",
        tag="score-function",
        equation="∇J(θ) ≈ (1/N) Σ_n Σ_t ∇ log π_θ(a_t|s_t) W_t",
        lecture="L1 L2 L3 L4 L5",
        place="reinforce_loss",
        task="return the loss, a number, of log_prob, weight and valid, all (T, N).",
        check=surrogates.check_score_function,
    ),
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
        name="softmax-policy",
        script="reinforce",
        tag="softmax-policy",
        equation="log π(a|s) = z_a − log Σ_b exp z_b",
        lecture="L1 L4",
        place="softmax_policy",
        task=(
            "return log π of the actions (...) and the entropy in nats (...), of logits "
            "(..., num_actions)."
        ),
        check=densities.check_softmax_policy,
    ),
    Exercise(
        name="gaussian-policy",
        script="ppo_clip",
        tag="gaussian-policy",
        equation="log π(a|s) = Σ_i −½ ((a_i − μ_i) / σ_i)² − log σ_i − ½ log 2π",
        lecture="L4",
        place="gaussian_policy",
        task=(
            "return log π of the actions (...) and the entropy in nats (...), of mean "
            "(..., act_dim) and log_std (act_dim,)."
        ),
        check=densities.check_gaussian_policy,
        flags=BALANCING,
    ),
    Exercise(
        name="mean-baseline",
        script="reinforce_baseline",
        tag="mean-baseline",
        equation="b_t = Σ_{j≠i} G_t^j / (m_t − 1), over the m_t episodes that still run",
        lecture="L1",
        place="mean_baseline",
        task="return b (T, N) of to_go (T, N), 0 where an episode has ended, and valid (T, N).",
        check=estimates.check_mean_baseline,
        flags=MEAN_BASELINE,
    ),
    Exercise(
        name="value-baseline",
        script="reinforce_baseline",
        tag="value-baseline",
        equation="Â_t = G_t − b(s_t)",
        lecture="L3 L4 L5",
        place="train",
        task="set advantage (T, N) from to_go and baseline, both (T, N).",
        check=estimates.check_value_baseline,
        statements=1,
        sets="advantage",
    ),
    Exercise(
        name="td-error",
        script="a2c",
        tag="td-error",
        equation="δ_t = r_t + γ V(s_{t+1}) − V(s_t), without V(s_{t+1}) after a termination",
        lecture="L3 L4 L5",
        place="gae",
        task=(
            "set delta (T, N) from reward (T, N), value (T+1, N), has_next_value (T, N) and gamma."
        ),
        check=estimates.check_td_error,
        statements=1,
        sets="delta",
    ),
    Exercise(
        name="n-step",
        script="a2c",
        tag="n-step",
        equation="R̂_t = r_t + γ r_{t+1} + … + γ^{T−t} V(s_T), which is Â_t + V(s_t) if λ = 1",
        lecture="L3",
        place="train",
        task="set target (T, N) from advantage (T, N) and value (T+1, N).",
        check=estimates.check_n_step,
        statements=1,
        sets="target",
    ),
    Exercise(
        name="actor-critic",
        script="a2c",
        tag="score-function",
        equation="∇J(θ) ≈ E_t[ ∇ log π_θ(a_t|s_t) Â_t ]",
        lecture="L3 L4 L5",
        place="policy_loss",
        task="return the loss, a number, of log_prob and advantage, both (M,).",
        check=surrogates.check_actor_critic,
    ),
    Exercise(
        name="gae",
        script="ppo_clip",
        tag="gae",
        equation="Â_t = Σ_l (γλ)^l δ_{t+l}, as Â_t = δ_t + γλ Â_{t+1}",
        lecture="L4",
        place="gae",
        task="return the advantages (T, N).",
        check=estimates.check_gae,
    ),
    Exercise(
        name="clip",
        script="ppo_clip",
        tag="clip",
        equation="min( ρ_t Â_t, clip(ρ_t, 1 − ε, 1 + ε) Â_t )",
        lecture="L3 L5",
        place="policy_loss",
        task="return the loss, a number, of ratio and advantage, both (B,), and clip_coef.",
        check=surrogates.check_clip,
    ),
    Exercise(
        name="surrogate",
        script="ppo_kl",
        tag="surrogate",
        equation="ρ_t = π_θ(a_t|s_t) / π_θk(a_t|s_t)",
        lecture="L3 L5",
        place="train",
        task=(
            "set ratio (B,) from log_prob (B,), batch_old_log_prob (M,) and the "
            "minibatch's indices mb (B,)."
        ),
        check=surrogates.check_surrogate,
        statements=1,
        sets="ratio",
    ),
    Exercise(
        name="surrogate-loss",
        script="ppo_kl",
        tag="surrogate",
        equation="L_θk(θ) = E[ ρ_t Â_t ]",
        lecture="L3 L5",
        place="policy_loss",
        task="return the loss, a number, of ratio and advantage, both (B,).",
        check=surrogates.check_surrogate_loss,
    ),
    Exercise(
        name="softmax-kl",
        script="ppo_kl",
        tag="kl-penalty",
        equation="D_KL(π_old ‖ π) = Σ_a π_old(a) (log π_old(a) − log π(a))",
        lecture="L3",
        place="softmax_kl",
        task="return the KL in nats (...) of old_logits and logits, both (..., num_actions).",
        check=densities.check_softmax_kl,
    ),
    Exercise(
        name="gaussian-kl",
        script="ppo_kl",
        tag="kl-penalty",
        equation="Σ_i [ (σ_old,i² + (μ_old,i − μ_i)²) / (2 σ_i²) − ½ − log σ_old,i + log σ_i ]",
        lecture="L3",
        place="gaussian_kl",
        task="return the KL in nats (...) of means and log_std, all (..., act_dim).",
        check=densities.check_gaussian_kl,
        flags=BALANCING,
    ),
    Exercise(
        name="kl-penalty",
        script="ppo_kl",
        tag="kl-penalty",
        equation="L_θk(θ) − β_k E_s[ D_KL(θ_k ‖ θ)[s] ]",
        lecture="L3",
        place="train",
        task="set penalty, a number that the loss adds, from kl_penalty.coef and kl.",
        check=surrogates.check_kl_penalty,
        statements=1,
        sets="penalty",
    ),
    Exercise(
        name="kl-adapt",
        script="ppo_kl",
        tag="kl-adapt",
        equation="β_{k+1} = 2 β_k if D_KL ≥ 1.5 δ, β_k / 2 if D_KL ≤ δ / 1.5",
        lecture="L3",
        place="KLPenalty.adapt",
        task="set self.coef, β, and keep it within smallest and largest; a β of 0 stays 0.",
        check=surrogates.check_kl_adapt,
    ),
    Exercise(
        name="fisher",
        script="trpo",
        tag="fisher",
        equation="H v = ∇_θ (∇_θ KL · v)",
        lecture="L5",
        place="fisher_product",
        task="return (H + damping·I) v (P,); flat_gradient(scalar, parameters) is a gradient (P,).",
        check=trust_regions.check_fisher,
    ),
    Exercise(
        name="natural-gradient",
        script="trpo",
        tag="natural-gradient",
        equation="√(2δ / sᵀHs) s, with s = H⁻¹ g",
        lecture="L5",
        place="train",
        task=("set step (P,) from max_kl, curvature (sᵀHs, which can be 0) and direction s (P,)."),
        check=trust_regions.check_natural_gradient,
        statements=1,
        sets="step",
    ),
    Exercise(
        name="trust-region",
        script="trpo",
        tag="trust-region",
        equation="max L_θk(θ) subject to E_s[ KL(π_θk ‖ π_θ) ] ≤ δ",
        lecture="L3 L5",
        place="train",
        task="set accepted, True or False, from kl, max_kl and gain, how much L has risen.",
        check=trust_regions.check_trust_region,
        statements=1,
        sets="accepted",
    ),
    Exercise(
        name="dpg",
        script="ddpg",
        tag="dpg",
        equation="∇_θ J = E_s[ ∇_θ π_θ(s) ∇_a Q(s,a) at a = π_θ(s) ]",
        lecture="L4",
        place="actor_loss",
        task="return the loss, a number, of q = Q(s, π_θ(s)) (B,).",
        check=off_policy.check_dpg,
    ),
    Exercise(
        name="td-target",
        script="ddpg",
        tag="td-target",
        equation="y = r + γ (1 − terminated) Q̄(s', π̄(s'))",
        lecture="L4",
        place="td_target",
        task="return y (B,) of reward, terminated (1 or 0) and next_value, all (B,), and gamma.",
        check=off_policy.check_td_target,
    ),
    Exercise(
        name="exploration",
        script="ddpg",
        tag="exploration",
        equation="β(·|s) = N(π_θ(s), σ²), within the bounds −1 and 1",
        lecture="L4",
        place="train",
        task="set action (N, act_dim) from action, the policy's, and noise, both (N, act_dim).",
        check=off_policy.check_exploration,
        statements=1,
        sets="action",
        keeps_inputs=False,
    ),
    Exercise(
        name="twin-target",
        script="td3",
        tag="twin-target",
        equation="y = r + γ (1 − terminated) min_i Q̄_i(s', a')",
        lecture="L4 L5",
        place="train",
        task="set next_value (B,) from next_q1 and next_q2, both (B,).",
        check=off_policy.check_twin_target,
        statements=1,
        sets="next_value",
        keeps_inputs=False,
    ),
    Exercise(
        name="target-smoothing",
        script="td3",
        tag="target-smoothing",
        equation="a' = π̄(s') + clip(ε, −c, c), within the bounds −1 and 1",
        lecture="L4 L5",
        place="smoothed_action",
        task="return a' (B, act_dim) of action and noise, both (B, act_dim), and noise_clip.",
        check=off_policy.check_target_smoothing,
        keeps_inputs=False,
    ),
    Exercise(
        name="soft-value",
        script="sac",
        tag="soft-value",
        equation="V(s) = E_a[ Q(s,a) − α log π(a|s) ]",
        lecture="L4",
        place="soft_value",
        task="return V (B,) of q1 and q2, two estimates of Q (B,), alpha and log_prob (B,).",
        check=off_policy.check_soft_value,
    ),
    Exercise(
        name="soft-bellman",
        script="sac",
        tag="soft-bellman",
        equation="y = r + γ (1 − terminated) V̄(s')",
        lecture="L4",
        place="train",
        task=(
            "set target (B,) from batch.reward, batch.terminated, next_value, all (B,), "
            "and args.gamma."
        ),
        check=off_policy.check_soft_bellman,
        statements=1,
        sets="target",
    ),
    Exercise(
        name="soft-improvement",
        script="sac",
        tag="soft-improvement",
        equation="min_θ E[ α log π_θ(a|s) − Q(s,a) ]",
        lecture="L4",
        place="train",
        task="set pi_loss, a number, from value (B,), the soft value.",
        check=off_policy.check_soft_improvement,
        statements=1,
        sets="pi_loss",
    ),
    Exercise(
        name="tanh-gaussian",
        script="sac",
        tag="pathwise",
        equation=(
            "a = tanh(μ + σ ε), ε ~ N(0, 1), and log π(a) = Σ_i [ log N(u_i; μ_i, σ_i) − "
            "log(1 − tanh²(u_i)) ]"
        ),
        lecture="L5",
        place="tanh_gaussian",
        task=(
            "return a (B, act_dim) and log π(a) (B,) of mean, log_std and noise, all (B, act_dim)."
        ),
        check=densities.check_tanh_gaussian,
    ),
    Exercise(
        name="temperature",
        script="sac",
        tag="temperature",
        equation="α (H(π) − H̄), descended in α",
        lecture="Haarnoja et al. 2018b",
        place="temperature_loss",
        task="return the loss, a number, of alpha, entropy and target_entropy, all numbers.",
        check=off_policy.check_temperature,
    ),
    Exercise(
        name="behavioural-cloning",
        script="dagger",
        tag="behavioural-cloning",
        equation="max_θ Σ_i log π_θ(a*_i|s_i)",
        lecture="L1",
        place="imitation_loss",
        task=(
            "return the loss, a number, of the actor's outputs (B, ·) and the labels (B, "
            "...), up to a constant; σ = 1."
        ),
        check=imitation.check_behavioural_cloning,
    ),
    Exercise(
        name="labels",
        script="dagger",
        tag="dagger",
        equation="run π_θ, or its mixture with π*, label every visited state with a* = π*(s)",
        lecture="L1",
        place="LabelCollector.collect",
        task=(
            "append the valid rows of self.obs to observations (float32 tensors) and their "
            "labels by self.expert to labels (tensors); set action, of self.agent.act, but "
            "the expert's with probability beta in each environment."
        ),
        check=imitation.check_labels,
        statements=6,
    ),
    Exercise(
        name="aggregation",
        script="dagger",
        tag="dagger",
        equation="D ← D ∪ D_π",
        lecture="L1",
        place="Dataset.add",
        task=(
            "append obs (n, obs_dim) and label (n, ...) to self.obs and self.label, on "
            "their device."
        ),
        check=imitation.check_aggregation,
    ),
]


def find(name: str) -> Exercise:
    """The exercise of this name; raises BadInput if there is none."""
    for exercise in EXERCISES:
        if exercise.name == name:
            return exercise
    raise BadInput(f"there is no exercise {name}: python -m exercises lists them")
