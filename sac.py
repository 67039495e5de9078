# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "torch>=2.13",
#     "gymnasium[classic-control,box2d,mujoco]>=1.1",
#     "tyro>=0.9",
#     "tensorboard>=2.18",
#     "tqdm>=4.66",
# ]
# ///
"""SAC: soft actor-critic, with twin critics and a tuned temperature.

Objective   J(θ) = E_τ[ Σ_t r_t ]  [objective] with a bonus for entropy: E_τ[ Σ_t r_t + α H(π_θ(·|s_t)) ]. Under it a
    state is worth V(s) = E_a[ Q(s, a) − α log π_θ(a|s) ], and the best policy is exp(Q(s, ·)/α), normalised; the actor
    is moved towards it in the sense of KL(π_θ ‖ exp(Q/α)/Z):

    min_θ E_s E_a[ α log π_θ(a|s) − Q(s, a) ]

Algorithm
    initialise the actor θ, the critics φ₁, φ₂, their targets φ̄ᵢ ← φᵢ, the temperature α, and a replay buffer D = {}
    repeat until the budget of environment steps is spent
        a ~ π_θ(·|s); at random, uniformly, for the first learning_starts steps
        step N parallel environments with it                                   interact
        add (s, a, r, s', terminated) to D                                     ReplayBuffer
        for each step taken, as often as updates_per_step says
            draw a minibatch from D
            y ← r + γ (1 − terminated) V̄(s')
                with V̄(s') = minᵢ Q_φ̄ᵢ(s', a') − α log π_θ(a'|s'), a' ~ π_θ(·|s')
            φᵢ ← one Adam step on the mean of (Q_φᵢ(s, a) − y)²                soft_critic_loss
            every policy_frequency updates
                θ ← one Adam step on α log π_θ(a|s) − minᵢ Q_φᵢ(s, a)          soft_actor_loss
                    with a = tanh(μ + σ ε), ε ~ N(0, 1), differentiated through
                α ← one Adam step towards an entropy of −act_dim               temperature_loss
            φ̄ᵢ ← φ̄ᵢ + τ (φᵢ − φ̄ᵢ)

Symbols
    s       obs           (B, obs_dim)  of a minibatch of B transitions
            x             (B, obs_dim)  the same, normalised: what the networks see
    a       action        (B, act_dim)  in units in which the bounds are [−1, 1]
    r       reward        (B, 1)  as the environment gives it
    s'      next_obs      (B, obs_dim)  the true last observation at the end of an episode, never that of a reset
            terminated    (B, 1)  0 or 1; a truncated episode has a value after its end
    y       y             (B, 1)  what the Q are fitted to
    log π_θ log_prob      (B, 1)  of actions in those units
    μ, σ    mean, log_std (B, act_dim)  both outputs of the network: here σ depends on the state
    π_θ     agent.actor     Q_φᵢ  agent.critic     φ̄ᵢ  target     α  agent.log_alpha.exp()     γ, τ  gamma, tau

What sets it apart from ddpg.py: a stochastic actor, which explores by itself; the smaller of two critics, against their
overestimation; the entropy term; and the temperature. The paper of 2018 has a network for V(s) besides; here, as in the
authors' later one, V is the one-sample estimate inside y.

Observations are scaled by the mean and deviation of those in the buffer, which the papers do not do: HalfCheetah-v4 is
learnt sooner with it. Those of the random steps alone would not do: in them Hopper-v4 hardly leaves its first posture,
and what comes later lies many deviations out.
In bfloat16 (--bf16, then with --policy-lr 3e-4 --policy-frequency 2) the return after 100 k steps was lower, 6,027 for
6,786 on HalfCheetah-v4 and 961 for 1,166 on Hopper-v4, but by less than the three seeds differ from each other: they do
not tell whether it costs return.
γ discounts inside Q alone, and s comes from the buffer, so from older policies: as everywhere in practice.
The buffer takes 4 (2 obs_dim + act_dim + 2) bytes a transition: 168 MB for a million of HalfCheetah-v4, and
as much again while a checkpoint is written.

Run
    python sac.py
    python sac.py --env-id HalfCheetah-v4 --total-timesteps 1000000
    python sac.py --resume runs/<folder>
    tensorboard --logdir runs

Papers  Haarnoja et al. 2018, "Soft Actor-Critic: Off-Policy Maximum Entropy Deep Reinforcement Learning with a
        Stochastic Actor", arXiv:1801.01290
        Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications", arXiv:1812.05905
"""

import contextlib
import copy
import inspect
import io
import json
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.spaces import Box
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

SCRIPT = Path(__file__).stem


@dataclass
class Args:
    exp_name: str = SCRIPT
    """name of the experiment, part of the run folder's name"""
    env_id: str = "Pendulum-v1"
    """id of the gymnasium environment: vector observations, Box actions"""
    seed: int = 1
    """seed of the networks, the actions and the environments"""
    total_timesteps: int = 10_000
    """budget of environment steps, all environments together"""
    policy_lr: float = 6e-4
    """Adam's step size for the actor"""
    q_lr: float = 1e-3
    """Adam's step size for the critics and for the temperature"""
    num_envs: int = 1
    """parallel environments, N"""
    buffer_size: int = 1_000_000
    """transitions that the replay buffer holds"""
    gamma: float = 0.99
    """discount factor γ"""
    tau: float = 0.005
    """share by which the targets move towards the networks, τ"""
    batch_size: int = 256
    """transitions in a minibatch, B"""
    alpha: float = 0.2
    """temperature α of --no-autotune"""
    autotune: bool = True
    """tune α, from 1, so that the entropy meets −act_dim nats, for actions in units in which the bounds are [−1, 1]"""
    learning_starts: int = 5_000
    """steps with random actions before the first update"""
    updates_per_step: float = 1.0
    """updates for each step of each environment after learning_starts"""
    policy_frequency: int = 1
    """updates of the critic to one of the actor"""
    norm_obs: bool = True
    """normalise observations by the mean and deviation of those in the buffer"""
    target_return: float | None = None
    """stop training when the mean return of the last 100 episodes reaches this"""
    eval_episodes: int = 100
    """episodes of the final evaluation of the deterministic policy, one in each of as many parallel environments"""
    capture_video: bool = False
    """record a video of an evaluation episode"""
    run_dir: str | None = None
    """folder of the run (default: runs/<env>__<exp>__<seed>__<unix time>)"""
    resume: str | None = None
    """continue the run of this folder with its own flags; flags given beside it override them"""
    checkpoint_interval: float = 60.0
    """seconds between checkpoints"""
    save_model: bool = True
    """write the deterministic policy to policy.pt"""
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
    bf16: bool = False
    """multiply matrices in bfloat16, the last layers excepted: 310 steps a second on HalfCheetah-v4 instead of 280"""
    compile: bool = False
    """torch.compile losses and gradients, which starts later: 310 steps a second instead of 280, with bf16 410"""


# ---------------------------------------------------------------- environments


def make_envs(env_id: str, num_envs: int) -> gym.vector.VectorEnv:
    """`num_envs` environments stepped together: the native vector version where there is one, else a SyncVectorEnv.

    Autoreset is NEXT_STEP: after an episode's end `obs` is its true last observation, and the step after it only resets
    (action ignored, reward 0). That step is left out of every loss and statistic.
    """
    return gym.make_vec(env_id, num_envs)


# ---------------------------------------------------------------- networks


class Float32(nn.Sequential):
    """Its layer stays in float32 where the others are in bfloat16, whose 8 bits are too few to tell values apart."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False) if x.dtype == torch.bfloat16 else contextlib.nullcontext():
            return super().forward(x.to(self[0].weight.dtype))


class TwinLinear(nn.Linear):
    """Two linear layers side by side, as one product: (B, num_inputs) or (2, B, num_inputs) to (2, B, num_outputs)."""

    def __init__(self, num_inputs: int, num_outputs: int):
        super().__init__(num_inputs, 2 * num_outputs)
        self.weight = nn.Parameter(self.weight.view(2, num_outputs, num_inputs).mT.contiguous())
        self.bias = nn.Parameter(self.bias.view(2, 1, num_outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x.expand(2, -1, -1), self.weight)


def relu_mlp_of(linear: type[nn.Linear], inputs: int, outputs: int) -> nn.Sequential:
    """Two hidden layers of 256 ReLU units."""
    return nn.Sequential(linear(inputs, 256), nn.ReLU(), linear(256, 256), nn.ReLU(), Float32(linear(256, outputs)))


class Agent(nn.Module):
    """Actor, critic, and the statistics that scale what they see; x below is a normalised observation (..., obs_dim).

    Observations: a Box of shape (obs_dim,). Actions: a bounded Box of shape (act_dim,), in units in which the bounds
    are [−1, 1].
    """

    def __init__(self, observation_space: Box, action_space: Box, alpha: float = 1.0):
        super().__init__()
        obs_dim, act_dim = observation_space.shape[0], action_space.shape[0]
        self.actor = relu_mlp_of(nn.Linear, obs_dim, 2 * act_dim)
        self.critic = relu_mlp_of(TwinLinear, obs_dim + act_dim, 1)
        self.log_alpha = nn.Parameter(torch.tensor(alpha).log())
        self.obs_mean, self.obs_std = nn.Buffer(torch.zeros(obs_dim)), nn.Buffer(torch.ones(obs_dim))
        self.low, self.high = nn.Buffer(torch.tensor(action_space.low)), nn.Buffer(torch.tensor(action_space.high))

    def normalize(self, obs: Tensor) -> Tensor:
        return (obs - self.obs_mean) / self.obs_std

    def sample(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """a ~ π_θ(·|s), differentiable in θ, and log π_θ(a|s), (..., 1)."""
        mean, log_std = self.actor(x).chunk(2, -1)
        return tanh_gaussian(mean, -1.5 + 3.5 * log_std.tanh(), torch.randn_like(mean))  # log σ within [−5, 2]

    def q(self, x: Tensor, action: Tensor) -> Tensor:
        """Q_φᵢ(s, a), (B, 2)."""
        return self.critic(torch.cat([x, action], -1)).squeeze(-1).T

    def to_env(self, action: Tensor) -> np.ndarray:
        """Actions in the environment's units."""
        return (self.low + (action + 1) / 2 * (self.high - self.low)).cpu().numpy()

    def export(self) -> dict:
        """The deterministic policy as plain data, to be read by `load_policy`."""
        layers = [[layer.weight.detach(), layer.bias.detach()] for layer in (*self.actor[:4:2], *self.actor[4])]
        layers[-1] = [parameter.chunk(2)[0].clone() for parameter in layers[-1]]  # the mean without the deviation
        net = {"layers": layers, "activation": "relu", "head": "tanh"}
        return {**net, "obs_mean": self.obs_mean, "obs_var": self.obs_std**2, "low": self.low, "high": self.high}


# ---------------------------------------------------------------- the mathematics


def tanh_gaussian(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """a = tanh(u), u = μ + σ ε, and its log-density (..., 1); all (..., act_dim).

    log π(a) = Σ_i [ log N(u_i; μ_i, σ_i) − log(1 − tanh²(u_i)) ], the last term as 2 (log 2 − u − softplus(−2u)), which
    keeps its digits where the tanh is saturated.
    """
    u = mean + log_std.exp() * noise  # [pathwise]
    log_prob = -(noise**2) / 2 - log_std - np.log(2 * np.pi) / 2 - 2 * (np.log(2) - u - nn.functional.softplus(-2 * u))
    return u.tanh(), log_prob.sum(-1, keepdim=True)


def soft_critic_loss(agent: Agent, target: Agent, batch: list[Tensor], gamma: float) -> tuple[Tensor, dict]:
    """Mean squared error of both Q_φᵢ(s, a), added, and what to log of it; Haarnoja et al. 2018."""
    x, action, reward, next_x, terminated = batch
    with torch.no_grad():
        next_action, log_prob = agent.sample(next_x)
        next_q = target.q(next_x, next_action).min(-1, keepdim=True).values
        next_value = next_q - agent.log_alpha.exp() * log_prob  # [soft-value] (B, 1)
        y = reward + gamma * (1 - terminated) * next_value  # [soft-bellman] (B, 1)
    value = agent.q(x, action)  # (B, 2)
    loss = (value - y).square().mean(0).sum()
    return loss, {"losses/qf_loss": loss / 2, "losses/qf_values": value.mean()}  # of the two, as CleanRL logs them


def soft_actor_loss(agent: Agent, x: Tensor) -> tuple[Tensor, dict]:
    """E_a[ α log π_θ(a|s) − minᵢ Q_φᵢ(s, a) ], averaged over observations (B, obs_dim)."""
    action, log_prob = agent.sample(x)
    q = agent.q(x, action).min(-1, keepdim=True).values
    loss = (agent.log_alpha.exp().detach() * log_prob - q).mean()  # [soft-improvement]
    return loss, {"losses/actor_loss": loss, "losses/alpha": agent.log_alpha.exp(), "losses/entropy": -log_prob.mean()}


def temperature_loss(agent: Agent, entropy: Tensor) -> Tensor:
    """Falls with α where the entropy is below its target of −act_dim nats, and rises where it is above."""
    return agent.log_alpha.exp() * (entropy.detach() + len(agent.low))  # [temperature]


def gradient(loss_of, network: nn.Module, *inputs) -> tuple[tuple[Tensor, ...], dict]:
    """Of loss_of(*inputs) in the network's own parameters alone, and what to log: one graph for torch.compile."""
    loss, metrics = loss_of(*inputs)
    return torch.autograd.grad(loss, [*network.parameters()]), {name: x.detach() for name, x in metrics.items()}


def descend(optimizer: torch.optim.Optimizer, lr: float, gradients: tuple[Tensor, ...]) -> None:
    """One step of the optimizer, given the gradient in each of its parameters."""
    optimizer.param_groups[0]["lr"] = lr
    for parameter, parameter_gradient in zip(optimizer.param_groups[0]["params"], gradients):
        parameter.grad = parameter_gradient
    optimizer.step()


# ---------------------------------------------------------------- replay


class ReplayBuffer:
    """The latest `capacity` transitions, one row (s, a, r, s', terminated) each, float32 on the device."""

    def __init__(self, capacity: int, obs_dim: int, act_dim: int, device: torch.device):
        self.widths = obs_dim, act_dim, 1, obs_dim, 1
        self.rows, self.added = torch.empty(capacity, sum(self.widths), device=device), 0

    def add(self, rows: Tensor) -> None:
        """Add M ≤ capacity rows (M, 2 obs_dim + act_dim + 2) in place of the oldest."""
        self.rows[(self.added + torch.arange(len(rows))) % len(self.rows)] = rows
        self.added += len(rows)

    def sample(self, batch_size: int) -> tuple[Tensor, ...]:
        """obs (B, obs_dim), action (B, act_dim), reward (B, 1), next_obs (B, obs_dim), terminated (B, 1)."""
        indices = torch.randint(min(self.added, len(self.rows)), (batch_size,), device=self.rows.device)
        return self.rows.index_select(0, indices).split(self.widths, -1)

    def state_dict(self) -> dict[str, Tensor]:
        return {"rows": self.rows[: self.added].roll(-self.added, 0)}  # the oldest first

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.add(state["rows"][-len(self.rows) :].to(self.rows.device))


@torch.no_grad()
def interact(envs: gym.vector.VectorEnv, agent: Agent, act, seed: int):
    """Step N environments for ever with `act`, which takes observations (N, obs_dim) to actions (N, act_dim); yields

    rows (M, ·) of (s, a, r, s', terminated) for the M environments that were not only being reset, and a list of
    (return, length) of the episodes that ended.
    """
    obs, _ = envs.reset(seed=seed)
    done, (returns, lengths) = np.zeros(envs.num_envs, dtype=bool), np.zeros((2, envs.num_envs))
    while True:
        s = torch.tensor(obs, dtype=torch.float32, device=agent.low.device)
        action, valid = act(s), ~done
        obs, reward, terminated, truncated, _ = envs.step(agent.to_env(action))
        outcome = np.concatenate([reward[:, None], obs, terminated[:, None]], axis=-1, dtype=np.float32)
        rows = torch.cat([s, action, torch.as_tensor(outcome, device=s.device)], -1)[np.flatnonzero(valid)]
        returns, lengths, done = returns + reward, lengths + valid, terminated | truncated
        yield rows, list(zip(returns[done].tolist(), lengths[done].tolist()))
        returns[done] = lengths[done] = 0


# ---------------------------------------------------------------- evaluation and files


def evaluate(act, envs: gym.vector.VectorEnv, seed: int) -> np.ndarray:
    """Undiscounted return (N,) of one episode in each of N environments, which are then closed.

    `act` takes observations (N, obs_dim) to actions (N, ...). One episode each, because to take the first N that end
    would favour short ones.
    """
    obs, returns, running = envs.reset(seed=seed)[0], np.zeros(envs.num_envs), np.ones(envs.num_envs, dtype=bool)
    while running.any():
        obs, reward, terminated, truncated, _ = envs.step(act(obs))
        returns += reward * running
        running &= ~(terminated | truncated)
    envs.close()
    return returns


def load_policy(path: str | Path):
    """The policy of a policy.pt, of whichever script: raw observations (N, obs_dim) to environment actions (N, ...).

    A file that carries code instead of data is refused (pickle.UnpicklingError).
    """
    p = torch.load(path, map_location="cpu", weights_only=True)
    functions = {"relu": torch.relu, "silu": nn.functional.silu, "tanh": torch.tanh, "clip": nn.functional.hardtanh}

    def policy(obs: np.ndarray) -> np.ndarray:
        x = (torch.as_tensor(obs, dtype=torch.float32) - p["obs_mean"]) / (p["obs_var"] + 1e-8).sqrt()
        for i, (weight, bias) in enumerate(p["layers"]):
            x = (functions[p["activation"]](x) if i else x) @ weight.T + bias
        if p["head"] == "argmax":
            return (p["low"] + x.argmax(-1)).numpy()
        return (p["low"] + (functions[p["head"]](x) + 1) / 2 * (p["high"] - p["low"])).numpy()

    return policy


def derive_seed(*numbers: int) -> int:
    """A 31-bit seed; runs whose --seed are neighbours get environments that have nothing in common."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0]) // 2


class Adam(torch.optim.Adam):
    """torch.optim.Adam, less decorators that serve torch.compile: they import torch._dynamo, which takes a second."""

    add_param_group, state_dict = map(inspect.unwrap, (torch.optim.Adam.add_param_group, torch.optim.Adam.state_dict))
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


# ---------------------------------------------------------------- the run


class Run:
    """A run's folder, counters, logs and checkpoints, and its orderly end.

    `parts` are what a checkpoint holds beside the counters and the random state: anything with a state_dict.
    """

    def __init__(self, args: Args, envs: gym.vector.VectorEnv, device: torch.device, checkpoint: dict | None, **parts):
        self.args, self.envs, self.device, self.parts, self.interrupted_by = args, envs, device, parts, 0
        self.count, self.last100 = {"global_step": 0, "episodes": 0, "solved_at_step": None, "solved_at_s": None}, []
        if checkpoint:
            self.count, self.last100 = checkpoint["count"], checkpoint["last100"]
            for name, part in parts.items():
                part.load_state_dict(checkpoint[name])
            torch.set_rng_state(checkpoint["rng"])
            torch.cuda.set_rng_state_all(checkpoint["cuda_rng"][: torch.cuda.device_count()])
        name = f"{args.env_id}__{args.exp_name}__{args.seed}__{int(time.time())}".replace(":", "-")
        self.dir = Path(args.resume or args.run_dir or f"runs/{name}")
        if (self.dir / "summary.json").exists() and not self.unfinished():
            print(f"{self.dir} is finished, at step {self.count['global_step']:,}")
            sys.exit(0)
        self.dir.mkdir(parents=True, exist_ok=True)
        commit = os.popen(f'git -C "{Path(__file__).parent}" rev-parse HEAD 2>{os.devnull}').read().strip()
        config = {"script": SCRIPT, "args": asdict(args), "device": str(device), "git_commit": commit or None}
        config["versions"] = {"python": sys.version, "torch": torch.__version__, "gymnasium": gym.__version__}
        (self.dir / "config.json").write_text(json.dumps(config, indent=2))
        if args.track:
            import wandb

            where = {"project": args.wandb_project_name, "entity": args.wandb_entity, "dir": self.dir}
            wandb.init(**where, id=self.dir.name, resume="allow", config=asdict(args), sync_tensorboard=True)
        self.writer = SummaryWriter(self.dir, purge_step=self.count["global_step"] + 1 if checkpoint else None)
        self.bar = tqdm(total=args.total_timesteps, initial=self.count["global_step"], unit=" steps", disable=None)
        self.started = time.perf_counter() - self.count.get("wall_s", 0)
        self.save()
        signal.signal(signal.SIGINT, self.interrupt)
        signal.signal(signal.SIGTERM, self.interrupt)

    def interrupt(self, number: int, _) -> None:
        """Ctrl-C or SIGTERM: end in good order after the present iteration; the same again ends at once."""
        self.interrupted_by = number
        signal.signal(number, signal.SIG_DFL)

    def reached(self, target: float | None) -> bool:
        """Whether the mean return of the last 100 episodes has reached the target, if there is one."""
        return target is not None and len(self.last100) == 100 and np.mean(self.last100) >= target

    def unfinished(self) -> bool:
        return self.count["global_step"] < self.args.total_timesteps and not self.reached(self.args.target_return)

    def log(self, steps: int, episodes: list, metrics: dict[str, float]) -> None:
        """Count an iteration's steps and finished episodes, log its metrics, save when it is time to."""
        step, seconds = self.count["global_step"] + steps, time.perf_counter() - self.started
        self.count |= {"global_step": step, "wall_s": seconds, "episodes": self.count["episodes"] + len(episodes)}
        self.last100 = (self.last100 + [episode_return for episode_return, _ in episodes])[-100:]
        goal = self.envs.spec.reward_threshold if self.args.target_return is None else self.args.target_return
        if self.count["solved_at_step"] is None and self.reached(goal):
            self.count |= {"solved_at_step": step, "solved_at_s": seconds}
        metrics["charts/SPS"] = self.count["sps"] = round(step / seconds)
        if episodes:
            metrics["charts/episodic_return"], metrics["charts/episodic_length"] = np.mean(episodes, axis=0)
            self.bar.set_postfix_str(f"return {metrics['charts/episodic_return']:.1f}", refresh=False)
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)
            if not np.isfinite(value):
                self.writer.close()
                sys.exit(f"{name} became {value} at step {step:,}: stopped; {self.dir} keeps its last checkpoint")
        self.bar.update(min(step, self.args.total_timesteps) - self.bar.n)
        if time.perf_counter() - self.saved > self.args.checkpoint_interval:
            self.save()

    def save(self) -> None:
        """Write checkpoint.pt, first under another name: a kill leaves the old or the new one, never half of one."""
        self.writer.flush()
        state = {"script": SCRIPT, "env_id": self.args.env_id, "count": self.count, "last100": self.last100}
        state |= {"rng": torch.get_rng_state(), "cuda_rng": torch.cuda.get_rng_state_all()}
        state |= {name: part.state_dict() for name, part in self.parts.items()}
        torch.save(state, self.dir / "checkpoint.tmp")
        os.replace(self.dir / "checkpoint.tmp", self.dir / "checkpoint.pt")
        self.saved = time.perf_counter()

    def finish(self, policy: dict) -> None:
        """Save; then, unless interrupted, evaluate the exported policy and write summary.json."""
        self.save()
        self.bar.close()
        args, count, seed = self.args, self.count, derive_seed(self.args.seed, 1)
        if self.interrupted_by:
            print(f"Interrupted at step {count['global_step']:,}; continue with --resume {self.dir}")
            sys.exit(128 + self.interrupted_by)
        spaces = {name: str(getattr(self.envs, f"single_{name}")) for name in ("observation_space", "action_space")}
        torch.save({"env_id": args.env_id, **spaces, **policy}, self.dir / "policy.pt")
        act = load_policy(self.dir / "policy.pt")
        if not args.save_model:
            os.remove(self.dir / "policy.pt")
        returns = evaluate(act, make_envs(args.env_id, args.eval_episodes), seed)
        self.writer.add_scalar("eval/episodic_return", returns.mean(), count["global_step"])
        self.writer.close()
        summary = {"script": SCRIPT, "env_id": args.env_id, "seed": args.seed, **count}
        summary |= {"eval_return_mean": returns.mean(), "eval_return_std": returns.std(), "eval_episodes": len(returns)}
        summary["train_return_last100"] = np.mean(self.last100) if self.last100 else None
        (self.dir / "summary.json").write_text(json.dumps(summary, indent=2))
        result = f"{args.env_id}: return {returns.mean():.1f} ± {returns.std():.1f} over {len(returns)} episodes"
        print(f"{result}; {count['global_step']:,} steps in {count['wall_s']:.1f} s on {self.device}; {self.dir}")
        if args.capture_video:
            film = [lambda env: gym.wrappers.RecordVideo(env, str(self.dir / "videos"), name_prefix="evaluation")]
            evaluate(act, gym.make_vec(args.env_id, 1, "sync", wrappers=film, render_mode="rgb_array"), seed)


# ---------------------------------------------------------------- command line


def require(condition: bool, message: str) -> None:
    """Bad input: one line on stderr and exit status 2."""
    if not condition:
        print(f"{SCRIPT}.py: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)


def parse_args() -> tuple[Args, dict | None]:
    """The command line; with --resume, laid over the arguments of the run it continues, and that run's checkpoint."""
    try:
        with contextlib.redirect_stderr(io.StringIO()) as stderr:
            args, checkpoint = tyro.cli(Args), None
            if args.resume:
                config = json.loads(Path(args.resume, "config.json").read_text())
                checkpoint = dict(torch.load(Path(args.resume, "checkpoint.pt"), "cpu", weights_only=True))
                args = tyro.cli(Args, default=Args(**config["args"] | {"resume": args.resume}))
    except SystemExit as stop:  # tyro draws a box around what is wrong
        require(not stop.code, stderr.getvalue().translate(dict.fromkeys(map(ord, "╭╮╰╯│─"))))
        raise
    except Exception as error:  # every kind of damage raises a type of its own
        require(False, f"--resume {args.resume} holds no run of {SCRIPT}.py to continue ({type(error).__name__})")
    return args, checkpoint


def check(args: Args, checkpoint: dict | None) -> None:
    """All that can be wrong with the arguments, found before anything is written."""
    whole = ("total_timesteps", "num_envs", "buffer_size", "batch_size", "policy_frequency", "eval_episodes")
    real = ("policy_lr", "q_lr", "gamma", "tau", "alpha", "updates_per_step", "checkpoint_interval")
    for name in (*whole, "learning_starts", "seed", *real):
        least, value = int(name in whole), getattr(args, name)
        require(value >= least, f"--{name.replace('_', '-')} must be at least {least}, not {value}")
    few = f"--total-timesteps {args.total_timesteps} leaves nothing after --learning-starts {args.learning_starts}"
    require(args.total_timesteps > args.learning_starts, few)
    ours = not checkpoint or (checkpoint.get("script"), checkpoint.get("env_id")) == (SCRIPT, args.env_id)
    require(ours, f"--resume {args.resume} holds no run of {SCRIPT}.py on {args.env_id}")
    taken = args.run_dir and not args.resume and Path(args.run_dir, "config.json").exists()
    require(not taken, f"--run-dir {args.run_dir} holds a run: continue it with --resume, or name another folder")
    try:
        env = gym.make(args.env_id)
    except Exception as error:  # gymnasium's or an import's
        require(False, f"--env-id {args.env_id}: {error}")
    obs, action = env.observation_space, env.action_space
    require(isinstance(obs, Box) and len(obs.shape) == 1, f"--env-id {args.env_id}: observations {obs}, not a flat Box")
    known = isinstance(action, Box) and len(action.shape) == 1 and action.is_bounded()
    require(known, f"--env-id {args.env_id}: actions {action}, not a flat, bounded Box (Discrete: use ppo_clip.py)")
    need = 8 * args.buffer_size * (2 * obs.shape[0] + action.shape[0] + 2)  # float32, and a copy for the checkpoint
    gpu = args.cuda and torch.cuda.is_available()
    have = torch.cuda.mem_get_info()[0] if gpu else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    require(need < have, f"--buffer-size {args.buffer_size} takes {need / 2**30:.1f} of {have / 2**30:.1f} GiB")


# ---------------------------------------------------------------- training


def train(args: Args, checkpoint: dict | None = None) -> None:
    check(args, checkpoint)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", min(2, os.cpu_count()))))  # one: a fifth slower
    # float32 by oneDNN, up to twice as fast as MKL on AMD's processors; where "bf16" would round (AMX, ARM), left alone
    rounds = torch.cpu.get_capabilities().get("amx_tile", True)
    torch.backends.mkldnn.matmul.fp32_precision = "none" if args.bf16 or rounds else "bf16"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic CUDA asks for it
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    torch.set_deterministic_debug_mode("error" if args.torch_deterministic and device.type == "cuda" else "default")
    torch.manual_seed(args.seed)
    envs = make_envs(args.env_id, args.num_envs)
    agent = Agent(envs.single_observation_space, envs.single_action_space, 1.0 if args.autotune else args.alpha)
    target = copy.deepcopy(agent.to(device)).requires_grad_(False)
    trained = agent.critic.parameters(), agent.actor.parameters(), [agent.log_alpha]
    critic_optimizer, actor_optimizer, alpha_optimizer = (Adam(parameters, fused=True) for parameters in trained)
    buffer = ReplayBuffer(args.buffer_size, len(agent.obs_mean), len(agent.low), device)
    losses = soft_critic_loss, soft_actor_loss
    critic_loss_of, actor_loss_of = map(torch.autocast(device.type, torch.bfloat16, enabled=args.bf16), losses)
    grad_of = torch._dynamo.config.patch(trace_autograd_ops=True)(torch.compile(gradient)) if args.compile else gradient
    parts = {"agent": agent, "target": target, "critic_optimizer": critic_optimizer, "actor_optimizer": actor_optimizer}
    run = Run(args, envs, device, checkpoint, **parts, alpha_optimizer=alpha_optimizer, buffer=buffer)
    target_parameters, parameters = ([p.detach() for p in net.parameters()] for net in (target.critic, agent.critic))
    step, updates, metrics, actor_metrics = run.count["global_step"], run.count.get("updates", 0), {}, {}

    def act(obs: Tensor) -> Tensor:
        uniform = torch.rand(args.num_envs, len(agent.low), device=device) * 2 - 1
        return uniform if step < args.learning_starts else agent.sample(agent.normalize(obs))[0]

    transitions = interact(envs, agent, act, derive_seed(args.seed, 0, step))

    while run.unfinished() and not run.interrupted_by:
        episodes = []
        while step < min(args.total_timesteps, run.count["global_step"] + 100):  # from one log line to the next
            rows, ended = next(transitions)
            buffer.add(rows)
            step, episodes = step + len(rows), episodes + ended
            if args.norm_obs and (step - args.learning_starts) % 1000 < len(rows):  # every 1,000 steps
                var, agent.obs_mean = torch.var_mean(buffer.rows[: buffer.added, : buffer.widths[0]], 0, correction=0)
                agent.obs_std = var.sqrt().where(var > 1e-8, 1.0)  # what has not varied yet is not blown up later
            while updates < args.updates_per_step * (step - args.learning_starts):
                obs, action, reward, next_obs, terminated = buffer.sample(args.batch_size)
                batch = agent.normalize(obs), action, reward, agent.normalize(next_obs), terminated
                gradients, metrics = grad_of(critic_loss_of, agent.critic, agent, target, batch, args.gamma)
                descend(critic_optimizer, args.q_lr, gradients)
                if updates % args.policy_frequency == 0:
                    gradients, actor_metrics = grad_of(actor_loss_of, agent.actor, agent, batch[0])
                    descend(actor_optimizer, args.policy_lr, gradients)
                    if args.autotune:
                        loss = temperature_loss(agent, actor_metrics["losses/entropy"])
                        descend(alpha_optimizer, args.q_lr, torch.autograd.grad(loss, [agent.log_alpha]))
                torch._foreach_lerp_(target_parameters, parameters, args.tau)
                run.count["updates"] = updates = updates + 1
        run.log(step - run.count["global_step"], episodes, {k: v.item() for k, v in (metrics | actor_metrics).items()})

    run.finish(agent.export())


if __name__ == "__main__":
    train(*parse_args())
