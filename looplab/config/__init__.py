"""The schema of a configuration, and all checks that run before TensorFlow is imported."""

from looplab.config.paths import directory
from looplab.config.said import Said
from looplab.config.schema import Config
from looplab.config.validation import check

__all__ = ["Config", "Said", "check", "directory"]
