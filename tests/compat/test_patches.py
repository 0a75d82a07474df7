"""Patches are put on and taken off in any order, and one switch turns all of them off."""

import subprocess
import sys
import threading
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.compat import patches
from looplab.options import compatibility
from tests.conftest import make_strategy
from tests.process import HANGS, ROOT, environment

WHAT = "tensorflow.python.ops.random_ops_util.get_key_counter_alg"
NAME = "get_key_counter_alg"


def owner():
    return SimpleNamespace(**{NAME: "original"})


def test_blocks_may_be_nested_and_the_last_puts_the_original_back():
    one = owner()
    with patches.patched(WHAT, one, lambda original: f"instead of the {original}"):
        with patches.patched(WHAT, one, lambda original: f"another for the {original}"):
            assert one.get_key_counter_alg == "instead of the original"
        assert one.get_key_counter_alg == "instead of the original"
    assert one.get_key_counter_alg == "original"
    with pytest.raises(ZeroDivisionError), patches.patched(WHAT, one, lambda original: "other"):
        raise ZeroDivisionError
    assert one.get_key_counter_alg == "original" and not patches._replaced


def test_of_two_threads_the_last_that_leaves_puts_the_original_back():
    """The first one in is the first one out, while the other is still within."""
    one, seen = owner(), {}
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))

    def first():
        with patches.patched(WHAT, one, lambda original: "replaced"):
            first_is_in.set()
            assert second_is_in.wait(HANGS)
        seen["after the first has left"] = one.get_key_counter_alg
        first_is_out.set()

    def second():
        assert first_is_in.wait(HANGS)
        with patches.patched(WHAT, one, lambda original: "replaced"):
            second_is_in.set()
            assert first_is_out.wait(HANGS)
            seen["within the second"] = one.get_key_counter_alg

    threads = [threading.Thread(target=each) for each in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANGS)
    assert seen == {"after the first has left": "replaced", "within the second": "replaced"}
    assert one.get_key_counter_alg == "original"


def test_two_threads_that_trace_for_xla_leave_tensorflow_as_it_was():
    from tensorflow.python.ops import gen_stateless_random_ops_v2 as kernels

    from looplab.execution.xla_random import as_outside_xla

    before = kernels.stateless_random_uniform_v2, kernels.stateless_random_normal_v2
    together = threading.Barrier(4)

    def often():
        for _ in range(50):
            together.wait(HANGS)
            with as_outside_xla():
                assert kernels.stateless_random_uniform_v2 is not before[0]

    threads = [threading.Thread(target=often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANGS)
    assert (kernels.stateless_random_uniform_v2, kernels.stateless_random_normal_v2) == before


def test_a_patch_stays_until_it_is_taken_back():
    class Optimizer:
        def update_step(self):
            return "the class's"

    one, what = Optimizer(), "keras.optimizers.Optimizer.update_step"
    patches.unpatch(what, one)
    patches.patch(what, one, lambda: "another")
    assert one.update_step() == "another"
    patches.unpatch(what, one)
    assert one.update_step() == "the class's"


def test_only_what_the_registry_has_is_replaced():
    with pytest.raises(KeyError, match=r"has no patch 'keras\.Model\.fit'"):
        patches.patch("keras.Model.fit", owner(), None)
    with pytest.raises(KeyError, match=r"has no patch 'keras\.Layer\._flatten_layers'"):  # which is only read
        patches.unpatch("keras.Layer._flatten_layers", owner())


def test_turned_off_nothing_is_replaced(monkeypatch):
    monkeypatch.setattr(patches, "SETTING", "off")
    one = owner()
    patches.patch(WHAT, one, "replaced")
    with patches.patched(WHAT, one, lambda original: "replaced"):
        assert one.get_key_counter_alg == "original"
    assert one.get_key_counter_alg == "original"
    ((label, text),) = patches.lines()
    assert label == "patches" and text.startswith("off (LOOPLAB_PATCHES)")


def trained():
    """The bits of all variables after two epochs in a graph."""
    looplab.random.seed_everything(0)
    x = np.linspace(-1, 1, 192, dtype="float32").reshape(64, 3)
    layers = [
        keras.layers.Dense(4, "relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(1),
    ]
    trainer = looplab.Trainer(
        lambda: keras.Sequential(layers), "adam", "mse", ["mae"], execution="graph", seed=1
    )
    trainer.fit((x, x[:, :1]), validation_data=(x, x[:, :1]), batch_size=16, epochs=2)
    return b"".join(variable.numpy().tobytes() for variable in trainer.model.variables).hex()


REFUSED = {
    "strategy.name": [{"replicas": 2}, {"replicas": 2, "batch_norm": "local"}],
    "precision.policy": [{"precision": p} for p in ("float64", "mixed_bfloat16", "mixed_float16")],
    "micro_batches": [{"micro_batches": 2}, {"micro_batches": "auto"}],
    "optimizer 'optimizer'": [
        {"optimizer": lambda: keras.optimizers.SGD(use_ema=True)},
        {"optimizer": "schedulefreeadamw"},
    ],
    "parameter_groups": [{"parameter_groups": {"all": {"match": "*", "weight_decay": 0.1}}}],
}


def refuses():
    """Tries what needs patches to be exact."""
    x = np.ones((8, 3), "float32")
    for key, several in REFUSED.items():
        for given in several:
            settings = {"optimizer": "sgd", **given}
            settings["strategy"] = make_strategy(settings.pop("replicas", 1))
            layers = [keras.layers.BatchNormalization(), keras.layers.Dense(1)]
            with pytest.raises(looplab.ConfigurationError) as refused:
                trainer = looplab.Trainer(keras.Sequential(layers), loss="mse", **settings)
                trainer.fit((x, x[:, :1]), batch_size=4, epochs=1, verbose=0)
            assert str(refused.value).startswith(f"{key}: "), str(refused.value)
            assert "unset LOOPLAB_PATCHES" in str(refused.value)


class Inner(keras.layers.Layer):
    """Its weights are reached through a function, which Keras traces on placeholders first."""

    def __init__(self):
        super().__init__()
        self.inner = keras.layers.Dense(1)

    @tf.function
    def call(self, x):
        return self.inner(x)


def calls_a_function():
    """Gradients reach its weights, though TensorFlow has a trace of it without them."""
    trainer = looplab.Trainer(lambda: keras.Sequential([Inner()]), "sgd", "mse")
    x = np.ones((4, 3), "float32")
    history = trainer.fit((x, x[:, :1]), batch_size=4, epochs=2, verbose=0).history["loss"]
    assert history[0] != history[1]


OFF = """
import tensorflow as tf
from tests.compat import test_patches
import looplab.execution
assert type(tf.function(len)).__call__.__module__.startswith("tensorflow.")
test_patches.refuses()
test_patches.calls_a_function()
print("bits", test_patches.trained())
"""


@pytest.mark.slow
def test_turned_off_a_step_in_a_graph_makes_the_same_update_and_all_else_is_refused():
    done = subprocess.run(
        [sys.executable, "-c", OFF],
        env=environment(PYTHONPATH=str(ROOT), LOOPLAB_PATCHES="off"),
        capture_output=True,
        text=True,
        timeout=HANGS,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"bits {trained()}"
    assert done.stdout.count("off (LOOPLAB_PATCHES)") == 1


def test_the_switch_is_on_or_off():
    (problem,) = compatibility.refusals(compatibility.Settings(patches="of"))
    assert str(problem) == "LOOPLAB_PATCHES: expected on or off, got 'of'. Did you mean 'off'?"
    assert not compatibility.refusals(compatibility.Settings(patches="off"))
