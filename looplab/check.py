"""`python -m looplab.check +experiment=NAME ...`: the words of `looplab.train`, for a rehearsal."""

from __future__ import annotations

from omegaconf import DictConfig

from looplab import command
from looplab.config import changes, check
from looplab.leaving import leave
from looplab.runs.directory import choose


def main() -> int:
    """Composes, checks, builds, runs one step, and prints the plan; writes nothing.

    Returns:
        The exit code, as of `looplab.train`: 0 if training could begin.
    """
    return command.run(_check)


def _check(composed: DictConfig, experiment: str) -> None:
    config = check(composed)
    run_dir = choose(config.run_dir, config.resume, experiment)
    changes.refuse(run_dir, changes.written(composed, experiment), config.allow_change)
    command.import_tensorflow()
    from looplab import experiment as experiments
    from looplab.loggers import Console

    with Console(2) as console:
        console.begin(experiments.rehearse(config))
        console.say("nothing was written")


if __name__ == "__main__":
    leave(main())
