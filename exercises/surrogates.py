"""Checkers of what an on-policy actor descends: its loss, the ratio, the clip, the KL penalty."""

from types import SimpleNamespace

import torch
from torch import Tensor

from .grading import Wrong, expect, gradient, numbers, random_tensors, told_apart


def check_score_function(reinforce_loss) -> None:
    """reinforce_loss(log_prob, weight, valid, all (T, N)) → a number."""
    log_prob = random_tensors(0, 4, 3).requires_grad_()
    weight = random_tensors(1, 4, 3)
    running = torch.ones(4, 3, dtype=torch.bool)
    each = (log_prob * weight).detach()
    where = "where all episodes have the same length"
    right = -each.sum(0).mean()
    mistakes = {
        "its sign is reversed: descending it must raise the return": -right,
        "the steps are averaged, and should be summed: log p(τ) is a sum": -each.mean(),
        "the episodes are summed, and should be averaged": -each.sum(),
        "the weights are missing": -log_prob.detach().sum(0).mean(),
        "the log-probabilities are averaged before they are weighted: each step has its own "
        "weight": -(log_prob.mean(0) * weight.sum(0)).mean().detach(),
    }
    loss = reinforce_loss(log_prob, weight, running)
    expect(loss, right, where, mistakes, what="the loss")
    expect(gradient(loss, log_prob, where), -weight / 3, where, {}, ("step", "episode"))

    lengths = torch.tensor([4, 1, 2])
    valid = torch.arange(4)[:, None] < lengths
    total = -(each * valid).sum()
    mistakes = {
        "steps after an episode's end are counted: multiply by valid": right,
        "the sum is divided by the number of steps, so that long episodes count for more; "
        "divide by that of episodes": total / valid.sum(),
        "each episode is divided by its own length, which gives the steps of short ones more "
        "weight": -((each * valid).sum(0) / lengths).mean(),
    }
    where = "where episodes have different lengths"
    expect(reinforce_loss(log_prob, weight, valid), total / 3, where, mistakes, what="the loss")


def check_mean_loss(loss: Tensor, factor: Tensor, advantage: Tensor, where: str, name: str) -> None:
    """That a loss is −mean(factor · Â), and that its gradient flows through the factor."""
    each = (factor * advantage).detach()
    mistakes = {
        "its sign is reversed: descending it must raise the return": each.mean(),
        "the steps are summed, and should be averaged": -each.sum(),
        "the steps are not averaged": -each,
        "the advantages are missing": -factor.detach().mean(),
        f"{name} and advantages are averaged before they are multiplied": -factor.detach().mean()
        * advantage.mean(),
    }
    expect(loss, -each.mean(), where, mistakes, what="the loss")
    found = gradient(loss, factor, where)
    expect(found, -advantage / len(advantage), where, {}, ("step",), "the gradient")


def check_actor_critic(policy_loss) -> None:
    """policy_loss(log_prob, advantage, both (M,)) → a number."""
    log_prob = random_tensors(2, 5).requires_grad_()
    advantage = random_tensors(3, 5)
    loss = policy_loss(log_prob, advantage)
    check_mean_loss(loss, log_prob, advantage, "over five steps", "log-probabilities")


def check_surrogate_loss(policy_loss) -> None:
    """policy_loss(ratio, advantage, both (B,)) → a number."""
    ratio = random_tensors(4, 5).exp().requires_grad_()
    advantage = random_tensors(5, 5)
    loss = policy_loss(ratio, advantage)
    check_mean_loss(loss, ratio, advantage, "over five steps", "ratios")


def check_surrogate(line) -> None:
    """ratio (B,) from log_prob (B,), batch_old_log_prob (M,) and mb, indices (B,)."""
    old = random_tensors(6, 4)
    log_prob = random_tensors(7, 4).requires_grad_()
    mb = torch.tensor([2, 0, 3, 1])
    ratio = line(log_prob=log_prob, batch_old_log_prob=old, mb=mb)
    new = log_prob.detach()
    right = (new - old[mb]).exp()
    mistakes = {
        "it is upside down: the new policy's probability is the numerator": 1 / right,
        "it is the logarithm of the ratio: exp is missing": new - old[mb],
        "the old log-probabilities are those of other steps: they need [mb]": (new - old).exp(),
        "it is the quotient of the log-probabilities": new / old[mb],
        "the old policy is missing": new.exp(),
        "it is the difference of the probabilities, and should be their quotient": new.exp()
        - old[mb].exp(),
        "it is 1: the old log-probabilities must be those that were stored": torch.ones_like(new),
    }
    expect(ratio, right, "in a shuffled minibatch", mistakes, ("step",), "the ratio")
    where = "in the gradient by log π"
    expect(gradient(ratio.sum(), log_prob, where), right, where, {}, ("step",))


# A ratio, an advantage, where that is, and what min(ρ Â, clip(ρ) Â) is there, with ε = 0.2.
CLIP_CASES = [
    (1.1, 1.0, "within the range", 1.1),
    (0.9, -1.0, "within the range", -0.9),
    (1.5, 1.0, "where the ratio is above 1 + ε and Â > 0", 1.2),
    (0.5, -1.0, "where the ratio is below 1 − ε and Â < 0", -0.8),
    (1.5, -1.0, "where the ratio is above 1 + ε and Â < 0", -1.5),
    (0.5, 1.0, "where the ratio is below 1 − ε and Â > 0", 0.5),
]


def check_clip(policy_loss) -> None:
    """policy_loss(ratio, advantage, both (B,), clip_coef) → a number."""
    for ratio, advantage, where, gain in CLIP_CASES:
        clipped_ratio = min(max(ratio, 0.8), 1.2)
        ratio_tensor = numbers(ratio).requires_grad_()
        loss = policy_loss(ratio_tensor, numbers(advantage), 0.2)
        right = torch.tensor(-gain, dtype=ratio_tensor.dtype)
        is_clipped = gain == clipped_ratio * advantage and ratio != clipped_ratio
        if is_clipped:
            told = "it is not clipped: moving on must gain nothing"
            mistakes = {told: -torch.tensor(ratio * advantage, dtype=right.dtype)}
        else:
            told = "it is clipped, so that a mistake is not undone: the smaller term counts"
            mistakes = {told: -torch.tensor(clipped_ratio * advantage, dtype=right.dtype)}
        if ratio != clipped_ratio:
            mistakes["the ratio is clipped at the wrong end"] = -torch.tensor(
                (2.0 - clipped_ratio) * advantage, dtype=right.dtype
            )
        mistakes["its sign is reversed: descending it must raise the return"] = -right
        expect(loss, right, where, mistakes, what="the loss")
        found = gradient(loss, ratio_tensor, where)
        slope = numbers(0.0 if is_clipped else -advantage)
        expect(found, slope, where, {}, ("step",), "the gradient by the ratio")

    ratio = (0.4 * random_tensors(8, 20)).exp()
    advantage = random_tensors(9, 20)
    each = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    mistakes = {
        "the steps are summed, and should be averaged": -each.sum(),
        "the steps are not averaged": -each,
        "the minimum is taken of the means, and should be of each step's terms": -torch.min(
            (ratio * advantage).mean(), (ratio.clamp(0.8, 1.2) * advantage).mean()
        ),
    }
    loss = policy_loss(ratio, advantage, 0.2)
    expect(loss, -each.mean(), "over twenty steps", mistakes, what="the loss")
    each = torch.min(ratio * advantage, ratio.clamp(0.9, 1.1) * advantage)
    loss = policy_loss(ratio, advantage, 0.1)
    expect(loss, -each.mean(), "with ε = 0.1", {}, what="the loss")


def check_kl_penalty(line) -> None:
    """penalty, a number, from kl_penalty.coef (β) and kl, a number."""
    kl_of_states = numbers(0.1, 0.5).requires_grad_()
    kl = kl_of_states.mean()
    penalty = line(
        kl_penalty=SimpleNamespace(coef=4.0),
        kl=kl,
        args=SimpleNamespace(kl_coef=1.0, target_kl=0.02),
        agent=SimpleNamespace(kl=lambda old_out, old_log_std, out: kl_of_states),
        batch_old_out=random_tensors(10, 2, 3),
        batch_old_log_std=random_tensors(11, 2, 3),
        out=random_tensors(12, 2, 3),
        mb=torch.tensor([1, 0]),
    )
    mistakes = {
        "its sign is reversed: a KL must cost something": -4 * kl,
        "it has β_0, the flag, and should have the β of now": kl,
        "it is divided by β": kl / 4,
        "it has the distance to the target, and should have the KL": 4 * (kl - 0.02),
        "the KL is squared": 4 * kl.square(),
    }
    where = "with β = 4 and a KL of 0.3"
    expect(penalty, 4 * kl.detach(), where, mistakes, what="the penalty")
    found = gradient(penalty, kl_of_states, where)
    expect(found, numbers(2.0, 2.0), where, {}, ("state",), "the gradient by the KL")


# KL over target, what β is multiplied by, where that is.
ADAPT_CASES = [
    (10.0, 2.0, "where the KL is ten times its target"),
    (0.0, 0.5, "where the KL is 0"),
    (1.0, 1.0, "where the KL is on its target"),
    (1.25, 1.0, "where the KL is a little above its target"),
    (0.75, 1.0, "where the KL is a little below its target"),
    (1.5, 2.0, "where the KL is 1.5 times its target"),
    (1 / 1.5, 0.5, "where the KL is its target divided by 1.5"),
    (1.75, 2.0, "where the KL is 1.75 times its target"),
    (0.6, 0.5, "where the KL is 0.6 times its target"),
]


def check_kl_adapt(penalty_class) -> None:
    """KLPenalty(β).adapt(kl, target_kl) sets β, its `coef`."""
    for ratio, factor, where in ADAPT_CASES:
        penalty = penalty_class(4.0)
        penalty.adapt(ratio * 1.5, 1.5)  # in binary 2.25 and 1 are exact
        found = penalty.coef / 4
        if found == factor:
            continue
        if found == 1 / factor:
            raise Wrong(f"{where}: it is the wrong way round: a KL too large needs a larger β")
        found_text, right_text = told_apart(found, factor)
        raise Wrong(f"{where}: β is multiplied by {found_text}, and should be by {right_text}")
    penalty = penalty_class(penalty_class.smallest)
    penalty.adapt(0.0, 1.5)
    if penalty.coef < penalty_class.smallest:
        raise Wrong("where β is at its smallest: it falls on, and could not come back")
    penalty = penalty_class(penalty_class.largest)
    penalty.adapt(9.0, 1.5)
    if penalty.coef > penalty_class.largest:
        raise Wrong("where β is at its largest: it grows on")
    penalty = penalty_class(0.0)
    for kl in (0.0, 1.5, 9.0):
        penalty.adapt(kl, 1.5)
        if penalty.coef != 0:
            raise Wrong("where β is 0, so that there is no penalty: it does not stay 0")
