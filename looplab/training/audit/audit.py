"""Checks in one fit, before the first step and at the first saves, what a checkpoint would not restore."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from looplab.callbacks import CallbackList
from looplab.checkpoint import state
from looplab.data import GeneratedFeed, IndexedFeed, StreamFeed, pipeline_inspection
from looplab.execution.random_operations import draws
from looplab.protocols import Feed
from looplab.training.audit import object_fields
from looplab.training.audit.global_generators import NUMPY, PYTHON, GlobalGenerators
from looplab.training.audit.serializable import refuse_unsavable

_log = logging.getLogger("looplab")

_LOOKS = 3  # saves at which fields are compared


@dataclass(frozen=True)
class Finding:
    """State of a run that no checkpoint holds.

    Attributes:
        kind: `"randomness"` of the step, `"data"`, `"callback"` or `"attribute"` of the trainer.
        text: A description, with the remedy.
        fields: The names of the fields that it reports, such as `"Mine.count"`.
    """

    kind: str
    text: str
    fields: tuple[str, ...] = ()


class Audit:
    """Checks once before the first step, and at the first saves; costs nothing in between.

    A finding is logged as a warning, once; an error in the audit does not end a run.

    It does not check fields of the trainer and of callbacks whose names begin with an underscore, so a user
    can mark a field that need not survive; nor callbacks that have a `state()`, which save what they need.
    For a trainer with `make_batch` it compares any object in a field (an environment, a generator, a queue);
    for other trainers only numbers, strings, arrays, and lists and dicts of these.
    """

    def __init__(
        self,
        owner: Any,
        callbacks: CallbackList,
        feed: Feed,
        *,
        graph: tf.Graph | None,
        variables: state.Variables,
        drawn: Collection[str],
        moved: Collection[str] = (),
        findings: list[Finding],
        kept: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """Checks nothing yet.

        Args:
            owner: The trainer, whose fields are checked.
            callbacks: The callbacks of the fit.
            feed: The training batches.
            graph: The trace of the training step, if it was traced.
            variables: Everything that a checkpoint holds, by path.
            drawn: The process's generators that were used while the feed was created.
            moved: The fields of the trainer that the first call of `make_batch` has changed.
            findings: Earlier findings, which are not logged again; new findings are added.
            kept: Returns the names of the trainer's fields that checkpoints do hold.
        """
        self._owner, self._callbacks, self._feed = owner, callbacks, feed
        self._graph, self._variables, self._drawn = graph, variables, drawn
        self._moved, self._findings, self._kept = moved, findings, kept
        self._before: list[dict[str, str]] = []
        self._generators: GlobalGenerators | None = None
        self._looks = 0
        self._has_begun = False

    def begin(self, values: Callable[[], Mapping[str, Any]]) -> None:
        """Checks before the first step, after callbacks have started; later calls do nothing.

        Args:
            values: Returns the values that a checkpoint holds in addition to the variables.

        Raises:
            ConfigurationError: If a checkpoint cannot hold these values.
        """
        if self._has_begun:
            return
        self._has_begun = True
        refuse_unsavable(values())
        with _harmless():
            self._say(self._in_the_step())
            self._say(self._in_the_data())
            self._say(self._of_owner(self._moved))
            self._before = [self._texts(each) for each in self._watched()]
            self._generators = GlobalGenerators()

    def look_again(self) -> None:
        """Checks for changes since the start, before a checkpoint is written."""
        if self._generators is None or self._looks == _LOOKS:
            return
        self._looks += 1
        with _harmless():
            self._say(self._of_generators(self._generators.drawn(), "while training goes on"))
            self._say(self._of_fields())

    def _say(self, findings: Iterator[Finding]) -> None:
        for finding in findings:
            if finding not in self._findings:
                self._findings.append(finding)
                _log.warning("a resume of this run will not be exact: %s", finding.text)

    def _in_the_step(self) -> Iterator[Finding]:
        if self._graph is None:
            return
        found = [draw for draw in draws(self._graph) if not draw.saved]
        if found:
            yield Finding(
                "randomness",
                f"the training step draws random numbers ({', '.join(map(str, found))}) from a state that no "
                "checkpoint holds. Draw with keras.random and a seed= that setup creates "
                "(self.seeds = keras.random.SeedGenerator(self.seed)), or with tf.random.stateless_* from "
                "self.seed and self.step.",
            )

    def _in_the_data(self) -> Iterator[Finding]:
        feed = self._feed
        if isinstance(feed, StreamFeed):
            yield from (Finding("data", text) for text in pipeline_inspection.inexact(feed.dataset))
        # A make_batch may call a model, and building it draws seeds from Python's generator.
        drawn = set(self._drawn) - ({PYTHON} if isinstance(feed, GeneratedFeed) else set())
        yield from self._of_generators(drawn, "when its first batches are read")

    def _of_generators(self, drawn: Collection[str], when: str) -> Iterator[Finding]:
        if not drawn or not _runs_python(self._feed):
            return
        is_made = isinstance(self._feed, GeneratedFeed)
        # A stream is read from its beginning again, and may draw the same numbers if nothing else draws.
        sees = "may see" if isinstance(self._feed, StreamFeed) else "sees"
        names = [f"{name} global generator" for name in (NUMPY, PYTHON) if name in drawn]
        what = "make_batch" if is_made else "the data"
        seeds = "self.seed, step" if is_made else "seed, index"
        yield Finding(
            "data",
            f"{what} (or a callback) draws from {' and '.join(names)} {when}, which no checkpoint holds: a "
            f"resumed run {sees} other numbers. Use numpy.random.default_rng([{seeds}]).",
        )

    def _of_fields(self) -> Iterator[Finding]:
        for each, before in zip(self._watched(), self._before, strict=True):
            names = object_fields.changed(before, self._texts(each))
            yield from self._of_owner(names) if each is self._owner else self._of_callback(each, names)

    def _of_owner(self, names: Collection[str]) -> Iterator[Finding]:
        if fields := self._new(self._owner, [name for name in names if name not in self._kept()]):
            when, remedy = "while it trains", "Make a tf.Variable(..., trainable=False) in setup"
            if isinstance(self._feed, GeneratedFeed):
                when = "when make_batch runs"
                remedy += (
                    " for what batches depend on (of an environment its state, from which make_batch sets "
                    "it), or make it anew in each call from self.seed and step"
                )
            yield Finding(
                "attribute",
                f"{_change(fields)} {when}, and no checkpoint holds fields of the trainer: a resumed run "
                f"starts with what __init__ and setup create. {remedy}; if nothing depends on it, begin its "
                "name with an underscore.",
                fields,
            )

    def _of_callback(self, callback: Any, names: Collection[str]) -> Iterator[Finding]:
        if fields := self._new(callback, names):
            yield Finding(
                "callback",
                f"{_change(fields)} while it trains, and the callback has no state(): a resumed run starts "
                "with what __init__ and on_train_begin create. Return it in state() and restore it in "
                "restore(state); if nothing depends on it, begin its name with an underscore.",
                fields,
            )

    def _new(self, owner: Any, names: Collection[str]) -> tuple[str, ...]:
        """Returns the fields of an object that were not reported before."""
        said = {field for finding in self._findings for field in finding.fields}
        return tuple(field for name in names if (field := f"{type(owner).__name__}.{name}") not in said)

    def _texts(self, each: Any) -> dict[str, str]:
        looks_into_all = each is self._owner and isinstance(self._feed, GeneratedFeed)
        return object_fields.digests(each) if looks_into_all else object_fields.texts(each)

    def _watched(self) -> list[Any]:
        """Returns the objects whose fields are compared: the trainer, and user callbacks without a state."""
        own = [one for one in self._callbacks.stateless() if type(one).__module__.split(".")[0] != "looplab"]
        return [self._owner, *own]


def _change(fields: Collection[str]) -> str:
    return f"{' and '.join(fields)} {'change' if len(fields) > 1 else 'changes'}"


def _runs_python(feed: Feed) -> bool:
    """Whether the user's Python code reads batches, so that draws are likely those of the data."""
    if isinstance(feed, StreamFeed):
        return bool(pipeline_inspection.python_in(feed.dataset))
    if isinstance(feed, IndexedFeed):
        return not getattr(feed.source, "in_memory", False)
    return isinstance(feed, GeneratedFeed)


@contextmanager
def _harmless() -> Iterator[None]:
    try:
        yield
    except Exception:
        _log.debug("the audit failed, and reports nothing more", exc_info=True)
