"""Losses that layers add (`add_loss`, `activity_regularizer`): each replica has its own.

Keras keeps them in a list of the layer. The replicas of a step share the layer and are traced in threads,
which switch when replicas communicate, for example in synchronised BatchNormalization. So one replica would
clear or read what another has added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import tensorflow as tf

from looplab.compat import patches
from looplab.strategy.collectives import replicas

_METHODS = ("keras.Layer.add_loss", "keras.Layer._clear_losses", "keras.Layer._get_own_losses")


@contextmanager
def apart() -> Iterator[None]:
    """Keeps the losses that layers add within the block separate from those of other replicas.

    Enter it on each replica, inside `strategy.run`; with one replica it does nothing.
    """
    with ExitStack() as block:
        for name in _METHODS if replicas() > 1 else ():
            block.enter_context(patches.patched(name, keras.Layer, _by_replica))
        yield


def _by_replica(method: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a method of a layer use this replica's losses; no such method switches to another replica."""

    def of_this_replica(self: keras.Layer, *arguments: Any, **keywords: Any) -> Any:
        context = tf.distribute.get_replica_context()
        replica = None if context is None else tf.get_static_value(context.replica_id_in_sync_group)
        if replica is None:
            return method(self, *arguments, **keywords)
        fields = vars(self)  # past Keras' tracking
        shared = fields["_losses"]
        fields["_losses"] = fields.setdefault("_looplab_losses", {}).setdefault(int(replica), [])
        try:
            return method(self, *arguments, **keywords)
        finally:
            fields["_losses"] = shared

    return of_this_replica
