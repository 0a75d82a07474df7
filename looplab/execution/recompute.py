"""The layers that are computed again in the backward pass, by patterns of their paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import keras

from looplab.checkpoint.patterns import listed
from looplab.compat import patches
from looplab.errors import ConfigurationError, nearest


@dataclass(frozen=True)
class Saved:
    """The difference that the recomputation of a layer makes to one step, from the graph of the step.

    Attributes:
        size: The bytes of the tensors inside of it, which are not kept.
        operations: The floating point operations of products and convolutions that are made again; None if
            they are not known.
    """

    size: int
    operations: float | None


@dataclass
class Chosen:
    """The layers that a step computes again.

    Attributes:
        paths: Their paths, by the layers' ids.
        saved: What each call of one step on one replica saves; known when the step was traced.
    """

    paths: Mapping[int, str]
    saved: list[Saved] = field(default_factory=list)

    @property
    def freed(self) -> int:
        """The bytes that the forward pass frees at the end of each layer."""
        return sum(saved.size for saved in self.saved)

    @property
    def less(self) -> int:
        """The bytes that a step holds less: the backward pass holds those of one layer at a time."""
        return self.freed - max((saved.size for saved in self.saved), default=0)

    def again(self, whole: float | None) -> str:
        """Describes how much a step computes again.

        Args:
            whole: All operations of products and convolutions in the step; None if they are not known.
        """
        counts = [saved.operations for saved in self.saved if saved.operations is not None]
        if whole is None or len(counts) < len(self.saved) or whole <= sum(counts):
            return ""
        return f", for {sum(counts) / (whole - sum(counts)):.0%} more products in a step"


class Recompute:
    """The setting: which layers are computed again in the backward pass.

    Attributes:
        patterns: Patterns of the paths of layers.
        chosen: The layers of the step that was traced last; None before it.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        """Stores the patterns.

        Raises:
            ConfigurationError: If there are patterns, and looplab's patches are off.
        """
        self.patterns = tuple(patterns)
        self.chosen: Chosen | None = None
        if patterns and not patches.are_on():
            raise ConfigurationError(f"recompute: it {patches.NEEDED}")

    def choose(self, models: Mapping[str, keras.Model]) -> Chosen | None:
        """Finds the layers; of layers inside of each other the outer one counts.

        Args:
            models: Built models by name.

        Returns:
            The layers; None if there are no patterns.

        Raises:
            ConfigurationError: If a pattern matches no layer.
        """
        if not self.patterns:
            return None
        layers = list(_layers(models))  # two of them may have one name
        paths = list(dict.fromkeys(path for path, _ in layers))
        for pattern in self.patterns:
            if not any(fnmatchcase(path, pattern) for path in paths):
                raise ConfigurationError(
                    f"recompute: {pattern!r} matches no layer; there are {listed(paths)}. A pattern may have "
                    f"*, ? and [...], such as 'block_*'.{nearest(pattern, paths)}"
                )
        found: dict[int, str] = {}
        for path, layer in layers:
            is_inside = any(path.startswith(f"{outer}/") for outer in found.values())
            if not is_inside and any(fnmatchcase(path, pattern) for pattern in self.patterns):
                found[id(layer)] = path
        return Chosen(found)

    def line(self, models: Mapping[str, keras.Model]) -> Iterator[tuple[str, str]]:
        """Yields the line of a plan, as `(label, text)`."""
        if chosen := self.choose(models):
            count = len(chosen.paths)
            which = "1 layer is" if count == 1 else f"{count} layers are"
            yield "recompute", f"{', '.join(self.patterns)}: {which} computed again in the backward pass"


def _layers(models: Mapping[str, keras.Model]) -> Iterator[tuple[str, keras.Layer]]:
    """Yields layers by path, outer ones first: of a single model those in it, of several the models too."""

    def inside(layer: keras.Layer, prefix: str) -> Iterator[tuple[str, keras.Layer]]:
        for inner in layer._flatten_layers(include_self=False, recursive=False):
            yield f"{prefix}{inner.name}", inner
            yield from inside(inner, f"{prefix}{inner.name}/")

    for name, model in models.items():
        if len(models) > 1:
            yield name, model
        yield from inside(model, f"{name}/" if len(models) > 1 else "")
