"""One pure update: gradients of weighted sums, micro-batches, reduction, clipping, apply."""

from looplab.optimization.scalars import Scalars, StepScope, in_scope, running
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
    "KerasLoss",
    "LossFunction",
    "Scalars",
    "StepScope",
    "Term",
    "apply",
    "as_keras_loss",
    "in_scope",
    "keras_loss",
    "measure",
    "prepare",
    "reduce_mean",
    "running",
    "update",
    "weighted_terms",
]
