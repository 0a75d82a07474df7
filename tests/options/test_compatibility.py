"""The table strategy x precision x execution x micro-batches x BatchNormalization, cell by cell.

An offered cell trains to the numbers of one device in float32; every other cell is refused by name.
"""

import itertools
from functools import cache

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.errors import ConfigurationError
from looplab.options import compatibility
from looplab.options.compatibility import Settings
from looplab.protocols import HOST, TPU
from tests.conftest import make_strategy

REPLICAS = 1, 2
TOLERANCES = {"float32": 1e-6, "float64": 1e-6, "mixed_bfloat16": 5e-3, "mixed_float16": 5e-4}
EXECUTIONS = {
    "graph": {"execution": "graph"},
    "xla_step": {"execution": "xla_step"},
    "xla_loop": {"execution": "xla_loop"},
    "eager": {"run_eagerly": True},
    "xla_step and eager": {"execution": "xla_step", "run_eagerly": True},
}
MICRO_BATCHES = 1, 2
BATCH_NORM = "none", "frozen", "sync", "local"
TABLE = list(itertools.product(REPLICAS, TOLERANCES, EXECUTIONS, MICRO_BATCHES, BATCH_NORM))

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(11, 4)).astype("float32"), RNG.integers(0, 3, 11)
INNER, OUTER = RNG.normal(size=(4, 5)) / 2, RNG.normal(size=(5, 3)) / 2


def model(batch_norm):
    """The same weights in every precision, whose own initial ones differ."""

    def constant(values):
        return lambda shape, dtype=None: keras.ops.convert_to_tensor(values, dtype)

    layers = [keras.layers.Dense(5, "tanh", kernel_initializer=constant(INNER))]
    if batch_norm != "none":
        layers.append(keras.layers.BatchNormalization(momentum=0.5, trainable=batch_norm != "frozen"))
    return keras.Sequential([*layers, keras.layers.Dense(3, kernel_initializer=constant(OUTER))])


def train(replicas, precision, execution, micro_batches, batch_norm):
    """Makes two updates, the second of a short batch; returns losses and weights."""
    trainer = looplab.Trainer(
        lambda: model(batch_norm),
        lambda: keras.optimizers.SGD(0.25),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        strategy=make_strategy(replicas),
        precision=precision,
        micro_batches=micro_batches,
        batch_norm="local" if batch_norm == "local" else "sync",
        **EXECUTIONS[execution],
    )
    history = trainer.fit(X, Y, batch_size=6, shuffle=False, verbose=0)
    weights = [variable.numpy().astype("float64").ravel() for variable in trainer.model.variables]
    return history.history["loss"], np.concatenate([w for w in weights if w.size > 1])


reference = cache(lambda batch_norm: train(1, "float32", "graph", 1, batch_norm))


def expected_refusal(replicas, execution, batch_norm):
    if execution == "xla_step and eager":
        return r"execution\.mode: xla_step compiles steps, but run_eagerly.*choose one of the two"
    if execution == "xla_step" and replicas > 1 and batch_norm == "sync":
        return r"execution\.mode: xla_step on 2 replicas.*BatchNormalization.*Use execution=graph"
    if execution == "xla_loop" and replicas > 1:
        return r"execution\.mode: xla_loop on 2 replicas.*Use execution=xla_step"
    return None


def check_cell(replicas, precision, execution, micro_batches, batch_norm):
    cell = replicas, precision, execution, micro_batches, batch_norm
    refusal = expected_refusal(replicas, execution, batch_norm)
    if refusal:
        with pytest.raises(ConfigurationError, match=refusal):
            train(*cell)
        return
    losses, weights = train(*cell)
    assert np.isfinite(losses).all() and np.isfinite(weights).all()
    # Else statistics are those of a micro-batch, or of a replica.
    if batch_norm in ("none", "frozen") or (micro_batches == 1 and (batch_norm == "sync" or replicas == 1)):
        expected_losses, expected = reference(batch_norm)
        tolerance = TOLERANCES[precision]
        np.testing.assert_allclose(weights, expected, atol=tolerance * np.abs(expected).max())
        np.testing.assert_allclose(losses, expected_losses, rtol=tolerance)


def pairwise(table):
    """Chooses cells in which every pair of settings occurs that occurs in the whole table, greedily."""
    pairs = {cell: set(itertools.combinations(enumerate(cell), 2)) for cell in table}
    missing, chosen = set().union(*pairs.values()), []
    while missing:
        best = max(table, key=lambda cell: len(pairs[cell] & missing))
        chosen.append(best)
        missing -= pairs[best]
    return chosen


REFUSED = [cell for cell in TABLE if expected_refusal(cell[0], cell[2], cell[4])]
# Apart, so that no pair of offered settings is left to a cell that is refused.
PAIRWISE = pairwise([cell for cell in TABLE if cell not in REFUSED]) + pairwise(REFUSED)


@pytest.mark.share(3)
@pytest.mark.parametrize("cell", PAIRWISE, ids=lambda cell: "-".join(map(str, cell)))
def test_p23_a_cell_trains_as_one_device_does_or_is_refused(cell):
    check_cell(*cell)


@pytest.mark.slow
@pytest.mark.parametrize("cell", [c for c in TABLE if c not in PAIRWISE], ids=lambda c: "-".join(map(str, c)))
def test_p23_every_other_cell_trains_as_one_device_does_or_is_refused(cell):
    check_cell(*cell)


def test_a_synchronised_batch_norm_in_xla_is_refused_before_anything_is_made(tmp_path):
    trainer = looplab.Trainer(
        lambda: model("sync"),
        "sgd",
        "mse",
        strategy=make_strategy(2),
        execution="xla_step",
        run_dir=tmp_path / "run",
    )
    with pytest.raises(ConfigurationError, match="xla_step on 2 replicas"):
        trainer.fit(X, OUTER[Y], batch_size=6, verbose=0)
    assert not trainer.optimizers["optimizer"].built
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_the_plan_says_that_batch_norm_depends_on_micro_batches():
    def notes(batch_norm, micro_batches):
        trainer = looplab.Trainer(lambda: model(batch_norm), "sgd", "mse", micro_batches=micro_batches)
        return [text for label, text in trainer.rehearse(X, OUTER[Y]).lines if label == "note"]

    assert notes("sync", 2) == [
        "BatchNormalization uses the statistics of a micro-batch: the update depends on micro_batches=2"
    ]
    assert notes("sync", 1) == notes("none", 2) == notes("frozen", 2) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"run_eagerly": True}, r"execution\.run_eagerly: strategy=tpu runs only compiled steps"),
        ({"execution": "xla_step"}, r"execution\.mode: xla_step.*strategy=tpu.*Use execution=graph"),
        ({"execution": "xla_loop"}, r"execution\.mode: xla_loop.*strategy=tpu.*Use execution=graph"),
        ({"precision": "float64"}, r"precision\.policy: float64.*strategy=tpu.*mixed_bfloat16"),
        ({"precision": "mixed_float16"}, r"precision\.policy: mixed_float16.*strategy=tpu.*mixed_bfloat16"),
    ],
)
def test_what_a_tpu_does_not_do_is_refused(settings, words):
    with pytest.raises(ConfigurationError, match=words):
        compatibility.check(Settings(placement=TPU, replicas=8, **settings))
    compatibility.check(Settings(placement=TPU, replicas=8, precision="mixed_bfloat16", batch_norm="sync"))


def test_batches_of_unknown_size_are_refused_on_a_tpu():
    with pytest.raises(ConfigurationError, match=r"those for evaluation is not.*drop_remainder=True"):
        compatibility.check_rows(TPU, None, "test")
    compatibility.check_rows(TPU, 13, "test")
    compatibility.check_rows(HOST, None, "test")


@pytest.mark.slow
def test_what_exchanges_values_in_a_loss_is_refused_under_xla_before_anything_runs():
    class Across(looplab.Trainer):
        def compute_loss(self, batch, training):
            values = self.model(batch[0], training=training)
            return values - self.reduce(tf.reduce_sum(values), "sum")

    trainer = Across(lambda: model("none"), "sgd", strategy=make_strategy(2), execution="xla_step")
    with pytest.raises(ConfigurationError, match=r"xla_step on several replicas.*calls reduce.*graph"):
        trainer.fit(X, OUTER[Y], batch_size=6, verbose=0)
    Across(lambda: model("none"), "sgd", execution="xla_step").fit(X, OUTER[Y], batch_size=6, verbose=0)
