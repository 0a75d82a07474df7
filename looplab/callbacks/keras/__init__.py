"""Callbacks of Keras, unchanged: as `model.fit` calls them."""

from looplab.callbacks.keras.adapter import Keras, adapt

__all__ = ["Keras", "adapt"]
