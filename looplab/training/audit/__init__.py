"""Looks for state that a checkpoint would not restore, and warns with the remedy."""

from looplab.training.audit.audit import Audit, Finding
from looplab.training.audit.global_generators import GlobalGenerators
from looplab.training.audit.untracked_variables import refuse_outsiders, refuse_strays

__all__ = ["Audit", "Finding", "GlobalGenerators", "refuse_outsiders", "refuse_strays"]
