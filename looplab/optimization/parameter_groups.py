"""Parameter groups: variables chosen by pattern, with their own learning rate and weight decay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import prod
from typing import Any

import keras
import tensorflow as tf

from looplab.checkpoint.patterns import matches, of_nothing
from looplab.compat import patches
from looplab.errors import ConfigurationError, Problem, Refused, nearest
from looplab.strategy.python_float64 import as_double


@dataclass(frozen=True)
class ParameterGroup:
    """Some of the variables that an optimizer trains; the term is PyTorch's.

    Attributes:
        match: Patterns of the variables' paths, or of the layers that hold them, such as `"*/bias"` or
            `"encoder"`; see `matches`. None for all variables that no other group matches.
        learning_rate_scale: The factor on the optimizer's learning rate, above 0 (timm's `lr_scale`); it
            scales the weight decay too, which is `learning_rate * weight_decay`.
        weight_decay: A weight decay instead of the optimizer's, at least 0: decoupled, as in Keras
            (Loshchilov and Hutter 2019). None for the optimizer's.
    """

    match: str | Sequence[str] | None = None
    learning_rate_scale: float = 1.0
    weight_decay: float | None = None

    @property
    def patterns(self) -> tuple[str, ...]:
        """All patterns."""
        return (self.match,) if isinstance(self.match, str) else tuple(self.match or ())


Groups = Mapping[str, ParameterGroup]  # the groups of one optimizer, by name
Row = tuple[str, int, int, float, float]  # group, variables, parameters, learning-rate scale, weight decay


def read_groups(given: Mapping[str, Any] | None, optimizers: Sequence[str]) -> dict[str, Groups]:
    """Reads the groups of a trainer.

    Args:
        given: A `ParameterGroup` or a dict of its attributes by name; with several optimizers, such
            groups by the optimizer's name. None for no groups.
        optimizers: The optimizers' names.

    Returns:
        The groups by optimizer; an optimizer without groups is left out.

    Raises:
        Refused: With all problems; or if patches are off, see `looplab.compat`.
    """
    if not given:
        return {}
    if not patches.are_on():
        raise Refused([Problem("parameter_groups", f"a rate or decay by variable {patches.NEEDED}")])
    by_optimizer = given if len(optimizers) > 1 else dict.fromkeys(optimizers, given)
    problems: list[Problem] = []
    found: dict[str, Groups] = {}
    for optimizer, groups in by_optimizer.items():
        if optimizer not in optimizers or not isinstance(groups, Mapping):
            message = f"give groups under the name of an optimizer; there are {', '.join(optimizers)}."
            problems.append(
                Problem(f"parameter_groups.{optimizer}", message + nearest(optimizer, optimizers))
            )
            continue
        key = "parameter_groups" if len(optimizers) == 1 else f"parameter_groups.{optimizer}"
        read = {name: _read(group, f"{key}.{name}", problems) for name, group in groups.items()}
        rests = [name for name, group in read.items() if group.match is None]
        if len(rests) > 1:
            message = f"{' and '.join(rests)} have no match; only one group may take the rest."
            problems.append(Problem(key, message))
        found[optimizer] = read
    if problems:
        raise Refused(problems)
    return found


def install(optimizer: keras.optimizers.Optimizer, groups: Groups, paths: Mapping[str, Any]) -> list[Row]:
    """Gives each variable the rate and the decay of its group, for all updates of the optimizer.

    Args:
        optimizer: A built optimizer; its `update_step` and weight decay are wrapped.
        groups: From `read_groups`.
        paths: The variables that it trains, by path.

    Returns:
        The groups and their contents, as a table.

    Raises:
        Refused: If a variable is in no group or in several, or a pattern matches nothing.
    """
    chosen = assign_groups(groups, list(paths))
    settings, rows = {}, []
    usual = getattr(optimizer, "weight_decay", None) or 0.0
    if hasattr(optimizer, "adam_weight_decay"):
        raise ConfigurationError("parameter_groups: Muon has its own groups (exclude_layers); use those.")
    for name, group in groups.items():
        own = [variable for path, variable in paths.items() if chosen[path] == name]
        decay = usual if group.weight_decay is None else group.weight_decay
        rows.append((name, len(own), sum(prod(v.shape) for v in own), group.learning_rate_scale, decay))
        for variable in own:
            excluded = group.weight_decay is None and not optimizer._use_weight_decay(variable)
            settings[optimizer._var_key(variable)] = group.learning_rate_scale, 0.0 if excluded else decay
    if keras.config.floatx() == "float64":
        settings = {key: as_double(pair) for key, pair in settings.items()}
    update_step = type(optimizer).update_step.__get__(optimizer)  # not another trainer's replacement

    def update(gradient: Any, variable: Any, learning_rate: Any) -> Any:
        scale, decay = settings[optimizer._var_key(variable)]
        rate = learning_rate * tf.cast(scale, learning_rate.dtype)
        if decay:  # as in Keras: of the value before the update
            factor = tf.cast(decay, variable.dtype) * tf.cast(rate, variable.dtype)
            optimizer.assign_sub(variable, variable * factor)
        return update_step(gradient, variable, rate)

    patches.patch("keras.optimizers.Optimizer.update_step", optimizer, update)
    patches.patch("keras.optimizers.Optimizer._apply_weight_decay", optimizer, lambda variables: None)
    return rows


def assign_groups(groups: Groups, paths: Sequence[str]) -> dict[str, str]:
    """Returns the group of each path.

    Raises:
        Refused: If a path is in no group or in several, or a pattern matches none.
    """
    problems, chosen = [], {}
    rest = [name for name, group in groups.items() if group.match is None]
    for path in paths:
        matching = [n for n, g in groups.items() if any(matches(path, p) for p in g.patterns)] or rest
        if not matching:
            message = f"{path!r} is in no group; a group without match takes the rest."
            problems.append(Problem("parameter_groups", message))
        elif len(matching) > 1:
            message = f"{path!r} is in several groups: {', '.join(matching)}; make their patterns disjoint."
            problems.append(Problem("parameter_groups", message))
        else:
            chosen[path] = matching[0]
    for name, group in groups.items():
        for pattern in group.patterns:
            if not any(matches(path, pattern) for path in paths):
                problems.append(Problem(f"parameter_groups.{name}.match", of_nothing(pattern, paths)))
    if problems:
        raise Refused(problems)
    return chosen


def _read(given: Any, key: str, problems: list[Problem]) -> ParameterGroup:
    if isinstance(given, ParameterGroup):
        group = given
    elif not isinstance(given, Mapping):
        problems.append(Problem(key, f"expected match, learning_rate_scale and weight_decay, got {given!r}."))
        return ParameterGroup("*")
    else:
        valid = [field.name for field in fields(ParameterGroup)]
        for name in [name for name in given if name not in valid]:
            message = f"there is no such key in a parameter group; valid are {', '.join(valid)}."
            problems.append(Problem(f"{key}.{name}", message + nearest(name, valid)))
        group = ParameterGroup(**{name: value for name, value in given.items() if name in valid})
    for name, least in (("learning_rate_scale", "above 0"), ("weight_decay", "at least 0")):
        value = getattr(group, name)
        if value is None and name == "weight_decay":
            continue
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or value < 0
            or (name == "learning_rate_scale" and value == 0)
        ):
            hint = (
                " To train some layers later or not at all: looplab.callbacks.Freeze." if value == 0 else ""
            )
            problems.append(Problem(f"{key}.{name}", f"expected a number {least}, got {value!r}.{hint}"))
    return group
