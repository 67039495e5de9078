"""Command line: `python -m benchmarks run|compare|speed`, each with --help."""

import sys
from typing import Annotated

from tyro.conf import subcommand

from .command_line import parse, report_errors
from .options import CompareOptions, RunOptions, SpeedOptions

COMMANDS = (
    Annotated[RunOptions, subcommand("run")]
    | Annotated[CompareOptions, subcommand("compare")]
    | Annotated[SpeedOptions, subcommand("speed")]
)


def execute(options: RunOptions | CompareOptions | SpeedOptions) -> int:
    """Execute a command and return its exit status. Only that command's module is imported."""
    if isinstance(options, RunOptions):
        from .run import run_suite

        return run_suite(options)
    if isinstance(options, CompareOptions):
        from .compare import compare_runs

        return compare_runs(options)
    from .speed import measure_scripts

    return measure_scripts(options)


def main() -> int:
    options = parse(COMMANDS, "python -m benchmarks")
    return report_errors(lambda: execute(options), "benchmarks")


if __name__ == "__main__":
    sys.exit(main())
