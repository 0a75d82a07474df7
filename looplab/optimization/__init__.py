"""One pure update: gradients of weighted sums, micro-batches, reduction, clipping, apply."""

from looplab.optimization.averages import Averages, averages_of, exchanged, keep_averages
from looplab.optimization.groups import Groups, ParameterGroup, Row, install, read_groups
from looplab.optimization.learning_rate import factors_before, learning_rates, restore_factors
from looplab.optimization.loss_scale import LossScale, scale_values
from looplab.optimization.nonfinite import Guard, are_finite, traces
from looplab.optimization.numbers import keep_numbers
from looplab.optimization.scalars import (
    Measure,
    Result,
    Scalars,
    Shown,
    StepScope,
    in_scope,
    refuse_doubles,
    running,
)
from looplab.optimization.spikes import POLICIES, SpikeDetection, SpikeWatch, carried_on
from looplab.optimization.terms import KerasLoss, Term, as_keras_loss, keras_loss, weighted_terms
from looplab.optimization.update import (
    LossFunction,
    apply,
    measure,
    prepare,
    reduce_mean,
    update,
)

__all__ = [
    "POLICIES",
    "Averages",
    "Groups",
    "Guard",
    "KerasLoss",
    "LossFunction",
    "LossScale",
    "Measure",
    "ParameterGroup",
    "Result",
    "Row",
    "Scalars",
    "Shown",
    "SpikeDetection",
    "SpikeWatch",
    "StepScope",
    "Term",
    "apply",
    "are_finite",
    "as_keras_loss",
    "averages_of",
    "carried_on",
    "exchanged",
    "factors_before",
    "in_scope",
    "install",
    "keep_averages",
    "keep_numbers",
    "keras_loss",
    "learning_rates",
    "measure",
    "prepare",
    "read_groups",
    "reduce_mean",
    "refuse_doubles",
    "restore_factors",
    "running",
    "scale_values",
    "traces",
    "update",
    "weighted_terms",
]
