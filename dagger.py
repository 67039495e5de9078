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
"""DAgger: imitation of an expert that labels the learner's own states, and behavioural cloning to compare it with.

Objective   J(θ) = E_τ[ Σ_t r_t ]  [objective], not raised directly: no reward is learned from. An expert π* is imitated
    by descent on the mean over a growing dataset D of states, each labelled with the expert's action,

    L(θ) = E_{(s, a*) ∈ D}[ −log π_θ(a*|s) ]

    which for Discrete actions is the cross-entropy, and for Box actions, a Gaussian of fixed σ, the squared error
    ½ |a* − μ_θ(s)|². A learned σ would shrink to 0 on an expert without noise, its likelihood growing without end.

Algorithm
    initialise the policy θ and D = {}
    repeat until the budget of labels is spent
        β ← 1 in the first iteration, then as --beta-schedule says; always 1 with --bc-only
        run T steps in N parallel environments, each action with
            probability β the expert's, else the learner's                   collect_labels
        label every visited state with the expert's action, whoever acted
        add states and labels to D, take its mean and deviation              Dataset
        repeat K times
            θ ← one Adam step on L of a minibatch of D                       imitation_loss

Symbols
    s_t     obs           (M, obs_dim)  the M of an iteration's T·N states that are not the last of an episode
            x             (B, obs_dim)  of a minibatch of B, normalised: what the network sees
    a*_t    label         (M,) or (M, act_dim)  the expert's action, as the environment takes it
    D       dataset       one state and label for each environment step so far
    π_θ     agent         acts by its most probable action; a Gaussian's, in units in which the bounds are [−1, 1]
    π*      expert        observations (N, obs_dim) to actions (N,) or (N, act_dim)
    β       beta          N, T  num_envs, num_steps     K  num_updates     B  batch_size

What it teaches: a clone of the expert errs now and then, comes to states that the expert never visits, and there it has
learned nothing: the errors compound with the length of the episode. Labels of the learner's own states mend that.
--bc-only spends the same number of labels on the expert's states alone.

A learner whose episodes end early (Hopper) sees little but their beginnings at first: there --beta-schedule linear
serves better than the default.

What the formulas leave out: observations are scaled by the dataset's mean and deviation, initial weights are
orthogonal, the step size is annealed to zero.

Run
    python dagger.py
    python dagger.py --bc-only
    python dagger.py --env-id Pendulum-v1
    python ppo_clip.py --env-id HalfCheetah-v4 --total-timesteps 1000000 --run-dir expert
    python dagger.py --env-id HalfCheetah-v4 --expert expert --total-timesteps 50000
    python dagger.py --resume runs/<folder>
    tensorboard --logdir runs

Papers  Ross, Gordon and Bagnell 2011, "A Reduction of Imitation Learning and Structured Prediction to No-Regret Online
        Learning", arXiv:1011.0686
        Pomerleau 1989, "ALVINN: An Autonomous Land Vehicle in a Neural Network"
"""

import contextlib
import inspect
import io
import json
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

SCRIPT = Path(__file__).stem


@dataclass
class Args:
    exp_name: str = SCRIPT
    """name of the experiment, part of the run folder's name"""
    env_id: str = "CartPole-v1"
    """id of the gymnasium environment: vector observations, Discrete or Box actions"""
    seed: int = 1
    """seed of the network, the actions and the environments"""
    expert: str = "scripted"
    """policy.pt or run folder of any script, or scripted: this file's controller of CartPole-v1 and Pendulum-v1"""
    total_timesteps: int = 10_000
    """budget of expert labels, one for each environment step, all environments together"""
    learning_rate: float = 1e-3
    """Adam's step size"""
    num_envs: int = 16
    """parallel environments, N"""
    num_steps: int = 32
    """steps of each environment in an iteration, T"""
    anneal_lr: bool = True
    """lower the step size linearly to zero over the budget"""
    num_updates: int = 200
    """minibatches an iteration, K"""
    batch_size: int = 256
    """labels in a minibatch"""
    beta_schedule: Literal["first", "linear", "exponential"] = "first"
    """probability β that the expert acts: only at first, or falling to 0 linearly or to 0.01 exponentially"""
    bc_only: bool = False
    """behavioural cloning: the expert always acts"""
    dataset: str | None = None
    """dataset.npz of an earlier run on the same environment, to start from"""
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


def mlp(num_inputs: int, num_outputs: int, gain: float) -> nn.Sequential:
    """Two hidden layers of 64 SiLU units; orthogonal weights, the last layer's scaled by `gain`."""
    net = nn.Sequential(nn.Linear(num_inputs, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, num_outputs))
    for layer, scale in zip(net[::2], (2**0.5, 2**0.5, gain)):
        nn.init.orthogonal_(layer.weight, scale)
        nn.init.zeros_(layer.bias)
    return net


class Agent(nn.Module):
    """The learner, and the statistics that scale what it sees; x below is a normalised observation (..., obs_dim).

    Observations: a Box of shape (obs_dim,). Actions: Discrete, or a bounded Box of shape (act_dim,), in units in which
    the bounds are [−1, 1].
    """

    def __init__(self, observation_space: Box, action_space: Discrete | Box):
        super().__init__()
        self.discrete = isinstance(action_space, Discrete)
        obs_dim, num_outputs = observation_space.shape[0], action_space.n if self.discrete else action_space.shape[0]
        self.actor = mlp(obs_dim, int(num_outputs), 0.01)
        self.obs_mean, self.obs_var = nn.Buffer(torch.zeros(obs_dim)), nn.Buffer(torch.ones(obs_dim))
        low, high = (action_space.start, 0) if self.discrete else (action_space.low, action_space.high)
        self.low, self.high = nn.Buffer(torch.tensor(low)), nn.Buffer(torch.tensor(high))

    def normalize(self, obs: Tensor) -> Tensor:
        return (obs - self.obs_mean) / (self.obs_var + 1e-8).sqrt()

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Raw observations (N, obs_dim) to the most probable actions (N, ...), as the environment takes them."""
        out = self.actor(self.normalize(torch.tensor(obs, dtype=torch.float32, device=self.low.device)))
        return self.to_env(out.argmax(-1) if self.discrete else out)

    def to_env(self, action: Tensor) -> np.ndarray:
        """Actions as the environment takes them: counted from the space's start, or clipped and scaled to bounds."""
        above_low = action if self.discrete else (action.clamp(-1, 1) + 1) / 2 * (self.high - self.low)
        return (self.low + above_low).cpu().numpy()

    def export(self) -> dict:
        """The deterministic policy as plain data, to be read by `load_policy`."""
        layers = [(layer.weight.detach(), layer.bias.detach()) for layer in self.actor[::2]]
        net = {"layers": layers, "activation": "silu", "head": "argmax" if self.discrete else "clip"}
        return {**net, "obs_mean": self.obs_mean, "obs_var": self.obs_var, "low": self.low, "high": self.high}


# ---------------------------------------------------------------- the mathematics


def imitation_loss(agent: Agent, x: Tensor, label: Tensor) -> tuple[Tensor, dict]:
    """−log π_θ(a*|s), up to a constant, averaged over B states x (B, obs_dim) with labels (B,) or (B, act_dim).

    Logged as well is the disagreement: the share of actions that are not the expert's; for a Box, of components off by
    more than 0.1, where the bounds are 2 apart.
    """
    out, label = agent.actor(x), label - agent.low
    if agent.discrete:
        loss, differs = nn.functional.cross_entropy(out, label), out.argmax(-1) != label  # [behavioural-cloning]
    else:
        label = label / (agent.high - agent.low) * 2 - 1  # in [−1, 1]
        loss, differs = (label - out).square().sum(-1).mean() / 2, (label - out.clamp(-1, 1)).abs() > 0.1
    return loss, {"losses/imitation_loss": loss, "losses/disagreement": differs.float().mean()}


# ---------------------------------------------------------------- experts


def balance(obs: np.ndarray) -> np.ndarray:
    """CartPole-v1: push to the side to which the pole, and a little the cart, leans and moves."""
    return (obs @ [0.05, 0.1, 1.0, 0.3] > 0).astype(np.int64)  # of position, velocity, angle, angular velocity


def swing_up(obs: np.ndarray) -> np.ndarray:
    """Pendulum-v1: pump energy until it is that of standing upright, then hold; Åström and Furuta 2000."""
    cos, sin, velocity = obs.T
    energy = velocity**2 / 6 + 5 * (cos - 1)  # of a rod of length and mass 1 with g = 10; 0 when it stands upright
    pump, hold = -10 * energy * np.sign(velocity), -12 * np.arctan2(sin, cos) - 3 * velocity
    return np.where(cos > 0.9, hold, pump).clip(-2, 2).astype(np.float32)[:, None]


SCRIPTED = {"CartPole-v1": balance, "Pendulum-v1": swing_up}


# ---------------------------------------------------------------- rollout and dataset


@torch.no_grad()
def collect_labels(envs: gym.vector.VectorEnv, agent: Agent, expert, beta: float, num_steps: int, state: tuple):
    """Run the mixture β π* + (1 − β) π_θ for T = num_steps steps, and ask the expert about every state; returns

    obs (M, obs_dim) and label (M,) or (M, act_dim) of the M states in which an environment was not only being reset;
    a list of (return, length) of the episodes that ended; and `state`, from which the next rollout goes on:
    observations, whether the episode is over, its return and its length so far, each (N, ...).
    """
    (obs, done, returns, lengths), columns, episodes = state, [], []
    while len(columns) < num_steps or not any(len(label) for _, label in columns):  # a rollout of resets alone goes on
        label, action, valid = expert(obs), agent.act(obs), ~done  # [dagger] a*_t = π*(s_t), whoever acts
        columns.append((torch.tensor(obs[valid], dtype=torch.float32), torch.as_tensor(label[valid])))
        by_expert = (torch.rand(envs.num_envs) < beta).numpy()
        action[by_expert] = label[by_expert]
        obs, reward, terminated, truncated, _ = envs.step(action)
        done, returns, lengths = terminated | truncated, returns + reward, lengths + valid
        episodes += zip(returns[done].tolist(), lengths[done].tolist())
        returns[done] = lengths[done] = 0
    return *map(torch.cat, zip(*columns)), episodes, (obs, done, returns, lengths)


class Dataset:
    """States `obs` (n, obs_dim) and actions `label` (n, ...), preallocated on the device with room for more."""

    def __init__(self, obs: Tensor, label: Tensor, room: int, device: torch.device):
        self.all_obs, self.all_label = (x.new_empty(len(x) + room, *x.shape[1:], device=device) for x in (obs, label))
        self.size = 0
        self.add(obs, label)

    def add(self, obs: Tensor, label: Tensor) -> None:
        end = self.size + len(obs)
        self.all_obs[self.size : end], self.all_label[self.size : end] = obs, label
        self.size, self.obs, self.label = end, self.all_obs[:end], self.all_label[:end]

    def state_dict(self) -> dict[str, Tensor]:
        return {"obs": self.obs.clone(), "label": self.label.clone()}  # clones, to leave the free room behind

    def load_state_dict(self, state: dict) -> None:
        self.__init__(**state, room=len(self.all_obs), device=self.all_obs.device)


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


def load_expert(args: Args):
    """Raw observations (N, obs_dim) to environment actions (N, ...), and the spaces that a policy.pt is for."""
    if args.expert == "scripted":
        return SCRIPTED[args.env_id], None
    path = Path(args.expert, "policy.pt") if Path(args.expert).is_dir() else Path(args.expert)
    saved = torch.load(path, "cpu", weights_only=True)
    return load_policy(path), f"{saved['observation_space']} and {saved['action_space']}"


def load_dataset(args: Args):
    """The arrays obs (n, obs_dim) and label (n, ...) of a dataset.npz, and the id of the environment it is of."""
    saved = np.load(args.dataset) if args.dataset else {}
    return {name: torch.as_tensor(saved[name]) for name in ("obs", "label") if saved}, saved.get("env_id")


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
    whole = ("total_timesteps", "num_envs", "num_steps", "num_updates", "batch_size", "eval_episodes")
    for name in (*whole, "seed", "learning_rate", "checkpoint_interval"):
        least, value = int(name in whole), getattr(args, name)
        require(value >= least, f"--{name.replace('_', '-')} must be at least {least}, not {value}")
    steps = args.num_envs * args.num_steps
    rollout = f"a rollout of --num-envs {args.num_envs} × --num-steps {args.num_steps} = {steps} steps"
    require(args.total_timesteps >= steps, f"--total-timesteps {args.total_timesteps} is less than {rollout}")
    ours = not checkpoint or (checkpoint.get("script"), checkpoint.get("env_id")) == (SCRIPT, args.env_id)
    require(ours, f"--resume {args.resume} holds no run of {SCRIPT}.py on {args.env_id}")
    taken = args.run_dir and not args.resume and Path(args.run_dir, "config.json").exists()
    require(not taken, f"--run-dir {args.run_dir} holds a run: continue it with --resume, or name another folder")
    try:
        env = make_envs(args.env_id, 1)
    except Exception as error:  # gymnasium's or an import's
        require(False, f"--env-id {args.env_id}: {error}")
    obs, action = env.single_observation_space, env.single_action_space
    require(isinstance(obs, Box) and len(obs.shape) == 1, f"--env-id {args.env_id}: observations {obs}, not a flat Box")
    known = isinstance(action, Discrete) or isinstance(action, Box) and len(action.shape) == 1 and action.is_bounded()
    require(known, f"--env-id {args.env_id}: actions {action}, neither Discrete nor a flat, bounded Box")
    commands = f"python ppo_clip.py --env-id {args.env_id} --run-dir expert && python {SCRIPT}.py --expert expert"
    scripted = args.expert != "scripted" or args.env_id in SCRIPTED
    require(scripted, f"{args.env_id} has no scripted expert; to train one: {commands} --env-id {args.env_id}")
    for flag, load, needed in (("expert", load_expert, f"{obs} and {action}"), ("dataset", load_dataset, args.env_id)):
        try:
            _, made_for = load(args)
        except Exception as error:  # every kind of damage raises a type of its own
            require(False, f"--{flag} {getattr(args, flag)} cannot be read ({type(error).__name__})")
        require(made_for in (None, needed), f"--{flag} {getattr(args, flag)} is for {made_for}, not for {needed}")


# ---------------------------------------------------------------- training


def train(args: Args, checkpoint: dict | None = None) -> None:
    check(args, checkpoint)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))  # a second gains nothing with 64 units
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic CUDA asks for it
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    torch.set_deterministic_debug_mode("error" if args.torch_deterministic and device.type == "cuda" else "default")
    torch.manual_seed(args.seed)
    envs = make_envs(args.env_id, args.num_envs)
    agent = Agent(envs.single_observation_space, envs.single_action_space).to(device)
    optimizer = Adam(agent.parameters(), args.learning_rate, eps=1e-5, fused=True)
    loss_of = torch.compile(imitation_loss) if args.compile else imitation_loss
    loaded = load_dataset(args)[0] or {"obs": agent.obs_mean[None][:0], "label": agent.low[None][:0]}
    dataset = Dataset(**loaded, room=args.total_timesteps + args.num_envs * args.num_steps, device=device)
    expert, _ = load_expert(args)
    expert_return = evaluate(expert, make_envs(args.env_id, args.eval_episodes), derive_seed(args.seed, 1)).mean()
    run = Run(args, envs, device, checkpoint, agent=agent, optimizer=optimizer, dataset=dataset)
    obs, _ = envs.reset(seed=derive_seed(args.seed, 0, run.count["global_step"]))
    state = obs, np.zeros(args.num_envs, dtype=bool), *np.zeros((2, args.num_envs))

    while run.unfinished() and not run.interrupted_by:
        progress = run.count["global_step"] / args.total_timesteps
        optimizer.param_groups[0]["lr"] = lr = args.learning_rate * (1 - args.anneal_lr * progress)
        beta = {"first": 0.0, "linear": 1 - progress, "exponential": 0.01**progress}[args.beta_schedule]
        beta = 1.0 if args.bc_only or run.count["global_step"] == 0 else beta
        obs, label, episodes, state = collect_labels(envs, agent, expert, beta, args.num_steps, state)
        dataset.add(obs, label)

        on_new_states = imitation_loss(agent, agent.normalize(obs.to(device)), label.to(device))[1]  # not yet learned
        agent.obs_mean, agent.obs_var = dataset.obs.mean(0), dataset.obs.var(0, correction=0)
        for _ in range(args.num_updates):
            indices = torch.randint(dataset.size, (args.batch_size,), device=device)  # (B,)
            loss, metrics = loss_of(agent, agent.normalize(dataset.obs[indices]), dataset.label[indices])
            agent.zero_grad()
            loss.backward()
            optimizer.step()

        metrics |= {f"{name}_on_new_states": value for name, value in on_new_states.items()}
        metrics = {name: value.item() for name, value in metrics.items()} | {"charts/learning_rate": lr}
        metrics |= {"charts/beta": beta, "charts/labels": dataset.size, "eval/expert_return": expert_return}
        run.log(len(obs), episodes, metrics)

    np.savez(run.dir / "dataset.npz", env_id=args.env_id, obs=dataset.obs.cpu(), label=dataset.label.cpu())
    run.finish(agent.export())


if __name__ == "__main__":
    train(*parse_args())
