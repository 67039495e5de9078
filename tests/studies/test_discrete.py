"""C8b's exact moments against sampled gradients, made by torch of the formulas themselves."""

import re

import pytest
import torch
from matplotlib.figure import Figure

from benchmarks.studies import c08_discrete as c08b

SAMPLES = 400_000


def sampled(theta: float, temperature: float, straight_through: bool) -> torch.Tensor:
    """∇_θ of f at relaxed samples, (SAMPLES,): Gumbels, a softmax over two actions, autograd."""
    torch.manual_seed(0)
    logit = torch.full((SAMPLES,), theta, dtype=torch.float64, requires_grad=True)
    log_p = torch.stack([torch.zeros_like(logit), logit], -1).log_softmax(-1)
    gumbel = -torch.empty_like(log_p).exponential_().log()
    y = ((log_p + gumbel) / temperature).softmax(-1)[:, 1]
    if straight_through:
        y = y + (y.round() - y).detach()
    [gradient] = torch.autograd.grad(((y - c08b.T) ** 2).sum(), logit)
    return gradient


@pytest.mark.parametrize("theta", c08b.LOGITS)
@pytest.mark.parametrize("temperature", [0.2, 1.0])
@pytest.mark.parametrize("straight_through", [False, True])
def test_the_relaxed_gradients_moments(theta, temperature, straight_through):
    exact = c08b.relaxed(theta, temperature, straight_through)
    found = sampled(theta, temperature, straight_through)
    error = found.std().item() / SAMPLES**0.5
    assert abs(found.mean().item() - exact.mean) < 4 * error
    assert found.var().item() == pytest.approx(exact.variance, rel=0.03)


@pytest.mark.parametrize("theta", c08b.LOGITS)
@pytest.mark.parametrize("baseline", [0.0, 0.2])
def test_the_score_function_is_unbiased(theta, baseline):
    moments = c08b.score_function(theta, baseline)
    assert moments.mean == pytest.approx(c08b.exact_gradient(theta))
    step = 1e-5
    difference = c08b.objective(theta + step) - c08b.objective(theta - step)
    assert moments.mean == pytest.approx(difference / (2 * step), rel=1e-6)


def test_what_the_tables_say():
    figure, text = c08b.study(None)
    assert isinstance(figure, Figure)
    rows = re.findall(r"^\| 0\.50 \| ([^|]*?) +\| +([-+]\d+) % \| +(\S+) +\|$", text, re.M)
    bias = {name: int(value) for name, value, _ in rows}
    deviation = {name: float(value) for name, _, value in rows}
    assert bias["score function"] == 0
    gumbel = [f"Gumbel-softmax, τ = {tau:g}" for tau in c08b.TEMPERATURES]
    assert abs(bias[gumbel[0]]) < abs(bias[gumbel[-1]])
    assert deviation[gumbel[0]] > 2 * deviation[gumbel[-1]]
