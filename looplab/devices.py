"""Options of TensorFlow's devices: memory, arithmetic, determinism, threads. Global to the process.

TensorFlow makes its devices at the first operation and fixes memory growth and threads then, so
`configure` comes first in a program. Memory growth was never tried on a real GPU.
"""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import config as _config  # only it tells whether determinism is on

from looplab.errors import ConfigurationError
from looplab.options import bounds

_started_in: int | None = None  # the process that has made a trainer first


def configure(
    *,
    memory_growth: bool | None = None,
    tf32: bool = True,
    deterministic: bool = False,
    intra_threads: int | None = None,
    inter_threads: int | None = None,
) -> None:
    """Sets options of all devices of this process; on the host, before any operation of TensorFlow.

    Args:
        memory_growth: Whether a GPU's memory is taken as it is needed, not all at the start. None is on,
            but leaves GPUs that are in use already as they are.
        tf32: Whether float32 products of GPUs that can (Ampere and later) are rounded to TensorFloat-32,
            10 bits of mantissa, several times faster. TensorFlow's default is on; turn it off to compare
            a GPU with a CPU. Works at any time.
        deterministic: Whether every operation gives the same bits each time, also on GPUs. It costs speed,
            on GPUs and in `tf.data` (a parallel map may become serial), and operations without a
            deterministic form raise `UnimplementedError`. False leaves on what is on: TensorFlow cannot
            take it back. Works at any time, for what runs from then on.
        intra_threads: Threads that share one operation; None for as many as TensorFlow chooses.
        inter_threads: Operations that run at once; None for as many as TensorFlow chooses.

    Raises:
        ConfigurationError: If TensorFlow already runs with other settings, which it cannot change now.
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
    """Returns the options as they are now, for `environment.json`; None is TensorFlow's choice."""
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
        except ValueError as error:  # logical devices were made of it, or it is of another kind
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
        f"this when it makes its devices. Call looplab.devices.configure({name}={value}) at the start of the "
        "program, before any TensorFlow operation, or leave it out (null)."
    )


def refuse_fork() -> None:
    """Refuses to go on in a process that was forked from one in which a trainer had started TensorFlow.

    Raises:
        ConfigurationError: If this is one: it would wait for ever for threads that it does not have.
    """
    global _started_in
    _started_in = _started_in or os.getpid()
    if _started_in != os.getpid():
        raise ConfigurationError(
            f"this process was forked from process {_started_in}, in which TensorFlow had been started, and "
            "has none of its threads: its first operation would wait for ever. Start it anew instead: "
            "multiprocessing.get_context('spawn'), or subprocess."
        )
