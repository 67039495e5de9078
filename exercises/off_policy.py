"""Checkers of ddpg.py, td3.py and sac.py: targets, actor losses, noise, temperature."""

from types import SimpleNamespace

import torch

from .grading import expect, expect_gradients, f64, gradient, numbers, random_tensors

ROW = ("row",)


def check_dpg(actor_loss) -> None:
    """actor_loss(q (B,)) → a number."""
    q = numbers(1.0, 2.0, -4.0, 7.0).requires_grad_()
    mistakes = {
        "its sign is reversed: descending it must raise Q": torch.tensor(1.5),
        "the rows are summed, and should be averaged": torch.tensor(-6.0),
        "the rows are not averaged": -q,
        "Q is squared: the actor maximises it, wherever it is": torch.tensor(70 / 4),
    }
    where = "for a minibatch of four"
    loss = actor_loss(q)
    expect(loss, torch.tensor(-1.5), where, mistakes, what="the loss")
    found = gradient(loss, q, where)
    expect(found, numbers(-0.25, -0.25, -0.25, -0.25), where, {}, ROW, "the gradient by Q")


def check_exploration(line) -> None:
    """action (N, A) from action and noise, both (N, A)."""
    action = numbers([0.2, -0.5], [0.9, -0.9])
    noise = numbers([0.1, -0.3], [0.3, -0.4])
    args = SimpleNamespace(exploration_noise=0.1)
    # The policy's action and the noise are fresh: lines may change them.
    found = line(action=action.clone(), noise=noise.clone(), args=args)
    noisy = action + noise
    mistakes = {
        "it leaves the bounds −1 and 1: clamp is missing": noisy,
        "the noise is missing": action,
        "the noise is subtracted": (action - noise).clamp(-1, 1),
        "the noise is scaled by σ a second time": (action + 0.1 * noise).clamp(-1, 1),
        "the lower bound is missing": noisy.clamp(max=1),
        "the upper bound is missing": noisy.clamp(min=-1),
        "it is clipped to 0 and 1, and the bounds are −1 and 1": noisy.clamp(0, 1),
    }
    where = "near the bounds"
    expect(found, noisy.clamp(-1, 1), where, mistakes, ("environment", "dimension"))


def check_td_target(td_target) -> None:
    """td_target(reward, terminated, next_value, all (B,), gamma) → y (B,)."""
    reward = numbers(1.0, 2.0, 3.0)
    value = numbers(10.0, -20.0, 30.0)
    going_on = torch.zeros(3, dtype=f64)
    mistakes = {
        "γ is missing": reward + value,
        "the reward is missing": 0.9 * value,
        "the reward is discounted, too": 0.9 * (reward + value),
        "the next value counts for nothing: it is missing, or the mask is the wrong way round": (
            reward
        ),
    }
    where = "where no episode has ended"
    found = td_target(reward, going_on, value, 0.9)
    expect(found, reward + 0.9 * value, where, mistakes, ROW, "the target")
    terminated = numbers(0.0, 1.0, 0.0)
    right = reward + 0.9 * value * (1 - terminated)
    mistakes = {
        "it bootstraps, though nothing comes after, at row 1": reward + 0.9 * value,
        "the reward of the last step is left out, at row 1": right * (1 - terminated),
    }
    found = td_target(reward, terminated, value, 0.9)
    expect(found, right, "where an episode is terminated", mistakes, ROW, "the target")


def twins() -> dict[str, torch.Tensor]:
    """What two critics say: each is the smaller one somewhere."""
    return {"next_q1": numbers(1.0, 5.0, -2.0), "next_q2": numbers(2.0, 3.0, -4.0)}


def check_twin_target(line) -> None:
    """next_value (B,) from next_q1 and next_q2, both (B,)."""
    q1, q2 = twins().values()
    mistakes = {
        "it is the larger one, which overrates: take the smaller": torch.max(q1, q2),
        "it is the mean of both, and should be the smaller": (q1 + q2) / 2,
        "it is the first critic's alone": q1,
        "it is the second critic's alone": q2,
        "it is the critic with the smaller mean, and should be the smaller value in each row": q2,
        "it is the smallest of the minibatch, and should be one for each row": torch.tensor(-4.0),
        "it is their sum": q1 + q2,
    }
    next_x = random_tensors(1, 3, 2)
    next_action = random_tensors(2, 3, 1)
    found = line(
        **twins(),
        next_x=next_x,
        next_action=next_action,
        target_q1=lambda x, action: twins()["next_q1"],
        target_q2=lambda x, action: twins()["next_q2"],
    )
    expect(found, torch.min(q1, q2), "where the critics disagree", mistakes, ROW)


def check_target_smoothing(smoothed_action) -> None:
    """smoothed_action(action, noise, both (B, A), noise_clip) → a' (B, A)."""
    action = numbers([0.1, -0.2], [0.3, 0.0])
    noise = numbers([0.2, -0.1], [0.6, -0.8])
    axes = ("row", "dimension")
    clipped = noise.clamp(-0.5, 0.5)
    mistakes = {
        "the noise is not clipped to ± c": action + noise,
        "the noise is missing": action,
        "the noise is subtracted": action - clipped,
        "the sum is clipped to ± c, and should be the noise": (action + noise).clamp(-0.5, 0.5),
        "the noise is clipped from above alone": action + noise.clamp(max=0.5),
    }
    # The target's action and the noise are fresh: the function may change them.
    found = smoothed_action(action.clone(), noise.clone(), 0.5)
    expect(found, action + clipped, "where the noise is larger than c", mistakes, axes)
    mistakes = {"c is a number of yours, and should be noise_clip": action + clipped}
    found = smoothed_action(action.clone(), noise.clone(), 0.2)
    expect(found, action + noise.clamp(-0.2, 0.2), "with c = 0.2", mistakes, axes)
    action = numbers([0.9, -0.8])
    noise = numbers([0.3, -0.4])
    mistakes = {"the action leaves the bounds −1 and 1": action + noise}
    found = smoothed_action(action.clone(), noise.clone(), 0.5)
    expect(found, numbers([1.0, -1.0]), "near the bounds", mistakes, axes)


def check_soft_value(soft_value) -> None:
    """soft_value(q1, q2 (B,), alpha, log_prob (B,)) → V (B,)."""
    q1, q2 = twins().values()
    log_prob = numbers(-1.0, 0.5, 2.0)
    smaller = torch.min(q1, q2)
    bonus = -0.3 * log_prob
    mistakes = {
        "the entropy has the wrong sign: it is − α log π": smaller - bonus,
        "the entropy is missing": smaller,
        "α is missing": smaller - log_prob,
        "it has the larger Q, which overrates: take the smaller": torch.max(q1, q2) + bonus,
        "it has the mean of both Q, and should have the smaller": (q1 + q2) / 2 + bonus,
        "it has the first Q alone": q1 + bonus,
        "it has the second Q alone": q2 + bonus,
        "α multiplies Q, too": 0.3 * (smaller - log_prob),
        "it is averaged over the minibatch": (smaller + bonus).mean(),
    }
    alpha = torch.tensor(0.3, dtype=f64)
    where = "with α = 0.3"
    expect(soft_value(q1, q2, alpha, log_prob), smaller + bonus, where, mistakes, ROW)
    for tensor in (q1, q2, log_prob):
        tensor.requires_grad_()
    found = soft_value(q1, q2, alpha, log_prob)
    right = torch.min(q1, q2) - alpha * log_prob
    inputs = {"log π": log_prob, "the first Q": q1, "the second Q": q2}
    expect_gradients(found, right, inputs, where, "V")


def check_soft_bellman(line) -> None:
    """target (B,) from batch, next_value (B,) and args.gamma."""
    batch = SimpleNamespace(reward=numbers(1.0, 2.0, 3.0), terminated=numbers(0.0, 1.0, 0.0))
    alpha = torch.tensor(0.3, dtype=f64)
    log_prob = numbers(-1.0, 0.5, 2.0)
    smaller = torch.min(*twins().values())
    value = smaller - alpha * log_prob
    given = {"batch": batch, "next_value": value, "alpha": alpha, "next_log_prob": log_prob}
    goes_on = 1 - batch.terminated
    mistakes = {
        "the entropy is missing: V̄(s') has it": batch.reward + 0.9 * goes_on * smaller,
        "it bootstraps where an episode is terminated, at row 1": batch.reward + 0.9 * value,
        "γ is missing": batch.reward + goes_on * value,
        "the mask is the wrong way round": batch.reward + 0.9 * batch.terminated * value,
        "the entropy is counted twice": batch.reward + 0.9 * goes_on * (value - alpha * log_prob),
        "the reward is missing": 0.9 * goes_on * value,
    }
    found = line(**given, **twins(), args=SimpleNamespace(gamma=0.9))
    right = batch.reward + 0.9 * goes_on * value
    expect(found, right, "with γ = 0.9", mistakes, ROW, "the target")


def check_soft_improvement(line) -> None:
    """pi_loss, a number, from value (B,), or from alpha, log_prob, new_q1 and new_q2."""
    q1, q2 = twins().values()
    alpha = torch.tensor(0.3, dtype=f64)
    log_prob = numbers(-1.0, 0.5, 2.0).requires_grad_()
    smaller = torch.min(q1, q2)
    value = smaller - alpha * log_prob
    loss = line(value=value, alpha=alpha, log_prob=log_prob, new_q1=q1, new_q2=q2)
    right = -value.detach().mean()
    mistakes = {
        "its sign is reversed: descending it must raise V": -right,
        "the rows are summed, and should be averaged": 3 * right,
        "the rows are not averaged": -value,
        "the entropy is missing": -smaller.mean(),
        "the entropy has the wrong sign: it is α log π − Q": -(smaller + alpha * log_prob).mean(),
    }
    where = "for a minibatch of three"
    expect(loss, right, where, mistakes, what="the loss")
    found = gradient(loss, log_prob, where)
    expect(found, alpha.expand(3) / 3, where, {}, ROW, "the gradient by log π")


def check_temperature(temperature_loss) -> None:
    """temperature_loss(alpha, entropy, target_entropy) → a number."""
    alpha = torch.tensor(0.5, dtype=f64, requires_grad=True)
    entropy = random_tensors(0, 4).mean().requires_grad_()
    gap = entropy.detach() + 2  # the target is −2
    loss = temperature_loss(alpha, entropy, -2.0)
    mistakes = {
        "its sign is reversed: α must fall while the entropy is above its target": -0.5 * gap,
        "the target's sign is reversed: it is H − H̄": 0.5 * (entropy.detach() - 2),
        "the target is missing": 0.5 * entropy.detach(),
        "α is missing": gap,
    }
    where = "where the entropy is above its target"
    expect(loss, 0.5 * gap, where, mistakes, what="the loss")
    slope = gradient(loss, alpha, where)
    expect(slope, gap, where, {}, what="the gradient by α")
    [by_entropy] = torch.autograd.grad(
        temperature_loss(alpha, entropy, -2.0), entropy, allow_unused=True, materialize_grads=True
    )
    where = "in the gradient by the entropy"
    told = "it changes the policy, too: the entropy is data here, so detach it"
    zero = torch.zeros_like(by_entropy)
    expect(by_entropy, zero, where, {told: alpha.detach()})
