"""Checkers of log-probabilities, entropies and KL divergences, against closed forms."""

import math

import torch

from .grading import (
    Wrong,
    expect,
    expect_gradients,
    expect_pair,
    f64,
    numbers,
    random_tensors,
)

HALF_LOG_2PI = math.log(2 * math.pi) / 2


def check_softmax_policy(softmax_policy) -> None:
    """softmax_policy(logits (..., A), action (...)) → log π and entropy, both (...)."""
    p = numbers([0.5, 0.3, 0.2], [0.1, 0.1, 0.8])
    logits = p.log() + numbers([1.0], [-2.0])  # a constant more in each state changes nothing
    action = torch.tensor([1, 2])
    taken = numbers(0.3, 0.8)
    where = "with three actions"
    found = softmax_policy(logits, action)
    expect_pair(found, where, "log π and the entropy")
    mistakes = {
        "it is the logit alone: − log Σ_b exp z_b is missing": taken.log() + numbers(1.0, -2.0),
        "it is the probability, and should be its logarithm": taken,
        "its sign is reversed": -taken.log(),
        "it is that of the most probable action, and should be that of the action taken": numbers(
            0.5, 0.8
        ).log(),
    }
    expect(found[0], taken.log(), where, mistakes, ("state",), "log π")
    entropy = -(p * p.log()).sum(-1)
    mistakes = {
        "its sign is reversed": -entropy,
        "it is in bits, and should be in nats": entropy / math.log(2),
        "it is −log π of the action taken, and should be its mean over all actions": -taken.log(),
        "the logarithms are not weighted by the probabilities": -p.log().sum(-1),
        "it is averaged over the actions, and should be summed": entropy / 3,
    }
    expect(found[1], entropy, where, mistakes, ("state",), "the entropy")

    logits = random_tensors(0, 4, 3, 5).requires_grad_()
    action = random_tensors(1, 4, 3, 5).argmax(-1)
    log_p = logits - logits.exp().sum(-1, keepdim=True).log()
    taken = (log_p * torch.nn.functional.one_hot(action, 5)).sum(-1)
    where = "with dimensions (T, N)"
    log_prob, found = softmax_policy(logits, action)
    expect(log_prob, taken, where, {}, ("step", "environment"), "log π")
    inputs = {"the logits": logits}
    expect_gradients(log_prob, taken, inputs, where, "log π")
    entropy = -(log_p.exp() * log_p).sum(-1)
    expect_gradients(found, entropy, inputs, where, "the entropy")
    log_prob, _ = softmax_policy(numbers([1000.0, 0.0]), torch.tensor([0]))
    where = "with a logit of 1,000"
    expect(log_prob, numbers(0.0), where, {}, ("state",), "log π overflows: it")


def check_gaussian_policy(gaussian_policy) -> None:
    """gaussian_policy(mean (..., A), log_std (A,), action (..., A)) → log π and entropy (...)."""
    mean = numbers([0.0, 1.0], [2.0, -1.0])
    log_std = numbers(0.5, -0.7)
    action = numbers([0.5, 0.2], [1.0, -1.5])
    std = log_std.exp()
    z = (action - mean) / std
    each = -(z**2) / 2 - log_std - HALF_LOG_2PI
    where = "with two dimensions"
    found = gaussian_policy(mean, log_std, action)
    expect_pair(found, where, "log π and the entropy")
    in_variance = -((action - mean) ** 2) / (2 * std) - log_std - HALF_LOG_2PI
    of_log_std = -(((action - mean) / log_std) ** 2) / 2 - log_std - HALF_LOG_2PI
    mistakes = {
        "the action's dimensions are not summed": each,
        "the action's dimensions are averaged, and should be summed": each.mean(-1),
        "− log σ is missing": (each + log_std).sum(-1),
        "log σ has the wrong sign": (each + 2 * log_std).sum(-1),
        "− ½ log 2π is missing": (each + HALF_LOG_2PI).sum(-1),
        "it has log 2π where it should have ½ log 2π": (each - HALF_LOG_2PI).sum(-1),
        "the ½ of ½ z² is missing": (each - z**2 / 2).sum(-1),
        "the square is missing: it has ½ z for ½ z²": (each + z**2 / 2 - z / 2).sum(-1),
        "½ z² has the wrong sign": (each + z**2).sum(-1),
        "the squared distance is divided by σ, and should be by σ²": in_variance.sum(-1),
        "log σ is taken for σ: exp is missing": of_log_std.sum(-1),
        "it is the density, and should be its logarithm": each.sum(-1).exp(),
    }
    expect(found[0], each.sum(-1), where, mistakes, ("state",), "log π")
    entropy = (log_std + HALF_LOG_2PI + 0.5).sum().expand(2)
    mistakes = {
        "its sign is reversed": -entropy,
        "½ is missing: it is ½ log 2πe, not ½ log 2π": entropy - 1,
        "it is averaged over the dimensions, and should be summed": entropy / 2,
        "log σ is missing": entropy - log_std.sum(),
        "it is −log π of the action, and should be its mean over all actions": -each.sum(-1),
        "it is one number, and should be one for each state": entropy[0],
    }
    expect(found[1], entropy, where, mistakes, ("state",), "the entropy")
    log_prob, entropy = gaussian_policy(mean.expand(3, 2, 2), log_std, action)
    shape = (3, 2)
    for name, tensor in (("log π", log_prob), ("the entropy", entropy)):
        if tensor.shape != shape:
            shapes = f"{tuple(tensor.shape)}, and should be (3, 2)"
            raise Wrong(f"with dimensions (T, N) = (3, 2): the shape of {name} is {shapes}")

    mean.requires_grad_()
    log_std.requires_grad_()
    log_prob, found = gaussian_policy(mean, log_std, action)
    z = (action - mean) / log_std.exp()
    right = (-(z**2) / 2 - log_std - HALF_LOG_2PI).sum(-1)
    where = "with two dimensions"
    expect_gradients(log_prob, right, {"μ": mean, "log σ": log_std}, where, "log π")
    entropy = (log_std + HALF_LOG_2PI + 0.5).sum().expand(2)
    expect_gradients(found, entropy, {"log σ": log_std}, where, "the entropy")


def check_tanh_gaussian(tanh_gaussian) -> None:
    """tanh_gaussian(mean, log_std, noise, all (B, A)) → a (B, A), log π(a) (B,)."""
    mean = numbers([0.2, -0.5], [1.0, 0.3])
    log_std = numbers([-0.4, 0.1], [0.2, -1.0])
    noise = numbers([0.7, -1.2], [0.4, 1.5])
    where = "where the tanh is not saturated"
    found = tanh_gaussian(mean, log_std, noise)
    expect_pair(found, where, "the action and log π")
    u = mean + log_std.exp() * noise
    action = u.tanh()
    axes = ("row", "dimension")
    mistakes = {
        "it is u: the tanh is missing": u,
        "the noise is missing: it is tanh(μ)": mean.tanh(),
        "log σ is taken for σ: exp is missing": (mean + log_std * noise).tanh(),
        "the noise is not scaled by σ": (mean + noise).tanh(),
        "the tanh is taken of μ alone": mean.tanh() + log_std.exp() * noise,
    }
    expect(found[0], action, where, mistakes, axes, "the action")
    log_normal = -(noise**2) / 2 - log_std - HALF_LOG_2PI
    log_slope = (1 - action**2).log()
    each = log_normal - log_slope
    of_action = -(((action - mean) / log_std.exp()) ** 2) / 2 - log_std - HALF_LOG_2PI
    mistakes = {
        "the tanh's correction −log(1 − tanh²(u)) is missing": log_normal.sum(-1),
        "the tanh's correction has the wrong sign": (log_normal + log_slope).sum(-1),
        "the dimensions are not summed": each,
        "the dimensions are averaged, and should be summed": each.mean(-1),
        "− log σ is missing": (each + log_std).sum(-1),
        "− ½ log 2π is missing": (each + HALF_LOG_2PI).sum(-1),
        "the normal density is taken at a, and should be at u": (of_action - log_slope).sum(-1),
        "the normal density is divided by σ twice: (u − μ)/σ is the noise": (
            each + noise**2 / 2 - (noise / log_std.exp()) ** 2 / 2
        ).sum(-1),
        "log 2 is missing from the correction": (each + 2 * math.log(2)).sum(-1),
    }
    expect(found[1], each.sum(-1), where, mistakes, ("row",), "log π")

    mean.requires_grad_()
    log_std.requires_grad_()
    found_action, found_log_prob = tanh_gaussian(mean, log_std, noise)
    action = (mean + log_std.exp() * noise).tanh()
    log_prob = (-(noise**2) / 2 - log_std - HALF_LOG_2PI - (1 - action**2).log()).sum(-1)
    inputs = {"μ": mean, "log σ": log_std}
    expect_gradients(found_action, action, inputs, where, "the action")
    expect_gradients(found_log_prob, log_prob, inputs, where, "log π")

    # In float32, in which 1 − tanh² rounds to 0.
    far = torch.tensor([[40.0]])
    _, log_prob = tanh_gaussian(far, torch.zeros(1, 1), torch.full((1, 1), 0.5))
    right = torch.tensor([-(0.5**2) / 2 - HALF_LOG_2PI - (2 * math.log(2) - 2 * 40.5)])
    rounded = "1 − tanh²(u) rounds to 0 and its digits are lost: "
    expect(log_prob, right, "where the tanh is saturated", {}, ("row",), rounded + "log π")


def check_softmax_kl(softmax_kl) -> None:
    """softmax_kl(old_logits, logits, both (..., A)) → KL (...)."""
    old_p = numbers([0.5, 0.3, 0.2], [0.1, 0.1, 0.8])
    p = numbers([0.2, 0.6, 0.2], [0.3, 0.3, 0.4])
    each = old_p * (old_p / p).log()
    old_logits = old_p.log() + 1
    logits = p.log() - 2
    mistakes = {
        "it is the other way round: the mean must be under the old policy": (
            p * (p / old_p).log()
        ).sum(-1),
        "its sign is reversed": -each.sum(-1),
        "the actions are not summed": each,
        "the actions are averaged, and should be summed": each.mean(-1),
        "it is the cross-entropy: Σ π_old log π_old is missing": -(old_p * p.log()).sum(-1),
        "the log-ratios are not weighted by the old probabilities": (old_p / p).log().sum(-1),
        "logits are taken for log-probabilities: log_softmax is missing": (
            old_logits.exp() * (old_logits - logits)
        ).sum(-1),
        "the old and the new policy are the same": torch.zeros(2, dtype=f64),
    }
    where = "with three actions"
    expect(softmax_kl(old_logits, logits), each.sum(-1), where, mistakes, ("state",))
    logits.requires_grad_()
    found = softmax_kl(old_logits, logits)
    right = (old_p * (old_p.log() - logits.log_softmax(-1))).sum(-1)
    expect_gradients(found, right, {"the logits": logits}, where, "the KL")


def kl_of_gaussians(old_mean, old_log_std, mean, log_std):
    """Of each dimension."""
    var = (2 * log_std).exp()
    old_var = (2 * old_log_std).exp()
    return (old_var + (old_mean - mean) ** 2) / (2 * var) - 0.5 - old_log_std + log_std


def check_gaussian_kl(gaussian_kl) -> None:
    """gaussian_kl(old_mean, old_log_std, mean, log_std, all (..., A)) → KL (...)."""
    old_mean = numbers([0.0, 1.0], [2.0, -1.0])
    mean = numbers([0.3, 0.6], [1.5, -0.8])
    old_log_std = numbers([0.1, -0.3], [0.1, -0.3])
    same_std = gaussian_kl(old_mean, old_log_std, mean, old_log_std)
    each = ((old_mean - mean) / old_log_std.exp()) ** 2 / 2
    mistakes = {
        "the action's dimensions are not summed": each,
        "the action's dimensions are averaged, and should be summed": each.mean(-1),
        "the ½ of the squared distance is missing": 2 * each.sum(-1),
        "− ½ is missing": each.sum(-1) + 1,
    }
    expect(same_std, each.sum(-1), "where σ has not changed", mistakes, ("state",))

    log_std = numbers(-0.5, 0.4)
    each = kl_of_gaussians(old_mean, old_log_std, mean, log_std)
    reversed_each = kl_of_gaussians(mean, log_std, old_mean, old_log_std)
    by_old = kl_of_gaussians(old_mean, old_log_std, mean, old_log_std)
    ratio = (old_log_std - log_std).exp()
    mistakes = {
        "it is the other way round: the mean must be under the old policy": reversed_each.sum(-1),
        "log σ − log σ_old is missing": (each + old_log_std - log_std).sum(-1),
        "log σ − log σ_old has the wrong sign": (each + 2 * (old_log_std - log_std)).sum(-1),
        "it has σ_old / σ where it should have σ_old² / σ²": (each - ratio**2 / 2 + ratio / 2).sum(
            -1
        ),
        "the change of σ is left out": by_old.sum(-1),
    }
    found = gaussian_kl(old_mean, old_log_std, mean, log_std)
    where = "where σ has changed"
    expect(found, each.sum(-1), where, mistakes, ("state",))
    mean.requires_grad_()
    log_std.requires_grad_()
    found = gaussian_kl(old_mean, old_log_std, mean, log_std)
    right = kl_of_gaussians(old_mean, old_log_std, mean, log_std)
    expect_gradients(found, right, {"μ": mean, "log σ": log_std}, where, "the KL")
