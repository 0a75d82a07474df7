"""The names under which a run's numbers are recorded, and the meaning of each number.

A record in `metrics.jsonl` has numbers under `values`, which every repetition of a run reproduces, and under
`timing`, which differ between runs. TensorBoard has all `values`; rates, the parts of the wall time and the
load of the machine are in its run `system`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

EPOCH = "epoch_"  # the prefix of a mean over an epoch or a whole evaluation
RAW = "raw_"  # the prefix of a value of the raw weights, if evaluations use their averages
PART = "time/"  # the prefix of a part of the wall time
RATE = "per_second"  # the end of the name of a rate


@dataclass(frozen=True)
class Tag:
    """The name of a number, or a pattern of names.

    Attributes:
        pattern: The name; `<word>` stands for a part that differs.
        where: `"values"` or `"timing"` of a record in `metrics.jsonl`; `"TensorBoard"` if only TensorBoard
            has the number.
        meaning: The number's meaning, with its unit.
    """

    pattern: str
    where: str
    meaning: str

    def matches(self, name: str) -> bool:
        """Returns whether a name has this pattern."""
        parts = re.split(r"<\w+>", self.pattern)
        return re.fullmatch(".+".join(map(re.escape, parts)), name) is not None


# The first pattern that matches a name explains it.
TAGS = (
    Tag(
        "epoch_raw_<name>",
        "values",
        "Like `epoch_<name>`, but of the raw weights. An evaluation of averaged weights has both.",
    ),
    Tag(
        "epoch_<name>",
        "values",
        "The mean of `<name>` over an epoch (split `train`) or a whole evaluation, weighted by "
        "examples; or the result of a metric.",
    ),
    Tag(
        "learning_rate",
        "values",
        "The learning rate of the last step of an epoch.",
    ),
    Tag(
        "<optimizer>/learning_rate",
        "values",
        "The same, for each of several optimizers.",
    ),
    Tag(
        "gradient_norm/<group>",
        "values",
        "The Euclidean norm of the gradients of a group of layers before clipping, or of `all`; "
        "from the callback `Norms`.",
    ),
    Tag(
        "<optimizer>/gradient_norm/<group>",
        "values",
        "The same, for each of several optimizers.",
    ),
    Tag(
        "parameter_norm/<group>",
        "values",
        "The Euclidean norm of the parameters of a group of layers, or of `all`; from the callback `Norms`.",
    ),
    Tag(
        "loss",
        "values",
        "The loss of one step over its whole global batch, with the losses that layers and regularizers add.",
    ),
    Tag(
        "regularization",
        "values",
        "The part of `loss` that layers and regularizers add.",
    ),
    Tag(
        "<optimizer>/loss",
        "values",
        "The loss that an optimizer has minimized in one step, if the step calls `minimize` with a name.",
    ),
    Tag(
        "<output>_loss",
        "values",
        "The loss of one output in one step, without its loss weight.",
    ),
    Tag(
        "seconds",
        "timing",
        "Seconds since this process began to record the run.",
    ),
    Tag(
        "epoch_seconds",
        "timing",
        "Seconds since the record of the previous epoch.",
    ),
    Tag(
        "evaluation_seconds",
        "timing",
        "Seconds of an evaluation.",
    ),
    Tag(
        "steps_per_second",
        "timing",
        "Steps per second of an epoch. As in all rates, only the time of steps and of their "
        "waiting for batches counts.",
    ),
    Tag(
        "examples_per_second",
        "timing",
        "Examples of the global batches per second.",
    ),
    Tag(
        "tokens_per_second",
        "timing",
        "Tokens per second, if the shapes of a batch show their number.",
    ),
    Tag(
        "flops_per_second",
        "timing",
        "Floating-point operations of the model per second: three times those of its forward pass.",
    ),
    Tag(
        "input_share",
        "timing",
        "The share of that time in which steps waited for batches, from 0 to 1.",
    ),
    Tag(
        "time/<part>",
        "timing",
        "Seconds of an epoch by part: `start`, `input`, `step`, `trace and compile`, "
        "`evaluation`, `checkpoint`, `logging`, `callbacks`, `other`.",
    ),
    Tag(
        "system/cpu_percent",
        "TensorBoard",
        "Use of all processor cores of the machine, in percent.",
    ),
    Tag(
        "system/process_cpu_percent",
        "TensorBoard",
        "Use by this process, in percent of one core.",
    ),
    Tag(
        "system/memory_percent",
        "TensorBoard",
        "Use of the machine's memory, in percent.",
    ),
    Tag(
        "system/process_memory_gigabytes",
        "TensorBoard",
        "Memory of this process, in 10^9 bytes.",
    ),
    Tag(
        "system/gpu<index>_memory_gigabytes",
        "TensorBoard",
        "Memory of a GPU that TensorFlow's tensors use now, in 10^9 bytes.",
    ),
    Tag(
        "system/gpu<index>_peak_memory_gigabytes",
        "TensorBoard",
        "The most memory that they have used since the process began, in 10^9 bytes.",
    ),
    Tag(
        "<name>",
        "values",
        "A value that a step returns or logs with `self.log`, of that step; a number from "
        "`looplab.summary.scalar` or from a callback's `controls.log`.",
    ),
)


def tag_of(name: str, where: str) -> Tag | None:
    """Returns the tag that explains a name, or None.

    Args:
        name: A name in a record.
        where: See `Tag`.
    """
    return next((tag for tag in TAGS if tag.where == where and tag.matches(name)), None)
