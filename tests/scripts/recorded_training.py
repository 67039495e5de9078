"""A run whose gradient steps are recorded, and what each step is to be computed from."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from references import advantage_by_definition


@dataclass
class Step:
    """One of the optimiser's steps."""

    parameters: list[Tensor]  # before it
    gradients: list[Tensor | None]
    learning_rate: float


@dataclass
class Record:
    """What happened in a run, in order."""

    script: str
    args: Any
    agent: Any = None  # as the run left it
    rollouts: list = field(default_factory=list)  # or episodes, or labels; one of each iteration
    permutations: list[Tensor] = field(default_factory=list)
    draws: list[Tensor] = field(default_factory=list)  # of dagger.py's minibatches
    steps: list[Step] = field(default_factory=list)
    run_dir: Path | None = None

    def agent_before(self, index: int) -> nn.Module:
        """The agent before a step of the optimiser, in float64."""
        agent = copy.deepcopy(self.agent).double()
        for parameter, value in zip(agent.parameters(), self.steps[index].parameters):
            parameter.data.copy_(value)
        return agent

    def observations(self, i: int) -> Tensor:
        """Those of rollout i, scaled by the statistics of the valid ones in all before it.

        PPO's statistics are of the rollouts that began in the first half of the budget.
        """
        seen = []
        num_steps = 0
        for earlier in self.rollouts[:i]:
            if not self.script.startswith("ppo") or num_steps < self.args.total_timesteps / 2:
                seen.append(earlier.obs[: len(earlier.valid)][earlier.valid])
            num_steps += int(earlier.valid.sum())
        obs = self.rollouts[i].obs.double()
        if not seen or not self.args.norm_obs:
            return obs
        mean, std = mean_and_deviation(seen)
        return (obs - mean) / std

    def rewards(self, i: int) -> Tensor:
        """Those of rollout i, over the deviation of the discounted sums in it and before it."""
        reward = self.rollouts[i].reward.double()
        if not self.args.norm_reward:
            return reward
        seen = [rollout.discounted_sum[rollout.valid] for rollout in self.rollouts[: i + 1]]
        _, std = mean_and_deviation(seen)
        return reward / std


def gradients(loss: Tensor, agent) -> tuple[Tensor | None, ...]:
    parameters = list(agent.parameters())
    return torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)


def norm(tensors) -> float:
    """Of all tensors together."""
    squares = [tensor.square().sum().item() for tensor in tensors if tensor is not None]
    return sum(squares) ** 0.5


def check_gradients(step: Step, expected, scale: float = 1.0) -> None:
    """The recorded gradients are the expected ones, times a scale."""
    tolerance = 1e-4 * scale * norm(expected)
    assert tolerance > 0
    for found, gradient in zip(step.gradients, expected, strict=True):
        if gradient is None:
            assert found is None
        else:
            assert (found - scale * gradient).norm() < tolerance


def mean_and_deviation(parts: list[Tensor]) -> tuple[Tensor, Tensor]:
    rows = torch.cat(parts).double()
    return rows.mean(0), (rows.var(0, correction=0) + 1e-8).sqrt()


def record_training(module, train_here, monkeypatch, **flags) -> Record:
    """Trains with a script, whose policy is not uniform from the start, and records it."""
    record = Record(module.__name__, module.Args(**flags))

    class Agent(module.Agent):
        def __init__(self, *spaces):
            super().__init__(*spaces)
            nn.init.normal_(self.actor[4].weight)  # of the last layer

    class Adam(module.Adam):
        def step(self):
            [group] = self.param_groups
            parameters = [parameter.detach().clone() for parameter in group["params"]]
            gradients = [parameter.grad for parameter in group["params"]]
            gradients = [None if grad is None else grad.clone() for grad in gradients]
            record.steps.append(Step(parameters, gradients, group["lr"]))
            super().step()

    names = ("Collector", "EpisodeCollector", "LabelCollector")
    [collector_class] = [getattr(module, name) for name in names if hasattr(module, name)]
    collect = collector_class.collect
    randperm = torch.randperm
    randint = torch.randint

    def recording_collect(self, *args):
        rollout = collect(self, *args)
        record.rollouts.append(rollout)
        record.agent = self.agent
        return rollout

    def recording_randperm(*args, **options):
        permutation = randperm(*args, **options)
        record.permutations.append(permutation)
        return permutation

    def recording_randint(*args, **options):
        draw = randint(*args, **options)
        record.draws.append(draw)
        return draw

    monkeypatch.setattr(module, "Agent", Agent)
    monkeypatch.setattr(module, "Adam", Adam)
    monkeypatch.setattr(collector_class, "collect", recording_collect)
    monkeypatch.setattr(torch, "randperm", recording_randperm)
    monkeypatch.setattr(torch, "randint", recording_randint)
    record.run_dir = train_here(module, **flags)
    return record


@dataclass
class Update:
    """A gradient step of an actor-critic script on B steps, in float64."""

    iteration: int
    epoch: int
    step: Step
    agent: Any  # before the step
    old_agent: Any  # that sampled the rollout
    x: Tensor  # (B, obs_dim)
    action: Tensor  # (B, ...)
    advantage: Tensor  # (B,)
    target: Tensor  # (B,)


def updates(record: Record, epochs: int, num_minibatches: int) -> Iterator[Update]:
    """Every gradient step of a run. Advantages are those of the critic before each epoch."""
    args = record.args
    index = 0
    for i, rollout in enumerate(record.rollouts):
        valid = rollout.valid
        x = record.observations(i)
        old_agent = record.agent_before(index)
        for epoch in range(epochs):
            with torch.no_grad():
                value = record.agent_before(index).critic(x)[..., 0]
            ends = rollout.terminated, rollout.truncated
            advantage = advantage_by_definition(
                record.rewards(i), value, *ends, args.gamma, args.gae_lambda
            )
            target = advantage + value[:-1]
            order = torch.arange(int(valid.sum()))
            if record.permutations:
                order = record.permutations[i * epochs + epoch]
            for minibatch in order.chunk(num_minibatches):
                yield Update(
                    iteration=i,
                    epoch=epoch,
                    step=record.steps[index],
                    agent=record.agent_before(index),
                    old_agent=old_agent,
                    x=x[:-1][valid][minibatch],
                    action=rollout.action[valid][minibatch],
                    advantage=advantage[valid][minibatch],
                    target=target[valid][minibatch],
                )
                index += 1
    assert index == len(record.steps)
