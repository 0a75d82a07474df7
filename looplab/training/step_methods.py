"""The methods of a training step: those that a subclass overrides, and those that it calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from looplab import strategy as replication
from looplab.data import split_batch
from looplab.errors import ConfigurationError, DataError, nearest
from looplab.execution import Update, running
from looplab.optimization import LossFunction
from looplab.optimization.outputs import names_of
from looplab.options import compatibility
from looplab.training.engine.engine import Engine
from looplab.training.engine.keras_hooks import KerasHooks


class StepMethods:
    """The methods of a step, and the attributes of the trainer that they use; see `looplab.Trainer`.

    A step uses the present value of what it reads from Python: fields of the trainer and of its losses and
    metrics, the layers, and which layers are trainable. These may change between two fits and in callbacks:
    looplab notices a change, reports it once (`beta: 1.0 -> 2.0, step traced anew`), and traces the step
    again. A value that changes often costs nothing as a `tf.Variable` that `setup` creates. looplab does not
    notice changes in global variables and closures, within arrays above 4 MiB, and in containers of more than
    10,000 entries. Checkpoints hold fields that are numbers, strings, arrays, and lists and dicts of these.

    Attributes:
        separable: Whether the loss of an example is independent of the other examples. Set it to False for a
            loss that compares examples (negatives, contrasts): looplab then refuses micro-batches.
    """

    separable: bool = True
    _engine: Engine

    @property
    def models(self) -> dict[str, keras.Model]:
        """The models by name."""
        return self._engine.models

    @property
    def model(self) -> Any:
        """The only model.

        Raises:
            ConfigurationError: If there is no model, or several.
        """
        return self.models[self._name_of(self.models, None, "model")]

    @property
    def optimizers(self) -> dict[str, keras.optimizers.Optimizer]:
        """The optimizers by name."""
        return self._engine.optimizers

    @property
    def optimizer(self) -> Any:
        """The only optimizer.

        Raises:
            ConfigurationError: If there is no optimizer, or several.
        """
        return self.optimizers[self._name_of(self.optimizers, None, "optimizer")]

    @property
    def strategy(self) -> tf.distribute.Strategy:
        """The strategy under which the trainer runs."""
        return self._engine.strategy

    @property
    def seed(self) -> int:
        """The given seed; derive random numbers in `make_batch` from it and the step."""
        return self._engine.seed

    @property
    def num_replicas(self) -> int:
        """The number of replicas that share each global batch."""
        return int(self.strategy.num_replicas_in_sync)

    @property
    def step(self) -> tf.Variable:
        """The number of completed steps, a scalar int64 variable; a step can read it."""
        return self._engine.step

    # --- to override ------------------------------------------------------------------------------

    def setup(self) -> None:
        """Creates a subclass's variables (queues, target networks, baselines); all of them are saved.

        looplab calls it once, eagerly, in the strategy's scope, before anything else. Models that are built
        by their first call are not built yet; build a model here to copy it. Assign the new objects to
        attributes: looplab finds variables, models, metrics, `tf.Module`s, seed generators, and lists and
        dicts of these. A metric is logged under its name and starts again with each epoch and evaluation; use
        a variable for a value that must last longer. Random numbers from other sources (`tf.random.normal`,
        NumPy) are not saved: derive them from `step` and the seed.
        """

    def compute_loss(self, batch: Any, training: bool) -> Any:
        """Computes the loss of some examples. Unlike Keras' method it returns values, not a mean.

        Traced, per replica, perhaps on a slice of its rows: it must be a pure function of `batch`.

        The default calls the model, updates the metrics and applies the trainer's `loss`; without one it uses
        the losses that layers give to `add_loss`. Each of several outputs has a term, `<output>_loss`.

        Args:
            batch: A slice of the replica's rows.
            training: False in evaluation.

        Returns:
            Values of shape `[examples, ...]`, averaged over the global batch; or `(values, weights)`, a
            weighted mean; or a dict of these, whose means are added. (The default returns
            `looplab.optimization.Term`s, sums with their weights, which Keras' reductions need.)
        """
        inputs, targets, weights = split_batch(batch)
        _check_inputs(inputs)
        model = self._only_model("compute_loss")
        predictions = model(inputs, training=training)
        terms: Any = {}
        if (losses := self._engine.losses) is not None:
            rows, valid, names = replication.batch_size(batch), running().valid, names_of(model)
            terms = losses(targets, predictions, weights, rows, valid, names)
        elif not _adds_losses(model):
            step = "train_step" if training else "test_step"
            raise ConfigurationError(
                f"{type(self).__name__} has no loss: give Trainer(loss=...) or a compiled model, call "
                f"add_loss in a layer, or override compute_loss or {step}."
            )
        self.update_metrics(targets, predictions, weights if self._engine.metrics.weigh else None)
        return terms

    def train_step(self, batch: Any) -> dict[str, Any]:
        """Makes the updates of one step. Traced, per replica.

        The default is one `minimize(self.compute_loss, batch)`.

        Args:
            batch: This replica's rows of the global batch.

        Returns:
            Scalars by name, to be logged. The scalars of `minimize` already cover the global batch; others
            are treated as means over the replica's rows and averaged over the global batch. The `result()` of
            a metric is logged as that metric over all examples of the epoch so far.
        """
        return self.minimize(self.compute_loss, batch)

    def test_step(self, batch: Any) -> dict[str, Any]:
        """Evaluates a batch. Traced, per replica.

        The default calls `measure` with `compute_loss` and `training=False`.

        Args:
            batch: This replica's rows of the global batch.

        Returns:
            Scalars by name, as in `train_step`.
        """
        return self.measure(self.compute_loss, batch)

    def predict_step(self, batch: Any) -> Any:
        """Predicts a batch. Traced, per replica.

        Args:
            batch: This replica's rows; a tuple is `(inputs, ...)`.

        Returns:
            A nested structure of tensors of shape `[examples, ...]`.
        """
        inputs, *_ = split_batch(batch)
        _check_inputs(inputs)
        return self._only_model("predict_step")(inputs, training=False)

    def make_batch(self, step: int) -> Any:
        """Makes the data of one step; override it for a trainer that gets no data from outside.

        Called on the host, eagerly, once for each step, just before the step runs. The batch of step 0 is
        made when `fit` begins, since its shapes must be known, and made again if weights are set after that.
        A run that resumes calls `make_batch(0)` for the shapes too, before its state is restored. What it
        returns may depend on `step`, the seed, and variables of `setup` and of models only: checkpoints hold
        no other state, such as that of an environment or a generator in a field.

        Args:
            step: The number of completed steps.

        Returns:
            One global batch, a nested structure of arrays that share their first axis.
        """
        raise NotImplementedError

    # --- called in a step -------------------------------------------------------------------------

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

        Runs inside `train_step`, per replica. The reference is one device with the whole batch: sums are
        divided once by their weight over all replicas and micro-batches.

        Args:
            loss_fn: Called as `loss_fn(batch, training=True)`; see `compute_loss` for its results.
            batch: This replica's rows, or some of them.
            name: The name of the optimizer; a single optimizer needs no name.
            variables: The variables to train; by default those of the models that the optimizer was
                given, otherwise of the model of its name, or of the only model.
            when: Scalar bool tensor, the same on all replicas, for example computed from `self.step`: if
                it is False, everything is computed and nothing is changed. Use it instead of `tf.cond`,
                in which replicas could not communicate.

        Returns:
            `{"loss": ...}` and the terms by name; with a name `{"<name>/loss": ...}`.

        Raises:
            ConfigurationError: If the arguments select no optimizer or no model.
        """
        scope = running()
        scope.must_meet("minimize")
        optimizer = self._name_of(self.optimizers, name, "optimizer")
        models = [self.models[model] for model in self._engine.recipe.trains[optimizer]]
        if variables is None and not models:
            raise ConfigurationError(
                f"minimize: optimizer {optimizer!r} trains the model of its name, and there is none; models "
                f"are {list(self.models)}. Give variables=..., or name its models: optimizers="
                f"{{{optimizer!r}: (optimizer, {list(self.models)})}}."
            )
        regularized = models if variables is None else self._owners(variables)
        trained = partial(_trainable, models, variables)
        scalars = scope.minimize(
            Update(optimizer, loss_fn, batch, trained, regularized, self.separable, when)
        )
        if name is not None:
            scalars = scalars.renamed(f"{name}/")
        scope.note(scalars)
        return scalars.values

    def measure(self, loss_fn: LossFunction, batch: Any) -> dict[str, tf.Tensor]:
        """Computes a loss over the global batch without an update: the `minimize` of a `test_step`.

        Runs inside a step, per replica.

        Args:
            loss_fn: Called as `loss_fn(batch, training=False)`; see `compute_loss` for its results.
            batch: This replica's rows, or some of them.

        Returns:
            `{"loss": ...}`, with the penalties of all models, and the terms by name.
        """
        scope = running()
        scope.must_meet("measure")
        scalars = scope.measure(loss_fn, batch, list(self.models.values()), self.separable)
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
        """Reduces, clips and applies the gradients of a user's tape; inside `train_step`, per replica.

        Args:
            gradients: The gradients of the *sum* of weighted values over this replica's rows.
            variables: The variables of these gradients.
            name: The name of the optimizer; a single optimizer needs no name.
            weight: Scalar, the sum of the weights (or the count) over this replica's rows; the gradients' sum
                over replicas is divided by its sum over replicas.
        """
        scope = running()
        scope.must_meet("apply_gradients")
        scope.apply_gradients(self._name_of(self.optimizers, name, "optimizer"), gradients, variables, weight)

    def update_metrics(self, targets: Any, predictions: Any, weights: Any = None) -> None:
        """Adds some examples to the trainer's metrics; inside a step, per replica.

        Args:
            targets: The targets in the form that the metrics expect.
            predictions: The model's outputs.
            weights: Sample weights, which only the trainer's `weighted_metrics` use; looplab warns if there
                are none. Without weights every example counts as 1.
        """
        running().update_metrics(targets, predictions, weights)

    def log(self, name: str, value: Any, weight: Any = None) -> None:
        """Logs a value of this step as a mean over the global batch; inside a step, per replica.

        Call it in `compute_loss`, `train_step`, `test_step`, or in functions that they call, in training and
        evaluation. Epochs and evaluations log the mean over all their batches. Replicas, micro-batches and
        repeated calls with one name in a step count with their weights. No gradient flows back.

        Args:
            name: The name in the history, logs and monitors; in evaluations `val_<name>`.
            value: A number, weighted by the number of examples in the present slice of the batch; or a tensor
                of shape `[examples, ...]`, whose elements have weight 1 each.
            weight: Another weight: a number, a weight for each example, or a tensor of the value's shape. If
                all weights of a step are 0, the step logs NaN and counts in no mean.

        Raises:
            ConfigurationError: If the name is invalid, or is `"loss"`.
            LossError: If a value is not a number; or if the call is outside of such a step, or inside a loop
                or a condition of the graph.
        """
        running().log(name, value, weight)

    def all_gather(self, tensor: tf.Tensor) -> tf.Tensor:
        """Returns a tensor's rows of all replicas, shape `[global, ...]`; gradients flow back.

        Raises:
            ConfigurationError: If XLA compiles the loss separately on each replica (`execution="xla_step"`).
        """
        scope = running()
        compatibility.check_collective("all_gather", in_xla=scope.in_xla)
        scope.must_meet("all_gather")
        return replication.all_gather(tensor)

    def reduce(self, value: Any, how: str = "sum") -> tf.Tensor:
        """Reduces a replica's value to the value of the global batch; inside a step, per replica.

        Args:
            value: A tensor of the same shape on every replica.
            how: `"sum"` adds the replicas' values; `"mean"` treats each as a mean over its replica's rows,
                and returns the mean over all rows (a replica without rows does not count).

        Raises:
            ConfigurationError: For another `how`; or in a loss that XLA compiles separately on each replica.
        """
        if how not in ("sum", "mean"):
            raise ConfigurationError(f"reduce: {how!r} is not one of 'sum', 'mean'.")
        scope, value = running(), tf.convert_to_tensor(value)
        compatibility.check_collective("reduce", in_xla=scope.in_xla)
        scope.must_meet("reduce")
        return scope.mean([value])[0] if how == "mean" else replication.reduce_sum([value])[0]

    def _only_model(self, method: str) -> keras.Model:
        """Returns the model that a default method calls."""
        if len(self.models) > 1:
            raise ConfigurationError(
                f"{type(self).__name__}.{method} calls the only model, and there are several, "
                f"{list(self.models)}: override {method} to choose what it calls."
            )
        model: keras.Model = self.model
        return model

    def _owners(self, variables: Sequence[Any] | None) -> list[keras.Model]:
        """Returns the models that hold some of the variables; the loss includes their penalties."""
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


def hooks_beside(trainer: type[StepMethods]) -> Callable[[Mapping[str, keras.Model]], KerasHooks]:
    """Returns a function that finds the Keras steps of models which a trainer's class does not override."""
    names = ("compute_loss", "train_step", "test_step", "predict_step")
    own = {name for name in names if getattr(trainer, name) is not getattr(StepMethods, name)}
    return partial(KerasHooks.of, trainer=own, named=trainer.__name__)


def _check_inputs(inputs: Any) -> None:
    if inputs is None:
        raise DataError(
            "the data has no inputs: the first part of a batch is None. Give (inputs, targets), or override "
            "compute_loss and predict_step."
        )


def _adds_losses(model: keras.Model) -> bool:
    """Whether layers gave losses to `add_loss` in the last call; penalties of weights alone do not count."""
    penalized = [v for v in model.trainable_variables if getattr(v, "regularizer", None) is not None]
    return len(model.losses) > len(penalized)


def _trainable(models: Sequence[keras.Model], variables: Sequence[Any] | None) -> Sequence[Any]:
    """Returns the variables to train; a variable that several models share appears once."""
    if variables is not None:
        return variables
    return list({id(own): own for model in models for own in model.trainable_variables}.values())
