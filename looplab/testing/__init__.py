"""Checks for a project's own tests of trainers and data: `check_step`, `check_resume`, `check_feed`."""

from looplab.testing.check import check_step
from looplab.testing.feed import check_feed
from looplab.testing.report import (
    Break,
    FeedBroken,
    FeedReport,
    Property,
    Report,
    ResumeDiffers,
    ResumeReport,
    Row,
    StepDiffers,
)
from looplab.testing.resume import check_resume

__all__ = [
    "Break",
    "FeedBroken",
    "FeedReport",
    "Property",
    "Report",
    "ResumeDiffers",
    "ResumeReport",
    "Row",
    "StepDiffers",
    "check_feed",
    "check_resume",
    "check_step",
]
