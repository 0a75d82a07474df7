"""Options of TensorFlow's devices: memory, arithmetic, determinism and threads, for the whole process.

TensorFlow creates its devices at the first operation and fixes memory growth and threads then. Call
`configure` at the start of a program. Memory growth was never tried on a real GPU.
"""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import config as _config  # no public function reports determinism

from looplab.errors import ConfigurationError
from looplab.options import bounds

_started_in: int | None = None  # the process that created the first trainer


def configure(
    *,
    memory_growth: bool | None = None,
    tf32: bool = True,
    deterministic: bool = False,
    intra_threads: int | None = None,
    inter_threads: int | None = None,
) -> None:
    """Sets options of all devices of this process; call it eagerly, before any TensorFlow operation.

    Args:
        memory_growth: Whether TensorFlow takes a GPU's memory as it is needed, instead of all at the start.
            None turns it on, except for GPUs that are in use already.
        tf32: Whether GPUs of the Ampere generation and later round float32 products to TensorFloat-32, which
            has 10 bits of mantissa. TensorFlow's default is on; turn it off to compare a GPU with a CPU. It
            can be changed at any time.
        deterministic: Whether every operation gives the same bits each time, on GPUs too. Operations on GPUs
            and in `tf.data` become slower (a parallel map may become serial), and an operation without a
            deterministic form raises `UnimplementedError`. It can be turned on at any time; False does not
            turn it off, because TensorFlow cannot.
        intra_threads: The number of threads that share one operation, from 1 to 1024; None for TensorFlow's
            choice.
        inter_threads: The number of operations that run at once, from 1 to 1024; None for TensorFlow's
            choice.

    Raises:
        ConfigurationError: If a number of threads is out of range, or if TensorFlow already runs with other
            settings, which it cannot change now.
    """
    for name, threads in (("intra_threads", intra_threads), ("inter_threads", inter_threads)):
        if threads is not None:
            bounds.whole(f"devices.{name}", threads, bounds.THREADS)
    _grow(memory_growth)
    if intra_threads is not None:
        _in_time("intra_threads", intra_threads, tf.config.threading.set_intra_op_parallelism_threads)
    if inter_threads is not None:
        _in_time("inter_threads", inter_threads, tf.config.threading.set_inter_op_parallelism_threads)
    tf.config.experimental.enable_tensor_float_32_execution(tf32)
    if deterministic:
        tf.config.experimental.enable_op_determinism()


def facts() -> dict[str, Any]:
    """Returns the present options by name, for `environment.json`.

    Returns:
        A value for each argument of `configure`; None is TensorFlow's choice.
    """
    gpus = tf.config.list_physical_devices("GPU")
    growth = {bool(tf.config.experimental.get_memory_growth(gpu)) for gpu in gpus}
    return {
        "memory_growth": growth.pop() if len(growth) == 1 else None,
        "tf32": tf.config.experimental.tensor_float_32_execution_enabled(),
        "deterministic": _config.is_op_determinism_enabled(),
        "intra_threads": tf.config.threading.get_intra_op_parallelism_threads() or None,
        "inter_threads": tf.config.threading.get_inter_op_parallelism_threads() or None,
    }


def _grow(asked: bool | None) -> None:
    for gpu in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(gpu, asked is not False)
        except RuntimeError:
            if asked is not None:
                raise _too_late("memory_growth", asked) from None
        except ValueError as error:  # it has logical devices, or another kind
            if asked is not None:
                raise ConfigurationError(f"devices.memory_growth: {gpu.name}: {error}") from None


def _in_time(name: str, value: int, setter: Any) -> None:
    try:
        setter(value)
    except RuntimeError:
        raise _too_late(name, value) from None


def _too_late(name: str, value: Any) -> ConfigurationError:
    return ConfigurationError(
        f"devices.{name}: {value} comes too late: TensorFlow runs already, with {facts()[name]}, and fixes "
        f"this when it creates its devices. Call looplab.devices.configure({name}={value}) at the start of "
        "the program, before any TensorFlow operation, or leave it out (null)."
    )


def refuse_fork() -> None:
    """Refuses a process that was forked after a trainer had started TensorFlow.

    Raises:
        ConfigurationError: If this process is such a fork. TensorFlow would wait for ever for threads that a
            fork does not have.
    """
    global _started_in
    _started_in = _started_in or os.getpid()
    if _started_in != os.getpid():
        raise ConfigurationError(
            f"this process was forked from process {_started_in}, in which TensorFlow was running, and has "
            "none of its threads: its first operation would wait for ever. Start a new process instead: "
            "multiprocessing.get_context('spawn'), or subprocess."
        )
