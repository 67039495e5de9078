# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "torch>=2.13",
#     "gymnasium[classic-control,box2d,mujoco]>=1.1",
#     "mujoco>=3.1,<3.16",
#     "tyro>=0.9",
#     "tensorboard>=2.18",
#     "tqdm>=4.66",
#     "filelock>=3.12",
# ]
# ///
"""DDPG: deep deterministic policy gradient.

A tag such as [dpg] names an equation and stands beside the code that computes it. The project's
LECTURES.md lists all tags.

Objective   J(θ) = E_τ[ Σ_t r_t ]  [objective], raised along the deterministic policy gradient

    ∇_θ J = E_s[ ∇_θ π_θ(s) ∇_a Q_φ(s, a)|_{a = π_θ(s)} ],

    which is the gradient of Q_φ(s, π_θ(s)): the critic tells which way to move the action.

Algorithm   repeat until the budget of environment steps is spent
    1. act: a ← π_θ(s) + σ ε, ε ~ N(0, 1), within the bounds; at random for the first steps
    2. step N environments and add (s, a, r, s', terminated) to the replay buffer
    3. updates_per_step times for each step taken, draw a minibatch from the buffer
           y ← r + γ (1 − terminated) Q_φ̄(s', π_θ̄(s'))
           φ ← one Adam step on the mean of (Q_φ(s, a) − y)²
           θ ← one Adam step on −Q_φ(s, π_θ(s)), every policy_frequency updates
           θ̄ ← θ̄ + τ (θ − θ̄);  φ̄ ← φ̄ + τ (φ − φ̄)
    4. log every 100 steps

Symbols     B transitions in a minibatch
    s       obs         (B, obs_dim)      x  (B, obs_dim)  normalised: what the networks see
    a       action      (B, act_dim)  in units in which the bounds are [−1, 1]
    r       reward      (B,)
    s'      next_obs    (B, obs_dim)  at an episode's end the true last observation
            terminated  (B,)  1 or 0; a truncation alone counts as 0, so y still has Q(s')
    y       target      (B,)  what Q_φ is fitted to
    θ, φ agent.actor, agent.critic   θ̄, φ̄ target_actor, target_critic
    γ gamma   τ tau   σ exploration_noise

New after the on-policy scripts: the policy is a function, not a distribution. The actor's gradient
flows through the critic and needs states alone; the target takes the policy's action, not the
data's. So a transition may come from any policy, and is used until the buffer overwrites it.

Run         python ddpg.py --env-id HalfCheetah-v4 --total-timesteps 1000000
Lectures    L4, "Deep Deterministic Policy Gradient (DDPG)"; L5, pages 59 and 62
Papers      Lillicrap et al. 2016, "Continuous Control with Deep RL", arXiv:1509.02971
            Silver et al. 2014, "Deterministic Policy Gradient Algorithms", ICML
"""

import contextlib
import copy
import errno
import importlib.util
import inspect
import io
import json
import math
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
from gymnasium.spaces import Box
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

SCRIPT = Path(__file__).stem


@dataclass
class Args:
    """First the task, as far as --seed; then the algorithm; from --exp-name on, the run."""

    # The task
    env_id: str = "Pendulum-v1"
    """id of the gymnasium environment: vector observations, Box actions"""
    total_timesteps: int = 15_000
    """budget of environment steps, all environments together"""
    seed: int = 1
    """seed of the networks, the actions and the environments"""

    # The algorithm
    policy_lr: float | None = None
    """Adam's step size for the actor (None: learning_rate if that is given, else 3e-4)"""
    q_lr: float | None = None
    """Adam's step size for the critic (None: learning_rate if that is given, else 1e-3)"""
    learning_rate: float | None = None
    """Adam's step size for both"""
    num_envs: int = 1
    """parallel environments, N"""
    buffer_size: int = 1_000_000
    """transitions that the replay buffer holds"""
    learning_starts: int = 5_000
    """steps with random actions before the first update"""
    updates_per_step: float = 1.0
    """updates for each environment step after learning_starts"""
    batch_size: int = 256
    """transitions in a minibatch, B"""
    gamma: float = 0.99
    """discount factor, γ"""
    tau: float = 0.05
    """share by which the targets move towards the networks, τ"""
    policy_frequency: int = 2
    """the actor is updated once in so many updates of the critic"""
    exploration_noise: float = 0.2
    """deviation of the noise on the action, in units in which the bounds are [−1, 1], σ"""
    norm_obs: bool = True
    """normalise observations by the mean and deviation of the first, random steps"""

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


class DataStats(nn.Module):
    """Mean, variance and deviation of a set of data: buffers, saved with the network.

    The deviation is 1 for what has hardly varied yet, so that dividing by it blows nothing up.
    """

    def __init__(self, *shape: int):
        super().__init__()
        self.mean = nn.Buffer(torch.zeros(shape))
        self.var = nn.Buffer(torch.ones(shape))
        self.std = nn.Buffer(torch.ones(shape))
        self.count = nn.Buffer(torch.tensor(0))

    def fit(self, x: Tensor) -> None:
        """Replace the statistics by those of x (n, *shape), n ≥ 1."""
        self.mean.copy_(x.mean(0))
        self.var.copy_(x.var(0, correction=0))
        self.std.copy_(torch.where(self.var > 1e-8, (self.var + 1e-8).sqrt(), 1.0))
        self.count.fill_(len(x))


def relu_mlp(num_inputs: int, num_outputs: int) -> nn.Sequential:
    """Two hidden layers of 256 ReLU units."""
    return nn.Sequential(
        nn.Linear(num_inputs, 256),
        nn.ReLU(inplace=True),
        nn.Linear(256, 256),
        nn.ReLU(inplace=True),
        nn.Linear(256, num_outputs),
    )


class Critic(nn.Module):
    """Q_φ(s, a), (B,), of normalised observations (B, obs_dim) and actions (B, act_dim).

    Layer norm bounds the last hidden units, and so Q, by the weights alone. So Q is not large just
    because an action is far from those in the data. Ball et al. 2023, arXiv:2302.02948.
    """

    def __init__(self, obs_dim: int, act_dim: int):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(obs_dim + act_dim, 256),
            nn.LayerNorm(256),
            nn.ReLU(inplace=True),
            nn.Linear(256, 256),
            nn.LayerNorm(256),
            nn.ReLU(inplace=True),
            nn.Linear(256, 1),
        )

    def forward(self, x: Tensor, action: Tensor) -> Tensor:
        return self.net(torch.cat([x, action], -1)).squeeze(-1)


class Agent(nn.Module):
    """Actor and critic. They see x (B, obs_dim), normalised observations.

    Actions lie in [−1, 1]; to_env scales them to the environment's bounds.
    """

    def __init__(self, observation_space: Box, action_space: Box):
        super().__init__()
        obs_dim = observation_space.shape[0]
        act_dim = action_space.shape[0]
        self.actor = nn.Sequential(relu_mlp(obs_dim, act_dim), nn.Tanh())  # π_θ
        self.critic = Critic(obs_dim, act_dim)  # Q_φ
        self.obs_stats = DataStats(obs_dim)
        self.low = nn.Buffer(torch.tensor(action_space.low))
        self.high = nn.Buffer(torch.tensor(action_space.high))

    def normalize(self, obs: Tensor) -> Tensor:
        """Scale observations. With --no-norm-obs mean and deviation stay 0 and 1: no change."""
        return (obs - self.obs_stats.mean) / self.obs_stats.std

    def to_env(self, action: Tensor) -> np.ndarray:
        """Scale actions from [−1, 1] to the environment's bounds."""
        share = (action + 1) / 2  # 0 at the lower bound, 1 at the upper
        env_action = self.low + share * (self.high - self.low)
        return env_action.clamp(self.low, self.high).cpu().numpy()  # clamp: rounding may exceed


def td_target(reward: Tensor, terminated: Tensor, next_value: Tensor, gamma: float) -> Tensor:
    """What Q(s, a) is fitted to, (B,). Only a termination ends the sum of rewards."""
    return reward + gamma * (1 - terminated) * next_value  # [td-target]


def critic_loss(q: Tensor, target: Tensor) -> Tensor:
    """Mean of (q − target)² over the minibatch; q = Q_φ(s, a) and target are (B,)."""
    return (q - target).square().mean()


@torch.no_grad()
def follow(target_parameters: list[Tensor], parameters: list[Tensor], tau: float) -> None:
    """Move target networks towards their networks: φ̄ ← φ̄ + τ (φ − φ̄)."""
    for target_parameter, parameter in zip(target_parameters, parameters):
        target_parameter.lerp_(parameter, tau)


def actor_loss(q: Tensor) -> Tensor:
    """Minus the mean of q = Q(s, π_θ(s)), (B,): to minimise over θ. Silver et al. 2014."""
    # [dpg] The gradient of the mean is the mean of ∇_θ π_θ(s) ∇_a Q(s, a), at a = π_θ(s).
    return -q.mean()


@dataclass
class Batch:
    """Transitions; from s to s' by action a, with reward r."""

    obs: Tensor  # (B, obs_dim)
    action: Tensor  # (B, act_dim)
    reward: Tensor  # (B,)
    next_obs: Tensor  # (B, obs_dim)
    terminated: Tensor  # (B,), 1 or 0


class ReplayBuffer:
    """The latest `capacity` transitions, float32 on the device."""

    def __init__(self, capacity: int, obs_dim: int, act_dim: int, device: torch.device):
        self.capacity = capacity
        self.added = 0  # transitions ever added, including those overwritten since
        self.obs = torch.empty(capacity, obs_dim, device=device)
        self.action = torch.empty(capacity, act_dim, device=device)
        self.reward = torch.empty(capacity, device=device)
        self.next_obs = torch.empty(capacity, obs_dim, device=device)
        self.terminated = torch.empty(capacity, device=device)

    def add(self, batch: Batch) -> None:
        """Add M ≤ capacity transitions in place of the oldest."""
        num_new = len(batch.reward)
        index = torch.arange(self.added, self.added + num_new, device=self.obs.device)
        index %= self.capacity
        self.obs[index] = batch.obs
        self.action[index] = batch.action
        self.reward[index] = batch.reward
        self.next_obs[index] = batch.next_obs
        self.terminated[index] = batch.terminated
        self.added += num_new

    def at(self, index: Tensor) -> Batch:
        """The transitions in these rows."""
        return Batch(
            self.obs.index_select(0, index),
            self.action.index_select(0, index),
            self.reward.index_select(0, index),
            self.next_obs.index_select(0, index),
            self.terminated.index_select(0, index),
        )

    def sample(self, batch_size: int) -> Batch:
        """Draw transitions uniformly, each independently of the others."""
        size = min(self.added, self.capacity)
        return self.at(torch.randint(size, (batch_size,), device=self.obs.device))

    def state_dict(self) -> dict[str, Tensor]:
        """All transitions, the oldest first, as a dictionary of Batch's fields."""
        oldest = max(self.added - self.capacity, 0)
        in_order = torch.arange(oldest, self.added, device=self.obs.device)
        return vars(self.at(in_order % self.capacity))

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Add them again. A buffer that has become smaller takes the newest."""
        newest = {name: column[-self.capacity :] for name, column in state.items()}
        self.add(Batch(**newest))


class Stepper:
    """Steps N environments and remembers where they are.

    An environment is reset in the step after its episode's end. That step ignores its action, and
    its reward is 0. It is no transition and is not stored. This is a truncation after three steps,
    with self.obs and self.done as they are before each step:

        step            0      1      2      3       4
        self.obs        s_0    s_1    s_2    s_3     new s_0
        self.done       False  False  False  True    False
        next_obs        s_1    s_2    s_3    new s_0 new s_1
        truncated                     True
        valid           True   True   True   False   True

    s_3 is the episode's true last observation.
    """

    def __init__(self, envs: gym.vector.VectorEnv, device: torch.device, seed: int):
        self.envs = envs
        self.device = device
        obs, _ = envs.reset(seed=seed)
        self.obs = self.to_tensor(obs)  # (N, obs_dim)
        self.done = np.zeros(envs.num_envs, dtype=bool)  # where the next step only resets
        self.episode_return = np.zeros(envs.num_envs)
        self.episode_length = np.zeros(envs.num_envs, dtype=int)

    def to_tensor(self, array: np.ndarray) -> Tensor:
        return torch.tensor(array, dtype=torch.float32, device=self.device)

    def step(self, action: Tensor, env_action: np.ndarray) -> tuple[Batch, list]:
        """Take `env_action`; `action` (N, act_dim) is the same in [−1, 1].

        Returns the M ≤ N transitions that were no resets, and (return, length) of each episode
        that ended.
        """
        next_obs, reward, terminated, truncated, _ = self.envs.step(env_action)
        valid = np.flatnonzero(~self.done)  # indices of the environments that do more than reset
        next_obs = self.to_tensor(next_obs)
        batch = Batch(
            self.obs[valid],
            action[valid],
            self.to_tensor(reward[valid]),
            next_obs[valid],
            self.to_tensor(terminated[valid]),
        )
        self.obs = next_obs
        self.done = terminated | truncated
        self.episode_return[valid] += reward[valid]
        self.episode_length[valid] += 1
        episodes = []
        for n in np.flatnonzero(self.done):
            episodes.append((float(self.episode_return[n]), int(self.episode_length[n])))
            self.episode_return[n] = 0
            self.episode_length[n] = 0
        return batch, episodes


def updates_due(step: int, args: Args) -> int:
    """How many updates belong to the first `step` environment steps, in all, rounded up."""
    return math.ceil(args.updates_per_step * max(step - args.learning_starts, 0))


def train(args: Args) -> None:
    """Train. The comments 1. to 4. are the steps of the algorithm in the docstring at the top.

    The CPU waits for the GPU in two places: in step 2, where actions and observations are copied
    between them, and in run.log. An update never waits.
    """
    check(args)
    device = set_up(args)
    envs = make_envs(args.env_id, args.num_envs)
    agent = Agent(envs.single_observation_space, envs.single_action_space).to(device)
    target_actor = copy.deepcopy(agent.actor).requires_grad_(False)
    target_critic = copy.deepcopy(agent.critic).requires_grad_(False)
    actor_parameters = list(agent.actor.parameters())
    critic_parameters = list(agent.critic.parameters())
    parameters = actor_parameters + critic_parameters
    target_parameters = [*target_actor.parameters(), *target_critic.parameters()]
    # Adam is defined below: the same as torch.optim.Adam, but the script starts a second sooner.
    actor_optimizer = Adam(actor_parameters, lr=actor_lr(args), fused=True)
    critic_optimizer = Adam(critic_parameters, lr=critic_lr(args), fused=True)
    obs_dim = envs.single_observation_space.shape[0]
    act_dim = envs.single_action_space.shape[0]
    buffer = ReplayBuffer(args.buffer_size, obs_dim, act_dim, device)
    if args.compile:
        # Compile only forward: compiling the module would rename its parameters in checkpoints.
        for network in (agent.actor, agent.critic, target_actor, target_critic):
            network.forward = torch.compile(network.forward)
    # With --resume, Run restores all that is named here.
    run = Run(
        args,
        envs,
        device,
        agent=agent,
        target_actor=target_actor,
        target_critic=target_critic,
        actor_optimizer=actor_optimizer,
        critic_optimizer=critic_optimizer,
        buffer=buffer,
    )
    actor_optimizer.param_groups[0]["lr"] = actor_lr(args)  # not the checkpoint's
    critic_optimizer.param_groups[0]["lr"] = critic_lr(args)
    step = run.count.global_step
    updates = updates_due(step, args)  # updates that have been done; 0 in a new run
    stats_fitted = bool(agent.obs_stats.count > 0)  # True only in a resumed run
    stepper = Stepper(envs, device, seed=derive_seed(args.seed, TRAINING, step))

    while not run.finished():
        episodes = []
        log_at = min(step + 100, args.total_timesteps)
        while step < log_at:
            # 1. Act: at random at first, then with noise.
            if step < args.learning_starts:
                action = torch.rand(args.num_envs, act_dim, device=device) * 2 - 1
            else:
                with torch.no_grad():
                    action = agent.actor(agent.normalize(stepper.obs))
                noise = args.exploration_noise * torch.randn_like(action)
                action = (action + noise).clamp(-1, 1)  # [exploration] π_θ(s) + σ ε

            # 2. Step the environments and remember what happened.
            transitions, ended = stepper.step(action, agent.to_env(action))
            buffer.add(transitions)
            step += len(transitions.reward)
            episodes += ended
            if args.norm_obs and step >= args.learning_starts and not stats_fitted:
                agent.obs_stats.fit(buffer.obs[: buffer.added])  # once, for good
                stats_fitted = True

            # 3. Minibatch updates.
            while updates < updates_due(step, args):
                batch = buffer.sample(args.batch_size)
                x = agent.normalize(batch.obs)
                next_x = agent.normalize(batch.next_obs)

                with torch.no_grad():
                    next_value = target_critic(next_x, target_actor(next_x))  # (B,)
                    target = td_target(batch.reward, batch.terminated, next_value, args.gamma)
                q = agent.critic(x, batch.action)  # (B,)
                q_loss = critic_loss(q, target)
                critic_optimizer.zero_grad()
                q_loss.backward()
                critic_optimizer.step()
                run.metric("losses/qf_loss", q_loss)
                run.metric("losses/qf_values", q.mean())

                if updates % args.policy_frequency == 0:
                    pi_loss = actor_loss(agent.critic(x, agent.actor(x)))
                    actor_optimizer.zero_grad()
                    # The gradient flows through Q, but only the actor's parameters keep it.
                    pi_loss.backward(inputs=actor_parameters)
                    actor_optimizer.step()
                    run.metric("losses/actor_loss", pi_loss)

                follow(target_parameters, parameters, args.tau)
                updates += 1

        # 4. Log; save when it is time.
        new_steps = step - run.count.global_step
        run.log(new_steps, episodes)  # adds them to global_step

    run.finish(export(agent))  # saves and evaluates the deterministic policy


# ============ the rest is not the algorithm, and can be skipped ============

# ---------------------------------------------------------------- what only this script needs

# The allowed range of each number. What is not named here may be from 0 to 1e15.
AT_LEAST_1 = [
    "total_timesteps",
    "num_envs",
    "buffer_size",
    "batch_size",
    "policy_frequency",
    "eval_episodes",
]
LEAST = dict.fromkeys(AT_LEAST_1, 1)
LEAST |= {"tau": 1e-30, "target_return": -1e15}
MOST = {
    "gamma": 1,
    "tau": 1,
    "updates_per_step": 1000,
    "num_envs": 100_000,
    "eval_episodes": 10_000,
}
# Flags that --resume cannot change: what was learned before would be of no use.
FIXED = ["env_id", "norm_obs"]


def check_own(args: Args, obs: Box, action: gym.Space) -> None:
    """What only this script asks of its arguments and of the environment."""
    if args.total_timesteps <= args.learning_starts:
        budget = f"--total-timesteps {args.total_timesteps}"
        fail(f"{budget} leaves nothing after --learning-starts {args.learning_starts}")
    if args.norm_obs and args.learning_starts == 0:
        fail("--learning-starts 0 has no random steps to normalise by: add --no-norm-obs")
    if args.buffer_size < args.num_envs:
        fail(f"--buffer-size {args.buffer_size} is less than --num-envs {args.num_envs}")
    flat_box = isinstance(action, Box) and len(action.shape) == 1 and action.shape != (0,)
    # A Box without bounds has ±inf for them, or ±3.4e38, the largest number of float32.
    bounded_box = flat_box and np.abs([action.low, action.high]).max() < 1e30
    if not bounded_box:
        wanted = "not a flat, bounded Box (Discrete: use ppo_clip.py)"
        fail(f"--env-id {args.env_id}: actions {action}, {wanted}")
    numbers = 2 * obs.shape[0] + action.shape[0] + 2  # in a transition
    needed = 2 * 4 * numbers * args.buffer_size  # bytes: float32, and a copy for the checkpoint
    if args.cuda and torch.cuda.is_available():
        available, _ = torch.cuda.mem_get_info()
    else:
        available = memory_of_this_machine()
    if needed >= available:
        gib = f"{needed / 2**30:.1f} of {available / 2**30:.1f} GiB"
        fail(f"--buffer-size {args.buffer_size} takes {gib}")


def actor_lr(args: Args) -> float:
    """The actor's step size: its own, else that of both networks, else the default."""
    if args.policy_lr is not None:
        return args.policy_lr
    return 3e-4 if args.learning_rate is None else args.learning_rate


def critic_lr(args: Args) -> float:
    """The critic's step size, found in the same way."""
    if args.q_lr is not None:
        return args.q_lr
    return 1e-3 if args.learning_rate is None else args.learning_rate


def memory_of_this_machine() -> float:
    """Bytes. Unknown on Windows, and so infinite: there the buffer is made without a check."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return math.inf
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def set_threads() -> None:
    """Take two threads, if there are two cores. OMP_NUM_THREADS overrides it."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(2, os.cpu_count()))
    # On AMD's processors oneDNN's float32 products are up to twice as fast as MKL's. The setting
    # "bf16" selects oneDNN. Where there is AMX it would round to bf16, too: it is left out there.
    has_amx = torch.cpu.get_capabilities().get("amx_tile", True)
    if not has_amx:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"


def export(agent: Agent) -> dict:
    """The deterministic policy as plain data, for load_policy. Run adds env_id and spaces."""
    linear_layers = agent.actor[0][::2]  # activations stand between them
    return {
        "layers": [(layer.weight.detach(), layer.bias.detach()) for layer in linear_layers],
        "activation": "relu",
        "head": "tanh",
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
