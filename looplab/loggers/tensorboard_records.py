"""Encodes the scalars of many steps as bytes of an event file, all at once.

Written one by one, an event costs 15 microseconds, half of them for a checksum that Python computes byte by
byte; a small step takes about as long. Here the events of many steps, which differ only in step and values,
are rows of one array: 0.2 microseconds per event for 3000 events.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import CRC_TABLE, masked_crc32c

_TABLE = np.array(CRC_TABLE, np.uint32)
_STEP = 10  # the offset of the step's number: after the wall time and the tag of the step


def scalars(steps: NDArray[np.int64], wall_time: float, values: Mapping[str, NDArray[np.float64]]) -> bytes:
    """Returns one record for each step, as `RecordWriter` would write it.

    Args:
        steps: Increasing step numbers, from 1, shape `[n]`.
        wall_time: The wall time of all records.
        values: Arrays of shape `[n]`, by tag.
    """
    with np.errstate(over="ignore"):  # an overflow gives infinity, as in a protocol message
        columns = {tag: series.astype("<f4") for tag, series in values.items()}
    ends = [int(np.searchsorted(steps, 1 << bits)) for bits in range(7, 63, 7)]
    found, begin = [], 0
    for end in [*ends, len(steps)]:  # these step numbers take the same number of bytes, so do the rows
        if begin < end:
            rows = {tag: series[begin:end] for tag, series in columns.items()}
            found.append(_records(_events(steps[begin:end], wall_time, rows)))
            begin = end
    return b"".join(found)


def _events(
    steps: NDArray[np.int64], wall_time: float, values: Mapping[str, NDArray[np.float32]]
) -> NDArray[np.uint8]:
    """Returns the messages as rows: copies of the first message with the values of the others."""
    entries = [summary_pb2.Summary.Value(tag=tag, simple_value=0.0) for tag in values]
    summary = summary_pb2.Summary(value=entries)
    first = event_pb2.Event(wall_time=wall_time, step=int(steps[0]), summary=summary)
    message = np.frombuffer(first.SerializeToString(), np.uint8)
    rows = np.tile(message, (len(steps), 1))
    numbers, place = steps.copy(), _STEP
    while numbers[0]:  # seven bits in each byte; the eighth bit tells whether another byte follows
        more = 0x80 if numbers[0] >= 0x80 else 0
        rows[:, place] = (numbers & 0x7F) | more
        numbers >>= 7
        place += 1
    end = len(message)
    for entry, series in zip(reversed(entries), reversed(list(values.values())), strict=True):
        rows[:, end - 4 : end] = series.reshape(-1, 1).view(np.uint8)  # the value is the end of its entry
        end -= summary_pb2.Summary(value=[entry]).ByteSize()
    return rows


def _records(rows: NDArray[np.uint8]) -> bytes:
    """Returns messages of equal length as records: length, its checksum, message, its checksum."""
    length = struct.pack("<Q", rows.shape[1])
    header = np.frombuffer(length + struct.pack("<I", masked_crc32c(length)), np.uint8)
    checks = _masked_crc32c(rows).astype("<u4").reshape(-1, 1).view(np.uint8)
    return np.concatenate([np.tile(header, (len(rows), 1)), rows, checks], axis=1).tobytes()


def _masked_crc32c(rows: NDArray[np.uint8]) -> NDArray[np.uint32]:
    checks = np.full(len(rows), 0xFFFFFFFF, np.uint32)
    for column in np.ascontiguousarray(rows.T):
        checks = _TABLE[(checks ^ column) & 0xFF] ^ (checks >> 8)
    checks ^= np.uint32(0xFFFFFFFF)
    turned = (checks >> np.uint32(15)) | (checks << np.uint32(17))
    return np.add(turned, 0xA282EAD8, dtype=np.uint32)
