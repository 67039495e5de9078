# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "torch>=2.6",
#     "gymnasium[classic-control,box2d,mujoco]>=1.1",
#     "mujoco>=3.1,<3.16",
#     "tyro>=0.9",
#     "tensorboard>=2.18",
#     "tqdm>=4.66",
#     "filelock>=3.12",
# ]
# ///
"""PPO-clip: proximal policy optimisation with the clipped surrogate.

A tag such as [gae] names an equation and stands beside the code that computes it. The project's
LECTURES.md lists all tags.

Objective   J(θ) = E_τ[ Σ_t r_t ]  [objective]. On each rollout, gradient ascent raises

    L(θ, φ) = E_t[ min(ρ_t Â_t, clip(ρ_t, 1−ε, 1+ε) Â_t) − c₁ ½ (V_φ(s_t) − R̂_t)² + c₂ H(π_θ) ]

    where ρ_t = π_θ(a_t|s_t) / π_θk(a_t|s_t), and θ_k are the parameters that sampled the rollout.

Algorithm   repeat until the budget of environment steps is spent
    1. run π_θk for T steps in N parallel environments
    2. remember log π_θk(a_t|s_t)
    3. repeat for K epochs, or until KL(π_θk ‖ π_θ) > target_kl at the end of one
           δ_t ← r_t + γ V_φ(s_{t+1}) − V_φ(s_t), where V_φ(s_{t+1}) is 0 after a termination
           Â_t ← δ_t + γλ δ_{t+1} + (γλ)² δ_{t+2} + …, to the end of the episode or the rollout
           R̂_t ← Â_t + V_φ(s_t)
           for each minibatch: θ, φ ← one Adam step on −L
    4. in the first half of the budget, update the statistics that normalise observations; log

Symbols     T steps, N environments. gymnasium spends the step after an episode's end on the reset
            (see Collector). Nothing is learned from that step: M of the T·N steps are valid.
    s_t     obs         (T+1, N, obs_dim)  the last row is where the next rollout starts
            x           (T+1, N, obs_dim)  normalised observations: what actor and critic see
    a_t     action      (T, N) or (T, N, act_dim)
    r_t     reward      (T, N)  the raw reward divided by the deviation of its discounted sums
    V_φ     value       (T+1, N)      R̂_t  target  (T, N)      Â_t  advantage  (T, N)
    ρ_t     ratio       (B,)  of a minibatch of B of the M valid steps
    γ gamma   λ gae_lambda   ε clip_coef   c₁ vf_coef   c₂ ent_coef   K update_epochs

New after a2c.py: the ratio lets one rollout serve many steps. The clip takes away the gain from
moving it far from 1. Unlike most PPO code, this one recomputes advantages before every epoch. It
does not normalise them, unless --norm-adv is given: where all are near 0, that would enlarge noise.
A tanh bounds the means of Box actions. A new mean of the observations does not move the policy.

Run         python ppo_clip.py --env-id HalfCheetah-v4 --total-timesteps 1000000
Lectures    L3, "PPO with Clipped Objective"; L5, pages 49 to 51
Papers      Schulman et al. 2017, "Proximal Policy Optimization Algorithms", arXiv:1707.06347
            Schulman et al. 2016, "High-Dimensional Continuous Control Using GAE", arXiv:1506.02438
"""

import contextlib
import errno
import importlib.util
import inspect
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import traceback
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NoReturn

import gymnasium as gym
import numpy as np
import torch
import tyro
from filelock import FileLock, Timeout
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

SCRIPT = Path(__file__).stem


@dataclass
class Args:
    """First the task, as far as --seed; then the algorithm; from --exp-name on, the run."""

    # The task
    env_id: str = "CartPole-v1"
    """id of the gymnasium environment: vector observations, Discrete or Box actions"""
    total_timesteps: int = 60_000
    """budget of environment steps; a run ends with the rollout in which it is reached"""
    seed: int = 1
    """seed of the network, the actions and the environments"""

    # The algorithm
    learning_rate: float = 1.5e-3
    """Adam's step size"""
    anneal_lr: bool = True
    """lower the step size linearly to zero over the budget"""
    num_envs: int = 16
    """parallel environments, N"""
    num_steps: int = 128
    """steps of each environment in a rollout, T"""
    num_minibatches: int = 4
    """minibatches an epoch; must divide num_envs × num_steps"""
    update_epochs: int = 10
    """passes over each rollout, K"""
    gamma: float = 0.99
    """discount factor, γ"""
    gae_lambda: float = 0.95
    """λ of the generalised advantage estimate: 0 is TD(0), 1 is Monte Carlo"""
    clip_coef: float = 0.2
    """clip range of the probability ratio, ε"""
    clip_vloss: bool = False
    """clip the change of the value, too, to ± clip_coef in units of the scaled reward"""
    ent_coef: float | None = None
    """weight of the entropy bonus, c₂ (None: 0.003 for Discrete actions, 0 for Box)"""
    vf_coef: float = 0.5
    """weight of the value loss, c₁"""
    max_grad_norm: float = 0.5
    """largest L2 norm of the gradient; a larger one is scaled down to it"""
    target_kl: float = 0.05
    """end an update after the epoch that leaves KL(π_θk ‖ π_θ) above this, in nats"""
    norm_adv: bool = False
    """normalise each minibatch's advantages to mean 0 and deviation 1"""
    norm_obs: bool = True
    """normalise observations by their running mean and deviation"""
    norm_reward: bool = True
    """divide rewards by the running standard deviation of their discounted sum"""

    # The run
    exp_name: str = SCRIPT
    """name of the experiment, part of the run folder's name"""
    run_dir: str | None = None
    """folder of the run (None: runs/<env>__<exp>__<seed>__<unix time>)"""
    resume: str | None = None
    """continue the run in this folder with its own flags; flags given beside it override them"""
    checkpoint_interval: float = 60.0
    """seconds between checkpoints"""
    target_return: float | None = None
    """stop training when the mean return of the last 100 episodes reaches this"""
    eval_episodes: int = 100
    """episodes of the final evaluation, each in an environment of its own"""
    eval_interval: int = 0
    """environment steps between evaluations during the training; 0 for one at its end alone"""
    evaluate: str | None = None
    """instead of training, evaluate the policy of this run's folder"""
    render: Literal["human"] | None = None
    """with --evaluate: show the episodes in a window, one after another"""
    save_model: bool = True
    """write the deterministic policy to policy.pt"""
    capture_video: bool = False
    """film an episode of the evaluation, into the run's folder"""
    track: bool = False
    """log to Weights & Biases as well"""
    wandb_project_name: str = "policy-gradients"
    """Weights & Biases project"""
    wandb_entity: str | None = None
    """Weights & Biases team"""
    cuda: bool = True
    """use the GPU if there is one"""
    torch_deterministic: bool = True
    """use only deterministic algorithms on the GPU"""
    compile: bool = False
    """torch.compile the networks; it takes ten seconds or more to begin with"""


# ================================ the algorithm ================================


class RunningStats(nn.Module):
    """Mean, variance and deviation of everything seen so far: buffers, saved with the network.

    The deviation is 1 for what has hardly varied yet, so that dividing by it blows nothing up.
    """

    def __init__(self, *shape: int):
        super().__init__()
        self.mean = nn.Buffer(torch.zeros(shape))
        self.var = nn.Buffer(torch.ones(shape))
        self.std = nn.Buffer(torch.ones(shape))
        self.count = nn.Buffer(torch.tensor(0))

    def update(self, x: Tensor) -> None:
        """Merge in x (n, *shape), n ≥ 1; Chan et al. 1979. The first x replaces what was there."""
        self.count += len(x)
        weight = len(x) / self.count.item()  # share of x in everything, itself included
        delta = x.mean(0) - self.mean
        self.mean += weight * delta
        # The variance of a mixture of two groups whose means lie delta apart.
        self.var += weight * (x.var(0, correction=0) - self.var + (1 - weight) * delta.square())
        self.std.copy_(torch.where(self.var > 1e-8, (self.var + 1e-8).sqrt(), 1.0))


def mlp(num_inputs: int, num_outputs: int, activation, last_gain: float) -> nn.Sequential:
    """Two hidden layers of 64 units. `last_gain` scales the last layer's initial weights."""
    net = nn.Sequential(
        nn.Linear(num_inputs, 64),
        activation(),
        nn.Linear(64, 64),
        activation(),
        nn.Linear(64, num_outputs),
    )
    linear_layers = net[::2]
    gains = [2**0.5, 2**0.5, last_gain]
    for layer, gain in zip(linear_layers, gains):
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
    return net


class Agent(nn.Module):
    """Actor and critic. They see x (..., obs_dim), observations normalised by running statistics.

    In shapes, `...` stands for any leading dimensions: (T, N), (B,) or none.

    Discrete actions: the actor gives a logit for each action. Box actions: it gives the mean of a
    Gaussian, in units in which the action bounds are [−1, 1]; σ is the same in every state.
    """

    def __init__(self, observation_space: Box, action_space: Discrete | Box):
        super().__init__()
        obs_dim = observation_space.shape[0]
        self.discrete = isinstance(action_space, Discrete)
        if self.discrete:
            num_outputs = int(action_space.n)
            low = action_space.start  # the first action's number, which need not be 0
            high = low  # saved with the policy, but not used: only Box actions are bounded
        else:
            num_outputs = action_space.shape[0]
            low = action_space.low
            high = action_space.high
        self.actor = mlp(obs_dim, num_outputs, nn.SiLU, last_gain=0.01)
        if not self.discrete:
            # Without it, a mean far beyond a bound would stay there. All actions drawn around it
            # would be clipped to that bound: none better than another, so nothing to learn from.
            self.actor.append(nn.Tanh())
        # SiLU units learn faster, but are not bounded. With them the critic's values grow without
        # limit in states that were rarely seen, which spoils the actor. So the critic has tanh.
        self.critic = mlp(obs_dim, 1, nn.Tanh, last_gain=1.0)
        self.log_std = nn.Parameter(torch.full((num_outputs,), -0.5))  # log σ; Discrete: not used
        self.obs_stats = RunningStats(obs_dim)
        self.discounted_sum_stats = RunningStats()  # whose deviation scales the rewards
        self.low = nn.Buffer(torch.tensor(low))
        self.high = nn.Buffer(torch.tensor(high))

    def normalize(self, obs: Tensor) -> Tensor:
        """Scale observations. With --no-norm-obs mean and deviation stay 0 and 1: no change."""
        return (obs - self.obs_stats.mean) / self.obs_stats.std

    @torch.no_grad()
    def update_obs_stats(self, obs: Tensor) -> None:
        """Merge obs (n, obs_dim) into the statistics. At their new mean the policy does not change.

        A new mean shifts every x by the same vector. That would move the policy in all states, and
        no loss or KL would know of it. So the actor's first bias takes the shift back. A new
        deviation stretches x around the mean. This is let through, as bringing x to scale is what
        the statistics are for. The critic needs no correction: it is fitted to new targets in every
        iteration.
        """
        had_stats = int(self.obs_stats.count) > 0
        old_mean = self.obs_stats.mean.clone()
        old_std = self.obs_stats.std.clone()
        self.obs_stats.update(obs)
        if had_stats:  # the first statistics must change x: they bring it to scale
            # An observation that equals the new mean had x = shift, and the first layer gave
            # W·shift + b. Now it has x = 0. The new bias W·shift + b gives the same.
            shift = (self.obs_stats.mean - old_mean) / old_std
            self.actor[0].bias += self.actor[0].weight @ shift

    def value(self, x: Tensor) -> Tensor:
        """V_φ(s), (...), in the unit of its targets in `train`."""
        return self.critic(x).squeeze(-1)

    def sample(self, out: Tensor) -> Tensor:
        """Draw a ~ π_θ(·|s), (...) or (..., act_dim), from the actor's outputs."""
        if self.discrete:
            # The Gumbel-max trick, quicker than torch's Categorical: argmax_a(z_a + g_a) samples
            # softmax(z), if g is Gumbel noise: minus the log of an exponential variable.
            gumbel = -torch.empty_like(out).exponential_().log()
            return (out + gumbel).argmax(-1)
        return out + self.log_std.exp() * torch.randn_like(out)

    def log_prob_and_entropy(self, out: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """log π_θ(a|s) and H(π_θ(·|s)), both (...), from the actor's outputs."""
        if self.discrete:
            return softmax_policy(out, action)
        return gaussian_policy(out, self.log_std, action)

    def to_env(self, action: Tensor) -> np.ndarray:
        """Turn actions into the environment's: Box actions are scaled to the bounds and clipped."""
        if self.discrete:
            env_action = self.low + action
        else:
            share = (action + 1) / 2  # 0 at the lower bound, 1 at the upper
            scaled = self.low + share * (self.high - self.low)
            env_action = scaled.clamp(self.low, self.high)
        return env_action.cpu().numpy()


def softmax_policy(logits: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy (...) of actions (...) under logits (..., num_actions)."""
    log_p = logits.log_softmax(-1)  # [softmax-policy] log π(a|s) = z_a − log Σ_b exp z_b
    log_prob = log_p.gather(-1, action.unsqueeze(-1)).squeeze(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    return log_prob, entropy


def gaussian_policy(mean: Tensor, log_std: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy (...) of actions (..., act_dim) under means (..., act_dim)."""
    z = (action - mean) / log_std.exp()
    # [gaussian-policy] log N(a_i; μ_i, σ_i) for each dimension i of the action
    log_density = -z.square() / 2 - log_std - np.log(2 * np.pi) / 2
    log_prob = log_density.sum(-1)
    entropy = (log_std + np.log(2 * np.pi * np.e) / 2).sum()  # the same in every state
    return log_prob, entropy.expand(log_prob.shape)


def gae(
    reward: Tensor, value: Tensor, terminated: Tensor, truncated: Tensor, gamma: float, lam: float
) -> Tensor:
    """Generalised advantage estimate (T, N) from values (T+1, N); Schulman et al. 2016, eq. 16.

    A terminated episode has no value after it. A truncated one is bootstrapped with the value of
    its true last observation, which is obs[t + 1] (see Collector). The sum stops at either.

    A step that only resets gets a meaningless advantage, which the losses leave out, by `valid`.
    Nothing of it leaks into the step before, where an episode ended: goes_on is 0 there.
    """
    has_next_value = (~terminated).to(value)  # (T, N), 1 or 0
    goes_on = (~(terminated | truncated)).to(value)  # (T, N), 1 or 0
    delta = reward + gamma * value[1:] * has_next_value - value[:-1]  # [td-error] (T, N)
    decay = gamma * lam * goes_on
    deltas = delta.unbind()  # T tensors (N,): indexing a tuple is quicker than indexing a tensor
    decays = decay.unbind()
    advantages = []  # from the last to the first
    next_advantage = torch.zeros_like(deltas[0])  # (N,)
    for t in reversed(range(len(deltas))):
        advantage = deltas[t] + decays[t] * next_advantage  # [gae] Â_t = δ_t + γλ Â_{t+1}
        advantages.append(advantage)
        next_advantage = advantage
    return torch.stack(advantages[::-1])


def policy_loss(ratio: Tensor, advantage: Tensor, clip_coef: float) -> Tensor:
    """The clipped surrogate, negated, of a minibatch (B,); Schulman et al. 2017, eq. 7.

    Where Â > 0, raising the ratio beyond 1 + ε gains nothing; where Â < 0, lowering it below 1 − ε
    gains nothing. There the gradient is 0. A ratio that has moved the other way keeps its gradient,
    however far it is, since the unclipped term is then the smaller one. So a mistake is undone.
    """
    clipped_ratio = ratio.clamp(1 - clip_coef, 1 + clip_coef)
    return -torch.min(ratio * advantage, clipped_ratio * advantage).mean()  # [clip]


def value_loss(value: Tensor, target: Tensor) -> Tensor:
    """Half the mean squared error."""
    return 0.5 * (value - target).square().mean()


def clipped_value_loss(
    value: Tensor, old_value: Tensor, target: Tensor, clip_coef: float
) -> Tensor:
    """The value loss, where moving further than clip_coef from the old value gains nothing."""
    clipped_value = old_value + (value - old_value).clamp(-clip_coef, clip_coef)
    error = torch.max((value - target).square(), (clipped_value - target).square())
    return 0.5 * error.mean()


@torch.no_grad()
def approx_kl(log_ratio: Tensor) -> Tensor:
    """Estimate KL(π_θk ‖ π_θ) = E[−log ρ], in nats, from log ρ_t (n,) of actions of π_θk.

    A term −log ρ can be negative. Adding ρ − 1, whose mean under π_θk is 0, makes every term ≥ 0.
    """
    return (log_ratio.exp() - 1 - log_ratio).mean()


@dataclass
class Rollout:
    """T steps in each of N environments, as tensors on the agent's device."""

    obs: Tensor  # (T+1, N, obs_dim)
    action: Tensor  # (T, N) or (T, N, act_dim), as sampled, before to_env scales and clips it
    reward: Tensor  # (T, N)
    terminated: Tensor  # (T, N)
    truncated: Tensor  # (T, N)
    valid: Tensor  # (T, N), False for a step that only reset the environment
    discounted_sum: Tensor  # (T, N), u_t = raw reward + γ u_{t−1}, from an episode's beginning
    episodes: list[tuple[float, int]]  # return and length of each episode that ended


class Collector:
    """Runs the agent in N environments, T steps at a time, and remembers where they are.

    An environment is reset in the step after its episode's end. That step ignores its action, and
    its reward is 0. This is a truncation after three steps:

        t               0      1      2      3       4
        obs[t]          s_0    s_1    s_2    s_3     new s_0
        reward[t]       r_0    r_1    r_2    0       new r_0
        truncated[t]                  True
        valid[t]        True   True   True   False   True

    Step 3 only resets. s_3 is the episode's true last observation: its value bootstraps step 2.
    """

    def __init__(self, envs: gym.vector.VectorEnv, agent: Agent, device, gamma: float, seed: int):
        self.envs = envs
        self.agent = agent
        self.device = device
        self.gamma = gamma
        self.obs, _ = envs.reset(seed=seed)  # (N, obs_dim)
        self.done = np.zeros(envs.num_envs, dtype=bool)  # where the next step only resets
        self.discounted_sum = np.zeros(envs.num_envs)
        self.episode_return = np.zeros(envs.num_envs)
        self.episode_length = np.zeros(envs.num_envs, dtype=int)

    @torch.no_grad()
    def collect(self, num_steps: int) -> Rollout:
        """Run T = num_steps steps. Only actions are computed here: `train` computes values
        and log-probabilities later, for all steps at once.
        """
        shape = (num_steps, self.envs.num_envs)
        obs = np.zeros((num_steps + 1, *self.obs.shape), dtype=np.float32)
        reward = np.zeros(shape)
        terminated = np.zeros(shape, dtype=bool)
        truncated = np.zeros(shape, dtype=bool)
        valid = np.zeros(shape, dtype=bool)
        discounted_sum = np.zeros(shape)
        actions = []
        episodes = []
        for t in range(num_steps):
            obs[t] = self.obs
            x = self.agent.normalize(self.to_tensor(obs[t]))
            action = self.agent.sample(self.agent.actor(x))
            actions.append(action)
            valid[t] = ~self.done
            env_action = self.agent.to_env(action)
            self.obs, reward[t], terminated[t], truncated[t], _ = self.envs.step(env_action)
            self.done = terminated[t] | truncated[t]

            # At a step that only resets, reward and valid are 0: the sum starts from 0 again.
            self.discounted_sum = reward[t] + self.gamma * self.discounted_sum * valid[t]
            discounted_sum[t] = self.discounted_sum
            self.episode_return += reward[t]
            self.episode_length += valid[t]
            for n in np.flatnonzero(self.done):
                episodes.append((float(self.episode_return[n]), int(self.episode_length[n])))
                self.episode_return[n] = 0
                self.episode_length[n] = 0
        obs[num_steps] = self.obs
        if not valid.any():
            # With T = 1 this can be: every environment was being reset. There is nothing to learn
            # from, and no episode has ended. The next step of each is a real one, so collect again.
            return self.collect(num_steps)
        return Rollout(
            obs=self.to_tensor(obs),
            action=torch.stack(actions),
            reward=self.to_tensor(reward.astype(np.float32)),
            terminated=self.to_tensor(terminated),
            truncated=self.to_tensor(truncated),
            valid=self.to_tensor(valid),
            discounted_sum=self.to_tensor(discounted_sum.astype(np.float32)),
            episodes=episodes,
        )

    def to_tensor(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, device=self.device)


def train(args: Args) -> None:
    """Train. The comments 1. to 4. are the steps of the algorithm in the docstring at the top.

    The CPU waits for the GPU
    - in every environment step: in to_env;
    - in every iteration: in tensor[valid], as it must know the size; in updates of statistics;
      in run.log;
    - in every epoch: in tensor[valid] and in the test of --target-kl;
    - never in a minibatch.
    """
    check(args)
    device = set_up(args)
    envs = make_envs(args.env_id, args.num_envs)
    agent = Agent(envs.single_observation_space, envs.single_action_space).to(device)
    if args.ent_coef is None:
        args.ent_coef = 0.003 if agent.discrete else 0.0
    # Adam is defined below: the same as torch.optim.Adam, but the script starts a second sooner.
    optimizer = Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5, fused=True)
    if args.compile:
        # Compile only forward: compiling the module would rename its parameters in checkpoints.
        agent.actor.forward = torch.compile(agent.actor.forward)
        agent.critic.forward = torch.compile(agent.critic.forward)
    # With --resume, Run restores agent and optimizer. The step count is part of env_seed, so that
    # a resumed run does not repeat the episodes with which it began.
    run = Run(args, envs, device, agent=agent, optimizer=optimizer)
    env_seed = derive_seed(args.seed, TRAINING, run.count.global_step)
    collector = Collector(envs, agent, device, args.gamma, env_seed)

    while not run.finished():
        lr = args.learning_rate
        if args.anneal_lr:
            lr *= 1 - run.count.global_step / args.total_timesteps
        optimizer.param_groups[0]["lr"] = lr

        # 1. Run the policy for T steps in N environments.
        rollout = collector.collect(args.num_steps)
        valid = rollout.valid
        x = agent.normalize(rollout.obs)  # (T+1, N, obs_dim)
        reward = rollout.reward
        # The rewards' statistics take in this rollout before they are used: so even the first
        # rollout's rewards are scaled.
        # The statistics of observations change only in step 4: the policy has acted on this x.
        if args.norm_reward:
            agent.discounted_sum_stats.update(rollout.discounted_sum[valid])
            reward = reward / agent.discounted_sum_stats.std

        # 2. Remember the policy that acted, by its log-probabilities.
        with torch.no_grad():
            old_out = agent.actor(x[:-1])
            old_log_prob, _ = agent.log_prob_and_entropy(old_out, rollout.action)  # (T, N)
            old_value = agent.value(x[:-1])  # (T, N), for clip_vloss and explained_variance

        # 3. K epochs of minibatch steps on this one rollout, of which M steps are valid.
        batch_x = x[:-1][valid]  # (M, obs_dim)
        batch_action = rollout.action[valid]  # (M,) or (M, act_dim)
        batch_old_log_prob = old_log_prob[valid]  # (M,)
        batch_old_value = old_value[valid]
        for _ in range(args.update_epochs):
            with torch.no_grad():
                value = agent.value(x)  # (T+1, N)
            # The critic has changed since the last epoch, so advantages are computed anew.
            advantage = gae(
                reward, value, rollout.terminated, rollout.truncated, args.gamma, args.gae_lambda
            )  # (T, N)
            batch_advantage = advantage[valid]
            batch_target = (advantage + value[:-1])[valid]
            shuffled = torch.randperm(len(batch_x), device=device)
            for mb in shuffled.chunk(args.num_minibatches):  # indices (B,), B ≈ M / num_minibatches
                out = agent.actor(batch_x[mb])
                log_prob, entropy = agent.log_prob_and_entropy(out, batch_action[mb])  # (B,)
                log_ratio = log_prob - batch_old_log_prob[mb]
                ratio = log_ratio.exp()  # [surrogate] ρ_t = π_θ(a_t|s_t) / π_θk(a_t|s_t)
                mb_advantage = batch_advantage[mb]
                if args.norm_adv:  # a minibatch of one step gets 0, not NaN
                    centred = mb_advantage - mb_advantage.mean()
                    mb_advantage = centred / (mb_advantage.std(correction=0) + 1e-8)
                pg_loss = policy_loss(ratio, mb_advantage, args.clip_coef)
                v = agent.value(batch_x[mb])
                if args.clip_vloss:
                    v_loss = clipped_value_loss(
                        v, batch_old_value[mb], batch_target[mb], args.clip_coef
                    )
                else:
                    v_loss = value_loss(v, batch_target[mb])
                loss = pg_loss + args.vf_coef * v_loss - args.ent_coef * entropy.mean()

                optimizer.zero_grad()
                loss.backward()
                grad_norm = nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
                optimizer.step()

                run.metric("losses/policy_loss", pg_loss)
                run.metric("losses/value_loss", v_loss)
                run.metric("losses/entropy", entropy.mean())
                run.metric("losses/approx_kl", approx_kl(log_ratio))
                run.metric("losses/clipfrac", ((ratio - 1).abs() > args.clip_coef).float().mean())
                run.metric("losses/grad_norm", grad_norm)
            # The clip does not bound how far the policy moves. If it has moved too far, stop here.
            # This is the KL over all steps and after the epoch: not losses/approx_kl, which is the
            # mean over the minibatches, each before its step.
            with torch.no_grad():
                log_prob, _ = agent.log_prob_and_entropy(agent.actor(batch_x), batch_action)
            if approx_kl(log_prob - batch_old_log_prob) > args.target_kl:
                break

        # 4. Update the observation statistics for the next rollout; log; save when it is time. In
        # the second half of the budget the statistics stay as they are: a new deviation moves the
        # policy. With a step size that falls to 0, Adam could not correct that any more.
        is_first_half = run.count.global_step < args.total_timesteps / 2
        if args.norm_obs and is_first_half:
            agent.update_obs_stats(rollout.obs[:-1][valid])
        # How well did the values before this update explain the targets of its last epoch?
        unexplained = (batch_target - batch_old_value).var(correction=0)
        explained_variance = 1 - unexplained / (batch_target.var(correction=0) + 1e-8)
        run.metric("losses/explained_variance", explained_variance)
        run.metric("charts/learning_rate", lr)
        run.log(int(valid.sum()), rollout.episodes)

    run.finish(export(agent))  # saves and evaluates the deterministic policy


# ============ the rest is not the algorithm, and can be skipped ============

# ---------------------------------------------------------------- what only this script needs

# The allowed range of each number. What is not named here may be from 0 to 1e15.
AT_LEAST_1 = [
    "total_timesteps",
    "num_envs",
    "num_steps",
    "num_minibatches",
    "update_epochs",
    "eval_episodes",
]
LEAST = dict.fromkeys(AT_LEAST_1, 1)
LEAST |= {"max_grad_norm": 1e-9, "target_kl": 1e-9, "target_return": -1e15}
MOST = {"gamma": 1, "gae_lambda": 1, "num_envs": 100_000, "eval_episodes": 10_000}
# Flags that --resume cannot change: what was learned before would be of no use.
FIXED = ["env_id", "norm_obs"]


def check_own(args: Args, obs: Box, action: gym.Space) -> None:
    """What only this script asks of its arguments and of the environment."""
    steps = args.num_envs * args.num_steps
    size = f"a rollout, --num-envs {args.num_envs} × --num-steps {args.num_steps} = {steps} steps"
    if args.total_timesteps < steps:
        fail(f"--total-timesteps {args.total_timesteps} is less than {size}")
    if steps % args.num_minibatches != 0:
        fail(f"--num-minibatches {args.num_minibatches} does not divide {size}")
    flat_box = isinstance(action, Box) and len(action.shape) == 1 and action.shape != (0,)
    # A Box without bounds has ±inf for them, or ±3.4e38, the largest number of float32.
    bounded_box = flat_box and np.abs([action.low, action.high]).max() < 1e30
    if not bounded_box and not isinstance(action, Discrete):
        fail(f"--env-id {args.env_id}: actions {action}, neither Discrete nor a flat, bounded Box")


def set_threads() -> None:
    """Take one thread: networks this small gain nothing from two. OMP_NUM_THREADS overrides it."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def export(agent: Agent) -> dict:
    """The deterministic policy as plain data, for load_policy. Run adds env_id and spaces."""
    linear_layers = agent.actor[::2]  # activations stand between them
    return {
        "layers": [(layer.weight.detach(), layer.bias.detach()) for layer in linear_layers],
        "activation": "silu",
        "head": "argmax" if agent.discrete else "tanh",
        "obs_mean": agent.obs_stats.mean,
        "obs_std": agent.obs_stats.std,
        "low": agent.low,
        "high": agent.high,
    }


# ---------------------------------------------------------------- the same in every script

# It is copied, not imported, so that a script runs wherever it is put. In this order:
#     environments and evaluation     make_envs, evaluate
#     the saved policy                load_policy
#     the run                         Run: its folder, log, checkpoints and orderly end
#     files and messages              the folder, what is written and what is printed
#     the command line                parse_args, and check before anything is written
#     the program                     main

# -------------------------------- environments and evaluation

MAX_EPISODE_STEPS = 10_000  # where an environment has no time limit of its own
INTERVAL_EPISODES = 10  # in each evaluation that --eval-interval asks for
# What a seed is for: the second argument of derive_seed. So an evaluation has other episodes than
# the training with the same --seed.
TRAINING = 0
EVALUATION = 1
ACTIONS = 2  # which only some scripts need


def derive_seed(*numbers: int) -> int:
    """Mix numbers into a 31-bit seed, so that neighbouring --seed values give unrelated ones."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0]) // 2


def make_envs(env_id: str, num_envs: int) -> gym.vector.VectorEnv:
    """Make environments that step together: gymnasium's native vector version if there is one.

    Autoreset is gymnasium's default, NEXT_STEP. The step that ends an episode returns its true last
    observation. The step after it only resets: its action is ignored, its reward is 0.
    An environment without a time limit gets MAX_EPISODE_STEPS. Native vector versions cannot be
    given a limit: `check` refuses those that have none.
    """
    envs = gym.make_vec(env_id, num_envs)
    if not has_own_limit(envs) and not is_native(envs):
        envs.close()
        envs = gym.make_vec(env_id, num_envs, max_episode_steps=MAX_EPISODE_STEPS)
    return envs


def has_own_limit(envs: gym.vector.VectorEnv) -> bool:
    """Tell whether the environment is registered with a time limit.

    A limit that make_envs has added is not counted: it does not appear in spec.
    """
    return envs.spec.max_episode_steps is not None


def is_native(envs: gym.vector.VectorEnv) -> bool:
    """Tell a vector version of the environment's own from gymnasium's, which steps N copies."""
    return not isinstance(envs, gym.vector.SyncVectorEnv)


def make_filmed_env(env_id: str, folder: str | Path) -> gym.vector.VectorEnv:
    """Make one environment, whose first episode is written to a video in the folder."""
    record = [lambda env: gym.wrappers.RecordVideo(env, str(folder))]
    return gym.make_vec(env_id, 1, "sync", wrappers=record, render_mode="rgb_array")


def evaluate(policy, envs: gym.vector.VectorEnv, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Run one episode in each of N environments. Return the N undiscounted returns and lengths.

    `policy` takes observations (N, obs_dim) to actions (N, ...). Each environment contributes one
    episode, because the first N episodes to end would be the short ones.
    """
    obs, _ = envs.reset(seed=seed)
    returns = np.zeros(envs.num_envs)
    lengths = np.zeros(envs.num_envs, dtype=int)
    running = np.ones(envs.num_envs, dtype=bool)
    # The environments' own limit ends the loop by `break`. This one is for environments without a
    # limit, as filmed ones may be, and without a spec, as those are that gym.make_vec has not made.
    limit = getattr(envs.spec, "max_episode_steps", None) or MAX_EPISODE_STEPS
    for _ in range(limit):
        obs, reward, terminated, truncated, _ = envs.step(policy(obs))
        returns += reward * running
        lengths += running
        running &= ~(terminated | truncated)
        if not running.any():
            break
    return returns, lengths


def film(policy, env_id: str, folder: Path, seed: int) -> None:
    """Film one episode into the folder. Videos that are already there are deleted."""
    shutil.rmtree(folder, ignore_errors=True)
    env = make_filmed_env(env_id, folder)
    evaluate(policy, env, seed)
    env.close()


def evaluate_again(args: Args) -> None:
    """--evaluate: run a saved policy, and say how it does. Nothing is trained."""
    set_threads()
    folder = Path(args.evaluate)
    saved = load_whole(folder / "policy.pt")
    policy = make_policy(saved)
    seed = derive_seed(args.seed, EVALUATION)
    envs = make_envs(args.env_id, args.eval_episodes)
    check_spaces(saved, envs)
    if args.render is None:
        returns, lengths = evaluate(policy, envs, seed)
    else:
        os.environ["SDL_NO_SIGNAL_HANDLERS"] = "1"  # a window of pygame's would keep Ctrl-C from us
        say("Ctrl-C here ends it")
        env = gym.make_vec(args.env_id, 1, "sync", render_mode=args.render)
        episodes = []
        for i in range(args.eval_episodes):
            # The same episodes as without --render: there environment i is seeded with seed + i.
            [episode_return], [length] = evaluate(policy, env, seed + i)
            say(f"episode {i + 1}: return {episode_return:.1f}, {length} steps")
            episodes.append((episode_return, length))
        returns, lengths = np.array(episodes).T
    if not np.isfinite(returns).all():
        sys.exit(f"{args.env_id}: the return of an episode is not finite")
    result = f"return {returns.mean():.1f} ± {returns.std():.1f} over {len(returns)} episodes"
    say(f"{args.env_id}: {result} of {lengths.min():.0f} to {lengths.max():.0f} steps")
    if args.capture_video:
        film(policy, args.env_id, folder / "videos", seed)
        say(f"The video is in {folder / 'videos'}")


def check_spaces(saved: dict, envs: gym.vector.VectorEnv) -> None:
    """Refuse a policy that was made for other observations or actions than the environments'."""
    obs = envs.single_observation_space
    action = envs.single_action_space
    if saved["head"] == "argmax":
        _, last_bias = saved["layers"][-1]
        first_action = int(saved["low"])  # what "low" holds for Discrete actions
        same_actions = action == gym.spaces.Discrete(len(last_bias), start=first_action)
    else:
        same_actions = isinstance(action, Box) and np.array_equal(action.low, saved["low"])
        same_actions = same_actions and np.array_equal(action.high, saved["high"])
    if obs.shape != saved["obs_mean"].shape or not same_actions:
        made_for = f"{saved['observation_space']} and {saved['action_space']}"
        fail(f"the policy is for {made_for}, not for {obs} and {action}")


# -------------------------------- the saved policy


def load_whole(path: str | Path) -> dict:
    """Load a file that torch.save has written, if its checksums hold. torch.load ignores them.

    Raises zipfile.BadZipFile for a damaged file, pickle.UnpicklingError for one that carries code.
    """
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"{damaged} in {path} is damaged")
    return torch.load(path, map_location="cpu", weights_only=True)


def load_policy(path: str | Path):
    """Load the policy.pt of any script: a function from raw observations to environment actions.

    Observations are (N, obs_dim), actions (N, ...). The scripts differ in the activation and in
    the head, which makes actions of the last layer's outputs:

        argmax   Discrete actions: the largest output
        tanh     Box actions: squash the outputs to [−1, 1], then scale them to the bounds
        clip     Box actions: scale the outputs, then clip them to the bounds

    Raises zipfile.BadZipFile for a damaged file, pickle.UnpicklingError for one that carries code.
    """
    return make_policy(load_whole(path))


def make_policy(saved: dict):
    """Make the function that load_policy describes from the data of `export`."""
    activation = {"relu": torch.relu, "silu": nn.functional.silu}[saved["activation"]]
    hidden_layers = saved["layers"][:-1]
    last_weight, last_bias = saved["layers"][-1]

    def policy(obs: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(np.ascontiguousarray(obs, dtype=np.float32))
        x = (x - saved["obs_mean"]) / saved["obs_std"]
        for weight, bias in hidden_layers:
            x = activation(x @ weight.T + bias)
        out = x @ last_weight.T + last_bias
        if saved["head"] == "argmax":
            return (saved["low"] + out.argmax(-1)).numpy()
        if saved["head"] == "tanh":
            out = out.tanh()
        share = (out + 1) / 2  # 0 at the lower bound, 1 at the upper
        action = saved["low"] + share * (saved["high"] - saved["low"])
        return action.clamp(saved["low"], saved["high"]).numpy()

    return policy


# -------------------------------- the run


class Adam(torch.optim.Adam):
    """torch.optim.Adam without the decorators of its methods, which saves 1 s at the start.

    Calling a decorated method imports torch._dynamo. `unwrap` gives the method as it was before.
    The decorator of `step` also switches gradients off, so no_grad is added here. The arithmetic is
    the same.
    """

    add_param_group = inspect.unwrap(torch.optim.Adam.add_param_group)
    state_dict = inspect.unwrap(torch.optim.Adam.state_dict)
    zero_grad = inspect.unwrap(torch.optim.Adam.zero_grad)
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


@dataclass
class Count:
    """How far a run has come."""

    global_step: int = 0  # environment steps; those that only reset are not counted
    episodes: int = 0
    wall_s: float = 0.0  # seconds of training
    sps: int = 0  # steps a second
    solved_at_step: int | None = None
    solved_at_s: float | None = None


class Run:
    """A run's folder, counters, log and checkpoints, and its orderly end.

    A checkpoint holds the arguments, the counters, the last returns, the random state and `parts`:
    named objects with a state_dict, one of which is `agent`. It is written at the start, at
    intervals and at the end. After the last checkpoint come policy.pt and, as the last file,
    summary.json. On a signal the run finishes its iteration and writes a checkpoint, but no policy.
    """

    def __init__(self, args: Args, envs: gym.vector.VectorEnv, device, **parts):
        self.args = args
        self.envs = envs
        self.device = device
        self.parts = parts
        self.count = Count()
        self.last100 = []  # returns of the last 100 episodes
        self.metrics = {}  # tag → values since the last log line
        self.interrupted_by = 0  # number of a signal
        self.dir, self.lock = make_folder(args)  # the lock holds as long as this object is there
        if args.resume is not None:
            self.restore()
        self.wandb = start_wandb(args, self.dir) if args.track else None
        step = self.count.global_step
        purge_step = step + 1 if args.resume else None  # drop what was logged after the checkpoint
        self.writer = SummaryWriter(self.dir, purge_step=purge_step)
        # disable=None: there is no bar where there is no terminal. Then show_progress prints.
        self.bar = tqdm(total=args.total_timesteps, initial=step, unit=" steps", disable=None)
        # As if a resumed run had begun wall_s ago: so its seconds go on.
        self.started = time.perf_counter() - self.count.wall_s
        self.last_print = time.perf_counter()
        (self.dir / "summary.json").unlink(missing_ok=True)  # an old one is of an earlier policy
        self.save()  # so that --resume works from the start; it sets last_save
        write_whole(self.dir / "config.json", to_json(describe(args, device)))
        continues = f", from step {step:,}" if args.resume else ""
        say(f"{args.env_id} on {device}{continues}; the run's folder is {self.dir}")
        if not has_own_limit(envs):
            limit = f"episodes are cut after {MAX_EPISODE_STEPS:,} steps"
            say(f"{args.env_id} names no time limit: {limit}")
        handle_signals(self.interrupt)

    def restore(self) -> None:
        """Go on from the checkpoint. Environments cannot be restored: new episodes begin."""
        checkpoint = load_checkpoint(self.dir)
        try:
            for name, part in self.parts.items():
                part.load_state_dict(checkpoint[name])
            self.count = Count(**checkpoint["count"])
            self.last100 = checkpoint["last100"]
            torch.set_rng_state(checkpoint["rng"])
            num_gpus = torch.cuda.device_count()  # there may be fewer now
            torch.cuda.set_rng_state_all(checkpoint["cuda_rng"][:num_gpus])
        except Exception as error:  # a damaged file can raise almost any
            fail(f"--resume {self.dir} holds a damaged checkpoint ({type(error).__name__})")
        if checkpoint["args"]["target_return"] != self.args.target_return:
            # solved_at_step and solved_at_s are those of the old target. Clear them; the new target
            # may be reached already.
            self.count.solved_at_step = None
            self.count.solved_at_s = None
            self.note_whether_solved()

    def finished(self) -> bool:
        spent = self.count.global_step >= self.args.total_timesteps
        return spent or self.reached(self.args.target_return) or self.interrupted_by > 0

    def reached(self, target: float | None) -> bool:
        """Tell whether the mean return of the last 100 episodes has reached the target, if any."""
        return target is not None and len(self.last100) == 100 and np.mean(self.last100) >= target

    def note_whether_solved(self) -> None:
        """Note the first time that the returns reach --target-return.

        If that is not given, gymnasium's reward_threshold takes its place.
        """
        solved_return = self.args.target_return
        if solved_return is None:
            solved_return = self.envs.spec.reward_threshold
        if self.count.solved_at_step is None and self.reached(solved_return):
            self.count.solved_at_step = self.count.global_step
            self.count.solved_at_s = self.count.wall_s

    def interrupt(self, number: int, _) -> None:
        """Ctrl-C, SIGTERM, SIGHUP: end after this iteration, saved. A second one kills at once."""
        self.interrupted_by = number
        handle_signals(signal.SIG_DFL)
        with contextlib.suppress(OSError):  # after SIGHUP there is no terminal
            # Not print: the signal may come in the middle of a print, and a print in a print fails.
            os.write(2, b"\nfinishing this iteration; again to quit at once\n")

    def metric(self, tag: str, value: Tensor | float) -> None:
        """Collect a value. The next log line has the mean of what was collected under each tag."""
        value = torch.as_tensor(value, dtype=torch.float32, device=self.device).detach()
        self.metrics.setdefault(tag, []).append(value)

    def log(self, num_steps: int, episodes: list[tuple[float, int]]) -> None:
        """Count steps and finished episodes (return, length); log; save when it is time.

        A value that is not finite stops the run.
        """
        last_step = self.count.global_step
        self.count_steps(num_steps, episodes)
        step = self.count.global_step
        interval = self.args.eval_interval
        if interval > 0 and step // interval > last_step // interval:  # a multiple was passed
            self.metric("eval/episodic_return", self.evaluate_now())
        on_device = torch.stack([torch.stack(values).mean() for values in self.metrics.values()])
        means = dict(zip(self.metrics, on_device.tolist()))  # one transfer from the GPU for all
        self.metrics = {}
        self.write_scalars(means)
        for tag, mean in means.items():
            if not np.isfinite(mean):
                self.stop(f"{tag} became {mean}")
        self.show_progress()
        if time.perf_counter() - self.last_save > self.args.checkpoint_interval:
            self.save()

    def count_steps(self, num_steps: int, episodes: list[tuple[float, int]]) -> None:
        count = self.count
        count.global_step += num_steps
        count.episodes += len(episodes)
        count.wall_s = time.perf_counter() - self.started
        count.sps = round(count.global_step / count.wall_s)
        self.last100 = (self.last100 + [episode[0] for episode in episodes])[-100:]
        self.note_whether_solved()
        self.metric("charts/SPS", count.sps)
        if episodes:
            mean_return, mean_length = np.mean(episodes, axis=0)
            self.metric("charts/episodic_return", mean_return)
            self.metric("charts/episodic_length", mean_length)

    def write_scalars(self, scalars: dict[str, float]) -> None:
        """Write them to TensorBoard's file and, with --track, send them to Weights & Biases."""
        if not self.dir.is_dir():  # not self.stop, which says that the last checkpoint is kept
            sys.exit(f"{SCRIPT}.py: the run's folder {self.dir} is gone")
        step = self.count.global_step
        # FileNotFoundError: the folder was deleted just now. The test above finds out next time.
        with contextlib.suppress(FileNotFoundError):
            for tag, value in scalars.items():
                self.writer.add_scalar(tag, value, step)
        if self.wandb:
            self.wandb.log(scalars, step=step)

    def evaluate_now(self) -> float:
        """Mean return of the deterministic policy as it is now. It does not affect the training."""
        start = time.perf_counter()
        # The tensors of export are the network's own, perhaps on a GPU. Saving and loading them
        # copies them all to the CPU.
        data = to_bytes(export(self.parts["agent"]))
        policy = make_policy(torch.load(io.BytesIO(data), map_location="cpu"))
        envs = make_envs(self.args.env_id, INTERVAL_EPISODES)
        returns, _ = evaluate(policy, envs, derive_seed(self.args.seed, EVALUATION))
        self.started += time.perf_counter() - start  # its time does not count as training
        return returns.mean()

    def show_progress(self) -> None:
        """Move the bar. Where there is no terminal, and so no bar, print a line now and then."""
        count = self.count
        mean_return = np.mean(self.last100) if self.last100 else float("nan")
        self.bar.set_postfix_str(f"return {mean_return:.1f}", refresh=False)
        self.bar.update(min(count.global_step, self.args.total_timesteps) - self.bar.n)
        if self.bar.disable and time.perf_counter() - self.last_print > 30:
            progress = f"step {count.global_step:,} of {self.args.total_timesteps:,}"
            say(f"{progress}, return {mean_return:.1f}, {count.sps:,} steps/s")
            self.last_print = time.perf_counter()

    def save(self) -> None:
        """Write checkpoint.pt. A weight or statistic that is not finite stops the run instead."""
        self.writer.flush()  # so that the curves reach as far as the checkpoint
        state = {name: part.state_dict() for name, part in self.parts.items()}
        # An optimizer's tensors lie deeper in its state_dict and are not tested. If one of them is
        # NaN, the next step makes the weights NaN, and they are tested.
        for name, part_state in state.items():
            for key, value in part_state.items():
                if isinstance(value, Tensor) and not value.isfinite().all():
                    self.stop(f"{key} of {name} is not finite any more")
        state["script"] = SCRIPT
        state["args"] = asdict(self.args)
        state["count"] = asdict(self.count)
        state["last100"] = self.last100
        state["rng"] = torch.get_rng_state()
        state["cuda_rng"] = torch.cuda.get_rng_state_all()
        write_whole(self.dir / "checkpoint.pt", to_bytes(state))
        self.last_save = time.perf_counter()

    def stop(self, why: str) -> NoReturn:
        """End the run with a message. The last checkpoint stays."""
        self.bar.close()
        self.writer.close()
        kept = f"stopped; {self.dir} keeps its last checkpoint"
        sys.exit(f"{why} at step {self.count.global_step:,}: {kept}")

    def finish(self, policy: dict) -> None:
        """Save; unless interrupted, write policy.pt, evaluate it, and write summary.json last."""
        self.save()
        self.bar.close()
        handle_signals(signal.SIG_DFL)  # all is saved: from here on a signal ends the run at once
        args = self.args
        if self.interrupted_by:
            step = self.count.global_step
            say(f"Interrupted at step {step:,}; continue with --resume {self.dir}")
            sys.exit(128 + self.interrupted_by)
        act = self.write_policy(policy)
        seed = derive_seed(args.seed, EVALUATION)
        returns, _ = evaluate(act, make_envs(args.env_id, args.eval_episodes), seed)
        mean = returns.mean()
        if not np.isfinite(mean):
            self.stop(f"the return of the evaluation is {mean}")
        self.writer.add_scalar("eval/episodic_return", mean, self.count.global_step)
        self.writer.close()
        if args.capture_video:
            film(act, args.env_id, self.dir / "videos", seed)
        self.write_summary(returns)
        if self.wandb:
            self.finish_wandb(mean)
        self.say_result(returns)

    def write_policy(self, policy: dict):
        """Write policy.pt, and read it again: what is evaluated is what was written."""
        policy["env_id"] = self.args.env_id
        policy["observation_space"] = str(self.envs.single_observation_space)
        policy["action_space"] = str(self.envs.single_action_space)
        path = self.dir / "policy.pt"
        write_whole(path, to_bytes(policy))
        act = load_policy(path)
        if not self.args.save_model:  # it was written for the evaluation alone
            path.unlink()
        return act

    def write_summary(self, returns: np.ndarray) -> None:
        args = self.args
        count = asdict(self.count)
        summary = {"script": SCRIPT, "env_id": args.env_id, "seed": args.seed, **count}
        summary["train_return_last100"] = np.mean(self.last100) if self.last100 else None
        summary["eval_return_mean"] = returns.mean()
        summary["eval_return_std"] = returns.std()
        summary["eval_episodes"] = len(returns)
        write_whole(self.dir / "summary.json", to_json(summary))

    def finish_wandb(self, mean_return: float) -> None:
        import wandb

        step = self.count.global_step
        self.wandb.log({"eval/episodic_return": mean_return}, step=step)
        for path in self.dir.glob("videos/*.mp4"):
            self.wandb.log({"video": wandb.Video(str(path), format="mp4")}, step=step)
        self.wandb.finish()

    def say_result(self, returns: np.ndarray) -> None:
        count = self.count
        cost = f"{count.global_step:,} steps in {count.wall_s:.1f} s on {self.device}"
        spread = f"{returns.mean():.1f} ± {returns.std():.1f}"
        result = f"return {spread} over {len(returns)} episodes"
        say(f"{self.args.env_id}: {result}; {cost}; {self.dir}")
        say(f"To see the curves: {shlex.join(['tensorboard', '--logdir', str(self.dir)])}")
        if self.args.save_model:
            show = ["python", sys.argv[0], f"--evaluate={self.dir}", "--render", "human"]
            say(f"To see the policy: {shlex.join(show)}")


def handle_signals(handler) -> None:
    """Set what Ctrl-C, SIGTERM and the closing of the terminal (SIGHUP) do."""
    signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGTERM, handler)
    # Windows has no SIGHUP. Under nohup it is ignored, and stays so.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, handler)


# -------------------------------- files and messages


def make_folder(args: Args) -> tuple[Path, FileLock]:
    """Make the run's folder, and lock it until this process ends, in whatever way it ends."""
    given = args.run_dir if args.resume is None else args.resume
    try:
        folder = make_new_folder(args) if given is None else Path(given)
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=1)
    except Timeout:
        fail(f"another run is at work in {folder}")
    except OSError as error:
        fail(f"the run's folder cannot be made ({error})")
    for name in ("checkpoint.pt", "config.json", "policy.pt"):
        if args.resume is None and (folder / name).exists():
            fail(f"--run-dir {folder} holds a run ({name}): use --resume, or another folder")
    return folder, lock


def make_new_folder(args: Args) -> Path:
    """Make a folder in runs/."""
    name = f"{args.env_id}__{args.exp_name}__{args.seed}__{int(time.time())}"
    folder = Path("runs", re.sub(r"[:/\\]", "-", name))  # an id may be module:Name-v0
    try:
        folder.mkdir(parents=True)
    except FileExistsError:  # of a run that was started in the same second
        folder = folder.with_name(f"{folder.name}-{os.getpid()}")
        folder.mkdir()
    return folder


def start_wandb(args: Args, folder: Path):
    """Begin a run of Weights & Biases. A resumed run goes on with the same one."""
    import wandb

    id_file = folder / "wandb_id"
    try:
        run = wandb.init(
            project=args.wandb_project_name,
            entity=args.wandb_entity,
            dir=folder,
            id=id_file.read_text() if id_file.exists() else None,
            name=folder.resolve().name,
            resume="allow",
            config=asdict(args),
        )
    except Exception as error:  # no login, no network, a name that it refuses
        if not args.resume and not args.run_dir:
            shutil.rmtree(folder, ignore_errors=True)  # made a moment ago, for this run alone
        fail(f"--track: {type(error).__name__}: {error}")
    id_file.write_text(run.id)
    return run


def describe(args: Args, device: torch.device) -> dict:
    """What config.json says of a run: its arguments and what it ran with."""
    commit = None
    if shutil.which("git"):
        git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or None
    versions = {"python": sys.version, "torch": torch.__version__, "gymnasium": gym.__version__}
    return {
        "script": SCRIPT,
        "args": asdict(args),
        "device": str(device),
        "git_commit": commit,
        "versions": versions,
    }


def say(text: str) -> None:
    """Print. The run goes on in silence if nobody listens any more: a closed pipe or terminal."""
    try:
        print(text)
    except OSError:
        # From now on, what is printed goes to the null device.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def to_json(content: dict) -> bytes:
    return json.dumps(content, indent=2).encode()


def to_bytes(content: dict) -> memoryview:
    """The bytes that torch.save would write to a file.

    torch.save reports a full disk as a RuntimeError. write_whole, to which these bytes are given,
    reports it as an OSError, which `main` expects.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getbuffer()


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file whole or not at all: a kill leaves the old one or the new one."""
    new = path.with_suffix(".tmp")
    new.write_bytes(content)
    os.replace(new, path)


def load_checkpoint(folder: str | Path) -> dict:
    """Read a run's checkpoint.pt, as plain data: a file that would run code is refused."""
    try:
        checkpoint = load_whole(Path(folder, "checkpoint.pt"))
        script = checkpoint["script"]
    except Exception as error:  # a damaged file can raise almost any
        reason = f"checkpoint.pt is missing or damaged ({type(error).__name__})"
        fail(f"--resume {folder} holds no run to continue: {reason}")
    if script != SCRIPT:
        fail(f"--resume {folder} holds a run of {script}.py")
    return checkpoint


# -------------------------------- the command line

# Otherwise tyro would take "--resume None" for no --resume at all, and a new run would begin. With
# this, None is the name of a folder like any other, and a flag cannot be set back to None.
NO_NONE = (tyro.conf.DisallowNone,)


def parse_args() -> Args:
    """Read the command line."""
    args = tyro.cli(Args, config=NO_NONE)
    if "" in (args.resume, args.run_dir, args.evaluate):
        fail("--resume, --run-dir and --evaluate need the name of a folder")
    if args.evaluate is not None:
        return parse_args_to_evaluate(args)
    if args.render is not None:
        fail("--render goes with --evaluate")
    if args.resume is not None:
        return parse_args_to_resume(args)
    return args


def parse_args_to_evaluate(args: Args) -> Args:
    """Read the command line again, with the saved policy's environment as the default."""
    if args.resume is not None or args.run_dir is not None:
        fail("--evaluate trains nothing: leave --resume and --run-dir out")
    display = {"DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"} & os.environ.keys()
    if args.render is not None and sys.platform == "linux" and not display:
        fail("--render human needs a display; without one --capture-video films an episode")
    try:
        default = Args(env_id=load_whole(Path(args.evaluate, "policy.pt"))["env_id"])
    except Exception as error:  # a damaged file can raise almost any
        reason = f"policy.pt is missing or damaged ({type(error).__name__})"
        fail(f"--evaluate {args.evaluate} holds no policy: {reason}")
    args = tyro.cli(Args, default=default, config=NO_NONE)
    check_numbers(args)
    return args


def parse_args_to_resume(args: Args) -> Args:
    """Read the command line again, with the arguments of the run to resume as the defaults."""
    if args.run_dir is not None:
        fail(f"--resume {args.resume} goes on in its own folder: leave --run-dir out")
    try:
        saved_args = Args(**load_checkpoint(args.resume)["args"])
    except TypeError as error:
        fail(f"--resume {args.resume} is of another version of {SCRIPT}.py ({error})")
    saved_args.resume = args.resume
    args = tyro.cli(Args, default=saved_args, config=NO_NONE)
    for name in FIXED:
        value = getattr(args, name)
        saved_value = getattr(saved_args, name)
        if value != saved_value:
            flag = f"--{name.replace('_', '-')}"
            fail(f"--resume {args.resume}: {flag} is {saved_value} and cannot become {value}")
    # Where a run is finished and no flag has changed, there is nothing to do. With a changed flag,
    # such as a larger budget or --capture-video, it goes on.
    if args == saved_args and has_final_files(args):
        say(f"{args.resume} is finished")
        sys.exit(0)
    return args


def has_final_files(args: Args) -> bool:
    """Tell whether the run to resume has come to its end, where summary.json is written last."""
    folder = Path(args.resume)
    if args.save_model and not (folder / "policy.pt").exists():  # somebody has deleted it
        return False
    try:
        json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError):  # it was not written, or is damaged
        return False
    return True


def check_numbers(args: Args) -> None:
    """Refuse NaN, and numbers out of their range."""
    for name, value in asdict(args).items():
        least = LEAST.get(name, 0)
        most = MOST.get(name, 1e15)
        if isinstance(value, int | float) and not least <= value <= most:
            flag = f"--{name.replace('_', '-')}"
            fail(f"{flag} must be from {least:g} to {most:g}, not {value}")


def check(args: Args) -> None:
    """Find all that is wrong with the arguments, before anything is written."""
    check_numbers(args)
    for name in (args.run_dir, args.resume, args.exp_name):
        # Bytes that are not UTF-8 arrive as unprintable characters.
        if name is not None and not name.isprintable():
            fail(f"{ascii(name)} cannot be the name of a folder here")
    if args.track and importlib.util.find_spec("wandb") is None:
        fail("--track needs a package: pip install wandb")
    with fail_on_error(f"--env-id {args.env_id}"):
        envs = make_envs(args.env_id, 2)  # two: gymnasium then tests that spaces agree
    if envs.metadata.get("autoreset_mode") != gym.vector.AutoresetMode.NEXT_STEP:
        fail(f"--env-id {args.env_id}: a vector environment whose autoreset is not NEXT_STEP")
    if not has_own_limit(envs) and is_native(envs):
        fail(f"--env-id {args.env_id}: a vector environment registered without max_episode_steps")
    obs = envs.single_observation_space
    if not isinstance(obs, Box) or len(obs.shape) != 1:
        fail(f"--env-id {args.env_id}: observations {obs}, not a flat Box")
    action = envs.single_action_space
    if isinstance(action, Box) and action.dtype not in (np.float32, np.float64):
        fail(f"--env-id {args.env_id}: actions {action}, a Box that is not of float32 or float64")
    check_own(args, obs, action)
    with fail_on_error(f"--env-id {args.env_id}"):
        take_one_step(envs)
    if args.capture_video:  # find out now what would be missing at the end
        hint = "MuJoCo without a display: MUJOCO_GL=egl or osmesa"
        with fail_on_error(f"--capture-video ({hint})"), TemporaryDirectory() as folder:
            take_one_step(make_filmed_env(args.env_id, Path(folder, "videos")))
            rendered = list(Path(folder).glob("videos/*.mp4"))
        if not rendered:
            fail(f"--capture-video: {args.env_id} has not rendered anything")


def take_one_step(envs: gym.vector.VectorEnv) -> None:
    """See whether the environments work, and close them. Closing also finishes a video."""
    envs.reset(seed=0)
    envs.step(envs.action_space.sample())
    envs.close()


@contextlib.contextmanager
def fail_on_error(what: str):
    """If the `with` block raises, say so in one line, with file and line number, and exit."""
    try:
        yield
    except (Exception, SystemExit) as error:  # an environment may even call sys.exit
        if isinstance(error, SystemExit) and raised_here(error):
            raise  # an exit of this file, with a message of its own
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}, line {frame.lineno}"
        fail(f"{what}: {type(error).__name__}: {error} ({where})")


def raised_here(error: BaseException) -> bool:
    """Tell whether this file has raised it, and not an environment or a package."""
    return Path(traceback.extract_tb(error.__traceback__)[-1].filename).stem == SCRIPT


def fail(message: str) -> NoReturn:
    """Bad input: one line on stderr and exit status 2."""
    one_line = " ".join(message.split())
    print(f"{SCRIPT}.py: {one_line}", file=sys.stderr)
    sys.exit(2)


# -------------------------------- the program


def set_up(args: Args) -> torch.device:
    """Choose threads and device; seed torch."""
    set_threads()
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    if device.type == "cuda" and args.torch_deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for cuBLAS
        torch.use_deterministic_algorithms(True)
    torch.manual_seed(args.seed)
    return device


def main() -> None:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the shell has closed this stream, as by >&-
            setattr(sys, name, open(os.devnull, "w"))
    for stream in (sys.stdout, sys.stderr):
        # A terminal may not know "±". A file should get each line when it is printed.
        stream.reconfigure(errors="replace", line_buffering=True)
    # Until Run handles it, Ctrl-C ends the program at once, without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "SIGPIPE"):  # not on Windows
        # While only --help can print, a closed pipe ends the program quietly: --help | head.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    args = parse_args()
    if hasattr(signal, "SIGPIPE"):
        # As Python has it by default: a closed pipe is an OSError, which `say` handles.
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    sys.path.append(os.getcwd())  # for --env-id module:Name-v0, where the module is here
    try:
        if args.evaluate is None:
            train(args)
        else:
            with fail_on_error(f"--evaluate {args.evaluate}"):
                evaluate_again(args)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        sys.exit(f"{SCRIPT}.py: the disk is full; what was saved before is kept ({error})")
    except (MemoryError, RuntimeError) as error:
        no_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
        # On a CPU torch raises a plain RuntimeError. Only its text says that memory is missing.
        no_memory = no_memory or "allocate memory" in str(error)
        if not no_memory:
            raise
        sys.exit(f"{SCRIPT}.py: there is not enough memory for this ({error})")
    except SystemExit as error:
        if raised_here(error):
            raise  # an exit of this file, with a message of its own
        how = f"the environment has ended the program, with status {error.code}"
        sys.exit(f"{SCRIPT}.py: {how}")


if __name__ == "__main__":
    main()
