"""Initializes a new run's weights from another run or from a Keras file.

This is not a resume: it takes only values of variables, once, before the first step.
"""

from looplab.checkpoint.warm_start.names import Rule, pair
from looplab.checkpoint.warm_start.warm_start import WarmStart, refuse_parts

__all__ = ["Rule", "WarmStart", "pair", "refuse_parts"]
