"""C11's exact quantities against sums over every trajectory, and what its tables say."""

import itertools
import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from benchmarks.studies import c11_theory as c11

HORIZON = 4
GAMMA = 0.7


@pytest.fixture
def small(monkeypatch):
    """A process of 2 states and 2 actions, log π, and log π' beside it."""
    monkeypatch.setattr(c11, "STATES", 2)
    monkeypatch.setattr(c11, "ACTIONS", 2)
    process, log_pi, direction = c11.random_process(1)
    return process, log_pi, c11.log_softmax(log_pi + 0.5 * direction)


def trajectories(process, log_pi):
    """Every (probability, states, actions) of HORIZON steps."""
    pi = np.exp(log_pi)
    for states in itertools.product(range(2), repeat=HORIZON):
        for actions in itertools.product(range(2), repeat=HORIZON):
            probability = process.start[states[0]]
            for t in range(HORIZON):
                probability *= pi[states[t], actions[t]]
                if t + 1 < HORIZON:
                    probability *= process.transition[states[t], actions[t], states[t + 1]]
            yield probability, states, actions


def test_the_ratios_variances_are_those_of_all_trajectories(small):
    process, log_pi, new_log_pi = small
    ratio = np.exp(new_log_pi - log_pi)
    moments = np.zeros(4)  # of the last ratio and of the product: mean, square, mean, square
    for probability, states, actions in trajectories(process, log_pi):
        ratios = [ratio[s, a] for s, a in zip(states, actions)]
        last, product = ratios[-1], np.prod(ratios)
        moments += probability * np.array([last, last**2, product, product**2])
    assert moments[0] == pytest.approx(1) and moments[2] == pytest.approx(1)
    one, product = c11.ratio_variances(process, log_pi, new_log_pi, HORIZON)
    assert one == pytest.approx(moments[1] - 1)
    assert product == pytest.approx(moments[3] - 1)


def test_the_objective_is_the_sum_of_discounted_rewards(small):
    """Over all steps: those of the trajectories, then V of the state that they lead to."""
    process, log_pi, _ = small
    pi = np.exp(log_pi)
    v, _ = c11.values(process, pi, GAMMA)
    expected = 0.0
    for probability, states, actions in trajectories(process, log_pi):
        rewards = [process.reward[s, a] for s, a in zip(states, actions)]
        expected += probability * np.sum(rewards * GAMMA ** np.arange(HORIZON))
        next_state = process.transition[states[-1], actions[-1]]
        expected += probability * GAMMA**HORIZON * next_state @ v
    assert c11.objective(process, pi, GAMMA) == pytest.approx(expected)


def test_the_discounted_states_are_a_distribution_and_give_the_objective(small):
    process, log_pi, _ = small
    pi = np.exp(log_pi)
    states = c11.discounted_states(process, pi, GAMMA)
    assert states.sum() == pytest.approx(1) and (states > 0).all()
    by_states = states @ (pi * process.reward).sum(-1) / (1 - GAMMA)
    assert c11.objective(process, pi, GAMMA) == pytest.approx(by_states)


@pytest.mark.parametrize("distance", [1e-3, 0.2])
def test_a_policy_at_a_distance(small, distance):
    process, log_pi, new_log_pi = small
    found = c11.at_distance(process, log_pi, new_log_pi - log_pi, distance, GAMMA)
    assert c11.mean_kl(process, log_pi, found, GAMMA) == pytest.approx(distance, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 0.99])
@pytest.mark.parametrize("distance", [1e-3, 0.1])
def test_lemma_and_bound_hold(gamma, distance):
    row = c11.measure(gamma, distance)
    assert row.lemma_error.max() < 1e-8
    assert row.looseness.min() >= 1 and row.error.min() > 1e-5


def test_the_tables(monkeypatch):
    monkeypatch.setattr(c11, "PROCESSES", range(101, 104))
    figure, text = c11.study(None)
    assert isinstance(figure, Figure)
    rows = re.findall(r"^\| 0\.99\d* +\| (\S+) .* (\d+) of 3 +\|$", text, re.M)
    assert [distance for distance, _ in rows] == ["0.0001", "0.001", "0.01", "0.1"] * 2
    assert all(guaranteed == "0" for _, guaranteed in rows)  # with γ near 1 no step is
    assert re.search(r"^\| 0\.5 +\| 0\.0001 .* 3 of 3 +\|$", text, re.M)
