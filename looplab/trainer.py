"""The class that users subclass: what it takes, and what one calls from outside."""

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
    """Trains a model, or several, with a step of your own or with none at all.

    Override, in the order of how much you take into your own hands: `compute_loss`; `train_step`
    with `minimize`; `make_batch`; and beside them `setup`, `test_step`, `predict_step`.

    `fit`, `evaluate` and `predict` run on the host. The step methods are traced into a
    `tf.function` and run on every replica, with that replica's rows of the global batch (in Python
    with `run_eagerly=True`). Before, each is traced once on placeholders, which makes all variables.
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
        parameter_groups: Mapping[str, Any] | None = None,
        checkpoint: Policy | None = None,
        log_every: str | int = "10st",
        loggers: Sequence[Logger] = (),
        hyperparameters: Mapping[str, Any] | None = None,
    ) -> None:
        """Makes everything that can be made without data; seeds all random generators.

        Args:
            model: A `keras.Model`, or a function without arguments that returns one. Of one that is compiled
                the optimizer, loss, weights and metrics count where nothing else is given here, and
                `run_eagerly=True` and a number of `steps_per_execution`; `jit_compile` does not.
            optimizer: A Keras name, an optimizer, or a function that returns one.
            loss: A Keras name, a `keras.losses.Loss`, or a function of `(y_true, y_pred)`, for every output;
                a dict of these by output or a list, None for an output without a loss. Not needed where
                layers call `add_loss`, or `compute_loss` or `train_step` is overridden.
            metrics: A list of Keras names, metrics or functions; a dict or list of lists by output. They do
                not see sample weights, as in Keras. Objects are used as they are, or made again from their
                configuration where they must be (several replicas).
            loss_weights: What the loss counts with in the whole, or that of each output in the form of
                `loss`; each is logged as `<output>_loss`, without its weight, as in Keras.
            weighted_metrics: As `metrics`, weighted by sample and class weights.
            models: Several models by name, instead of `model`; one `optimizer` trains them all.
            optimizers: Several optimizers by name; each trains the model of its name. One that trains several
                is named with them: `{"adam": ["encoder", "decoder"]}`, or with an optimizer of any kind
                `{"both": (keras.optimizers.Adam(3e-4), ["encoder", "decoder"])}`.
            strategy: `"auto"`, `"one_device"`, `"mirrored"`, `"simulated"` (two replicas), `"tpu"`, or a
                `tf.distribute.Strategy` such as `looplab.strategy.simulated(3)`.
            precision: `"float32"`, `"float64"`, `"mixed_bfloat16"`, `"mixed_float16"`; None: Keras' global.
            seed: Decides initial weights, masks and the order of data; 0 to 2**32 - 1.
            callbacks: `looplab.Callback` and `keras.callbacks.Callback` objects.
            run_dir: Where the run is recorded and resumed from; None writes nothing.
            initialize_from: What a new run takes its first weights from, and nothing else: the folder of a
                checkpoint, a run directory (its best checkpoint, averages where it evaluated with them), or a
                `.weights.h5` or `.keras` file. Or `{"path": ..., "map": {here: there}, "skip": patterns,
                "partial": patterns}`; see `looplab.options.initialize_from.InitializeFrom`.
            execution: A mode, see `looplab.options.execution.Execution`; or one of these, with all settings
                of how steps run.
            on_nonfinite: When the loss or a gradient is not finite: `"stop"` makes no update and ends the
                run, saved as before that step; `"skip"` goes on with the next batch; `"rollback"` goes back
                to the newest checkpoint and on at half the rate, 10 times at most; `"ignore"` only says it.
            spikes: What happens when the loss leaps up, by the same words; None does not look.
            parameter_groups: `looplab.ParameterGroup`s by any name, or dicts of their attributes; with
                several optimizers such a dict for each of them, by name.
            checkpoint: When to save and what to keep.
            jit_compile: True is `execution="xla_step"`: XLA compiles each step, as in Keras.
            steps_per_execution: Steps in one call, or `"auto"`; no result depends on it.
            run_eagerly: Whether steps run in Python, where a breakpoint works.
            micro_batches: In how many pieces an update computes its gradients, or `"auto"`.
            batch_norm: What BatchNormalization sees on several replicas; see `options.distribution`.
            resume: `"auto"` continues the run in `run_dir`, `"never"` refuses to.
            allow_change: What may differ when it does; see `looplab.options.recording.Recording`.
            hang_timeout: For how long training may not move, such as `"60min"`; None for ever.
            log_every: The interval of steps whose own values are logged.
            loggers: Where records go besides, such as `looplab.loggers.Csv()`.
            hyperparameters: What the run is compared with others by, nested or flat; without secrets.

        Raises:
            ConfigurationError: If arguments cannot work, or do not go together.
        """
        how = read_execution(
            execution,
            jit_compile,
            steps_per_execution=steps_per_execution,
            run_eagerly=run_eagerly,
            micro_batches=micro_batches,
        )
        seed = bounds.whole("seed", seed, bounds.SEED)
        adapted = adapt(callbacks)
        CallbackList(adapted)  # refuses what is none
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
            distribution=Distribution(strategy, batch_norm, precision),
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
        """Trains up to an epoch or a step of the run, continuing from where it stands.

        On the host. With a `run_dir` that holds checkpoints, the newest good one is restored first.

        Args:
            x: Arrays or a dict of arrays (inputs); a tuple `(inputs, targets[, sample_weight])`; or
                a `tf.data.Dataset` of batches. Nothing for a trainer with `make_batch`. A part that
                is None is absent, as in Keras: `(x, y, None)`, `{"a": y, "b": None}`. Steps see it as None.
            y: Targets, where `x` is only inputs.
            sample_weight: Weights of the examples.
            batch_size: Examples of a global batch of arrays; 32 if not given.
            epochs: The last epoch of the run (1 if nothing is said): a second `fit(epochs=5)` has
                nothing left to do, `fit(epochs=8)` goes on. Epochs that are done stay done when it is given
                data of another length; one that was left in its middle is begun anew with the new data.
            steps: The last step of the run, instead of `epochs`.
            steps_per_epoch: Steps of an epoch, where it is less than one pass over the data, or the data has
                no end. The next epoch goes on in the data where this one stopped.
            validation_data: Evaluated after each epoch; as `x`, or a dict of `looplab.Validation`s by name.
            validation_split: The part of the examples, above 0 and below 1, that is held out and evaluated
                instead of `validation_data`: the last ones, before any shuffling.
            validation_freq: A number n for each n-th epoch, as in Keras; or an interval (`"500st"`, `"5ep"`),
                with which the end of training is evaluated too.
            validation_steps: Batches of an evaluation, the first ones each time; None for all.
            validation_batch_size: Examples of a batch of validation arrays; `batch_size` if not given.
            initial_epoch: Epochs that count as done where the run begins, as in Keras: the first one that it
                trains is the one after them. A run that goes on stands there, or has begun there.
            shuffle: Whether arrays, and all else that is read by index, come in a new order each epoch.
            class_weight: Weights of the training examples by the class of their target; 1 if not named.
            verbose: 0 shows nothing, 1 a progress bar, 2 a line per epoch; `"auto"` chooses.
            callbacks: More callbacks, after those of the constructor.

        Returns:
            The values of every epoch of the run. Its `learning_rate` is the one that the epoch's last step
            has used (Keras' callbacks log the one of the next step).

        Raises:
            ConfigurationError: If arguments do not go together.
            DataError: If the data cannot be trained on.
            CheckpointError: If what is in `run_dir` cannot be continued.
            DivergedError: If the loss or a gradient is not finite (`on_nonfinite="stop"`).
            Interrupted: At Ctrl-C, with everything saved. It is a `KeyboardInterrupt`.
            Terminated: At SIGTERM, likewise. It is a `SystemExit`: the process ends with 143.
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
        """Evaluates on a whole set, every example once; on the host.

        A trainer with a `run_dir` that has neither trained nor restored anything in this process uses
        the newest checkpoint.

        Args:
            x: Arrays or a dict of arrays (inputs); a tuple `(inputs, targets[, sample_weight])`; or
                a `tf.data.Dataset` of batches.
            y: Targets, where `x` is only inputs.
            sample_weight: Weights of the examples.
            batch_size: Examples of a global batch of arrays; 32 if not given. The result does not
                depend on it, but for a loss that is a sum, or has terms of different weights.
            steps: How many batches, the first ones; None for all.
            callbacks: Of Keras, told as in Keras; one with hooks for batches has one batch run at a time.

        Returns:
            The loss and the metrics by name: means over the set, weighted by examples (or by the
            loss's own weights). Unlike Keras' method it returns a dict always.
        """
        self._engine.recipe.check_compiled()
        with dtypes.scope(self._engine.precision):
            how = {"sample_weight": sample_weight, "batch_size": batch_size, "steps": steps}
            return self._preparation.methods.evaluate(x, y, **how, callbacks=callbacks)

    def predict(
        self, x: Any, *, batch_size: int | None = None, steps: int | None = None, callbacks: Any = ()
    ) -> Any:
        """Predicts every example once, in order, with weights as of `evaluate`; on the host, all in memory.

        Args:
            x: Arrays, a dict of arrays or a `tf.data.Dataset`; of a tuple only the inputs are used.
            batch_size: Examples of a global batch of arrays; 32 if not given.
            steps: How many batches, the first ones; None for all.
            callbacks: Of Keras; `on_predict_batch_end` finds the batch's predictions in its logs.

        Returns:
            What `predict_step` returns, as NumPy arrays of shape `[examples, ...]`; what is None stays so.

        Raises:
            DataError: If the outputs of batches cannot be joined.
        """
        with dtypes.scope(self._engine.precision):
            return joined(self._preparation.methods.predict_batches(x, batch_size, steps, callbacks))

    def predict_batches(
        self, x: Any, *, batch_size: int | None = None, steps: int | None = None
    ) -> Iterator[Any]:
        """Predicts every example once, in order; gives batch after batch, so that memory holds only one.

        `looplab.predictions.write("predictions.parquet", trainer.predict_batches(x))` puts them on disk.

        Args:
            x: Arrays, a dict of arrays or a `tf.data.Dataset`; of a tuple only the inputs are used.
            batch_size: Examples of a global batch of arrays; 32 if not given.
            steps: How many batches, the first ones; None for all.

        Returns:
            An iterator over what `predict_step` returns for each batch, as NumPy arrays `[examples, ...]`.
        """
        with dtypes.scope(self._engine.precision):
            return self._preparation.methods.predict_batches(x, batch_size, steps)

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Gives the models their averaged weights within the block, to save or export them; on the host.

        Those of an optimizer with `use_ema=True`, as in `evaluate`, `predict` and the evaluations of `fit`;
        without one nothing changes. Moving statistics (BatchNormalization) stay as they are.
        """
        with self._engine.weights.averaged():
            yield
