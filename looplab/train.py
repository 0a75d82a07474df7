"""Trains an experiment, or continues a run.

python -m looplab.train +experiment=NAME [group=option] [key=value] ...
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from looplab.cli.main import run
from looplab.cli.shutdown import leave
from looplab.cli.startup import import_tensorflow
from looplab.config import Config, Said, check, diff
from looplab.errors import ConfigurationError, RunInUse, is_abort, shown
from looplab.runs import crash_report, wall_time
from looplab.runs.agreement import Alone
from looplab.runs.directory import choose, of_experiment, outcome_of, read_outcome


def main() -> int:
    """Composes, checks and trains.

    Returns:
        The exit code: 0 done, 1 an error in user code, 2 configuration, 3 a checkpoint, 5 data, 6
        storage, 7 the run directory is in use, 130 interrupted.
    """
    failures: list[dict[str, Any]] = []
    code = run(partial(_train, failures))
    if failures and failures[-1].get("exit_code") == code:
        print(crash_report.line(failures[-1]), file=sys.stderr)
    return code


def _train(failures: list[dict[str, Any]], composed: DictConfig, experiment: str, said: Said) -> None:
    config = check(composed, said)
    written = diff.written(composed, experiment)
    with _run_directory(config, experiment) as run_dir, _noted(run_dir, failures):
        config = check(composed, said, run_dir)  # keys may use it
        diff.refuse(run_dir, written, config.allow_change)
        if config.run_dir is None and config.resume == "auto":
            _name_unfinished(run_dir, written)
        with wall_time.starting() as start, start.time("start/import"):
            import_tensorflow()
            from looplab import experiment as experiments

        experiments.run(config, run_dir, written)


@contextmanager
def _noted(run_dir: Path, failures: list[dict[str, Any]]) -> Iterator[None]:
    """Records the outcome of a failure while the run directory is held, even before training begins."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, ConfigurationError) and not is_abort(error):
            failures.append(outcome_of(run_dir, error))
        elif (outcome := read_outcome(run_dir)) is not None:  # without one, training had not begun
            failures.append(outcome)
        raise


@contextmanager
def _run_directory(config: Config, experiment: str) -> Iterator[Path]:
    """Chooses a run directory and keeps other processes out of it."""
    from looplab.runs.lock import held

    with ExitStack() as stack:
        while True:
            run_dir = Alone().decide("run directory", choose(config.run_dir, config.resume, experiment))
            try:
                stack.enter_context(held(run_dir))
                break
            except RunInUse:
                if config.run_dir is not None or config.resume == "latest":
                    raise  # otherwise another process took the same name within this second
        yield run_dir


def _name_unfinished(run_dir: Path, written: dict[str, object]) -> None:
    """Names the newest run of the same configuration that was not finished."""
    from looplab.runs.lock import is_held

    for earlier in of_experiment(run_dir.parent)[:20]:
        outcome = read_outcome(earlier)
        finished = outcome is not None and outcome.get("status") in ("finished", "stopped")
        if not finished and diff.is_same(earlier, written) and not is_held(earlier):
            known = f"an unfinished run has the same configuration: {earlier}"
            print(shown(f"{known}; run_dir={earlier} continues it"))
            return


if __name__ == "__main__":
    leave(main())
