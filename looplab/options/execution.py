"""The settings for how steps run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from looplab.errors import ConfigurationError, nearest
from looplab.options import bounds
from looplab.options.value_types import FREE, SAID, Names, OneOf, Switch

MODES = ("graph", "xla_step", "xla_loop")
_CHOICES = ("auto", *MODES)


@dataclass(frozen=True)
class Execution:
    """The settings for how steps run.

    Attributes:
        mode: `auto` measures the modes and uses the fastest. `graph` runs a loop in the graph, `xla_step`
            the same loop with a step that XLA compiles, `xla_loop` a loop that XLA compiles as a whole.
        steps_per_execution: Steps in one call, or `auto`; no result depends on it.
        run_eagerly: Whether steps run in Python, where a breakpoint works.
        micro_batches: The number of pieces in which an update computes its gradients; `auto` finds the fewest
            with which a step fits in a GPU's memory.
        recompute: Patterns of the paths of layers, such as `block_*`, of which a step keeps only the inputs
            and results: the backward pass computes them again, with the same random numbers.
    """

    mode: Annotated[str, OneOf(_CHOICES)] = "auto"
    steps_per_execution: Annotated[int | str, bounds.CHUNK, FREE] = "auto"
    run_eagerly: Annotated[bool, Switch()] = False
    micro_batches: Annotated[int | str, bounds.MICRO_BATCHES, SAID] = 1
    recompute: Annotated[list[str], Names("a list of patterns of layers"), SAID] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Checks each value.

        Raises:
            ConfigurationError: If one is not valid.
        """
        bounds.whole("steps_per_execution", self.steps_per_execution, bounds.CHUNK)
        bounds.whole("micro_batches", self.micro_batches, bounds.MICRO_BATCHES)
        if self.mode not in _CHOICES:
            raise ConfigurationError(
                f"execution: {self.mode!r} is not one of {', '.join(_CHOICES)}."
                + nearest(str(self.mode), _CHOICES)
            )
        patterns(self.recompute)


def patterns(given: Any) -> list[str]:
    """Returns the patterns of `recompute` as a list.

    Args:
        given: One pattern or several.

    Raises:
        ConfigurationError: If it is anything else.
    """
    found = [given] if isinstance(given, str) else given
    if not isinstance(found, list | tuple) or not all(isinstance(own, str) and own for own in found):
        raise ConfigurationError(
            f"recompute: expected patterns of layers such as 'block_*', or a list of them; got {given!r}. "
            "Without layers to compute again, leave it out."
        )
    return list(found)


def read_execution(given: str | Execution, jit_compile: bool = False, **keywords: Any) -> Execution:
    """Returns the settings for how steps run, from the arguments of a trainer.

    Args:
        given: A mode, or all settings; then no other argument may be given.
        jit_compile: Keras' name for the mode `xla_step`.
        **keywords: Other attributes of `Execution`, by name.

    Raises:
        ConfigurationError: If a value is wrong, or given twice.
    """
    keywords = {**keywords, "recompute": patterns(keywords.get("recompute", ()))}
    if not isinstance(given, Execution):
        return Execution("xla_step" if jit_compile else given, **keywords)
    default = Execution()
    if jit_compile and given.mode != "xla_step":
        raise ConfigurationError(
            f"jit_compile: it means execution='xla_step', but execution={given} is another mode. Leave one "
            "out."
        )
    for name, value in keywords.items():
        if value != getattr(default, name):
            raise ConfigurationError(
                f"{name}: it is given twice, {value!r} here and {getattr(given, name)!r} in "
                f"execution={given}. Leave one out."
            )
    return given
