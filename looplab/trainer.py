"""The class people subclass: override points, and the parts it holds together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from looplab import optimization
from looplab import strategy as replication
from looplab.callbacks import Callback, CallbackList, adapt
from looplab.checkpoint import Policy, Store, read
from looplab.checkpoint.warm_start import WarmStart, refuse_parts
from looplab.checkpoint.weights import Weights
from looplab.data import (
    GeneratedFeed,
    Validation,
    as_source,
    build_feed,
    check_labels,
    join,
    split_and_weigh,
    split_batch,
    validation_sets,
)
from looplab.errors import ConfigurationError, DataError, nearest
from looplab.execution import ChunkSize, check_mode, running
from looplab.interval import Interval
from looplab.loggers import History
from looplab.optimization import LossFunction
from looplab.optimization.losses import apply_loss, is_sparse, make_loss
from looplab.options import compatibility
from looplab.options import initialize_from as first_weights
from looplab.options.paths import local
from looplab.protocols import Feed, Logger, Summary
from looplab.strategy import precision as dtypes
from looplab.strategy import tree
from looplab.training import bad_step, nonfinite_policy, rehearsal
from looplab.training.audit import GlobalGenerators
from looplab.training.bad_step import Reproduced
from looplab.training.engine.engine import Engine
from looplab.training.engine.models import named
from looplab.training.fit import Fit, read_length, run_fit
from looplab.training.resume import check_names as check_allow_change
from looplab.training.run_state import Evaluation
from looplab.training.session import Session


class _Repeatable:
    """Remembers how it was made, so that `looplab.testing` can make it again with other options."""

    _made_by: partial[Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        made = super().__new__(cls)
        made._made_by = partial(cls, *args, **kwargs)
        return made


class Trainer(_Repeatable):
    """Trains a model, or several, with a step of your own or with none at all.

    Override, in the order of how much you take into your own hands: `compute_loss`; `train_step`
    with `minimize`; `make_batch`; and beside them `setup`, `test_step`, `predict_step`.

    `fit`, `evaluate` and `predict` run on the host. The step methods are traced into a
    `tf.function` and run on every replica, with that replica's rows of the global batch (in Python
    with `run_eagerly=True`). Before, each is traced once on placeholders, which makes all variables.

    Attributes:
        separable: Whether the loss of some examples does not depend on which others are in the batch. Say
            False in a subclass whose loss looks across it (negatives, contrasts, batch statistics of your
            own): it is then refused to be computed in micro-batches, which would be another loss. On several
            replicas such a loss sees the global batch through `all_gather`.
    """

    separable: bool = True

    def __init__(
        self,
        model: Any = None,
        optimizer: Any = None,
        loss: Any = None,
        metrics: Any = None,
        *,
        loss_weights: Mapping[str, float] | None = None,
        models: Mapping[str, Any] | None = None,
        optimizers: Mapping[str, Any] | None = None,
        strategy: str | tf.distribute.Strategy = "auto",
        precision: str = "float32",
        micro_batches: int | str = 1,
        seed: int = 0,
        callbacks: Sequence[Callback | keras.callbacks.Callback] = (),
        run_dir: str | Path | None = None,
        resume: str = "auto",
        allow_change: Sequence[str] = (),
        initialize_from: str | Path | Mapping[str, Any] | None = None,
        execution: str = "auto",
        steps_per_execution: int | str = "auto",
        run_eagerly: bool = False,
        jit_compile: bool = False,
        on_nonfinite: str = "stop",
        spikes: optimization.SpikeDetection | None = None,
        hang_timeout: str | None = None,
        batch_norm: str = "sync",
        parameter_groups: Mapping[str, Any] | None = None,
        checkpoint: Policy | None = None,
        log_every: str | int = "10st",
        loggers: Sequence[Logger] = (),
        hyperparameters: Mapping[str, Any] | None = None,
    ) -> None:
        """Makes everything that can be made without data; seeds all random generators.

        Args:
            model: A `keras.Model`, or a function without arguments that returns one.
            optimizer: A Keras name, an optimizer, or a function that returns one.
            loss: A Keras name, a `keras.losses.Loss`, or a function of `(y_true, y_pred)`; a dict
                of these by output, None for an output without a loss. Not needed where
                `compute_loss` or `train_step` is overridden.
            metrics: A list of Keras names, metrics or functions; a dict of lists by output. Objects are used
                as they are; on several replicas, or where one stands twice, they are made again from their
                configuration if that gives the same, and refused otherwise. So it is with optimizers.
            loss_weights: With a dict of losses, what each output's counts with in the whole; each is logged
                without its weight, as in Keras.
            models: Several models by name, instead of `model`.
            optimizers: Several optimizers by name; each trains the model of its name.
            strategy: `"auto"`, `"one_device"`, `"mirrored"`, `"simulated"` (two replicas), `"tpu"`, or a
                `tf.distribute.Strategy` such as `looplab.strategy.simulated(3)`.
            precision: `"float32"`, `"float64"`, `"mixed_bfloat16"` or `"mixed_float16"`.
            micro_batches: In how many pieces each update computes its gradients, at least 1; `"auto"` finds
                the fewest whose step fits in a GPU's memory.
            seed: Decides initial weights, masks and the order of data; 0 to 2**32 - 1.
            callbacks: `looplab.Callback` and `keras.callbacks.Callback` objects.
            run_dir: Where the run is recorded and resumed from; None writes nothing.
            resume: `"auto"` continues the run in `run_dir`, `"never"` refuses to.
            allow_change: What may differ when it does: `"topology"`, the number of replicas (free where steps
                draw no random numbers), `"config"`, what optimizers were made with, `"data"`, `"code"`, what
                a step computes.
            initialize_from: What a new run takes its first weights from: the folder of a checkpoint, a run
                directory (its best checkpoint, averages where it evaluated with them), or a `.weights.h5` or
                `.keras` file, of which only weights are read. All weights of the models must be there, with
                their shapes. `{"path": ..., "map": {here: there}, "skip": patterns, "partial": patterns}`
                says what is called otherwise there, what keeps its own initial value, and what may be
                missing; see `looplab.options.initialize_from.InitializeFrom`. The optimizer, the step and
                metrics begin anew. A run that continues does not look at it.
            execution: How steps run: `"auto"` measures the ways there are when training begins, and takes
                the fastest (see `looplab.execution.autotune`); `"graph"` is a loop in the graph, `"xla_step"`
                the same with its step compiled by XLA, `"xla_loop"` a loop that XLA compiles whole.
            steps_per_execution: How many steps run in one call, or `"auto"`. No result depends on
                it.
            run_eagerly: Whether steps run in Python, where a breakpoint works.
            jit_compile: As in Keras; True means `execution="xla_step"`.
            on_nonfinite: What happens when the loss or a gradient is not finite, at most 10 times in a run:
                `"stop"` does not make the update and ends the run, saved as it was before that step;
                `"skip"` goes on with the next batch; `"rollback"` goes back to the newest checkpoint and
                trains on from there with half the learning rate. `"ignore"` makes it and says it once.
            spikes: What happens when the loss leaps up, by the same words, counted together; None does not
                look.
            hang_timeout: For how long training may not move, such as `"60min"`; a process beside it ends it
                then, with what each thread does in `log.txt`, and exit status 138. None for ever.
            batch_norm: What BatchNormalization sees on several replicas: `"sync"` the global batch, so that
                the update is that of one device; `"local"` its replica's rows, which is faster and depends
                on the number of replicas (moving statistics are averaged, weighted by rows).
            parameter_groups: `looplab.ParameterGroup`s, or dicts of their attributes, by any name: rates and
                weight decays of variables chosen by pattern. Every variable that is trained must be in
                one. With several optimizers such a dict for each of them, by name.
            checkpoint: When to save and what to keep.
            log_every: The interval of steps whose own values are logged.
            loggers: Where records go beside `metrics.jsonl`, TensorBoard and the console, such as
                `looplab.loggers.Csv()`. One that fails is left out from then on, with a warning.
            hyperparameters: What the run is compared with others by, nested or flat: rows of
                TensorBoard's HParams page, the configuration of a tracker. Secrets are left out.

        Raises:
            ConfigurationError: If arguments cannot work, or do not go together.
        """
        if micro_batches != "auto" and not (isinstance(micro_batches, int) and micro_batches >= 1):
            raise ConfigurationError(f"micro_batches: must be 'auto' or at least 1, got {micro_batches!r}.")
        if not 0 <= seed < 2**32:
            raise ConfigurationError(f"seed: must be from 0 to 2**32 - 1, got {seed}.")
        spikes = spikes or optimization.SpikeDetection()
        if batch_norm not in ("sync", "local"):
            raise ConfigurationError(f"batch_norm: {batch_norm!r} is not one of 'sync', 'local'.")
        self._callbacks = adapt(callbacks)
        CallbackList(self._callbacks)  # refuses what is none
        self._run_dir = local(run_dir, "run_dir") if run_dir is not None else None
        nonfinite_policy.check(on_nonfinite, spikes, self._run_dir)
        self._resume = resume
        self._initial: WarmStart | None = None
        if initialize_from is not None:
            self._initial = WarmStart(first_weights.read(initialize_from, run_dir))
        self._policy = checkpoint or Policy()
        self._log_every = Interval.parse(log_every, what="log_every")
        if self._log_every.wall_clock:
            raise ConfigurationError(
                f"log_every: {log_every!r} is wall-clock time, and what is logged must be reproducible. "
                "Use steps, epochs or examples."
            )
        strangers = [type(logger).__name__ for logger in loggers if not isinstance(logger, Logger)]
        if strangers:
            raise ConfigurationError(f"loggers: {', '.join(strangers)} is no looplab.Logger.")
        self._hang_timeout, self._on_nonfinite = hang_timeout, on_nonfinite
        self._allow_change = check_allow_change(allow_change)
        self._loggers, self._hyperparameters = list(loggers), dict(hyperparameters or {})
        optimizers = named(optimizer, optimizers, "optimizer")
        self._made: Any = None  # the shapes of make_batch, once they are known
        self._engine = Engine(
            strategy=replication.build(strategy),
            precision=dtypes.check(precision),
            seed=seed,
            models=named(model, models, "model"),
            optimizers=optimizers,
            metrics=metrics,
            mode="xla_step" if jit_compile else check_mode(execution),
            run_eagerly=run_eagerly,
            pace=ChunkSize(steps_per_execution),
            micro_batches=micro_batches,
            separable=self.separable,
            guarded=on_nonfinite != "ignore",
            spikes=spikes,
            batch_norm_policy=batch_norm,
            groups=optimization.read_groups(parameter_groups, list(optimizers)),
        )
        with self._engine.scope():
            self._loss = make_loss(loss, loss_weights)
        self._sparse = is_sparse(loss)

    @property
    def models(self) -> dict[str, keras.Model]:
        """Models by name."""
        return self._engine.models

    @property
    def model(self) -> Any:
        """The only model.

        Raises:
            ConfigurationError: If there is none, or several.
        """
        return self.models[self._name_of(self.models, None, "model")]

    @property
    def optimizers(self) -> dict[str, keras.optimizers.Optimizer]:
        """Optimizers by name."""
        return self._engine.optimizers

    @property
    def strategy(self) -> tf.distribute.Strategy:
        """What the trainer runs under."""
        return self._engine.strategy

    @property
    def seed(self) -> int:
        """What was given; make random numbers of your own from it and the step (`make_batch`)."""
        return self._engine.seed

    @property
    def num_replicas(self) -> int:
        """Over how many replicas each global batch is split."""
        return int(self.strategy.num_replicas_in_sync)

    @property
    def step(self) -> tf.Variable:
        """Completed steps, a scalar int64 variable; readable inside a step."""
        return self._engine.step

    # --- what a subclass overrides ---------------------------------------------------------------

    def setup(self) -> None:
        """Makes variables of your own (queues, target networks, baselines); saved like all others.

        Called once, eagerly, in the strategy's scope, before anything else; models that are built by
        their first call are not built yet (build those you want to copy). Assign what you make to
        attributes: variables, models, metrics, `tf.Module`s, `keras.random.SeedGenerator`s,
        `tf.random.Generator`s, and lists and dicts of these are found there. Random numbers from
        anything else (`tf.random.normal`, NumPy) are not saved: draw them from `step` and the seed.
        """

    def compute_loss(self, batch: Any, training: bool) -> Any:
        """Computes the loss of some examples. Unlike Keras' method it returns values, not a mean.

        Traced, per replica, perhaps on a slice of its rows: it must be a pure function of `batch`.
        The default calls the model, updates the metrics and applies the trainer's `loss`.

        Args:
            batch: A slice of the replica's rows.
            training: False in evaluation.

        Returns:
            Values, shape `[examples, ...]`, averaged over the global batch; or `(values, weights)`,
            a weighted mean; or a dict of these, whose means are added up. (The default returns
            `looplab.optimization.Term`s, sums with their weights, since Keras' reductions need
            them.)
        """
        inputs, targets, weights = split_batch(batch)
        _check_inputs(inputs)
        if self._loss is None:
            raise ConfigurationError(
                f"{type(self).__name__} has no loss: give Trainer(loss=...), or override "
                f"compute_loss or {'train_step' if training else 'test_step'}."
            )
        predictions = self.model(inputs, training=training)
        rows, valid = replication.batch_size(batch), running().valid
        terms = apply_loss(self._loss, targets, predictions, weights, rows, valid)
        self.update_metrics(targets, predictions)
        return terms

    def train_step(self, batch: Any) -> dict[str, Any]:
        """Makes the updates of one step. Traced, per replica.

        The default is one `minimize(self.compute_loss, batch)`.

        Args:
            batch: This replica's rows of the global batch.

        Returns:
            Scalars by name, to be logged. Those of `minimize` are those of the global batch; others
            are taken as means over the replica's rows and averaged over the global batch.
        """
        return self.minimize(self.compute_loss, batch)

    def test_step(self, batch: Any) -> dict[str, Any]:
        """Evaluates a batch. Traced, per replica.

        The default measures `compute_loss` with `training=False`.

        Args:
            batch: This replica's rows of the global batch.

        Returns:
            Scalars by name, as `train_step`.
        """
        return self.measure(self.compute_loss, batch)

    def predict_step(self, batch: Any) -> Any:
        """Predicts a batch. Traced, per replica.

        Args:
            batch: This replica's rows; a tuple is `(inputs, ...)`.

        Returns:
            Nested structure of tensors of shape `[examples, ...]`.
        """
        inputs, *_ = split_batch(batch)
        _check_inputs(inputs)
        return self.model(inputs, training=False)

    def make_batch(self, step: int) -> Any:
        """Makes the data of one step; override it for a trainer that gets none from outside.

        Called on the host, eagerly, just before the step runs, and once more at the start to learn
        the shapes. What it returns may depend on `step`, the seed and saved state only.

        Args:
            step: Completed steps.

        Returns:
            One global batch, a nested structure of arrays that share their first axis.
        """
        raise NotImplementedError

    # --- what a step calls -----------------------------------------------------------------------

    def minimize(
        self,
        loss_fn: LossFunction,
        batch: Any,
        name: str | None = None,
        *,
        variables: Sequence[Any] | None = None,
        when: Any = None,
    ) -> dict[str, tf.Tensor]:
        """Makes one update: the gradient of the loss over the global batch, clipped and applied.

        Inside `train_step`, per replica. The reference is one device with the whole batch: sums
        are divided once by their weight over all replicas and micro-batches.

        Args:
            loss_fn: Called as `loss_fn(batch, training=True)`; see `compute_loss` for its results.
            batch: This replica's rows, or some of them.
            name: The optimizer; a single one needs no name.
            variables: What to train; without them the model of the optimizer's name, or the only
                model there is.
            when: Scalar bool tensor, the same on all replicas (from `self.step`, say): where it is False
                all is computed and nothing is changed. Under `tf.cond` replicas could not meet.

        Returns:
            `{"loss": ...}` and the terms by name; with a name `{"<name>/loss": ...}`.

        Raises:
            ConfigurationError: If no optimizer or model is meant by this.
        """
        scope = running()
        scope.must_meet("minimize")
        optimizer = self._name_of(self.optimizers, name, "optimizer")
        model = self.models.get(optimizer, self.model if len(self.models) == 1 else None)
        if variables is None and model is None:
            raise ConfigurationError(
                f"minimize: optimizer {optimizer!r} trains the model of its name, and there is none; "
                f"models are {list(self.models)}. Give variables=..."
            )
        regularized = [model] if model is not None and variables is None else self._owners(variables)
        common = {"regularized": regularized, "examples": scope.examples}
        in_xla = self._engine.mode == "xla_step" and self.num_replicas > 1  # the gradients, apart
        if scope.purpose == "look":
            pieces = self._engine.micro_batches
            scalars = optimization.measure(
                loss_fn,
                batch,
                training=True,
                in_xla=in_xla,
                micro_batches=pieces,
                separable=self.separable,
                **common,
            )
            # Read after the call, which may just have built the model.
            self._engine.will_train(optimizer, _trainable(model, variables))
        else:
            scalars = optimization.update(
                loss_fn,
                batch,
                _trainable(model, variables),
                self.optimizers[optimizer],
                micro_batches=self._engine.micro_batches,
                jit=in_xla,
                when=when,
                loss_scale=self._engine.loss_scales.get(optimizer),
                **common,
            )
        if name is not None:
            scalars = scalars.renamed(f"{name}/")
        scope.note(scalars)
        return scalars.values

    def measure(self, loss_fn: LossFunction, batch: Any) -> dict[str, tf.Tensor]:
        """Computes a loss over the global batch and updates nothing: `minimize` for a `test_step`.

        Inside a step, per replica.

        Args:
            loss_fn: Called as `loss_fn(batch, training=False)`; see `compute_loss` for its results.
            batch: This replica's rows, or some of them.

        Returns:
            `{"loss": ...}`, with the penalties of all models, and the terms by name.
        """
        scope = running()
        scope.must_meet("measure")
        scalars = optimization.measure(
            loss_fn,
            batch,
            regularized=list(self.models.values()),
            examples=scope.examples,
            separable=self.separable,
        )
        scope.note(scalars)
        return scalars.values

    def apply_gradients(
        self,
        gradients: Sequence[tf.Tensor | None],
        variables: Sequence[Any],
        name: str | None = None,
        *,
        weight: Any,
    ) -> None:
        """Reduces, clips and applies gradients of your own tape; inside `train_step`, per replica.

        Args:
            gradients: Of the *sum* of weighted values over this replica's rows.
            variables: What they belong to.
            name: The optimizer; a single one needs no name.
            weight: Scalar, the sum of the weights (or the count) over this replica's rows; the
                gradients' sum over replicas is divided by its sum over replicas.
        """
        scope = running()
        scope.must_meet("apply_gradients")
        optimizer = self._name_of(self.optimizers, name, "optimizer")
        if scope.purpose == "look":
            self._engine.will_train(optimizer, variables)
            return
        whole = optimization.reduce_mean(gradients, weight)
        loss_scale = self._engine.loss_scales.get(optimizer)  # overflows are skipped here too
        optimization.apply(self.optimizers[optimizer], whole, variables, loss_scale=loss_scale)

    def update_metrics(self, targets: Any, predictions: Any) -> None:
        """Adds some examples to the trainer's metrics; inside a step, per replica.

        Args:
            targets: As the metrics expect them.
            predictions: The model's outputs.
        """
        scope = running()
        if scope.purpose == "look":
            self._engine.measurements.see(targets, predictions)
        else:
            self._engine.measurements.update(scope.purpose, targets, predictions, scope.valid)

    def all_gather(self, tensor: tf.Tensor) -> tf.Tensor:
        """Returns a tensor's rows of all replicas, shape `[global, ...]`; gradients flow back.

        Raises:
            ConfigurationError: In a loss that XLA compiles on each replica apart (`execution="xla_step"`).
        """
        scope = running()
        compatibility.check_collective("all_gather", in_xla=scope.in_xla)
        scope.must_meet("all_gather")
        return replication.all_gather(tensor)

    def reduce(self, value: Any, how: str = "sum") -> tf.Tensor:
        """Makes a replica's value that of the global batch; inside a step, per replica.

        Args:
            value: A tensor of the same shape on every replica.
            how: `"sum"` adds the replicas' values; `"mean"` takes each as a mean over its replica's rows,
                and gives the mean over all rows (a replica without rows counts for nothing).

        Raises:
            ConfigurationError: For another `how`; or in a loss that XLA compiles on each replica apart.
        """
        if how not in ("sum", "mean"):
            raise ConfigurationError(f"reduce: {how!r} is not one of 'sum', 'mean'.")
        scope, value = running(), tf.convert_to_tensor(value)
        compatibility.check_collective("reduce", in_xla=scope.in_xla)
        scope.must_meet("reduce")
        return scope.mean([value])[0] if how == "mean" else replication.reduce_sum([value])[0]

    # --- what a person calls ---------------------------------------------------------------------

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        *,
        sample_weight: Any = None,
        batch_size: int | None = None,
        epochs: int | None = None,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        validation_data: Any = None,
        validation_split: float | None = None,
        validation_freq: int | str = 1,
        validation_steps: int | None = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        verbose: str | int = "auto",
        callbacks: Sequence[Callback | keras.callbacks.Callback] = (),
    ) -> History:
        """Trains up to an epoch or a step of the run, continuing from where it stands.

        On the host. With a `run_dir` that holds checkpoints, the newest good one is restored first.

        Args:
            x: Arrays or a dict of arrays (inputs); a tuple `(inputs, targets[, sample_weight])`; or
                a `tf.data.Dataset` of batches. Nothing for a trainer with `make_batch`. A part that
                is None is absent, as in Keras: `(x, y, None)`, `{"a": y, "b": None}`. Steps see it as None.
            y: Targets, where `x` is only inputs.
            sample_weight: Weights of the examples, likewise.
            batch_size: Examples of a global batch of arrays; 32 if not given.
            epochs: The last epoch of the run (1 if nothing is said): a second `fit(epochs=5)` has
                nothing left to do, `fit(epochs=8)` goes on. Epochs that are done stay done when it is given
                data of another length; one that was left in its middle is begun anew with the new data.
            steps: The last step of the run, instead of `epochs`.
            steps_per_epoch: Steps of an epoch, where it is not one pass over the data.
            validation_data: Evaluated at the end of each epoch; as `x`. Several sets are a dict of
                `looplab.Validation`s by name.
            validation_split: The part of the examples, above 0 and below 1, that is held out and evaluated
                instead of `validation_data`: the last ones, before any shuffling.
            validation_freq: Epochs between two evaluations, or an interval such as `"500st"`. At the
                end of training there is one in any case.
            validation_steps: Batches of an evaluation, the first ones each time; None for all.
            shuffle: Whether arrays, and all else that is read by index, come in a new order each epoch.
            class_weight: Weights of the training examples by the class of their target; 1 for a class that is
                not named.
            verbose: As in Keras: 0 nothing, 1 a progress bar, 2 a line per epoch; `"auto"` chooses.
            callbacks: More callbacks, after those of the constructor.

        Returns:
            The values of every epoch of the run. Its `learning_rate` is the one that the epoch's last step
            has used (Keras' callbacks log the one of the next step).

        Raises:
            ConfigurationError: If arguments do not go together.
            DataError: If the data cannot be trained on.
            CheckpointError: If what is in `run_dir` cannot be continued.
            DivergedError: If the loss or a gradient is not finite (`on_nonfinite="stop"`).
            Interrupted: If the person pressed Ctrl-C; everything up to then is saved. It is a
                `KeyboardInterrupt`, so `except Exception` does not go on with the next run.
            Terminated: Likewise, if the process was told to end (SIGTERM). It is a `SystemExit`: where nobody
                catches it, the process ends with 143.
        """
        # A second fit goes on, whatever `resume` says.
        begins = self._engine.progress is None and not int(self.step.numpy())
        with (
            dtypes.scope(self._engine.precision),
            Session(
                self._run_dir,
                verbose=verbose,
                resume=self._resume if begins else "auto",
                loggers=self._loggers,
                hyperparameters=self._hyperparameters,
                hang_timeout=self._hang_timeout,
            ) as session,
        ):
            with session.ledger.time("start/build"):
                asked = self._asked(
                    x,
                    y,
                    sample_weight=sample_weight,
                    batch_size=batch_size,
                    epochs=epochs,
                    steps=steps,
                    steps_per_epoch=steps_per_epoch,
                    validation_data=validation_data,
                    validation_split=validation_split,
                    validation_freq=validation_freq,
                    validation_steps=validation_steps,
                    shuffle=shuffle,
                    class_weight=class_weight,
                    callbacks=callbacks,
                )
            return run_fit(asked, session)

    def rehearse(self, x: Any = None, y: Any = None, **fit: Any) -> Summary:
        """Runs one step and one evaluation batch, and says what `fit` would do; on the host.

        Mistakes in the data, the step or the loss show here. Nothing is written, not even to a
        `run_dir`, and all variables are afterwards what they were. See `looplab.training.rehearsal`.

        Args:
            x: As in `fit`.
            y: As in `fit`.
            **fit: The other arguments of `fit`, except `verbose`.

        Raises:
            LossError: If the loss of the step or of the evaluation is not finite.
        """
        with dtypes.scope(self._engine.precision):
            return rehearsal.rehearse(self._asked(x, y, **fit))

    def replay(self, folder: str | Path, x: Any = None, y: Any = None, **fit: Any) -> Reproduced:
        """Runs a step again that was not finite, from what a run wrote down of it; on the host.

        Nothing is written, and all variables are afterwards what they were. See `looplab.training.bad_step`.

        Args:
            folder: Of the step, such as `"runs/mine/bad_steps/step-00000003"`.
            x: As in `fit`: its shapes are needed.
            y: As in `fit`.
            **fit: The other arguments of `fit`, except `verbose`.

        Raises:
            CheckpointError: If it is damaged, or does not fit this trainer.
        """
        with dtypes.scope(self._engine.precision):
            return bad_step.reproduce(self._asked(x, y, **fit), local(folder, "folder"))

    def build(self, x: Any = None, y: Any = None, *, batch_size: int | None = None) -> None:
        """Makes every variable of the models that training needs; trains nothing. On the host.

        `fit`, `evaluate` and `predict` make those that they need themselves. It is for looking at a model
        before, and for restoring one of which evaluation or prediction call only some layers.

        Args:
            x: As in `fit`; a few examples do, of the shapes and dtypes of all.
            y: As in `fit`.
            batch_size: As in `fit`.
        """
        with dtypes.scope(self._engine.precision):
            feed = self._feed(join(x, y), batch_size)
            self._engine.build(self.train_step, feed, self)

    def restore(self, checkpoint: str | Path | int = "best") -> Path:
        """Takes the weights of a checkpoint, for evaluating, predicting, or training from there on.

        Restored are models and what `setup` and steps keep on the trainer: at once where they are built,
        else as soon as they are. Optimizers, metrics, the data's position and the step are not: to go on
        with a run exactly, give its `run_dir` and call `fit`, which restores all of its last checkpoint,
        whatever was restored before. Without a run to continue, `fit` begins with the restored weights.

        Args:
            checkpoint: `"best"`, `"last"` or a step of the trainer's own `run_dir`; or the folder of any
                checkpoint, such as `"runs/mine/checkpoints/step-00000100"`.

        Returns:
            The checkpoint's folder.

        Raises:
            ConfigurationError: If there is no such checkpoint.
            CheckpointError: If it is damaged, or does not fit the models.
        """
        if isinstance(checkpoint, Path) or "/" in str(checkpoint):
            path = local(str(checkpoint), "checkpoint")
            arrays = read(path)
        elif self._run_dir is None:
            raise ConfigurationError(
                f"restore: {checkpoint!r} is looked for in the run_dir, and this trainer has none. Give the "
                "folder of a checkpoint, such as 'runs/mine/checkpoints/step-00000100'."
            )
        else:
            path, arrays, _ = Store(self._run_dir / "checkpoints").find(checkpoint)
        self._engine.set_up(self.setup, self)
        self._engine.restore_weights(Weights(path, arrays), self)
        if self._run_dir is not None:
            self._engine.progress = None  # the next fit goes back to the run's last checkpoint
        return path

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        *,
        sample_weight: Any = None,
        batch_size: int | None = None,
        steps: int | None = None,
    ) -> dict[str, float]:
        """Evaluates on a whole set, every example once; on the host.

        A trainer with a `run_dir` that has neither trained nor restored anything in this process uses
        the newest checkpoint.

        Args:
            x: As in `fit`.
            y: As in `fit`.
            sample_weight: As in `fit`.
            batch_size: Examples of a global batch of arrays; 32 if not given. The result does not
                depend on it, but for a loss that is a sum, or has terms of different weights.
            steps: How many batches, the first ones; None for all.

        Returns:
            The loss and the metrics by name: means over the set, weighted by examples (or by the
            loss's own weights). Unlike Keras' method it returns a dict always.
        """
        with dtypes.scope(self._engine.precision):
            feed = self._feed(join(x, y, sample_weight), batch_size, steps_per_epoch=steps)
            self._prepare("test", feed)
            self._restore_newest()
            values = self._engine.evaluator(feed)()
            assert values is not None  # nobody gives up here
            return values

    def predict(self, x: Any, *, batch_size: int | None = None, steps: int | None = None) -> Any:
        """Predicts every example once, in order; on the host. All predictions are kept in memory.

        A trainer with a `run_dir` that has neither trained nor restored anything in this process uses
        the newest checkpoint.

        Args:
            x: As in `fit`; of a tuple only the inputs are used.
            batch_size: Examples of a global batch of arrays; 32 if not given.
            steps: How many batches, the first ones; None for all.

        Returns:
            What `predict_step` returns, as NumPy arrays of shape `[examples, ...]`; what is None stays so.

        Raises:
            DataError: If the outputs of batches cannot be joined.
        """
        parts = list(self.predict_batches(x, batch_size=batch_size, steps=steps))
        try:
            return tree.map_structure(lambda *rows: np.concatenate(rows), *parts)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"the predictions of the batches cannot be joined: {error} Let predict_step return "
                "outputs of one form and shape, or take them batch by batch (predict_batches)."
            ) from error

    def predict_batches(
        self, x: Any, *, batch_size: int | None = None, steps: int | None = None
    ) -> Iterator[Any]:
        """Predicts as `predict`, batch after batch, so that memory holds one of them at a time.

        `looplab.predictions.write("predictions.parquet", trainer.predict_batches(x))` puts them on disk.

        Args:
            x: As in `predict`.
            batch_size: As in `predict`.
            steps: As in `predict`.

        Returns:
            An iterator over what `predict_step` returns for each batch, as NumPy arrays of shape
            `[examples, ...]`. Mistakes in the arguments show at the call, not at the first batch.
        """
        with dtypes.scope(self._engine.precision):
            feed = self._feed(x, batch_size, steps_per_epoch=steps)
            self._prepare("predict", feed)
            self._restore_newest()
            return self._engine.predictions(feed)

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Gives the models their averaged weights within the block, to save or export them; on the host.

        Of an optimizer with `use_ema=True`; without one nothing changes. `evaluate`, `predict` and the
        evaluations of `fit` do it by themselves. Moving statistics (BatchNormalization) stay as they are.
        """
        with self._engine.averaged():
            yield

    # --- how it is held together -----------------------------------------------------------------

    def _feed(
        self, data: Any, batch_size: int | None, shuffle: bool = False, steps_per_epoch: int | None = None
    ) -> Feed:
        if steps_per_epoch is not None and steps_per_epoch < 1:
            raise ConfigurationError(f"steps_per_epoch: must be at least 1, got {steps_per_epoch}.")
        self._engine.set_up(self.setup, self)
        if data is None and type(self).make_batch is not Trainer.make_batch:
            with self._engine.scope():  # it may call a model that is not built yet
                feed = GeneratedFeed(self.make_batch, steps_per_epoch, self._made)
            self._made = feed.element_spec
            return feed
        return build_feed(
            data,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=self._engine.seed,
            steps_per_epoch=steps_per_epoch,
            device=replication.home(self._engine.strategy),
        )

    def _asked(
        self,
        x: Any,
        y: Any,
        *,
        sample_weight: Any = None,
        batch_size: int | None = None,
        epochs: int | None = None,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        validation_data: Any = None,
        validation_split: float | None = None,
        validation_freq: int | str = 1,
        validation_steps: int | None = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        callbacks: Sequence[Callback | keras.callbacks.Callback] = (),
    ) -> Fit:
        """Prepares all that a fit needs."""
        data, validation_data = split_and_weigh(
            join(x, y, sample_weight), validation_data, validation_split, class_weight
        )
        sets = validation_sets(validation_data, validation_freq, validation_steps)
        for each in sets.values():
            _ = each.interval  # refused before anything is built
        self._engine.set_up(self.setup, self)
        generators = GlobalGenerators()
        feed = self._feed(data, batch_size, shuffle, steps_per_epoch)
        drawn = generators.drawn()
        length = read_length(epochs, steps, feed.steps_per_epoch)
        self._prepare("train", feed)
        if self._engine.splits and not tf.config.list_logical_devices("GPU"):
            raise ConfigurationError(
                "micro_batches: 'auto' looks for what fits in a GPU's memory, and there is no GPU. By its "
                f"graph a step needs: {rehearsal.memory_of(self._engine, feed)}. Give a number."
            )
        self._check_labels(feed, "training")
        evaluations = tuple(self._evaluation(name, each, batch_size) for name, each in sets.items())
        everyone = CallbackList([*self._callbacks, *callbacks])
        initialize = None if self._initial is None else self._initialize
        return Fit(
            self._engine,
            feed,
            evaluations,
            length,
            everyone,
            self._policy,
            self._log_every,
            self._on_nonfinite,
            self._allow_change,
            initialize,
            owner=self,
            drawn=drawn,
        )

    def _evaluation(self, name: str, given: Validation, batch_size: int | None) -> Evaluation:
        """Prepares the evaluation of one validation set."""
        source = as_source(given.data)
        size = given.batch_size or (None if source.batched else batch_size)
        feed = self._feed(source, size, steps_per_epoch=given.steps)
        self._prepare("test", feed)
        self._check_labels(feed, name)
        evaluator = self._engine.evaluator(feed)
        return Evaluation(name, feed, given.interval, evaluator, lambda: self._engine.pictures)

    def _check_labels(self, feed: Feed, what: str) -> None:
        width = self._engine.measurements.width
        if self._sparse and width:
            check_labels(feed, width, what)

    def _prepare(self, purpose: str, feed: Feed) -> None:
        method = {"train": self.train_step, "test": self.test_step, "predict": self.predict_step}[purpose]
        self._engine.prepare(purpose, method, feed, self)

    def _restore_newest(self) -> None:
        """Takes the newest checkpoint's weights, or the first ones, where this process has none."""
        if self._engine.has_weights:
            return
        found = Store(self._run_dir / "checkpoints").newest() if self._run_dir is not None else None
        if found is not None:
            self._engine.restore_weights(Weights(found[0], found[1]), self)
        elif self._initial is not None:
            refuse_parts(self.models)
            self._initialize()

    def _initialize(self) -> str | None:
        """Gives a new run its first weights; what `restore` has given stays."""
        assert self._initial is not None
        if not self._engine.has_weights:
            self._engine.restore_weights(self._initial, self)
        return str(self._initial.source) if self._initial.lines() else None

    def _owners(self, variables: Sequence[Any] | None) -> list[keras.Model]:
        """Returns the models that hold some of the variables: their penalties count."""
        held = {id(variable) for variable in variables or ()}
        return [m for m in self.models.values() if held & {id(v) for v in m.trainable_variables}]

    def _name_of(self, named: Mapping[str, Any], name: str | None, what: str) -> str:
        if name is None and len(named) == 1:
            return next(iter(named))
        if name in named:
            return str(name)
        if not named:
            raise ConfigurationError(f"{type(self).__name__} has no {what}: give Trainer({what}=...).")
        if name is None:
            raise ConfigurationError(f"there are several {what}s, {list(named)}: name one.")
        raise ConfigurationError(
            f"there is no {what} {name!r}; there are {list(named)}." + nearest(name, named)
        )


def _check_inputs(inputs: Any) -> None:
    if inputs is None:
        raise DataError(
            "the data has no inputs: the first part of a batch is None. Give (inputs, targets), or override "
            "compute_loss and predict_step."
        )


def _trainable(model: Any, variables: Sequence[Any] | None) -> Sequence[Any]:
    return model.trainable_variables if variables is None else variables
