"""k steps of training or evaluation in one call: in a loop of the graph, or in XLA."""

from looplab.execution.execution import Execution
from looplab.execution.failure import Undoing
from looplab.execution.mapped import Mapped
from looplab.execution.modes import CHOICES, MODES, check_mode
from looplab.execution.pace import Pace
from looplab.execution.xla_refusal import explained, refusal, why_not

__all__ = [
    "CHOICES",
    "MODES",
    "Execution",
    "Mapped",
    "Pace",
    "Undoing",
    "check_mode",
    "explained",
    "refusal",
    "why_not",
]
