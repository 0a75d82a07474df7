"""A model whose `call` has control flow over tensors trains as it does eagerly, and is as before then."""

import copy
import functools
import inspect
import re
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.execution import autotune
from tests.conftest import make_strategy

# In each batch of four the first column has one value, and the second: those decide the same on every part.
RNG = np.random.default_rng(0)
X = np.concatenate([np.repeat([[1.0, 2.0], [-1.0, 3.0], [1.0, 1.0]], 4, 0), RNG.normal(size=(12, 3))], axis=1)
Y = X.sum(axis=1, keepdims=True)
FIT = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0}


def doubled(method):
    @functools.wraps(method)
    def call(self, x, **keywords):
        return 2.0 * method(self, x, **keywords)

    return call


@keras.saving.register_keras_serializable("flow")
class Gate(keras.layers.Layer):
    """An `if` on a statistic of the batch, in a layer with a mask."""

    def __init__(self, **keywords):
        super().__init__(**keywords)
        self.left, self.right = keras.layers.Dense(5, "tanh"), keras.layers.Dense(5, "tanh")

    def build(self, input_shape):
        self.left.build(input_shape)
        self.right.build(input_shape)

    def call(self, x, mask=None):
        if mask is not None:
            x = x * tf.cast(mask[:, None], x.dtype)
        if tf.reduce_mean(x[:, 0]) > 0.0:
            return self.left(x)
        return self.right(x) * 0.5

    def compute_output_shape(self, input_shape, **_):
        return input_shape


@keras.saving.register_keras_serializable("flow")
class Turns(keras.layers.Layer):
    """A loop whose length the data decides, left early; in a method that `call` calls."""

    def __init__(self, most=4, **keywords):
        super().__init__(**keywords)
        self.most, self.cell = most, keras.layers.Dense(5, "tanh")

    def build(self, input_shape):
        self.cell.build(input_shape)

    @property
    def scale(self):
        return 0.5

    @doubled
    def call(self, x, *, training=False):
        assert isinstance(training, bool)
        return self.turn(x, x[:, 1]) if training or self.scale else x

    def turn(self, h, count):
        for index in tf.range(self.most):
            if tf.cast(index, h.dtype) >= tf.reduce_max(count):
                break
            h = self.cell(h) * self.scale
        return h

    def compute_output_shape(self, input_shape):
        return input_shape


class Rows(keras.layers.Layer):
    """A list that grows in a loop of Python, and an array that is filled in one over tensors."""

    def call(self, x):
        array = tf.TensorArray(x.dtype, 5, element_shape=[None])
        for index in tf.range(5):
            if index % 2 == 0:
                array = array.write(index, x[:, index])
            else:
                array = array.write(index, -x[:, index])
        parts = []
        for column in range(5):
            parts.append(x[:, column] * (column + 1.0))
        return tf.transpose(array.stack()) + tf.stack(parts, 1)


class Inner(keras.Model):
    def __init__(self):
        super().__init__()
        self.gate, self.turns, self.rows = Gate(), [Turns()], Rows()

    def call(self, x, training=False):
        present = tf.ones_like(x[:, 0], tf.bool)
        h = self.gate(x, mask=present)
        for layer in self.turns:
            h = h + layer(x, training=training)
        return self.rows(h)


class Outer(Inner):
    """A model in a model, that calls its superclass and a function around it."""

    def __init__(self):
        super().__init__()
        self.inner, self.top, self.drop = Inner(), keras.layers.Dense(1), keras.layers.Dropout(0.0)
        self.bend = bend(keras.ops.tanh)

    def call(self, x, training=False):
        h = self.bend(super().call(x, training=training)) + self.inner(x)
        return self.top(self.drop(h))


def bend(function):
    def bent(h):
        if tf.reduce_any(tf.math.is_nan(h)):
            h = tf.zeros_like(h)
        return function(h)

    return bent


@keras.saving.register_keras_serializable("flow")
def flipped(h):
    return -h if tf.reduce_sum(h) > 1e9 else h


def functional():
    x = keras.Input((5,))
    h = keras.layers.Add()([Gate(name="gate")(x), Turns(name="turns")(x)])
    h = keras.layers.Lambda(flipped, output_shape=(5,))(h)
    return keras.Model(x, keras.layers.Dense(1)(h))


def trained(model, *, replicas=1, predicts=True, precision="float64", **options):
    """Weights, history and predictions after some steps, with evaluations between them."""
    kind = functools.partial(keras.optimizers.SGD, 0.01)
    strategy = make_strategy(replicas)
    trainer = looplab.Trainer(model, kind, "mse", precision=precision, strategy=strategy, **options)
    history = trainer.fit((X, Y), validation_data=(X, Y), **FIT).history
    values = {name: series for name, series in history.items() if name != "time"}
    predicted = trainer.predict(X, batch_size=4) if predicts else None
    return trainer, [np.asarray(w) for w in trainer.model.get_weights()], values, predicted


@functools.cache
def eagerly(model):
    return trained(model, run_eagerly=True)[1:]


def assert_same(one, other):
    for left, right in zip(one, other, strict=True):
        tf.nest.map_structure(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12), left, right
        )


@pytest.mark.share(1)
@pytest.mark.parametrize("model", [Outer, functional], ids=["subclassed", "functional"])
@pytest.mark.parametrize(
    "options",
    [
        {"execution": "graph"},
        {"execution": "xla_step"},
        pytest.param({"execution": "xla_loop"}, marks=pytest.mark.slow),
        {"execution": "graph", "replicas": 2},
        pytest.param({"execution": "xla_step", "replicas": 2}, marks=pytest.mark.slow),
        {"run_eagerly": True, "replicas": 2},
        {"execution": "graph", "micro_batches": 2},
    ],
    ids=str,
)
def test_a_model_trains_evaluates_and_predicts_as_eagerly(model, options):
    *_, weights, history, predicted = trained(model, **options)
    reference = eagerly(model)
    assert len(weights) == len(reference[0]) and history["loss"][0] != history["loss"][-1]
    assert_same((weights, history, predicted), reference)


@pytest.mark.slow
def test_in_mixed_precision_too():
    ways = ({"execution": "graph"}, {"run_eagerly": True})
    losses = [trained(Inner, precision="mixed_bfloat16", **way)[2]["loss"] for way in ways]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


class Unbounded(keras.Model):
    def __init__(self):
        super().__init__()
        self.cell, self.top = keras.layers.Dense(5, "tanh"), keras.layers.Dense(1)

    def call(self, x):
        turns = tf.reduce_max(x[:, 1])
        while turns > 0.0:
            x = self.cell(x)
            turns -= 1.0
        return self.top(x)


@pytest.mark.slow
@pytest.mark.parametrize("grows", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_auto_trains_a_while_without_bound_and_says_why_xla_is_not_taken(grows, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(autotune, "_FEW", 0)
    monkeypatch.setattr(autotune, "_LEAST_SAVING", 0.0)
    monkeypatch.setattr(autotune, "_budget", lambda whole: 1e9)

    class Grows(Unbounded):
        def call(self, x):
            array = tf.TensorArray(x.dtype, 0, dynamic_size=True, element_shape=[None, 5])
            for index in tf.range(tf.cast(tf.reduce_max(x[:, 1]), tf.int32) + 1):
                x = self.cell(x)
                array = array.write(index, x)
            return self.top(tf.reduce_sum(array.stack(), 0))

    model = Grows if grows else Unbounded
    trainer, *found = trained(model)
    assert_same(found, eagerly(model))
    choice = trainer._engine.modes.choice
    assert choice.mode == "graph" and {trial.mode for trial in choice.trials} == {
        "graph",
        "xla_step",
        "xla_loop",
    }
    why = "TensorArray grows" if grows else "has no bound"
    assert all("cannot run this step" in trial.why_not for trial in choice.trials[1:])
    assert all(why in trial.why_not or grows for trial in choice.trials[1:]), choice.trials


TOKENS = RNG.integers(0, 4, (12, 6))


class Masked(keras.Model):
    """Masks that Keras hangs on tensors, through an `if` that keeps or loses them and through loops."""

    def __init__(self):
        super().__init__()
        self.embedding = keras.layers.Embedding(4, 3, mask_zero=True)
        self.again = keras.layers.Dense(3, "tanh")  # hands the mask on
        self.lstm, self.top = keras.layers.LSTM(3), keras.layers.Dense(1)

    def call(self, tokens):
        h = self.embedding(tokens)
        if tf.reduce_mean(tf.cast(tokens, h.dtype)) > 1.5:  # some batches
            h = h * 1.5  # without a mask
        turns = tf.constant(0)
        while turns < 2:
            tf.autograph.experimental.set_loop_options(maximum_iterations=2)
            h = self.again(h)
            turns += 1
        for _ in tf.range(2):
            h = self.again(h)
        if tf.reduce_any(tokens > 100):
            late = self.again(h)
        else:
            late = self.embedding(tokens)
        return self.top(self.lstm(h) + self.lstm(late))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"execution": "graph"}, pytest.param({"execution": "xla_step"}, marks=pytest.mark.slow)],
    ids=str,
)
def test_masks_come_out_of_control_flow_with_their_tensors(options):
    means = TOKENS.reshape(3, -1).mean(axis=1)
    assert (means > 1.5).any() and (means < 1.5).any() and (TOKENS == 0).any()

    def run(**how):
        trainer = looplab.Trainer(Masked, keras.optimizers.SGD(0.1), "mse", precision="float64", **how)
        trainer.fit(TOKENS, Y / 10, **FIT)
        return trainer.model.get_weights(), trainer.predict(TOKENS, batch_size=4)

    assert_same(run(**options), run(run_eagerly=True))


# --- what a model is afterwards -----------------------------------------------------------------------


@pytest.mark.slow
def test_a_model_is_as_before_and_two_trainers_can_train_it(tmp_path):
    model, original = functional(), keras.Layer.__call__
    model.summary(print_fn=lambda *_, **__: None)
    config, keys = model.get_config(), [set(vars(layer)) for layer in model.layers]
    first = looplab.Trainer(model, "sgd", "mse", execution="graph")
    first.fit((X, Y), **FIT)
    second = looplab.Trainer(model, "sgd", "mse", execution="graph")
    second.fit((X, Y), **FIT)
    assert model.get_config() == config and keras.Layer.__call__ is original
    assert [set(vars(layer)) for layer in model.layers] == keys and not any("call" in own for own in keys)
    assert list(inspect.signature(model.get_layer("gate").call).parameters) == ["x", "mask"]
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    copied = copy.deepcopy(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    expected = second.predict(X, batch_size=4)
    for each in (model, clone, copied, loaded):
        np.testing.assert_allclose(
            np.concatenate([each(X[i : i + 4]) for i in (0, 4, 8)]), expected, rtol=1e-5
        )
    model.compile("sgd", "mse")
    with pytest.raises(TypeError, match="symbolic"):  # as Keras does
        model.fit(X, Y, batch_size=4, verbose=0)
    model.compile("sgd", "mse", run_eagerly=True)
    model.fit(X, Y, batch_size=4, verbose=0)


@pytest.mark.slow
def test_only_what_may_branch_is_translated(monkeypatch):
    from tensorflow.python.autograph.impl import api

    seen, convert = [], api._convert_actual
    monkeypatch.setattr(
        api, "_convert_actual", lambda entity, ctx: seen.append(entity) or convert(entity, ctx)
    )

    class Straight(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden, self.top = keras.layers.Dense(5), keras.layers.Dense(1)
            self.activations = {"own": straight}

        def call(self, x, training=False):
            return self.top(self.activations["own"](self.norm(self.hidden(x))))

        def norm(self, h):
            return h - tf.reduce_mean(h)

    class Bent(Straight):
        def norm(self, h):
            return tf.abs(h) if tf.reduce_mean(h) > 0.0 else h

    def calls(model):
        seen.clear()
        trained(model, execution="graph")
        return [entity.__name__ for entity in seen if entity.__module__ == __name__]

    assert calls(Straight) == []
    assert {*calls(Bent)} == {"call", "norm", "straight"}


def straight(h):
    return keras.ops.relu(h)


def test_layers_of_an_installed_package_are_left_alone(monkeypatch):
    """They are written for graphs; one that is not says what to do."""
    module = types.ModuleType("keras_elsewhere")
    source = inspect.getsource(Unbounded).replace("Unbounded", "Elsewhere")
    exec(
        compile(source, "/usr/lib/site-packages/keras_elsewhere.py", "exec"),
        vars(module) | globals(),
        vars(module),
    )
    vars(module)["Elsewhere"].__module__ = module.__name__
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(
        looplab.ControlFlowError, match=r"call is not converted: it is code of an installed .*@tf\.function"
    ):
        trained(module.Elsewhere, execution="graph")


# --- what cannot be translated ------------------------------------------------------------------------


class Base(keras.Model):
    def __init__(self):
        super().__init__()
        self.cell, self.top = keras.layers.Dense(5), keras.layers.Dense(1)
        self.cell.build((None, 5))
        self.top.build((None, 5))

    def call(self, x):
        return self.top(self.bad(self.cell(x)))


class OneBranch(Base):
    def bad(self, x):
        if tf.reduce_mean(x) > 0.0:  # here
            y = x
        return y


class OneReturn(Base):
    def bad(self, x):
        if tf.reduce_mean(x) > 0.0:  # here
            return x


class Structures(Base):
    def bad(self, x):
        if tf.reduce_mean(x) > 0.0:  # here
            return x
        return x, x


class Types(Base):
    def bad(self, x):
        scale = 1.0
        if tf.reduce_mean(x) > 0.0:  # here
            scale = 2
        return x * scale


class Grown(Base):
    def bad(self, x):
        found = []
        for _ in tf.range(3):
            x = self.cell(x)
            found.append(x)
        return tf.stack(found)  # here


class LossInside(Base):
    def bad(self, x):
        if tf.reduce_mean(x) > 0.0:
            self.add_loss(tf.reduce_sum(x))  # here
        return x


class Shapes(Base):
    def bad(self, x):
        found = x
        for _ in tf.range(3):  # here
            found = tf.concat([found, x], 1)
        return found[:, :5]


class ReturnInLoop(Base):
    def bad(self, x):
        for _ in tf.range(3):  # here
            if tf.reduce_mean(x) > 0.0:
                return x
            x = self.cell(x)
        return x


class Vector(Base):
    def bad(self, x):
        if x > 0.0:  # here
            x = -x
        return x


class Property(Base):
    def bad(self, x):
        self.seen = x
        return x * self.factor

    @property
    def factor(self):
        return 1.0 if tf.reduce_mean(self.seen) > 0.0 else 2.0  # here


class Comprehension(Base):
    def bad(self, x):
        return tf.stack([row for row in tf.unstack(x, 4) if row[0] > 0.0])  # here


class Mangled(Base):
    def bad(self, x):
        self.__kept = 2.0
        return x * self.__kept if tf.reduce_mean(x) > 0.0 else x  # here


class Number(Base):
    def bad(self, x):
        return x * [1.0, 2.0][tf.cast(tf.reduce_sum(x) > 0.0, tf.int32)] if x is not None else x  # here


class MaskInExpression(Base):
    def bad(self, x):
        h = keras.layers.Masking()(x[:, :, None])
        h = h if tf.reduce_mean(x) > 0.0 else -h  # here
        return tf.reduce_sum(h, 2)


class Member(Base):
    def bad(self, x):
        if tf.reduce_mean(x) in (1.0, 2.0):  # here
            x = -x
        return x


NO_SOURCE = """
class NoSource(Base):
    def bad(self, x):
        return -x if tf.reduce_mean(x) > 0.0 else x  # here
"""
exec(NO_SOURCE)

REFUSED = {
    OneBranch: "'y' must also be initialized in the else branch. Give it a value before the if",
    OneReturn: "the else branch must also have a return statement. Return in both branches",
    Structures: "what is returned must have the same nested structure",
    Types: "'scale' has dtype int32 in the main branch, but dtype float(32|64) in the else branch. .*tf.cast",
    Grown: r"is created in an if, for or while \(.*_calls.py.*\) is used outside of it.*tf.TensorArray",
    LossInside: "is used outside of it.*add_loss",
    Shapes: "'found' has shape .*set_loop_options.shape_invariants=",
    ReturnInLoop: "a return statement cannot be placed inside .* leave the loop by break",
    Vector: "expected to be `tf.bool` scalar.* tf.where",
    Property: "factor is not converted: it is a property. Make it a method",
    Comprehension: "it is a comprehension. Write a for loop",
    Mangled: "bad is not converted: a name in it begins with two underscores",
    Number: r"a tensor has no value yet \(list indices",
    MaskInExpression: "conditional expression loses the Keras mask.* Write it as an if statement",
    Member: "a library's code or an expression, not a statement, needs a tensor's value",
    NoSource: "bad is not converted: its source code is not available.* Write it in a file",  # noqa: F821
}


@pytest.mark.share(4)
@pytest.mark.parametrize("model", REFUSED, ids=lambda model: model.__name__)
def test_what_cannot_be_translated_is_refused_with_its_line_and_the_remedy(model, caplog):
    with pytest.raises(looplab.ControlFlowError) as caught:
        trained(model, execution="graph")
    said = str(caught.value)
    assert re.search(REFUSED[model], said), said
    if model.__name__ == "NoSource":
        assert said.startswith("<string>, line 4, in bad: ")
    else:
        lines, first = inspect.getsourcelines(model)
        here = first + next(index for index, line in enumerate(lines) if "# here" in line)
        assert said.startswith(f"{__file__}, line {here}, in "), (here, said)
    assert said.endswith("on one device run_eagerly=True runs it in Python unchanged.")
    assert not caplog.records  # AutoGraph's own warning


def test_other_errors_of_a_model_are_as_they_were():
    class Fails(Base):
        def bad(self, x):
            if tf.reduce_mean(x) > 0.0:
                x = -x
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        trained(Fails, execution="graph")
