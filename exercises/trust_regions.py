"""Checkers of trpo.py's lines, on a quadratic whose second derivative is known."""

from types import SimpleNamespace

import torch

from .grading import Wrong, expect, numbers, random_tensors


def check_fisher(fisher_product) -> None:
    """fisher_product(kl_gradient (P,), parameters, damping, v (P,)) → (H + damping·I) v (P,)."""
    root = random_tensors(0, 5, 5)
    h = root @ root.T
    parameters = [numbers(0.3, -0.2, 0.5).requires_grad_(), numbers(1.0, -1.0).requires_grad_()]
    theta = torch.cat(parameters)
    gradients = torch.autograd.grad(theta @ h @ theta / 2, parameters, create_graph=True)
    kl_gradient = torch.cat(gradients)
    v = random_tensors(1, 5)
    mistakes = {
        "it is the gradient, and should be its derivative along v": kl_gradient.detach(),
        "it is ∇KL · v, not yet differentiated": (kl_gradient @ v).detach(),
        "its sign is reversed": -h @ v,
        "it is (∇KL · v) ∇KL, and should be the second derivative": (
            (kl_gradient @ v) * kl_gradient
        ).detach(),
        "it is ∇KL times v, entry by entry": (kl_gradient * v).detach(),
    }
    where = "without damping"
    axes = ("parameter",)
    expect(fisher_product(kl_gradient, parameters, 0.0, v), h @ v, where, mistakes, axes)
    mistakes = {
        "the damping is missing": h @ v,
        "the damping is added as a number, and should multiply v": h @ v + 0.5,
        "the damping is subtracted": h @ v - 0.5 * v,
    }
    found = fisher_product(kl_gradient, parameters, 0.5, v)
    expect(found, h @ v + 0.5 * v, "with a damping of 0.5", mistakes, axes)


def check_natural_gradient(line) -> None:
    """step (P,) from direction s (P,), curvature sᵀHs and max_kl δ."""
    args = SimpleNamespace(cg_damping=0.1)
    s = numbers(1.0, -2.0, 0.5)
    curvature = torch.tensor(9.0, dtype=s.dtype)
    h = 9 / (s @ s)  # times the identity: sᵀHs = 9
    given = {"args": args, "max_kl": 0.02, "product": lambda v: h * v}
    found = line(**given, direction=s, curvature=curvature)
    mistakes = {
        "the square root is missing": 0.04 / 9 * s,
        "the 2 is missing: δ ≈ ½ sᵀHs": (0.02 / 9) ** 0.5 * s,
        "it is upside down: the larger the curvature, the shorter the step": (9 / 0.04) ** 0.5 * s,
        "it is the direction, not scaled": s,
        "the curvature is missing: it does not keep to δ": 0.04**0.5 * s,
        "its sign is reversed: the direction raises L": -((0.04 / 9) ** 0.5) * s,
    }
    axes = ("parameter",)
    expect(found, (0.04 / 9) ** 0.5 * s, "with δ = 0.02 and sᵀHs = 9", mistakes, axes)
    zero = torch.zeros(3)
    curvature = torch.tensor(0.0)
    found = line(**given, direction=zero, curvature=curvature)
    where = "where the gradient is 0, so that sᵀHs is 0, too"
    expect(found, zero, where, {}, axes, "the step is divided by 0: it")


# KL over δ, gain of L, accepted?, where that is.
TRUST_CASES = [
    (0.5, 0.1, True, "where the KL is within δ and L has risen"),
    (2.0, 0.1, False, "where the KL is beyond δ, though L has risen"),
    (1.01, 0.1, False, "where the KL is a little beyond δ, though L has risen"),
    (0.5, -0.1, False, "where L has fallen, though the KL is within δ"),
    (2.0, -0.1, False, "where the KL is beyond δ and L has fallen"),
    (1.0, 0.1, True, "where the KL is δ"),
    (0.0, 0.0, False, "where nothing has changed, and L has not risen"),
    (0.5, float("nan"), False, "where L is not a number"),
]


def check_trust_region(line) -> None:
    """accepted, True or False, from kl, gain and max_kl δ, all numbers."""
    args = SimpleNamespace(line_search=True)
    for ratio, gain, right, where in TRUST_CASES:
        kl = torch.tensor(ratio * 0.25)
        found = line(kl=kl, max_kl=0.25, gain=torch.tensor(gain), args=args)
        if bool(found) != right:
            verbs = ("refused", "accepted")
            raise Wrong(f"{where}: the step is {verbs[not right]}, and should be {verbs[right]}")
