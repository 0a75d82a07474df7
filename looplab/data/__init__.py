"""Where batches come from: arrays shuffled by index, streams, a trainer's own `make_batch`."""

from looplab.data.arrays import ArrayFeed
from looplab.data.digits import digits
from looplab.data.made import MadeFeed
from looplab.data.source import build_feed, epoch_length, first_batches, join, split_batch
from looplab.data.stream import StreamFeed

__all__ = [
    "ArrayFeed",
    "MadeFeed",
    "StreamFeed",
    "build_feed",
    "digits",
    "epoch_length",
    "first_batches",
    "join",
    "split_batch",
]
