"""The outputs of a model by name, and the values of each: a loss, metrics, targets, sample weights.

In Keras these are given as one object, as a list in the order of the outputs, or by name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from looplab.errors import ConfigurationError, nearest


@dataclass(frozen=True)
class Output:
    """One output of a model.

    Attributes:
        path: The keys and indices that lead to it in the model's result; empty if it is the whole result.
        name: Its name in Keras' logs: its key in a dict, `model.output_names` in a list, joined by `/` if
            they are nested; `output_1` and so on in the list of a model without such names.
        is_only: Whether it is the model's only output, whose name logs leave out.
    """

    path: tuple[str | int, ...]
    name: str
    is_only: bool

    def label(self, name: str) -> str:
        """Returns the name of this output's value in logs."""
        return name if self.is_only else f"{self.name}_{name}"


def names_of(model: Any) -> tuple[str, ...]:
    """Returns the names of a model's outputs, as far as it has them."""
    if isinstance(model, keras.Sequential):
        return tuple(layer.name for layer in model.layers[-1:])
    return tuple(getattr(model, "output_names", None) or ())


def outputs_of(predictions: Any, names: Sequence[str] = ()) -> tuple[Output, ...]:
    """Returns the outputs in a model's result.

    Args:
        predictions: A tensor, or dicts, lists and tuples of tensors.
        names: The names of the model's outputs, in their order; used if there are as many.

    Raises:
        ConfigurationError: If there is no output.
    """
    paths = _paths(predictions, ())
    if not paths:
        raise ConfigurationError(f"the model returned {predictions!r}, which holds no output.")
    known = names if len(names) == len(paths) else [f"output_{index}" for index in range(1, len(paths) + 1)]
    given = [_name(path, own) for path, own in zip(paths, known, strict=True)]
    taken: list[str] = []
    for at, name in enumerate(given):
        again = given[:at].count(name)  # a layer that is called several times repeats its name
        while (own := f"{name}_{again}" if again else name) in taken:
            again += 1
        taken.append(own)
    return tuple(Output(path, name, len(paths) == 1) for path, name in zip(paths, taken, strict=True))


def leaf(whole: Any, output: Output) -> Any:
    """Returns an output from the model's result."""
    for key in output.path:
        whole = whole[key]
    return whole


def spread(given: Any, outputs: Sequence[Output], what: str, *, partly: bool = False) -> dict[Output, Any]:
    """Returns the value that was given for each output; outputs without a value are left out.

    Args:
        given: For one output its value, or a dict with its name. For several outputs a dict by name, a list
            in the order of a list of outputs, or these nested like the outputs.
        outputs: The outputs of the model.
        what: The name of the argument, for messages: `"loss"`.
        partly: Whether the dict may have other names too, for other purposes.

    Raises:
        ConfigurationError: If it names an unknown output, or cannot be matched with the outputs.
    """
    return _spread(given, outputs, 0, what, partly)


def targets_of(targets: Any, outputs: Sequence[Output], having: Collection[Output] = ()) -> dict[Output, Any]:
    """Returns the target of each output that has one.

    Args:
        targets: The target of the only output, or targets of several outputs by name or in their order.
        outputs: The outputs of the model.
        having: The outputs with a loss: a list may have the targets of these only, as in Keras, and any other
            object is the target of the only one.
    """
    in_a_list = all(len(each.path) == 1 and isinstance(each.path[0], int) for each in outputs)
    if isinstance(targets, list | tuple) and in_a_list and len(targets) == len(having) < len(outputs):
        return dict(zip(having, targets, strict=True))
    if len(having) == 1 < len(outputs) and not isinstance(targets, Mapping | list | tuple | None):
        return dict.fromkeys(having, targets)
    return {} if targets is None else spread(_of_the_only(targets, outputs), outputs, "targets", partly=True)


def sample_weights(weights: Any, outputs: Sequence[Output]) -> dict[Output, Any]:
    """Returns the sample weights of each output that has some: its own, or the weights for all outputs."""
    if weights is None:
        return {}
    if not isinstance(weights, Mapping | list | tuple):
        return dict.fromkeys(outputs, weights)
    return spread(_of_the_only(weights, outputs), outputs, "sample_weight", partly=True)


def _of_the_only(given: Any, outputs: Sequence[Output]) -> Any:
    """Returns the element of a one-element list or tuple, if the model has one output."""
    unwraps = outputs[0].path == () and isinstance(given, list | tuple) and len(given) == 1
    return given[0] if unwraps else given


def _spread(given: Any, outputs: Sequence[Output], depth: int, what: str, partly: bool) -> dict[Output, Any]:
    first = outputs[0]
    if len(outputs) == 1 and (len(first.path) == depth or not isinstance(given, Mapping | list | tuple)):
        if not isinstance(given, Mapping) or (partly and first.name not in given):
            return {first: given}
        if strangers := [name for name in given if name != first.name and not partly]:
            raise unknown_output(strangers[0], [first.name], what)
        return {first: given[first.name]}
    groups: dict[str | int, list[Output]] = {}
    for output in outputs:
        groups.setdefault(output.path[depth], []).append(output)
    if isinstance(given, Mapping):
        keys = {_key(key, own, given): own for key, own in groups.items()}
        if not partly and (strangers := [key for key in given if key not in keys]):
            raise unknown_output(strangers[0], list(keys), what)
        parts = [(given[key], own) for key, own in keys.items() if key in given]
    elif isinstance(given, list | tuple) and all(isinstance(key, int) for key in groups):
        if len(given) != len(groups):
            raise ConfigurationError(
                f"{what}: a list of {len(given)} for {len(groups)} outputs, {_names(outputs)}. Give one "
                "value for each, or None; or a dict by name."
            )
        parts = list(zip(given, groups.values(), strict=True))
    else:
        raise unmatched(given, outputs, what)
    found: dict[Output, Any] = {}
    for part, own in parts:
        if part is not None:
            found |= _spread(part, own, depth + 1, what, partly)
    return found


def unknown_output(name: Any, known: list[Any], what: str) -> ConfigurationError:
    """Returns the error for an unknown name of an output."""
    hint = nearest(str(name), [str(own) for own in known])
    return ConfigurationError(f"{what}: there is no output or target {name!r}; there are {known}.{hint}")


def unmatched(given: Any, outputs: Sequence[Output], what: str) -> ConfigurationError:
    """Returns the error for one value that was given for a model with several outputs."""
    if isinstance(given, list | tuple):
        return ConfigurationError(
            f"{what}: a {type(given).__name__} has an order, and the model's outputs have names: "
            f"{_names(outputs)}. Give a dict by output name."
        )
    return ConfigurationError(
        f"{what}: the model has several outputs, {_names(outputs)}; give a dict by output name"
        + (", or a list." if all(isinstance(output.path[0], int) for output in outputs) else ".")
    )


def _paths(part: Any, path: tuple[str | int, ...]) -> list[tuple[str | int, ...]]:
    if isinstance(part, Mapping):  # the order in which Keras flattens a dict
        return [own for key in sorted(part, key=str) for own in _paths(part[key], (*path, key))]
    if isinstance(part, list | tuple):
        return [own for index, each in enumerate(part) for own in _paths(each, (*path, index))]
    return [path]


def _name(path: tuple[str | int, ...], name: str) -> str:
    if not path:
        return name
    return "/".join(map(str, (*path[:-1], name) if isinstance(path[-1], int) else path))


def _key(key: str | int, own: list[Output], given: Mapping[Any, Any]) -> str | int:
    """Returns the key of an output in a dict; for an output of a list it is the name."""
    return own[0].name if isinstance(key, int) and len(own) == 1 and key not in given else key


def _names(outputs: Sequence[Output]) -> str:
    return ", ".join(repr(output.name) for output in outputs)
