"""Loads a recorded run again, to evaluate it or to predict with it. It writes nothing into the run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from looplab import experiment
from looplab.config import Config, saved_config
from looplab.data import Validation, as_source, training_table, with_classes
from looplab.errors import ConfigurationError, nearest
from looplab.options.paths import local
from looplab.trainer import Trainer


def load(
    run_dir: str | os.PathLike[str], checkpoint: str | int = "best", *, overrides: Sequence[str] = ()
) -> Trainer:
    """Makes the trainer of a run that a configuration started, with the weights of a checkpoint.

    looplab checks the run's `config.yaml` again and loads its data, because the models are built for its
    shapes. The project's modules must be importable, as they were for the command. The trainer gets the state
    that `evaluate` and `predict` need. `fit`, with the run's own data, continues the run: it first restores
    everything from its *last* checkpoint, whatever checkpoint was loaded. See `Trainer.restore`. A run that
    was started in Python has no `config.yaml`: make its trainer as you did, with its `run_dir`, and call
    `restore`.

    Args:
        run_dir: The run directory.
        checkpoint: `"best"`, `"last"` or a step.
        overrides: Changes of the configuration as on a command line: `["strategy=one_device"]`.

    Raises:
        ConfigurationError: If there is no such run or checkpoint, or the configuration cannot work here.
        CheckpointError: If the checkpoint is damaged, or does not fit.
    """
    path = local(run_dir, "run_dir")
    local(str(checkpoint), "checkpoint")
    config = _to_evaluate(replace(saved_config.composed(path, overrides), resume="auto"), path)
    trainer, data = experiment.build(config, path)
    _restore(trainer, data, config, checkpoint)
    return trainer


@dataclass(frozen=True)
class Restored:
    """A trainer with the weights of a checkpoint, and the data of its configuration.

    Attributes:
        trainer: The trainer, built and restored.
        checkpoint: The folder of the checkpoint.
        sets: The data by name: `"train"`, and each validation set.
    """

    trainer: Trainer
    checkpoint: Path
    sets: Mapping[str, Validation]

    @property
    def step(self) -> int:
        """The step of the checkpoint."""
        return int(self.checkpoint.name.removeprefix("step-"))

    def evaluate(self, split: str | None) -> dict[str, dict[str, float]]:
        """Returns the values of one set, or of every validation set (without one, of the training data).

        Args:
            split: The name of the set, or None.
        """
        chosen = [split] if split else [name for name in self.sets if name != "train"] or ["train"]
        found = {}
        for name in chosen:
            own = self._set(name)
            found[name] = self.trainer.evaluate(own.data, batch_size=own.batch_size, steps=own.steps)
        return found

    def predict(self, split: str | None) -> tuple[str, Iterator[Any]]:
        """Returns the name of a set, and the predictions for its batches, in order.

        Args:
            split: The name of the set; None for the first validation set, or without one the training data.
        """
        name = split or next((name for name in self.sets if name != "train"), "train")
        own = self._set(name)
        return name, self.trainer.predict_batches(own.data, batch_size=own.batch_size, steps=own.steps)

    def _set(self, name: str) -> Validation:
        if not self.sets:
            raise ConfigurationError(
                "split: the run has no data.source, because its trainer makes its own batches. Give one: "
                "data=..."
            )
        if name not in self.sets:
            raise ConfigurationError(
                f"split: the data of the run has no set {name!r}; there are {', '.join(self.sets)}."
                + nearest(name, self.sets)
            )
        return self.sets[name]


def restored(config: Config, run_dir: Path, checkpoint: str | int) -> Restored:
    """Makes what a configuration describes, with the weights of a run's checkpoint.

    Args:
        config: The run's configuration, perhaps with other data, metrics or replicas.
        run_dir: The run directory; the run may still be training in another process.
        checkpoint: `"best"`, `"last"` or a step.

    Raises:
        LooplabError: See `load`.
    """
    alone = _to_evaluate(replace(config, callbacks=None, loggers=replace(config.loggers, more=None)), run_dir)
    trainer, data = experiment.build(alone, run_dir)
    path = _restore(trainer, data, config, checkpoint)
    return Restored(trainer, path, {split: _as_set(split, own, alone) for split, own in data.items()})


def _as_set(split: str, data: Any, config: Config) -> Validation:
    own = Validation(data) if split == "train" else experiment.validation_set(config, split, data)
    if own.batch_size is None and not as_source(own.data).batched:
        return replace(own, batch_size=config.data.batch_size)
    return own


def _to_evaluate(config: Config, run_dir: Path) -> Config:
    """Returns a configuration without the settings for when and whether its run evaluated.

    The classes of tables have the numbers of the run's training table, whatever the other table contains.
    """
    own = "own" if config.data.validation == "none" else config.data.validation
    source = with_classes(config.data.source, training_table(saved_config.source(run_dir)))
    return replace(config, data=replace(config.data, source=source, validation=own, validation_freq="1ep"))


def _restore(trainer: Trainer, data: Mapping[str, Any], config: Config, checkpoint: str | int) -> Path:
    path = trainer.restore(checkpoint)  # an error in it appears before models are built
    arguments = experiment.arguments(config, data)
    trainer.build(arguments["x"], batch_size=arguments["batch_size"])
    return path
