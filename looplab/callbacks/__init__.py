"""Observers and controllers of a run."""

from looplab.callbacks.base import (
    Callback,
    EpochEvent,
    EvaluateEvent,
    Event,
    SaveEvent,
    StepEvent,
)
from looplab.callbacks.group import Callbacks

__all__ = [
    "Callback",
    "Callbacks",
    "EpochEvent",
    "EvaluateEvent",
    "Event",
    "SaveEvent",
    "StepEvent",
]
