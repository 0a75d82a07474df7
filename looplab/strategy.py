"""Building `tf.distribute` strategies, and what a step needs of them: slice, reduce, gather.

The batch of a step is always global. Each replica takes its own contiguous rows of it: with 29
examples on two replicas 14 and 15, never padded, and a replica may be left with none. The first
rows go to the first replica, so predictions concatenate in order.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import keras
import tensorflow as tf

from looplab import tree
from looplab.errors import ConfigurationError, nearest

_NAMES = ("auto", "one_device", "mirrored", "simulated", "tpu")


def build(strategy: str | tf.distribute.Strategy) -> tf.distribute.Strategy:
    """Makes the strategy that a trainer was given by name, or takes an object as it is.

    Args:
        strategy: `"auto"` (all GPUs if there are several, else the one device there is),
            `"one_device"`, `"mirrored"` (all GPUs), `"simulated"` (two replicas; see `simulated`),
            `"tpu"` (that of this machine; see `tpu`), or a `tf.distribute.Strategy`.

    Raises:
        ConfigurationError: For another name, or a strategy looplab cannot train exactly under.
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
        f"strategy: {strategy!r} is not one of {', '.join(_NAMES)} or a tf.distribute.Strategy."
        + nearest(str(strategy), _NAMES)
    )


def _exact(strategy: tf.distribute.Strategy) -> tf.distribute.Strategy:
    """Returns a strategy as it is, unless looplab cannot train exactly under it."""
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
    """Returns how many processes train together under a strategy that knows its cluster; else 1."""
    resolver = getattr(strategy, "cluster_resolver", None)
    if resolver is None or isinstance(strategy, tf.distribute.TPUStrategy):  # whose hosts it feeds itself
        return 1
    jobs = resolver.cluster_spec().as_dict()
    return max(1, sum(len(jobs.get(job, ())) for job in ("chief", "worker")))


def tpu(address: str | None = None) -> tf.distribute.Strategy:
    """Connects to a TPU, initializes it and makes the strategy of all its cores.

    looplab was never run on a TPU. Known limits: batches must be of one size that the replicas share
    evenly, and steps run compiled, in float32 or mixed_bfloat16 (`looplab.combinations`).

    Args:
        address: A TPU's name or `grpc://` address; None for that of this machine.

    Raises:
        ConfigurationError: If there is none, or TensorFlow was built without support for it.
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
            f"in the place of tensorflow (here {tf.__version__}; the plain package cannot use its TPUs), or "
            f"strategy.address=NAME of one elsewhere. The reason given: {reason}"
        ) from None


def _reach(address: str) -> None:
    """Raises an `OSError` or `ValueError` if nothing answers at a `grpc://host:port` address."""
    where = urlsplit(address)
    socket.create_connection((where.hostname or "", where.port or 8470), timeout=30).close()


def kind(strategy: tf.distribute.Strategy) -> str:
    """Returns `"tpu"`, or `"host"` for every other strategy; see `looplab.combinations`."""
    return "tpu" if isinstance(strategy, tf.distribute.TPUStrategy) else "host"


def home(strategy: tf.distribute.Strategy) -> str:
    """Returns where arrays in memory are best kept: on the GPU, where one alone computes, or the host."""
    if strategy.num_replicas_in_sync > 1 or kind(strategy) == "tpu":
        return "/CPU:0"
    if _is_default(strategy):
        return "/GPU:0" if tf.config.list_logical_devices("GPU") else "/CPU:0"
    (device,) = strategy.extended.worker_devices
    return str(device) if tf.DeviceSpec.from_string(device).device_type == "GPU" else "/CPU:0"


def _is_default(strategy: tf.distribute.Strategy) -> bool:
    return strategy is tf.distribute.get_strategy() and not tf.distribute.has_strategy()


def simulated(replicas: int) -> tf.distribute.Strategy:
    """Makes a strategy of several replicas on logical devices of the CPU.

    It computes what as many GPUs would compute, so a step can be tested before it meets them; it is
    not faster. TensorFlow fixes its devices at first use, so make it before anything else runs.

    Args:
        replicas: Number of replicas, at least 1.

    Raises:
        ConfigurationError: If TensorFlow already runs with fewer logical CPU devices.
    """
    if replicas < 1:
        raise ConfigurationError(f"strategy: replicas must be at least 1, got {replicas}.")
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
    """Returns the strategy in words: kind, replicas, devices."""
    replicas = strategy.num_replicas_in_sync
    if _is_default(strategy):
        gpu = tf.config.list_logical_devices("GPU")
        return f"one device ({'GPU' if gpu else 'CPU'})"
    devices = ", ".join(d.split("device:")[-1] for d in strategy.extended.worker_devices)
    plural = "s" if replicas > 1 else ""
    return f"{type(strategy).__name__}, {replicas} replica{plural} ({devices})"


class Padded(NamedTuple):
    """A batch, or a replica's piece of one, of a fixed size, of which only the first rows are examples.

    Attributes:
        rows: Nested structure of tensors; what follows the examples repeats the last one.
        examples: Scalar int32, how many rows are examples.
    """

    rows: Any
    examples: tf.Tensor

    def valid(self) -> tf.Tensor:
        """Returns which rows are examples, bool of shape `[rows]`."""
        return tf.range(self.size) < self.examples

    @property
    def size(self) -> int:
        """The number of rows."""
        return int(tree.first(self.rows).shape[0])


def padded(batch: Any, size: int) -> Padded:
    """Returns a batch with as many rows as `size`, at least its own; on the host, before replicas."""
    examples = batch_size(batch)
    index = tf.minimum(tf.range(size), examples - 1)
    return Padded(tree.map_structure(lambda part: tf.gather(part, index), batch), examples)


def padded_size(strategy: tf.distribute.Strategy, rows: int | None, largest: int | None) -> int | None:
    """Returns the size that batches are padded to; None where they are taken as they are.

    A TPU compiles a step for one size, and its replicas run the same program. Elsewhere nothing is padded.

    Args:
        strategy: Where the step runs.
        rows: The size of every batch, or None if they differ; see `static_rows`.
        largest: The size of the largest batch.
    """
    replicas = strategy.num_replicas_in_sync
    if kind(strategy) != "tpu" or (rows is not None and rows % replicas == 0):
        return None
    assert largest is not None  # looplab.combinations.check_rows
    return -(-largest // replicas) * replicas


def batch_size(batch: Any) -> tf.Tensor:
    """Returns the number of examples in a batch, a scalar int32: the length of its first axis."""
    if isinstance(batch, Padded):
        return batch.examples
    return tf.shape(tree.first(batch))[0]


def rows_held(batch: Any, replicas: int) -> list[tf.Tensor]:
    """Returns how many examples of a global batch each replica holds, scalars of int32."""
    size = batch_size(batch)
    if isinstance(batch, Padded):
        length = batch.size // replicas
        return [tf.clip_by_value(size - index * length, 0, length) for index in range(replicas)]
    return [(index + 1) * size // replicas - index * size // replicas for index in range(replicas)]


def static_rows(spec: Any) -> int | None:
    """Returns the number of examples of every batch of a spec, or None if it is not fixed."""
    shape = tree.first(spec).shape
    return shape[0] if shape.rank else None


def rows(batch: Any, part: int | tf.Tensor, parts: int) -> Any:
    """Returns the `part`-th of `parts` contiguous, nearly equal pieces of a batch's rows.

    Args:
        batch: Nested structure of tensors that share their first axis.
        part: Which piece, from 0.
        parts: How many pieces; their lengths differ by one at most, and are 0 only where there are
            fewer rows than pieces.
    """
    if parts == 1:
        return batch
    if isinstance(batch, Padded):
        length = batch.size // parts
        return Padded(
            rows(batch.rows, part, parts), tf.clip_by_value(batch.examples - part * length, 0, length)
        )
    static = tree.first(batch).shape[0]
    if static is not None and static % parts == 0 and not isinstance(part, int):
        return tree.map_structure(lambda x: _piece(x, part, parts), batch)
    size = batch_size(batch) if static is None else static
    first, last = part * size // parts, (part + 1) * size // parts
    return tree.map_structure(lambda x: x[first:last], batch)


def _piece(tensor: tf.Tensor, part: tf.Tensor, parts: int) -> tf.Tensor:
    """Returns one of several pieces of equal length; that is static though `part` is not, as XLA needs it."""
    length = tensor.shape[0] // parts
    return tf.reshape(tensor, tf.concat([[parts, length], tf.shape(tensor)[1:]], axis=0))[part]


def local_rows(batch: Any) -> Any:
    """Returns this replica's rows of the global batch; inside `strategy.run`."""
    context = _replica_context()
    if context is None:
        return batch
    # A tensor under some strategies, an int under MirroredStrategy, where it can be constant.
    index = tf.get_static_value(context.replica_id_in_sync_group)
    part = context.replica_id_in_sync_group if index is None else int(index)
    return rows(batch, part, context.num_replicas_in_sync)


def average_parts(parts: Sequence[tf.Variable], held: Sequence[tf.Tensor]) -> None:
    """Sets what each replica holds of a variable to the mean of all, weighted by their rows.

    Outside of replicas, after a step. What a replica without rows holds may be NaN and counts for nothing.

    Args:
        parts: The variable of each replica.
        held: How many rows each replica had; see `rows_held`.
    """
    values = [part.read_value() for part in parts]
    size = tf.add_n(list(held))
    shares = [tf.cast(rows, value.dtype) for rows, value in zip(held, values, strict=True)]
    # From the last replica's, which has rows if any has: equal values stay what they are, to the bit.
    change = tf.add_n(
        [tf.math.multiply_no_nan(v - values[-1], share) for v, share in zip(values, shares, strict=True)]
    )
    mean = values[-1] + change / tf.cast(size, change.dtype)
    for part in parts:
        part.assign(mean)


def reduce_sum(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """Sums each tensor over the replicas; every replica gets the result. Inside `strategy.run`.

    Outside of a replica (one device, or while a step is only looked at) it changes nothing.
    """
    context = _replica_context()
    if context is None or context.num_replicas_in_sync == 1 or not tensors:
        return list(tensors)
    return list(context.all_reduce(tf.distribute.ReduceOp.SUM, list(tensors)))


def all_gather(tensor: tf.Tensor) -> tf.Tensor:
    """Concatenates a tensor's rows over the replicas; gradients flow back. Inside `strategy.run`.

    Args:
        tensor: Shape `[local, ...]`; `local` may differ between replicas.

    Returns:
        Shape `[global, ...]`, the same on every replica, in the order of the global batch.
    """
    context = _replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return tensor
    return context.all_gather(tensor, axis=0)


def replicas() -> int:
    """Returns the number of replicas in the running step."""
    context = _replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def meets() -> bool:
    """Whether the running step's replicas (or the only one) are threads that wait for each other."""
    threaded = tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy
    return isinstance(tf.distribute.get_strategy(), threaded)


def local_part(variable: Any) -> tf.Variable:
    """Returns what this replica holds of a variable; inside `strategy.run`.

    Writing to it writes to this replica only.
    """
    context = _replica_context()
    if context is None:
        return variable
    parts = context.strategy.experimental_local_results(variable)
    return parts[int(tf.get_static_value(context.replica_id_in_sync_group)) % len(parts)]


def concatenate(strategy: tf.distribute.Strategy, value: Any) -> Any:
    """Joins per-replica results row by row; in cross-replica context, eagerly or in a function."""
    if strategy.num_replicas_in_sync == 1:
        return value
    return tree.map_structure(lambda v: tf.concat(strategy.experimental_local_results(v), axis=0), value)


def first(strategy: tf.distribute.Strategy, value: Any) -> Any:
    """Takes the first replica's results of values that are the same on every replica."""
    return tree.map_structure(lambda v: strategy.experimental_local_results(v)[0], value)


def _replica_context() -> Any:
    return tf.distribute.get_replica_context()


def unwrapped(variable: Any) -> Any:
    """Returns the variable of TensorFlow in one of Keras; any other as it is."""
    return variable.value if isinstance(variable, keras.Variable) else variable
