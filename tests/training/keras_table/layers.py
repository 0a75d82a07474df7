"""An entry for each layer of Keras: the kind of its input, and how it is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

RNG = np.random.default_rng(3)
N = 12

# One example of each kind of input; a table has one model for each kind.
INPUTS: dict[str, np.ndarray] = {
    "vector": RNG.normal(size=(N, 6)),
    "sequence": RNG.normal(size=(N, 8, 4)),
    "image": RNG.uniform(size=(N, 8, 8, 3)),
    "volume": RNG.normal(size=(N, 6, 6, 6, 2)),
    "volume in float32": RNG.normal(size=(N, 6, 6, 6, 2)),
    "strip video": RNG.normal(size=(N, 3, 6, 2)),
    "video": RNG.normal(size=(N, 3, 5, 5, 2)),
    "volume video": RNG.normal(size=(N, 2, 4, 4, 4, 2)),
    "ids": RNG.integers(0, 7, size=(N, 5)).astype("int32"),
    "words": RNG.choice(["a", "b", "c d", "e"], size=(N, 5)).astype(object),
    "waveform": RNG.normal(size=(N, 64)),
}
FLOAT32 = {"volume in float32", "waveform"}  # kinds whose layers compute in nothing else
Call = Callable[[Any], Any]
Entry = tuple[str, Call]


def _each(kind: str, **calls: Call) -> dict[str, Entry]:
    return {name: (kind, call) for name, call in calls.items()}


def _two(layer: Callable[..., Any]) -> Call:
    """Calls a layer of two inputs with the one there is, and what a Dense layer makes of it."""
    return lambda x: layer([x, layers.Dense(x.shape[-1])(x)])


def _rnn(cell: Callable[[], Any]) -> Call:
    return lambda x: layers.RNN(cell())(x)


def _attention(x: Any, layer: Any, **more: Any) -> Any:
    return layer(x, layers.Dense(4)(x), **more)


def _ranks(name: str, make: Callable[[int], Any]) -> dict[str, Entry]:
    kinds = {1: "sequence", 2: "image", 3: "volume"}
    return {f"{name}{rank}D": (kind, lambda x, rank=rank: make(rank)(x)) for rank, kind in kinds.items()}


def _of(name: str, *arguments: Any, **options: Any) -> Callable[[int], Any]:
    return lambda rank: getattr(layers, f"{name}{rank}D")(*arguments, **options)


def _transposed(name: str, rank: int) -> Any:
    return getattr(layers, f"{name}{rank}DTranspose")(2, 3, strides=2)


class Within(keras.Layer):
    """Calls a layer that gives its symbolic input as its output, which no functional model takes."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def call(self, inputs: Any) -> Any:
        return self.inner(inputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


PLAIN: dict[str, Entry] = {
    **_each(
        "vector",
        Activation=lambda x: layers.Activation("swish")(x),
        ActivityRegularization=lambda x: layers.ActivityRegularization(0.0, 0.25)(x),
        Add=_two(lambda two: layers.Add()(two)),
        AlphaDropout=lambda x: layers.AlphaDropout(0.0)(x),
        Average=_two(lambda two: layers.Average()(two)),
        BatchNormalization=lambda x: layers.BatchNormalization(momentum=0.75)(x),
        Concatenate=_two(lambda two: layers.Concatenate()(two)),
        Dense=lambda x: layers.Dense(3, "tanh", kernel_regularizer=keras.regularizers.L2(0.125))(x),
        Discretization=lambda x: layers.Discretization([-0.5, 0.0, 0.5])(x),
        Dot=_two(lambda two: layers.Dot(1, normalize=True)(two)),
        Dropout=lambda x: layers.Dropout(0.0)(x),
        ELU=lambda x: layers.ELU()(x),
        EinsumDense=lambda x: layers.EinsumDense("ab,bc->ac", 3, bias_axes="c")(x),
        Flatten=lambda x: layers.Flatten()(x),
        GaussianDropout=lambda x: layers.GaussianDropout(0.0)(x),
        GaussianNoise=lambda x: layers.GaussianNoise(0.0)(x),
        GroupNormalization=lambda x: layers.GroupNormalization(2)(x),
        Identity=lambda x: layers.Identity()(x),
        Lambda=lambda x: layers.Lambda(keras.ops.sin)(x),
        LayerNormalization=lambda x: layers.LayerNormalization()(x),
        LeakyReLU=lambda x: layers.LeakyReLU(0.25)(x),
        Maximum=_two(lambda two: layers.Maximum()(two)),
        Minimum=_two(lambda two: layers.Minimum()(two)),
        Multiply=_two(lambda two: layers.Multiply()(two)),
        Normalization=lambda x: layers.Normalization(mean=0.25, variance=4.0)(x),
        PReLU=lambda x: layers.PReLU()(x),
        Pipeline=lambda x: layers.Pipeline([layers.Rescaling(0.5)])(x),
        RMSNormalization=lambda x: layers.RMSNormalization()(x),
        ReLU=lambda x: layers.ReLU()(x),
        RepeatVector=lambda x: layers.RepeatVector(2)(x),
        Rescaling=lambda x: layers.Rescaling(0.5, 0.25)(x),
        Reshape=lambda x: layers.Reshape((3, 2))(x),
        Softmax=lambda x: layers.Softmax()(x),
        SpectralNormalization=lambda x: layers.SpectralNormalization(layers.Dense(3))(x),
        Subtract=_two(lambda two: layers.Subtract()(two)),
        UnitNormalization=lambda x: layers.UnitNormalization()(x),
    ),
    **_each(
        "sequence",
        AdditiveAttention=lambda x: layers.AdditiveAttention()([x, layers.Dense(4)(x)]),
        Attention=lambda x: layers.Attention(use_scale=True)([x, layers.Dense(4)(x)]),
        Bidirectional=lambda x: layers.Bidirectional(layers.LSTM(2))(x),
        GRU=lambda x: layers.GRU(3)(x),
        GRUCell=_rnn(lambda: layers.GRUCell(3)),
        GroupQueryAttention=lambda x: _attention(x, layers.GroupQueryAttention(2, 4, 2)),
        LSTM=lambda x: layers.LSTM(3, return_sequences=True, go_backwards=True)(x),
        LSTMCell=_rnn(lambda: layers.LSTMCell(3)),
        Masking=lambda x: layers.LSTM(2)(layers.Masking()(x)),
        MultiHeadAttention=lambda x: _attention(x, layers.MultiHeadAttention(2, 3), use_causal_mask=True),
        Permute=lambda x: layers.Permute((2, 1))(x),
        RNN=_rnn(lambda: layers.SimpleRNNCell(3)),
        SimpleRNN=lambda x: layers.SimpleRNN(3)(x),
        SimpleRNNCell=_rnn(lambda: layers.SimpleRNNCell(2)),
        StackedRNNCells=_rnn(lambda: layers.StackedRNNCells([layers.GRUCell(3), layers.LSTMCell(2)])),
        TimeDistributed=lambda x: layers.TimeDistributed(layers.Dense(2))(x),
    ),
    **_each(
        "image",
        AutoContrast=lambda x: layers.AutoContrast(value_range=(0, 1))(x),
        CenterCrop=lambda x: layers.CenterCrop(6, 5)(x),
        ContrastLimitedAdaptiveHistogramEqualization=lambda x: (
            layers.ContrastLimitedAdaptiveHistogramEqualization(value_range=(0, 1), tile_grid_size=(2, 2))(x)
        ),
        Equalization=lambda x: Within(layers.Equalization(value_range=(0, 1)))(x),
        MaxNumBoundingBoxes=lambda x: Within(layers.MaxNumBoundingBoxes(3))(x),
        Resizing=lambda x: layers.Resizing(5, 6)(x),
        SeparableConv2D=lambda x: layers.SeparableConv2D(2, 3)(x),
        DepthwiseConv2D=lambda x: layers.DepthwiseConv2D(3)(x),
    ),
    **_each("strip video", ConvLSTM1D=lambda x: layers.ConvLSTM1D(2, 3)(x)),
    **_each("video", ConvLSTM2D=lambda x: layers.ConvLSTM2D(2, 3)(x)),
    **_each("volume video", ConvLSTM3D=lambda x: layers.ConvLSTM3D(2, 3)(x)),
    "SeparableConv1D": ("sequence", lambda x: layers.SeparableConv1D(2, 3)(x)),
    "DepthwiseConv1D": ("sequence", lambda x: layers.DepthwiseConv1D(3)(x)),
    **_ranks("AdaptiveAveragePooling", _of("AdaptiveAveragePooling", 2)),
    **_ranks("AdaptiveMaxPooling", _of("AdaptiveMaxPooling", 2)),
    **_ranks("AveragePooling", _of("AveragePooling", 2)),
    **_ranks("Conv", _of("Conv", 2, 3)),
    **_ranks("Cropping", _of("Cropping", 1)),
    **_ranks("GlobalAveragePooling", _of("GlobalAveragePooling")),
    **_ranks("GlobalMaxPooling", _of("GlobalMaxPooling")),
    **_ranks("MaxPooling", _of("MaxPooling", 2)),
    "AdaptiveAveragePooling3D": ("volume in float32", lambda x: layers.AdaptiveAveragePooling3D(2)(x)),
    "AveragePooling3D": ("volume in float32", lambda x: layers.AveragePooling3D(2)(x)),
    "AdaptiveMaxPooling3D": ("volume in float32", lambda x: layers.AdaptiveMaxPooling3D(2)(x)),
    "MaxPooling3D": ("volume in float32", lambda x: layers.MaxPooling3D(2)(x)),
    **_ranks("SpatialDropout", _of("SpatialDropout", 0.0)),
    **_ranks("UpSampling", _of("UpSampling", 2)),
    **_ranks("ZeroPadding", _of("ZeroPadding", 1)),
    **{
        f"{name}Transpose": (kind, lambda x, rank=rank: _transposed("Conv", rank)(x))
        for rank, (name, (kind, _)) in enumerate(_ranks("Conv", _of("Conv")).items(), 1)
    },
    **_each(
        "ids",
        CategoryEncoding=lambda x: layers.CategoryEncoding(7, "multi_hot")(x),
        Embedding=lambda x: layers.LSTM(2)(layers.Embedding(7, 3, mask_zero=True)(x)),
        HashedCrossing=lambda x: layers.HashedCrossing(5)((x[:, :1], x[:, 1:2])),
        Hashing=lambda x: layers.Hashing(5)(x),
        IntegerLookup=lambda x: layers.IntegerLookup(vocabulary=[1, 2, 3])(x),
        ReversibleEmbedding=lambda x: layers.ReversibleEmbedding(7, 3)(x),
    ),
    **_each(
        "words",
        StringLookup=lambda x: layers.StringLookup(vocabulary=["a", "e"])(x),
        TextVectorization=lambda x: layers.TextVectorization(vocabulary=["a", "e"], output_sequence_length=3)(
            x[:, 2:3]
        ),
    ),
    **_each(
        "waveform",
        MelSpectrogram=lambda x: layers.Rescaling(0.01)(  # decibels are large
            layers.MelSpectrogram(
                fft_length=16, sequence_stride=8, sampling_rate=100, num_mel_bins=4, min_freq=2.0
            )(x)
        ),
        STFTSpectrogram=lambda x: layers.Rescaling(0.1)(
            layers.STFTSpectrogram(frame_length=16, frame_step=8, fft_length=16)(x[..., None])
        ),
    ),
}


def _seeded(name: str, *arguments: Any, **options: Any) -> Entry:
    return "image", lambda x: getattr(layers, name)(*arguments, seed=1, **options)(x)


_RANGE = {"value_range": (0, 1)}
# These draw in training, in looplab other numbers than in `model.fit`.
RANDOM: dict[str, Entry] = {
    "AugMix": _seeded("AugMix", **_RANGE),
    "CutMix": _seeded("CutMix"),
    "Dropout": ("image", lambda x: layers.Dropout(0.5)(x)),
    "GaussianNoise": ("image", lambda x: layers.GaussianNoise(0.5)(x)),
    "MixUp": _seeded("MixUp"),
    "RandAugment": _seeded("RandAugment", **_RANGE),
    "RandomBrightness": _seeded("RandomBrightness", 0.5, **_RANGE),
    "RandomColorDegeneration": _seeded("RandomColorDegeneration", 0.5, **_RANGE),
    "RandomColorJitter": _seeded("RandomColorJitter", brightness_factor=0.5, **_RANGE),
    "RandomContrast": _seeded("RandomContrast", 0.5, **_RANGE),
    "RandomCrop": ("image", lambda x: layers.GlobalAveragePooling2D()(layers.RandomCrop(6, 6, seed=1)(x))),
    "RandomElasticTransform": _seeded("RandomElasticTransform", **_RANGE),
    "RandomErasing": _seeded("RandomErasing", **_RANGE),
    "RandomFlip": _seeded("RandomFlip"),
    "RandomGaussianBlur": _seeded("RandomGaussianBlur", **_RANGE),
    "RandomGrayscale": _seeded("RandomGrayscale"),
    "RandomHue": _seeded("RandomHue", 0.5, **_RANGE),
    "RandomInvert": _seeded("RandomInvert", **_RANGE),
    "RandomPerspective": _seeded("RandomPerspective"),
    "RandomPosterization": _seeded("RandomPosterization", 4, **_RANGE),
    "RandomRotation": _seeded("RandomRotation", 0.25),
    "RandomSaturation": _seeded("RandomSaturation", 0.5, **_RANGE),
    "RandomSharpness": _seeded("RandomSharpness", 0.5, **_RANGE),
    "RandomShear": _seeded("RandomShear", 0.5),
    "RandomTranslation": _seeded("RandomTranslation", 0.25, 0.25),
    "RandomZoom": _seeded("RandomZoom", 0.25),
    "Solarization": _seeded("Solarization", **_RANGE),
}


def build(names: list[str], table: dict[str, Entry]) -> keras.Model:
    """Makes a model with a branch for each entry: what it is called on is trained, and so is what follows."""
    array = INPUTS[table[names[0]][0]]
    dtype = {"f": keras.config.floatx(), "i": "int32", "O": "string"}[array.dtype.kind]
    inputs = keras.Input(array.shape[1:], dtype=dtype)
    outputs = {}
    for name in names:
        with keras.name_scope(name):
            x = inputs
            if array.dtype.kind == "f":
                x = layers.Dense(x.shape[-1], "sigmoid", name=f"{name}_before")(x)
            x = keras.ops.cast(table[name][1](x), keras.config.floatx())
            outputs[name] = layers.Dense(2, name=name)(layers.Flatten()(x))
    return keras.Model(inputs, outputs)


def of_kind(kind: str, table: dict[str, Entry]) -> list[str]:
    """Returns the entries that have such an input."""
    return [name for name, (own, _) in table.items() if own == kind]
