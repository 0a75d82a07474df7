"""Profiles some steps for TensorBoard's profile plugin."""

from __future__ import annotations

import logging
import shlex

import tensorflow as tf

from looplab.callbacks.base import Callback, Event, StepEvent
from looplab.errors import ConfigurationError
from looplab.protocols import Controls
from looplab.targets import configurable

_log = logging.getLogger("looplab")


@configurable
class Profile(Callback):
    """Profiles the steps from the first one at which it is due to the next one, once in each `fit`.

    With `"20st"` it profiles steps 21 to 40. So it skips the first steps, which trace and compile. An
    evaluation or a save at the step where it begins is part of the profile. The profile is in
    `<run_dir>/tensorboard/train/plugins/profile/`; TensorBoard shows it if `xprof` is installed. The callback
    has no state: a resumed run is profiled again, and you may add or remove this callback at any time.
    """

    times = 2

    def __init__(self, every: str | int = "20st") -> None:
        """Sets the first step and the length of the profile.

        Args:
            every: An interval of steps, epochs or examples.
        """
        self.every = every
        self._first: int | None = None  # completed steps when the profile began
        self._running = False

    def on_train_begin(self, event: Event, controls: Controls) -> None:
        """See `Callback`."""
        if event.run_dir is None:
            raise ConfigurationError(
                "Profile: needs a folder to write to, but the trainer has run_dir=None. Give it a run_dir, "
                "or leave the callback out."
            )
        self._first = None

    def on_step(self, event: StepEvent, controls: Controls) -> None:
        """See `Callback`: begins or ends the profile."""
        if self._running:
            self._end(event)
        elif self._first is None and event.step < event.total_steps:
            assert event.run_dir is not None
            tf.profiler.experimental.start(str(event.run_dir / "tensorboard" / "train"))
            self._first, self._running = event.step, True

    def on_train_end(self, event: Event, controls: Controls) -> None:
        """See `Callback`: ends a profile that is still running."""
        if self._running:
            self._end(event)
        elif self._first is None:
            _log.warning("no profile: the run ended at step %d, before the first %s", event.step, self.every)

    def on_exception(self, event: Event, error: BaseException) -> None:
        """See `Callback`: keeps the profile of the steps until then."""
        if self._running:
            self._end(event)

    def _end(self, event: Event) -> None:
        assert self._first is not None and event.run_dir is not None
        self._running = False
        try:
            tf.profiler.experimental.stop()
        except (tf.errors.OpError, OSError) as error:  # a lost profile must not end the run
            _log.warning("the profile of steps %d to %d is lost: %s", self._first + 1, event.step, error)
            return
        _log.info(
            "a profile of steps %d to %d is in %s; to see it: pip install xprof, then "
            "tensorboard --logdir %s, page Profile",
            self._first + 1,
            event.step,
            event.run_dir / "tensorboard" / "train" / "plugins" / "profile",
            shlex.quote(str(event.run_dir)),
        )
