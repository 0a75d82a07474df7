"""The keys of a configuration: sections, kinds of values, defaults, and their meaning.

`--help` prints these docstrings. The module imports neither TensorFlow nor Keras.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from looplab.config.said import Said
from looplab.options import bounds
from looplab.options.checkpoint_policy import Policy
from looplab.options.distribution import BATCH_NORMS, PRECISIONS, RANDOM, STRATEGIES
from looplab.options.execution import Execution
from looplab.options.safeguards import POLICIES, SpikeDetection
from looplab.options.value_types import (
    FREE,
    SAID,
    Anything,
    BySet,
    Duration,
    Every,
    Fraction,
    LocalPath,
    Names,
    OneOf,
    Switch,
    Text,
    Values,
)

TARGET = "a section with _target_"
NO_KEY = "no key"  # marks a field that is not a key of a configuration
SECTIONS = "sections with _target_ by any name, or a list of them"


@dataclass
class Data:
    """The source of the examples.

    Attributes:
        source: A function that returns `{"train": ..., "validation": ...}`, each as the data of
            `Trainer.fit`, with its arguments. Other names are further validation sets.
        batch_size: Examples of a global batch (32 if null); null for data that is already batched.
        shuffle: Whether data that is read by index, such as arrays, has a new order in each epoch.
        steps_per_epoch: Steps of an epoch, at most the steps of a pass if its length is known; the next epoch
            continues in the data where the last one stopped. Null for one pass.
        class_weight: Weights of the training examples by class, such as {0: 1.0, 1: 5.0}.
        validation: `own` uses the validation data of the source, `train` uses the training data instead,
            `none` turns evaluation off.
        validation_split: The fraction of the training examples that is held out for validation, from the end;
            null for none.
        folds: The number of folds of a cross-validation: random parts of the examples, the same for every
            seed; null for none. The folds replace the validation data of the source.
        fold: The fold that is held out for validation, from 0; the run trains on all others.
        validation_freq: The interval between evaluations, with one at the end of training; an integer n means
            each n-th epoch only. For several sets {validation: 1ep, hard: 500st}; a set without a value keeps
            its own, or 1ep.
        validation_steps: The number of batches of an evaluation, always the first ones; null for all. For
            several sets as in `validation_freq`.
        limit: Use only the first N batches of each split; null for all. With `make_batch` it is the number of
            steps of an epoch, if `steps_per_epoch` is null. The schedule does not change.
        limit_epochs: End after N epochs (of the limited data, if there is a `limit`). The schedule does not
            change.
    """

    source: Annotated[Any, Anything(TARGET)] = None
    batch_size: Annotated[int | None, bounds.BATCH_SIZE] = None
    shuffle: Annotated[bool, Switch()] = True
    steps_per_epoch: Annotated[int | None, bounds.COUNT] = None
    class_weight: Annotated[Any, Anything("weights by class")] = None
    validation: Annotated[str, OneOf(("own", "train", "none")), SAID] = "own"
    validation_split: Annotated[float | None, Fraction()] = None
    folds: Annotated[int | None, bounds.FOLDS] = None
    fold: Annotated[int | None, bounds.FOLD] = None
    validation_freq: Annotated[str | int | dict[str, str | int], BySet(Every(bare="epochs")), SAID] = "1ep"
    validation_steps: Annotated[int | dict[str, int | None] | None, BySet(bounds.COUNT), SAID] = None
    limit: Annotated[int | None, bounds.COUNT] = None
    limit_epochs: Annotated[int | None, bounds.COUNT, FREE] = None


@dataclass
class Strategy:
    """The distribution of a step over devices.

    Attributes:
        name: `auto` uses all GPUs if there are several, otherwise one device.
        replicas: The number of replicas, only for `simulated` (2 if null).
        batch_norm: The rows over which BatchNormalization averages on several replicas: `sync` means the
            global batch, `local` the rows of its replica.
        random: What random numbers follow in parts of a batch: `rows` gives a row those of one device,
            `replicas` lets each replica draw its own.
        address: Only for `tpu`: the name or `grpc://` address of a TPU; null for the TPU of this machine.
    """

    name: Annotated[str, OneOf(STRATEGIES), SAID] = "auto"
    replicas: Annotated[int | None, bounds.REPLICAS, SAID] = None
    batch_norm: Annotated[str, OneOf(BATCH_NORMS)] = "sync"
    random: Annotated[str, OneOf(RANDOM), SAID] = "rows"  # a checkpoint says by which rule its run goes on
    address: Annotated[str | None, Text("the name or address of a TPU"), SAID] = None


@dataclass
class Devices:
    """Options of TensorFlow's devices; see `looplab.devices.configure`.

    Attributes:
        memory_growth: Whether the memory of a GPU is allocated as needed, and not all at the start; null
            means on, except for GPUs that are already in use.
        tf32: Whether GPUs round float32 products to TensorFloat-32, as TensorFlow does by default.
        deterministic: Whether every operation gives the same bits each time, also on GPUs; this is slower.
        intra_threads: The number of threads for one operation; null for TensorFlow's choice.
        inter_threads: The number of operations that run at once; null for TensorFlow's choice.
    """

    memory_growth: Annotated[bool | None, Switch(), FREE] = None
    tf32: Annotated[bool, Switch()] = True
    deterministic: Annotated[bool, Switch()] = False
    intra_threads: Annotated[int | None, bounds.THREADS, SAID] = None
    inter_threads: Annotated[int | None, bounds.THREADS, SAID] = None


@dataclass
class Precision:
    """The dtypes of computation.

    Attributes:
        policy: The dtype policy of all layers; with `mixed_bfloat16` and `mixed_float16` variables and
            updates are float32.
    """

    policy: Annotated[str, OneOf(PRECISIONS)] = "float32"


@dataclass
class Loggers:
    """The logs of a run; looplab always writes `metrics.jsonl` and TensorBoard.

    Attributes:
        every: The interval of steps whose values are logged.
        verbose: 0 shows nothing, 1 a progress bar, 2 a line per epoch; `auto` is 1 on a terminal, otherwise
            2.
        more: Additional loggers by any name; null for a logger removes it, a list replaces all.
    """

    every: Annotated[str | int, Every(), SAID] = "10st"
    verbose: Annotated[str | int, OneOf(("auto", 0, 1, 2)), FREE] = "auto"
    more: Annotated[Any, Anything(SECTIONS), FREE] = None


OF_A_CHECKPOINT = ("topology", "data", "code")  # values of `allow_change` that are about a checkpoint


@dataclass
class Config:
    """A whole configuration.

    Attributes:
        experiment: The experiment's name; looplab writes it into `config.yaml`.
        epochs: The last epoch of the run.
        steps: The last step of the run, instead of `epochs`.
        seed: Determines initial weights, masks and the order of data.
        run_dir: The directory that records the run; `runs/<experiment>/<date_time>` if null.
        resume: `auto` continues the run in `run_dir`, `latest` the newest run of the experiment,
            `never` refuses a directory that holds a run.
        from_run: A run directory whose configuration is the base of a new run; null for none.
        initialize_from: The source of a new run's initial weights, of which nothing else is used: a run
            directory (its best checkpoint), one checkpoint's folder, or a `.weights.h5` or `.keras` file. Or
            a section with that as `path`; `map`, names here to names there; `skip`, patterns of variables
            that keep their initial value; and `partial`, of variables that keep it if it is not there (true
            for all).
        on_nonfinite: The reaction to a loss or gradient that is not finite: `stop` skips the update and ends
            the run, `skip` continues with the next batch, `rollback` returns to the newest checkpoint and
            continues with half the learning rate; at most 10 times. `ignore` warns once and continues.
        spikes: The reaction to a step whose loss spikes, with the same words.
        hang_timeout: The time without progress after which a watching process ends the run, with all stacks
            in `log.txt` and exit code 138. null for no limit.
        allow_change: Keys that may change in a resumed run although they change what is computed,
            such as `optimizer.learning_rate` or a whole `optimizer`; `config` for all. Also `topology`, the
            number of replicas, `data`, its contents, and `code`, what a step computes. `callbacks` allows
            other callbacks with a state; callbacks without one may always change.
        vars: Your own values, which other keys use as `${vars.name}`; `vars.name=8` adds one.
        loss: A Keras name or a loss; or several by the model's outputs, or in their order. null uses what
            the model was compiled with; the same holds for the loss weights, the metrics and the optimizer.
        loss_weights: The weight of the loss; with several losses, their weights in the sum, by output (1 if
            not named) or in their order.
        metrics: A list of Keras names and metrics; or lists by the model's outputs, or in their order.
        weighted_metrics: The same, but with sample and class weights.
        data: The source of the examples.
        model: A Keras model, or several by name.
        trainer: A `looplab.Trainer` and its own arguments.
        optimizer: A Keras optimizer, which trains every model; or several by name, each for the model of its
            name. `{adam: [encoder, decoder]}` and `{both: [{_target_: ...}, [encoder, decoder]]}` name them.
        parameter_groups: Learning rates and weight decays of variables chosen by pattern, see
            `looplab.ParameterGroup`; with several optimizers, by their names.
        schedule: A learning-rate schedule; empty for a constant rate.
        strategy: The distribution of a step over devices.
        devices: Options of TensorFlow's devices.
        precision: The dtypes of computation.
        execution: The way steps run.
        checkpoint: The policy for saving and keeping checkpoints.
        callbacks: Callbacks by any name; null for a callback removes it, a list replaces all.
        loggers: The logs of a run.
    """

    experiment: Annotated[str | None, Text("the name of an experiment"), FREE] = None
    epochs: Annotated[int | None, bounds.COUNT, FREE] = None
    steps: Annotated[int | None, bounds.COUNT, FREE] = None
    seed: Annotated[int, bounds.SEED] = 0
    run_dir: Annotated[str | None, LocalPath(), FREE] = None
    resume: Annotated[str, OneOf(("auto", "latest", "never")), FREE] = "auto"
    from_run: Annotated[str | None, LocalPath(), FREE] = None
    initialize_from: Annotated[Any, Anything("a path, or path, map, skip, partial"), SAID] = None
    on_nonfinite: Annotated[str, OneOf(POLICIES), SAID] = "stop"
    spikes: SpikeDetection = field(default_factory=SpikeDetection)
    hang_timeout: Annotated[str | None, Duration(), FREE] = "60min"
    allow_change: Annotated[list[str], Names("a list of keys"), FREE] = field(default_factory=list)
    vars: Annotated[dict[str, Any] | None, Values(), SAID] = field(default_factory=dict)
    loss: Annotated[Any, Anything(f"a Keras name or {TARGET}, or several by output")] = None
    loss_weights: Annotated[Any, Anything("a number, or numbers by output")] = None
    metrics: Annotated[Any, Anything("a list of Keras names and of sections with _target_"), SAID] = None
    weighted_metrics: Annotated[
        Any, Anything("a list of Keras names and of sections with _target_"), SAID
    ] = None
    data: Data = field(default_factory=Data)
    model: Annotated[Any, Anything(f"{TARGET}, or several by name")] = None
    trainer: Annotated[Any, Anything(TARGET)] = None
    optimizer: Annotated[Any, Anything(f"a Keras name or {TARGET}, or several by name")] = None
    parameter_groups: Annotated[
        Any, Anything("groups by name, each with match, learning_rate_scale, weight_decay")
    ] = None
    schedule: Annotated[Any, Anything(TARGET)] = None
    strategy: Strategy = field(default_factory=Strategy)
    devices: Devices = field(default_factory=Devices)
    precision: Precision = field(default_factory=Precision)
    execution: Execution = field(default_factory=Execution)
    checkpoint: Policy = field(default_factory=Policy)
    callbacks: Annotated[Any, Anything(SECTIONS), SAID] = None
    loggers: Loggers = field(default_factory=Loggers)
    # The user's settings, as distinct from those of files.
    said: Annotated[Said, NO_KEY] = field(default_factory=Said)
