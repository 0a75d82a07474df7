"""k steps of training or evaluation in one call: in a loop of the graph, or in XLA."""

from looplab.execution.batch_map import BatchMap
from looplab.execution.chunk_size import ChunkSize
from looplab.execution.compiled_loop import CompiledLoop
from looplab.execution.metric_results import MetricResult
from looplab.execution.running_step import found_running, in_scope, refuse_doubles, running
from looplab.execution.step_means import StepMeans
from looplab.execution.step_result import Guard, Measure, Result, Scalars, Shown, Update, are_finite
from looplab.execution.step_scope import StepScope
from looplab.execution.undo import Undo
from looplab.execution.xla_refusal import explained, refusal, why_not

__all__ = [
    "BatchMap",
    "ChunkSize",
    "CompiledLoop",
    "Guard",
    "Measure",
    "MetricResult",
    "Result",
    "Scalars",
    "Shown",
    "StepMeans",
    "StepScope",
    "Undo",
    "Update",
    "are_finite",
    "explained",
    "found_running",
    "in_scope",
    "refusal",
    "refuse_doubles",
    "running",
    "why_not",
]
