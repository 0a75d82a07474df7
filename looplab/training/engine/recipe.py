"""The settings that a trainer trains with: its arguments, and those of its model's `compile`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import keras

from looplab.errors import ConfigurationError
from looplab.options.execution import Execution

# The arguments of `model.compile` that a trainer has too.
_OF_A_LOSS, _METRICS = ("loss", "loss_weights"), ("metrics", "weighted_metrics")


@dataclass(frozen=True)
class Recipe:
    """The settings with which a trainer trains its models.

    Attributes:
        optimizers: The given object for each optimizer.
        execution: How steps run.
        trains: The names of the models that each optimizer trains if a step names no variables.
        loss: The given loss.
        loss_weights: The given weights; the same holds for `metrics` and `weighted_metrics`.
        parameter_groups: Groups by any name; with several optimizers by the optimizer's name.
        of_compile: The arguments of `model.compile` that are used here.
        not_used: The arguments of `model.compile` that are not used, each with the reason.
        source: The model whose `compile` was read, and its optimizer and arguments then; None if none was
            read.
    """

    optimizers: Mapping[str, Any]
    execution: Execution
    trains: Mapping[str, Sequence[str]] = field(default_factory=dict)
    loss: Any = None
    loss_weights: Any = None
    metrics: Any = None
    weighted_metrics: Any = None
    parameter_groups: Mapping[str, Any] | None = None
    of_compile: Mapping[str, Any] = field(default_factory=dict)
    not_used: Mapping[str, str] = field(default_factory=dict)
    source: tuple[keras.Model, Any, Any] | None = None

    def completed(self, models: Mapping[str, keras.Model], *, own_steps: bool) -> Recipe:
        """Returns the recipe, completed from the only model's `compile` where nothing else was given.

        Args:
            models: The models by name, as they were compiled.
            own_steps: Whether the only model has its own steps, which use the arguments of its `compile`.
        """
        compiled = {name: settings for name, model in models.items() if (settings := compiled_with(model))}
        if len(models) > 1 or not compiled:
            several = f"there are several models; give the trainer these arguments ({', '.join(compiled)})"
            return replace(self, not_used={"compile": several} if compiled else {})
        (settings,) = compiled.values()
        taken: dict[str, Any] = {}
        left: dict[str, str] = {}
        if own_steps:
            return replace(
                self, execution=self._execution(settings, taken, left), of_compile=taken, not_used=left
            )
        given = "the trainer was given another one"
        if (optimizer := settings.get("optimizer")) is not None:
            if self.optimizers:
                left["optimizer"] = given
            else:
                taken["optimizer"] = optimizer
        for name in (*_OF_A_LOSS, *_METRICS):
            if settings.get(name) is None:
                continue
            if getattr(self, name) is not None or (name == "loss_weights" and self.loss is not None):
                left[name] = given
            else:
                taken[name] = settings[name]
        execution = self._execution(settings, taken, left)
        own = {name: value for name, value in taken.items() if name in (*_OF_A_LOSS, *_METRICS)}
        if "optimizer" in taken:
            own |= {"optimizers": {"optimizer": optimizer}, "trains": {"optimizer": list(models)}}
        (model,) = models.values()
        source = (model, model.optimizer, model._compile_config) if taken else None
        return replace(self, **own, execution=execution, of_compile=taken, not_used=left, source=source)

    def check_compiled(self) -> None:
        """Refuses to continue with the arguments of an earlier `compile`; on the host, outside of callbacks.

        Raises:
            ConfigurationError: If the model was compiled again since, or has another optimizer.
        """
        if self.source is None:
            return
        model, optimizer, config = self.source
        if model._compile_config is not config or model.optimizer is not optimizer:
            raise ConfigurationError(
                f"the model was compiled again, or given another optimizer, after the trainer had taken "
                f"{', '.join(self.of_compile)} from it, so the trainer would use the old ones. Create a new "
                "Trainer for it; or use looplab.fit(model, ...), which reads the model each time."
            )

    def show_metrics(self, batch: Any) -> None:
        """Makes a compiled model list its metrics, like `model.fit`, which creates them at the first batch.

        Runs on the host. A model that Keras cannot trace lists them when Keras evaluates it.

        Args:
            batch: The specification of a batch.
        """
        if self.source is None or not {*_METRICS} & {*self.of_compile}:
            return
        with suppress(Exception):
            self.source[0]._symbolic_build(data_batch=batch)

    def _execution(
        self, settings: Mapping[str, Any], taken: dict[str, Any], left: dict[str, str]
    ) -> Execution:
        """Returns the execution settings: a setting with its default here is taken from `compile`."""
        default, execution = Execution(), self.execution
        steps, eagerly = settings.get("steps_per_execution"), settings.get("run_eagerly")
        if steps not in (None, 1):  # 1 is Keras' default, not a choice
            if execution.steps_per_execution == default.steps_per_execution:
                taken["steps_per_execution"] = steps
            elif execution.steps_per_execution != steps:
                left["steps_per_execution"] = "the trainer was given another one"
        if eagerly and not execution.run_eagerly:
            if execution.mode == default.mode:
                taken["run_eagerly"] = True
            else:
                left["run_eagerly"] = f"the trainer was given execution={execution.mode!r}"
        if settings.get("jit_compile") and execution.mode != "xla_step":
            left["jit_compile"] = (
                "Keras sets it automatically on a GPU; execution='auto' measures which mode is fastest, and "
                "Trainer(jit_compile=True) compiles steps with XLA in any case"
            )
        own = {name: taken[name] for name in ("steps_per_execution", "run_eagerly") if name in taken}
        return replace(execution, **own) if own else execution

    def compile_arguments(self) -> dict[str, Any]:
        """Returns the `compile` arguments, except the optimizer, for a model whose own steps run."""
        return {name: getattr(self, name) for name in (*_OF_A_LOSS, *_METRICS)}

    @property
    def is_measured_by_compile(self) -> bool:
        """Whether all metrics, if any, come from `compile`."""
        return all(getattr(self, name) is None or name in self.of_compile for name in _METRICS)

    def lines(self, idle: tuple[str, ...] = ()) -> list[tuple[str, str]]:
        """Describes the use of `model.compile` for the user, as lines of `(label, text)`.

        Args:
            idle: Its arguments that no step uses.
        """
        found = []
        if used := [name for name in self.of_compile if name not in idle]:
            found.append(("compile", f"model.compile gives {', '.join(used)}"))
        no_use = {name: "no step uses it" for name in self.of_compile if name in idle}
        found += [
            ("compile", f"{name} is not used: {why}") for name, why in {**self.not_used, **no_use}.items()
        ]
        return found


def compiled_with(model: keras.Model) -> dict[str, Any]:
    """Returns the arguments of `model.compile` as they were given; empty if it was not called.

    The optimizer is the model's own object, without the loss scaling in which Keras may wrap it.
    """
    if not getattr(model, "compiled", False) or not hasattr(model, "_compile_config"):
        return {}
    settings = dict(model._compile_config.config)
    optimizer = model.optimizer
    if (
        isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        and optimizer.inner_optimizer is settings["optimizer"]
    ):
        optimizer = optimizer.inner_optimizer
    return settings | {"optimizer": optimizer}
