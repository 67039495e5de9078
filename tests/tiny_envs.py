"""Environments whose every number is known, registered as tiny_envs:<id>."""

from functools import partial

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete


class Timetable(gym.Env):
    """Episodes end as `ends` says: a list of (length, "terminated" | "truncated" | "both").

    Its entries are taken in turn. The observation is [number of the episode, steps taken in it],
    the reward 10 · episode + steps taken.
    """

    observation_space = Box(-np.inf, np.inf, (2,))
    action_space = Discrete(2)

    def __init__(self, ends=((3, "terminated"),)):
        self.ends = ends
        self.episode = -1
        self.steps = 0

    def _obs(self):
        return np.array([self.episode, self.steps], dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.steps = 0
        return self._obs(), {}

    def step(self, action):
        self.steps += 1
        length, how = self.ends[self.episode % len(self.ends)]
        over = self.steps == length
        reward = 10.0 * self.episode + self.steps
        terminated = over and how != "truncated"
        truncated = over and how != "terminated"
        return self._obs(), reward, terminated, truncated, {}


def timetables(*lists_of_ends, env_class=Timetable) -> gym.vector.SyncVectorEnv:
    """One environment for each list of ends, in a vector environment that reuses its arrays."""
    makers = [partial(env_class, ends) for ends in lists_of_ends]
    return gym.vector.SyncVectorEnv(makers, copy=False)


class Identity(gym.Env):
    """Reward 1 for the right answer: the action that the observation names, or that equals it.

    Episodes have 10 steps.
    """

    def __init__(self, action_space, observation_space=None):
        self.action_space = action_space
        if isinstance(action_space, Discrete):
            self.num_inputs = int(action_space.n)
        else:
            self.num_inputs = action_space.shape[0]
        self.observation_space = observation_space or Box(-1, 1, (self.num_inputs,))

    def _obs(self):
        if isinstance(self.action_space, Discrete):
            self.answer = int(self.np_random.integers(self.action_space.n))
            return np.eye(self.num_inputs, dtype=np.float32)[self.answer]
        self.answer = self.np_random.uniform(-1, 1, self.num_inputs).astype(np.float32)
        return self.answer

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._obs(), {}

    def step(self, action):
        self.steps += 1
        if isinstance(self.action_space, Discrete):
            reward = float(action - self.action_space.start == self.answer)
        else:
            low = self.action_space.low
            high = self.action_space.high
            in_units = (action - low) / (high - low) * 2 - 1
            reward = 1.0 - float(np.abs(in_units - self.answer).mean())
        return self._obs(), reward, False, self.steps == 10, {}


class Ragged(Identity):
    """Its episodes end at any step, terminated, truncated or both."""

    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        terminated = bool(self.np_random.random() < 0.1)
        truncated = bool(self.np_random.random() < 0.1)
        return obs, reward, terminated, truncated, info


class Blind(Identity):
    """Shows nothing of the answer: every observation is the same."""

    def _obs(self):
        super()._obs()
        return np.ones(self.num_inputs, dtype=np.float32)


class Clock(gym.Env):
    """Episodes of 10 steps, each worth 50; the observation is the number of the step."""

    observation_space = Box(0, 10, (1,))
    action_space = Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.array([self.steps], dtype=np.float32), 50.0, False, self.steps == 10, {}


class Trail(gym.Env):
    """Walk 50 steps on a trail, each worth 1.

    An observation is [what decides on the trail, height beside it]. On the trail the right action
    is 0 or 1, by a rule too fine to be learned; the other leads off it, up or down. Beside the
    trail, action 2 leads down and 3 up, all others further away. At a height of 3 the episode ends.
    """

    observation_space = Box(-np.inf, np.inf, (2,))
    action_space = Discrete(4)

    def _obs(self):
        self.fork = np.float32(self.np_random.random())
        return np.array([self.fork, self.height], dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.height = 0
        self.steps = 0
        return self._obs(), {}

    def step(self, action):
        self.steps += 1
        if self.height == 0:
            if action != (np.sin(1e4 * self.fork) > 0):
                self.height = int(self.np_random.choice([-1, 1]))
        elif action == (2 if self.height > 0 else 3):
            self.height -= int(np.sign(self.height))
        else:
            self.height += int(np.sign(self.height))
        return self._obs(), 1.0, abs(self.height) == 3, self.steps == 50, {}


class Broken(Identity):
    """Its reward is NaN from step `after` on."""

    def __init__(self, after, action_space):
        super().__init__(action_space)
        self.after = after
        self.total = 0

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        self.total += 1
        if self.total >= self.after:
            reward = float("nan")
        return obs, reward, terminated, truncated, info


class Scaled(Identity):
    """Its observation is offset + scale · answer, feature by feature."""

    def __init__(self, action_space, scale, offset):
        super().__init__(action_space, Box(-np.inf, np.inf, action_space.shape))
        self.scale = np.array(scale)
        self.offset = np.array(offset)

    def _obs(self):
        return (self.offset + self.scale * super()._obs()).astype(np.float32)


class Strict(Identity):
    """It takes no action that is not of its space."""

    def step(self, action):
        assert self.action_space.contains(action), action
        return super().step(action)


class OwnVector(gym.vector.VectorEnv):
    """A vector environment of its own, which tells how it resets, or does not.

    With `reuse` it hands out the very same arrays at every step, else a copy of each. Its episodes
    end long before `max_episode_steps`.
    """

    def __init__(
        self,
        num_envs,
        env_class,
        action_space,
        reuse=True,
        autoreset_mode=None,
        max_episode_steps=None,
    ):
        self.metadata = {"autoreset_mode": autoreset_mode} if autoreset_mode else {}
        self.num_envs = num_envs
        self.inner = gym.vector.SyncVectorEnv([partial(env_class, action_space)] * num_envs)
        self.single_observation_space = self.inner.single_observation_space
        self.single_action_space = self.inner.single_action_space
        self.observation_space = self.inner.observation_space
        self.action_space = self.inner.action_space
        self.reuse = reuse
        self.arrays = []

    def hand_out(self, arrays):
        """The arrays themselves at first; then what they hold, in those that were given first."""
        if not self.reuse:
            return [array.copy() for array in arrays]
        for i, array in enumerate(arrays):
            if i == len(self.arrays):
                self.arrays.append(array.copy())
            self.arrays[i][...] = array
        return self.arrays[: len(arrays)]

    def reset(self, *, seed=None, options=None):
        obs, info = self.inner.reset(seed=seed)
        [obs] = self.hand_out([obs])
        return obs, info

    def step(self, actions):
        *arrays, info = self.inner.step(actions)
        return *self.hand_out(arrays), info


class Endless(gym.Env):
    """Its episodes never end, and it has no time limit. Each step is worth 1."""

    observation_space = Box(-1, 1, (2,))
    action_space = Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.ones(2, dtype=np.float32), {}

    def step(self, action):
        return np.ones(2, dtype=np.float32), 1.0, False, False, {}


class Filmed(Clock):
    """Its pictures are black."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def render(self):
        return np.zeros((64, 64, 3), dtype=np.uint8)


class NoDisplay(Filmed):
    """It cannot be filmed here, like MuJoCo where there is no display."""

    def render(self):
        raise RuntimeError("no display")


def one_of_its_environments(env_class, action_space, **_):
    """What gymnasium makes where one environment is asked for, not a vector."""
    return env_class(action_space)


BOX = Box(np.array([-2.0, 0.0], dtype=np.float32), np.array([2.0, 0.5], dtype=np.float32))
gym.register("Timetable-v0", Timetable)
gym.register("OneStep-v0", Timetable, kwargs={"ends": ((1, "both"),)})
gym.register("IdentityDiscrete-v0", Identity, kwargs={"action_space": Discrete(3, start=5)})
gym.register("IdentityBox-v0", Identity, kwargs={"action_space": BOX})
gym.register("RaggedDiscrete-v0", Ragged, kwargs={"action_space": Discrete(3, start=5)})
gym.register("RaggedBox-v0", Ragged, kwargs={"action_space": BOX})
gym.register("Blind-v0", Blind, kwargs={"action_space": Box(-1, 1, (2,))})
gym.register("Clock-v0", Clock)
gym.register("Trail-v0", Trail)
gym.register("Broken-v0", Broken, kwargs={"after": 100, "action_space": Discrete(2)})
gym.register("BrokenBox-v0", Broken, kwargs={"after": 100, "action_space": Box(-1, 1, (2,))})
gym.register("ManyActions-v0", Identity, kwargs={"action_space": gym.spaces.MultiBinary(3)})
gym.register("Unbounded-v0", Identity, kwargs={"action_space": Box(-np.inf, np.inf, (1,))})
gym.register("Huge-v0", Identity, kwargs={"action_space": Box(-3e38, 3e38, (1,))})

# One feature varies, the other hardly; both have a deviation of 2e-4.
FAINT = {"scale": [1.0, 5e-5], "offset": [0.0, 0.3]}
SMALL = {"scale": [2e-4 * 3**0.5] * 2, "offset": [0.0, 0.0]}
gym.register("Faint-v0", Scaled, kwargs={"action_space": BOX, **FAINT})
gym.register("Small-v0", Scaled, kwargs={"action_space": BOX, **SMALL})
LOPSIDED = Box(-1.4, 0.3, (1,))  # whose upper bound is missed by rounding
gym.register("Strict-v0", Strict, kwargs={"action_space": LOPSIDED})
gym.register("WholeNumbers-v0", Identity, kwargs={"action_space": Box(-2, 2, (1,), np.int64)})
gym.register("Half-v0", Identity, kwargs={"action_space": Box(-2, 2, (1,), np.float16)})
MODES = gym.vector.AutoresetMode
for name, mode, reuse in (
    ("SameArrays", MODES.NEXT_STEP, True),
    ("FreshArrays", MODES.NEXT_STEP, False),
    ("SameStep", MODES.SAME_STEP, False),
    ("NoAutoreset", MODES.DISABLED, False),
    ("Undeclared", None, False),
):
    ragged = {"env_class": Ragged, "action_space": BOX}
    flags = {**ragged, "reuse": reuse, "autoreset_mode": mode}
    makers = {"entry_point": one_of_its_environments, "vector_entry_point": OwnVector}
    gym.register(f"{name}-v0", **makers, max_episode_steps=1000, kwargs=flags)
no_limit = {"env_class": Ragged, "action_space": BOX, "autoreset_mode": MODES.NEXT_STEP}
gym.register("NoLimit-v0", vector_entry_point=OwnVector, kwargs=no_limit)
gym.register("Endless-v0", Endless)
gym.register("Filmed-v0", Filmed)
gym.register("NoDisplay-v0", NoDisplay)
