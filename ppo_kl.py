# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "torch>=2.6",
#     "gymnasium[classic-control,box2d,mujoco]>=1.1",
#     "tyro>=0.9",
#     "tensorboard>=2.18",
#     "tqdm>=4.66",
# ]
# ///
"""PPO-KL: proximal policy optimisation with an adaptive KL penalty.

Objective   J(θ) = E_τ[ Σ_t r_t ]  [objective], raised by K epochs of minibatch ascent on each rollout's

    L(θ, φ) = E_t[ r_t(θ) Â_t − β D_KL(π_θk(·|s_t) ‖ π_θ(·|s_t)) − c₁ ½ (V_φ(s_t) − R̂_t)² + c₂ H(π_θ(·|s_t)) ]

    with the probability ratio r_t(θ) = π_θ(a_t|s_t) / π_θk(a_t|s_t), θ_k the parameters that sampled the rollout.
    The mean E_t is over the steps really taken, not those in which an environment was only being reset.

Algorithm
    initialise the actor θ and the critic φ
    repeat until the budget of environment steps is spent
        run π_θk for T steps in N parallel environments                      collect
        store π_θk(·|s_t) and log π_θk(a_t|s_t)
        repeat for K epochs
            Â_t ← Σ_l (γλ)^l δ_{t+l},  R̂_t ← Â_t + V_φ(s_t)                  gae
                with δ_t = r_t + γ (1 − terminated_t) V_φ(s_{t+1}) − V_φ(s_t)
            for each minibatch
                θ, φ ← one Adam step on −L, its gradient clipped to a norm   ppo_kl_loss
        d ← E_t[ D_KL(π_θk(·|s_t) ‖ π_θ(·|s_t)) ]
        β ← 2 β if d ≥ 1.5 δ,  β / 2 if d ≤ δ / 1.5                          adapt_kl_coef
        merge the rollout's observations into the running statistics

Symbols
    s_t     obs           (T+1, N, obs_dim)  observations; s_T is where the next rollout starts
            x             (T+1, N, obs_dim)  the same, normalised: what the networks see
    a_t     action        (T, N) or (T, N, act_dim)  as sampled; a Gaussian's in units where the bounds are [−1, 1]
    r_t     reward        (T, N)  divided by the running deviation of the discounted return
    V_φ     value         (T+1, N)  in the units of the scaled reward
    Â_t     advantage     (T, N)  likewise
    R̂_t     target        (T, N)  what the value is fitted to
            discounted    (T, N)  c_t = r_t + γ c_{t−1}, whose running deviation scales the reward
    π_θk    old_out       (T, N, num_actions) logits or (T, N, act_dim) means; a Gaussian's log σ is old_log_std
            valid         (T, N)  false where an environment was only being reset; M of the T·N steps are valid
    r_t(θ)  ratio         (B,)  of a minibatch of B of those M
            old_log_prob  (T, N)  log π_θk(a_t|s_t)
    D_KL    kl            (B,)  in nats, exact: summed over actions, or in closed form for Gaussians; in train its mean
    γ, λ    gamma, gae_lambda     β  kl_coef     δ  target_kl     c₁  vf_coef     c₂  ent_coef     K  update_epochs

What sets it apart from PPO-clip: what keeps the policy near the one that sampled the rollout is a price on distance,
not a bound on each ratio. β moves by at most a factor of two an update: a start that is 2^n off costs n updates, and
while nothing is learned it keeps halving.

What the formulas leave out: observations and rewards are scaled by running statistics, initial weights are orthogonal,
the step size is annealed to zero, gradients are clipped to a norm. As in ppo_clip.py advantages are not normalised, and
recomputed with the newest critic before every epoch. The step size is smaller than there, as nothing stops a single
ratio: with 1.5e-3 no δ from 0.003 to 0.04 did as well on both HalfCheetah-v4 and Hopper-v4. The β to start from hardly
mattered (HalfCheetah-v4 with δ = 0.01, seeds 1 to 3: 5,207 from β = 1, 4,956 from 4).
γ discounts inside the advantages, but the γ^t in front of each step that the gradient of the
discounted objective has is dropped, as everywhere in practice.

Run
    python ppo_kl.py --env-id CartPole-v1
    python ppo_kl.py --env-id HalfCheetah-v4 --total-timesteps 1000000
    python ppo_kl.py --resume runs/<folder>
    torchrun --standalone --nproc-per-node 4 ppo_kl.py --env-id HalfCheetah-v4
    tensorboard --logdir runs

Papers  Schulman et al. 2017, "Proximal Policy Optimization Algorithms", arXiv:1707.06347, section 4
        Heess et al. 2017, "Emergence of Locomotion Behaviours in Rich Environments", arXiv:1707.02286
        Schulman et al. 2016, "High-Dimensional Continuous Control Using GAE", arXiv:1506.02438
"""

import contextlib
import inspect
import io
import json
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.spaces import Box, Discrete
from torch import Tensor, distributed, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

SCRIPT = Path(__file__).stem
RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))  # which of how many, by torchrun


@dataclass
class Args:
    exp_name: str = SCRIPT
    """name of the experiment, part of the run folder's name"""
    env_id: str = "CartPole-v1"
    """id of the gymnasium environment: vector observations, Discrete or Box actions"""
    seed: int = 1
    """seed of the network, the actions and the environments"""
    total_timesteps: int = 100_000
    """budget of environment steps, all environments together"""
    learning_rate: float = 1.25e-3
    """Adam's step size"""
    num_envs: int = 64
    """parallel environments, N"""
    num_steps: int = 32
    """steps of each environment in a rollout, T"""
    anneal_lr: bool = True
    """lower the step size linearly to zero over the budget"""
    gamma: float = 0.99
    """discount factor γ"""
    gae_lambda: float = 0.95
    """λ of the generalised advantage estimate: 0 is TD(0), 1 is Monte Carlo"""
    num_minibatches: int = 4
    """minibatches an epoch; divides num_envs × num_steps"""
    update_epochs: int = 10
    """passes over each rollout, K"""
    norm_adv: bool = False
    """normalise each minibatch's advantages to mean 0, deviation 1"""
    norm_obs: bool = True
    """normalise observations by their running mean and deviation"""
    norm_reward: bool = True
    """divide rewards by the running deviation of the discounted return"""
    ent_coef: float | None = None
    """weight of the entropy bonus, c₂ (default: 0.003 for Discrete actions, 0 for Box)"""
    vf_coef: float = 0.5
    """weight of the value loss, c₁"""
    max_grad_norm: float = 0.5
    """L2 norm to which a larger gradient is scaled down"""
    target_kl: float = 0.015
    """KL(π_θk ‖ π_θ) that an update should end with, in nats, above 0, δ"""
    kl_coef: float = 1.0
    """weight of the KL penalty in a run's first update, β; 0 is none, ever; a resumed run goes on with its own"""
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
    compile: bool = False
    """torch.compile the loss, which takes ten seconds or more to begin with"""


# ---------------------------------------------------------------- environments


def make_envs(env_id: str, num_envs: int) -> gym.vector.VectorEnv:
    """`num_envs` environments stepped together: the native vector version where there is one, else a SyncVectorEnv.

    Autoreset is NEXT_STEP: after an episode's end `obs` is its true last observation, and the step after it only resets
    (action ignored, reward 0). That step is left out of every loss and statistic.
    """
    return gym.make_vec(env_id, num_envs)


# ---------------------------------------------------------------- networks


class RunningStats(nn.Module):
    """Mean and variance of all that was seen so far; buffers, so that they are saved with the network."""

    def __init__(self, *shape: int):
        super().__init__()
        self.mean, self.var, self.count = map(nn.Buffer, (torch.zeros(shape), torch.ones(shape), torch.tensor(0)))

    def update(self, x: Tensor) -> None:
        """Merge in x (n, *shape), n ≥ 1 (Chan et al. 1979)."""
        self.count += len(x)
        weight, delta = len(x) / self.count.item(), x.mean(0) - self.mean
        self.mean += weight * delta
        self.var += weight * (x.var(0, correction=0) - self.var + (1 - weight) * delta.square())

    def std(self) -> Tensor:
        return (self.var + 1e-8).sqrt()


def mlp(num_inputs: int, num_outputs: int, gain: float) -> nn.Sequential:
    """Two hidden layers of 64 SiLU units; orthogonal weights, the last layer's scaled by `gain`."""
    net = nn.Sequential(nn.Linear(num_inputs, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, num_outputs))
    for layer, scale in zip(net[::2], (2**0.5, 2**0.5, gain)):
        nn.init.orthogonal_(layer.weight, scale)
        nn.init.zeros_(layer.bias)
    return net


class Agent(nn.Module):
    """Actor, critic, and the statistics that scale what they see; x below is a normalised observation (..., obs_dim).

    Observations: a Box of shape (obs_dim,). Actions: Discrete, or a bounded Box of shape (act_dim,), where the policy
    is a Gaussian in units in which the bounds are [−1, 1]; its σ is a parameter, the same in every state.
    """

    def __init__(self, observation_space: Box, action_space: Discrete | Box):
        super().__init__()
        self.discrete = isinstance(action_space, Discrete)
        obs_dim, num_outputs = observation_space.shape[0], action_space.n if self.discrete else action_space.shape[0]
        self.actor = mlp(obs_dim, int(num_outputs), 0.01)
        self.critic = nn.Sequential(*mlp(obs_dim, 1, 1.0), nn.Flatten(-2))  # V_φ(s): (..., N, obs_dim) to (..., N)
        self.obs_stats, self.return_stats = RunningStats(obs_dim), RunningStats()
        self.log_std = nn.Parameter(torch.full((int(num_outputs),), -0.5))  # without a gradient if Discrete
        low, high = (action_space.start, 0) if self.discrete else (action_space.low, action_space.high)
        self.low, self.high = nn.Buffer(torch.tensor(low)), nn.Buffer(torch.tensor(high))

    def normalize(self, obs: Tensor) -> Tensor:
        return (obs - self.obs_stats.mean) / self.obs_stats.std()

    def sample(self, x: Tensor) -> Tensor:
        """a ~ π_θ(·|s), (...) or (..., act_dim)."""
        out = self.actor(x)
        if self.discrete:  # Gumbel-max: argmax_a(z_a + g_a) is softmax-distributed if g = −log Exponential(1)
            return (out - torch.empty_like(out).exponential_().log_()).argmax(-1)
        return out + self.log_std.exp() * torch.randn_like(out)

    def log_prob(self, out: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """log π_θ(a|s) and the entropy of π_θ(·|s), both (...), of the actor's outputs (..., num_outputs)."""
        return softmax_policy(out, action) if self.discrete else gaussian_policy(out, self.log_std, action)

    def to_env(self, action: Tensor) -> np.ndarray:
        """Actions as the environment takes them: counted from the space's start, or clipped and scaled to bounds."""
        above_low = action if self.discrete else (action.clamp(-1, 1) + 1) / 2 * (self.high - self.low)
        return (self.low + above_low).cpu().numpy()

    def export(self) -> dict:
        """The deterministic policy as plain data, to be read by `load_policy`."""
        layers, stats = [(layer.weight.detach(), layer.bias.detach()) for layer in self.actor[::2]], self.obs_stats
        net = {"layers": layers, "activation": "silu", "head": "argmax" if self.discrete else "clip"}
        return {**net, "obs_mean": stats.mean, "obs_var": stats.var, "low": self.low, "high": self.high}


# ---------------------------------------------------------------- the mathematics


def softmax_policy(logits: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy (...) of logits z (..., num_actions) and actions (...)."""
    log_p = logits.log_softmax(-1)  # [softmax-policy] log π(a|s) = z_a − log Σ_b exp z_b
    return log_p.gather(-1, action.unsqueeze(-1)).squeeze(-1), -(log_p.exp() * log_p).sum(-1)


def gaussian_policy(mean: Tensor, log_std: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy (...) of means and actions (..., act_dim), log_std (act_dim,)."""
    log_prob = -((action - mean) / log_std.exp()).square() / 2 - log_std - np.log(2 * np.pi) / 2  # [gaussian-policy]
    return log_prob.sum(-1), (log_std + np.log(2 * np.pi * np.e) / 2).sum().expand(log_prob.shape[:-1])


def gae(reward: Tensor, value: Tensor, terminated: Tensor, truncated: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimate (T, N) of rewards (T, N) and values (T+1, N); Schulman et al. 2016, eq. 16.

    A terminated episode has no value after it; a truncated one is bootstrapped with the value of its last observation.
    The sum over l stops at either.
    """
    delta = reward + gamma * value[1:] * ~terminated - value[:-1]  # [td-error] (T, N)
    decay = gamma * lam * (~(terminated | truncated)).to(delta)  # (T, N)
    advantage, carry = torch.empty_like(delta), torch.zeros_like(delta[0])
    for t in reversed(range(len(delta))):
        advantage[t] = carry = delta[t] + decay[t] * carry  # [gae] Â_t = δ_t + γλ Â_{t+1} (N,)
    return advantage


def softmax_kl(old_logits: Tensor, logits: Tensor) -> Tensor:
    """KL(π_old ‖ π) (...), in nats, of logits (..., num_actions)."""
    old_log_p = old_logits.log_softmax(-1)
    return (old_log_p.exp() * (old_log_p - logits.log_softmax(-1))).sum(-1)


def gaussian_kl(old_mean: Tensor, old_log_std: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """KL(π_old ‖ π) (...), in nats, of means and log_std (..., act_dim)."""
    var_ratio, shift = (2 * (old_log_std - log_std)).exp(), (old_mean - mean) / log_std.exp()
    return ((var_ratio + shift.square() - 1) / 2 - old_log_std + log_std).sum(-1)


def adapt_kl_coef(kl_coef: float, kl: float, target_kl: float) -> float:
    """β of the next update, given the KL that this one ended with; Schulman et al. 2017, section 4."""
    return kl_coef * (2 if kl >= 1.5 * target_kl else 0.5 if kl <= target_kl / 1.5 else 1)  # [kl-adapt]


def ppo_kl_loss(agent: Agent, minibatch: list[Tensor], kl_coef: float, args: Args) -> tuple[Tensor, dict]:
    """−L(θ, φ) of a minibatch of B steps, and what to log of it."""
    x, action, old_out, old_log_std, old_log_prob, advantage, target = minibatch  # (B, ...)
    out = agent.actor(x)
    log_prob, entropy = agent.log_prob(out, action)
    if args.norm_adv:  # a single step's becomes 0, not NaN
        advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
    ratio = (log_prob - old_log_prob).exp()  # [surrogate] r_t(θ) = π_θ(a_t|s_t) / π_θk(a_t|s_t) (B,)
    kl = softmax_kl(old_out, out) if agent.discrete else gaussian_kl(old_out, old_log_std, out, agent.log_std)
    pg_loss = -(ratio * advantage).mean()
    v_loss = 0.5 * (agent.critic(x) - target).square().mean()
    metrics = {"losses/policy_loss": pg_loss, "losses/value_loss": v_loss, "losses/kl": kl.mean()}
    loss = pg_loss + kl_coef * kl.mean() + args.vf_coef * v_loss - args.ent_coef * entropy.mean()  # [kl-penalty]
    return loss, {**metrics, "losses/entropy": entropy.mean()}


# ---------------------------------------------------------------- rollout


@torch.no_grad()
def collect(envs: gym.vector.VectorEnv, agent: Agent, num_steps: int, gamma: float, seed: int):
    """Run the agent for ever; every T = num_steps steps yields, as tensors on its device,

    obs (T+1, N, obs_dim); action (T, N) or (T, N, act_dim), as sampled; reward, terminated, truncated, valid (T, N),
    where valid is False if the environment was only being reset; discounted (T, N), the discounted sum of an episode's
    rewards so far, c_t = r_t + γ c_{t−1}; and a list of (return, length) of the episodes that ended. What is nothing
    but resets, which a rollout of one step can be, is passed over.
    Only actions are computed here: log-probabilities and values of the whole rollout come from one forward later.
    Each of WORLD ranks draws actions for all of them and takes its own, so that they stay alike in what they draw.
    """
    obs, _ = envs.reset(seed=seed + RANK * envs.num_envs)
    done, (returns, lengths, discounted) = np.zeros(envs.num_envs, dtype=bool), np.zeros((3, envs.num_envs))
    while True:
        observations, actions, outcomes, episodes = [], [], [], []
        for _ in range(num_steps):
            observations.append(torch.tensor(obs, dtype=torch.float32, device=agent.low.device))
            actions.append(agent.sample(agent.normalize(observations[-1]).expand(WORLD, -1, -1))[RANK])
            valid = ~done
            obs, reward, terminated, truncated, _ = envs.step(agent.to_env(actions[-1]))
            done = terminated | truncated
            returns, lengths, discounted = returns + reward, lengths + valid, reward + gamma * discounted * valid
            outcomes.append((reward.astype(np.float32), terminated, truncated, valid, discounted.astype(np.float32)))
            episodes += zip(returns[done].tolist(), lengths[done].tolist())
            returns[done] = lengths[done] = 0
        observations.append(torch.tensor(obs, dtype=torch.float32, device=agent.low.device))
        columns = (torch.as_tensor(np.stack(column), device=agent.low.device) for column in zip(*outcomes))
        if any(valid.any() for *_, valid, _ in outcomes):
            yield torch.stack(observations), torch.stack(actions), *columns, episodes


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
    whole = ("total_timesteps", "num_envs", "num_steps", "num_minibatches", "update_epochs", "eval_episodes")
    for name in (*whole, "seed", "learning_rate", "gamma", "gae_lambda", "target_kl", "kl_coef", "checkpoint_interval"):
        least, value = int(name in whole), getattr(args, name)
        require(value >= least, f"--{name.replace('_', '-')} must be at least {least}, not {value}")
    steps = args.num_envs * args.num_steps
    require(args.num_envs % WORLD == 0, f"--num-envs {args.num_envs} cannot be divided among {WORLD} ranks")
    rollout = f"a rollout of --num-envs {args.num_envs} × --num-steps {args.num_steps} = {steps} steps"
    require(args.total_timesteps >= steps, f"--total-timesteps {args.total_timesteps} is less than {rollout}")
    require(steps % args.num_minibatches == 0, f"--num-minibatches {args.num_minibatches} does not divide {rollout}")
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
    known = isinstance(action, Discrete) or isinstance(action, Box) and len(action.shape) == 1 and action.is_bounded()
    require(known, f"--env-id {args.env_id}: actions {action}, neither Discrete nor a flat, bounded Box")


# ---------------------------------------------------------------- data parallel, under torchrun


def gather(rollouts, run: Run):
    """Each rollout joined with those of the other ranks, (T, N), so that what is computed of it is the same on all.

    A signal to any rank is told with the next rollout, and ends all of them after the same iteration.
    """
    distributed.init_process_group()
    signals = {run.interrupted_by}
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: signals.add(number))
    for *columns, episodes in rollouts:
        mine = (*(column.cpu() for column in columns), episodes, signals)
        distributed.all_gather_object(ranks := [None] * WORLD, mine)
        *columns, episodes, received = zip(*ranks)
        run.interrupted_by = max(set().union(*received))
        yield *(torch.cat([part.to(run.device) for part in column], 1) for column in columns), sum(episodes, [])


def average_gradients(agent: Agent, steps: int) -> None:
    """Give every rank the mean of the ranks' gradients, each weighted with how many steps it is the mean of."""
    grads = [parameter.grad for parameter in agent.parameters() if parameter.grad is not None]
    flat = steps * nn.utils.parameters_to_vector([*grads, grads[0].new_ones(1)])
    distributed.all_reduce(flat)
    nn.utils.vector_to_parameters(flat[:-1] / flat[-1], grads)


# ---------------------------------------------------------------- training


def train(args: Args, checkpoint: dict | None = None) -> None:
    if RANK:  # the first alone logs and saves; the others' files go with them
        args = replace(args, run_dir=(_own := TemporaryDirectory()).name, resume=None, track=False)
    check(args, checkpoint)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))  # a second gains nothing with 64 units
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic CUDA asks for it
    cuda = args.cuda and torch.cuda.is_available()
    device = torch.device(f"cuda:{RANK % torch.cuda.device_count()}" if cuda else "cpu")
    torch.set_deterministic_debug_mode("error" if args.torch_deterministic and device.type == "cuda" else "default")
    torch.manual_seed(args.seed)
    envs = make_envs(args.env_id, args.num_envs // WORLD)
    agent = Agent(envs.single_observation_space, envs.single_action_space).to(device)
    args.ent_coef = (0.003 if agent.discrete else 0.0) if args.ent_coef is None else args.ent_coef
    optimizer = Adam(agent.parameters(), args.learning_rate, eps=1e-5, fused=True)
    loss_of = torch.compile(ppo_kl_loss) if args.compile else ppo_kl_loss
    optimizer.param_groups[0]["kl_coef"] = args.kl_coef  # β stands here to be part of the checkpoint
    run = Run(args, envs, device, checkpoint, agent=agent, optimizer=optimizer)
    rollouts = collect(envs, agent, args.num_steps, args.gamma, derive_seed(args.seed, 0, run.count["global_step"]))
    rollouts = gather(rollouts, run) if WORLD > 1 else rollouts

    while run.unfinished() and not run.interrupted_by:
        lr = args.learning_rate * (1 - args.anneal_lr * run.count["global_step"] / args.total_timesteps)
        optimizer.param_groups[0]["lr"] = lr
        kl_coef = optimizer.param_groups[0]["kl_coef"]
        obs, action, reward, terminated, truncated, valid, discounted, episodes = next(rollouts)
        if args.norm_reward:
            agent.return_stats.update(discounted[valid])
            reward = reward / agent.return_stats.std()

        x = agent.normalize(obs)  # (T+1, N, obs_dim)
        old_out, old_value = agent.actor(x[:-1]).detach(), agent.critic(x[:-1]).detach()  # (T, N, ...), (T, N)
        old = old_out, agent.log_std.detach().expand_as(old_out).clone(), agent.log_prob(old_out, action)[0].detach()
        logged = []
        for _ in range(args.update_epochs):
            value = agent.critic(x).detach()  # (T+1, N)
            advantage = gae(reward, value, terminated, truncated, args.gamma, args.gae_lambda)  # (T, N)
            target = advantage + value[:-1]
            batch = [column[valid] for column in (x[:-1], action, *old, advantage, target)]
            for indices in torch.randperm(len(batch[0]), device=device).chunk(args.num_minibatches):  # (B,) of (M,)
                mine = indices[RANK % len(indices) :: WORLD]
                loss, metrics = loss_of(agent, [column[mine] for column in batch], kl_coef, args)
                agent.zero_grad()
                loss.backward()
                if WORLD > 1:
                    average_gradients(agent, len(mine))
                metrics["losses/grad_norm"] = nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
                optimizer.step()
                logged.append(torch.stack(list(metrics.values())).detach())
        kl = ppo_kl_loss(agent, batch, kl_coef, args)[1]["losses/kl"].item()  # of the whole update
        optimizer.param_groups[0]["kl_coef"] = adapt_kl_coef(kl_coef, kl, args.target_kl)

        if args.norm_obs:
            agent.obs_stats.update(obs[:-1][valid])
        means = dict(zip(metrics, torch.stack(logged).mean(0).tolist())) | {"losses/kl": kl, "losses/kl_coef": kl_coef}
        unexplained = (target - old_value)[valid].var(correction=0) / (target[valid].var(correction=0) + 1e-8)
        means |= {"losses/explained_variance": 1 - unexplained.item(), "charts/learning_rate": lr}
        run.log(int(valid.sum()), episodes, means)

    if WORLD > 1:
        distributed.destroy_process_group()  # else a rank that ends while another evaluates may abort
    if RANK == 0:
        run.finish(agent.export())


if __name__ == "__main__":
    train(*parse_args())
