"""Shared by all tests: four logical CPU devices before TensorFlow starts, and strategies on them."""

import gc
import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# What tests measure is not remembered for the person who runs them, nor the other way round.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="looplab-cache-")

import keras
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, settings

import looplab

# Before any operation runs: the devices of a process are fixed at the first one.
tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(2)
looplab.strategy.simulated(4)

settings.register_profile(
    "looplab",
    deadline=None,  # tracing takes seconds
    derandomize=True,  # a failure on one machine is a failure on all
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("looplab")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Begins with the longest test, and marks as slow what `share(n)` leaves out.

    Of the cases of a test n stay, the same ones each time.
    """
    items.sort(key=lambda item: item.path.name != "test_readme.py")  # last, it would leave a processor idle
    tables = {}
    for item in items:
        if item.get_closest_marker("share"):
            tables.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for cases in tables.values():
        (most,) = cases[0].get_closest_marker("share").args
        ordinary = [case for case in cases if not case.get_closest_marker("slow")]
        width = max(1, len(ordinary) // most)
        # Not in step with a table, and of one device and two replicas the replicas.
        kept = {len(ordinary) * i // most + (i + width // 2) % width for i in range(most)}
        for at, case in enumerate(ordinary):
            if at not in kept:
                case.add_marker(pytest.mark.slow)


# What is imported stays: a collection that walks over TensorFlow's modules takes a third of a second.
gc.freeze()


def make_strategy(replicas):
    return looplab.strategy.simulated(replicas) if replicas > 1 else "auto"


@pytest.fixture(params=[1, 2], ids=["one device", "two replicas"])
def strategy(request):
    """Every test of the step and the loop runs on one device and on two replicas."""
    return make_strategy(request.param)


# For tests whose subject is the same on one device: replicas are where more can go wrong.
on_two_replicas = pytest.mark.parametrize("strategy", [2], indirect=True, ids=["two replicas"])


@pytest.fixture(autouse=True)
def fresh_names():
    """Gives each test Keras' automatic names from the start, and back its global settings."""
    keras.backend.clear_session(free_memory=False)  # a collection before every test is minutes of a suite
    yield
    assert keras.config.floatx() == "float32", "a precision leaked out of its scope"


@pytest.fixture(autouse=True, scope="module")
def collected():
    """Clears away after each file: the garbage of many traces would be walked over again and again."""
    yield
    gc.collect()
    gc.freeze()  # what is left is left for good
