"""Limits on what a checkpoint may claim, since it may be untrusted or damaged.

Every number is far above what training writes. It is also low enough that a refusal takes seconds and at most
half a gigabyte. A run reads each checkpoint back at once, so a run beyond a limit ends at its first save, not
at a restart.
"""

from __future__ import annotations

import psutil

# An array takes about 260 bytes of a manifest. So there is space for 120,000 arrays, or for a million numbers
# in the states of callbacks. Keras' largest models have some thousand variables, an optimizer two or three
# for each.
MANIFEST = 32 * 2**20  # bytes
# The header of the arrays is shorter than the manifest: it has no digests and no indentation.
HEADER = MANIFEST
# An entry of an object may take a dozen bytes of JSON, and 250 bytes of memory while it is read.
VALUES = 2_000_000
# The parser and `nested.lower` recurse once per level, and Python allows a thousand nested calls.
DEPTH = 100
# The longest path to a variable; no path in Linux is longer.
NAME = 4096  # characters
# NumPy's limit; it also keeps the product of a shape from having millions of digits.
DIMENSIONS = 64
# The largest size, count of steps or offset: a signed 64-bit integer, as in TensorFlow.
INTEGER = 2**63 - 1


def memory() -> int:
    """Returns the most bytes of arrays to read: this machine's memory, even if a sparse file claims more."""
    return int(psutil.virtual_memory().total)
