"""Loggers write the records of a run: JSON lines, TensorBoard, the console, tables, trackers."""

from looplab.loggers.background import Background
from looplab.loggers.console import Console
from looplab.loggers.csv_table import Csv
from looplab.loggers.curves import escaped
from looplab.loggers.guarded import Guarded
from looplab.loggers.history import History
from looplab.loggers.jsonl import JsonLines, in_json
from looplab.loggers.mlflow import MLflow
from looplab.loggers.records_file import METRICS, mend, read_records
from looplab.loggers.tensorboard import TensorBoard
from looplab.loggers.text import as_text, summary_text
from looplab.loggers.wandb import WandB

__all__ = [
    "METRICS",
    "Background",
    "Console",
    "Csv",
    "Guarded",
    "History",
    "JsonLines",
    "MLflow",
    "TensorBoard",
    "WandB",
    "as_text",
    "escaped",
    "in_json",
    "mend",
    "read_records",
    "summary_text",
]
