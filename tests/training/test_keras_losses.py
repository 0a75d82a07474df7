"""Every loss and metric of Keras, three steps beside `model.fit`, on one device and on two replicas."""

import inspect
from functools import partial

import keras
import numpy as np
import pytest

import looplab
from tests.training.keras_table import exceptions
from tests.training.keras_table.comparison import Study, by_looplab, by_model_fit, differing
from tests.training.keras_table.losses import CLASSES, FLOAT32_METRICS, FUNCTIONS, METRICS, TARGETS, X, build


def study(entries, **more):
    outputs = {name: kind for name, (kind, _) in entries.items()}
    return Study(
        partial(build, outputs),
        X,
        {name: TARGETS[kind] for name, kind in outputs.items()},
        loss=lambda: {name: make() for name, (_, make) in entries.items()},
        **more,
    )


def weighted(entries):
    rng = np.random.default_rng(7)
    return {name: rng.integers(1, 4, len(X)) / 2 for name in entries}


SHARE = ["Huber", "SparseCategoricalCrossentropy"]
GROUPS = {
    "a share of classes": ({name: CLASSES[name] for name in SHARE}, False),
    "classes": (CLASSES, False),
    "functions": (FUNCTIONS, False),
    "classes with sample weights": (
        {name: entry for name, entry in CLASSES.items() if name not in exceptions.WHOLE_BATCH},
        True,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize(
    "group",
    [pytest.param(name, marks=() if name.startswith("a share") else pytest.mark.slow) for name in GROUPS],
)
def test_losses_train_as_in_model_fit(group, replicas):
    entries, has_weights = GROUPS[group]
    if replicas > 1:
        entries = {name: own for name, own in entries.items() if name not in exceptions.WHOLE_BATCH}
    own = study(entries, weights=weighted(entries) if has_weights else None)
    few = len(entries) < 4  # of which a step in Python takes less time than a trace
    first, theirs = by_model_fit(own, run_eagerly=few)
    assert differing(by_looplab(own, first, replicas), theirs) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", exceptions.WHOLE_BATCH)
def test_losses_of_the_whole_batch_are_refused_on_replicas(name):
    entries = {**CLASSES, **FUNCTIONS}
    with pytest.raises(looplab.LossError, match="replicas"):
        by_looplab(study({name: entries[name]}), None, 2)


def measured(table, **more):
    losses = {kind: (kind, keras.losses.MeanSquaredError) for kind in table}
    if "class" in table:
        losses["class"] = ("class", keras.losses.SparseCategoricalCrossentropy)
    return study(losses, metrics={kind: list(own.values()) for kind, own in table.items()}, **more)


SHARE_OF_METRICS = {
    kind: {name: METRICS[kind][name] for name in names}
    for kind, names in {"probability": ["AUC"], "distribution": ["F1Score"], "numbers": ["R2Score"]}.items()
}


@pytest.mark.parametrize(
    ("table", "replicas"),
    [
        pytest.param(METRICS, 1, marks=pytest.mark.slow, id="all-1"),
        pytest.param(METRICS, 2, marks=pytest.mark.slow, id="all-2"),
        pytest.param(SHARE_OF_METRICS, 2, id="a share-2"),
    ],
)
def test_metrics_are_those_of_model_fit(table, replicas):
    first, theirs = by_model_fit(measured(table), run_eagerly=table is SHARE_OF_METRICS)
    ours = by_looplab(measured(table), first, replicas)
    assert differing(ours, theirs) == []
    shown = {name.partition("_")[2] for name in ours if name.startswith("shown ")}
    assert {name for own in table.values() for name in own} <= shown


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
def test_metrics_that_need_float32_are_those_of_model_fit(replicas):
    own = measured(FLOAT32_METRICS, precision="float32")
    first, theirs = by_model_fit(own)
    assert differing(by_looplab(own, first, replicas), theirs, 1e-5) == []
    for kind, metrics in FLOAT32_METRICS.items():
        for name in metrics:
            with pytest.raises(TypeError, match="float64"):
                by_model_fit(measured({kind: {name: metrics[name]}}))


def test_every_loss_and_metric_has_an_entry_or_a_reason():
    where = "give each an entry in tests/training/keras_table/losses.py"
    assert exceptions.classes(keras.losses, set(CLASSES), exceptions.LOSSES) == [], where
    functions = {name for name, own in inspect.getmembers(keras.losses, inspect.isfunction)}
    assert sorted(functions - set(FUNCTIONS) - set(exceptions.LOSSES)) == [], where
    assert exceptions.unfit(keras.losses, {*CLASSES, *FUNCTIONS}, exceptions.LOSSES) == []
    names = {name for table in (METRICS, FLOAT32_METRICS) for own in table.values() for name in own}
    assert exceptions.classes(keras.metrics, names, exceptions.METRICS) == [], where
    assert exceptions.unfit(keras.metrics, names, exceptions.METRICS) == []
