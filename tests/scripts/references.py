"""Formulas once more, written from their definitions: one entry at a time, or with
torch.distributions.
"""

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, Normal


def advantage_by_definition(reward, value, terminated, truncated, gamma, lam) -> Tensor:
    """Σ_l (γλ)^l δ_{t+l} up to the episode's end, one entry at a time."""
    advantage = np.zeros(reward.shape)
    for n in range(reward.shape[1]):
        for t in range(reward.shape[0]):
            for k in range(t, reward.shape[0]):
                after = 0.0 if terminated[k, n] else float(value[k + 1, n])
                delta = float(reward[k, n]) + gamma * after - float(value[k, n])
                advantage[t, n] += (gamma * lam) ** (k - t) * delta
                if terminated[k, n] or truncated[k, n]:
                    break
    return torch.as_tensor(advantage)


def distribution(agent, out: Tensor, log_std: Tensor) -> Distribution:
    """The policy of an actor's outputs."""
    if agent.discrete:
        return Categorical(logits=out)
    return Independent(Normal(out, log_std.exp()), 1)


def policy_of(agent, x: Tensor) -> Distribution:
    """An agent's policy in states x."""
    return distribution(agent, agent.actor(x), agent.log_std)
