"""looplab: a training-loop framework for TensorFlow 2 and Keras 3.

Public names load on first use, so that `import looplab` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from looplab import (
        callbacks,
        checkpoint,
        data,
        devices,
        loggers,
        metrics,
        models,
        optimization,
        predictions,
        random,
        schedule,
        strategy,
        summary,
        testing,
    )
    from looplab.callbacks import Callback
    from looplab.checkpoint import Policy as CheckpointPolicy
    from looplab.compiled import fit
    from looplab.data import Validation
    from looplab.errors import (
        CheckpointError,
        ConfigurationError,
        ControlFlowError,
        DamagedFile,
        DataError,
        DivergedError,
        Interrupted,
        LooplabError,
        LossError,
        RunInUse,
        StorageError,
        Terminated,
    )
    from looplab.experiment.load import load
    from looplab.interval import Interval
    from looplab.loggers import History
    from looplab.optimization import ParameterGroup, SpikeDetection
    from looplab.protocols import Logger, Media
    from looplab.secret import Secret
    from looplab.targets import configurable
    from looplab.trainer import Trainer

_NAMES = {
    "Callback": "looplab.callbacks:Callback",
    "CheckpointError": "looplab.errors:CheckpointError",
    "CheckpointPolicy": "looplab.checkpoint:Policy",
    "ConfigurationError": "looplab.errors:ConfigurationError",
    "ControlFlowError": "looplab.errors:ControlFlowError",
    "DamagedFile": "looplab.errors:DamagedFile",
    "DataError": "looplab.errors:DataError",
    "DivergedError": "looplab.errors:DivergedError",
    "History": "looplab.loggers:History",
    "Interrupted": "looplab.errors:Interrupted",
    "Interval": "looplab.interval:Interval",
    "Logger": "looplab.protocols:Logger",
    "LooplabError": "looplab.errors:LooplabError",
    "LossError": "looplab.errors:LossError",
    "Media": "looplab.protocols:Media",
    "ParameterGroup": "looplab.optimization:ParameterGroup",
    "RunInUse": "looplab.errors:RunInUse",
    "Secret": "looplab.secret:Secret",
    "SpikeDetection": "looplab.optimization:SpikeDetection",
    "StorageError": "looplab.errors:StorageError",
    "Terminated": "looplab.errors:Terminated",
    "Trainer": "looplab.trainer:Trainer",
    "Validation": "looplab.data:Validation",
    "callbacks": "looplab.callbacks",
    "checkpoint": "looplab.checkpoint",
    "configurable": "looplab.targets:configurable",
    "data": "looplab.data",
    "devices": "looplab.devices",
    "fit": "looplab.compiled:fit",
    "load": "looplab.experiment.load:load",
    "loggers": "looplab.loggers",
    "metrics": "looplab.metrics",
    "models": "looplab.models",
    "optimization": "looplab.optimization",
    "predictions": "looplab.predictions",
    "random": "looplab.random",
    "schedule": "looplab.schedule",
    "strategy": "looplab.strategy",
    "summary": "looplab.summary",
    "testing": "looplab.testing",
}

__all__ = [
    "Callback",
    "CheckpointError",
    "CheckpointPolicy",
    "ConfigurationError",
    "ControlFlowError",
    "DamagedFile",
    "DataError",
    "DivergedError",
    "History",
    "Interrupted",
    "Interval",
    "Logger",
    "LooplabError",
    "LossError",
    "Media",
    "ParameterGroup",
    "RunInUse",
    "Secret",
    "SpikeDetection",
    "StorageError",
    "Terminated",
    "Trainer",
    "Validation",
    "callbacks",
    "checkpoint",
    "configurable",
    "data",
    "devices",
    "fit",
    "load",
    "loggers",
    "metrics",
    "models",
    "optimization",
    "predictions",
    "random",
    "schedule",
    "strategy",
    "summary",
    "testing",
]
__version__ = "0.1.0"

# The names of each public module, which keep their place and are documented. The `__all__` of a wing also has
# names that only other wings use.
PUBLIC = {
    "callbacks": "Callback CheckNumerics EarlyStopping EpochEvent EvaluateEvent Event Freeze Histograms "
    "Keras Lambda LearningRateMonitor Norms Overfit Profile Samples SaveEvent StepEvent TimeLimit",
    "checkpoint": "Policy Store read read_manifest verify",
    "data": "Validation digits image_folder records table tfds",
    "devices": "configure facts refuse_fork",
    "errors": "CheckpointError ConfigurationError DamagedFile DataError DivergedError Interrupted "
    "LooplabError LossError OutOfMemoryError RunInUse StorageError Terminated",
    "interval": "Interval",
    "loggers": "Console Csv History JsonLines MLflow TensorBoard WandB read_records",
    "metrics": "ConfusionMatrix PRCurve",
    "models": "ConvNet",
    "optimization": "ParameterGroup SpikeDetection",
    "predictions": "write",
    "random": "seed_everything",
    "schedule": "Cyclic Piecewise Warmup WarmupCosine plot",
    "strategy": "all_gather rows simulated tpu",
    "summary": "histogram image scalar text",
    "testing": "ResumeDiffers StepDiffers check_resume check_step",
    "trainer": "Trainer",
}


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'looplab' has no attribute {name!r}")
    module, _, attribute = _NAMES[name].partition(":")
    loaded = importlib.import_module(module)
    return getattr(loaded, attribute) if attribute else loaded


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES])
