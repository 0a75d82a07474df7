"""The types that several wings share: records, loggers, feeds, controls, and the devices of a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeVar

Values = Mapping[str, float]
T = TypeVar("T")


@dataclass(frozen=True)
class Record:
    """The numbers of one split at one step; one line of `metrics.jsonl`.

    Attributes:
        step: The number of completed training steps.
        epoch: The epoch of the step, from 1.
        split: `"train"`, `"validation"` or the name of another validation set.
        values: Numbers by tag that every repetition of the run reproduces. `loss` is the value of the step,
            `epoch_loss` a mean over an epoch or a whole evaluation, weighted by examples.
        timing: Clocks and rates by tag, which differ from run to run, such as steps per second.
        from_callbacks: Whether callbacks have logged the values, with `Controls.log`.
    """

    step: int
    epoch: int
    split: str
    values: Values
    timing: Values = field(default_factory=dict)
    from_callbacks: bool = False


@dataclass(frozen=True)
class StepRecords:
    """The records of several training steps of one execution. A `Record` is made when it is read.

    Attributes:
        steps: Numbers of completed steps, rising within one epoch, at least one.
        epoch: The epoch of these steps, from 1.
        values: Float64 arrays of shape `[steps]`, by tag.
        timing: Clocks by tag. The steps share them, because they leave the graph together.
    """

    steps: Sequence[int]
    epoch: int
    values: Mapping[str, Any]
    timing: Values = field(default_factory=dict)

    split = "train"

    def __len__(self) -> int:
        """Returns the number of steps."""
        return len(self.steps)

    def __iter__(self) -> Iterator[Record]:
        """Yields the record of each step."""
        return map(self.record, range(len(self)))

    def record(self, index: int) -> Record:
        """Returns the record of the step at an index; -1 is the last."""
        values = {name: float(series[index]) for name, series in self.values.items()}
        return Record(self.steps[index], self.epoch, self.split, values, self.timing)


@dataclass(frozen=True)
class Media:
    """An image, a histogram, a text or a curve at one step. A logger that cannot show it ignores it.

    Attributes:
        step: The number of completed training steps.
        epoch: The epoch of the step, from 1.
        split: `"train"`, `"validation"` or the name of another validation set.
        tag: The name of the series.
        kind: `"image"`, `"histogram"`, `"text"` or `"pr_curve"`.
        data: For an image, an array of shape `[n, height, width, channels]` with 1, 3 or 4 channels, uint8 or
            floating point from 0 to 1. For a histogram, an array of numbers of any shape. For a text,
            Markdown. For a precision-recall curve, an array of shape `[6, thresholds]`: true positives, false
            positives, true negatives, false negatives, precision and recall at thresholds from 0 to 1.
    """

    step: int
    epoch: int
    split: str
    tag: str
    kind: str
    data: Any


class LayerRow(NamedTuple):
    """A layer in the table of the models.

    Attributes:
        model: The name of the model.
        layer: The name of the layer.
        kind: The name of its class.
        parameters: The number of its parameters, with those of its inner layers.
        trained: The number of these that an optimizer trains.
        size: The size of its parameters in bytes.
    """

    model: str
    layer: str
    kind: str
    parameters: int
    trained: int
    size: int


@dataclass(frozen=True)
class Summary:
    """The plan of a run, which every logger receives before the first step.

    Attributes:
        lines: `(label, text)` pairs in reading order: data, strategy, precision, steps.
        layers: The rows of the table of layers.
        first_step: The number of completed steps before this start; above 0 when the run continues.
        total_steps: The number of completed steps at which the run ends.
        steps_per_epoch: The number of steps in an epoch.
        hyperparameters: The values by which the run is compared with others, nested as they were given.
        graph: The `tf.Graph` of the loss of one batch; None where the steps run in Python.
        epoch_shift: The `shift` of the epochs; see `looplab.runs.epochs.Epochs`.
        of_callbacks: The names of values that callbacks log and that are produced or monitored.
    """

    lines: tuple[tuple[str, str], ...]
    layers: tuple[LayerRow, ...]
    first_step: int
    total_steps: int
    steps_per_epoch: int
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    graph: Any = None
    epoch_shift: int = 0
    of_callbacks: tuple[str, ...] = ()


class Steps(NamedTuple):
    """The result of one execution, which may have completed fewer steps than it was given.

    Attributes:
        done: The number of completed steps.
        values: The scalars of each step by name; float64 arrays of shape `[done]`, reduced over replicas.
        weights: The weight of each of these values in a mean over steps, in arrays of the same shape, or of
            shape `[done, parts]` for a value that is a sum of parts. A value without a weight has no mean.
        first_bad: The index of the first of these steps whose loss is not finite, or None.
        failed: The scalars of the next step, if its loss or a gradient was not finite and it was undone; None
            otherwise, or if this was not checked.
        shown: The tensors that the last step shows by tag; see `looplab.summary`.
        batch: The batch of the failed step, if it is available.
        parts: The parts of the values that are sums, float64 arrays `[done, parts]` by name; see
            `looplab.execution.step_means.StepMeans`.
    """

    done: int
    values: dict[str, Any]
    weights: dict[str, Any]
    first_bad: int | None
    failed: dict[str, float] | None
    shown: dict[str, Any]
    batch: Any = None
    parts: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Placement:
    """The abilities of a strategy's devices.

    There are two placements, `HOST` and `TPU`; `looplab.strategy.placement` decides which one a strategy has.

    Attributes:
        name: `"tpu"`, or `"host"` for CPUs and GPUs.
        fixed_rows: Whether a step takes batches of one size only, which the replicas share evenly. looplab
            pads smaller batches, so the largest size must be known; see `looplab.strategy.padded_size`.
        always_compiled: Whether XLA compiles every step, with the exchange between replicas.
        precisions: The precisions that the devices support; see `looplab.strategy.precision`.
        can_gather: Whether a device can keep arrays in its memory and gather the rows of a batch there.
        plain_variables: Whether a variable from outside of a strategy of one replica works inside it.
        one_process: Whether one process drives all devices, those of other hosts too.
    """

    name: str
    fixed_rows: bool
    always_compiled: bool
    precisions: tuple[str, ...]
    can_gather: bool
    plain_variables: bool
    one_process: bool


HOST = Placement(
    "host",
    fixed_rows=False,
    always_compiled=False,
    precisions=("float32", "float64", "mixed_bfloat16", "mixed_float16"),
    can_gather=True,
    plain_variables=True,
    one_process=False,
)
TPU = Placement(
    "tpu",
    fixed_rows=True,
    always_compiled=True,
    precisions=("float32", "mixed_bfloat16"),
    can_gather=False,
    plain_variables=False,
    one_process=True,
)


class Feed(Protocol):
    """A source of batches by step, between `data` and `execution`.

    A feed is endless: every step has a batch, epoch after epoch, so a compiled loop never meets its end.

    Attributes:
        element_spec: A nested structure of `tf.TensorSpec` of one global batch; None for a part that is
            absent.
        steps_per_epoch: The number of steps in one epoch, or None if the data has no end.
        resumes: A text that describes how `seek` finds its place.
        waited: The seconds that steps have waited for batches so far; the code that waits adds to it.
        faster: A text that advises how to get batches faster.
        gives_rows: Whether `take` returns rows, which can be read again. Otherwise it returns an iterator,
            which cannot go back.
    """

    element_spec: Any
    steps_per_epoch: int | None
    gives_rows: bool
    resumes: str
    waited: float
    faster: str

    @property
    def max_take(self) -> int | None:
        """The largest number of batches that the next `take` may return, or None for any number."""

    def place(self, step: int, *, begun: int, shift: int) -> int:
        """Returns the feed's own step for a step of the run, which may have had other data before.

        Args:
            step: The number of completed steps of the run.
            begun: The number of completed steps at which the run began to use this feed.
            shift: The number of additional steps if all earlier epochs had this feed's length.
        """

    def seek(self, step: int) -> None:
        """Makes the next `take` begin with the batch of the step after `step` completed steps."""

    def take(self, count: int) -> Any:
        """Returns the next `count` batches; see `looplab.execution.batches`."""

    def batch(self, step: int) -> Any:
        """Returns the batch of the step after `step` completed steps, without moving the feed."""

    def rows(self, step: int) -> list[int] | None:
        """Returns the indices of that batch's examples in the data; None if they are not known."""

    def position(self, step: int) -> dict[str, Any]:
        """Returns the state, in JSON's types, from which `seek(step)` continues exactly."""

    def snapshot(self, step: int) -> dict[str, Any] | None:
        """Returns further state for a fast `seek`, in JSON's types and arrays; None if none is needed."""

    def resume_from(self, snapshot: Mapping[str, Any] | None) -> None:
        """Receives the result of an earlier `snapshot`, before `seek`."""

    def examples(self, step: int) -> int | None:
        """Returns the number of examples in the first `step` steps, or None if it is not known."""

    def describe(self) -> str:
        """Returns one line of text about the size, the batch and the steps."""


class Logger:
    """Base of all loggers: each method does nothing until a subclass overrides it.

    looplab calls a logger eagerly on the host, between executions, never inside a `tf.function`. Values are
    those of the global batch, over all replicas.
    """

    def check(self, run_dir: Path | None) -> None:
        """Refuses, with a `ConfigurationError`, a run that it cannot record, before anything is written."""

    def open(self, run_dir: Path | None) -> None:
        """Receives the directory of the run, or None, before anything else, and creates nothing yet."""

    def begin(self, summary: Summary) -> None:
        """Receives the plan before the first step of a `fit`, unless nothing is left to do."""

    def write(self, record: Record) -> None:
        """Records the numbers of one split at one step. Within a split, steps never go backwards."""

    def write_steps(self, records: StepRecords) -> None:
        """Records the steps of one execution: calls `write` for each, unless a subclass overrides it."""
        for record in records:
            self.write(record)

    def show(self, media: Media) -> None:
        """Shows an image, a histogram, a text or a curve; a kind that it cannot show is ignored."""

    def offsets(self) -> dict[str, int]:
        """Flushes, and returns for a checkpoint the bytes of each file, or other numbers for `rewind`."""
        return {}

    def digests(self) -> dict[str, str]:
        """Returns a digest of each file up to its position in `offsets`, if the logger knows one.

        A checkpoint records the digests, so that looplab notices a changed file when the run continues.
        """
        return {}

    def rewind(self, offsets: Mapping[str, int]) -> None:
        """Removes all after earlier `offsets` (everything without), before this process writes anything."""

    def end(self, outcome: Mapping[str, Any]) -> None:
        """Receives the content of `outcome.json` after the last record of a `fit` that began."""

    def close(self) -> None:
        """Flushes and closes files."""


class Agreement(Protocol):
    """The way in which processes that train together make one decision.

    All processes must run the same collectives in the same order. So the chief decides, or all values do: on
    the execution mode and length, a request to stop, the restored checkpoint, and a failed step.
    """

    @property
    def workers(self) -> int:
        """The number of processes."""

    @property
    def index(self) -> int:
        """The index of this process, from 0."""

    @property
    def is_chief(self) -> bool:
        """Whether this process makes decisions and writes the run directory."""

    def decide(self, name: str, value: T) -> T:
        """Returns the chief's value in every process.

        Args:
            name: The name of the decision, the same in every process.
            value: The value of this process.
        """

    def exchange(self, name: str, value: T) -> list[T]:
        """Returns the values of all processes, by their index; see `decide` for the arguments."""

    def clock(self) -> float:
        """Returns seconds on a clock that never goes backwards and that all processes share for decisions."""


class Controls(Protocol):
    """The controls of a run that a callback receives. Call them eagerly, on the host."""

    def stop(self, reason: str, *, is_last: bool = False) -> None:
        """Ends training after the events of the present step.

        looplab evaluates nothing that was not due, so a run that continues later equals a run without the
        stop. A run that is started again continues unless a callback stops it again; keep the reason in the
        callback's `state`.

        Args:
            reason: A text, which `outcome.json` records.
            is_last: Whether the step counts as the last one of the run: everything is evaluated and its epoch
                ends, as in `model.fit`.
        """

    def save(self) -> None:
        """Saves a checkpoint at the present step, after its evaluation and monitors."""

    def scale_learning_rate(self, factor: float, optimizer: str | None = None) -> None:
        """Multiplies the saved factor of the learning rate of one optimizer, or of all if none is named."""

    def log(self, values: Values) -> None:
        """Logs numbers of the present step by tag; training and evaluations may not have these names.

        The history has the last number of each epoch, and so has the console unless the tag has a `/`.
        """

    def show(self, tag: str, kind: str, data: Any) -> None:
        """Shows an image, a histogram, a text or a curve of the present step; see `Media`."""

    def result(self, name: str, value: float, *, baseline: float, mode: str = "max") -> None:
        """States the result of the run beside a finite baseline that it should beat; in `on_train_end`.

        `outcome.json` and the last lines of the run have both. With `mode="min"` a lower value is better. A
        value that is not finite does not beat anything. Of several calls the last counts.
        """

    def rebuild(self) -> None:
        """Makes looplab trace the steps again; a trace fixes, for example, which variables are trained."""
