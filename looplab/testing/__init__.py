"""What a project's own tests ask of its trainers: `check_step` and `check_resume`."""

from looplab.testing.check import check_step
from looplab.testing.report import Break, Report, ResumeDiffers, ResumeReport, Row, StepDiffers
from looplab.testing.resume import check_resume

__all__ = [
    "Break",
    "Report",
    "ResumeDiffers",
    "ResumeReport",
    "Row",
    "StepDiffers",
    "check_resume",
    "check_step",
]
