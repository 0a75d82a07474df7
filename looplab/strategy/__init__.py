"""The distribution of a step over devices: `tf.distribute` strategies, rows of replicas, and collectives.

The batch of a step is always global. Each replica takes its own contiguous rows of it: 29 examples on two
replicas become 14 and 15. Batches are not padded, except on a TPU, and a replica may get no rows. The first
rows go to the first replica, so predictions concatenate in order.
"""

from looplab.strategy.batch_rows import (
    Padded,
    batch_size,
    concatenate,
    local_rows,
    padded,
    padded_size,
    place_of,
    rows,
    rows_held,
    rows_of,
    static_rows,
)
from looplab.strategy.collectives import (
    all_gather,
    average_parts,
    first,
    local_part,
    meets,
    reduce_sum,
    replicas,
    unwrapped,
)
from looplab.strategy.placement import kind
from looplab.strategy.strategies import build, describe, home, simulated, tpu

__all__ = [
    "Padded",
    "all_gather",
    "average_parts",
    "batch_size",
    "build",
    "concatenate",
    "describe",
    "first",
    "home",
    "kind",
    "local_part",
    "local_rows",
    "meets",
    "padded",
    "padded_size",
    "place_of",
    "reduce_sum",
    "replicas",
    "rows",
    "rows_held",
    "rows_of",
    "simulated",
    "static_rows",
    "tpu",
    "unwrapped",
]
