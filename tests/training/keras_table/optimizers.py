"""A case for each optimizer of Keras with each of its options, found by introspection; and each schedule."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import keras
from keras.optimizers import schedules

from tests.training.keras_table.exceptions import OPTIMIZERS as WITHOUT
from tests.training.keras_table.exceptions import REFUSED_OPTIONS

# A value for each option, and what goes with it; one that is True or False is turned. Numbers are such as
# float32 holds, since Keras rounds others to it.
OPTIONS: dict[str, dict[str, Any]] = {
    "adam_beta_1": {"adam_beta_1": 0.875, "exclude_layers": ["output"]},
    "adam_beta_2": {"adam_beta_2": 0.9375, "exclude_layers": ["output"]},
    "adam_lr_ratio": {"adam_lr_ratio": 0.5, "exclude_layers": ["output"]},
    "adam_weight_decay": {"adam_weight_decay": 0.0625, "exclude_layers": ["output"]},
    "beta": {"beta": 0.125},
    "beta_1": {"beta_1": 0.75},
    "beta_2": {"beta_2": 0.9375},
    "beta_2_decay": {"beta_2_decay": -0.75},
    "clip_threshold": {"clip_threshold": 0.5},
    "clipnorm": {"clipnorm": 0.0625},
    "clipvalue": {"clipvalue": 0.03125},
    "ema_momentum": {"ema_momentum": 0.75, "use_ema": True},
    "ema_overwrite_frequency": {"ema_overwrite_frequency": 2, "use_ema": True, "ema_momentum": 0.5},
    "epsilon": {"epsilon": 2.0**-10},
    "epsilon_1": {"epsilon_1": 2.0**-20},
    "epsilon_2": {"epsilon_2": 4.0},
    "exclude_layers": {"exclude_layers": ["hidden"]},
    "global_clipnorm": {"global_clipnorm": 0.0625},
    "initial_accumulator_value": {"initial_accumulator_value": 0.25},
    "l1_regularization_strength": {"l1_regularization_strength": 0.125},
    "l2_regularization_strength": {"l2_regularization_strength": 0.125},
    "l2_shrinkage_regularization_strength": {"l2_shrinkage_regularization_strength": 0.125},
    "learning_rate_power": {"learning_rate_power": -0.25},
    "momentum": {"momentum": 0.75},
    "muon_a": {"muon_a": 3.25},
    "muon_b": {"muon_b": -4.8125},
    "muon_c": {"muon_c": 1.75},
    "nesterov": {"momentum": 0.5},
    "ns_steps": {"ns_steps": 3},
    "relative_step": {"learning_rate": 1.0},
    "rho": {"rho": 0.75},
    "rms_rate": {"rms_rate": 0.125},
    "use_ema": {"use_ema": True, "ema_momentum": 0.5},
    "warmup_steps": {"warmup_steps": 4},
    "weight_decay": {"weight_decay": 0.125},
}
# Defaults that float32 does not hold, in the place of which every case has these.
EXACT = {
    "learning_rate": 0.125,
    "momentum": 0.5,
    **{"beta_1": 0.875, "beta_2": 0.875, "rho": 0.875, "epsilon": 2.0**-12, "beta_2_decay": -0.5},
    **{"initial_accumulator_value": 0.125, "ema_momentum": 0.5, "weight_decay": 0.0},
    **{"adam_beta_1": 0.875, "adam_beta_2": 0.875, "adam_weight_decay": 0.0},
    **{
        "muon_a": 3.5,
        "muon_b": -4.75,
        "muon_c": 2.0,
        "rms_rate": 0.25,
        "epsilon_1": 2.0**-40,
        "epsilon_2": 2.0**-10,
    },
}
NO_OPTIONS = {"self", "name", "kwargs", "learning_rate", *REFUSED_OPTIONS}


def kinds() -> dict[str, type]:
    """Returns the optimizers by name."""
    found = inspect.getmembers(keras.optimizers, inspect.isclass)
    return {name: kind for name, kind in found if name not in WITHOUT}


def options(kind: type) -> list[str]:
    """Names what an optimizer can be made with, but for what looplab refuses."""
    return [name for name in inspect.signature(kind.__init__).parameters if name not in NO_OPTIONS]


def unknown(kind: type) -> list[str]:
    """Names the options without a value."""
    parameters = inspect.signature(kind.__init__).parameters
    return [
        name
        for name in options(kind)
        if name not in OPTIONS and not isinstance(parameters[name].default, bool)
    ]


# Options that change nothing in the model that is trained here.
INERT = {
    "Lion": ["global_clipnorm"],  # it takes the sign
    "Muon": ["exclude_embeddings"],  # there are none
}


def cases(kind: type) -> dict[str, Callable[[], keras.optimizers.Optimizer]]:
    """Returns what makes an optimizer plainly, and with each option."""
    names = {*options(kind), "learning_rate"}
    exact = {name: value for name, value in EXACT.items() if name in names}
    made = {"plain": partial(kind, **exact)}
    for option in options(kind):
        default = inspect.signature(kind.__init__).parameters[option].default
        other = {option: not default} if isinstance(default, bool) else {}
        settings = {**exact, **other, **OPTIONS.get(option, {})}
        made[option] = partial(kind, **{name: value for name, value in settings.items() if name in names})
    return made


SCHEDULES: dict[str, Callable[[], Any]] = {
    "CosineDecay": lambda: schedules.CosineDecay(0.25, 4, 0.125, warmup_target=0.5, warmup_steps=1),
    "CosineDecayRestarts": lambda: schedules.CosineDecayRestarts(0.25, 2, 2.0, 0.5, 0.125),
    "ExponentialDecay": lambda: schedules.ExponentialDecay(0.25, 2, 0.5, staircase=True),
    "InverseTimeDecay": lambda: schedules.InverseTimeDecay(0.25, 2, 0.5),
    "PiecewiseConstantDecay": lambda: schedules.PiecewiseConstantDecay([1, 2], [0.5, 0.25, 0.125]),
    "PolynomialDecay": lambda: schedules.PolynomialDecay(0.25, 4, 0.125, power=2.0),
}
