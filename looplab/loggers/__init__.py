"""Where a run's records go: the JSON lines of record, TensorBoard, and the console."""

from looplab.loggers.console import Console, as_text
from looplab.loggers.history import History
from looplab.loggers.jsonl import JsonLines, read_records
from looplab.loggers.tensorboard import TensorBoard

__all__ = ["Console", "History", "JsonLines", "TensorBoard", "as_text", "read_records"]
