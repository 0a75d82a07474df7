"""What an optimizer keeps shows for ever that a gradient was not finite, or it is not taken to."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from looplab.execution import are_finite
from looplab.optimization import traces

OWN = [
    "SGD",
    "RMSprop",
    "Adam",
    "AdamW",
    "Adadelta",
    "Adagrad",
    "Adamax",
    "Adafactor",
    "Nadam",
    "Ftrl",
    "Lion",
]
OWN += ["Lamb", "Muon"]


def is_seen(optimizer, bad, steps=50):
    """Whether it is, after one bad number in one gradient and many good steps."""
    variables = [keras.Variable(np.ones((4, 3), "float32")), keras.Variable(np.ones(3, "float32"))]
    optimizer.build(variables)
    looked = traces({"one": optimizer}, {"one": variables})
    if not looked:
        return None
    gradients = [np.full(v.shape, 0.1, "float32") for v in variables]
    gradients[0][1, 2] = bad
    optimizer.apply([tf.constant(g) for g in gradients], variables)
    assert not are_finite([tf.convert_to_tensor(v) for v in looked])
    for _ in range(steps):
        variables[0].assign(tf.clip_by_value(variables[0], -1.0, 1.0))  # as a critic's weights are
        optimizer.apply([tf.fill(v.shape, 0.1) for v in variables], variables)
    return not are_finite([tf.convert_to_tensor(v) for v in looked])


HOW = [{}, {"clipnorm": 1.0}, {"global_clipnorm": 1.0}]
BAD = [np.nan, np.inf, -np.inf]


@pytest.mark.share(4)
@pytest.mark.parametrize(
    ("how", "bad"),
    [
        pytest.param(how, bad, marks=() if i == j else pytest.mark.slow)
        for i, how in enumerate(HOW)
        for j, bad in enumerate(BAD)
    ],
)
@pytest.mark.parametrize("name", OWN)
def test_every_optimizer_of_keras_keeps_it(name, how, bad):
    optimizer = getattr(keras.optimizers, name)(**how, **({"momentum": 0.9} if name == "SGD" else {}))
    assert is_seen(optimizer, bad)


class OfOnesOwn(keras.optimizers.Adam):
    pass


def test_what_may_hide_it_is_not_asked():
    for optimizer in (keras.optimizers.SGD(), keras.optimizers.Adam(clipvalue=1.0), OfOnesOwn()):
        assert is_seen(optimizer, np.inf) is None
