"""Creates `tf.distribute` strategies by name, and describes them."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import tensorflow as tf

from looplab.errors import ConfigurationError, nearest
from looplab.options import bounds
from looplab.options.distribution import STRATEGIES
from looplab.strategy import placement


def build(strategy: str | tf.distribute.Strategy) -> tf.distribute.Strategy:
    """Creates a strategy by name, or returns a strategy object unchanged.

    Args:
        strategy: `"auto"` (all GPUs if there are several, otherwise the only device), `"one_device"`,
            `"mirrored"` (all GPUs), `"simulated"` (two replicas; see `simulated`), `"tpu"` (the TPU of this
            machine; see `tpu`), or a `tf.distribute.Strategy`.

    Raises:
        ConfigurationError: For another name, or a strategy under which looplab cannot train exactly.
    """
    if isinstance(strategy, tf.distribute.Strategy):
        return _exact(strategy)
    if strategy == "auto":
        several = len(tf.config.list_logical_devices("GPU")) > 1
        return tf.distribute.MirroredStrategy() if several else tf.distribute.get_strategy()
    if strategy == "one_device":
        gpu = tf.config.list_logical_devices("GPU")
        return tf.distribute.OneDeviceStrategy("/GPU:0" if gpu else "/CPU:0")
    if strategy == "mirrored":
        if not tf.config.list_logical_devices("GPU"):
            raise ConfigurationError(
                "strategy: 'mirrored' needs GPUs, and TensorFlow sees none here. Use 'auto', or "
                "'simulated' to try several replicas on the CPU."
            )
        return tf.distribute.MirroredStrategy()
    if strategy == "simulated":
        return simulated(2)
    if strategy == "tpu":
        return tpu()
    raise ConfigurationError(
        f"strategy: {strategy!r} is not one of {', '.join(STRATEGIES)} or a tf.distribute.Strategy."
        + nearest(str(strategy), STRATEGIES)
    )


def _exact(strategy: tf.distribute.Strategy) -> tf.distribute.Strategy:
    """Returns a strategy unchanged, or refuses one under which looplab cannot train exactly."""
    name = type(strategy).__name__
    if isinstance(strategy, tf.distribute.experimental.ParameterServerStrategy):
        raise ConfigurationError(
            f"strategy: {name} is refused: with Keras 3 it loses updates (variables are written as "
            "assign(value + delta)). Use 'mirrored'."
        )
    if isinstance(strategy, tf.distribute.experimental.CentralStorageStrategy):
        raise ConfigurationError(
            f"strategy: {name} is refused: its replicas write to variables that they share, which looplab's "
            "update does not do. Use 'mirrored', or 'one_device'."
        )
    workers = _workers(strategy)
    if workers > 1:
        raise ConfigurationError(
            f"strategy: {name} with {workers} workers is refused: looplab trains on one host; its data, "
            "checkpoints and logs are not shared between processes yet. Use 'mirrored' on one host."
        )
    return strategy


def _workers(strategy: tf.distribute.Strategy) -> int:
    """Returns the number of processes in a strategy's cluster; 1 if it has none."""
    resolver = getattr(strategy, "cluster_resolver", None)
    if resolver is None or placement.of(strategy).one_process:
        return 1
    jobs = resolver.cluster_spec().as_dict()
    return max(1, sum(len(jobs.get(job, ())) for job in ("chief", "worker")))


def tpu(address: str | None = None) -> tf.distribute.Strategy:
    """Connects to a TPU, initializes it and creates the strategy of all its cores.

    looplab was never run on a TPU. Known limits: all batches must have one size that the replicas share
    evenly, and steps run compiled, in float32 or mixed_bfloat16 (`looplab.options.compatibility`).

    Args:
        address: A TPU's name or `grpc://` address; None for the TPU of this machine.

    Raises:
        ConfigurationError: If there is no TPU, or TensorFlow was built without support for it.
    """
    address = address or "local"
    try:
        if address.startswith("grpc://"):
            _reach(address)  # TensorFlow would wait for ever
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=address)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (ValueError, RuntimeError, ImportError, OSError, tf.errors.OpError) as error:
        reason = str(error).strip().split("\n")[0][:300]
        raise ConfigurationError(
            f"strategy: 'tpu' found no TPU at {address!r}. It needs a TPU machine with tensorflow-tpu 2.20.0 "
            f"instead of tensorflow (here {tf.__version__}; the plain package cannot use its TPUs), or "
            f"strategy.address=NAME of a TPU elsewhere. The reason given: {reason}"
        ) from None


def _reach(address: str) -> None:
    """Raises an `OSError` or `ValueError` if nothing answers at a `grpc://host:port` address."""
    where = urlsplit(address)
    socket.create_connection((where.hostname or "", where.port or 8470), timeout=30).close()


def home(strategy: tf.distribute.Strategy) -> str:
    """Returns the best device for arrays in memory: the GPU if a single one computes, otherwise the host."""
    if strategy.num_replicas_in_sync > 1 or not placement.of(strategy).can_gather:
        return "/CPU:0"
    if _is_default(strategy):
        return "/GPU:0" if tf.config.list_logical_devices("GPU") else "/CPU:0"
    (device,) = strategy.extended.worker_devices
    return str(device) if tf.DeviceSpec.from_string(device).device_type == "GPU" else "/CPU:0"


def _is_default(strategy: tf.distribute.Strategy) -> bool:
    return strategy is tf.distribute.get_strategy() and not tf.distribute.has_strategy()


def simulated(replicas: int) -> tf.distribute.Strategy:
    """Creates a strategy of several replicas on logical devices of the CPU.

    It computes what the same number of GPUs would compute, so a step can be tested without them; it is not
    faster. TensorFlow fixes its devices at first use, so call it before anything else runs.

    Args:
        replicas: The number of replicas, at least 1.

    Raises:
        ConfigurationError: If TensorFlow already runs with fewer logical CPU devices.
    """
    replicas = bounds.whole("strategy.replicas", replicas, bounds.REPLICAS)
    cpu = tf.config.list_physical_devices("CPU")[0]
    if len(tf.config.get_logical_device_configuration(cpu) or ()) < replicas:
        devices = [tf.config.LogicalDeviceConfiguration() for _ in range(replicas)]
        try:
            tf.config.set_logical_device_configuration(cpu, devices)
        except RuntimeError:
            have = len(tf.config.list_logical_devices("CPU"))
            raise ConfigurationError(
                f"strategy: {replicas} simulated replicas need {replicas} logical CPU devices, but "
                f"TensorFlow already runs with {have}. Call looplab.strategy.simulated({replicas}) "
                "at the start of the program, before any TensorFlow operation."
            ) from None
    return tf.distribute.MirroredStrategy(
        [f"/CPU:{index}" for index in range(replicas)],
        # A second collective-based strategy in one process fails on CPU (different input shapes).
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


def describe(strategy: tf.distribute.Strategy) -> str:
    """Returns a description of the strategy: kind, replicas, devices."""
    replicas = strategy.num_replicas_in_sync
    if _is_default(strategy):
        gpu = tf.config.list_logical_devices("GPU")
        return f"one device ({'GPU' if gpu else 'CPU'})"
    devices = ", ".join(d.split("device:")[-1] for d in strategy.extended.worker_devices)
    plural = "s" if replicas > 1 else ""
    return f"{type(strategy).__name__}, {replicas} replica{plural} ({devices})"


def belongs_here(variables: Iterable[Any]) -> bool:
    """Whether the current strategy scope may use these Keras variables."""
    strategy = tf.distribute.get_strategy()
    return not tf.distribute.has_strategy() or all(
        strategy.extended.variable_created_in_scope(variable.value) for variable in variables
    )
