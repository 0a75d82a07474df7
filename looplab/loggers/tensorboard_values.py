"""Builds the messages for TensorBoard's pages: hyperparameters, layouts, graphs, scalars, media.

It uses TensorBoard's own messages, because TensorFlow's summary writers raise on a thread of their own if a
disk is full.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from tensorboard.compat.proto import summary_pb2
from tensorboard.compat.tensorflow_stub import dtypes
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar
from tensorboard.plugins.histogram import metadata as histograms
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2, summary_v2
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.plugins.image import metadata as images
from tensorboard.plugins.pr_curve import metadata as pr_curves
from tensorboard.plugins.text import metadata as texts
from tensorboard.util import tensor_util

from looplab.loggers import tensorboard_overview as overview
from looplab.loggers.hyperparameters import as_text, flat
from looplab.protocols import Media

Value: TypeAlias = Any  # a summary_pb2.Summary.Value; its class is untyped

_BINS = 30  # the bins of a histogram, as in TensorBoard's own
_MOST_OPERATIONS = 20_000  # the most operations of a graph: a page with more does not open
_LONGEST_CONSTANT = 1024  # the most bytes of a constant in a graph
_SECONDS = r"time/(?!\w+_(per_second|share)$).*"  # tags, as a regular expression


def scalar(tag: str, value: float) -> Value:
    """Returns one point of a curve."""
    return summary_pb2.Summary.Value(tag=tag, simple_value=value)


def hyperparameters(given: Mapping[str, Any]) -> list[Value]:
    """Returns the run's row in the table of hyperparameters, and all hyperparameters as a text.

    Args:
        given: The hyperparameters, nested, by name.
    """
    (row,) = summary_v2.hparams_pb(flat(given)).value
    return [row, _text("configuration", f"```yaml\n{as_text(given)}\n```")]


def session_end(well: bool) -> Value:
    """Returns the entry that ends the run's row."""
    status = api_pb2.STATUS_SUCCESS if well else api_pb2.STATUS_FAILURE
    info = plugin_data_pb2.SessionEndInfo(status=status)
    content = plugin_data_pb2.HParamsPluginData(session_end_info=info)
    return summary_pb2.Summary.Value(
        tag=hparams.SESSION_END_INFO_TAG,
        metadata=hparams.create_summary_metadata(content),
        tensor=hparams.NULL_TENSOR,
    )


def layout(charts: Mapping[str, Mapping[str, str]]) -> Value:
    """Returns the page of custom scalars; each chart has the curves of all splits.

    Args:
        charts: For each heading, the tag of each chart by its title.
    """
    categories = [
        layout_pb2.Category(
            title=heading, chart=[_chart(title, re.escape(tag)) for title, tag in tags.items()]
        )
        for heading, tags in charts.items()
        if tags
    ]
    categories.append(layout_pb2.Category(title="Time", chart=[_chart("seconds of each epoch", _SECONDS)]))
    content = layout_pb2.Layout(category=categories)
    return summary_pb2.Summary.Value(
        tag=custom_scalar.CONFIG_SUMMARY_TAG,
        metadata=custom_scalar.create_summary_metadata(),
        tensor=tensor_util.make_tensor_proto(content.SerializeToString(), dtype=dtypes.string),
    )


def _chart(title: str, tag: str) -> Any:
    return layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=[f"^{tag}$"]))


def graph(traced: Any) -> bytes | None:
    """Returns a `tf.Graph` for TensorBoard, without long constants; None if it is too large."""
    if len(traced.get_operations()) > _MOST_OPERATIONS:
        return None
    definition = traced.as_graph_def()
    nodes = [definition.node, *(function.node_def for function in definition.library.function)]
    for node in (node for part in nodes for node in part):
        if node.op == "Const" and node.attr["value"].ByteSize() > _LONGEST_CONSTANT:
            node.attr["value"].tensor.ClearField("tensor_content")
    return definition.SerializeToString()


def rich(media: Media) -> list[Value]:
    """Returns an image, a histogram, a text or a curve; nothing for media that TensorBoard cannot show."""
    make = {"image": _images, "histogram": _histogram, "text": _text, "pr_curve": _pr_curve}.get(media.kind)
    tag = overview.image(media.tag) if media.kind == "image" else media.tag
    return [make(tag, media.data)] if make else []


def _text(tag: str, markdown: str) -> Value:
    tensor = tensor_util.make_tensor_proto(markdown.encode(), dtype=dtypes.string)
    return summary_pb2.Summary.Value(
        tag=tag, metadata=texts.create_summary_metadata(None, None), tensor=tensor
    )


def _images(tag: str, data: Any) -> Value:
    import tensorflow as tf  # loaded already if there are images; a reader of records does not need it

    pixels = np.asarray(data)
    if pixels.dtype != np.uint8:
        pixels = np.round(255 * np.nan_to_num(np.clip(pixels, 0, 1))).astype(np.uint8)
    height, width = pixels.shape[1:3]
    pictures = [tf.io.encode_png(picture).numpy() for picture in pixels]
    content = [str(width).encode(), str(height).encode(), *pictures]
    tensor = tensor_util.make_tensor_proto(content, dtype=dtypes.string)
    return summary_pb2.Summary.Value(
        tag=tag, metadata=images.create_summary_metadata(None, None), tensor=tensor
    )


def _histogram(tag: str, data: Any) -> Value:
    numbers = np.asarray(data, np.float64).ravel()
    counts, edges = np.histogram(numbers[np.isfinite(numbers)], _BINS)
    buckets = np.stack([edges[:-1], edges[1:], counts], axis=1)
    tensor = tensor_util.make_tensor_proto(buckets, dtype=np.float64)
    return summary_pb2.Summary.Value(
        tag=tag, metadata=histograms.create_summary_metadata(None, None), tensor=tensor
    )


def _pr_curve(tag: str, data: Any) -> Value:
    rows = np.asarray(data, np.float32)
    metadata = pr_curves.create_summary_metadata(None, None, num_thresholds=rows.shape[1])
    return summary_pb2.Summary.Value(
        tag=tag, metadata=metadata, tensor=tensor_util.make_tensor_proto(rows, dtype=np.float32)
    )
