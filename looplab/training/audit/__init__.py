"""What a checkpoint would not bring back: looked for when a run begins, and said with its remedy."""

from looplab.training.audit.audit import Audit, Finding
from looplab.training.audit.global_generators import GlobalGenerators
from looplab.training.audit.untracked_variables import refuse_strays

__all__ = ["Audit", "Finding", "GlobalGenerators", "refuse_strays"]
