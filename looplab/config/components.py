"""Finds the slots of a configuration: every section with a `_target_`, and what each may be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from looplab.config.schema import Config
from looplab.config.signatures import Found, find
from looplab.errors import Problem, as_written

# Arguments that looplab gives to a schedule, if the schedule takes them.
_OF_A_SCHEDULE = frozenset({"total_steps", "decay_steps", "learning_rate", "initial_learning_rate"})
PART = "part"  # the kind of a target among the arguments of another one
LOSS, METRIC = "keras.losses.Loss", "keras.metrics.Metric"  # a function may be used instead
PARTIAL = "_partial_"
_REMEDIES = {  # for the keys beside _target_ that Hydra's own instantiate knows
    "_args_": "positional arguments are not allowed: write each argument with its name.",
    "_recursive_": (
        "every nested section with _target_ is built. To let the target build it itself, give the nested "
        "section _partial_: true."
    ),
    "_convert_": "arguments are always plain dicts and lists; leave it out.",
}
SOURCE = "data source"
CALLBACK = "looplab.Callback or keras.callbacks.Callback"


@cache
def supplied_to_trainer() -> frozenset[str]:
    """Returns the arguments of the trainer, all of which looplab sets from the rest of the configuration."""
    found = find("looplab.trainer.Trainer")
    assert isinstance(found, Found)
    return frozenset(found.signature.parameters)


@dataclass(frozen=True)
class Slot:
    """A section whose `_target_` is called with the other keys as arguments.

    Attributes:
        key: The key of the section, such as `optimizer` or `metrics[0]`.
        kind: The expected class, such as `keras.Model`; or `PART` or `SOURCE`.
        section: The section with its `_target_`.
        supplied: Arguments that looplab may add.
        reserved: Arguments that the section must not give.
    """

    key: str
    kind: str
    section: Mapping[str, Any]
    supplied: frozenset[str] = frozenset()
    reserved: frozenset[str] = frozenset()

    @property
    def target(self) -> str:
        """The dotted name of the target."""
        return str(self.section["_target_"])

    @property
    def given(self) -> dict[str, Any]:
        """Its arguments."""
        return {key: value for key, value in self.section.items() if not key.startswith("_")}

    def is_called(self, is_class: bool) -> bool:
        """Returns whether looplab calls the target, so that no other code supplies missing arguments.

        With `_partial_: true`, looplab makes a function of the target in two cases: among arguments, and from
        a function where a loss or a metric is expected. Everything else is a factory, which looplab calls.

        Args:
            is_class: Whether the target is a class.
        """
        return not self.section.get(PARTIAL) or not (
            self.kind == PART or (self.kind in (LOSS, METRIC) and not is_class)
        )


def slots(config: Config) -> Iterator[Slot | Problem]:
    """Finds every slot of a configuration, including those among arguments."""
    if config.data.source is not None:
        yield from _one(config.data.source, "data.source", SOURCE)
    yield from _several(config.model, "model", "keras.Model")
    rate = frozenset({"learning_rate"} if config.schedule else ())
    for key, own in optimizers(config.optimizer).items():
        if not isinstance(own, str):
            yield from _one(own, key, "keras.optimizers.Optimizer", supplied=rate)
    if config.schedule:
        kind = "keras.optimizers.schedules.LearningRateSchedule"
        yield from _one(config.schedule, "schedule", kind, inner=_OF_A_SCHEDULE, supplied=_OF_A_SCHEDULE)
    yield from _nested(config.loss, "loss", LOSS)
    yield from _nested(config.metrics, "metrics", METRIC)
    yield from _nested(config.weighted_metrics, "weighted_metrics", METRIC)
    yield from _by_any_name(config.callbacks, "callbacks", CALLBACK)
    yield from _by_any_name(config.loggers.more, "loggers.more", "looplab.Logger")
    if config.trainer is not None:
        yield from _one(
            config.trainer,
            "trainer",
            "looplab.Trainer",
            supplied=supplied_to_trainer(),
            reserved=supplied_to_trainer(),
        )


def sections(given: Any, key: str) -> dict[str, Any]:
    """Returns sections by their key, from a mapping or a list; without those that are null.

    Args:
        given: The sections.
        key: The key of the mapping or list.
    """
    if isinstance(given, list):
        return {f"{key}[{index}]": section for index, section in enumerate(given) if section is not None}
    return {f"{key}.{name}": section for name, section in (given or {}).items() if section is not None}


def optimizers(section: Any) -> dict[str, Any]:
    """Returns the Keras name or the section of each optimizer, by its key.

    Args:
        section: One optimizer, or several by name. Each may be a list: the optimizer and the models that it
            trains, or only these models; then the key is the Keras name of the optimizer.
    """
    if not isinstance(section, dict) or "_target_" in section or not section:
        return {} if section in (None, {}) else {"optimizer": section}
    named = {
        name: own if not isinstance(own, list) else name if all(isinstance(n, str) for n in own) else own[0]
        for name, own in section.items()
    }
    if not _all_sections(named):
        return {"optimizer": section}  # it is no section, which a later check reports
    return {f"optimizer.{name}": own for name, own in named.items()}


def _by_any_name(given: Any, key: str, kind: str) -> Iterator[Slot | Problem]:
    if given is not None and not isinstance(given, dict | list):
        yield Problem(key, f"expected sections with _target_ by any name, got {as_written(given)}.")
        return
    for own, section in sections(given, key).items():
        yield from _one(section, own, kind)


def _several(section: Any, key: str, kind: str, **more: Any) -> Iterator[Slot | Problem]:
    if not section:
        return
    if isinstance(section, dict) and "_target_" not in section and _all_sections(section):
        for name, own in section.items():
            if not isinstance(own, str):
                yield from _one(own, f"{key}.{name}", kind, **more)
    else:
        yield from _one(section, key, kind, **more)


def _all_sections(section: dict[str, Any]) -> bool:
    return all(isinstance(own, dict | str) for own in section.values())


def _nested(value: Any, key: str, kind: str) -> Iterator[Slot | Problem]:
    """Finds slots in lists and dicts by output; Keras names are left as they are."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _nested(item, f"{key}[{index}]", kind)
    elif isinstance(value, dict):
        if any(name.startswith("_") for name in value):
            yield from _one(value, key, kind)
        else:
            for name, item in value.items():
                yield from _nested(item, f"{key}.{name}", kind)
    elif value is not None and not isinstance(value, str):
        yield Problem(key, f"expected a Keras name or a section with _target_, got {as_written(value)}.")


def _one(
    section: Any, key: str, kind: str, inner: frozenset[str] = frozenset(), **more: Any
) -> Iterator[Slot | Problem]:
    """Finds a slot and those among its arguments, to which looplab may add `inner`."""
    if not isinstance(section, dict) or not section.get("_target_"):
        yield Problem(key, f"expected a section with _target_, got {as_written(section)}.")
        return
    target = section["_target_"]
    if isinstance(target, str) and all(part.isidentifier() for part in target.split(".")):
        yield Slot(key, kind, section, **more)
    else:
        yield Problem(f"{key}._target_", f"{target!r} is not a dotted name such as 'mymodule.MyClass'.")
    for name, value in section.items():
        if name == PARTIAL:
            if not isinstance(value, bool):
                yield Problem(f"{key}.{name}", f"expected true or false, got {as_written(value)}.")
        elif name.startswith("_") and name != "_target_":
            remedy = _REMEDIES.get(name, "leave it out.")
            yield Problem(f"{key}.{name}", f"only _target_ and _partial_ are supported: {remedy}")
    for name, value in section.items():
        yield from _parts(value, f"{key}.{name}", inner)


def _parts(value: Any, key: str, inner: frozenset[str]) -> Iterator[Slot | Problem]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _parts(item, f"{key}[{index}]", inner)
    elif isinstance(value, dict):
        if {"class_name", "config"} <= set(value):
            yield Problem(
                key, "a serialised Keras object is not supported: write _target_ and its arguments."
            )
        elif any(name.startswith("_") for name in value):
            yield from _one(value, key, PART, inner, supplied=inner)
        else:
            for name, item in value.items():
                yield from _parts(item, f"{key}.{name}", inner)
