"""The few shapes that several rooms agree on: what is logged, fed, and controlled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

Values = Mapping[str, float]


@dataclass(frozen=True)
class Record:
    """What is known of one split at one step; one line of `metrics.jsonl`.

    Attributes:
        step: Completed training steps, from 1 (0 before the first).
        epoch: The epoch that this step belongs to, from 1.
        split: `"train"`, `"validation"` or the set's name.
        values: Reproducible numbers by tag. `loss` is the value of that very step, `epoch_loss` a
            mean over an epoch or a whole evaluation, weighted by examples.
        timing: Clocks and rates, which no two runs share: seconds since the start, steps per second.
    """

    step: int
    epoch: int
    split: str
    values: Values
    timing: Values = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """What will run, told to every logger before the first step.

    Attributes:
        lines: `(label, text)` pairs in reading order: data, strategy, precision, steps.
        layers: `(model, layer, kind, parameters, bytes)` rows of the model table.
        first_step: Completed steps before this start; above 0 when the run continues.
        total_steps: Completed steps at which the run ends.
        steps_per_epoch: Steps of one epoch.
    """

    lines: tuple[tuple[str, str], ...]
    layers: tuple[tuple[str, str, str, int, int], ...]
    first_step: int
    total_steps: int
    steps_per_epoch: int


class Steps(NamedTuple):
    """What one execution did. Nobody may assume that all the steps asked for were done.

    Attributes:
        done: Steps completed.
        values: Per-step scalars by name, each a float64 array of shape `[done]`, already reduced
            over replicas.
        weights: The weight of each of these values in a mean over steps, same keys and shapes.
        first_bad: Index of the first step whose loss is not finite, or None.
    """

    done: int
    values: dict[str, Any]
    weights: dict[str, Any]
    first_bad: int | None


class Feed(Protocol):
    """Where batches come from, by step: the meeting point of `data` and `execution`.

    A feed is endless: step `s` has a batch for every `s`, epoch after epoch, so that a compiled
    loop never runs into its end.

    Attributes:
        element_spec: Nested structure of `tf.TensorSpec` of one global batch.
        steps_per_epoch: Steps in one epoch, or None where the data has no end.
        max_take: The most batches one `take` may ask for, or None for any number.
        resumes: How `seek` finds its place, in words.
    """

    element_spec: Any
    steps_per_epoch: int | None
    max_take: int | None
    resumes: str

    def seek(self, step: int) -> None:
        """Makes the next `take` begin with the batch of the step after `step` completed ones."""

    def take(self, count: int) -> Any:
        """Returns the next `count` batches: an iterator, or tensors stacked along a first axis."""

    def batch(self, step: int) -> Any:
        """Returns the batch of the step after `step` completed ones, without moving the feed."""

    def position(self, step: int) -> dict[str, Any]:
        """Returns what to save, in JSON's types, so that `seek(step)` continues exactly."""

    def examples(self, step: int) -> int | None:
        """Returns how many examples `step` steps have seen in all, or None if unknown."""

    def describe(self) -> str:
        """Returns one line for a person: size, batch, steps."""


class Logger(Protocol):
    """Where records go. Called on the host, between executions, never inside a `tf.function`."""

    def begin(self, summary: Summary) -> None:
        """Called once before the first step of a `fit`."""

    def write(self, record: Record) -> None:
        """Takes one record. Steps never go backwards within a split."""

    def offsets(self) -> dict[str, int]:
        """Flushes, and returns `{file name: bytes}` that a checkpoint records."""

    def rewind(self, offsets: Mapping[str, int]) -> None:
        """Cuts what was written after `offsets` away, before anything is written in this process.

        Empty `offsets` cut everything: the run begins again at step 0.
        """

    def close(self) -> None:
        """Flushes and releases files."""


class Controls(Protocol):
    """What a callback may change about the run."""

    def stop(self, reason: str) -> None:
        """Ends training after the events of the present step; the reason goes to the outcome."""

    def save(self) -> None:
        """Saves a checkpoint at the present step, after its evaluation and monitors."""

    def scale_learning_rate(self, factor: float, optimizer: str | None = None) -> None:
        """Multiplies the saved factor on the schedule of one optimizer, or of all of them."""
