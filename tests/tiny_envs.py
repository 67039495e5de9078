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
