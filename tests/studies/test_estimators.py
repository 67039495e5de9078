"""The estimators of C2 and C3, against an MDP of two steps that is enumerated, autograd, and
definitions as loops.
"""

import itertools
from typing import NamedTuple

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

import reinforce_baseline
from benchmarks.studies import c02_variance, c03_bias, gradient_estimators
from benchmarks.studies.c02_variance import ROWS
from benchmarks.studies.gradient_estimators import CRITICS, REFERENCE, Trajectories
from markdown_tables import cells_of_tables

# From state 0, action 0 brings 3 and ends the episode; action 1 brings 1 and leads to state 1 or 2,
# each half the time. There, action a brings REWARD[s][a] and the episode ends.
REWARD = torch.tensor([[3.0, 1.0], [2.0, -4.0], [5.0, 6.0]])
PATHS = [  # (state, action) by steps
    ((0, 0),),
    ((0, 1), (1, 0)),
    ((0, 1), (1, 1)),
    ((0, 1), (2, 0)),
    ((0, 1), (2, 1)),
]
RETURNS = torch.stack([sum(REWARD[s, a] for s, a in path) for path in PATHS])


@pytest.fixture(scope="module")
def agent():
    torch.manual_seed(0)
    agent = reinforce_baseline.Agent(Box(-1, 1, (3,)), Discrete(2))
    agent.actor[-1].weight.data *= 100  # so that the actions are not all but equally likely
    return agent


def trajectories(indices) -> Trajectories:
    """Those of PATHS, as columns."""
    size = len(indices)
    x = torch.zeros(2, size, 3)
    action = torch.zeros(2, size, dtype=torch.long)
    reward = torch.zeros(2, size)
    valid = torch.zeros(2, size, dtype=torch.bool)
    for m, index in enumerate(indices):
        for t, (s, a) in enumerate(PATHS[index]):
            x[t, m, s] = 1
            action[t, m] = a
            reward[t, m] = REWARD[s, a]
            valid[t, m] = True
    return Trajectories(x, action, reward, valid)


def all_pairs() -> Trajectories:
    """Every pair of trajectories, side by side: 25 batches of two."""
    pairs = itertools.product(range(5), repeat=2)
    return trajectories([index for pair in pairs for index in pair])


def probabilities(agent) -> torch.Tensor:
    """p(τ) of each of PATHS, differentiable."""
    policy = agent.actor(torch.eye(3)).softmax(-1)
    found = []
    for path in PATHS:
        p = torch.stack([policy[s, a] for s, a in path]).prod()
        found.append(p / len(path))  # a path of two steps goes to one of two states
    return torch.stack(found)


def value(agent) -> torch.Tensor:
    """V(s) (3,), exact."""
    policy = agent.actor(torch.eye(3)).softmax(-1).detach()
    v = (policy * REWARD).sum(-1)
    v[0] += policy[0, 1] * v[1:].mean()
    return v


WRONG = torch.tensor([2.0, -3.0, 1.0])  # a critic, by state
BEST = torch.tensor([-1.0, 2.0, 0.5])  # a baseline


def weights(data: Trajectories, critic: torch.Tensor) -> dict:
    """What weighs the scores, by name of the estimator, in batches of two."""
    critics = {"fitted": data.x @ critic, "own": data.x @ WRONG}
    return gradient_estimators.estimator_weights(data, 2, critics, data.x @ BEST)


def flat_gradient(objective, agent) -> torch.Tensor:
    """With respect to the actor's parameters, (P,)."""
    parts = torch.autograd.grad(objective, list(agent.actor.parameters()))
    return torch.cat([part.flatten() for part in parts])


def by_autograd(agent, data: Trajectories, weight: torch.Tensor, size: int) -> torch.Tensor:
    """The estimates (G, P), by reinforce_baseline.py's own loss."""
    found = []
    for columns in torch.arange(data.x.shape[1]).split(size):
        out = agent.actor(data.x[:, columns])
        log_prob, _ = agent.log_prob_and_entropy(out, data.action[:, columns])
        valid = data.valid[:, columns]
        loss = reinforce_baseline.reinforce_loss(log_prob, weight[:, columns], valid)
        found.append(flat_gradient(-loss, agent))
    return torch.stack(found)


class Exact(NamedTuple):
    gradient: torch.Tensor  # ∇J
    p: torch.Tensor  # (25,), of each pair of trajectories
    estimates: dict[str, torch.Tensor]  # (25, P), of each pair, by name of the estimator


@pytest.fixture(scope="module")
def exact(agent) -> Exact:
    p = probabilities(agent)
    gradient = flat_gradient((p * RETURNS).sum(), agent)
    data = all_pairs()
    estimates = {}
    for name, weight in weights(data, value(agent) + 1).items():
        estimates[name] = by_autograd(agent, data, weight, 2)
    estimates["R − b*"] = estimates["R"] - 2.5 * estimates.pop("score")
    return Exact(gradient, torch.outer(p, p).flatten().detach(), estimates)


UNBIASED = [name for name, row in ROWS.items() if row.unbiased]


class TestExpectations:
    @pytest.mark.parametrize("name", UNBIASED)
    def test_of_the_unbiased_is_the_gradient(self, exact, name):
        gradient, p, estimates = exact
        torch.testing.assert_close(p @ estimates[name], gradient, rtol=1e-4, atol=1e-5)

    def test_a_mean_that_includes_the_trajectory_shrinks_the_gradient(self, exact):
        gradient, p, estimates = exact
        shrunk = p @ estimates["G − mean of all"]
        share = float(shrunk @ gradient / gradient.square().sum())
        assert 0.2 < share < 0.8  # 1 − 1/N, and less where one runs alone

    def test_the_mean_return_shrinks_the_gradient_by_one_nth(self, exact):
        """L1's baseline: every trajectory of the two counts for half of its own."""
        gradient, p, estimates = exact
        torch.testing.assert_close(
            p @ estimates["R − mean of all"], gradient / 2, rtol=1e-4, atol=1e-5
        )

    def test_bootstrapping_is_biased_if_and_only_if_the_critic_is_wrong(self, agent, exact):
        gradient, p, estimates = exact
        data = all_pairs()
        right = weights(data, value(agent))
        for lam in gradient_estimators.LAMBDAS:
            found = p @ by_autograd(agent, data, right[f"fitted λ={lam:g}"], 2)
            torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-5)
            bias = p @ estimates[f"own λ={lam:g}"] - gradient
            assert bias.norm() > 1e-3 * gradient.norm()


class TestMoments:
    def test_are_those_of_autograd(self, agent):
        rng = np.random.default_rng(1)
        blocks = []
        for indices in rng.integers(0, 5, (3, 8)):
            data = trajectories(indices)
            blocks.append((data, weights(data, value(agent))))
        num_parameters = sum(p.numel() for p in agent.actor.parameters())
        b = torch.randn(num_parameters, generator=torch.Generator().manual_seed(0))
        moments = gradient_estimators.measure_moments(agent, blocks, 2, b)
        found = {}
        for name in blocks[0][1]:
            estimates = [by_autograd(agent, data, weight[name], 2) for data, weight in blocks]
            found[name] = torch.cat(estimates)
        found["R − b*"] = found["R"] - b * found.pop("score")
        assert moments.variance.keys() == moments.gram.keys() == found.keys() >= ROWS.keys()
        for name, g in found.items():
            assert moments.variance[name] == pytest.approx(float(g.var(0).sum()), rel=1e-4)
            difference = g if name == REFERENCE else g - found[REFERENCE]
            of_blocks = difference.unflatten(0, (3, 4)).mean(1)
            gram = of_blocks @ of_blocks.T
            np.testing.assert_allclose(moments.gram[name], gram, rtol=1e-3, atol=1e-4)

    def test_of_samples_are_those_of_the_enumeration(self, agent, exact):
        gradient, p, estimates = exact
        rng = torch.Generator().manual_seed(0)
        draws = probabilities(agent).detach().multinomial(4000, True, generator=rng).view(20, 200)
        samples = [trajectories(indices) for indices in draws]
        blocks = ((data, weights(data, value(agent) + 1)) for data in samples)
        moments = gradient_estimators.measure_moments(agent, blocks, 2, torch.tensor(2.5))
        gram = moments.gram
        for name, g in estimates.items():
            mean = p @ g
            variance = float(p @ g.square().sum(1) - mean.square().sum())
            assert moments.variance[name] == pytest.approx(variance, rel=0.1)
            if name != REFERENCE:
                bias = float((mean - gradient).square().sum())
                trace = gram[name].trace()
                noise = 4 * np.sqrt(bias * trace) / 20 + 4 * trace / 400
                found = gradient_estimators.squared_mean(gram[name])
                assert found == pytest.approx(bias, abs=noise + 1e-9)
        for name in UNBIASED:
            assert name == REFERENCE or gradient_estimators.flip_test([gram[name]]) > 0.01
        for name in ("G − mean of all", "own λ=0"):
            assert gradient_estimators.flip_test([gram[name]]) < 0.001
        norm = float(gradient.square().sum())
        along_gradient = estimates[REFERENCE] @ gradient
        deviation = float((p @ along_gradient.square() - norm**2).sqrt())
        found = gradient_estimators.squared_mean(gram[REFERENCE])
        assert found == pytest.approx(norm, abs=3 * 2 * deviation / 2000**0.5)  # of 2000 batches


class TestFlipTest:
    MEAN = np.array([0.4, 0.0, 0.0])

    def gram(self, rng, mean):
        d = mean + rng.normal(size=(20, 3)) * [3, 1, 0.3]
        return d @ d.T

    def test_finds_a_bias_at_its_level_where_there_is_none(self, monkeypatch):
        monkeypatch.setattr(gradient_estimators, "FLIPS", 400)
        rng = np.random.default_rng(0)
        p_values = []
        for _ in range(400):
            grams = [self.gram(rng, 0), self.gram(rng, 0)]
            p_values.append(gradient_estimators.flip_test(grams))
        assert 0.06 < np.mean(np.array(p_values) < 0.1) < 0.14  # 0.1 ± 0.015

    def test_the_squared_mean_is_unbiased(self):
        rng = np.random.default_rng(0)
        grams = [self.gram(rng, self.MEAN) for _ in range(20_000)]
        squared_means = [gradient_estimators.squared_mean(gram) for gram in grams]
        assert np.mean(squared_means) == pytest.approx(0.16, abs=0.02)
        grams = [self.gram(rng, 0) for _ in range(2000)]
        excesses = [gradient_estimators.excess(gram) for gram in grams]
        assert np.mean(excesses) == pytest.approx(1, abs=0.1)


class Fitted(NamedTuple):
    data: Trajectories
    score: torch.Tensor  # Σ_t ∇ log π of each trajectory, (M, P)
    by_parameter: torch.Tensor  # the baseline for each parameter, (P,)
    by_state: torch.Tensor  # the weights of the baseline by state, (3,)


@pytest.fixture(scope="module")
def fitted(agent):
    data = trajectories(np.random.default_rng(0).choice(5, 60))
    score = by_autograd(agent, data, torch.ones_like(data.to_go), 1)
    baselines = gradient_estimators.fit_baselines(agent, data, data.x)
    return Fitted(data, score, baselines.by_parameter, baselines.by_state)


class TestBaselines:
    def test_the_one_for_each_parameter_is_the_vertex_of_the_variance(self, fitted):
        total = fitted.data.to_go[0, :, None]

        def mean_square(b):
            return (fitted.score * (total - b)).square().mean(0)

        low = mean_square(-1)
        middle = mean_square(0)
        high = mean_square(1)
        vertex = (low - high) / 2 / (low - 2 * middle + high)  # of the parabola through the three
        used = middle > 1e-6
        torch.testing.assert_close(fitted.by_parameter[used], vertex[used], rtol=1e-2, atol=1e-2)

    def test_the_one_of_the_state_is_the_least(self, agent, fitted):
        data = fitted.data
        w = fitted.by_state

        def mean_square(w):
            estimates = by_autograd(agent, data, data.to_go - data.x @ w, 1)
            return float(estimates.square().sum(1).mean())

        least = mean_square(w)
        for direction in torch.eye(3):
            below = mean_square(w - 0.3 * direction)
            above = mean_square(w + 0.3 * direction)
            assert min(below, above) > least
            # At the vertex, not only near it.
            assert above - least == pytest.approx(below - least, rel=1e-2)

    def test_v_is_the_mean_return_of_each_state(self, agent):
        torch.manual_seed(0)
        data = trajectories(np.random.default_rng(0).choice(5, 3000))
        critic = gradient_estimators.fit_critic(agent, data, epochs=50)
        states = torch.eye(3)[None]
        expected = []
        for s in range(3):
            visits = data.valid & data.x[..., s].bool()
            expected.append(data.to_go[visits].mean())
        found = critic.value(states)[0]
        torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=0.15)
        assert critic.features(states).shape == (1, 3, 65)


def n_step_advantage(reward, value, n) -> float:
    """Of the first step, from the rewards and values of the steps that are left; V = 0 after."""
    value_after = value[n] if n < len(value) else 0.0
    return sum(reward[:n]) + value_after - value[0]


def lambda_advantage(reward, value, lam) -> float:
    """(1 − λ) Σ_n λ^(n−1) Â^(n), where Â^(n) is Â^(30) from n = 30 on."""
    advantage = {n: n_step_advantage(reward, value, n) for n in range(1, 31)}
    mixed = sum((1 - lam) * lam ** (n - 1) * advantage[n] for n in range(1, 30))
    return mixed + lam**29 * advantage[30]


class TestWeights:
    def test_are_the_definitions(self):
        """Of 9 ragged trajectories of up to 30 steps, in batches of 3."""
        rng = torch.Generator().manual_seed(0)
        lengths = [30, 1, 7, 29, 3, 30, 12, 2, 21]
        values = torch.randn(30, 9, generator=rng)
        valid = torch.arange(30)[:, None] < torch.tensor(lengths)
        rewards = torch.randn(30, 9, generator=rng) * valid
        data = Trajectories(torch.zeros(30, 9, 1), torch.zeros(30, 9), rewards, valid)
        critics = dict.fromkeys(CRITICS, values)
        found = gradient_estimators.estimator_weights(data, 3, critics, values)
        for m, length in enumerate(lengths):
            batch = range(m // 3 * 3, m // 3 * 3 + 3)
            for t in range(length):
                reward = rewards[t:length, m].tolist()
                value = values[t:length, m].tolist()
                to_go = sum(reward)
                others = [k for k in batch if k != m and lengths[k] > t]
                sum_of_others = sum(float(rewards[t:, k].sum()) for k in others)
                mean_of_others = sum_of_others / max(len(others), 1)
                mean_of_all = (to_go + sum_of_others) / (1 + len(others))
                returns = rewards[:, m // 3 * 3 : m // 3 * 3 + 3].sum(0)
                expected = {
                    "R": float(rewards[:, m].sum()),
                    "R − mean of all": float(rewards[:, m].sum() - returns.mean()),
                    "G": to_go,
                    "G − b*(s)": to_go - value[0],
                    "score": 1,
                    "G − mean": to_go - mean_of_others,
                    "G − mean of all": to_go - mean_of_all,
                }
                for critic in CRITICS:
                    for n in (5, 20):
                        expected[f"{critic} n={n}"] = n_step_advantage(reward, value, n)
                    expected[f"{critic} λ=0"] = n_step_advantage(reward, value, 1)
                    expected[f"{critic} λ=1"] = to_go - value[0]
                    for lam in (0.5, 0.9, 0.95, 0.99):
                        expected[f"{critic} λ={lam:g}"] = lambda_advantage(reward, value, lam)
                ours = {name: float(weight[t, m]) for name, weight in found.items()}
                assert ours == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_half_trained_is_the_agent_of_a_run_that_was_stopped(monkeypatch):
    monkeypatch.setattr(gradient_estimators, "HALF_WAY", 1)
    agent = gradient_estimators.half_trained(3)
    episodes = Trajectories.sample(agent, 200, 0)
    # It stops as soon as there were 100 episodes, of 16 at a time.
    assert 7 * 16 * 9 < int(agent.obs_stats.count) < 7 * 16 * 100
    assert 9 < float(episodes.to_go[0].mean()) < 60 and episodes.to_go.max() <= 100


def test_the_pictures_and_tables_have_all_of_them(monkeypatch):
    torch.manual_seed(0)
    agent = reinforce_baseline.Agent(Box(-1, 1, (4,)), Discrete(2))
    smaller = {"FIT": 50, "BLOCKS": 4, "BLOCK": 2, "FLIPS": 50, "SEEDS": (1, 2)}
    for name, number in smaller.items():
        monkeypatch.setattr(gradient_estimators, name, number)
    monkeypatch.setattr(gradient_estimators, "half_trained", lambda seed: agent)
    gradient_estimators.measure_policy.cache_clear()
    figure, variance_text = c02_variance.study(None)
    _, bias_text = c03_bias.study(None)
    gradient_estimators.measure_policy.cache_clear()
    [variance_table] = cells_of_tables(variance_text)
    [bias_table] = cells_of_tables(bias_text)
    left, _ = figure.axes
    labels = [row.label for row in ROWS.values()]
    rows = variance_table[1:]
    assert [row[0] for row in rows] == labels
    assert [text.get_text() for text in left.get_yticklabels()] == labels
    # Relative to themselves.
    assert rows[0][3].startswith("100.0") and rows[6][4].startswith("1.00")
    assert len(bias_table) == 1 + 16
