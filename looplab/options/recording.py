"""The settings for what a run records, and for what may change when it resumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from looplab.errors import ConfigurationError, nearest
from looplab.interval import Interval
from looplab.options.checkpoint_policy import Policy
from looplab.options.paths import local
from looplab.protocols import Logger

CHANGES = ("topology", "config", "data", "code", "callbacks")  # the values of `allow_change`


@dataclass(frozen=True)
class Recording:
    """The settings for what a run records.

    Attributes:
        run_dir: The directory that records the run, and from which it resumes; None writes nothing.
        resume: `"auto"` continues the run in `run_dir`, `"never"` refuses to.
        allow_change: Members of `CHANGES` that may differ in a resumed run. Callbacks without a state may
            always differ.
        checkpoint: When to save checkpoints, and which to keep.
        log_every: The interval of steps whose values are logged.
        loggers: Loggers beside `metrics.jsonl`, TensorBoard and the console.
        hyperparameters: Values by which loggers compare runs, nested or flat.
    """

    run_dir: Path | None
    resume: str
    allow_change: tuple[str, ...]
    checkpoint: Policy
    log_every: Interval
    loggers: tuple[Logger, ...]
    hyperparameters: Mapping[str, Any]

    @classmethod
    def read(
        cls,
        run_dir: str | Path | None,
        resume: str,
        allow_change: Sequence[str],
        checkpoint: Policy | None,
        log_every: str | int,
        loggers: Sequence[Logger],
        hyperparameters: Mapping[str, Any] | None,
    ) -> Self:
        """Reads and checks the arguments of a trainer, which have the names of the attributes.

        Raises:
            ConfigurationError: If an argument is not valid.
        """
        directory = local(run_dir, "run_dir") if run_dir is not None else None
        interval = Interval.parse(log_every, what="log_every")
        if interval.wall_clock:
            raise ConfigurationError(
                f"log_every: {log_every!r} is wall-clock time, but logs must be reproducible. Use steps, "
                "epochs or examples."
            )
        strangers = [type(logger).__name__ for logger in loggers if not isinstance(logger, Logger)]
        if strangers:
            raise ConfigurationError(f"loggers: {', '.join(strangers)} is not a looplab.Logger.")
        for name in allow_change:
            if name not in CHANGES:
                raise ConfigurationError(
                    f"allow_change: {name!r} is not one of {', '.join(CHANGES)}.{nearest(name, CHANGES)}"
                )
        return cls(
            directory,
            resume,
            tuple(allow_change),
            checkpoint or Policy(),
            interval,
            tuple(loggers),
            dict(hyperparameters or {}),
        )
