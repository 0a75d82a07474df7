"""Sources of batches: arrays and files read by index, streams, and batches from a trainer's `make_batch`."""

from looplab.data.adapters import Source, as_source, register_adapter
from looplab.data.class_names import training_table, with_classes
from looplab.data.digits import digits
from looplab.data.feeds import (
    build_feed,
    epoch_length,
    first_batches,
    join,
    split_and_weigh,
    split_batch,
    within_a_pass,
)
from looplab.data.folds import hold_out
from looplab.data.generated_feed import GeneratedFeed
from looplab.data.images import image_folder
from looplab.data.indexed_feed import IndexedFeed
from looplab.data.inspection import look
from looplab.data.labels import check_labels
from looplab.data.read_errors import explained
from looplab.data.records import records
from looplab.data.stream import StreamFeed
from looplab.data.table import table
from looplab.data.tensorflow_datasets import tfds
from looplab.data.validation import Validation, splits, validation_sets

__all__ = [
    "GeneratedFeed",
    "IndexedFeed",
    "Source",
    "StreamFeed",
    "Validation",
    "as_source",
    "build_feed",
    "check_labels",
    "digits",
    "epoch_length",
    "explained",
    "first_batches",
    "hold_out",
    "image_folder",
    "join",
    "look",
    "records",
    "register_adapter",
    "split_and_weigh",
    "split_batch",
    "splits",
    "table",
    "tfds",
    "training_table",
    "validation_sets",
    "with_classes",
    "within_a_pass",
]
