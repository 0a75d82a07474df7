"""Metrics that make their variables late, and results that are no single number, beside `model.fit`."""

import keras
import numpy as np
import pytest

import looplab
from looplab.strategy import precision
from tests.conftest import make_strategy

ROWS, BATCH, CLASSES = 14, 4, 3  # a last batch of two
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, 4))
Y = np.eye(CLASSES)[RNG.integers(0, CLASSES, ROWS)]


class Lazy(keras.metrics.Metric):
    """Makes its variables, one of which depends on the shape of predictions, at its first update."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        if not hasattr(self, "sums"):
            self.sums = self.add_variable((y_pred.shape[-1],), "zeros", name="sums")
        self.sums.assign_add(keras.ops.sum(y_pred, 0))

    def result(self):
        return keras.ops.sum(self.sums**2)


class Two(keras.metrics.Mean):
    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(y_pred**2)

    def result(self):
        return {"square": super().result(), "double": 2 * super().result()}


def metrics():
    return [
        keras.metrics.F1Score(average="macro"),
        keras.metrics.FBetaScore(threshold=0.4, beta=2.0, average="weighted", name="f2"),
        keras.metrics.R2Score(),
        keras.metrics.AUC(multi_label=True, name="auc"),
        keras.metrics.F1Score(name="each"),
        Lazy(name="lazy"),
        Two(),
    ]


def model():
    kernel = keras.initializers.Constant(np.linspace(-1, 1, 4 * CLASSES).reshape(4, CLASSES))
    return keras.Sequential(
        [keras.Input([4]), keras.layers.Dense(CLASSES, "softmax", kernel_initializer=kernel)]
    )


def rate():
    return keras.optimizers.SGD(0.5)


@pytest.fixture(scope="module")
def of_keras():
    """The history of `model.fit` in float64; an array stands under the names of its numbers."""
    with precision.scope("float64"):
        own = model()
        own.compile(rate(), "categorical_crossentropy", metrics=metrics(), jit_compile=False)
        held = X[:5], Y[:5]
        found = own.fit(X, Y, validation_data=held, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
    history = dict(found.history)
    for prefix in ("", "val_"):
        series = np.stack(history.pop(f"{prefix}each"))
        history |= {f"{prefix}each/{index}": series[:, index] for index in range(CLASSES)}
    return history


ORDINARY = [{"strategy": 2, "micro_batches": 2}, {"run_eagerly": True}, {"execution": "xla_loop"}]
SLOW = [
    {},  # the broken run is one, and the object that serves twice
    {"strategy": 2},
    {"strategy": 3, "micro_batches": 2},
    {"micro_batches": 3},
    {"execution": "xla_step"},
    {"execution": "xla_step", "strategy": 2},
]
WAYS = [*ORDINARY, *(pytest.param(how, marks=pytest.mark.slow) for how in SLOW)]


@pytest.mark.slow
@pytest.mark.parametrize("how", WAYS, ids=lambda how: " ".join(f"{k}={v}" for k, v in how.items()) or "graph")
def test_metrics_that_make_their_variables_late_are_those_of_keras(of_keras, how):
    options = {"execution": "graph", "precision": "float64"} | how
    options["strategy"] = make_strategy(how.get("strategy", 1))
    made = [lambda index=index: metrics()[index] for index in range(len(metrics()))]
    own = looplab.Trainer(model, rate, "categorical_crossentropy", made, **options)
    found = own.fit(
        X, Y, validation_data=(X[:5], Y[:5]), batch_size=BATCH, epochs=2, shuffle=False, verbose=0
    )
    shown = {name: series for name, series in found.history.items() if name != "learning_rate"}
    assert set(shown) == set(of_keras)
    for name, series in of_keras.items():
        np.testing.assert_allclose(shown[name], series, rtol=1e-12, err_msg=name)


def plain(own_metrics, **options):
    return looplab.Trainer(model, rate, "categorical_crossentropy", own_metrics, execution="graph", **options)


@pytest.mark.slow
def test_a_run_that_is_broken_within_an_epoch_ends_with_the_same_values(tmp_path):
    def run(folder, *ends):
        for steps in ends:
            own = plain(metrics(), run_dir=tmp_path / folder)
            history = own.fit(X, Y, validation_data=(X, Y), batch_size=BATCH, steps=steps, verbose=0)
        return history.history

    assert run("whole", 7) == run("broken", 2, 7)


@pytest.mark.slow
def test_one_object_serves_training_and_evaluation_apart():
    """Also where it is given for two outputs, or to a second trainer: what it has seen is no part of it."""
    score, strategy = keras.metrics.F1Score(average="macro"), make_strategy(2)
    first = plain([score], strategy=strategy).fit(X, Y, batch_size=BATCH, steps=6, verbose=0).history
    own = plain([score], strategy=strategy)
    own.fit(X, Y, batch_size=BATCH, steps=2, verbose=0)
    own.evaluate(X, Y)
    own.evaluate(X[:3], Y[:3])
    again = own.fit(X, Y, batch_size=BATCH, steps=6, verbose=0).history
    assert again == first


class Big(keras.metrics.Mean):
    def result(self):
        return keras.ops.zeros(101)


class Late(keras.metrics.Mean):
    def result(self):
        return {"few": 1.0} if self.count.numpy() == 0 else {"many": 2.0}


class Texts(keras.metrics.Mean):
    def result(self):
        return "good"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([Big()], r"\(101,\), and its 101 numbers .* average='macro'"),
        ([Late()], "returned many, but before training few"),
        ([Texts()], "'mean' returned 'good' .* expected a number"),
        ([Two(), Two(name="other")], "'square' would be the name of 2 values"),
        ([keras.metrics.F1Score(name="f"), keras.metrics.Mean(name="f/0")], "'f/0' would be the name of 2"),
    ],
    ids=["too many", "other keys", "no number", "dicts clash", "indices clash"],
)
def test_results_that_cannot_be_logged_are_refused(given, words):
    with pytest.raises(looplab.errors.LooplabError, match=words):
        plain(given).fit(X, Y, verbose=0)


class Masked(looplab.Trainer):
    """Gives its metrics weights."""

    def compute_loss(self, batch, training):
        predictions = self.model(batch)
        if isinstance(predictions, dict):
            self.update_metrics(predictions, predictions, {"a": batch[:, 0], "b": None})
            return predictions["a"]
        self.update_metrics(predictions, predictions, batch[:, 0])
        return predictions


def two():
    inputs = keras.Input([4])
    return keras.Model(inputs, {name: keras.layers.Dense(1)(inputs) for name in "ab"})


@pytest.mark.parametrize(
    ("make", "given", "unused"),
    [
        (model, {"metrics": ["mae"]}, "'mae'"),
        (model, {"weighted_metrics": ["mae"]}, ""),
        (model, {"metrics": ["mae"], "weighted_metrics": ["mae"]}, ""),
        (two, {"metrics": {"a": ["mae", "mse"]}, "weighted_metrics": {"b": ["mae"]}}, "'a_mae', 'a_mse'"),
        (two, {"metrics": {"b": ["mae"]}}, ""),
    ],
)
def test_weights_that_count_in_no_metric_are_said_once(make, given, unused, caplog):
    own = Masked(make, rate, **given)
    own.evaluate(X[:3], batch_size=3)
    own.evaluate(X[:3], batch_size=3)
    said = [record.getMessage() for record in caplog.records if "weights" in record.getMessage()]
    assert len(said) == (1 if unused else 0)
    assert unused in str(said) and (not unused or "Trainer(weighted_metrics=...)" in said[0])


def test_sample_weights_of_the_data_do_not_count_in_metrics_as_in_keras(caplog):
    plain(["mae"]).evaluate(X, Y, sample_weight=np.arange(len(X)))
    assert not caplog.records
