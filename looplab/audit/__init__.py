"""What a checkpoint would not bring back: looked for when a run begins, and said with its remedy."""

from looplab.audit import fields
from looplab.audit.audit import Audit, Finding
from looplab.audit.generators import GlobalGenerators
from looplab.audit.variables import refuse_strays
from looplab.data.pipeline_inspection import counts_passes, keeps_place, resumes
from looplab.execution.graph_operations import operations
from looplab.execution.random_operations import Draw, draws

__all__ = [
    "Audit",
    "Draw",
    "Finding",
    "GlobalGenerators",
    "counts_passes",
    "draws",
    "fields",
    "keeps_place",
    "operations",
    "refuse_strays",
    "resumes",
]
