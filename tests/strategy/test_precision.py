"""Keras' global dtype settings decide the precision of a trainer that is given none."""

import keras
import pytest

import looplab


@pytest.fixture(autouse=True)
def restored():
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)


def model():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])


def trainer(**how):
    return looplab.Trainer(model, "sgd", "mse", **how)


def test_float32_is_the_default():
    assert trainer().model.layers[0].compute_dtype == "float32"


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("setting", "value"),
    [("dtype_policy", "mixed_bfloat16"), ("dtype_policy", "float64"), ("floatx", "float64")],
)
def test_a_global_setting_counts_where_no_precision_is_given(setting, value, caplog):
    getattr(keras.config, f"set_{setting}")(value)
    made = trainer()
    assert made.model.layers[0].dtype_policy.name == value
    assert ("precision", value) in made.rehearse([[1.0, 2.0]], [[3.0]]).lines
    assert not caplog.records


def test_a_precision_that_is_given_counts_and_says_so(caplog):
    keras.config.set_dtype_policy("mixed_bfloat16")
    assert trainer(precision="float32").model.layers[0].compute_dtype == "float32"
    assert (
        "precision: this trainer computes in float32, not by keras.config.set_dtype_policy('mixed"
        in caplog.text
    )
    caplog.clear()
    trainer(precision="mixed_bfloat16")
    assert not caplog.records


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dtype_policy": "bfloat16"}, "set_dtype_policy('bfloat16') applies to the whole process"),
        ({"floatx": "float16"}, "set_floatx('float16') applies to"),
        ({"dtype_policy": "mixed_bfloat16", "floatx": "float64"}, "'float64') contradict each other"),
    ],
)
def test_global_settings_that_are_no_precision_are_refused(settings, words):
    for setting, value in settings.items():
        getattr(keras.config, f"set_{setting}")(value)
    with pytest.raises(looplab.ConfigurationError, match=r"precision: keras\.config") as refused:
        trainer()
    assert words in str(refused.value)
