"""Calls a layer twice: in the forward pass, and again when its gradient is computed.

Of such a layer a step keeps the inputs and results only (Chen et al. 2016, arXiv:1604.06174). Both passes
begin with the same values of all its variables, the states of seed generators among them, so they draw the
same numbers, and what the second pass assigns is dropped.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.backend.common.stateless_scope import in_stateless_scope
from keras.src.backend.common.variables import AutocastScope

from looplab.errors import LossError
from looplab.execution import flops, memory, unseeded_draws
from looplab.execution.recompute import Chosen, Saved
from looplab.execution.step_scope import StepScope

_CONTEXT = "current_call_ctx"  # the name under which Keras keeps the arguments that inner layers inherit
_thread = threading.local()  # MirroredStrategy runs each replica in its own thread


@contextmanager
def in_step(scope: StepScope) -> Iterator[None]:
    """Computes the layers that a running step has chosen again, within the block and in this thread."""
    if scope.recomputes is None:
        yield
        return
    before, saved = getattr(_thread, "scope", None), getattr(_thread, "saved", [])
    _thread.scope, _thread.saved = scope, []
    try:
        yield
        scope.recomputes.saved = _thread.saved
    finally:
        _thread.scope, _thread.saved = before, saved


def is_on() -> bool:
    """Whether this thread is in a step that computes layers again."""
    return getattr(_thread, "scope", None) is not None


def is_in_pass() -> bool:
    """Whether a layer is being called that is computed again."""
    return getattr(_thread, "within", False)


def called(layer: keras.Layer, call: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """Calls a layer: twice, if the running step has chosen it; once otherwise.

    Args:
        layer: The layer.
        call: `keras.Layer.__call__`.
        *arguments: Of the call.
        **keywords: Of the call.
    """
    scope: StepScope | None = getattr(_thread, "scope", None)
    chosen = None if scope is None else scope.recomputes
    if (
        scope is None
        or chosen is None
        or id(layer) not in chosen.paths
        or is_in_pass()
        or in_stateless_scope()
    ):
        return call(layer, *arguments, **keywords)
    return _Call(scope, chosen, layer, call, (arguments, keywords)).result()


class _Call:
    """A call of a layer with a first pass, and a second one when its gradient is computed."""

    def __init__(
        self, scope: StepScope, chosen: Chosen, layer: keras.Layer, call: Callable[..., Any], given: Any
    ) -> None:
        self._scope, self._chosen, self._layer, self._call, self._given = scope, chosen, layer, call, given
        self._flat = tf.nest.flatten(given, expand_composites=True)
        self._masks = [_mask(value) for value in self._flat]  # now: attention takes them away
        self._at = [index for index, value in enumerate(self._flat) if _has_gradient(value)]
        with AutocastScope(None):  # the values as they are stored
            self._variables = [
                (variable, tf.convert_to_tensor(variable.value))
                for variable in (*layer.variables, *unseeded_draws.state())
                if variable.dtype != "string"
            ]
        self._trained = [
            index
            for index, (variable, value) in enumerate(self._variables)
            if variable.trainable and _has_gradient(value)
        ]
        self._part, self._drawn = scope.part, dict(scope.part.drawn)
        self._result: Any = None  # of the first pass
        self._results: list[Any] | None = None
        self._updates: list[tuple[Any, Any]] = []

    def result(self) -> Any:
        """Makes the first pass; returns its result."""
        inputs = [self._flat[index] for index in self._at]
        inputs += [self._variables[index][1] for index in self._trained]
        if not inputs:
            return self._call(self._layer, *self._given[0], **self._given[1])
        self._context = copy.copy(self._layer._get_call_context())
        try:
            found = tf.recompute_grad(self._pass)(*inputs)
        finally:
            self._layer._maybe_reset_call_context()
        for variable, value in self._updates:
            variable.assign(value)
        assert self._results is not None
        values = [
            _masked(found.pop(0), _mask(value)) if _has_gradient(value) else value for value in self._results
        ]
        for loss in found:
            self._layer.add_loss(loss)
        return tf.nest.pack_sequence_as(self._result, values, expand_composites=True)

    def _pass(self, *inputs: Any) -> list[Any]:
        """Computes the layer from some inputs and weights; returns what gradients come from."""
        first, flat, variables = self._results is None, list(self._flat), list(self._variables)
        for index, value in zip(self._at, inputs, strict=False):
            flat[index] = _masked(value, self._masks[index])
        for index, value in zip(self._trained, inputs[len(self._at) :], strict=True):
            variables[index] = variables[index][0], value
        arguments, keywords = tf.nest.pack_sequence_as(self._given, flat, expand_composites=True)
        graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        begin = 0 if graph is None else len(graph.get_operations())
        stateless = keras.StatelessScope(variables, collect_losses=True)
        begun = dict(stateless.state_mapping)
        with self._in_pass(first), stateless:
            result = self._call(self._layer, *arguments, **keywords)
        results = tf.nest.flatten(result, expand_composites=True)
        found = [value for value in results if _has_gradient(value)] + list(stateless.losses)
        if first:
            self._result, self._results = result, results
            self._keep_updates(begun, stateless.state_mapping)
            if graph is not None:
                self._note(graph, graph.get_operations()[begin:], found)
        return found

    @contextmanager
    def _in_pass(self, first: bool) -> Iterator[None]:
        """Makes a pass draw as the first one does, and its layers inherit what those of the first inherit."""
        _thread.within = True
        before = global_state.get_global_attribute(_CONTEXT)
        part = self._part if first else replace(self._part, drawn=dict(self._drawn))
        if not first:
            global_state.set_global_attribute(_CONTEXT, copy.copy(self._context))
        try:
            with self._scope.within(part):
                yield
        finally:
            _thread.within = False
            global_state.set_global_attribute(_CONTEXT, before)

    def _keep_updates(self, begun: Mapping[int, Any], ended: Mapping[int, Any]) -> None:
        """Keeps what the layer has assigned to its variables, such as moving statistics.

        Raises:
            LossError: If it has assigned to a variable that is not its own.
        """
        changed = {key for key, value in ended.items() if value is not begun.get(key)}
        self._updates = [(own, ended[id(own)]) for own, _ in self._variables if id(own) in changed]
        if len(changed) > len(self._updates):
            path = self._chosen.paths[id(self._layer)]
            raise LossError(
                f"recompute: the layer {path!r} changes a variable or a seed generator that is not its own, "
                "which each pass would change. Keep it as an attribute of the layer, or leave the layer out "
                "of recompute."
            )

    def _note(self, graph: tf.Graph, operations: list[tf.Operation], results: list[Any]) -> None:
        size = memory.of_operations(graph, operations).size
        size -= sum(int(value.shape.num_elements() or 0) * int(value.dtype.size) for value in results)
        _thread.saved.append(Saved(max(0, size), flops.of_operations(graph, operations)))


def _has_gradient(value: Any) -> bool:
    return tf.is_tensor(value) and (value.dtype.is_floating or value.dtype.is_complex)


def _mask(value: Any) -> Any:
    return getattr(value, "_keras_mask", None)


def _masked(value: Any, mask: Any) -> Any:
    """Returns a tensor with the mask that Keras keeps at it."""
    if mask is not None:
        value._keras_mask = mask
    return value
