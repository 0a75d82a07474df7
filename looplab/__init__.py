"""looplab: a training-loop framework for TensorFlow 2 and Keras 3.

Public names load on first use, so that `import looplab` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from looplab import callbacks, checkpoint, data, models, optimization, random, schedule, strategy
    from looplab.callbacks import Callback
    from looplab.checkpoint import Policy as CheckpointPolicy
    from looplab.errors import (
        CheckpointError,
        ConfigurationError,
        DataError,
        Interrupted,
        LooplabError,
        LossError,
        RunInUse,
        StorageError,
    )
    from looplab.interval import Interval
    from looplab.secret import Secret
    from looplab.trainer import Trainer

_NAMES = {
    "Callback": "looplab.callbacks:Callback",
    "CheckpointError": "looplab.errors:CheckpointError",
    "CheckpointPolicy": "looplab.checkpoint:Policy",
    "ConfigurationError": "looplab.errors:ConfigurationError",
    "DataError": "looplab.errors:DataError",
    "Interrupted": "looplab.errors:Interrupted",
    "Interval": "looplab.interval:Interval",
    "LooplabError": "looplab.errors:LooplabError",
    "LossError": "looplab.errors:LossError",
    "RunInUse": "looplab.errors:RunInUse",
    "Secret": "looplab.secret:Secret",
    "StorageError": "looplab.errors:StorageError",
    "Trainer": "looplab.trainer:Trainer",
    "callbacks": "looplab.callbacks",
    "checkpoint": "looplab.checkpoint",
    "data": "looplab.data",
    "models": "looplab.models",
    "optimization": "looplab.optimization",
    "random": "looplab.random",
    "schedule": "looplab.schedule",
    "strategy": "looplab.strategy",
}

__all__ = [
    "Callback",
    "CheckpointError",
    "CheckpointPolicy",
    "ConfigurationError",
    "DataError",
    "Interrupted",
    "Interval",
    "LooplabError",
    "LossError",
    "RunInUse",
    "Secret",
    "StorageError",
    "Trainer",
    "callbacks",
    "checkpoint",
    "data",
    "models",
    "optimization",
    "random",
    "schedule",
    "strategy",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'looplab' has no attribute {name!r}")
    module, _, attribute = _NAMES[name].partition(":")
    loaded = importlib.import_module(module)
    return getattr(loaded, attribute) if attribute else loaded


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES])
