"""Find the bug: ten known pitfalls, each planted in a copy of a script.

A bug is a piece of a script and what stands in its place. Each is of a kind that has
been found in public repositories.
"""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from . import BadInput, read, script_text

PENDULUM = ("--env-id", "Pendulum-v1")


@dataclass(frozen=True)
class Bug:
    """A piece of a script's text, which must be there once, and what stands in its place.

    flags           of the runs that measured what it spoils
    explanation     what is wrong, and what it does to learning
    caught_by       a test of this project that fails with it
    """

    script: str
    old: str
    new: str
    flags: tuple[str, ...]
    explanation: str
    caught_by: str


BUGS = [
    Bug(
        script="reinforce",
        old="return -(log_prob * weight * valid).sum(0).mean()",
        new="return -(log_prob * weight * valid).sum() / valid.sum()",
        flags=("--env-id", "CartPole-v1", "--total-timesteps", "60000"),
        explanation=(
            "The sum over all steps is divided by the number of steps, and should be by that of "
            "episodes: log p(τ) is a sum over the steps of one trajectory, and the mean is over "
            "trajectories. So 1/N becomes 1 over the sum of the lengths, which is itself random. "
            "A batch of long episodes, which in CartPole are the good ones, counts less than a "
            "batch of short ones, and the estimate is no longer unbiased. The curve ends a little"
            " lower, which with three seeds cannot be told from chance: such a bug is found by a "
            "test, not by a curve."
        ),
        caught_by="test_math.py::test_reinforce_loss_equals_a_loop[reinforce-Discrete]",
    ),
    Bug(
        script="td3",
        old="self.to_tensor(terminated[valid]),",
        new="self.to_tensor((terminated | truncated)[valid]),",
        flags=(*PENDULUM, "--total-timesteps", "4000", "--learning-starts", "400"),
        explanation=(
            "The buffer marks a truncated step as terminated, so the target of the last step of "
            "every episode is its reward alone. A time limit is not in the observation: the "
            "critic sees the same state with and without a future, and learns something in "
            "between. Pendulum's episodes never terminate, so all that is marked is wrong. It is "
            "one step in 200; on each of three seeds the final evaluation is worse."
        ),
        caught_by="test_off_policy.py::"
        "test_every_transition_of_environments_that_end_at_different_times[td3]",
    ),
    Bug(
        script="ppo_clip",
        old="            actions.append(action)\n",
        new="            actions.append(action if self.agent.discrete else action.clamp(-1, 1))\n",
        flags=(*PENDULUM, "--total-timesteps", "80000"),
        explanation=(
            "The action that is remembered is the clipped one, and should be the one that the "
            "Gaussian has drawn. Its log-probability is that of another action. Where the policy "
            "draws beyond the bounds, it looks as if it had drawn the bound itself, so the score "
            "pulls the mean inwards and σ down, whatever the reward. Of three seeds on Pendulum, "
            "all learn later, and one does not learn at all. The environment gets the clipped "
            "action, but the policy must learn from what it drew."
        ),
        caught_by="test_rollout.py::TestAgent::test_the_stored_action_is_not_clipped[ppo_clip]",
    ),
    Bug(
        script="reinforce_baseline",
        old='"obs_std": agent.obs_stats.std,',
        new='"obs_std": agent.obs_stats.var,',
        flags=("--env-id", "CartPole-v1", "--total-timesteps", "60000"),
        explanation=(
            "Training is right, and so is its curve. But the saved policy divides observations by"
            " the variance, and in training the network has seen them divided by the deviation. "
            "So the evaluation shows the network inputs that it has never met. The curves are the"
            " same to the last digit, and the final evaluation is not: nothing that is logged in "
            "training could tell."
        ),
        caught_by="test_run.py::test_policy_pt_is_the_network[reinforce_baseline-"
        "tiny_envs:IdentityBox-v0]",
    ),
    Bug(
        script="dagger",
        old="""\
            labels.append(torch.tensor(label[valid]))

            action = self.agent.act(self.obs)
            by_expert = (torch.rand(self.envs.num_envs) < beta).numpy()
            action[by_expert] = label[by_expert]
""",
        new="""\

            action = self.agent.act(self.obs)
            by_expert = (torch.rand(self.envs.num_envs) < beta).numpy()
            action[by_expert] = label[by_expert]
            labels.append(torch.tensor(action[valid]))
""",
        flags=(*PENDULUM, "--total-timesteps", "10000"),
        explanation=(
            "The label that is stored is the action that was taken, and should be the expert's, "
            "whoever acts. In the first iteration the expert acts, and all is well. From then on "
            "the learner is taught to do what it does. D fills with its own mistakes, each of "
            "which is confirmed, and the more labels there are the less the expert's count."
        ),
        caught_by="test_dagger.py::"
        "test_every_visited_state_is_labelled_by_the_expert_whoever_acts[0.0]",
    ),
    Bug(
        script="a2c",
        old="""\
            # At a step that only resets, reward and valid are 0: the sum starts from 0 again.
            self.discounted_sum = reward[t] + self.gamma * self.discounted_sum * valid[t]
""",
        new="""\
            self.discounted_sum = reward[t] + self.gamma * self.discounted_sum
""",
        flags=("--env-id", "CartPole-v1", "--total-timesteps", "60000"),
        explanation=(
            "The discounted sum whose deviation scales the rewards runs on across the end of an "
            "episode: `valid` cut it. So it is no longer a stand-in for an episode's return, and "
            "its deviation says nothing about returns. In CartPole, where every reward is 1, the "
            "sum climbs to 1/(1−γ) = 100 once and stays there. After 60,000 steps its deviation "
            "is 11, where that of the sum of an episode is 30: critic and gradient see rewards "
            "nearly three times as large, so that the entropy bonus and --max-grad-norm mean "
            "something else. CartPole is learned all the same, and the curves hardly differ."
        ),
        caught_by="test_rollout.py::TestCollector::test_every_number_of_a_rollout[a2c]",
    ),
    Bug(
        script="trpo",
        old="has_next_value = (~terminated).to(value)",
        new="has_next_value = (~(terminated | truncated)).to(value)",
        flags=(*PENDULUM, "--total-timesteps", "80000"),
        explanation=(
            "A truncated episode is treated as a terminated one: the step at which the time is up"
            " gets no V(s_{t+1}). Its advantage then lacks all rewards that were still to come, "
            "and says that the last actions were very bad, or in Pendulum, whose rewards are "
            "negative, very good. λ carries this back over some twenty steps, and the critic is "
            "fitted to targets that jump with a clock that it does not see."
        ),
        caught_by="test_math.py::TestGae::test_by_hand[truncated--1.0-trpo]",
    ),
    Bug(
        script="ddpg",
        old="noise = args.exploration_noise * torch.randn_like(action)",
        new="noise = args.exploration_noise * torch.randn(act_dim, device=device)",
        flags=(
            *PENDULUM,
            "--total-timesteps",
            "4000",
            "--learning-starts",
            "400",
            "--num-envs",
            "4",
        ),
        explanation=(
            "One noise vector is drawn for all environments, and each should have its own. "
            "Parallel environments then explore in the same direction at the same time, so that N"
            " environments show less than N times as much. With one environment, the default, "
            "nothing is wrong, which is why such a bug lives long. With four on Pendulum the "
            "curves hardly differ."
        ),
        caught_by="test_off_policy.py::test_exploration_is_random_at_first_and_drawn_for_each_"
        "environment_and_dimension[ddpg]",
    ),
    Bug(
        script="ppo_kl",
        old="batch_old_log_std = old_log_std[valid]",
        new="batch_old_log_std = agent.log_std.detach().expand_as(batch_old_out)",
        flags=(*PENDULUM, "--total-timesteps", "80000"),
        explanation=(
            "The deviation of the old policy is a view of the parameter, and should be a copy: "
            "Adam changes log σ in place, and the old one with it. So the KL never sees a change "
            "of σ. The penalty holds back the mean alone, what is logged as KL is too small, and "
            "β follows the wrong number. With Discrete actions nothing is wrong. On Pendulum "
            "three seeds cannot tell the two curves apart: such a bug is found by a test, not by "
            "a curve."
        ),
        caught_by="test_train.py::test_every_gradient_of_ppo_kl[{}-Box]",
    ),
    Bug(
        script="sac",
        old="valid = np.flatnonzero(~self.done)  # indices of the environments that do more than "
        "reset",
        new="valid = np.arange(self.envs.num_envs)",
        flags=(*PENDULUM, "--total-timesteps", "4000", "--learning-starts", "400"),
        explanation=(
            "A step that only resets is stored as a transition: from the last observation of an "
            "episode to the first of the next, with the reward 0 and an action that was never "
            "carried out. The critic learns that the end of an episode leads to its start. Where "
            "the reward is negative, as in Pendulum, that is a free step. It is one step in 200: "
            "of three seeds two end worse, and the third has learned little either way. Where "
            "episodes have ten steps, it is one in eleven."
        ),
        caught_by="test_off_policy.py::"
        "test_every_transition_of_environments_that_end_at_different_times[sac]",
    ),
]


def find(number: int) -> Bug:
    """Bug 1 to 10; raises BadInput for another number."""
    if not 1 <= number <= len(BUGS):
        raise BadInput(f"there is no bug {number}: they are 1 to {len(BUGS)}")
    return BUGS[number - 1]


def planted(bug: Bug) -> str:
    """The script with the bug in it; raises ValueError if it no longer fits the script."""
    text = script_text(bug.script)
    found = text.count(bug.old)
    if found != 1:
        raise ValueError(f"{bug.script}.py has {found} times, and should have once: {bug.old!r}")
    return text.replace(bug.old, bug.new)


def changed_lines(bug: Bug) -> list[int]:
    """The numbers of the lines that the bug has changed or put in."""
    before = script_text(bug.script).splitlines()
    after = planted(bug).splitlines()
    numbers = []
    for kind, _, _, first, last in difflib.SequenceMatcher(None, before, after).get_opcodes():
        if kind in ("replace", "insert"):
            numbers += [line for line in range(first, last) if after[line].strip()]
    return [number + 1 for number in numbers]


def is_found(number: int, answer: str) -> bool:
    """Whether FILE:LINE names the bug; raises BadInput if it names no line of the bug's file."""
    parts = re.fullmatch(r"(.+):(\d+)", answer)
    if parts is None:
        raise BadInput(f"--answer {answer} is not FILE:LINE, such as bug_{number}.py:123")
    bug = find(number)
    path = Path(parts[1])
    if read(path) != planted(bug):
        raise BadInput(f"{path} is not bug {number} as it was written: write it anew")
    line = int(parts[2])
    length = len(planted(bug).splitlines())
    if not 1 <= line <= length:
        raise BadInput(f"{path} has lines 1 to {length}, not {line}")
    return line in changed_lines(bug)
