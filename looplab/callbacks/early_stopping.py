"""Stops training when a value no longer improves, or has reached a threshold."""

from __future__ import annotations

import logging
import math
from typing import Any

from looplab.callbacks.base import Callback, EpochEvent, EvaluateEvent, Event, StepEvent
from looplab.errors import ConfigurationError
from looplab.options.directions import direction, guessed, is_guess, rises
from looplab.protocols import Controls, Values
from looplab.targets import configurable

_log = logging.getLogger("looplab")


@configurable
class EarlyStopping(Callback):
    """Stops when a monitored value has not improved for a while; arguments as in Keras and Lightning.

    It counts evaluations of the monitor, at epochs or at any other interval, and the steps at which a
    callback logs it. looplab always keeps the best checkpoint. If you start a stopped run again, it stops
    again; with more patience it continues.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 0,
        min_delta: float = 0.0,
        mode: str = "auto",
        baseline: float | None = None,
        start_from_epoch: int = 0,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
        check_finite: bool = True,
    ) -> None:
        """Sets the monitor and the conditions.

        Args:
            monitor: The name of a value: `val_<metric>` or `<set>_<metric>` of an evaluation, `<metric>` of a
                training epoch.
            patience: The number of evaluations in a row without improvement after which it stops; 0 means 1.
            min_delta: The smallest change that counts as an improvement.
            mode: `"min"`, `"max"`, or `"auto"`: the name decides, as in `CheckpointPolicy`.
            baseline: Values that are not better than this do not reset the patience.
            start_from_epoch: The number of epochs before the first evaluation counts.
            stopping_threshold: Stop once the value is better than this.
            divergence_threshold: Stop once the value is worse than this.
            check_finite: Whether to stop once the value is NaN or infinite. Such a value is never an
                improvement.

        Raises:
            ConfigurationError: If a value is out of its range.
        """
        if patience < 0 or start_from_epoch < 0 or min_delta < 0:
            raise ConfigurationError(
                "EarlyStopping: patience, min_delta and start_from_epoch cannot be negative, got "
                f"{patience}, {min_delta} and {start_from_epoch}."
            )
        if mode not in ("auto", "min", "max"):
            raise ConfigurationError(f"EarlyStopping.mode: {mode!r} is not one of 'auto', 'min', 'max'.")
        self.monitors = (monitor,)
        self._monitor, self._patience, self._min_delta = monitor, max(patience, 1), min_delta
        self._mode = mode
        self._sign = 1 if rises(monitor, mode) else -1
        self._baseline, self._start = baseline, start_from_epoch
        self._enough, self._too_bad, self._check_finite = (
            stopping_threshold,
            divergence_threshold,
            check_finite,
        )
        self._forget()

    def _forget(self) -> None:
        self._best: float | None = None
        self._best_step = self._seen_step = self._wait = 0
        self._last: float | None = None

    def on_check(self, event: Event) -> None:
        """See `Callback`: warns of a direction that is a guess."""
        if is_guess(self._monitor, self._mode):
            _log.warning(guessed(self._monitor, "EarlyStopping.mode"))

    def plan(self, event: Event) -> list[tuple[str, str]]:
        """See `Callback`."""
        return [
            ("stopping", f"EarlyStopping: {direction(self._monitor, self._mode)}, patience {self._patience}")
        ]

    def on_train_begin(self, event: Event, controls: Controls) -> None:
        """See `Callback`: a stopped run stops again."""
        if event.step == 0:
            self._forget()
        self._stop(controls)

    def on_evaluate(self, event: EvaluateEvent, controls: Controls) -> None:
        """See `Callback`."""
        self._see(event, event.monitors, controls)

    def on_epoch_end(self, event: EpochEvent, controls: Controls) -> None:
        """See `Callback`: values of training are known only at the end of an epoch."""
        self._see(event, event.values, controls)

    def on_logged(self, event: StepEvent, controls: Controls, values: Values) -> None:
        """Called with the values that callbacks have logged in `on_step`."""
        self._see(event, values, controls)

    def on_train_end(self, event: Event, controls: Controls) -> None:
        """See `Callback`: warns if the monitor never had a value."""
        if self._last is None and event.epoch > self._start:
            _log.warning(
                "EarlyStopping: %r never had a value, so it could not stop the run. It looks after each "
                "evaluation and each epoch, and at the steps at which a callback logs the value in on_step.",
                self._monitor,
            )

    def _see(self, event: Event, values: Values, controls: Controls) -> None:
        late = event.epoch > self._start
        if late and self._monitor in values and event.step != self._seen_step:
            self._count(values[self._monitor], event.step)
            self._stop(controls)

    def _count(self, value: float, step: int) -> None:
        self._last, self._seen_step = value, step
        self._wait += 1
        if math.isfinite(value) and self._better(value, self._best, self._min_delta):
            self._best, self._best_step = value, step
            if self._better(value, self._baseline, self._min_delta):
                self._wait = 0

    def _better(self, value: float, than: float | None, by: float = 0.0) -> bool:
        return than is None or self._sign * (value - than) > by

    def _stop(self, controls: Controls) -> None:
        reason = self._reason()
        if reason:
            controls.stop(reason)

    def _reason(self) -> str | None:
        """Returns why to stop after the last evaluation, or None."""
        if self._last is None:
            return None
        now = f"{self._monitor} is {self._last:.6g}"
        if self._check_finite and not math.isfinite(self._last):
            return f"{now}, which is not finite"
        if self._enough is not None and self._better(self._last, self._enough):
            return f"{now}, better than the stopping_threshold {self._enough:.6g}"
        if self._too_bad is not None and self._better(self._too_bad, self._last):
            return f"{now}, worse than the divergence_threshold {self._too_bad:.6g}"
        if self._wait >= self._patience and self._seen_step != self._best_step:
            best = (
                ""
                if self._best is None
                else f"; {self._whose()} is {self._best:.6g} at step {self._best_step}"
            )
            times = f"{self._wait} evaluation{'s' * (self._wait > 1)}"
            return f"{self._monitor} has not improved for {times}{best}"
        return None

    def _whose(self) -> str:
        """Says in which way its best may differ from that of checkpoints."""
        counts = [f"from epoch {self._start + 1} on"] if self._start else []
        counts += [f"by more than {self._min_delta:g}"] if self._min_delta else []
        return f"the best that EarlyStopping counts ({', '.join(counts)})" if counts else "the best"

    def state(self) -> dict[str, Any]:
        """See `Callback`."""
        return {
            "best": self._best,
            "best_step": self._best_step,
            "wait": self._wait,
            "last": None if self._last is None else str(self._last),  # JSON has no NaN
            "seen_step": self._seen_step,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """See `Callback`."""
        self._best, self._best_step = state["best"], state["best_step"]
        self._wait, self._seen_step = state["wait"], state["seen_step"]
        self._last = None if state["last"] is None else float(state["last"])
