"""Every layer of Keras that draws: a row has the numbers of one device, however the batch is cut."""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from itertools import pairwise
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from looplab.execution.moved_draws import STEP, Part, Place
from looplab.execution.random_looks import Look
from looplab.execution.row_random import Placed, placed
from looplab.execution.running_step import entered

ROWS = 7
CUTS = ([0, 3, 7], [0, 0, 1, 1, 5, 7])  # the second with parts that have no rows
RNG = np.random.default_rng(0)
VECTOR, SEQUENCE, SEQUENCES = (ROWS, 6), (ROWS, 4, 3), (ROWS, 3, 6, 2)
IMAGE, VIDEO, VOLUME = (ROWS, 8, 8, 3), (ROWS, 2, 5, 5, 2), (ROWS, 3, 4, 4, 4, 2)
_RANGE = {"value_range": (0, 1)}
RECURRENT = {"dropout": 0.4, "recurrent_dropout": 0.3}


def _self(layer):
    return lambda x: layer(x, x, training=True)


# The shape of the input, the layer, and how it is called if not on one input.
LAYERS = {
    "Dropout": (VECTOR, lambda: layers.Dropout(0.5)),
    "AlphaDropout": (VECTOR, lambda: layers.AlphaDropout(0.5)),
    "GaussianDropout": (VECTOR, lambda: layers.GaussianDropout(0.5)),
    "GaussianNoise": (VECTOR, lambda: layers.GaussianNoise(0.5)),
    "SpatialDropout1D": (SEQUENCE, lambda: layers.SpatialDropout1D(0.5)),
    "SpatialDropout2D": (IMAGE, lambda: layers.SpatialDropout2D(0.5)),
    "SpatialDropout3D": (VIDEO, lambda: layers.SpatialDropout3D(0.5)),
    "MultiHeadAttention": (SEQUENCE, lambda: layers.MultiHeadAttention(2, 3, dropout=0.5)),
    "GroupQueryAttention": (SEQUENCE, lambda: layers.GroupQueryAttention(2, 4, 2, dropout=0.5)),
    "Attention": (SEQUENCE, lambda: layers.Attention(dropout=0.5)),
    "AdditiveAttention": (SEQUENCE, lambda: layers.AdditiveAttention(dropout=0.5)),
    "LSTM": (SEQUENCE, lambda: layers.LSTM(3, **RECURRENT)),
    "GRU": (SEQUENCE, lambda: layers.GRU(3, unroll=True, **RECURRENT)),
    "SimpleRNN": (SEQUENCE, lambda: layers.SimpleRNN(3, **RECURRENT)),
    "LSTMCell": (SEQUENCE, lambda: layers.RNN(layers.LSTMCell(3, **RECURRENT))),
    "GRUCell": (SEQUENCE, lambda: layers.RNN(layers.GRUCell(3, **RECURRENT))),
    "SimpleRNNCell": (SEQUENCE, lambda: layers.RNN(layers.SimpleRNNCell(3, **RECURRENT))),
    "ConvLSTM1D": (SEQUENCES, lambda: layers.ConvLSTM1D(2, 3, **RECURRENT)),
    "ConvLSTM2D": (VIDEO, lambda: layers.ConvLSTM2D(2, 3, **RECURRENT)),
    "ConvLSTM3D": (VOLUME, lambda: layers.ConvLSTM3D(2, 3, **RECURRENT)),
    "RandAugment": (IMAGE, lambda: layers.RandAugment(**_RANGE)),
    "RandomBrightness": (IMAGE, lambda: layers.RandomBrightness(0.5, **_RANGE)),
    "RandomColorDegeneration": (IMAGE, lambda: layers.RandomColorDegeneration(0.5, **_RANGE)),
    "RandomColorJitter": (IMAGE, lambda: layers.RandomColorJitter(brightness_factor=0.5, **_RANGE)),
    "RandomContrast": (IMAGE, lambda: layers.RandomContrast(0.5, **_RANGE)),
    "RandomCrop": (IMAGE, lambda: layers.RandomCrop(6, 6)),
    "RandomElasticTransform": (IMAGE, lambda: layers.RandomElasticTransform(**_RANGE)),
    "RandomErasing": (IMAGE, lambda: layers.RandomErasing(**_RANGE)),
    "RandomFlip": (IMAGE, lambda: layers.RandomFlip()),
    "RandomGaussianBlur": (IMAGE, lambda: layers.RandomGaussianBlur(**_RANGE)),
    "RandomGrayscale": (IMAGE, lambda: layers.RandomGrayscale()),
    "RandomHue": (IMAGE, lambda: layers.RandomHue(0.5, **_RANGE)),
    "RandomInvert": (IMAGE, lambda: layers.RandomInvert(**_RANGE)),
    "RandomPerspective": (IMAGE, lambda: layers.RandomPerspective()),
    "RandomPosterization": (IMAGE, lambda: layers.RandomPosterization(4, **_RANGE)),
    "RandomRotation": (IMAGE, lambda: layers.RandomRotation(0.25)),
    "RandomSaturation": (IMAGE, lambda: layers.RandomSaturation(0.5, **_RANGE)),
    "RandomSharpness": (IMAGE, lambda: layers.RandomSharpness(0.5, **_RANGE)),
    "RandomShear": (IMAGE, lambda: layers.RandomShear(0.5)),
    "RandomTranslation": (IMAGE, lambda: layers.RandomTranslation(0.25, 0.25)),
    "RandomZoom": (IMAGE, lambda: layers.RandomZoom(0.25)),
    "Solarization": (IMAGE, lambda: layers.Solarization(0.5, **_RANGE)),
}
# Layers that mix the rows of a batch: a part knows only its own.
MIXED = {
    "MixUp": (IMAGE, lambda: layers.MixUp()),
    "CutMix": (IMAGE, lambda: layers.CutMix()),
}
NO_ENTRY = {"JaxLayer": "needs JAX", "AugMix": "chooses in Python when it is traced, see test_randomness"}
IN_PYTHON = {"Dropout", "LSTM", "GRU", "RandomElasticTransform"}  # looked at without a trace
TWO_INPUTS = {"MultiHeadAttention", "GroupQueryAttention"}
LISTS = {"Attention", "AdditiveAttention"}


def of_signature():
    """Returns the layers of Keras that take a seed."""
    return [
        name
        for name, kind in vars(layers).items()
        if inspect.isclass(kind) and "seed" in inspect.signature(kind.__init__).parameters
    ]


def test_every_layer_that_takes_a_seed_has_an_entry():
    assert set(of_signature()) - {*LAYERS, *MIXED} == {*NO_ENTRY}


class Study:
    """A layer, called on some rows as a step would call it."""

    def __init__(self, name, entry):
        shape, make = entry
        keras.utils.set_random_seed(3)
        self.name, self.layer = name, make()
        self.x = RNG.uniform(0, 1, size=shape).astype("float32")
        self.first = []
        self.outputs(self.x)  # builds it
        for sub in self.layer._flatten_layers():
            self.first += [(v, v.numpy()) for v in sub.variables if v.name == "seed_generator_state"]

    def set_back(self):
        for variable, value in self.first:
            variable.assign(value)

    def outputs(self, x):
        self.set_back()
        return self.call(x).numpy()

    def call(self, x):
        if self.name in TWO_INPUTS:
            return self.layer(x, x, training=True)
        return self.layer([x, x] if self.name in LISTS else x, training=True)

    def look(self, *, in_python):
        looks = []
        for times in (1, 2):
            look, x = Look(ROWS * times), tf.concat([self.x] * times, 0)

            def step(x, look=look, rows=ROWS * times):
                with drawing(look, Place(0, rows, rows)):
                    self.call(x)

            if in_python:
                self.set_back()
                step(x)
            else:
                look.finish(tf.function(step).get_concrete_function(x).graph)
            looks.append(look)
        return placed(*looks, in_python=in_python)

    def by_parts(self, draws, cut):
        found = []
        for first, end in pairwise(cut):
            with drawing(draws, Place(first, end - first, ROWS)):
                if first < end:
                    found.append(self.outputs(self.x[first:end]))
        return np.concatenate(found)


@contextmanager
def drawing(draws, place):
    with entered(SimpleNamespace(draws=draws, part=Part(STEP, place), is_aside=False)):
        yield


@pytest.mark.share(8)
@pytest.mark.parametrize("name", LAYERS)
def test_a_row_has_the_numbers_of_one_device_however_the_batch_is_cut(name):
    study = Study(name, LAYERS[name])
    draws = study.look(in_python=name in IN_PYTHON)
    assert isinstance(draws, Placed), [*map(str, draws)]
    assert draws.count > 0
    whole = study.outputs(study.x)
    for cut in CUTS:
        assert np.allclose(study.by_parts(draws, cut), whole, atol=1e-6), cut
    apart = study.by_parts(None, CUTS[0])
    assert not np.allclose(apart, whole, atol=1e-3) or name == "RandomCrop"  # otherwise nothing was drawn


@pytest.mark.parametrize("name", MIXED)
def test_a_layer_that_mixes_rows_is_found_in_a_trace(name):
    study = Study(name, MIXED[name])
    look = Look(ROWS)

    @tf.function
    def step(x):
        with drawing(look, Place(0, ROWS, ROWS)):
            return study.layer(x, training=True)

    look.finish(step.get_concrete_function(study.x).graph)
    assert "orders or chooses among the rows" in str(look.troubles[0])
