"""How much a checkpoint may say before it is believed: it may be somebody else's, or damaged.

Every number is far above what training writes, and low enough that refusing takes seconds and at most half a
gigabyte. What a run saves is read again at once, so a run beyond a limit ends at its first save, not at a
restart.
"""

from __future__ import annotations

import psutil

# An array takes about 260 bytes of a manifest: room for 120,000, or for a million numbers in what callbacks
# keep. Keras' largest models have some thousand variables, an optimizer two or three for each.
MANIFEST = 32 * 2**20  # bytes
# The header of the arrays says less of each than the manifest does: no digest, no indentation.
HEADER = MANIFEST
# An entry of an object may take a dozen bytes of JSON and 250 of memory while it is read.
VALUES = 2_000_000
# The parser and `nested.lower` call themselves for each level, and Python allows a thousand calls.
DEPTH = 100
# Of a path to a variable; no path of Linux is longer.
NAME = 4096  # characters
# What NumPy takes; also keeps the product of a shape from being a number of millions of digits.
DIMENSIONS = 64
# What a size, a count of steps or an offset may be: a signed 64-bit integer, as in TensorFlow.
INTEGER = 2**63 - 1


def memory() -> int:
    """Returns how many bytes of arrays may be read: this machine's memory, whatever a sparse file says."""
    return int(psutil.virtual_memory().total)
