import json
import time
from pathlib import Path

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

STEPS = np.arange(1, 101) * 10  # of a run's points, one a bin


@pytest.fixture
def finished_run(tmp_path):
    """Writes a finished run: its summary, the returns it logged, and other scalars by tag."""

    def finished_run(
        env_id, name, seed, returns=(), steps=STEPS, seconds=STEPS, scalars=None, **summary
    ) -> Path:
        folder = tmp_path / f"{env_id}__{name}__{seed}"
        folder.mkdir()
        (folder / "summary.json").write_text(json.dumps({"seed": seed, **summary}))
        if len(returns):
            with SummaryWriter(folder) as writer:
                now = time.time()
                for step, value, after in zip(steps, returns, seconds):
                    writer.add_scalar("charts/episodic_return", value, step, now + after)
                for tag, values in (scalars or {}).items():
                    for step, value in enumerate(values):
                        writer.add_scalar(tag, value, step)
        return folder

    return finished_run


@pytest.fixture
def run_ending_with(finished_run):
    """Writes a finished run whose returns are 0 and then, over the last tenth, `final`."""

    def run_ending_with(env_id, name, seed, final, **options) -> Path:
        return finished_run(env_id, name, seed, np.where(STEPS > 900, final, 0), **options)

    return run_ending_with
