"""What every checker does: compare an answer with the right one, and with those of known mistakes.

A checker gets the student's function, class or line. It returns if the answer is right, and raises
Wrong if it is not. Its cases begin with the simplest, so the first that fails tells most.
"""

import textwrap
import types
from dataclasses import dataclass

import torch
from torch import Tensor

f64 = torch.float64


class Wrong(Exception):
    """What is wrong with an answer, to be read after "wrong"."""


@dataclass(frozen=True)
class Line:
    """The student's lines out of a larger function, run on variables that the checker gives.

    `sets` is the name of the variable that the lines set.
    """

    code: types.CodeType
    module: types.ModuleType
    sets: str

    def __call__(self, **variables):
        scope = dict(vars(self.module))
        scope.pop(self.sets, None)
        scope.update(variables)
        exec(self.code, scope)
        if self.sets not in scope:
            raise Wrong(f"as your lines do not set {self.sets}")
        return scope[self.sets]


def compiled(lines: str, path: str, first: int) -> types.CodeType:
    """Lines of a file as code, with the file's own line numbers."""
    return compile("\n" * (first - 1) + textwrap.dedent(lines), path, "exec")


def numbers(*values) -> Tensor:
    """A tensor in float64."""
    return torch.tensor(values, dtype=f64)


def random_tensors(seed: int, *shape: int) -> Tensor:
    """Normal numbers in float64, the same at every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=f64)


def same(found: Tensor, other: Tensor) -> bool:
    """Of one shape, and equal but for rounding."""
    if found.shape != other.shape:
        return False
    return torch.allclose(found.detach().double(), other.detach().double(), rtol=1e-5, atol=1e-7)


def expect(
    found, right: Tensor, where: str, mistakes: dict[str, Tensor] | None = None, axes=(), what=""
) -> None:
    """Raise Wrong unless `found` is `right`.

    where       the case, such as "where an episode is truncated"
    mistakes    what it would say of a mistake → what that mistake would answer
    axes        what the dimensions count, such as ("step", "environment")
    what        the name of what was found, where there are several
    """
    subject = what or "it"
    if not isinstance(found, Tensor):
        raise Wrong(f"{where}: {subject} is a {type(found).__name__}, and should be a tensor")
    if same(found, right):
        return
    for message, answer in (mistakes or {}).items():
        if same(found, answer):
            raise Wrong(f"{where}: {message}")
    if found.shape != right.shape:
        shapes = f"{tuple(found.shape)}, and should be {tuple(right.shape)}"
        raise Wrong(f"{where}: the shape of {subject} is {shapes}")
    raise Wrong(f"{where}: {difference(found, right, axes, subject)}")


def difference(found: Tensor, right: Tensor, axes, subject: str) -> str:
    """The first entry that differs, in words."""
    if right.dim() == 0:
        return f"{subject} is {found.item():.4g}, and should be {right.item():.4g}"
    apart = (found.detach().double() - right.double()).abs() > 1e-7 + 1e-5 * right.abs().double()
    apart |= ~found.detach().isfinite()
    index = tuple(apart.nonzero()[0].tolist())
    names = axes or ["entry"] * len(index)
    place = ", ".join(f"{axis} {number}" for axis, number in zip(names, index))
    values = f"{found[index].item():.4g}, and should be {right[index].item():.4g}"
    return f"{subject} is {values}, at {place}"


def expect_pair(found, where: str, names: str) -> None:
    """Raise Wrong unless two things were returned."""
    if not isinstance(found, tuple) or len(found) != 2:
        raise Wrong(f"{where}: it should return two things, {names}")


def gradient(loss, parameter: Tensor, where: str) -> Tensor:
    """∂loss/∂parameter; raises Wrong if no gradient flows."""
    if not isinstance(loss, Tensor):
        raise Wrong(f"{where}: the loss is a {type(loss).__name__}, and should be a tensor")
    if loss.dim() != 0:
        raise Wrong(f"{where}: the loss has shape {tuple(loss.shape)}, and should be one number")
    if not loss.requires_grad:
        raise Wrong(f"{where}: no gradient flows through it: something is detached")
    [found] = torch.autograd.grad(loss, parameter, allow_unused=True, materialize_grads=True)
    return found
