"""A new run's first weights, taken from another run or from a file of Keras.

Something else than to resume: only values of variables are taken, once, before the first step.
"""

from looplab.checkpoint.warm_start.names import Rule, pair
from looplab.checkpoint.warm_start.warm_start import WarmStart, refuse_parts

__all__ = ["Rule", "WarmStart", "pair", "refuse_parts"]
