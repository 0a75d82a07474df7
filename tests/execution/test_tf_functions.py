"""A `tf.function` within a step computes what the same step computes without the decorator."""

import functools
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from tests.conftest import make_strategy

X = np.linspace(-1, 1, 24, dtype="float64").reshape(8, 3)
Y = X.sum(axis=1, keepdims=True)


def plain(function):
    """Stands for no decorator."""
    return function


def network(decorate, *, built=False, norm=True):
    """Functions on methods, on a layer's call, in each other; one makes its layer in its first trace."""

    class Tanh(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = keras.layers.Dense(3)

        @decorate
        def call(self, x):
            return tf.tanh(self.inner(x))

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.cell, self.tanh, self.top = keras.layers.Dense(3), Tanh(), None
            self.norm = keras.layers.BatchNormalization() if norm else keras.layers.LayerNormalization()
            if built:
                self.top = keras.layers.Dense(1)
                for layer in (self.cell, self.tanh.inner, self.norm, self.top):
                    layer.build((None, 3))
                self.tanh.built = True

        def call(self, x, training=False):
            return self.outer(self.tanh(x))

        @decorate
        def outer(self, x):
            for _ in range(2):
                x = self.cell(x)
            return self.last(self.norm(x))  # which asks Keras whether it trains

        @decorate
        def last(self, x):
            if self.top is None:
                self.top = keras.layers.Dense(1)
            return self.top(x)

    return Net


def trained(
    kind, model, *, loss="mse", replicas=1, precision="float64", call=None, evaluated=False, **options
):
    """Weights and history after some steps, with evaluations between them or without."""
    trainer = kind(
        model,
        lambda: keras.optimizers.SGD(0.03125),
        loss,
        ["mae"],
        strategy=make_strategy(replicas),
        precision=precision,
        **options,
    )
    if call is not None:
        trainer.model(call)
    validation = (X[:4], Y[:4]) if evaluated else None
    history = trainer.fit((X, Y), batch_size=4, epochs=2, validation_data=validation, verbose=0).history
    weights = [np.asarray(array, "float64") for array in trainer.model.get_weights()]
    return weights, {name: values for name, values in history.items() if name != "time"}


def assert_same(one, other, rtol=1e-12):
    assert len(one[0]) == len(other[0]) > 0 and one[1].keys() == other[1].keys()
    for left, right in zip(one[0], other[0], strict=True):
        np.testing.assert_allclose(left, right, rtol=rtol, atol=rtol)
    for name, values in one[1].items():
        np.testing.assert_allclose(values, other[1][name], rtol=rtol, atol=rtol)
    assert one[1]["loss"][-1] != one[1]["loss"][0]


@functools.cache
def bare(norm=True):
    """The reference: no decorator, in a graph on one device."""
    return trained(looplab.Trainer, network(plain, norm=norm), execution="graph", evaluated=True)


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("options", "built"),
    [
        ({"execution": "graph"}, True),
        ({"execution": "graph"}, False),
        ({"execution": "xla_step"}, False),
        ({"run_eagerly": True}, False),
        ({"run_eagerly": True}, True),
        ({"execution": "graph", "replicas": 2}, False),
        ({"run_eagerly": True, "replicas": 2}, False),
        ({"execution": "graph", "micro_batches": 2}, False),
    ],
    ids=str,
)
def test_a_model_trains_as_without_the_decorator(options, built):
    norm = "micro_batches" not in options  # the statistics of a batch are those of no piece
    decorated = network(tf.function, built=built, norm=norm)
    assert_same(trained(looplab.Trainer, decorated, evaluated=True, **options), bare(norm))


@pytest.mark.slow
@pytest.mark.parametrize(
    "decorate",
    [
        functools.partial(tf.function, jit_compile=True),
        pytest.param(functools.partial(tf.function, reduce_retracing=True), marks=pytest.mark.slow),
        functools.partial(tf.function, autograph=False),
        pytest.param(lambda function: tf.function(tf.function(function)), marks=pytest.mark.slow),
    ],
    ids=["jit_compile", "reduce_retracing", "autograph", "twice"],
)
def test_it_does_so_however_the_decorator_was_written(decorate, caplog):
    caplog.set_level(logging.INFO, "looplab")
    weights, history = trained(looplab.Trainer, network(decorate), execution="graph")
    assert_same((weights, history), (bare()[0], {name: bare()[1][name] for name in history}))
    told = [
        record.message for record in caplog.records if "jit_compile=True of the tf.function" in record.message
    ]
    if getattr(decorate, "keywords", {}).get("jit_compile"):
        assert len(told) == 3 and "Net.outer (" in "".join(told) and "test_tf_functions.py:" in told[0]
    else:
        assert not told


@pytest.mark.slow
def test_a_model_that_was_called_before_is_no_exception():
    """Keras infers its shapes by a call that no weight takes part in; TensorFlow would keep its trace."""
    x = X[:4].astype("float32")
    how = {"execution": "graph", "precision": "float32", "call": x}
    one, other = (trained(looplab.Trainer, network(decorate), **how) for decorate in (tf.function, plain))
    assert_same(one, other)
    model = network(tf.function)()
    np.testing.assert_array_equal(model(x), model(x))


@pytest.mark.slow
def test_it_does_so_in_mixed_precision():
    how = {"execution": "graph", "precision": "mixed_bfloat16"}
    one, other = (trained(looplab.Trainer, network(decorate), **how) for decorate in (tf.function, plain))
    assert_same(one, other)


class While(keras.Model):
    """TensorFlow's own advice for a `while` over tensors."""

    def __init__(self):
        super().__init__()
        self.cell = keras.layers.Dense(3)

    def call(self, x):
        return self.loop(x)

    @tf.function
    def loop(self, x):
        done = tf.constant(0)
        while done < 2:
            x = self.cell(x)
            done += 1
        return x


# On replicas it is that of the graph, and more.
OPTIONS = [
    pytest.param({"execution": "graph"}, marks=pytest.mark.slow),
    {"run_eagerly": True},
    {"replicas": 2},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_loop_over_tensors_is_translated(options):
    def twice():
        cell = keras.layers.Dense(3)
        return keras.Sequential([keras.Input((3,)), cell, keras.layers.Lambda(lambda x: x), cell])

    assert_same(*(trained(looplab.Trainer, model, **options) for model in (While, twice)))


def cells():
    return keras.Sequential([keras.layers.Dense(1)])


def steps(decorate):
    """A trainer with functions on each of its methods, and one that it calls."""

    @decorate
    def squares(y, predictions):
        return tf.square(y - predictions)[:, 0]

    class Own(looplab.Trainer):
        @decorate
        def train_step(self, batch):
            return {**self.minimize(self.compute_loss, batch), "rows": self.rows(batch)}

        @decorate
        def compute_loss(self, batch, training):
            x, y = batch
            predictions = self.model(x, training=training)
            self.update_metrics(y, predictions)
            return {"squares": squares(y, predictions), "norm": (self.penalty(predictions), 1.0)}

        @decorate
        def test_step(self, batch):
            return self.measure(self.compute_loss, batch)

        @decorate
        def penalty(self, predictions):
            return 0.25 * tf.abs(predictions[:, 0] - tf.reduce_mean(self.all_gather(predictions)))

        @decorate
        def rows(self, batch):
            return self.reduce(tf.cast(tf.shape(batch[0])[0], tf.float64))

    return Own


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_step_and_its_loss_are_as_without_the_decorator(options):
    one, other = (
        trained(steps(decorate), cells, loss=None, evaluated=True, **options)
        for decorate in (tf.function, plain)
    )
    assert_same(one, other)
    assert one[1]["rows"] == [4.0, 4.0] and "val_mae" in one[1]


@pytest.mark.slow
def test_a_loss_and_a_metric_that_are_functions_are():
    squares = lambda y, predictions: tf.square(y - predictions)  # noqa: E731
    one, other = (
        trained(looplab.Trainer, cells, loss=loss, execution="graph")
        for loss in (tf.function(squares), squares)
    )
    assert_same(one, other)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"execution": "graph"}, pytest.param({"run_eagerly": True}, marks=pytest.mark.slow)],
    ids=str,
)
def test_layers_that_are_frozen_for_a_time_are_frozen_in_functions(options):
    def run(decorate):
        freeze = looplab.callbacks.Freeze("batch_normalization", until="1ep")
        return trained(looplab.Trainer, network(decorate), callbacks=[freeze], **options)

    assert_same(run(tf.function), run(plain))


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_variable_of_the_first_trace_is_made_where_it_can_be_trained(replicas):
    def made(decorate):
        class Scaled(looplab.Trainer):
            def setup(self):
                self.scale = None

            def train_step(self, batch):
                return self.minimize(self.compute_loss, batch, variables=[*self.model.variables, *self.own()])

            def own(self):
                return [] if self.scale is None else [self.scale]

            @decorate
            def compute_loss(self, batch, training):
                if self.scale is None:
                    self.scale = tf.Variable(2.0, dtype=tf.float64)
                return tf.square(self.model(batch[0], training=training) * self.scale - batch[1])[:, 0]

        trainer = Scaled(cells, "sgd", strategy=make_strategy(replicas), precision="float64")
        trainer.fit((X, Y), batch_size=4, shuffle=False, verbose=0)
        return [*trainer.model.get_weights(), trainer.scale.numpy()]

    found, expected = made(tf.function), made(plain)
    assert expected[-1] != 2.0
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.slow
def test_a_signature_makes_tensors_and_a_librarys_function_stays_one():
    class Signed(looplab.Trainer):
        def compute_loss(self, batch, training):
            x, y = batch
            each = tf.vectorized_map(lambda row: tf.reduce_sum(row), self.model(x, training=training))
            self.update_metrics(y, each[:, None])
            return self.scaled(each - y[:, 0], by=2)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float64), tf.TensorSpec([], tf.float64)])
        def scaled(self, error, by):
            return tf.square(error) * tf.cast(by.dtype == tf.float64, by.dtype) * by

    class Plain(Signed):
        def scaled(self, error, by):
            return tf.square(error) * by

    for options in ({"execution": "graph"}, {"run_eagerly": True}):
        one, other = (trained(kind, cells, loss=None, **options) for kind in (Signed, Plain))
        assert_same(one, other)


def test_outside_of_steps_functions_keep_their_traces():
    function = tf.function(lambda x: x + 1)

    class Makes(looplab.Trainer):
        def make_batch(self, step):
            assert function(tf.constant(step)) == step + 1
            return X[:4], Y[:4]

    trained_on = Makes(cells, "sgd", "mse", precision="float64", execution="graph")
    trained_on.fit(steps=3, verbose=0)
    assert function.experimental_get_tracing_count() == 1
