"""C2's and C3's gradient_estimators, against an MDP of two steps that is enumerated, autograd, and definitions as loops."""

import itertools

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

import reinforce_baseline
from benchmarks.studies import c02_variance, c03_bias, gradient_estimators
from benchmarks.studies.c02_variance import ROWS
from benchmarks.studies.gradient_estimators import CRITICS, REFERENCE, Trajectories

# From state 0, action 0 brings 3 and ends the episode; action 1 brings 1 and leads to state 1 or 2, each half the time.
# There, action a brings REWARD[s][a] and the episode ends.
REWARD = [[3.0, 1.0], [2.0, -4.0], [5.0, 6.0]]
PATHS = [((0, 0),), *(((0, 1), (s, a)) for s in (1, 2) for a in (0, 1))]  # (state, action) by steps


@pytest.fixture(scope="module")
def agent():
    torch.manual_seed(0)
    agent = reinforce_baseline.Agent(Box(-1, 1, (3,)), Discrete(2))
    agent.actor[-1].weight.data *= 100  # so that the actions are not all but equally likely
    return agent


def trajectories(indices) -> Trajectories:
    """Those of PATHS, as columns."""
    x, action = torch.zeros(2, len(indices), 3), torch.zeros(2, len(indices), dtype=torch.long)
    reward, valid = torch.zeros(2, len(indices)), torch.zeros(2, len(indices), dtype=torch.bool)
    for m, index in enumerate(indices):
        for t, (s, a) in enumerate(PATHS[index]):
            x[t, m, s], action[t, m], reward[t, m], valid[t, m] = 1, a, REWARD[s][a], True
    return Trajectories(x, action, reward, valid)


def probabilities(agent) -> torch.Tensor:
    """p(τ) of each of PATHS, differentiable."""
    policy = agent.actor(torch.eye(3)).softmax(-1)
    return torch.stack(
        [torch.stack([policy[s, a] for s, a in path]).prod() / len(path) for path in PATHS]
    )


def value(agent) -> torch.Tensor:
    """V(s) (3,), exact."""
    policy, reward = agent.actor(torch.eye(3)).softmax(-1).detach(), torch.tensor(REWARD)
    later = (policy * reward).sum(-1)
    later[0] += policy[0, 1] * later[1:].mean()
    return later


WRONG = torch.tensor([2.0, -3.0, 1.0])  # a critic, by state
BEST = torch.tensor([-1.0, 2.0, 0.5])  # a baseline


def weights(data: Trajectories, critic: torch.Tensor) -> dict:
    return gradient_estimators.estimator_weights(
        data, 2, {"fitted": data.x @ critic, "own": data.x @ WRONG}, data.x @ BEST
    )


def by_autograd(agent, data: Trajectories, weight: torch.Tensor, size: int) -> torch.Tensor:
    """The estimates (G, P), by reinforce_baseline.py's own loss."""
    found = []
    for columns in torch.arange(data.x.shape[1]).split(size):
        parts = (
            data.x[:, columns],
            data.action[:, columns],
            weight[:, columns],
            data.valid[:, columns],
        )
        loss, _ = reinforce_baseline.reinforce_loss(agent, *parts)
        found.append(
            torch.cat(
                [-g.flatten() for g in torch.autograd.grad(loss, [*agent.actor.parameters()])]
            )
        )
    return torch.stack(found)


@pytest.fixture(scope="module")
def exact(agent):
    """∇J; and of each pair of trajectories its probability (25,) and its estimates (25, P), by name."""
    p, returns = (
        probabilities(agent),
        torch.tensor([sum(REWARD[s][a] for s, a in path) for path in PATHS]),
    )
    grads = torch.autograd.grad((p * returns).sum(), [*agent.actor.parameters()])
    data = trajectories([i for pair in itertools.product(range(5), repeat=2) for i in pair])
    estimates = {
        k: by_autograd(agent, data, w, 2) for k, w in weights(data, value(agent) + 1).items()
    }
    estimates["R − b*"] = estimates["R"] - 2.5 * estimates.pop("score")
    return torch.cat([g.flatten() for g in grads]), torch.outer(p, p).flatten().detach(), estimates


UNBIASED = [name for name, row in ROWS.items() if row.unbiased]


class TestExpectations:
    @pytest.mark.parametrize("name", UNBIASED)
    def test_of_the_unbiased_is_the_gradient(self, exact, name):
        gradient, p, estimates = exact
        torch.testing.assert_close(p @ estimates[name], gradient, rtol=1e-4, atol=1e-5)

    def test_a_mean_that_includes_the_trajectory_shrinks_the_gradient(self, exact):
        gradient, p, estimates = exact
        shrunk = p @ estimates["G − mean of all"]
        assert (
            0.2 < float(shrunk @ gradient / gradient.square().sum()) < 0.8
        )  # 1 − 1/N, and less where one runs alone

    def test_bootstrapping_is_biased_if_and_only_if_the_critic_is_wrong(self, agent, exact):
        gradient, p, estimates = exact
        data = trajectories([i for pair in itertools.product(range(5), repeat=2) for i in pair])
        right = weights(data, value(agent))
        for lam in gradient_estimators.LAMBDAS:
            found = p @ by_autograd(agent, data, right[f"fitted λ={lam:g}"], 2)
            torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-5)
            assert (p @ estimates[f"own λ={lam:g}"] - gradient).norm() > 1e-3 * gradient.norm()


class TestMoments:
    def test_are_those_of_autograd(self, agent):
        rng = np.random.default_rng(1)
        blocks = [
            (data, weights(data, value(agent)))
            for data in map(trajectories, rng.integers(0, 5, (3, 8)))
        ]
        b = torch.randn(
            sum(p.numel() for p in agent.actor.parameters()),
            generator=torch.Generator().manual_seed(0),
        )
        moments = gradient_estimators.measure_moments(agent, blocks, 2, b)
        variance = moments.variance
        gram = moments.gram
        found = {
            k: torch.cat([by_autograd(agent, d, w[k], 2) for d, w in blocks]) for k in blocks[0][1]
        }
        found["R − b*"] = found["R"] - b * found.pop("score")
        assert variance.keys() == gram.keys() == found.keys() >= ROWS.keys()
        for name, g in found.items():
            assert variance[name] == pytest.approx(float(g.var(0).sum()), rel=1e-4)
            d = (g if name == REFERENCE else g - found[REFERENCE]).unflatten(0, (3, 4)).mean(1)
            np.testing.assert_allclose(gram[name], d @ d.T, rtol=1e-3, atol=1e-4)

    def test_of_samples_are_those_of_the_enumeration(self, agent, exact):
        gradient, p, estimates = exact
        rng = torch.Generator().manual_seed(0)
        draws = probabilities(agent).detach().multinomial(4000, True, generator=rng).view(20, 200)
        blocks = ((data, weights(data, value(agent) + 1)) for data in map(trajectories, draws))
        moments = gradient_estimators.measure_moments(agent, blocks, 2, torch.tensor(2.5))
        variance = moments.variance
        gram = moments.gram
        for name, g in estimates.items():
            mean = p @ g
            assert variance[name] == pytest.approx(
                float(p @ g.square().sum(1) - mean.square().sum()), rel=0.1
            )
            if name != REFERENCE:
                bias = float((mean - gradient).square().sum())
                noise = 4 * np.sqrt(bias * gram[name].trace()) / 20 + 4 * gram[name].trace() / 400
                assert gradient_estimators.squared_mean(gram[name]) == pytest.approx(
                    bias, abs=noise + 1e-9
                )
        for name in UNBIASED:
            assert name == REFERENCE or gradient_estimators.flip_test([gram[name]]) > 0.01
        for name in ("G − mean of all", "own λ=0"):
            assert gradient_estimators.flip_test([gram[name]]) < 0.001
        norm = float(gradient.square().sum())
        deviation = float(
            (p @ (estimates[REFERENCE] @ gradient).square() - norm**2).sqrt()
        )  # of ĝ along ∇J
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
        found = [
            gradient_estimators.flip_test([self.gram(rng, 0), self.gram(rng, 0)]) < 0.1
            for _ in range(400)
        ]
        assert 0.06 < np.mean(found) < 0.14  # 0.1 ± 0.015

    def test_the_squared_mean_is_unbiased(self):
        rng = np.random.default_rng(0)
        grams = [self.gram(rng, self.MEAN) for _ in range(20_000)]
        assert np.mean([gradient_estimators.squared_mean(g) for g in grams]) == pytest.approx(
            0.16, abs=0.02
        )
        assert np.mean(
            [gradient_estimators.excess(self.gram(rng, 0)) for _ in range(2000)]
        ) == pytest.approx(1, abs=0.1)


@pytest.fixture(scope="module")
def fitted(agent):
    data = trajectories(np.random.default_rng(0).choice(5, 60))
    ones = torch.ones_like(data.to_go)
    parts = {k: by_autograd(agent, data, w, 1) for k, w in {"score": ones, "G": data.to_go}.items()}
    baselines = gradient_estimators.fit_baselines(agent, data, data.x)
    return data, parts, baselines.by_parameter, baselines.by_state


class TestBaselines:
    def test_the_one_for_each_parameter_is_the_vertex_of_the_variance(self, fitted):
        data, parts, b, _ = fitted
        low, middle, high = (
            (parts["score"] * (data.to_go[0, :, None] - at)).square().mean(0) for at in (-1, 0, 1)
        )
        vertex = (low - high) / 2 / (low - 2 * middle + high)  # of the parabola through the three
        used = middle > 1e-6
        torch.testing.assert_close(b[used], vertex[used], rtol=1e-2, atol=1e-2)

    def test_the_one_of_the_state_is_the_least(self, agent, fitted):
        data, parts, _, w = fitted

        def mean_square(w):
            return float(
                by_autograd(agent, data, data.to_go - data.x @ w, 1).square().sum(1).mean()
            )

        least = mean_square(w)
        for direction in torch.eye(3):
            below, above = mean_square(w - 0.3 * direction), mean_square(w + 0.3 * direction)
            assert min(below, above) > least
            assert above - least == pytest.approx(
                below - least, rel=1e-2
            )  # the vertex, not only near it

    def test_v_is_the_mean_return_of_each_state(self, agent):
        torch.manual_seed(0)
        data = trajectories(np.random.default_rng(0).choice(5, 3000))
        critic = gradient_estimators.fit_critic(agent, data, epochs=50)
        states = torch.eye(3)[None]
        expected = [data.to_go[data.valid & data.x[..., s].bool()].mean() for s in range(3)]
        torch.testing.assert_close(
            critic.value(states)[0], torch.stack(expected), rtol=0, atol=0.15
        )
        assert critic.features(states).shape == (1, 3, 65)


class TestWeights:
    def test_are_the_definitions(self):
        """Of 9 ragged trajectories of up to 30 steps, in batches of 3."""
        rng = torch.Generator().manual_seed(0)
        lengths, values = [30, 1, 7, 29, 3, 30, 12, 2, 21], torch.randn(30, 9, generator=rng)
        valid = torch.arange(30)[:, None] < torch.tensor(lengths)
        reward = torch.randn(30, 9, generator=rng) * valid
        data = Trajectories(torch.zeros(30, 9, 1), torch.zeros(30, 9), reward, valid)
        found = gradient_estimators.estimator_weights(
            data, 3, dict.fromkeys(CRITICS, values), values
        )
        for m, length in enumerate(lengths):
            r, v = reward[:length, m].tolist(), [*values[:length, m].tolist(), 0.0]
            for t in range(length):
                n_step = {n: sum(r[t : t + n]) + v[min(t + n, length)] - v[t] for n in range(1, 31)}
                others = [k for k in range(m // 3 * 3, m // 3 * 3 + 3) if k != m and lengths[k] > t]
                mean = sum(float(reward[t:, k].sum()) for k in others) / max(len(others), 1)
                of_all = (sum(r[t:]) + mean * len(others)) / (1 + len(others))
                expected = {
                    "R": sum(r),
                    "G": sum(r[t:]),
                    "G − b*(s)": sum(r[t:]) - v[t],
                    "score": 1,
                }
                expected |= {"G − mean": sum(r[t:]) - mean, "G − mean of all": sum(r[t:]) - of_all}
                for critic in CRITICS:
                    expected |= {f"{critic} n={n}": n_step[n] for n in (5, 20)}
                    expected |= {f"{critic} λ=0": n_step[1], f"{critic} λ=1": sum(r[t:]) - v[t]}
                    for lam in (
                        0.5,
                        0.9,
                        0.95,
                        0.99,
                    ):  # (1 − λ) Σ_n λ^(n−1) Â^(n), Â^(n) being Â^(30) from n = 30 on
                        mixed = sum((1 - lam) * lam ** (n - 1) * n_step[n] for n in range(1, 30))
                        expected[f"{critic} λ={lam:g}"] = mixed + lam**29 * n_step[30]
                assert {k: float(w[t, m]) for k, w in found.items()} == pytest.approx(
                    expected, abs=1e-4
                )


def test_half_trained_is_the_agent_of_a_run_that_was_stopped(monkeypatch):
    monkeypatch.setattr(gradient_estimators, "HALF_WAY", 1)
    agent = gradient_estimators.half_trained(3)
    episodes = Trajectories.sample(agent, 200, 0)
    assert (
        7 * 16 * 9 < int(agent.obs_stats.count) < 7 * 16 * 100
    )  # as soon as there were 100 episodes, of 16 at a time
    assert 9 < float(episodes.to_go[0].mean()) < 60 and episodes.to_go.max() <= 100


def test_the_pictures_and_tables_have_all_of_them(monkeypatch):
    torch.manual_seed(0)
    agent = reinforce_baseline.Agent(Box(-1, 1, (4,)), Discrete(2))
    for name, number in {"FIT": 50, "BLOCKS": 4, "BLOCK": 2, "FLIPS": 50, "SEEDS": (1, 2)}.items():
        monkeypatch.setattr(gradient_estimators, name, number)
    monkeypatch.setattr(gradient_estimators, "half_trained", lambda seed: agent)
    gradient_estimators.measure_policy.cache_clear()
    figure, tables = c02_variance.study(None)
    left, _ = figure.axes
    gradient_estimators.measure_policy.cache_clear()
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in tables.splitlines()
        if line.startswith("|")
    ]
    assert [row[0] for row in cells[2:]] == [row.label for row in ROWS.values()]
    assert [text.get_text() for text in left.get_yticklabels()] == [
        row.label for row in ROWS.values()
    ]
    assert cells[2][3].startswith("100.0") and cells[8][4].startswith(
        "1.00"
    )  # relative to themselves
    assert (
        len([line for line in c03_bias.study(None)[1].splitlines() if line.startswith("|")])
        == 2 + 16
    )
    gradient_estimators.measure_policy.cache_clear()
