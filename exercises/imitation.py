"""Checkers of dagger.py: its loss, labels and dataset, with a made-up expert and learner."""

from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from .grading import Wrong, expect, gradient, name_mistake, numbers

DISCRETE = SimpleNamespace(discrete=True, from_env=lambda label: label - 1)
BOX = SimpleNamespace(discrete=False, from_env=lambda label: label / 2)  # bounds of ±2


def check_likelihood(
    loss, out: Tensor, slope: Tensor, where: str, mistakes: dict[str, Tensor]
) -> None:
    """That a loss has the gradient `slope` by the outputs: a constant more changes nothing."""
    if isinstance(loss, Tensor):
        name_mistake(loss, where, mistakes)
    found = gradient(loss, out, where)
    expect(found, slope, where, {}, ("row", "output"), "the gradient by the actor's outputs")


def check_behavioural_cloning(imitation_loss) -> None:
    """imitation_loss(agent, out (B, ·), label (B, ...)) → a number."""
    p = numbers([0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1])
    out = (p.log() + 1).requires_grad_()
    label = torch.tensor([3, 1])  # counted from 1
    taken = numbers(0.3, 0.7)
    raw = numbers(0.4, 0.1)
    where = "with Discrete actions"
    loss = imitation_loss(DISCRETE, out, label)
    mistakes = {
        "its sign is reversed: descending it must raise the likelihood": taken.log().mean(),
        "the labels are the environment's: they need agent.from_env": -raw.log().mean(),
        "the rows are summed, and should be averaged": -taken.log().sum(),
        "the rows are not averaged": -taken.log(),
        "it is the likelihood, and should be its logarithm": -taken.mean(),
    }
    slope = (p - nn.functional.one_hot(label - 1, 4)) / 2
    check_likelihood(loss, out, slope, where, mistakes)

    out = numbers([0.5, -0.2, 0.1], [1.5, 0.0, -0.4]).requires_grad_()
    label = numbers([1.0, -2.0, 0.6], [2.0, 0.5, 1.0])
    squares = (label / 2 - out.detach()) ** 2
    where = "with Box actions"
    loss = imitation_loss(BOX, out, label)
    mistakes = {
        "its sign is reversed: descending it must raise the likelihood": -squares.sum(-1).mean()
        / 2,
        "the labels are the environment's: they need agent.from_env": ((label - out.detach()) ** 2)
        .sum(-1)
        .mean()
        / 2,
        "the action's dimensions are averaged, and should be summed": squares.mean() / 2,
        "the ½ is missing, so that σ is not 1": squares.sum(-1).mean(),
        "the ½ is missing and the dimensions are averaged": squares.mean(),
        "the rows are summed, and should be averaged": squares.sum() / 2,
        "it has distances, and should have their squares": squares.sqrt().sum(-1).mean() / 2,
    }
    slope = (out.detach() - label / 2) / 2
    check_likelihood(loss, out, slope, where, mistakes)


class CountingEnvs:
    """A vector environment whose observations are [environment, steps so far]; it records actions.

    Environment 0 ends an episode at every second step, and resets in the step after it.
    """

    num_envs = 3

    def reset(self, seed):
        self.steps = 0
        self.actions = []
        return self.observation(), {}

    def observation(self) -> np.ndarray:
        return np.array([[n, self.steps] for n in range(self.num_envs)], dtype=np.float32)

    def step(self, action):
        self.actions.append(np.array(action))
        self.steps += 1
        ended = np.array([self.steps % 3 == 2, False, False])
        reward = np.ones(self.num_envs)
        return self.observation(), reward, ended, np.zeros_like(ended), {}


def expert(obs: np.ndarray) -> np.ndarray:
    """Labels that tell the state they belong to."""
    return (100 + 10 * obs[:, 0] + obs[:, 1]).astype(np.int64)


LEARNERS_ACTION = 7
NUM_STEPS = 30


class Learner:
    """It always does the same."""

    def act(self, obs: np.ndarray) -> np.ndarray:
        return np.full(len(obs), LEARNERS_ACTION)


def check_labels(collector_class) -> None:
    """LabelCollector(envs, agent, expert, seed).collect(num_steps, beta) → Labelled."""
    for beta, who in ((0.0, "the learner acts"), (1.0, "the expert acts"), (0.5, "both act")):
        envs = CountingEnvs()
        new = collector_class(envs, Learner(), expert, seed=0).collect(NUM_STEPS, beta)
        check_states_and_labels(new, f"where {who}")
        check_actions(np.stack(envs.actions), beta, f"where {who}")


def check_states_and_labels(new, where: str) -> None:
    """Every valid state, and the expert's action there."""
    visited = [[n, t] for t in range(NUM_STEPS) for n in range(3) if not (n == 0 and t % 3 == 2)]
    every = [[n, t] for t in range(NUM_STEPS) for n in range(3)]
    led_to = [[n, t + 1] for n, t in visited]
    told = {
        "a step that only resets is labelled, too: keep the valid ones": every,
        "it keeps the states that a step led to, and should keep those it started in": led_to,
    }
    states = new.obs.tolist()
    if states != visited:
        for message, mistake in told.items():
            if states == mistake:
                raise Wrong(f"{where}: {message}")
        count = f"{len(states)} of {len(visited)}"
        raise Wrong(f"{where}: the states kept are not those visited ({count} rows)")
    right = expert(new.obs.numpy()).tolist()
    labels = new.label.tolist()
    if labels == right:
        return
    if LEARNERS_ACTION in labels:
        message = "the label is the learner's action where it acts; it must be the expert's"
        raise Wrong(f"{where}: {message}, whoever acts")
    if labels == [label + 1 for label in right]:
        raise Wrong(f"{where}: the label is of the next state, and should be of the one acted in")
    raise Wrong(f"{where}: a label is not the expert's action in its state")


def check_actions(actions: np.ndarray, beta: float, where: str) -> None:
    """Taken in the environments, (T, N)."""
    by_learner = actions == LEARNERS_ACTION
    if beta == 0.0 and not by_learner.all():
        raise Wrong(f"{where}, as β is 0: an action taken is not the learner's")
    if beta == 1.0 and by_learner.any():
        raise Wrong(f"{where}, as β is 1: an action taken is the learner's")
    if beta == 0.5 and not 0.2 < by_learner.mean() < 0.8:
        share = f"{1 - by_learner.mean():.2f}"
        raise Wrong(f"{where}, as β is ½: the expert's share of the actions is {share}")
    if beta == 0.5 and (by_learner.all(1) | ~by_learner.any(1)).all():
        raise Wrong(f"{where}, as β is ½: one draw decides for all environments; draw for each")


def check_aggregation(dataset_class) -> None:
    """Dataset(obs, label).add(obs, label): D ← D ∪ D_π."""
    first = numbers([1.0, 2.0], [3.0, 4.0])
    second = numbers([5.0, 6.0])
    dataset = dataset_class(first, torch.tensor([0, 1]))
    dataset.add(second, torch.tensor([2]))
    where = "after a second batch"
    axes = ("row", "feature")
    mistakes = {
        "the new states replace the old ones: D must grow": second,
        "the new states are not kept": first,
        "the new states stand before the old ones, which were first": torch.cat([second, first]),
        "the old states are kept twice": torch.cat([first, first, second]),
    }
    expect(dataset.obs, torch.cat([first, second]), where, mistakes, axes, "the set of states")
    mistakes = {
        "the new labels replace the old ones: D must grow": torch.tensor([2]),
        "the new labels are not kept": torch.tensor([0, 1]),
        "the new labels stand before the old ones, so that states get others' labels": (
            torch.tensor([2, 0, 1])
        ),
    }
    right = torch.tensor([0, 1, 2])
    expect(dataset.label, right, where, mistakes, ("row",), "the list of labels")
    if dataset.label.dtype != torch.int64:
        raise Wrong(f"{where}: labels are {dataset.label.dtype}, and should stay whole numbers")

    first_label = numbers([0.1, 0.2], [0.3, 0.4])
    second_label = numbers([0.5, 0.6])
    dataset = dataset_class(first, first_label)
    dataset.add(second, second_label)
    right = torch.cat([first_label, second_label])
    where = "where labels are Box actions"
    expect(dataset.label, right, where, {}, ("row", "dimension"), "the list of labels")
