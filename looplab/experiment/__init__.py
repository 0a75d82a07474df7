"""A checked configuration to a trainer and its data; a recorded run loaded again."""

from looplab.experiment.build import build, rehearse
from looplab.experiment.datasets import arguments, feeds, validation_set
from looplab.experiment.recording import run, write_config

__all__ = ["arguments", "build", "feeds", "rehearse", "run", "validation_set", "write_config"]
