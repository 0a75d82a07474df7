"""Callbacks observe and control a run."""

from looplab.callbacks.base import (
    Callback,
    EpochEvent,
    EvaluateEvent,
    Event,
    SaveEvent,
    StepEvent,
)
from looplab.callbacks.callback_list import CallbackList, Monitor, Occasion
from looplab.callbacks.early_stopping import EarlyStopping
from looplab.callbacks.freeze import Freeze
from looplab.callbacks.histograms import Histograms
from looplab.callbacks.keras import Keras, adapt
from looplab.callbacks.lambda_callback import Lambda
from looplab.callbacks.learning_rate import LearningRateMonitor
from looplab.callbacks.norms import Norms
from looplab.callbacks.numerics import CheckNumerics
from looplab.callbacks.occasions import may_log
from looplab.callbacks.overfit import Overfit
from looplab.callbacks.profile import Profile
from looplab.callbacks.samples import Samples
from looplab.callbacks.time_limit import TimeLimit

__all__ = [
    "Callback",
    "CallbackList",
    "CheckNumerics",
    "EarlyStopping",
    "EpochEvent",
    "EvaluateEvent",
    "Event",
    "Freeze",
    "Histograms",
    "Keras",
    "Lambda",
    "LearningRateMonitor",
    "Monitor",
    "Norms",
    "Occasion",
    "Overfit",
    "Profile",
    "Samples",
    "SaveEvent",
    "StepEvent",
    "TimeLimit",
    "adapt",
    "may_log",
]
