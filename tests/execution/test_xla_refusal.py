"""What XLA cannot compile is named, with the line it was made in and the remedy."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.execution import explained, refusal
from looplab.testing import check_step
from tests.conftest import make_strategy

X = np.linspace(-1, 1, 24, dtype="float32").reshape(8, 3)
WITHOUT = "run the step without XLA: execution='graph'."


def strings(h):
    return h * tf.cast(tf.strings.length(tf.strings.as_string(h)), tf.float32)


def prints(h):
    tf.print("mean", tf.reduce_mean(h))
    return h


def python_function(h):
    return tf.reshape(tf.py_function(lambda own: own * 1.0, [h], tf.float32), tf.shape(h))


def numpy_function(h):
    return h + tf.reshape(tf.numpy_function(lambda own: own * 1.0, [h], tf.float32), tf.shape(h))


def eigenvalues(h):
    return h * tf.math.real(
        tf.stop_gradient(tf.reduce_sum(tf.linalg.eigvals(tf.matmul(h, h, transpose_a=True))))
    )


def a_size_of_values(h):
    return h * tf.reduce_sum(tf.zeros([tf.cast(tf.abs(h[0, 0]) * 10, tf.int32) + 1]))


def goes_on(h, depth):
    return tf.reduce_any(h > 1e-3) & (depth < 8)


def halves(h, depth):
    return 0.5 * tf.sin(h), depth + 1


def without_bound(h):
    return tf.while_loop(goes_on, halves, (h, 0))[0]


def with_bound(h):
    return tf.while_loop(goes_on, halves, (h, 0), maximum_iterations=8)[0]


def while_over_tensors(h):
    while tf.reduce_sum(h) > 1.0:
        h = tf.sin(h)
    return h


def while_with_bound(h):
    while tf.reduce_sum(h) > 1.0:
        tf.autograph.experimental.set_loop_options(maximum_iterations=8)
        h = tf.sin(h)
    return h


def for_over_values(h):
    for _ in tf.range(tf.cast(tf.reduce_max(h), tf.int32) + 2):
        h = tf.sin(h)
    return h


def grown_array(h):
    """XLA ends the process where it tries to compile its gradient, and loses what predictions write."""
    array = tf.TensorArray(h.dtype, 0, dynamic_size=True, element_shape=[None, 3])
    for index in tf.range(tf.cast(tf.reduce_max(h), tf.int32) + 2):
        h = tf.sin(h)
        array = array.write(index, h)
    return tf.reduce_sum(array.stack(), 0)


CASES = {
    strings: r"it has no operation AsString, from strings ",
    prints: r"it has no operation StringFormat, from tf\.print ",
    python_function: r"it has no operation EagerPyFunc, from tf\.py_function ",
    numpy_function: r"it has no operation PyFunc, from tf\.numpy_function ",
    eigenvalues: r"it has no operation Eig ",
    a_size_of_values: r"a shape depends on values: an argument of Fill is not known before the step runs ",
    without_bound: r"a tf\.while_loop .* has no bound.*maximum_iterations=",
    while_over_tensors: r"a tf\.while_loop .* has no bound.*set_loop_options",
    for_over_values: r"a for over a range .* has no bound.*left by break",
    grown_array: r"a tf\.TensorArray grows .*size=",
}


def of(compute, **given):
    class Own(looplab.Trainer):
        def compute_loss(self, batch, training):
            return tf.reduce_sum(compute(self.model(batch)) ** 2, -1)

    return Own(lambda: keras.Sequential([keras.layers.Dense(3)]), "sgd", **given)


def fit(compute, **given):
    of(compute, **given).fit(X, batch_size=8, steps=2, verbose=0)


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("mode", "replicas"), [("xla_step", 1), ("xla_loop", 1), ("xla_step", 2)], ids=["step", "loop", "two"]
)
@pytest.mark.parametrize("compute", CASES, ids=lambda compute: compute.__name__)
def test_a_fit_says_what_xla_refuses_where_and_what_to_do(compute, mode, replicas):
    with pytest.raises(looplab.ConfigurationError) as caught:
        fit(compute, execution=mode, strategy=make_strategy(replicas))
    said = str(caught.value)
    assert said.startswith(f"execution={mode}: XLA cannot compile the step: ") and said.endswith(WITHOUT)
    assert re.search(CASES[compute], said), said
    assert f"made in {__file__}, line " in said and f"in {compute.__name__})" in said
    assert len(said) < 700


@pytest.mark.share(1)
@pytest.mark.parametrize("compute", [with_bound, while_with_bound])
def test_the_remedy_for_a_loop_helps(compute):
    fit(compute, execution="xla_step")


@pytest.mark.share(1)
@pytest.mark.parametrize("compute", [prints, without_bound])
def test_check_step_says_the_same(compute):
    with pytest.raises(AssertionError) as caught:
        check_step(
            lambda **options: of(compute, **options),
            X,
            replicas=(1,),
            micro_batches=(1,),
            modes=("xla_step",),
        )
    assert caught.value.cause == "xla"
    assert re.search(CASES[compute], str(caught.value))
    assert "modes=('eager', 'graph')" in str(caught.value)


def test_evaluations_and_predictions_say_it_too():
    class Own(looplab.Trainer):
        def test_step(self, batch):
            return {"sum": tf.reduce_mean(prints(self.model(batch)))}

        def predict_step(self, batch):
            return strings(self.model(batch)) if self.strings else grown_array(self.model(batch))

        strings = True

    made = Own(lambda: keras.Sequential([keras.layers.Dense(3)]), "sgd", "mse", execution="xla_step")
    with pytest.raises(
        looplab.ConfigurationError, match=r"no operation StringFormat, from tf\.print .*in prints\)"
    ):
        made.evaluate(X)
    with pytest.raises(
        looplab.ConfigurationError, match=r"no operation AsString, from strings .*in strings\)"
    ):
        made.predict(X)
    Own.strings = False
    again = Own(lambda: keras.Sequential([keras.layers.Dense(3)]), "sgd", "mse", execution="xla_step")
    with pytest.raises(looplab.ConfigurationError, match=r"a tf\.TensorArray grows .*in grown_array\)"):
        again.predict(X)


def test_other_errors_of_operations_are_left_alone():
    error = tf.errors.InvalidArgumentError(None, None, "Matrix size-incompatible: In[0]: [2,3], In[1]: [5,2]")
    assert refusal(error) is None and refusal(ValueError("must be a compile-time constant")) is None
    with pytest.raises(tf.errors.InvalidArgumentError), explained("xla_step"):
        raise error
