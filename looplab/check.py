"""Builds an experiment, runs one step and prints the plan; writes nothing.

python -m looplab.check +experiment=NAME ...
"""

from __future__ import annotations

from omegaconf import DictConfig

from looplab.cli.main import run
from looplab.cli.shutdown import leave
from looplab.cli.startup import import_tensorflow
from looplab.config import Said, check, diff
from looplab.runs.directory import choose


def main() -> int:
    """Composes, checks, builds, runs one step, and prints the plan; writes nothing.

    Returns:
        The exit code, as in `looplab.train`: 0 if training could begin.
    """
    return run(_check)


def _check(composed: DictConfig, experiment: str, said: Said) -> None:
    config = check(composed, said)
    run_dir = choose(config.run_dir, config.resume, experiment)
    config = check(composed, said, run_dir)
    diff.refuse(run_dir, diff.written(composed, experiment), config.allow_change)
    import_tensorflow()
    from looplab import experiment as experiments
    from looplab.loggers import Console

    with Console(2) as console:
        console.begin(experiments.rehearse(config))
        console.say("nothing was written")


if __name__ == "__main__":
    leave(main())
