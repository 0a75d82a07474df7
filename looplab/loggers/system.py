"""Measures how much of the machine a run uses: CPU, memory, GPU."""

from __future__ import annotations

import time

import psutil

_SECONDS = 10.0  # between two samples: their cost does not depend on the number of steps


class System:
    """Samples the load of this process and its machine; on the host."""

    def __init__(self) -> None:
        """Starts to measure the processor's time."""
        self._process = psutil.Process()
        self._process.cpu_percent()  # the next call measures from here
        psutil.cpu_percent()
        self._sampled = time.monotonic()

    def sample(self) -> dict[str, float]:
        """Returns the load by name, or nothing if the last sample is less than ten seconds old.

        Percentages refer to the whole machine since the last sample; `system/process_cpu_percent` refers to
        one core (200 means two cores). A gigabyte is 10**9 bytes. The memory of a GPU is that of TensorFlow's
        tensors, now and at its peak since the process began.
        """
        now = time.monotonic()
        if now - self._sampled < _SECONDS:
            return {}
        self._sampled = now
        memory = psutil.virtual_memory()
        found = {
            "system/cpu_percent": psutil.cpu_percent(),
            "system/process_cpu_percent": self._process.cpu_percent(),
            "system/memory_percent": memory.percent,
            "system/process_memory_gigabytes": self._process.memory_info().rss / 1e9,
        }
        import tensorflow as tf  # a training process has loaded it already; readers of logs need not

        for index, _ in enumerate(tf.config.list_logical_devices("GPU")):
            used = tf.config.experimental.get_memory_info(f"GPU:{index}")
            found[f"system/gpu{index}_memory_gigabytes"] = used["current"] / 1e9
            found[f"system/gpu{index}_peak_memory_gigabytes"] = used["peak"] / 1e9
        return found
