"""One device makes the update of `model.fit`: the reference that every split is compared with."""

import keras
import numpy as np
import pytest

import looplab


def keras_and_looplab(build, compile_arguments, data, **fit):
    """Trains one model with `model.fit` and its twin with looplab, on the same batches."""
    keras.config.set_floatx("float64")
    try:
        reference = build()
        twin = build()
        twin.set_weights(reference.get_weights())
        made = {k: v() if callable(v) else v for k, v in compile_arguments.items()}
        reference.compile(**made, run_eagerly=True)  # for so few steps it takes less time than graphs
        x, y, weights = (*data, None)[:3]
        reference.fit(x, y, sample_weight=weights, shuffle=False, verbose=0, **fit)
    finally:
        keras.config.set_floatx("float32")
    trainer = looplab.Trainer(twin, compile_arguments["optimizer"], made["loss"], precision="float64")
    trainer.fit(data, shuffle=False, verbose=0, **fit)
    return reference.get_weights(), twin.get_weights()


@pytest.mark.share(1)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", ["mse", "mae", "huber", "categorical_crossentropy", "kl_divergence"])
def test_one_device_makes_the_update_of_model_fit(loss, weighted):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(21, 4)), rng.integers(0, 3, 21).astype("float64")
    y = rng.dirichlet(np.ones(3), 21)

    def build():
        inputs = keras.Input((4,))
        hidden = keras.layers.Dense(5, "tanh", kernel_regularizer="l2", activity_regularizer="l2")(inputs)
        return keras.Model(inputs, keras.layers.Dense(3, "softmax")(hidden))

    def optimizer():
        return keras.optimizers.SGD(0.125, momentum=0.5, clipnorm=0.5)

    data = (x, y, w) if weighted else (x, y)
    ours, theirs = keras_and_looplab(
        build, {"optimizer": optimizer, "loss": loss}, data, batch_size=8, epochs=2
    )
    for left, right in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-12)


@pytest.mark.slow
def test_masks_count_as_keras_counts_them():
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, 5, (14, 6))  # 0 is padding
    y = rng.integers(0, 3, (14, 6))

    def build():
        inputs = keras.Input((6,), dtype="int32")
        embedded = keras.layers.Embedding(5, 4, mask_zero=True)(inputs)
        return keras.Model(inputs, keras.layers.Dense(3, "softmax")(embedded))

    compile_arguments = {
        "optimizer": lambda: keras.optimizers.SGD(0.5),
        "loss": "sparse_categorical_crossentropy",
    }
    ours, theirs = keras_and_looplab(build, compile_arguments, (tokens, y), batch_size=5, epochs=2)
    for left, right in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-12)


REDUCTIONS = ["sum_over_batch_size", "mean_with_sample_weight", "sum"]
CLIPS = {"sum_over_batch_size": "clipnorm", "mean_with_sample_weight": "global_clipnorm", "sum": "clipvalue"}


@pytest.mark.share(1)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("counted", ["each once", "by sample", "by class", "by mask", "by mask and sample"])
def test_every_reduction_is_that_of_model_fit(reduction, counted):
    rng = np.random.default_rng(2)
    x, y = rng.integers(0, 4, (13, 5)), rng.integers(0, 3, (13, 5) if "mask" in counted else 13)
    weights = rng.integers(0, 4, y.shape) / 2  # with some that count for nothing

    def build():
        inputs = keras.Input((5,), dtype="int32")
        hidden = keras.layers.Embedding(
            4, 3, mask_zero="mask" in counted, embeddings_regularizer=keras.regularizers.L2(0.125)
        )(inputs)
        if "mask" not in counted:
            hidden = keras.layers.Flatten()(hidden)
        return keras.Model(inputs, keras.layers.Dense(3, "softmax")(hidden))

    compile_arguments = {
        "optimizer": lambda: keras.optimizers.SGD(0.25, momentum=0.5, **{CLIPS[reduction]: 0.0625}),
        "loss": lambda: keras.losses.SparseCategoricalCrossentropy(reduction=reduction, dtype="float64"),
    }
    data = (x, y, weights) if "sample" in counted else (x, y)
    by_class = {"class_weight": {0: 1.0, 1: 0.5, 2: 4.0}} if counted == "by class" else {}
    ours, theirs = keras_and_looplab(build, compile_arguments, data, batch_size=6, epochs=2, **by_class)
    for left, right in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-12)
