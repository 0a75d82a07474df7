"""Calls unchanged Keras callbacks as `model.fit` calls them."""

from looplab.callbacks.keras.adapter import Keras
from looplab.callbacks.keras.adapting import adapt

__all__ = ["Keras", "adapt"]
