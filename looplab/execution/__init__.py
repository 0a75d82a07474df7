"""k steps of training or evaluation in one call: in a loop of the graph, or in XLA."""

from looplab.execution.execution import Execution
from looplab.execution.failure import Undoing
from looplab.execution.mapped import Mapped
from looplab.execution.modes import CHOICES, MODES, check_mode
from looplab.execution.pace import Pace

__all__ = ["CHOICES", "MODES", "Execution", "Mapped", "Pace", "Undoing", "check_mode"]
