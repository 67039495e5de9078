"""A run as a user sees it: its folder, its end, its interruption, its repetition."""

import json
import pickle
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch.distributions import Normal, kl_divergence

import ppo_kl
import reinforce_baseline
from helpers import (
    OFF_POLICY,
    ON_POLICY,
    environment_flags,
    modules_defining,
    short_run_flags,
    short_run_steps,
    wait_for,
)
from run_folder import RunsCodeWhenUnpickled, checkpoint, scalars, summary

SUMMARY = (
    "script env_id seed global_step episodes train_return_last100 eval_return_mean eval_return_std eval_episodes "
    "wall_s sps solved_at_step solved_at_s"
).split()


def test_a_runs_folder(script, run, tmp_path):
    done = run(script, *short_run_flags(script), "--run-dir", "r", fresh=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert len(done.stdout.splitlines()) == 1 and "over 5 episodes" in done.stdout

    result = summary(tmp_path / "r")
    assert sorted(result) == sorted([*SUMMARY, "updates"] if script in OFF_POLICY else SUMMARY)
    assert result["script"] == script and result["seed"] == 1 and result["eval_episodes"] == 5
    assert short_run_steps(script) <= result["global_step"] < 2 * short_run_steps(script)
    if script in OFF_POLICY:
        assert (
            result["env_id"] == "Pendulum-v1"
            and result["global_step"] == 1200
            and result["updates"] == 1000
        )
        assert (
            -1800 < result["train_return_last100"] < -500 and -1800 < result["eval_return_mean"] < 0
        )
    else:
        assert result["env_id"] == "CartPole-v1"
        assert 8 < result["train_return_last100"] <= 500 and 8 < result["eval_return_mean"] <= 500

    config = json.loads((tmp_path / "r" / "config.json").read_text())
    assert config["script"] == script and config["args"]["total_timesteps"] == short_run_steps(
        script
    )
    assert config["versions"]["torch"] == torch.__version__ and config["device"] in ("cpu", "cuda")

    logged = scalars(tmp_path / "r")
    assert {
        "charts/episodic_return",
        "charts/episodic_length",
        "charts/SPS",
        "eval/episodic_return",
    } <= set(logged)
    assert any(tag.startswith("losses/") for tag in logged)
    steps = [step for step, _ in logged["charts/SPS"]]
    assert steps == sorted(set(steps)) and steps[-1] == result["global_step"]
    assert abs(logged["eval/episodic_return"][0][1] - result["eval_return_mean"]) < 1e-3


def test_it_starts_without_torch_dynamo(script, run):
    """Its import takes a second, a fifth of a run on CartPole, and only --compile needs it."""
    done = run(script, *short_run_flags(script), PYTHONPROFILEIMPORTTIME="1")
    assert "torch.optim" in done.stderr and "torch._dynamo" not in done.stderr


def test_the_default_run_dir(script, run, tmp_path):
    assert run(script, *short_run_flags(script), "--seed", 7, "--no-save-model").returncode == 0
    [run_dir] = (tmp_path / "runs").iterdir()
    assert run_dir.name.startswith(f"{summary(run_dir)['env_id']}__{script}__7__")
    assert (run_dir / "summary.json").exists() and not (run_dir / "policy.pt").exists()


def test_the_same_seed_gives_the_same_metrics_bit_for_bit(script, run, tmp_path):
    logs, weights = [], []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert (
            run(script, *short_run_flags(script), "--seed", seed, "--run-dir", name).returncode == 0
        )
        logged = scalars(tmp_path / name)
        del logged["charts/SPS"]
        logs.append(logged)
        weights.append(torch.load(tmp_path / name / "policy.pt", weights_only=True)["layers"][0][0])
    assert logs[0] == logs[1] != logs[2]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_killed_and_resumed(script, run, start, tmp_path):
    total = 5 * short_run_steps(script)
    flags = ("--total-timesteps", total, "--checkpoint-interval", 0.01)
    process = start(script, *short_run_flags(script), *flags, "--run-dir", "r")
    wait_for(
        lambda: (checkpoint(tmp_path / "r") or {"count": {"global_step": 0}})["count"][
            "global_step"
        ],
        60,
        process,
    )
    process.kill()
    process.wait()
    before = checkpoint(tmp_path / "r")["count"]
    assert 0 < before["global_step"] < total and not (tmp_path / "r" / "summary.json").exists()

    done = run(script, "--resume", "r")
    assert done.returncode == 0, done.stderr
    after = summary(tmp_path / "r")
    assert after["global_step"] >= total and after["episodes"] > before["episodes"]
    assert after["wall_s"] > before["wall_s"]
    steps = [step for step, _ in scalars(tmp_path / "r")["charts/SPS"]]
    assert (
        steps == sorted(set(steps)) and before["global_step"] in steps
    )  # nothing twice, nothing lost

    again = run(script, "--resume", "r")
    assert again.returncode == 0 and "finished" in again.stdout and summary(tmp_path / "r") == after

    longer = run(script, "--resume", "r", "--total-timesteps", total + 500)
    assert longer.returncode == 0 and summary(tmp_path / "r")["global_step"] >= total + 500


def test_a_resumed_run_goes_on_from_the_checkpoints_state(script, run, tmp_path):
    """Some steps more with a step size of zero: the weights stay, the optimisers and the statistics go on."""
    assert run(script, *short_run_flags(script), "--run-dir", "r").returncode == 0
    before = checkpoint(tmp_path / "r")
    more = (
        9000 if script == "dagger" else 1500
    )  # an episode ends: 16 environments of 500 steps each
    flags = ("--total-timesteps", before["count"]["global_step"] + more)
    flags += ("--policy-lr", 0, "--q-lr", 0) if script in OFF_POLICY else ("--learning-rate", 0)
    flags += ("--no-norm-obs",) if script in ON_POLICY else ()
    for name in ("r1", "r2"):
        shutil.copytree(tmp_path / "r", tmp_path / name)
        assert run(script, "--resume", name, *flags).returncode == 0
    after, again = checkpoint(tmp_path / "r1"), checkpoint(tmp_path / "r2")
    assert all(
        torch.equal(tensor, after["agent"][name])
        for name, tensor in before["agent"].items()
        if not name.startswith(("return_stats", "obs_"))  # of what has been seen, which is more now
    )
    for name in [name for name in before if "optimizer" in name]:
        taken = [next(iter(state[name]["state"].values()))["step"] for state in (before, after)]
        assert 0 < taken[0] < taken[1]
    assert not torch.equal(before["rng"], after["rng"]) and torch.equal(after["rng"], again["rng"])
    assert after["last100"] == again["last100"]
    assert after["count"]["episodes"] > before["count"]["episodes"]


def test_the_random_state_is_restored(script, run, tmp_path):
    """Another random state in the checkpoint, other actions or minibatches after it."""
    assert run(script, *short_run_flags(script), "--run-dir", "r").returncode == 0
    shutil.copytree(tmp_path / "r", tmp_path / "other")
    state = checkpoint(tmp_path / "r")
    torch.manual_seed(12345)
    torch.save(state | {"rng": torch.get_rng_state()}, tmp_path / "other" / "checkpoint.pt")
    for name in ("r", "other"):
        assert (
            run(
                script, "--resume", name, "--total-timesteps", 2 * short_run_steps(script)
            ).returncode
            == 0
        )
    one, other = (checkpoint(tmp_path / name)["agent"] for name in ("r", "other"))
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(script, run, start, tmp_path, number):
    flags = (*short_run_flags(script), "--total-timesteps", 10_000_000)
    process = start(script, *flags, "--run-dir", "r", "--checkpoint-interval", 3600)
    wait_for(lambda: checkpoint(tmp_path / "r"), 60, process)  # the one of step 0
    time.sleep(0.5)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number and err == "" and "--resume r" in out
    step = checkpoint(tmp_path / "r")["count"]["global_step"]
    assert step > 0 and scalars(tmp_path / "r")["charts/SPS"][-1][0] == step
    assert (
        run(script, "--resume", "r", "--total-timesteps", step + 1, "--eval-episodes", 2).returncode
        == 0
    )
    assert summary(tmp_path / "r")["global_step"] > step


def test_target_return_stops_the_run(script, run, tmp_path):
    target = -1e9 if script in OFF_POLICY else 20
    flags = (*short_run_flags(script), "--total-timesteps", 1_000_000, "--target-return", target)
    flags += ("--updates-per-step", 0.01) if script in OFF_POLICY else ()
    done = run(script, *flags, "--run-dir", "r")
    result = summary(tmp_path / "r")
    assert (
        done.returncode == 0
        and result["train_return_last100"] >= target
        and result["episodes"] >= 100
    )
    assert result["global_step"] == result["solved_at_step"] < 100_000
    assert 0 < result["solved_at_s"] <= result["wall_s"]


def test_a_loss_that_is_not_finite_stops_the_run(script, run, tmp_path):
    env_id = "tiny_envs:BrokenBox-v0" if script in OFF_POLICY else "tiny_envs:Broken-v0"
    done = run(
        script,
        *short_run_flags(script, env_id, tmp_path),
        "--checkpoint-interval",
        0,
        "--run-dir",
        "r",
    )
    assert done.returncode == 1 and "became nan" in done.stderr and "Traceback" not in done.stderr
    assert all(tensor.isfinite().all() for tensor in checkpoint(tmp_path / "r")["agent"].values())
    assert scalars(tmp_path / "r")["charts/SPS"]  # the log is on disk


@pytest.mark.parametrize("env_id", ["tiny_envs:IdentityDiscrete-v0", "tiny_envs:IdentityBox-v0"])
def test_policy_pt_is_the_network(module, script, run, tmp_path, env_id):
    """The file alone, against the checkpoint's weights run through the script's own network."""
    if script in OFF_POLICY and "Discrete" in env_id:
        pytest.skip("Box actions only")
    assert run(script, *short_run_flags(script, env_id, tmp_path), "--run-dir", "r").returncode == 0
    envs = module.make_envs(env_id, 1)
    agent = module.Agent(envs.single_observation_space, envs.single_action_space)
    agent.load_state_dict(checkpoint(tmp_path / "r")["agent"])
    policy = module.load_policy(tmp_path / "r" / "policy.pt")
    obs = np.random.default_rng(0).normal(size=(50, envs.single_observation_space.shape[0])) * 3
    with torch.no_grad():
        expected = most_probable(agent, torch.as_tensor(obs, dtype=torch.float32))
    np.testing.assert_allclose(policy(obs), expected, rtol=1e-5, atol=1e-6)
    assert all(envs.single_action_space.contains(action) for action in policy(obs))
    saved = torch.load(tmp_path / "r" / "policy.pt", weights_only=True)
    assert saved["env_id"] == env_id and saved["action_space"] == str(envs.single_action_space)

    returns = module.evaluate(policy, module.make_envs(env_id, 5), module.derive_seed(1, 1))
    assert abs(returns.mean() - summary(tmp_path / "r")["eval_return_mean"]) < 1e-6


def most_probable(agent, obs) -> np.ndarray:
    """The deterministic policy, by each script's own network."""
    out = agent.actor(agent.normalize(obs))
    if not hasattr(
        agent, "discrete"
    ):  # the off-policy scripts': a tanh of the mean, which a deviation may follow
        return agent.to_env(out[..., : len(agent.low)].tanh())
    return agent.to_env(out.argmax(-1) if agent.discrete else out)


@pytest.mark.parametrize("module", modules_defining("load_policy"))
def test_a_policy_file_that_carries_code_is_refused(module, tmp_path):
    torch.save({"layers": RunsCodeWhenUnpickled()}, tmp_path / "policy.pt")
    with pytest.raises(pickle.UnpicklingError):
        module.load_policy(tmp_path / "policy.pt")


def test_a_video_of_an_evaluation_episode(script, run, tmp_path):
    done = run(
        script,
        *short_run_flags(script),
        "--capture-video",
        "--run-dir",
        "r",
        SDL_VIDEODRIVER="dummy",
    )
    assert done.returncode == 0, done.stderr
    [video] = (tmp_path / "r" / "videos").glob("*.mp4")
    assert video.stat().st_size > 1000


def test_wandb_offline(script, run, tmp_path):
    done = run(script, *short_run_flags(script), "--track", "--run-dir", "r", WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    [log] = (tmp_path / "r").glob("wandb/offline-run-*/run-r.wandb")
    for tag in ("charts/episodic_return", "charts/SPS", "eval/episodic_return"):
        assert tag.encode() in log.read_bytes()


@pytest.mark.parametrize("env_id", ["CartPole-v1", "tiny_envs:IdentityBox-v0"])
def test_compile_changes_nothing_but_the_speed(script, run, tmp_path, env_id):
    if script in OFF_POLICY and env_id == "CartPole-v1":
        pytest.skip("Box actions only")
    flags = (
        *short_run_flags(script, env_id, tmp_path),
        "--total-timesteps",
        short_run_steps(script) // 4,
    )
    assert run(script, *flags, "--run-dir", "plain").returncode == 0
    done = run(script, *flags, "--run-dir", "compiled", "--compile", TORCH_LOGS="output_code")
    assert done.returncode == 0 and "Output code" in done.stderr, done.stderr[-2000:]
    plain, compiled = (scalars(tmp_path / name) for name in ("plain", "compiled"))
    losses = [tag for tag in plain if tag.startswith("losses/")]
    if script == "sac":  # draws its noise inside what is compiled, from another generator
        return
    assert losses and all(
        compiled[tag][0][1] == pytest.approx(plain[tag][0][1], rel=1e-4, abs=1e-3) for tag in losses
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("flags", [(), ("--compile",)])
def test_cuda(script, run, tmp_path, flags):
    for name, more in (("cpu", ("--no-cuda",)), ("gpu", flags)):
        done = run(script, *short_run_flags(script), "--run-dir", name, *more)
        assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "gpu" / "config.json").read_text())["device"] == "cuda"
    step = summary(tmp_path / "gpu")["global_step"]
    assert run(script, "--resume", "gpu", "--total-timesteps", step + 1).returncode == 0
    cpu, gpu = (scalars(tmp_path / name) for name in ("cpu", "gpu"))
    assert cpu.keys() == gpu.keys()
    if script in ON_POLICY:  # other random numbers, the same task
        assert abs(cpu["losses/entropy"][0][1] / gpu["losses/entropy"][0][1] - 1) < 0.3


@pytest.mark.parametrize("script", [*ON_POLICY, "dagger"])
def test_the_step_size_is_annealed(script, run, tmp_path):
    for name, flags in (("annealed", ()), ("constant", ("--no-anneal-lr",))):
        assert (
            run(
                script, *short_run_flags(script), "--learning-rate", 0.01, "--run-dir", name, *flags
            ).returncode
            == 0
        )
    annealed, constant = (
        scalars(tmp_path / name)["charts/learning_rate"] for name in ("annealed", "constant")
    )
    assert {round(value, 6) for _, value in constant} == {0.01}
    before = [0, *(step for step, _ in annealed)]  # an iteration's step size is set at its start
    for start, (_, value) in zip(before, annealed):
        assert abs(value - 0.01 * (1 - start / 8192)) < 1e-6


@pytest.mark.parametrize("script", ["a2c", "ppo_clip", "ppo_kl", "dagger"])
def test_rollouts_of_one_step_where_all_environments_are_reset_together(script, run, tmp_path):
    """Episodes of a fixed length end in the same step: the rollout after it holds no step at all."""
    flags = (
        "--num-steps",
        1,
        "--num-envs",
        8,
        *environment_flags(script, "tiny_envs:IdentityBox-v0", tmp_path),
    )
    flags += ("--num-minibatches", 1) if script.startswith("ppo") else ()
    flags += ("--num-updates", 2) if script == "dagger" else ()
    done = run(script, "--total-timesteps", 400, "--eval-episodes", 2, *flags, "--run-dir", "r")
    assert done.returncode == 0, done.stderr
    result = summary(tmp_path / "r")
    assert result["global_step"] == 400 and result["episodes"] == 40


def test_target_kl_ends_an_update_of_ppo_clip_after_its_first_epoch(run, tmp_path):
    steps = []
    for name, target in (("never", 1e9), ("at-once", 0)):
        done = run(
            "ppo_clip",
            *short_run_flags("ppo_clip"),
            "--target-kl",
            target,
            "--update-epochs",
            3,
            "--run-dir",
            name,
        )
        assert done.returncode == 0, done.stderr
        optimizer = checkpoint(tmp_path / name)["optimizer"]["state"]
        iterations = len(scalars(tmp_path / name)["charts/SPS"])
        steps.append(next(iter(optimizer.values()))["step"] / iterations)
    assert steps == [3 * 4, 4]  # of four minibatches an epoch


def test_the_kl_coefficient_of_ppo_kl_follows_the_rule_and_survives_a_resume(run, tmp_path):
    assert run("ppo_kl", *short_run_flags("ppo_kl"), "--run-dir", "r").returncode == 0
    assert (
        run("ppo_kl", "--resume", "r", "--total-timesteps", 40_000, "--eval-episodes", 2).returncode
        == 0
    )
    logged = scalars(tmp_path / "r")
    kl, coef = ([value for _, value in logged[f"losses/{name}"]] for name in ("kl", "kl_coef"))
    target = ppo_kl.Args.target_kl
    factors = [2 if d >= 1.5 * target else 0.5 if d <= target / 1.5 else 1 for d in kl]
    assert coef[0] == 1 and coef[1:] == [c * factor for c, factor in zip(coef, factors)][:-1]
    assert len(coef) >= 19 and len(set(factors)) == 3
    assert (
        checkpoint(tmp_path / "r")["optimizer"]["param_groups"][0]["kl_coef"]
        == coef[-1] * factors[-1]
    )


def test_ppo_kl_logs_the_exact_kl_between_the_policies_before_and_after_an_update(run, tmp_path):
    """Where every observation is the same, two checkpoints are enough to tell it: means and σ have both moved."""
    flags = (
        "--env-id",
        "tiny_envs:Blind-v0",
        "--eval-episodes",
        2,
        "--learning-rate",
        0.01,
        "--no-norm-obs",
    )
    assert (
        run(
            "ppo_kl", *flags, "--no-anneal-lr", "--total-timesteps", 2048, "--run-dir", "r"
        ).returncode
        == 0
    )
    before = checkpoint(tmp_path / "r")
    assert (
        run(
            "ppo_kl", "--resume", "r", "--total-timesteps", before["count"]["global_step"] + 1
        ).returncode
        == 0
    )
    policies = []
    for state in (before, checkpoint(tmp_path / "r")):
        agent = ppo_kl.Agent(Box(-1, 1, (2,)), Box(-1, 1, (2,)))
        agent.load_state_dict(state["agent"])
        policies.append(Normal(agent.actor(torch.ones(2)), agent.log_std.exp()))
    expected = kl_divergence(*policies).sum().item()
    assert (
        expected > 0.001 and abs(scalars(tmp_path / "r")["losses/kl"][-1][1] / expected - 1) < 1e-3
    )
    only_the_means = (
        kl_divergence(policies[0], Normal(policies[1].mean, policies[0].stddev)).sum().item()
    )
    assert abs(only_the_means / expected - 1) > 0.05


@pytest.mark.parametrize("env_id", ["CartPole-v1", "tiny_envs:IdentityBox-v0"])
@pytest.mark.parametrize("flag", ["--reward-to-go", "--no-reward-to-go"])
def test_reinforce_baseline_without_one_is_reinforce_to_the_last_digit(run, tmp_path, env_id, flag):
    same = ("--env-id", env_id, flag, "--learning-rate", 2e-3, "--num-envs", 16)
    for script, more in (("reinforce", ()), ("reinforce_baseline", ("--baseline", "none"))):
        done = run(script, *short_run_flags(script), *same, *more, "--run-dir", script)
        assert done.returncode == 0, done.stderr
    one, other = (checkpoint(tmp_path / script) for script in ("reinforce", "reinforce_baseline"))
    assert (
        one["count"]["global_step"] == other["count"]["global_step"]
        and one["last100"] == other["last100"]
    )
    for name, tensor in one["agent"].items():
        assert torch.equal(tensor, other["agent"][name]), name
    assert one["agent"]["obs_stats.count"] > 8000


def test_the_learned_baseline_explains_the_returns_it_was_not_fitted_to(run, tmp_path):
    """Where the return is known from the observation. The first iteration's comes before any fit."""
    flags = ("--env-id", "tiny_envs:Clock-v0", "--total-timesteps", 8192, "--eval-episodes", 2)
    assert run("reinforce_baseline", *flags, "--run-dir", "r").returncode == 0
    explained = [value for _, value in scalars(tmp_path / "r")["losses/explained_variance"]]
    assert abs(explained[0]) < 0.1 and explained[-1] > 0.95
    state = checkpoint(tmp_path / "r")["optimizer"]["state"]
    parameters = [
        name
        for name, _ in reinforce_baseline.Agent(Box(-1, 1, (1,)), Discrete(2)).named_parameters()
    ]
    steps = {name: int(state[i]["step"]) for i, name in enumerate(parameters) if i in state}
    assert {steps[name] for name in steps if name.startswith("actor")} == {
        len(explained)
    }  # the fit leaves it alone
    assert {steps[name] for name in steps if name.startswith("critic")} == {5 * len(explained)}


def test_the_mean_baseline_takes_the_noise_away_where_all_returns_are_the_same(run, tmp_path):
    """The advantage is 0, the policy stays what it was."""
    flags = ("--env-id", "tiny_envs:Clock-v0", "--total-timesteps", 8192, "--eval-episodes", 2)
    entropy = {}
    for baseline in ("mean", "none"):
        assert (
            run(
                "reinforce_baseline", *flags, "--baseline", baseline, "--run-dir", baseline
            ).returncode
            == 0
        )
        entropy[baseline] = [value for _, value in scalars(tmp_path / baseline)["losses/entropy"]]
    assert (
        max(entropy["mean"]) - min(entropy["mean"])
        < 1e-3
        < max(entropy["none"]) - min(entropy["none"])
    )


@pytest.mark.parametrize("env_id", ["CartPole-v1", "tiny_envs:IdentityBox-v0"])
@pytest.mark.parametrize("module", modules_defining("Agent", "gaussian_policy"))
def test_an_update_sees_what_the_actions_were_sampled_from(module, tmp_path, monkeypatch, env_id):
    """The observation statistics must not change between a rollout and its update."""
    normalize, sampled, updates = module.Agent.normalize, [], []

    def recording(agent, obs):
        x = normalize(agent, obs)
        if obs.dim() == 2:  # a step of the rollout
            sampled.append(x)
        else:
            updates.append(torch.equal(x[: len(sampled)], torch.stack(sampled)))
            sampled.clear()
        return x

    monkeypatch.setattr(module.Agent, "normalize", recording)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest keeps its own
    module.train(
        module.Args(
            env_id=env_id, total_timesteps=8192, eval_episodes=2, run_dir=str(tmp_path / "r")
        )
    )
    assert len(updates) >= 3 and all(updates)
