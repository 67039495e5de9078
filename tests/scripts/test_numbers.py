"""Numbers at the edge: what hardly varies, what rounding moves, arrays that are used again."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

import ppo_clip
import ppo_kl
import sac
from helpers import OFF_POLICY, SCRIPTS, agent_for, environment_flags, modules_defining
from run_folder import checkpoint

CPU = torch.device("cpu")


@pytest.fixture
def trained(module, script, train_here, tmp_path):
    """Trains a script for a moment and returns the run's folder."""

    def trained(env_id, run_dir="r", **flags):
        if script in OFF_POLICY:
            total = {"total_timesteps": 110, "learning_starts": 90, "batch_size": 16}
        else:
            total = {"total_timesteps": 300, "num_envs": 8}
        if hasattr(module.Args, "num_steps"):
            total["num_steps"] = 16
        if script == "dagger":
            total["num_updates"] = 10
            total["expert"] = str(environment_flags(script, env_id, tmp_path)[-1])
        return train_here(module, run_dir, env_id=env_id, eval_episodes=2, **total, **flags)

    return trained


def trained_agent(module, run_dir, env_id):
    """The agent as the run left it."""
    agent = agent_for(module, gym.make_vec(env_id, 1))
    agent.load_state_dict(checkpoint(run_dir)["agent"])
    return agent


def deterministic(agent, obs) -> np.ndarray:
    """What the agent itself does, by its own network and its own statistics."""
    with torch.no_grad():
        out = agent.actor(agent.normalize(torch.as_tensor(obs)))
    if type(agent).__module__ == "sac":  # a tanh of the mean, which the deviation follows
        out = out[..., : len(agent.low)].tanh()
    return agent.to_env(out)


# ---------------------------------------------------------------- what hardly varies


def test_a_feature_that_hardly_varies_is_not_scaled(module, trained):
    """In the run and in policy.pt. Of Faint's two features the second has a variance of 8e-10."""
    run_dir = trained("tiny_envs:Faint-v0")
    agent = trained_agent(module, run_dir, "tiny_envs:Faint-v0")
    away = agent.normalize(torch.tensor([[0.5, 0.3 + 0.25]]))
    near = agent.normalize(torch.tensor([[0.0, 0.3]]))
    first, second = (away - near)[0].tolist()
    assert first == pytest.approx(0.5 * 3**0.5, rel=0.1)  # over the deviation of (−1, 1)
    assert second == pytest.approx(0.25, rel=1e-5)

    policy = ppo_clip.load_policy(run_dir / "policy.pt")
    obs = np.random.default_rng(0).uniform(-1, 1, (50, 2)).astype(np.float32)
    np.testing.assert_allclose(policy(obs), deterministic(agent, obs), rtol=0, atol=1e-6)


@pytest.mark.parametrize("script", OFF_POLICY)
def test_policy_pt_acts_as_the_agent_where_observations_are_small(module, script, trained):
    """Their deviation is 2e-4, so that a little something added to it once more would be seen."""
    run_dir = trained("tiny_envs:Small-v0")
    agent = trained_agent(module, run_dir, "tiny_envs:Small-v0")
    policy = module.load_policy(run_dir / "policy.pt")
    obs = 2e-4 * np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    found = policy(obs)
    assert found.std(0).min() > 1e-3  # they depend on the observation
    np.testing.assert_allclose(found, deterministic(agent, obs), rtol=0, atol=1e-6)


# ---------------------------------------------------------------- actions stay within their bounds


def random_box(rng, act_dim=400) -> Box:
    """With the bounds of 400 Boxes, of all sizes, and those of Box(-1.4, 0.3)."""
    scale = 10.0 ** rng.uniform(-3, 3, act_dim)
    bounds = np.sort(rng.normal(size=(2, act_dim)) * scale, axis=0).astype(np.float32)
    bounds[:, 0] = (-1.4, 0.3)
    return Box(*bounds)


OUTPUTS = (1.0, -1.0, 1e6, -1e6, 0.999, -0.3)


@pytest.mark.parametrize("round", range(5))
def test_saturated_actions_are_of_the_space(module, round):
    rng = np.random.default_rng(round)
    space = random_box(rng)
    agent = module.Agent(Box(-1, 1, (1,)), space)
    for output in OUTPUTS:
        action = agent.to_env(torch.full((2, 400), output))
        assert all(space.contains(row) for row in action), output
    inside = agent.to_env(torch.full((400,), -0.3)).astype(np.float64)
    low = space.low.astype(np.float64)
    expected = low + 0.35 * (space.high - low)
    np.testing.assert_allclose(inside, expected, atol=1e-6 * np.abs(low).max())


@pytest.mark.parametrize("head", ["clip", "tanh"])
@pytest.mark.parametrize("round", range(5))
def test_saturated_actions_of_policy_pt_are_of_the_space(head, round, tmp_path):
    space = random_box(np.random.default_rng(round))
    for output in OUTPUTS:
        policy = {
            "layers": [(torch.zeros(400, 1), torch.full((400,), output))],
            "activation": "relu",
            "head": head,
            "obs_mean": torch.zeros(1),
            "obs_std": torch.ones(1),
            "low": torch.tensor(space.low),
            "high": torch.tensor(space.high),
        }
        torch.save(policy, tmp_path / "policy.pt")
        action = ppo_clip.load_policy(tmp_path / "policy.pt")(np.zeros((2, 1)))
        assert all(space.contains(row) for row in action), output


def test_an_environment_that_takes_no_action_beyond_its_bounds(module, script, trained):
    """Box(-1.4, 0.3): in float32, −1.4 + (0.3 + 1.4) is more than 0.3."""
    assert np.float32(-1.4) + (np.float32(0.3) - np.float32(-1.4)) > np.float32(0.3)
    noise = {"exploration_noise": 2.0} if script in ("ddpg", "td3") else {}
    assert (trained("tiny_envs:Strict-v0", **noise) / "summary.json").exists()


# ---------------------------------------------------------------- arrays that are used again


def of_collector(module, envs) -> list:
    """Rollouts of a2c.py and ppo_*.py."""
    agent = agent_for(module, envs)
    collector = module.Collector(envs, agent, CPU, 0.9, seed=0)
    return [vars(collector.collect(7)) for _ in range(4)]


def of_episode_collector(module, envs) -> list:
    """Episodes of reinforce*.py."""
    agent = agent_for(module, envs)
    collector = module.EpisodeCollector(envs, agent, CPU, seed=0)
    return [vars(collector.collect()) for _ in range(4)]


def of_stepper(module, envs) -> list:
    """Transitions of ddpg.py and sac.py, one step each, and at last the whole buffer."""
    agent = agent_for(module, envs)
    stepper = module.Stepper(envs, CPU, seed=0)
    buffer = module.ReplayBuffer(200, 2, 2, CPU)
    found = []
    for _ in range(40):
        action = torch.rand(3, 2) * 2 - 1
        batch, episodes = stepper.step(action, agent.to_env(action))
        buffer.add(batch)
        found.append({**vars(batch), "episodes": episodes})
    return [*found, buffer.state_dict()]


def of_label_collector(module, envs) -> list:
    """Labels of dagger.py, by an expert that hands the very observations on."""
    agent = agent_for(module, envs)
    collector = module.LabelCollector(envs, agent, lambda obs: obs, seed=0)
    return [vars(collector.collect(7, beta)) for beta in (1.0, 0.5, 0.0, 0.5)]


COLLECTED = []
for name, of_class in (
    ("Collector", of_collector),
    ("EpisodeCollector", of_episode_collector),
    ("Stepper", of_stepper),
    ("LabelCollector", of_label_collector),
):
    COLLECTED += [pytest.param(*p.values, of_class, id=p.id) for p in modules_defining(name)]


def test_every_script_has_a_collector_that_is_tested_here():
    assert sorted(case.id for case in COLLECTED) == SCRIPTS


@pytest.mark.parametrize("module, collected_by", COLLECTED)
def test_what_is_collected_from_arrays_that_are_used_again(module, collected_by):
    """It is what an environment gives that hands out new arrays at each step."""
    found = []
    for env_id in ("tiny_envs:SameArrays-v0", "tiny_envs:FreshArrays-v0"):
        torch.manual_seed(0)
        found.append(collected_by(module, module.make_envs(env_id, 3)))
    num_episodes = 0
    for same, fresh in zip(*found, strict=True):
        assert same.keys() == fresh.keys()
        for name, value in fresh.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(same[name], value), name
            else:
                assert same[name] == value, name
                num_episodes += len(value)
    assert num_episodes > 3 or collected_by is of_episode_collector


def test_a_run_on_arrays_that_are_used_again(module, trained):
    """Bit for bit the run on an environment that hands out new ones."""
    states = []
    for name in ("SameArrays", "FreshArrays"):
        states.append(checkpoint(trained(f"tiny_envs:{name}-v0", name)))
    same, fresh = states
    assert same["count"]["global_step"] == fresh["count"]["global_step"]
    assert same["last100"] == fresh["last100"] != []
    for part in ("agent", "buffer", "dataset"):
        for name, tensor in fresh.get(part, {}).items():
            assert torch.equal(same[part][name], tensor), name


def test_a_vector_environment_that_does_not_tell_how_it_resets(run, tmp_path):
    """Before the script's line stands gymnasium's own warning."""
    done = run("a2c", "--env-id", "tiny_envs:Undeclared-v0")
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert "autoreset is not NEXT_STEP" in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- β, the budget, the targets


@pytest.mark.parametrize("bound, there, back", [("smallest", 0.0, 9.0), ("largest", 9.0, 0.0)])
def test_the_kl_penalty_comes_back_from_its_bounds(bound, there, back):
    """Without them it would reach 0 after 1,075 halvings and stay there; or ∞."""
    penalty = ppo_kl.KLPenalty(1.0)
    for _ in range(3000):
        penalty.adapt(there, 1.0)
    assert penalty.coef == getattr(ppo_kl.KLPenalty, bound)
    assert 0 < penalty.coef < np.inf
    seen = []
    for _ in range(60):
        penalty.adapt(back, 1.0)
        seen.append(penalty.coef)
    assert min(abs(np.log2(seen))) <= 0.5  # it moves by factors of 2


@pytest.mark.parametrize("script", [script for script in SCRIPTS if script not in OFF_POLICY])
def test_the_help_tells_with_what_a_run_ends(script, run):
    done = run(script, "--help")
    words = " ".join(done.stdout.replace("│", " ").split())
    _, _, after = words.partition("--total-timesteps")
    whole = {"dagger": "iteration", "reinforce": "episodes", "reinforce_baseline": "episodes"}
    expected = f"a run ends with the {whole.get(script, 'rollout')} in which it is reached"
    assert done.returncode == 0 and expected in after.partition("--seed")[0]


def test_target_network_frequency(train_here, monkeypatch):
    """The critics move in every update, their targets only in every second one."""
    seen = []

    class Run(sac.Run):
        def metric(self, tag, value):
            if tag == "losses/qf_loss":  # once in each update, before its targets may move
                weights = {}
                for name in ("target_q1", "target_q2", "agent"):
                    state = self.parts[name].state_dict()
                    name_in_it = "q1.net.0.weight" if name == "agent" else "net.0.weight"
                    weights[name] = state[name_in_it].clone()
                seen.append(weights)
            super().metric(tag, value)

    monkeypatch.setattr(sac, "Run", Run)
    flags = {"total_timesteps": 49, "learning_starts": 40, "batch_size": 8, "eval_episodes": 1}
    train_here(sac, env_id="tiny_envs:Small-v0", target_network_frequency=2, **flags)
    assert len(seen) == 9
    for update, (before, after) in enumerate(zip(seen, seen[1:])):
        assert not torch.equal(before["agent"], after["agent"])
        for name in ("target_q1", "target_q2"):
            moved = not torch.equal(before[name], after[name])
            assert moved == (update % 2 == 0), (name, update)


# ---------------------------------------------------------------- far from what was seen


@pytest.mark.parametrize(
    "module", [m for m in modules_defining("RunningStats") if m.values[0].__name__ != "reinforce"]
)
def test_a_critic_does_not_run_away_in_rare_states(module):
    """After a few steps towards −4 everywhere it says about −4 far away, too.

    SiLU units are not bounded: they said −25 at ten deviations, so a2c.py kept away from all
    that it had not seen, and never learned Acrobot-v1.
    """
    torch.manual_seed(0)
    agent = agent_for(module, gym.make_vec("Acrobot-v1", 1))
    optimizer = torch.optim.Adam(agent.critic.parameters(), lr=1.5e-3)
    for _ in range(300):
        seen = torch.randn(128, 6)
        loss = (agent.value(seen) + 4).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    far = 10 * torch.randn(1000, 6)
    assert agent.value(far).min() > -6
