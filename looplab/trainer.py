"""The class that users subclass: its arguments, and the methods that a user calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from looplab.callbacks import Callback, CallbackList, adapt
from looplab.checkpoint import Policy
from looplab.checkpoint.warm_start import WarmStart
from looplab.errors import EndRequested
from looplab.loggers import History
from looplab.options import bounds
from looplab.options import initialize_from as first_weights
from looplab.options.distribution import Distribution
from looplab.options.execution import Execution, read_execution
from looplab.options.recording import Recording
from looplab.options.safeguards import Safeguards, SpikeDetection
from looplab.protocols import Logger
from looplab.runs.agreement import Alone
from looplab.strategy import precision as dtypes
from looplab.targets import configurable
from looplab.training import display
from looplab.training.engine.engine import Engine
from looplab.training.engine.models import named, trained_models
from looplab.training.engine.recipe import Recipe
from looplab.training.evaluation import joined
from looplab.training.fit import fit
from looplab.training.preparation import Preparation
from looplab.training.session import shorten
from looplab.training.step_methods import StepMethods, hooks_beside
from looplab.training.trainer_parts import Repeatable
from looplab.training.trials import Trials


@configurable
class Trainer(display.Displayed, Repeatable, Trials, StepMethods):
    """Trains one or several models, with a custom training step or the default one.

    Override a method for more control, in this order: `compute_loss`; `train_step` with `minimize`;
    `make_batch`. `setup`, `test_step` and `predict_step` can be overridden too.

    `fit`, `evaluate` and `predict` run on the host. The step methods are traced into a `tf.function` and run
    on every replica, with that replica's rows of the global batch (in Python with `run_eagerly=True`).
    looplab first traces each of them once on placeholders, which creates all variables.
    """

    def __init__(
        self,
        model: Any = None,
        optimizer: Any = None,
        loss: Any = None,
        metrics: Any = None,
        *,
        loss_weights: Any = None,
        weighted_metrics: Any = None,
        models: Mapping[str, Any] | None = None,
        optimizers: Mapping[str, Any] | None = None,
        strategy: str | tf.distribute.Strategy = "auto",
        precision: str | None = None,
        micro_batches: int | str = 1,
        recompute: str | Sequence[str] = (),
        seed: int = 0,
        callbacks: Sequence[Callback | keras.callbacks.Callback] = (),
        run_dir: str | Path | None = None,
        resume: str = "auto",
        allow_change: Sequence[str] = (),
        initialize_from: str | Path | Mapping[str, Any] | None = None,
        execution: str | Execution = "auto",
        steps_per_execution: int | str = "auto",
        run_eagerly: bool = False,
        jit_compile: bool = False,
        on_nonfinite: str = "stop",
        spikes: SpikeDetection | None = None,
        hang_timeout: str | None = None,
        batch_norm: str = "sync",
        random: str = "rows",
        parameter_groups: Mapping[str, Any] | None = None,
        checkpoint: Policy | None = None,
        log_every: str | int = "10st",
        loggers: Sequence[Logger] = (),
        hyperparameters: Mapping[str, Any] | None = None,
    ) -> None:
        """Creates every object that needs no data, and seeds all random generators.

        Args:
            model: A `keras.Model`, or a function without arguments that returns one. A compiled model brings
                its optimizer, loss, weights and metrics, each unless it is given here; also
                `run_eagerly=True` and a number of `steps_per_execution`. Its `jit_compile` is not used.
            optimizer: A Keras name, an optimizer, or a function that returns one.
            loss: A Keras name, a `keras.losses.Loss`, or a function of `(y_true, y_pred)`, for every output;
                or a dict or list of these by output, with None for an output without a loss. It may be left
                out if layers call `add_loss`, or if `compute_loss` or `train_step` is overridden.
            metrics: A list of Keras names, metrics or functions; or a dict or list of lists by output. They
                ignore sample weights, as in Keras. Metric objects are used as they are, or are created again
                from their configuration if several replicas require it.
            loss_weights: The factor of the loss in the total loss, or a factor for each output in the form of
                `loss`. Each loss is logged as `<output>_loss` without its factor, as in Keras.
            weighted_metrics: Like `metrics`, but weighted by sample and class weights.
            models: Several models by name, instead of `model`; one `optimizer` trains them all.
            optimizers: Several optimizers by name; each trains the model of its name. For an optimizer that
                trains several models, give their names: `{"adam": ["encoder", "decoder"]}`, or with an
                optimizer of any kind `{"both": (keras.optimizers.Adam(3e-4), ["encoder", "decoder"])}`.
            strategy: `"auto"`, `"one_device"`, `"mirrored"`, `"simulated"` (two replicas), `"tpu"`, or a
                `tf.distribute.Strategy` such as `looplab.strategy.simulated(3)`.
            precision: `"float32"`, `"float64"`, `"mixed_bfloat16"`, `"mixed_float16"`; None is Keras' own.
            seed: Sets initial weights, masks and the order of the data; from 0 to 2**32 - 1.
            callbacks: `looplab.Callback` and `keras.callbacks.Callback` objects.
            run_dir: The directory in which the run is recorded and resumed; None writes nothing.
            initialize_from: The source of a new run's first weights, and of nothing else: the folder of a
                checkpoint, a run directory (its best checkpoint, with the averaged weights if the run
                evaluated with them), or a `.weights.h5` or `.keras` file. Or `{"path": ..., "map": {here:
                there}, "skip": patterns, "partial": patterns}`; see
                `looplab.options.initialize_from.InitializeFrom`.
            execution: A mode, see `looplab.options.execution.Execution`; or an `Execution` object, which
                holds all settings of how steps run.
            on_nonfinite: The reaction to a loss or gradient that is not finite: `"stop"` makes no update,
                saves the state before that step and ends the run; `"skip"` continues with the next batch;
                `"rollback"` returns to the newest checkpoint and continues with half the learning rate, at
                most 10 times; `"ignore"` only reports it.
            spikes: The reaction to a sudden rise of the loss, with the same policies; None disables it.
            parameter_groups: `looplab.ParameterGroup`s by any name, or dicts of their attributes; with
                several optimizers, one such dict for each optimizer, by name.
            checkpoint: When to save and what to keep.
            jit_compile: True means `execution="xla_step"`: XLA compiles each step, as in Keras.
            steps_per_execution: The number of steps in one call, or `"auto"`; results do not depend on it.
            run_eagerly: Whether steps run in Python, where a breakpoint works.
            micro_batches: The number of slices in which an update computes its gradients, or `"auto"`.
            recompute: Patterns of layers, such as `"block_*"`, that the backward pass computes again with the
                same random numbers, instead of keeping their results: less memory, more time.
            batch_norm: The statistics of BatchNormalization on several replicas; see `options.distribution`.
            random: `"rows"` gives a row of the global batch the same random numbers on any number of replicas
                and micro-batches, `"replicas"` lets each replica draw its own; see `options.distribution`.
            resume: `"auto"` continues the run in `run_dir`, `"never"` refuses to continue it.
            allow_change: The settings that may change in a continued run; see
                `looplab.options.recording.Recording`.
            hang_timeout: The longest time without progress, such as `"60min"`; None sets no limit.
            log_every: The interval of steps whose own values are logged.
            loggers: Further loggers of the run, such as `looplab.loggers.Csv()`.
            hyperparameters: Values that distinguish the run from others, nested or flat; without secrets.

        Raises:
            ConfigurationError: If an argument is invalid, or arguments exclude each other.
        """
        how = read_execution(
            execution,
            jit_compile,
            steps_per_execution=steps_per_execution,
            run_eagerly=run_eagerly,
            micro_batches=micro_batches,
            recompute=recompute,
        )
        seed = bounds.whole("seed", seed, bounds.SEED)
        adapted = adapt(callbacks)
        CallbackList(adapted)  # refuses objects that are not callbacks
        recording = Recording.read(
            run_dir, resume, allow_change, checkpoint, log_every, loggers, hyperparameters
        )
        spikes = spikes or SpikeDetection()
        safeguards = Safeguards(on_nonfinite, spikes, hang_timeout).check(recording.run_dir)
        first = None if initialize_from is None else first_weights.read(initialize_from, run_dir)
        models = named(model, models, "model")
        by_name = named(optimizer, optimizers, "optimizer")
        optimizers, trains = trained_models(by_name, models, every=optimizer is not None)
        self._engine = Engine(
            distribution=Distribution(strategy, batch_norm, precision, random),
            agreement=Alone(),
            safeguards=safeguards,
            seed=seed,
            models=models,
            recipe=Recipe(
                optimizers,
                how,
                trains=trains,
                loss=loss,
                loss_weights=loss_weights,
                metrics=metrics,
                weighted_metrics=weighted_metrics,
                parameter_groups=parameter_groups,
            ),
            hooks=hooks_beside(type(self)),
            separable=self.separable,
        )
        self._engine.traced.watch(trainer=self, loss=self._engine.recipe.loss)
        self._preparation = Preparation(
            self._engine,
            self,
            callbacks=adapted,
            recording=recording,
            safeguards=safeguards,
            initial=None if first is None else WarmStart(first),
        )

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
        validation_batch_size: int | None = None,
        initial_epoch: int = 0,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        verbose: str | int = "auto",
        callbacks: Sequence[Callback | keras.callbacks.Callback] = (),
    ) -> History:
        """Trains up to an epoch or a step of the run, and continues from its present step.

        Runs on the host. If `run_dir` holds checkpoints, `fit` restores the newest good one first.

        Args:
            x: Arrays or a dict of arrays (inputs); a tuple `(inputs, targets[, sample_weight])`; or a
                `tf.data.Dataset` of batches. Leave it out for a trainer with `make_batch`. A part that is
                None is absent, as in Keras: `(x, y, None)`, `{"a": y, "b": None}`. Steps receive None for it.
            y: The targets, if `x` holds only inputs.
            sample_weight: The weights of the examples.
            batch_size: The number of examples in a global batch of arrays; 32 by default.
            epochs: The last epoch of the run, 1 by default: a second `fit(epochs=5)` has nothing left to do,
                `fit(epochs=8)` continues. Finished epochs stay finished when the next data has another
                length; an epoch that was stopped in its middle starts again with the new data.
            steps: The last step of the run, instead of `epochs`.
            steps_per_epoch: The number of steps in an epoch, if it is less than one pass over the data, or if
                the data has no end. The next epoch continues in the data where this one stopped.
            validation_data: The data to evaluate after each epoch; in the form of `x`, or a dict of
                `looplab.Validation`s by name.
            validation_split: The fraction of the examples, above 0 and below 1, that is held out and
                evaluated instead of `validation_data`: the last examples, before any shuffling.
            validation_freq: A number n for every n-th epoch, as in Keras; or an interval (`"500st"`,
                `"5ep"`), which also evaluates at the end of training.
            validation_steps: The number of batches in an evaluation, always the first ones; None for all.
            validation_batch_size: The number of examples in a batch of validation arrays; `batch_size` by
                default.
            initial_epoch: The number of epochs that count as done when the run starts, as in Keras: the run
                trains from the epoch after them. A run that continues must stand there, or must have started
                there.
            shuffle: Whether arrays, and other sources that are read by index, come in a new order each epoch.
            class_weight: Weights of the training examples by the class of their target; 1 for a class
                that is not listed.
            verbose: 0 shows nothing, 1 a progress bar, 2 a line per epoch; `"auto"` chooses.
            callbacks: Further callbacks, which run after those of the constructor.

        Returns:
            The values of every epoch of the run. Its `learning_rate` is the rate that the last step of the
            epoch used (Keras' callbacks log the rate of the next step).

        Raises:
            ConfigurationError: If arguments exclude each other.
            DataError: If the data cannot be trained on.
            CheckpointError: If the run in `run_dir` cannot be continued.
            DivergedError: If the loss or a gradient is not finite (`on_nonfinite="stop"`).
            Interrupted: At Ctrl-C, after everything is saved. It is a `KeyboardInterrupt`.
            Terminated: At SIGTERM, after everything is saved. It is a `SystemExit`: the process ends with
                143.
        """
        try:
            return fit(
                self._preparation,
                x,
                y,
                verbose=verbose,
                sample_weight=sample_weight,
                batch_size=batch_size,
                epochs=epochs,
                steps=steps,
                steps_per_epoch=steps_per_epoch,
                validation_data=validation_data,
                validation_split=validation_split,
                validation_freq=validation_freq,
                validation_steps=validation_steps,
                validation_batch_size=validation_batch_size,
                initial_epoch=initial_epoch,
                shuffle=shuffle,
                class_weight=class_weight,
                callbacks=callbacks,
            )
        except EndRequested as end:
            shorten(end)
            raise

    def restore(self, checkpoint: str | Path | int = "best") -> Path:
        """Loads the weights of a checkpoint, to evaluate, to predict, or to start training from them.

        Restores the models and the variables that `setup` and steps keep on the trainer: at once if they are
        built, otherwise as soon as they are. Does not restore optimizers, metrics, the position in the data
        or the step. To continue a run exactly, give its `run_dir` and call `fit`, which restores its last
        checkpoint completely, whatever was restored before. Without a run to continue, `fit` starts with the
        restored weights.

        Args:
            checkpoint: `"best"`, `"last"` or a step of the trainer's own `run_dir`; or the folder of any
                checkpoint, such as `"runs/mine/checkpoints/step-00000100"`.

        Returns:
            The checkpoint's folder.

        Raises:
            ConfigurationError: If there is no such checkpoint.
            CheckpointError: If it is damaged, or does not fit the models.
        """
        return self._preparation.restore(checkpoint)

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        *,
        sample_weight: Any = None,
        batch_size: int | None = None,
        steps: int | None = None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> dict[str, float]:
        """Evaluates a whole set, every example once; runs on the host.

        If the trainer has a `run_dir` and has neither trained nor restored anything in this process, the
        newest checkpoint is used.

        Args:
            x: Arrays or a dict of arrays (inputs); a tuple `(inputs, targets[, sample_weight])`; or
                a `tf.data.Dataset` of batches.
            y: The targets, if `x` holds only inputs.
            sample_weight: The weights of the examples.
            batch_size: The number of examples in a global batch of arrays; 32 by default. The result does not
                depend on it, except for a loss that is a sum or that has terms with different weights.
            steps: The number of batches, the first ones; None for all.
            callbacks: Keras callbacks, called as in Keras; a callback with batch hooks makes batches run one
                at a time.

        Returns:
            The loss and the metrics by name: means over the set, weighted by examples (or by the loss's own
            weights). Unlike Keras' method it always returns a dict.
        """
        self._engine.recipe.check_compiled()
        with dtypes.scope(self._engine.precision):
            how = {"sample_weight": sample_weight, "batch_size": batch_size, "steps": steps}
            return self._preparation.methods.evaluate(x, y, **how, callbacks=callbacks)

    def predict(
        self, x: Any, *, batch_size: int | None = None, steps: int | None = None, callbacks: Any = ()
    ) -> Any:
        """Predicts every example once, in order, with the weights of `evaluate`; on the host, all in memory.

        Args:
            x: Arrays, a dict of arrays or a `tf.data.Dataset`; only the inputs of a tuple are used.
            batch_size: The number of examples in a global batch of arrays; 32 by default.
            steps: The number of batches, the first ones; None for all.
            callbacks: Keras callbacks; the logs of `on_predict_batch_end` hold the batch's predictions.

        Returns:
            The outputs of `predict_step`, as NumPy arrays of shape `[examples, ...]`; None stays None.

        Raises:
            DataError: If the outputs of batches cannot be joined.
        """
        with dtypes.scope(self._engine.precision):
            return joined(self._preparation.methods.predict_batches(x, batch_size, steps, callbacks))

    def predict_batches(
        self, x: Any, *, batch_size: int | None = None, steps: int | None = None
    ) -> Iterator[Any]:
        """Predicts every example once, in order; yields batch after batch, so memory holds only one.

        `looplab.predictions.write("predictions.parquet", trainer.predict_batches(x))` writes them to a file.

        Args:
            x: Arrays, a dict of arrays or a `tf.data.Dataset`; only the inputs of a tuple are used.
            batch_size: The number of examples in a global batch of arrays; 32 by default.
            steps: The number of batches, the first ones; None for all.

        Returns:
            An iterator over the outputs of `predict_step` per batch, as NumPy arrays `[examples, ...]`.
        """
        with dtypes.scope(self._engine.precision):
            return self._preparation.methods.predict_batches(x, batch_size, steps)

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Gives the models their averaged weights within the block, to save or export them; on the host.

        These are the averages of an optimizer with `use_ema=True`, which `evaluate`, `predict` and the
        evaluations of `fit` use. Without such an optimizer nothing changes. Moving statistics
        (BatchNormalization) stay as they are.
        """
        with self._engine.weights.averaged():
            yield
