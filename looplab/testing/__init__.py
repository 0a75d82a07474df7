"""What a project's own tests ask of its trainers: `looplab.testing.check_step`."""

from looplab.testing.check import check_step
from looplab.testing.report import Report, Row, StepDiffers

__all__ = ["Report", "Row", "StepDiffers", "check_step"]
