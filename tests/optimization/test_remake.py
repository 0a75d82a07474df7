"""Objects are used as given on one device; elsewhere they are made again only if that gives the same."""

import inspect

import keras
import numpy as np
import pytest

import looplab
from looplab.optimization.remake import difference, remade, unlike
from tests.conftest import make_strategy

X = np.linspace(-1, 1, 32, dtype="float32").reshape(32, 1)


class Over(keras.metrics.Metric):
    """Keeps `threshold` out of its configuration, as most people's metrics do."""

    def __init__(self, threshold=0.5, name="over", **kwargs):
        super().__init__(name=name, **kwargs)
        self.threshold = threshold
        self.over = self.add_weight(name="over", initializer="zeros")
        self.all = self.add_weight(name="all", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.over.assign_add(keras.ops.sum(keras.ops.cast(y_pred > self.threshold, "float32")))
        self.all.assign_add(keras.ops.cast(keras.ops.size(y_pred), "float32"))

    def result(self):
        return self.over / self.all


class Nameless(keras.metrics.Mean):
    """Its `__init__` takes nothing of what its configuration has."""

    def __init__(self):
        super().__init__(name="nameless")

    def update_state(self, y_true, y_pred, sample_weight=None):
        return super().update_state(y_pred)


class Hidden(Over):
    def __init__(self, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self._scale, self.choose = scale, (lambda value: value * scale)


class Whole(Over):
    def get_config(self):
        return {**super().get_config(), "threshold": self.threshold}


def make_model():
    return keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")])


def frozen():
    return keras.optimizers.SGD(0.0)


def make_trainer(metrics, strategy="auto", **options):
    return looplab.Trainer(
        make_model, frozen, "mse", metrics, strategy=strategy, execution="graph", **options
    )


@pytest.mark.share(1)
@pytest.mark.parametrize("strategy", ["auto", "one_device"])
@pytest.mark.promise(41)
def test_a_metric_object_measures_as_it_was_given(strategy):
    metric, nameless = Over(threshold=0.9), Nameless()
    trainer = make_trainer([metric, nameless], strategy)
    history = trainer.fit(X, X, batch_size=8, epochs=2, validation_data=(X[16:], X[16:]), verbose=0).history
    expected, held = (X > 0.9).mean(), (X[16:] > 0.9).mean()
    np.testing.assert_allclose(history["over"], [expected] * 2, rtol=1e-6)
    np.testing.assert_allclose(history["val_over"], [held] * 2, rtol=1e-6)
    np.testing.assert_allclose(history["val_nameless"], [X[16:].mean()] * 2, rtol=1e-6)
    assert trainer.evaluate(X, X)["over"] == pytest.approx(expected)
    assert trainer._engine.metrics.of("test")["over"] is metric


@pytest.mark.slow
def test_an_evaluation_within_an_epoch_takes_nothing_from_the_epochs_mean(tmp_path):
    kept = {}
    for name, frequency in (("whole", 1), ("cut", "1st")):
        trainer = make_trainer([Over(threshold=0.2)], run_dir=tmp_path / name)
        kept[name] = trainer.fit(
            X, X, batch_size=8, epochs=2, validation_data=(X[:4], X[:4]), validation_freq=frequency, verbose=0
        ).history
    assert kept["whole"]["over"] == kept["cut"]["over"]
    assert kept["whole"]["val_over"] == kept["cut"]["val_over"]


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (lambda: Over(threshold=0.9), r"'over'.*threshold is 0\.9, not 0\.5.*lambda: Over\(\.\.\.\)"),
        (lambda: Hidden(scale=2.0), r"scale is 2\.0, not 1\.0"),
        (Nameless, r"Nameless 'nameless' .*from_config\(get_config\(\)\) fails"),
    ],
)
def test_under_replicas_an_object_is_refused_whose_configuration_does_not_say_all(metric, words):
    with pytest.raises(looplab.ConfigurationError, match=words):
        make_trainer([metric()], make_strategy(2)).evaluate(X, X)


@pytest.mark.slow
@pytest.mark.parametrize("metric", [Whole(threshold=0.9), Over(), lambda: Over(threshold=0.9)])
def test_under_replicas_others_measure_the_same(metric):
    threshold = 0.5 if type(metric) is Over else 0.9
    expected = (threshold < X).mean()
    assert make_trainer([metric], make_strategy(2)).evaluate(X, X)["over"] == pytest.approx(expected)


def test_an_object_that_stands_twice_counts_each_place_by_itself():
    def make_two():
        inputs = keras.Input((1,))
        return keras.Model(inputs, {"a": inputs + 0.0, "b": keras.layers.Dense(1)(inputs) * 0.0})

    metric = Whole(threshold=0.5)
    trainer = looplab.Trainer(make_two, frozen, {"a": "mse", "b": "mse"}, {"a": [metric], "b": [metric]})
    found = trainer.evaluate((X, {"a": X, "b": X}))
    assert (found["a_over"], found["b_over"]) == (pytest.approx((X > 0.5).mean()), 0.0)
    metric = Over(threshold=0.9)
    trainer = looplab.Trainer(make_two, frozen, {"a": "mse", "b": "mse"}, {"a": [metric], "b": [metric]})
    with pytest.raises(looplab.ConfigurationError, match=r"threshold is 0\.9"):
        trainer.evaluate((X, {"a": X, "b": X}))


class Slow(keras.optimizers.SGD):
    def __init__(self, learning_rate=0.1, slowness=1.0, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.slowness = slowness

    def update_step(self, gradient, variable, learning_rate):
        return super().update_step(gradient, variable, learning_rate / self.slowness)


@pytest.mark.parametrize("replicas", [1, 2])
def test_an_optimizer_object_trains_as_it_was_given_or_not_at_all(replicas):
    def fit():
        trainer = looplab.Trainer(
            make_model, Slow(0.1, slowness=4.0), "mse", strategy=make_strategy(replicas), execution="graph"
        )
        trainer.fit(X, 0 * X, batch_size=32, verbose=0)
        return float(trainer.model.get_weights()[0][0, 0])

    if replicas == 1:
        assert fit() == pytest.approx(1 - 0.1 / 4 * 2 * float((X**2).mean()), rel=1e-5)
    else:
        with pytest.raises(
            looplab.ConfigurationError, match=r"optimizer 'optimizer': .* slowness is 4\.0, not 1\.0"
        ):
            fit()


def test_an_optimizer_that_has_trained_is_not_begun_anew_in_silence():
    optimizer = keras.optimizers.Adam()
    looplab.Trainer(make_model, optimizer, "mse", execution="graph").fit(X, X, verbose=0)
    with pytest.raises(looplab.ConfigurationError, match="has made 1 updates already"):
        looplab.Trainer(make_model, optimizer, "mse", strategy=make_strategy(2))


@keras.saving.register_keras_serializable("tests")
class Scale(keras.layers.Layer):
    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, inputs):
        return inputs * self.factor

    def get_config(self):
        return super().get_config()


def test_a_model_object_is_cloned_only_if_its_layers_are_the_same():
    def make(layer):
        return keras.Sequential([keras.Input((1,)), layer, keras.layers.Dense(1)])

    looplab.Trainer(make(Scale()), "sgd", "mse", strategy=make_strategy(2))
    with pytest.raises(
        looplab.ConfigurationError, match=r"layer 'scale.*\(Scale\) factor is 3\.0, not 1\.0.*lambda"
    ):
        looplab.Trainer(make(Scale(3.0)), "sgd", "mse", strategy=make_strategy(2))


OPTIONS = {
    "num_thresholds": 17,
    "thresholds": [0.3],
    "threshold": 0.3,
    "from_logits": True,
    "top_k": 2,
    "class_id": 1,
    "num_classes": 3,
    "average": "macro",
    "k": 2,
    "recall": 0.3,
    "precision": 0.4,
    "sensitivity": 0.3,
    "specificity": 0.3,
    "target_class_ids": [1],
    "label_smoothing": 0.1,
    "fn": keras.losses.mean_squared_error,
    "normalizer": [1.0],
    "name": "mine",
}


def classes_of(module, base):
    found = [own for own in vars(module).values() if isinstance(own, type) and issubclass(own, base)]
    return sorted({own for own in found if own is not base}, key=lambda own: own.__name__)


@pytest.mark.parametrize("kind", classes_of(keras.metrics, keras.Metric), ids=lambda own: own.__name__)
def test_every_metric_of_keras_is_made_again(kind):
    takes = inspect.signature(kind.__init__).parameters
    remade(kind(**{name: value for name, value in OPTIONS.items() if name in takes}), "metrics")


SETTINGS = [
    {},
    {"learning_rate": 0.123, "clipnorm": 0.5, "weight_decay": 0.01, "use_ema": True, "ema_momentum": 0.7},
    {"learning_rate": keras.optimizers.schedules.CosineDecay(0.1, 100, warmup_steps=10, warmup_target=0.3)},
]
OPTIMIZERS = [
    own
    for own in classes_of(keras.optimizers, keras.optimizers.Optimizer)
    if own.__name__ not in ("LossScaleOptimizer", "MultiOptimizer")  # of others; looplab refuses the first
]


@pytest.mark.parametrize("kind", OPTIMIZERS, ids=lambda own: own.__name__)
def test_every_optimizer_of_keras_is_made_again(kind):
    for settings in SETTINGS:
        remade(kind(**settings), "optimizer")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": [1, {"b": float("nan")}]}, {"a": [1, {"b": 0.0}]}),
        ({"a": np.arange(3)}, {"a": np.arange(3) * 1.0}),
        ({"a": len}, {"a": max}),
        ({"a": (1, 2)}, {"a": (1,)}),
        ({"a": keras.losses.Huber(2.0)}, {"a": keras.losses.Huber(1.0)}),
    ],
)
def test_what_differs_is_named(one, other):
    first, second, same = Over(), Over(), Over()
    vars(first).update(one)
    vars(same).update(one)
    vars(second).update(other)
    assert difference(first, second).startswith("a")
    assert difference(first, same) is None


def test_layers_of_keras_are_the_same_after_a_clone():
    model = keras.Sequential(
        [keras.Input((4, 3)), keras.layers.LSTM(3, dropout=0.2), Scale(1.0), keras.layers.Dense(2, "relu")]
    )
    assert unlike(model, keras.models.clone_model(model)) is None
