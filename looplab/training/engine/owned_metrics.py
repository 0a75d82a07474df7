"""The metrics of models, layers and a trainer's attributes, which steps update themselves."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import keras

from looplab import metrics
from looplab.checkpoint import state
from looplab.compat import patches
from looplab.errors import ConfigurationError
from looplab.execution import MetricResult, found_running
from looplab.execution.autograph import translated
from looplab.loggers import value_names
from looplab.strategy.strategies import belongs_here
from looplab.training.engine.metric_values import check_names, names_of, numbers

_log = logging.getLogger("looplab")


class _Owned(NamedTuple):
    """A metric and where it was found.

    Attributes:
        metric: The metric.
        place: A description of its owner.
        path: Its path in a checkpoint, unless it has the path of an attribute.
    """

    metric: keras.Metric
    place: str
    path: str


class _Shown(NamedTuple):
    """The use of the found metrics by a kind of step.

    Attributes:
        updated: The metrics that it updates.
        returned: The metrics whose results it returns, by the returned name.
        names: For each other metric, the names of its numbers, by tag.
    """

    updated: list[_Owned]
    returned: dict[str, MetricResult]
    names: dict[str, list[str]]


class OwnedMetrics:
    """Finds metrics in models and attributes, and tracks which of them each kind of step updates.

    Such a metric is logged under its name by the steps that update it. If a step returns its `result()`, it
    is logged under the name that the step gives it.
    """

    def __init__(self) -> None:
        """Starts without metrics."""
        self._found: list[_Owned] = []
        self._shown: dict[str, _Shown] = {}

    def find(self, models: Mapping[str, keras.Model], owner: Any, given: Collection[keras.Metric]) -> bool:
        """Looks for metrics that were created since the last call; in the strategy's scope.

        Args:
            models: The models by name.
            owner: The object whose attributes may hold metrics, and models and layers with metrics.
            given: The trainer's own metrics.

        Returns:
            Whether there are new metrics.

        Raises:
            ConfigurationError: If a metric cannot be used under the strategy.
        """
        before = len(self._found)
        known = [*given, *(owned.metric for owned in self._found)]
        for metric, place, path in (*_of_models(models), *_of_attributes(owner)):
            if any(metric is other for other in known):
                continue
            if not patches.are_on():
                raise ConfigurationError(f"the metric {metric.name!r} of {place} {patches.NEEDED}")
            if not belongs_here(metric.variables):
                raise ConfigurationError(
                    f"the metric {metric.name!r} of {place} was created outside of the strategy's scope, so "
                    "it cannot count on several replicas. Create it in setup, or in the model."
                )
            patches.patch("keras.Metric.update_state", metric, _Told(metric, "update_state"))
            patches.patch("keras.Metric.result", metric, _Told(metric, "result"))
            taken = [owned.path for owned in self._found]
            self._found.append(_Owned(metric, place, state.unused(path, "_", taken)))
            known.append(metric)
        return len(self._found) > before

    def make(
        self, purpose: str, updated: Collection[keras.Metric], returned: Mapping[str, MetricResult]
    ) -> None:
        """Stores the findings of a first trace of a kind of step, or of a later one.

        Args:
            purpose: The kind of step.
            updated: The metrics that it updates.
            returned: The results that it returns, by name.
        """
        own = [owned for owned in self._found if any(owned.metric is each for each in updated)]
        for owned in own:  # metrics in use keep their state, because a step may be traced again
            if all(owned is not each for shown in self._shown.values() for each in shown.updated):
                owned.metric.reset_state()  # it may have been used before
        under_names = [result.metric for result in returned.values()]
        tagged = [o.metric for o in own if all(o.metric is not each for each in under_names)]
        names = {m.name: names_of(m.name, m) for m in tagged if not isinstance(m, metrics.Pictured)}
        self._shown[purpose] = _Shown(own, dict(returned), names)
        if {"train", "test"} <= self._shown.keys():
            self._tell_of_idle()

    def _tell_of_idle(self) -> None:
        busy = [owned for shown in self._shown.values() for owned in shown.updated]
        for owned in self._found:
            if all(owned is not each for each in busy):
                _log.warning(
                    "the metric %r of %s is not logged: no step calls its update_state",
                    owned.metric.name,
                    owned.place,
                )

    def of(self, purpose: str) -> list[keras.Metric]:
        """Returns the metrics that a kind of step updates."""
        return [owned.metric for owned in self._of(purpose).updated]

    def variables(self) -> state.Variables:
        """Returns the variables of all found metrics, by their paths in a checkpoint."""
        found: state.Variables = {}
        for owned in self._found:
            for variable in owned.metric.variables:  # Keras' paths name the layer of creation
                name = variable.path.rpartition("/")[2]
                found[state.unused(state.as_path(f"metrics/{owned.path}/{name}"), ".", found)] = variable
        return found

    def sources(self, purpose: str) -> list[value_names.Source]:
        """Returns the names of the values of a kind of step's metrics, by their source."""
        shown = self._of(purpose)
        under_names: list[value_names.Source] = [
            (f"the metric {result.metric.name!r} that the step returns", "", [name])
            for name, result in shown.returned.items()
        ]
        tagged = [owned for owned in shown.updated if owned.metric in self._tagged(purpose)]
        return [
            *under_names,
            *(
                (f"the metric of {o.place}", "", shown.names.get(o.metric.name, [o.metric.name]))
                for o in tagged
            ),
        ]

    def values(self, purpose: str) -> dict[str, float]:
        """Returns the numbers of a kind of step's metrics, by name; on the host."""
        shown, values = self._of(purpose), dict[str, float]()
        for metric in self._tagged(purpose):
            if metric.name in shown.names:
                found = numbers(metric.name, metric.result())
                check_names(metric.name, found, shown.names[metric.name])
                values |= found
        for name, (_, metric, key) in shown.returned.items():
            result = metric.result()
            values[name] = float(keras.ops.convert_to_numpy(result if key is None else result[key]))
        return values

    def pictured(self, purpose: str) -> dict[str, metrics.Pictured]:
        """Returns the metrics of a kind of step that are shown as pictures, by tag."""
        return {m.name: m for m in self._tagged(purpose) if isinstance(m, metrics.Pictured)}

    def _tagged(self, purpose: str) -> list[keras.Metric]:
        """Returns the metrics that are logged under their own names."""
        under_names = [result.metric for result in self._of(purpose).returned.values()]
        return [m for m in self.of(purpose) if all(m is not each for each in under_names)]

    def _of(self, purpose: str) -> _Shown:
        return self._shown.get(purpose, _Shown([], {}, {}))


class _Told:
    """Calls a method of a metric, and informs the running step.

    It is an object, not a function: a copy of the metric gets a copy of it, which calls the copy's method.
    """

    def __init__(self, metric: keras.Metric, name: str) -> None:
        self._name, self._method = name, getattr(metric, name)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        result = translated(self._method)(*arguments, **keywords)
        scope = found_running()
        if scope is not None and self._name == "result":
            scope.metric_results.note(self._method.__self__, result)
        elif scope is not None:
            scope.note_updated(self._method.__self__)
        return result


def _of_models(models: Mapping[str, keras.Model]) -> Iterator[tuple[keras.Metric, str, str]]:
    """Yields the metrics in models, each with a description of its owner and a path."""
    for name, model in models.items():
        yield from _inside(model, f"model {name!r}", f"models/{name}")


def _of_attributes(owner: Any) -> Iterator[tuple[keras.Metric, str, str]]:
    for name, value in vars(owner).items():
        yield from _within(value, f"self.{name}", f"trainer/{name}")


def _within(value: Any, place: str, path: str) -> Iterator[tuple[keras.Metric, str, str]]:
    if isinstance(value, keras.Metric):
        yield value, place, path
    elif isinstance(value, keras.Layer):
        yield from _inside(value, place, path)
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _within(part, f"{place}[{key!r}]", f"{path}/{key}")
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from _within(part, f"{place}[{index}]", f"{path}/{index}")


def _inside(layer: keras.Layer, place: str, path: str) -> Iterator[tuple[keras.Metric, str, str]]:
    for each in layer._flatten_layers():
        of = place if each is layer else f"the layer {each.name!r} of {place}"
        for metric in each._metrics:
            yield metric, of, f"{path}/{state.without_number(metric.name)}"
