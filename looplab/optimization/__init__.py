"""One pure update: gradients of weighted sums, micro-batches, reduction, clipping, application."""

from looplab.optimization.follow_step import follow_again
from looplab.optimization.keras_losses import KerasLoss, as_keras_loss, keras_loss
from looplab.optimization.learning_rate import (
    factors_before,
    learning_rates,
    restore_factors,
    scale_learning_rate,
)
from looplab.optimization.loss_scale import LossScale, scale_values
from looplab.optimization.loss_terms import Term, weighted_terms
from looplab.optimization.nonfinite import traces
from looplab.optimization.optimizer_numbers import keep_numbers
from looplab.optimization.parameter_groups import Groups, ParameterGroup, Row, install, read_groups
from looplab.optimization.spike_detection import SpikeWatch, carried_on
from looplab.optimization.update import (
    LossFunction,
    apply,
    measure,
    prepare,
    reduce_mean,
    update,
)
from looplab.optimization.weight_averages import Averages, averages_of, exchanged, keep_averages, remark
from looplab.options.safeguards import SpikeDetection

__all__ = [
    "Averages",
    "Groups",
    "KerasLoss",
    "LossFunction",
    "LossScale",
    "ParameterGroup",
    "Row",
    "SpikeDetection",
    "SpikeWatch",
    "Term",
    "apply",
    "as_keras_loss",
    "averages_of",
    "carried_on",
    "exchanged",
    "factors_before",
    "follow_again",
    "install",
    "keep_averages",
    "keep_numbers",
    "keras_loss",
    "learning_rates",
    "measure",
    "prepare",
    "read_groups",
    "reduce_mean",
    "remark",
    "restore_factors",
    "scale_learning_rate",
    "scale_values",
    "traces",
    "update",
    "weighted_terms",
]
