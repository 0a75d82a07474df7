"""What a checkpoint would not bring back: looked for when a run begins, and said with its remedy."""

from looplab.audit import fields
from looplab.audit.audit import Audit, Finding
from looplab.audit.draws import Draw, draws
from looplab.audit.generators import GlobalGenerators
from looplab.audit.graphs import operations
from looplab.audit.streams import counts_passes, keeps_place, resumes
from looplab.audit.variables import refuse_strays

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
