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
from looplab.callbacks.overfit import Overfit
from looplab.callbacks.profile import Profile

__all__ = [
    "Callback",
    "Callbacks",
    "EpochEvent",
    "EvaluateEvent",
    "Event",
    "Overfit",
    "Profile",
    "SaveEvent",
    "StepEvent",
]
