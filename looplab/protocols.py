"""The few shapes that several wings agree on: what is logged, fed, and controlled, and where steps run."""

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
class StepRecords:
    """The own values of several training steps of one execution: a `Record` for each, made when asked for.

    Attributes:
        steps: Completed steps, rising within one epoch, at least one.
        epoch: Their epoch, from 1.
        values: Float64 arrays of shape `[steps]`, by tag.
        timing: Of all of them: they leave the graph together.
    """

    steps: Sequence[int]
    epoch: int
    values: Mapping[str, Any]
    timing: Values = field(default_factory=dict)

    split = "train"

    def __len__(self) -> int:
        """Returns how many there are."""
        return len(self.steps)

    def __iter__(self) -> Iterator[Record]:
        """Gives the record of each step."""
        return map(self.record, range(len(self)))

    def record(self, index: int) -> Record:
        """Returns the record of one of the steps; -1 is the last."""
        values = {name: float(series[index]) for name, series in self.values.items()}
        return Record(self.steps[index], self.epoch, self.split, values, self.timing)


@dataclass(frozen=True)
class Media:
    """Something richer than a number, at one step; a logger shows it as well as it can, or not at all.

    Attributes:
        step: Completed steps.
        epoch: The epoch of that step, from 1.
        split: As of a `Record`.
        tag: Its name, one series over the steps.
        kind: `"image"`, `"histogram"`, `"text"` or `"pr_curve"`.
        data: An image is an array of shape `[n, height, width, channels]` with 1, 3 or 4 channels, uint8 or
            floating point from 0 to 1; a histogram an array of numbers of any shape; a text Markdown; a
            precision-recall curve an array of shape `[6, thresholds]`: true positives, false positives,
            true negatives, false negatives, precision and recall at thresholds that go from 0 to 1.
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
        model: The name of its model.
        layer: Its own name.
        kind: Its class.
        parameters: How many it has, those of its inner layers included.
        trained: How many of them an optimizer trains.
        size: Bytes of its parameters.
    """

    model: str
    layer: str
    kind: str
    parameters: int
    trained: int
    size: int


@dataclass(frozen=True)
class Summary:
    """What will run, told to every logger before the first step.

    Attributes:
        lines: `(label, text)` pairs in reading order: data, strategy, precision, steps.
        layers: The rows of the model table.
        first_step: Completed steps before this start; above 0 when the run continues.
        total_steps: Completed steps at which the run ends.
        steps_per_epoch: Steps of one epoch.
        hyperparameters: What the run is compared with others by, nested as it was given.
        graph: The `tf.Graph` of the loss of one batch; None where the steps run in Python.
        epoch_shift: By how many steps epochs began earlier, were all as long;
            see `looplab.runs.epochs.Epochs`.
    """

    lines: tuple[tuple[str, str], ...]
    layers: tuple[LayerRow, ...]
    first_step: int
    total_steps: int
    steps_per_epoch: int
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    graph: Any = None
    epoch_shift: int = 0


class Steps(NamedTuple):
    """What one execution did. Nobody may assume that all the steps asked for were done.

    Attributes:
        done: Steps completed.
        values: Per-step scalars by name, each a float64 array of shape `[done]`, already reduced
            over replicas.
        weights: The weight of each of these values in a mean over steps, same shapes; or `[done, parts]` of a
            value that is a sum of parts. A value without one has no mean.
        first_bad: Index of the first of these steps whose loss is not finite, or None.
        failed: The scalars of the step after them, whose loss or gradient was not finite and which is
            undone; None if all went well, or nobody asked.
        shown: What the last of them shows (see `looplab.summary`), tensors by tag.
        batch: That of the step that failed, if it is at hand.
        parts: The parts of those values that are sums, float64 arrays `[done, parts]` by name; see
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
    """What the devices of a strategy can do, as far as the rest of looplab goes by it.

    `looplab.strategy.placement` says which one a strategy has; there are `HOST` and `TPU`.

    Attributes:
        name: For a person: `"tpu"`, or `"host"` for CPUs and GPUs.
        fixed_rows: Whether a step is for batches of one size, which the replicas share evenly. Others are
            padded to it, so the largest must be known; see `looplab.strategy.padded_size`.
        always_compiled: Whether XLA compiles every step as it is, with what replicas exchange.
        precisions: What it computes in; see `looplab.strategy.precision`.
        can_gather: Whether arrays can be kept in a device's memory, and a batch's rows be gathered there.
        plain_variables: Whether a variable that was made outside of a strategy of one replica serves in it.
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
    """Where batches come from, by step: the meeting point of `data` and `execution`.

    A feed is endless: step `s` has a batch for every `s`, epoch after epoch, so that a compiled
    loop never runs into its end.

    Attributes:
        element_spec: Nested structure of `tf.TensorSpec` of one global batch; None for a part that is absent.
        steps_per_epoch: Steps in one epoch, or None where the data has no end.
        resumes: How `seek` finds its place, in words.
        waited: Seconds for which steps have waited for batches so far; whoever waits adds to it.
        faster: What would make batches come faster, in words.
        gives_rows: Whether `take` gives rows, which may be gone through again; else an iterator, which
            does not go back.
    """

    element_spec: Any
    steps_per_epoch: int | None
    gives_rows: bool
    resumes: str
    waited: float
    faster: str

    @property
    def max_take(self) -> int | None:
        """The most batches the next `take` may ask for, or None for any number."""

    def place(self, step: int, *, begun: int, shift: int) -> int:
        """Returns the step by which it is asked for a step of the run, which may have had other data before.

        Args:
            step: Completed steps of the run.
            begun: At how many it came to be the run's data.
            shift: How many more there would be if all epochs before had been of its length.
        """

    def seek(self, step: int) -> None:
        """Makes the next `take` begin with the batch of the step after `step` completed ones."""

    def take(self, count: int) -> Any:
        """Returns the next `count` batches; see `looplab.execution.batches`."""

    def batch(self, step: int) -> Any:
        """Returns the batch of the step after `step` completed ones, without moving the feed."""

    def rows(self, step: int) -> list[int] | None:
        """Returns which examples that batch has, by their places in the data; None if unknown."""

    def position(self, step: int) -> dict[str, Any]:
        """Returns what to save, in JSON's types, so that `seek(step)` continues exactly."""

    def snapshot(self, step: int) -> dict[str, Any] | None:
        """Returns what else to save so that `seek` is quick, in JSON's types and arrays; None where it is."""

    def resume_from(self, snapshot: Mapping[str, Any] | None) -> None:
        """Takes it back, before `seek`."""

    def examples(self, step: int) -> int | None:
        """Returns how many examples `step` steps have seen in all, or None if unknown."""

    def describe(self) -> str:
        """Returns one line for a person: size, batch, steps."""


class Logger:
    """Where records go. Called on the host, between executions, never inside a `tf.function`.

    What a logger does not override does nothing.
    """

    def check(self, run_dir: Path | None) -> None:
        """Refuses, before anything is written, what cannot be recorded there, by a `ConfigurationError`."""

    def open(self, run_dir: Path | None) -> None:
        """Called first, with the directory that the run is recorded in, or None; creates nothing yet."""

    def begin(self, summary: Summary) -> None:
        """Called once before the first step of a `fit`; not where nothing is left to do."""

    def write(self, record: Record) -> None:
        """Takes one record. Steps never go backwards within a split."""

    def write_steps(self, records: StepRecords) -> None:
        """Takes the records of the steps of one execution; a logger that can does it all at once."""
        for record in records:
            self.write(record)

    def show(self, media: Media) -> None:
        """Takes an image, a histogram or a text."""

    def offsets(self) -> dict[str, int]:
        """Flushes, and returns how far each file has come, which a checkpoint records.

        `{file name: bytes}`, or whatever else of a file `rewind` understands.
        """
        return {}

    def digests(self) -> dict[str, str]:
        """Returns a digest of what `offsets` has just counted, of the files for which one is known.

        A checkpoint records it, so that what was changed meanwhile is noticed when the run goes on.
        """
        return {}

    def rewind(self, offsets: Mapping[str, int]) -> None:
        """Cuts what was written after `offsets` away, before anything is written in this process.

        Empty `offsets` cut everything: the run begins again at step 0.
        """

    def end(self, outcome: Mapping[str, Any]) -> None:
        """Called after the last record of a `fit` that began, with what `outcome.json` says."""

    def close(self) -> None:
        """Flushes and releases files."""


class Agreement(Protocol):
    """How the processes that train together come to one decision, where each could come to its own.

    Whatever decides how many collectives run, or which, or in what order, is decided by one of them or from
    what all of them say: the run directory, the execution mode, the length of an execution, a request to
    stop, the checkpoint to go on from, what becomes of a step that failed.
    """

    @property
    def workers(self) -> int:
        """How many processes there are."""

    @property
    def index(self) -> int:
        """Which of them this one is, from 0."""

    @property
    def is_chief(self) -> bool:
        """Whether it is the one that decides, and that writes the run directory."""

    def decide(self, name: str, value: T) -> T:
        """Returns the chief's value, in every process.

        Args:
            name: Of the decision, the same in every process.
            value: What this process would decide.
        """

    def exchange(self, name: str, value: T) -> list[T]:
        """Returns the values of all processes, by their index; arguments as of `decide`."""

    def clock(self) -> float:
        """Returns seconds, never fewer than before, by which all processes come to the same lengths."""


class Controls(Protocol):
    """What a callback may change about the run."""

    def stop(self, reason: str, *, is_last: bool = False) -> None:
        """Ends training after the events of the present step; the reason goes to the outcome.

        Nothing is evaluated for it that was not due: a run that goes on later is the unbroken run.
        Started again, training goes on unless it is stopped again: keep what led to it in `state`.

        Args:
            reason: For a person.
            is_last: Whether the step is to be as the run's last one: all is evaluated and its epoch ends, as
                under `model.fit`.
        """

    def save(self) -> None:
        """Saves a checkpoint at the present step, after its evaluation and monitors."""

    def scale_learning_rate(self, factor: float, optimizer: str | None = None) -> None:
        """Multiplies the saved factor on the schedule of one optimizer, or of all of them."""

    def log(self, values: Values) -> None:
        """Logs numbers of the present step, by tag, beside those of the training step itself."""

    def show(self, tag: str, kind: str, data: Any) -> None:
        """Gives the loggers an image, a histogram or a text of the present step; see `Media`."""

    def rebuild(self) -> None:
        """Traces the steps anew before they run again: something that a trace fixes has changed.

        Which variables are trained is such a thing.
        """
