"""The preparation of `fit`, `evaluate` and `predict`: feeds, first traces, restored weights."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from looplab import optimization
from looplab import strategy as replication
from looplab.callbacks import Callback, CallbackList
from looplab.checkpoint import Store, read, state
from looplab.checkpoint.warm_start import WarmStart, refuse_parts
from looplab.checkpoint.weights import Weights
from looplab.data import (
    GeneratedFeed,
    Source,
    Validation,
    as_source,
    build_feed,
    check_labels,
    join,
    split_and_weigh,
    validation_sets,
)
from looplab.errors import ConfigurationError
from looplab.loggers.value_names import monitor_name
from looplab.options import bounds
from looplab.options.checkpoint_policy import Policy
from looplab.options.paths import local
from looplab.options.recording import Recording
from looplab.options.safeguards import Safeguards
from looplab.protocols import Feed
from looplab.training import rehearsal
from looplab.training.audit import GlobalGenerators, object_fields
from looplab.training.engine.attribute_reads import TRAINER
from looplab.training.engine.engine import Engine
from looplab.training.engine.kept_fields import plain_reads, said
from looplab.training.evaluation import Evaluation, Evaluator
from looplab.training.evaluation_schedule import EvaluationSchedule, EveryFewEpochs, EveryInterval
from looplab.training.fit_plan import FitPlan, read_length
from looplab.training.model_methods import ModelMethods
from looplab.training.progress import RunSoFar
from looplab.training.step_methods import StepMethods

_log = logging.getLogger("looplab")

_COMPUTE = ("compute_loss", "train_step", "test_step")  # methods in which users may compute their own loss


class Preparation:
    """Prepares what a trainer needs: everything is created before anything runs.

    Attributes:
        engine: The engine on which the trainer runs.
        owner: The trainer, with the attributes that its steps use.
        callbacks: The callbacks of the trainer.
        recording: The settings for recording the run.
        safeguards: The settings for a run that does not train as it should.
        so_far: The facts about its run; changed in place.
        methods: Evaluates and predicts.
    """

    def __init__(
        self,
        engine: Engine,
        owner: StepMethods,
        *,
        callbacks: Sequence[Callback],
        recording: Recording,
        safeguards: Safeguards,
        initial: WarmStart | None,
    ) -> None:
        """Prepares nothing yet.

        Args:
            engine: The engine on which the trainer runs.
            owner: The trainer.
            callbacks: The callbacks that are notified in every fit.
            recording: The settings for recording the run.
            safeguards: The settings for a run that does not train as it should.
            initial: The first weights of a new run; None keeps the weights with which the models were
                created.
        """
        self.engine, self.owner, self.callbacks = engine, owner, list(callbacks)
        self.recording, self.safeguards = recording, safeguards
        self.so_far = RunSoFar()
        self.methods = ModelMethods(self)
        self._initial = initial
        self._read_once: tuple[Iterator[Any], Source] | None = None  # the iterator of the training data
        self._made: Any = None  # the shapes of make_batch, once they are known
        self._facts: dict[str, Any] = {}  # that this call has read
        self._moved: list[str] = []  # the trainer's fields that this call has changed

    @property
    def run_dir(self) -> Path | None:
        """The directory in which the run is recorded, or None."""
        return self.recording.run_dir

    def set_up(self) -> None:
        """Calls the trainer's `setup`, once."""
        self.engine.set_up(self.owner.setup, self.owner)

    def feed(
        self,
        data: Any,
        batch_size: int | None,
        shuffle: bool = False,
        steps_per_epoch: int | None = None,
        *,
        forward: bool = False,
    ) -> Feed:
        """Returns the batches of data, or the batches that the trainer makes if there is no data.

        Args:
            data: See `Trainer.fit`.
            batch_size: The number of examples in a global batch of arrays; None for the default.
            shuffle: Whether sources that are read by index come in a new order each epoch.
            steps_per_epoch: The number of steps in an epoch, if it is less than a pass over the data.
            forward: Whether no batch is read again, as in training.
        """
        if batch_size is not None:
            batch_size = bounds.whole("batch_size", batch_size, bounds.BATCH_SIZE)
        if steps_per_epoch is not None:
            steps_per_epoch = bounds.whole("steps_per_epoch", steps_per_epoch, bounds.COUNT)
        steps_per_epoch = _at_most("steps_per_epoch", steps_per_epoch, keras.config.max_steps_per_epoch())
        self.set_up()
        if data is None and type(self.owner).make_batch is not StepMethods.make_batch:
            with self.engine.scope():  # it may call a model that is not built yet
                fields = object_fields.digests(self.owner) if self._made is None else {}
                with plain_reads({TRAINER: self.owner} if self._made is None else {}) as read:
                    feed = GeneratedFeed(
                        self.owner.make_batch, steps_per_epoch, self._made, self._own_variables
                    )
            if self._made is None:
                self._moved = object_fields.moved(fields, object_fields.digests(self.owner))
                own = {name: value for name, value in said(read).items() if not name.startswith("_")}
                self._facts = {"seed": self.engine.seed, **{f"self.{name}": own[name] for name in own}}
            self._made, feed.facts = feed.element_spec, self._facts
            return feed
        return build_feed(
            data,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=self.engine.seed,
            steps_per_epoch=steps_per_epoch,
            device=replication.home(self.engine.strategy),
            forward=forward,
        )

    def _own_variables(self) -> state.Variables:
        """Returns the variables of the models and of the trainer's attributes, as far as they are made."""
        of_models = state.of_models(self.engine.models)
        return of_models | state.of_attributes(self.owner, known=of_models)

    def prepare(self, purpose: str, feed: Feed) -> None:
        """Creates every variable that a kind of step needs: `"train"`, `"test"` or `"predict"`."""
        owner = self.owner
        method = {"train": owner.train_step, "test": owner.test_step, "predict": owner.predict_step}[purpose]
        self.engine.prepare(purpose, method, feed, owner)

    def evaluator(self, feed: Feed) -> Evaluator:
        """Prepares the evaluation of a feed, with the newest weights."""
        self.prepare("test", feed)
        self.restore_newest()
        return Evaluator(self.engine, feed)

    def restore(self, checkpoint: str | Path | int) -> Path:
        """Restores the weights of a checkpoint, and returns its folder; see `Trainer.restore`."""
        if isinstance(checkpoint, Path) or "/" in str(checkpoint):
            path = local(str(checkpoint), "checkpoint")
            arrays = read(path)
        elif self.run_dir is None:
            raise ConfigurationError(
                f"restore: looplab looks for {checkpoint!r} in the run_dir, and this trainer has none. Give "
                "the folder of a checkpoint, such as 'runs/mine/checkpoints/step-00000100'."
            )
        else:
            path, arrays, _ = Store(self.run_dir / "checkpoints").find(checkpoint)
        self.set_up()
        self.engine.weights.restore(Weights(path, arrays), self.owner)
        if self.run_dir is not None:
            self.so_far.progress = None  # the next fit goes back to the run's last checkpoint
        return path

    def restore_newest(self) -> None:
        """Restores the newest checkpoint's weights, or the first weights, if this process has none."""
        if self.has_weights:
            return
        found = Store(self.run_dir / "checkpoints").newest() if self.run_dir is not None else None
        if found is not None:
            self.engine.weights.restore(Weights(found[0], found[1]), self.owner)
        elif self._initial is not None:
            refuse_parts(self.engine.models)
            self.initialize()

    @property
    def has_weights(self) -> bool:
        """Whether weights were restored, or trained."""
        return self.engine.weights.are_restored or self.so_far.progress is not None

    def initialize(self) -> str | None:
        """Gives a new run its first weights, if there are any; weights from `restore` stay.

        Returns:
            The source of the weights; None if they are those with which the models were created.
        """
        if self._initial is None:
            return None
        if not self.has_weights:
            self.engine.weights.restore(self._initial, self.owner)
        return str(self._initial.source) if self._initial.lines() else None

    def plan_fit(
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
        validation_batch_size: int | None = None,
        initial_epoch: int = 0,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        callbacks: Sequence[Callback | keras.callbacks.Callback] = (),
    ) -> FitPlan:
        """Prepares everything that a fit needs; for the arguments see `Trainer.fit`."""
        if isinstance(x, Iterator):
            x = self._source_of(x, validation_data)
        if epochs is not None:
            epochs = _at_most("epochs", epochs, keras.config.max_epochs())
        data, validation_data = split_and_weigh(
            join(x, y, sample_weight), validation_data, validation_split, class_weight
        )
        sets = validation_sets(validation_data, validation_freq, validation_steps)
        for each in sets.values():
            _ = each.interval  # refused before anything is built
        self.set_up()
        generators = GlobalGenerators()
        feed = self.feed(data, batch_size, shuffle, steps_per_epoch, forward=True)
        drawn = generators.drawn()
        length = read_length(epochs, steps, steps_per_epoch or feed.steps_per_epoch, initial_epoch)
        self.prepare("train", feed)
        if any([optimization.follow_again(own) for own in self.engine.optimizers.values()]):
            self.engine.loops.rebuild()  # a schedule was set after the last fit
        if self.engine.modes.chooses_micro_batches and not tf.config.list_logical_devices("GPU"):
            raise ConfigurationError(
                "micro_batches: 'auto' looks for what fits in a GPU's memory, and there is no GPU. By its "
                f"graph a step needs: {rehearsal.memory_of(self.engine, feed)}. Give a number."
            )
        self._check_labels(feed, "training")
        size = _validation_size(validation_batch_size, sets) or batch_size
        evaluations = tuple(self._evaluation(name, each, size) for name, each in sets.items())
        self._refuse_idle_loss()
        return FitPlan(
            self.engine,
            feed,
            evaluations,
            length,
            CallbackList([*self.callbacks, *callbacks], self.engine.steps_per_execution, served=self.methods),
            self._checkpoint_policy(tuple(sets)),
            self.recording.log_every,
            self.safeguards.on_nonfinite,
            self.so_far,
            self.recording.allow_change,
            None if self._initial is None else self.initialize,
            owner=self.owner,
            drawn=drawn,
            moved=self._moved,
            initial_epoch=initial_epoch,
        )

    def _source_of(self, data: Iterator[Any], validation_data: Any) -> Source:
        """Returns the source of a generator object, which continues where an earlier fit stopped."""
        if validation_data is data:
            raise ConfigurationError(
                "validation_data: it is the generator object of the training data, which yields each batch "
                "once. Create another one for it."
            )
        if self._read_once is None or self._read_once[0] is not data:
            self._read_once = data, as_source(data)
        return self._read_once[1]

    def _refuse_idle_loss(self) -> None:
        """Refuses a loss that was given to the trainer, but that its own steps do not use."""
        engine, kind = self.engine, type(self.owner)
        if "loss" not in engine.idle() or "loss" in engine.recipe.of_compile:
            return
        own = [name for name in _COMPUTE if getattr(kind, name) is not getattr(StepMethods, name)]
        if own and own != ["train_step"]:  # then evaluation uses it
            raise ConfigurationError(
                f"loss: it has no effect, because {kind.__name__}.{own[0]} computes its own. Leave loss and "
                "loss_weights out, or make that method use it: super().compute_loss(batch, training)."
            )

    def _checkpoint_policy(self, sets: Sequence[str]) -> Policy:
        """Returns when to save: by the first set where none has the name that the default monitor needs."""
        policy = self.recording.checkpoint
        if not sets or "validation" in sets or policy.monitor != Policy.monitor:
            return policy
        if "loss" not in self.engine.values.produces("test"):
            return policy
        monitor = monitor_name(sets[0], "loss")
        _log.info("checkpoint.monitor: %s, since no validation set has the name 'validation'", monitor)
        return replace(policy, monitor=monitor)

    def _evaluation(self, name: str, given: Validation, batch_size: int | None) -> Evaluation:
        """Prepares the evaluation of one validation set."""
        source = as_source(given.data)
        size = given.batch_size or (None if source.batched else batch_size)
        feed = self.feed(source, size, steps_per_epoch=given.steps)
        self.prepare("test", feed)
        self._check_labels(feed, name)
        schedule: EvaluationSchedule = EveryInterval(given.interval)
        if isinstance(given.every, int) and given.every > 1:
            schedule = EveryFewEpochs(given.every)
        return Evaluation(name, feed, schedule, Evaluator(self.engine, feed))

    def _check_labels(self, feed: Feed, what: str) -> None:
        width, losses = self.engine.metrics.width, self.engine.losses
        if losses is not None and losses.is_sparse and width:
            check_labels(feed, width, what)


def _at_most(name: str, given: int | None, most: int | None) -> int | None:
    """Returns a length of training, limited by Keras' configuration (for tests and debugging)."""
    if most is None or (given is not None and given <= most):
        return given
    _log.info("%s: %s -> %d, limited by keras.config.set_max_%s", name, given, most, name)
    return most


def _validation_size(size: int | None, sets: Mapping[str, Validation]) -> int | None:
    """Returns the number of examples in a batch of evaluations, if it was set.

    Raises:
        ConfigurationError: If it has no effect.
    """
    if size is None:
        return None
    if not sets:
        raise ConfigurationError(f"validation_batch_size: got {size}, but there is no validation data.")
    for name, each in sets.items():
        if as_source(each.data).batched:
            raise ConfigurationError(
                f"validation_batch_size: got {size}, but {name} is a {type(each.data).__name__}, whose "
                "elements are the batches. Leave it out, and batch the data."
            )
    return bounds.whole("validation_batch_size", size, bounds.BATCH_SIZE)
