"""Every layer of Keras, three steps beside `model.fit`, on one device and on two replicas."""

from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.strategy import precision
from tests.conftest import make_strategy
from tests.training.keras_table import exceptions
from tests.training.keras_table.comparison import (
    BATCH,
    CLOSE,
    EXAMPLES,
    Study,
    by_looplab,
    by_model_fit,
    differing,
)
from tests.training.keras_table.layers import FLOAT32, INPUTS, PLAIN, RANDOM, build, of_kind

Y = np.random.default_rng(0).normal(size=(EXAMPLES, 2))
SHARE = {"vector": (["BatchNormalization", "Dense"], (2,)), "sequence": (["LSTM"], (1,))}
GROUPS = (
    [  # few branches in each, so that no trace is long
        pytest.param(
            kind,
            names[first : first + 12],
            (1, 2),
            marks=pytest.mark.slow,
            id=f"{kind} from {names[first]}",
        )
        for kind in INPUTS
        for names in [of_kind(kind, PLAIN)]
        for first in range(0, len(names), 12)
    ]
    + [pytest.param(kind, *share, id=f"a share of {kind}") for kind, share in SHARE.items()]
)


def study(kind, names, table=PLAIN):
    precision = "float32" if kind in FLOAT32 or table is RANDOM else "float64"
    x = INPUTS[kind] if INPUTS[kind].dtype.kind != "O" else tf.constant(INPUTS[kind])  # as Keras takes text
    return Study(partial(build, names, table), x, dict.fromkeys(names, Y), precision=precision)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "names", "each"), GROUPS)
def test_layers_train_as_in_model_fit(kind, names, each):
    few = len(names) < 3  # of which a step in Python takes less time than a trace
    first, theirs = by_model_fit(study(kind, names), run_eagerly=few)
    for replicas in each:
        ours = by_looplab(study(kind, names), first, replicas)
        close = 1e-5 if kind in FLOAT32 else CLOSE
        found = differing(ours, theirs, close)
        across = [name for name in names if replicas > 1 and name in exceptions.ACROSS_EXAMPLES]
        assert bool(found) >= bool(across), f"{across} can be compared now"
        if not across:
            assert found == [], f"{replicas} replicas"


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize(
    "names",
    [
        pytest.param(sorted(RANDOM)[first::3], marks=pytest.mark.slow, id=f"a third from {first}")
        for first in range(3)
    ]
    + [pytest.param(["Dropout", "RandomFlip"], id="a share")],
)
def test_random_layers_evaluate_as_in_keras_and_train_alike_with_one_seed(names, replicas):
    """Their masks are others than in `model.fit`: looplab gives each replica and each step its own."""
    own = study("image", names, RANDOM)
    with precision.scope(own.precision):
        model = own.build()
        model.compile(loss=own.losses, jit_compile=False)
        expected = model.evaluate(own.x, own.y, batch_size=BATCH, return_dict=True, verbose=0)
    keras.backend.clear_session(free_memory=False)
    trainer = looplab.Trainer(
        own.build,
        "sgd",
        own.losses,
        strategy=make_strategy(replicas),
        precision=own.precision,
        execution="graph",
    )
    trainer.model.set_weights(model.get_weights())
    values = trainer.evaluate((own.x, own.y), batch_size=BATCH)
    assert {name: values[f"{name}_loss"] for name in names} == pytest.approx(
        {name: expected[f"{name}_loss"] for name in names}, rel=1e-5
    )
    one, other = (by_looplab(own, None, replicas, seed=3) for _ in range(2))
    assert [name for name, value in one.items() if not np.array_equal(value, other[name])] == []
    assert [name for name, value in one.items() if not np.isfinite(value).all()] == []


def test_every_layer_has_an_entry_or_a_reason():
    names = {*PLAIN, *RANDOM}
    missing = exceptions.classes(keras.layers, names, exceptions.LAYERS)
    assert missing == [], "give each an entry in tests/training/keras_table/layers.py"
    assert exceptions.unfit(keras.layers, names, exceptions.LAYERS) == []
    assert [name for name in sorted(names) if not hasattr(keras.layers, name)] == []
