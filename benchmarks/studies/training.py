"""Short trainings inside a study, for what a run of the suite does not keep."""

import contextlib
import io
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType


@contextlib.contextmanager
def trained(script: ModuleType, **flags) -> Iterator[Path]:
    """Train a script in this process, on the CPU; yields the run's folder, which is gone when the block ends."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with tempfile.TemporaryDirectory() as folder:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                script.train(script.Args(**flags, eval_episodes=1, cuda=False, run_dir=str(Path(folder, "run"))))
        finally:
            for number, handler in handlers.items():  # the script has set its own
                signal.signal(number, handler)
        yield Path(folder, "run")
