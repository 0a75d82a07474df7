"""Makes a trainer and its data from a checked configuration, and loads a recorded run again."""

from looplab.experiment.build import build, rehearse
from looplab.experiment.datasets import arguments, feeds, validation_set
from looplab.experiment.recording import run, write_config

__all__ = ["arguments", "build", "feeds", "rehearse", "run", "validation_set", "write_config"]
