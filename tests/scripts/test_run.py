"""A run as a user sees it: its folder, its end, its interruption, its repetition."""

import itertools
import json
import pickle
import shutil
import signal

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
    agent_for,
    environment_flags,
    modules_defining,
    short_run_flags,
    short_run_steps,
    wait_for,
)
from run_folder import (
    SOME_ITERATIONS,
    RunsCodeWhenUnpickled,
    checkpoint,
    config,
    logged_bytes,
    scalar_values,
    scalars,
    steps_taken,
    summary,
)

SUMMARY = [
    "script",
    "env_id",
    "seed",
    "global_step",
    "episodes",
    "train_return_last100",
    "eval_return_mean",
    "eval_return_std",
    "eval_episodes",
    "wall_s",
    "sps",
    "solved_at_step",
    "solved_at_s",
]
LOGGED = {
    "charts/episodic_return",
    "charts/episodic_length",
    "charts/SPS",
    "eval/episodic_return",
}
# What is tested with these alone is code of the shared part, which is the same in every script.
KINDS = ["reinforce", "ppo_clip", "ppo_ddp", "sac", "dagger"]


def skip_discrete_off_policy(script: str, env_id: str) -> None:
    if script in OFF_POLICY and env_id in ("CartPole-v1", "tiny_envs:IdentityDiscrete-v0"):
        pytest.skip("Box actions only")


def first_value(run_dir, tag: str) -> float:
    return scalar_values(run_dir, tag)[0]


def global_step(run_dir) -> int:
    """That of the checkpoint; 0 where there is none yet."""
    state = checkpoint(run_dir)
    return state["count"]["global_step"] if state else 0


def logged_steps(run_dir) -> list[int]:
    return [step for step, _ in scalars(run_dir)["charts/SPS"]]


@pytest.mark.quick_for("ppo_clip", "sac")
def test_a_runs_folder(script, run, tmp_path):
    done = run(script, *short_run_flags(script), "--run-dir", "r", fresh=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    start, result, curves, policy = done.stdout.splitlines()
    assert start.endswith("the run's folder is r") and "over 5 episodes" in result
    assert curves.endswith("tensorboard --logdir r")
    assert policy.endswith("--evaluate=r --render human")

    result = summary(tmp_path / "r")
    steps = short_run_steps(script)
    assert sorted(result) == sorted(SUMMARY)
    assert result["script"] == script and result["seed"] == 1 and result["eval_episodes"] == 5
    assert steps <= result["global_step"] < 2 * steps
    if script in OFF_POLICY:
        assert result["env_id"] == "Pendulum-v1"
        assert result["global_step"] == 700
        assert -1800 < result["train_return_last100"] < -500
        assert -1800 < result["eval_return_mean"] < 0
    else:
        assert result["env_id"] == "CartPole-v1"
        assert 8 < result["train_return_last100"] <= 500
        assert 8 < result["eval_return_mean"] <= 500

    written = config(tmp_path / "r")
    assert written["script"] == script and written["args"]["total_timesteps"] == steps
    assert written["versions"]["torch"] == torch.__version__
    assert written["device"] in ("cpu", "cuda")

    logged = scalars(tmp_path / "r")
    assert LOGGED <= set(logged)
    assert any(tag.startswith("losses/") for tag in logged)
    steps = logged_steps(tmp_path / "r")
    assert steps == sorted(set(steps)) and steps[-1] == result["global_step"]
    evaluated = first_value(tmp_path / "r", "eval/episodic_return")
    assert abs(evaluated - result["eval_return_mean"]) < 1e-3


@pytest.mark.quick_for("ppo_clip", "ddpg")
def test_a_log_line_has_the_means_of_what_was_collected_since_the_last(
    module, script, train_here, monkeypatch
):
    """Each tag's: over the minibatches of an iteration, or over its updates of that network."""
    collected = {}
    expected = {}
    metric = module.Run.metric
    log = module.Run.log

    def recording_metric(run, tag, value):
        collected.setdefault(tag, []).append(float(torch.as_tensor(value).detach()))
        metric(run, tag, value)

    def recording_log(run, *args, **named_args):
        log(run, *args, **named_args)
        for tag, values in collected.items():
            point = (run.count.global_step, np.mean(values))
            expected.setdefault(tag, []).append(point)
        collected.clear()

    monkeypatch.setattr(module.Run, "metric", recording_metric)
    monkeypatch.setattr(module.Run, "log", recording_log)
    flags = {"total_timesteps": short_run_steps(script), "eval_episodes": 2}
    if script in OFF_POLICY:
        flags |= {"learning_starts": 200, "batch_size": 32}
    logged = scalars(train_here(module, **flags))
    del logged["eval/episodic_return"]
    assert LOGGED - {"eval/episodic_return"} <= logged.keys()
    assert logged.keys() == expected.keys()
    for tag, points in expected.items():
        np.testing.assert_allclose(logged[tag], points, rtol=1e-5, atol=1e-6, err_msg=tag)


@pytest.mark.quick_for("ppo_clip")
def test_evaluations_during_the_training_do_not_change_it(module, script, train_here):
    steps = short_run_steps(script)
    flags = {"total_timesteps": steps, "eval_episodes": module.INTERVAL_EPISODES, "cuda": False}
    if script in OFF_POLICY:
        flags |= {"learning_starts": 200, "batch_size": 32, "updates_per_step": 0.2}
    without = train_here(module, "without", **flags)
    evaluated = train_here(module, "evaluated", eval_interval=steps // 4, **flags)

    expected = []
    for before, step in itertools.pairwise([0, *logged_steps(evaluated)]):
        if step // (steps // 4) > before // (steps // 4):
            expected.append(step)
    *points, last = scalars(evaluated)["eval/episodic_return"]
    assert [step for step, _ in points] == expected and len(expected) >= 3
    # The last of them is of the same policy, seed and number of episodes as the final one.
    assert points[-1] == last == (last[0], pytest.approx(summary(evaluated)["eval_return_mean"]))
    weights = checkpoint(evaluated)["agent"]
    for name, tensor in checkpoint(without)["agent"].items():
        assert torch.equal(tensor, weights[name]), name
    assert len(scalars(without)["eval/episodic_return"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("script", KINDS)
def test_it_starts_without_torch_dynamo(script, run):
    """Its import takes a second, a fifth of a run on CartPole, and only --compile needs it."""
    done = run(script, *short_run_flags(script), PYTHONPROFILEIMPORTTIME="1")
    assert "torch.optim" in done.stderr and "torch._dynamo" not in done.stderr


@pytest.mark.quick_for("ppo_clip", "ddpg")
@pytest.mark.parametrize("script", KINDS)
def test_the_default_run_dir(script, completed_run, tmp_path):
    completed_run(script, *short_run_flags(script), "--seed", 7, "--no-save-model")
    [run_dir] = (tmp_path / "runs").iterdir()
    assert run_dir.name.startswith(f"{summary(run_dir)['env_id']}__{script}__7__")
    assert (run_dir / "summary.json").exists() and not (run_dir / "policy.pt").exists()


@pytest.mark.slow
def test_a_machine_without_git(run, tmp_path):
    done = run("ppo_clip", *short_run_flags("ppo_clip"), "--run-dir", "r", PATH="")
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    assert config["git_commit"] is None


@pytest.mark.quick_for("ppo_clip")
def test_the_same_seed_gives_the_same_metrics_bit_for_bit(script, short_run):
    logs = []
    weights = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run_dir = short_run(script, "--seed", seed, run_dir=name)
        logged = scalars(run_dir)
        del logged["charts/SPS"]
        logs.append(logged)
        policy = torch.load(run_dir / "policy.pt", weights_only=True)
        weights.append(policy["layers"][0][0])
    assert logs[0] == logs[1] != logs[2]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.slow
@pytest.mark.parametrize("script", KINDS)
def test_killed_and_resumed(script, completed_run, start, tmp_path):
    run_dir = tmp_path / "r"
    total = 5 * short_run_steps(script)
    flags = ("--total-timesteps", total, "--checkpoint-interval", 0.01)
    process = start(script, *short_run_flags(script), *flags, "--run-dir", "r")
    wait_for(lambda: global_step(run_dir) > 0, 60, process)
    process.kill()
    process.wait()
    before = checkpoint(run_dir)["count"]
    assert 0 < before["global_step"] < total and not (run_dir / "summary.json").exists()

    completed_run(script, "--resume", "r")
    after = summary(run_dir)
    assert after["global_step"] >= total and after["episodes"] > before["episodes"]
    assert after["wall_s"] > before["wall_s"]
    steps = logged_steps(run_dir)
    assert steps == sorted(set(steps))  # nothing twice
    assert before["global_step"] in steps  # nothing lost

    again = completed_run(script, "--resume", "r")
    assert "finished" in again.stdout and summary(run_dir) == after

    completed_run(script, "--resume", "r", "--total-timesteps", total + 500)
    assert summary(run_dir)["global_step"] >= total + 500


@pytest.mark.quick_for("ppo_clip")
def test_a_resumed_run_goes_on_from_the_checkpoints_state(
    script, short_run, completed_run, tmp_path
):
    """With a step size of zero the weights stay; the optimisers and the statistics go on."""
    run_dir = short_run(script)
    before = checkpoint(run_dir)
    # Until an episode ends: dagger.py has 16 environments of 500 steps each.
    more = 9000 if script == "dagger" else 1500
    flags = ("--total-timesteps", before["count"]["global_step"] + more)
    flags += ("--policy-lr", 0, "--q-lr", 0) if script in OFF_POLICY else ("--learning-rate", 0)
    for name in ("r1", "r2"):
        shutil.copytree(run_dir, tmp_path / name)
        completed_run(script, "--resume", name, *flags)
    after = checkpoint(tmp_path / "r1")
    again = checkpoint(tmp_path / "r2")
    going_on = ("discounted_sum_stats", "return_stats", "obs_stats")  # they have seen more
    if script == "trpo":
        going_on += ("actor", "log_std")  # whose step has no size
    if script.startswith("ppo"):
        going_on += ("actor.0.bias",)  # it takes back what a new mean would change
    for name, tensor in before["agent"].items():
        if not name.startswith(going_on):
            assert torch.equal(tensor, after["agent"][name]), name
    for name in before:
        if "optimizer" in name:
            assert 0 < steps_taken(before[name]) < steps_taken(after[name])
    assert not torch.equal(before["rng"], after["rng"])
    assert torch.equal(after["rng"], again["rng"])
    assert after["last100"] == again["last100"]
    assert after["count"]["episodes"] > before["count"]["episodes"]


@pytest.mark.slow
@pytest.mark.parametrize("script", ["reinforce", "ppo_clip", "sac", "dagger"])
def test_the_random_state_is_restored(script, short_run, completed_run, tmp_path):
    """Another random state in the checkpoint, other actions or minibatches after it.

    ppo_ddp.py's checkpoint is the first process's. All draw by a new seed: test_data_parallel.py.
    """
    run_dir = short_run(script)
    shutil.copytree(run_dir, tmp_path / "other")
    torch.manual_seed(12345)
    state = checkpoint(run_dir) | {"rng": torch.get_rng_state()}
    torch.save(state, tmp_path / "other" / "checkpoint.pt")
    for name in ("r", "other"):
        total = 2 * short_run_steps(script)
        completed_run(script, "--resume", name, "--total-timesteps", total)
    one = checkpoint(run_dir)["agent"]
    other = checkpoint(tmp_path / "other")["agent"]
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.quick_for("ppo_clip")
@pytest.mark.parametrize(
    "script, number",
    [
        *[(script, signal.SIGINT) for script in KINDS],
        pytest.param("ppo_clip", signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_interrupted(script, completed_run, start, tmp_path, number):
    run_dir = tmp_path / "r"
    flags = (*short_run_flags(script), "--total-timesteps", 10_000_000)
    process = start(script, *flags, "--run-dir", "r", "--checkpoint-interval", 3600)
    wait_for(lambda: logged_bytes(run_dir) > SOME_ITERATIONS, 60, process)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + number and "--resume r" in stdout
    assert stderr.strip() == "finishing this iteration; again to quit at once"
    step = global_step(run_dir)
    assert step > 0 and logged_steps(run_dir)[-1] == step
    total = max(step + 1, short_run_steps(script))  # on a busy machine it has not come far
    completed_run(script, "--resume", "r", "--total-timesteps", total, "--eval-episodes", 2)
    assert summary(run_dir)["global_step"] > step


@pytest.mark.quick_for("ppo_clip")
@pytest.mark.parametrize("script", KINDS)
def test_target_return_stops_the_run(script, short_run):
    target = -1e9 if script in OFF_POLICY else 20
    flags = ("--total-timesteps", 1_000_000, "--target-return", target)
    flags += ("--updates-per-step", 0.01) if script in OFF_POLICY else ()
    result = summary(short_run(script, *flags))
    assert result["train_return_last100"] >= target and result["episodes"] >= 100
    assert result["global_step"] == result["solved_at_step"] < 100_000
    assert 0 < result["solved_at_s"] <= result["wall_s"]


def test_a_loss_that_is_not_finite_stops_the_run(script, run, tmp_path):
    env_id = "tiny_envs:BrokenBox-v0" if script in OFF_POLICY else "tiny_envs:Broken-v0"
    flags = short_run_flags(script, env_id, tmp_path)
    done = run(script, *flags, "--checkpoint-interval", 0, "--run-dir", "r")
    assert done.returncode == 1
    assert "became nan" in done.stderr and "Traceback" not in done.stderr
    assert all(tensor.isfinite().all() for tensor in checkpoint(tmp_path / "r")["agent"].values())
    assert logged_steps(tmp_path / "r")  # the log is on disk


@pytest.mark.quick_for("reinforce", "ppo_clip", "sac", "dagger")
@pytest.mark.parametrize("env_id", ["tiny_envs:IdentityDiscrete-v0", "tiny_envs:IdentityBox-v0"])
def test_policy_pt_is_the_network(module, script, short_run, env_id):
    """The file alone, against the checkpoint's weights run through the script's own network."""
    skip_discrete_off_policy(script, env_id)
    run_dir = short_run(script, env_id=env_id)
    envs = module.make_envs(env_id, 1)
    agent = agent_for(module, envs)
    agent.load_state_dict(checkpoint(run_dir)["agent"])
    policy = module.load_policy(run_dir / "policy.pt")
    obs_dim = envs.single_observation_space.shape[0]
    obs = 3 * np.random.default_rng(0).normal(size=(50, obs_dim))
    with torch.no_grad():
        expected = most_probable(agent, torch.as_tensor(obs, dtype=torch.float32))
    np.testing.assert_allclose(policy(obs), expected, rtol=1e-5, atol=1e-6)
    assert all(envs.single_action_space.contains(action) for action in policy(obs))
    saved = torch.load(run_dir / "policy.pt", weights_only=True)
    assert saved["env_id"] == env_id and saved["action_space"] == str(envs.single_action_space)

    returns, _ = module.evaluate(policy, module.make_envs(env_id, 5), module.derive_seed(1, 1))
    assert abs(returns.mean() - summary(run_dir)["eval_return_mean"]) < 1e-6


def most_probable(agent, obs) -> np.ndarray:
    """The deterministic policy, by each script's own network."""
    out = agent.actor(agent.normalize(obs))
    if type(agent).__module__ == "sac":  # a tanh of the mean, which the deviation follows
        return agent.to_env(out[..., : len(agent.low)].tanh())
    if not hasattr(agent, "discrete"):  # ddpg.py's, which ends in a tanh
        return agent.to_env(out)
    return agent.to_env(out.argmax(-1) if agent.discrete else out)


@pytest.mark.parametrize("module", modules_defining("load_policy"))
def test_a_policy_file_that_carries_code_is_refused(module, tmp_path):
    torch.save({"layers": RunsCodeWhenUnpickled()}, tmp_path / "policy.pt")
    with pytest.raises(pickle.UnpicklingError):
        module.load_policy(tmp_path / "policy.pt")


@pytest.mark.slow
@pytest.mark.parametrize("script", ["ppo_clip", "sac", "dagger"])
def test_a_video_of_an_evaluation_episode(script, short_run):
    run_dir = short_run(script, "--capture-video", SDL_VIDEODRIVER="dummy")
    [video] = (run_dir / "videos").glob("*.mp4")
    assert video.stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize("script", ["ppo_clip", "sac", "dagger"])
def test_wandb_offline(script, short_run):
    run_dir = short_run(script, "--track", WANDB_MODE="offline")
    [log] = run_dir.glob("wandb/offline-run-*/run-*.wandb")
    for tag in ("charts/episodic_return", "charts/SPS", "eval/episodic_return"):
        assert tag.encode() in log.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("script", ["reinforce", "ppo_clip", "trpo", "td3", "sac", "dagger"])
def test_compile_changes_nothing_but_the_speed(script, run, short_run, tmp_path):
    env_id = "tiny_envs:IdentityBox-v0"
    total = ("--total-timesteps", 300 if script in OFF_POLICY else 2048)
    plain = short_run(script, *total, run_dir="plain", env_id=env_id)
    flags = (*short_run_flags(script, env_id, tmp_path), *total, "--run-dir", "compiled")
    done = run(script, *flags, "--compile", TORCH_LOGS="output_code")
    assert done.returncode == 0 and "Output code" in done.stderr, done.stderr[-2000:]
    for name, tensor in checkpoint(tmp_path / "compiled")["agent"].items():
        if script == "trpo" and name.startswith("actor"):
            continue  # its gradient is differentiated again, which compiled code cannot be
        if tensor.dim() == 2:  # each layer of each network is in what was compiled
            assert f"({tensor.shape[0]}, {tensor.shape[1]})" in done.stderr, name
    losses = [tag for tag in scalars(plain) if tag.startswith("losses/")]
    assert losses
    for tag in losses:
        compiled = first_value(tmp_path / "compiled", tag)
        assert compiled == pytest.approx(first_value(plain, tag), rel=1e-4, abs=1e-3), tag


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("flags", [(), ("--compile",)])
def test_cuda(script, short_run, completed_run, flags):
    cpu = short_run(script, "--no-cuda", run_dir="cpu")
    gpu = short_run(script, *flags, run_dir="gpu")
    assert config(gpu)["device"] == "cuda"
    step = summary(gpu)["global_step"]
    completed_run(script, "--resume", "gpu", "--total-timesteps", step + 1)
    assert scalars(cpu).keys() == scalars(gpu).keys()
    if script in ON_POLICY:  # other random numbers, the same task
        ratio = first_value(cpu, "losses/entropy") / first_value(gpu, "losses/entropy")
        assert abs(ratio - 1) < 0.3


@pytest.mark.quick_for("ppo_clip", "ddpg")
@pytest.mark.parametrize("script", [s for s in (*ON_POLICY, "dagger") if s != "trpo"])
def test_the_step_size_is_annealed(script, short_run):
    flags = ("--learning-rate", 0.01)
    annealed = short_run(script, *flags, run_dir="annealed")
    constant = short_run(script, *flags, "--no-anneal-lr", run_dir="constant")
    values = scalar_values(constant, "charts/learning_rate")
    assert {round(value, 6) for value in values} == {0.01}
    start = 0  # an iteration's step size is set at its start
    for step, value in scalars(annealed)["charts/learning_rate"]:
        assert abs(value - 0.01 * (1 - start / 8192)) < 1e-6
        start = step


@pytest.mark.parametrize("script", ["a2c", "ppo_clip", "ppo_kl", "dagger"])
def test_rollouts_of_one_step_where_all_environments_are_reset_together(
    script, completed_run, tmp_path
):
    """Episodes of a fixed length end in the same step: the next rollout holds no step at all."""
    flags = environment_flags(script, "tiny_envs:IdentityBox-v0", tmp_path)
    flags += ("--num-steps", 1, "--num-envs", 8, "--total-timesteps", 400, "--eval-episodes", 2)
    flags += ("--num-minibatches", 1) if script.startswith("ppo") else ()
    flags += ("--num-updates", 2) if script == "dagger" else ()
    completed_run(script, *flags, "--run-dir", "r")
    result = summary(tmp_path / "r")
    assert result["global_step"] == 400 and result["episodes"] == 40


@pytest.mark.parametrize("script", ["ppo_clip", "ppo_ddp"])
@pytest.mark.parametrize("target_kl, epochs", [(1e9, 3), (1e-9, 1)])
def test_target_kl_ends_an_update_after_its_first_epoch(script, short_run, target_kl, epochs):
    run_dir = short_run(script, "--target-kl", target_kl, "--update-epochs", 3)
    iterations = len(logged_steps(run_dir))
    minibatches = 4
    assert steps_taken(checkpoint(run_dir)["optimizer"]) == epochs * minibatches * iterations


@pytest.mark.parametrize("script", ["ppo_clip", "ppo_kl", "ppo_ddp"])
def test_the_observation_statistics_of_ppo_are_those_of_the_first_half(
    script, completed_run, tmp_path
):
    completed_run(script, "--total-timesteps", 8192, "--eval-episodes", 1, "--run-dir", "r")
    steps = logged_steps(tmp_path / "r")
    assert len(steps) > 3
    first_half = next(step for step in steps if step >= 4096)
    assert checkpoint(tmp_path / "r")["agent"]["obs_stats.count"] == first_half


@pytest.mark.parametrize("flags, epochs", [((), 1), (("--no-early-stop",), 3)])
def test_early_stop_ends_an_update_of_ppo_kl_after_its_first_epoch(short_run, flags, epochs):
    run_dir = short_run("ppo_kl", "--target-kl", 1e-9, "--update-epochs", 3, *flags)
    iterations = len(logged_steps(run_dir))
    minibatches = 4
    assert steps_taken(checkpoint(run_dir)["optimizer"]) == epochs * minibatches * iterations


@pytest.mark.slow
def test_the_kl_coefficient_of_ppo_kl_follows_the_rule_and_survives_a_resume(
    short_run, completed_run
):
    target = 0.003  # which an update meets, misses and passes
    run_dir = short_run("ppo_kl", "--target-kl", target)
    completed_run("ppo_kl", "--resume", "r", "--total-timesteps", 40_000, "--eval-episodes", 2)
    factors = []
    for kl in scalar_values(run_dir, "losses/kl"):
        if kl >= 1.5 * target:
            factors.append(2)
        elif kl <= target / 1.5:
            factors.append(0.5)
        else:
            factors.append(1)
    coef = scalar_values(run_dir, "losses/kl_coef")
    assert coef[0] == 1
    assert coef[1:] == [before * factor for before, factor in zip(coef, factors)][:-1]
    assert len(coef) >= 19 and len(set(factors)) == 3
    saved = checkpoint(run_dir)["kl_penalty"]["coef"]
    assert saved == coef[-1] * factors[-1]


def test_ppo_kl_logs_the_exact_kl_between_the_policies_before_and_after_an_update(
    completed_run, tmp_path
):
    """Where every observation is the same, two checkpoints tell it: means and σ have both moved."""
    run_dir = tmp_path / "r"
    flags = ("--env-id", "tiny_envs:Blind-v0", "--eval-episodes", 2, "--learning-rate", 0.01)
    flags += ("--no-norm-obs", "--no-anneal-lr", "--total-timesteps", 2048)
    completed_run("ppo_kl", *flags, "--run-dir", "r")
    before = checkpoint(run_dir)
    total = before["count"]["global_step"] + 1
    completed_run("ppo_kl", "--resume", "r", "--total-timesteps", total)
    policies = []
    for state in (before, checkpoint(run_dir)):
        agent = ppo_kl.Agent(Box(-1, 1, (2,)), Box(-1, 1, (2,)))
        agent.load_state_dict(state["agent"])
        policies.append(Normal(agent.actor(torch.ones(2)), agent.log_std.exp()))
    old, new = policies
    expected = kl_divergence(old, new).sum().item()
    logged = scalar_values(run_dir, "losses/kl")[-1]
    assert expected > 0.001 and abs(logged / expected - 1) < 1e-3
    only_the_means = kl_divergence(old, Normal(new.mean, old.stddev)).sum().item()
    assert abs(only_the_means / expected - 1) > 0.05


@pytest.mark.parametrize("env_id", ["CartPole-v1", "tiny_envs:IdentityBox-v0"])
@pytest.mark.parametrize("flag", ["--reward-to-go", "--no-reward-to-go"])
def test_reinforce_baseline_without_one_is_reinforce_to_the_last_digit(short_run, env_id, flag):
    flags = (flag, "--learning-rate", 2e-3, "--num-envs", 16)
    baseline = ("--baseline", "none")
    one_dir = short_run("reinforce", *flags, run_dir="one", env_id=env_id)
    other_dir = short_run("reinforce_baseline", *flags, *baseline, run_dir="other", env_id=env_id)
    one = checkpoint(one_dir)
    other = checkpoint(other_dir)
    assert one["count"]["global_step"] == other["count"]["global_step"]
    assert one["last100"] == other["last100"]
    for name, tensor in one["agent"].items():
        assert torch.equal(tensor, other["agent"][name]), name
    assert one["agent"]["obs_stats.count"] > 8000


CLOCK = ("--env-id", "tiny_envs:Clock-v0", "--total-timesteps", 8192, "--eval-episodes", 2)


def test_the_learned_baseline_explains_the_returns_it_was_not_fitted_to(completed_run, tmp_path):
    """Where the observation tells the return. The first iteration's comes before any fit."""
    completed_run("reinforce_baseline", *CLOCK, "--baseline", "value", "--run-dir", "r")
    explained = scalar_values(tmp_path / "r", "losses/explained_variance")
    assert abs(explained[0]) < 0.1 and explained[-1] > 0.95
    state = checkpoint(tmp_path / "r")["optimizer"]["state"]
    agent = reinforce_baseline.Agent(Box(-1, 1, (1,)), Discrete(2))
    steps = {"actor": set(), "critic": set()}
    for number, (name, _) in enumerate(agent.named_parameters()):
        network = name.split(".")[0]
        if number in state and network in steps:
            steps[network].add(int(state[number]["step"]))
    # The critic's fit, of five epochs, leaves the actor alone.
    assert steps == {"actor": {len(explained)}, "critic": {5 * len(explained)}}


def test_the_mean_baseline_takes_the_noise_away_where_all_returns_are_the_same(
    completed_run, tmp_path
):
    """The advantage is 0, the policy stays what it was."""
    spread = {}
    for baseline in ("mean", "none"):
        flags = ("--baseline", baseline, "--run-dir", baseline)
        completed_run("reinforce_baseline", *CLOCK, *flags)
        entropy = scalar_values(tmp_path / baseline, "losses/entropy")
        spread[baseline] = max(entropy) - min(entropy)
    assert spread["mean"] < 1e-3 < spread["none"]


@pytest.mark.quick_for("reinforce", "ppo_clip", "trpo")
@pytest.mark.parametrize("env_id", ["CartPole-v1", "tiny_envs:IdentityBox-v0"])
@pytest.mark.parametrize("module", modules_defining("Agent", "gaussian_policy"))
def test_an_update_sees_what_the_actions_were_sampled_from(module, train_here, monkeypatch, env_id):
    """The observation statistics must not change between a rollout and its update."""
    normalize = module.Agent.normalize
    sampled = []
    updates = []

    def recording(agent, obs):
        x = normalize(agent, obs)
        if obs.dim() == 2:  # a step of the rollout
            sampled.append(x)
        else:
            updates.append(torch.equal(x[: len(sampled)], torch.stack(sampled)))
            sampled.clear()
        return x

    monkeypatch.setattr(module.Agent, "normalize", recording)
    train_here(module, env_id=env_id, total_timesteps=8192, eval_episodes=2)
    assert len(updates) >= 3 and all(updates)
