"""What every checker does: compare an answer with the right one, and with those of known mistakes.

A checker gets the student's function, class or line. It returns if the answer is right, and raises
Wrong if it is not. Its cases begin with the simplest, so the first that fails tells most.
"""

import inspect
import textwrap
import types
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

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
        try:
            exec(self.code, scope)
        except NameError as error:
            names = ", ".join(variables)
            message = f"{error}; the check gives your lines {names}"
            raise NameError(message).with_traceback(error.__traceback__) from None
        if self.sets not in scope:
            raise Wrong(f"as your lines do not set {self.sets}")
        return scope[self.sets]


@dataclass(frozen=True)
class Unchanging:
    """The student's function or line, which must leave the tensors that it is given as they are.

    The script needs them afterwards.
    """

    answer: Callable

    def __call__(self, *values, **variables):
        given = variables
        if values:
            given = inspect.signature(self.answer).bind(*values).arguments
        tensors = tensors_of(given)
        copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        found = self.answer(*values, **variables)
        for name, tensor in tensors.items():
            if not is_unchanged(tensor, copies[name]):
                raise Wrong(f"as your lines change {name} in place: the script still needs it")
        return found


def tensors_of(variables: dict) -> dict[str, Tensor]:
    """The tensors among variables and their fields, such as "reward" or "batch.reward"."""
    tensors = {}
    for name, value in variables.items():
        if isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(value, SimpleNamespace):
            for field, part in tensors_of(vars(value)).items():
                tensors[f"{name}.{field}"] = part
    return tensors


def is_unchanged(tensor: Tensor, copy: Tensor) -> bool:
    if tensor.shape != copy.shape:
        return False
    return bool(((tensor == copy) | copy.isnan()).all())


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
    name_mistake(found, where, mistakes or {})
    if found.shape != right.shape:
        shapes = f"{tuple(found.shape)}, and should be {tuple(right.shape)}"
        raise Wrong(f"{where}: the shape of {subject} is {shapes}")
    raise Wrong(f"{where}: {difference(found, right, axes, subject)}")


def name_mistake(found: Tensor, where: str, mistakes: dict[str, Tensor]) -> None:
    """Raise Wrong with what is said of a mistake if `found` is what that mistake would answer."""
    for message, answer in mistakes.items():
        if same(found, answer):
            raise Wrong(f"{where}: {message}")


def difference(found: Tensor, right: Tensor, axes, subject: str) -> str:
    """The first entry that differs, in words."""
    if right.dim() == 0:
        found_text, right_text = told_apart(found.item(), right.item())
        return f"{subject} is {found_text}, and should be {right_text}"
    apart = (found.detach().double() - right.double()).abs() > 1e-7 + 1e-5 * right.abs().double()
    apart |= ~found.detach().isfinite()
    index = tuple(apart.nonzero()[0].tolist())
    names = axes or ["entry"] * len(index)
    place = ", ".join(f"{axis} {number}" for axis, number in zip(names, index))
    found_text, right_text = told_apart(found[index].item(), right[index].item())
    return f"{subject} is {found_text}, and should be {right_text}, at {place}"


def told_apart(found: float, right: float) -> tuple[str, str]:
    """Both numbers as texts: with four digits, or with as many as it takes until they differ."""
    for digits in range(4, 18):
        found_text = f"{found:.{digits}g}"
        right_text = f"{right:.{digits}g}"
        if found_text != right_text:
            break
    return found_text, right_text


def expect_pair(found, where: str, names: str) -> None:
    """Raise Wrong unless two things were returned."""
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise Wrong(f"{where}: it should return two things, {names}")


def gradient(loss, parameter: Tensor, where: str) -> Tensor:
    """∂loss/∂parameter; raises Wrong if no gradient flows."""
    if not isinstance(loss, Tensor):
        raise Wrong(f"{where}: the loss is a {type(loss).__name__}, and should be a tensor")
    if loss.dim() != 0:
        raise Wrong(f"{where}: the loss has shape {tuple(loss.shape)}, and should be one number")
    if not loss.requires_grad:
        raise Wrong(f"{where}: no gradient flows through it: something is detached")
    [found] = torch.autograd.grad(
        loss, parameter, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return found


def expect_gradients(
    found: Tensor, right: Tensor, inputs: dict[str, Tensor], where: str, what: str
) -> None:
    """Raise Wrong unless `found` has the gradients of `right` by each of the inputs.

    inputs      their names → those that the gradients are taken by
    what        the name of what was found
    """
    if not found.requires_grad:
        raise Wrong(f"{where}: no gradient flows through {what}: something is detached")
    for name, tensor in inputs.items():
        mine = gradient(found.sum(), tensor, where)
        [own] = torch.autograd.grad(right.sum(), tensor, retain_graph=True)
        if same(mine, own):
            continue
        if not mine.any():
            raise Wrong(f"{where}: no gradient flows from {what} to {name}: something is detached")
        told = difference(mine, own, (), f"the gradient of {what} by {name}")
        raise Wrong(f"{where}: {told}: a part of it may be detached")
