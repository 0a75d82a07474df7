"""Strategies by name and as objects: what each needs, and what is refused."""

import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab import strategy as replication
from looplab.errors import ConfigurationError
from looplab.protocols import HOST, TPU
from looplab.strategy import placement, precision


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_simulated_makes_as_many_replicas_as_asked(replicas):
    assert looplab.strategy.simulated(replicas).num_replicas_in_sync == replicas


@pytest.mark.parametrize(
    ("replicas", "devices", "where"),
    [(1, ["GPU:0"], "GPU:0"), (1, ["CPU:0"], "CPU:0"), (2, ["GPU:0", "GPU:1"], "CPU:0")],
)
def test_one_gpu_keeps_what_it_computes_with(replicas, devices, where):
    class Strategy:  # there is no GPU to make a real one of
        num_replicas_in_sync = replicas

        class extended:
            worker_devices = tuple(f"/job:localhost/replica:0/task:0/device:{device}" for device in devices)

    assert replication.home(Strategy()).endswith(where)
    assert replication.home(tf.distribute.get_strategy()) == "/CPU:0"
    assert replication.home(looplab.strategy.simulated(2)) == "/CPU:0"


def test_more_replicas_than_the_process_has_devices_come_too_late():
    with pytest.raises(ConfigurationError, match=r"64 simulated replicas need 64.*runs with 4.*at the start"):
        looplab.strategy.simulated(64)


@pytest.mark.parametrize("address", [None, "grpc://127.0.0.1:1"])
def test_tpu_says_what_is_missing(address):
    needed = r"tensorflow-tpu 2\.20\.0.*strategy\.address=NAME.*The reason given: "
    with pytest.raises(ConfigurationError, match=f"found no TPU at '{address or 'local'}'.*{needed}"):
        looplab.strategy.tpu(address)


def test_what_devices_can_do_goes_by_the_type_of_the_strategy():
    tpu = tf.distribute.TPUStrategy.__new__(
        tf.distribute.TPUStrategy
    )  # there is no TPU to make a real one of
    assert (placement.of(tpu), replication.kind(tpu)) == (TPU, "tpu")
    for strategy in tf.distribute.get_strategy(), looplab.strategy.simulated(2):
        assert (placement.of(strategy), replication.kind(strategy)) == (HOST, "host")
    assert [precision.check(name) for name in HOST.precisions] == list(HOST.precisions)
    assert {*TPU.precisions} < {*HOST.precisions}


def test_a_central_storage_strategy_is_refused():
    strategy = tf.distribute.experimental.CentralStorageStrategy(
        compute_devices=["/CPU:0", "/CPU:1"], parameter_device="/CPU:0"
    )
    with pytest.raises(ConfigurationError, match=r"CentralStorage.*refused.*Use 'mirrored'"):
        replication.build(strategy)


def test_several_workers_are_refused_and_one_is_not(monkeypatch):
    strategy = tf.distribute.MirroredStrategy(["/CPU:0"])  # a real cluster would wait for its workers
    for hosts, refused in ((1, False), (2, True)):
        spec = tf.train.ClusterSpec({"worker": [f"host{i}:1" for i in range(hosts)]})
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(spec)
        monkeypatch.setattr(type(strategy), "cluster_resolver", resolver, raising=False)
        if refused:
            with pytest.raises(ConfigurationError, match=r"with 2 workers is refused.*one host"):
                replication.build(strategy)
        else:
            assert replication.build(strategy) is strategy


def test_rows_of_a_replica_whose_number_is_a_tensor_have_a_static_length_and_compile():
    batch = np.arange(24, dtype="float32").reshape(8, 3)

    @tf.function(jit_compile=True)
    def piece(whole, part):
        found = replication.rows(whole, part, 4)
        assert found.shape == (2, 3)
        return found

    for part in range(4):
        found = piece(tf.constant(batch), tf.constant(part))
        np.testing.assert_array_equal(found, batch[2 * part : 2 * part + 2])
