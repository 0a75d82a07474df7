"""Logs the output of a model for fixed inputs during training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from looplab import optimization
from looplab.callbacks.base import Callback, Event, StepEvent
from looplab.checkpoint import state
from looplab.errors import ConfigurationError, nearest
from looplab.protocols import Controls
from looplab.strategy import tree
from looplab.targets import configurable


@configurable
class Samples(Callback):
    """Logs a model's output for the same inputs at an interval.

    It calls the model eagerly with `training=False` and undoes all changes: moving statistics and random
    generators stay as they are, so training is the same with and without it. The model has the weights that
    an evaluation uses (with `use_ema=True` their averages). This also holds in `render`, which may call the
    model itself, as a sampler of a diffusion model does.
    """

    def __init__(
        self,
        inputs: Any,
        every: str | int = "1ep",
        kind: str = "image",
        model: str | None = None,
        render: Callable[[Any], Any] | None = None,
        tag: str = "samples",
        on_failure: str = "critical",
    ) -> None:
        """Sets the inputs, the interval and the form of the output.

        Args:
            inputs: A batch of the model's inputs: an array, or several arrays as the model takes them.
            every: An interval of steps, epochs or examples.
            kind: `"image"`, `"histogram"` or `"text"`; see `looplab.protocols.Media`.
            model: The model's name, if there are several models.
            render: Converts the model's outputs, NumPy arrays, to the data to show. Without it, outputs are
                shown as they are: images need the shape `[n, height, width]` or `[n, height, width,
                channels]` and are clipped to 0 and 1; a text has one line for each row.
            tag: The name of the series.
            on_failure: See `Callback`.

        Raises:
            ConfigurationError: If the kind is unknown.
        """
        if kind not in _RENDER:
            raise ConfigurationError(
                f"Samples.kind: {kind!r} is not one of {', '.join(map(repr, _RENDER))}."
                + nearest(kind, _RENDER)
            )
        self.every, self.on_failure = every, on_failure
        self._inputs, self._kind, self._model, self._tag = inputs, kind, model, tag
        self._render = render or _RENDER[kind]

    def on_check(self, event: Event) -> None:
        """See `Callback`: checks that the model exists."""
        self._name(event)

    def on_step(self, event: StepEvent, controls: Controls) -> None:
        """See `Callback`."""
        model = event.models[self._name(event)]
        averages = optimization.averages_of(event.optimizers.values())
        with optimization.exchanged(averages), _restored(event):
            with keras.StatelessScope():
                outputs = model(self._inputs, training=False)
            shown = self._render(tree.map_structure(keras.ops.convert_to_numpy, outputs))
        controls.show(self._tag, self._kind, shown)

    def _name(self, event: Event) -> str:
        if self._model is None and len(event.models) == 1:
            return next(iter(event.models))
        if self._model is None or self._model not in event.models:
            raise ConfigurationError(
                f"Samples.model: there is no model {self._model!r}; there are {list(event.models)}."
                + nearest(str(self._model), event.models)
            )
        return self._model


@contextmanager
def _restored(event: Event) -> Iterator[None]:
    """Restores everything but the weights that a call of a model may change."""
    held = [v for v in state.of_models(event.models).values() if not v.trainable]
    before = [(part, tf.identity(part)) for variable in held for part in state.parts(variable)]
    try:
        yield
    finally:
        for part, value in before:
            part.assign(value)


def _image(outputs: Any) -> np.ndarray:
    shape = np.shape(outputs)
    if len(shape) == 3:
        outputs = outputs[..., None]
    elif len(shape) != 4 or shape[-1] not in (1, 3, 4):
        raise ConfigurationError(
            f"Samples: an output of shape {shape} is not an image; expected [n, height, width] or [n, "
            "height, width, 1, 3 or 4 channels]. Give a function render= that converts it, or use another "
            "kind."
        )
    return np.clip(np.asarray(outputs, np.float32), 0, 1)


def _text(outputs: Any) -> str:
    rows = np.asarray(outputs, np.float32)
    lines = [np.array2string(row, precision=4, threshold=20) for row in rows]
    return "\n".join(f"    {line}" for text in lines for line in text.splitlines())  # as code


_RENDER: dict[str, Callable[[Any], Any]] = {"image": _image, "histogram": np.asarray, "text": _text}
