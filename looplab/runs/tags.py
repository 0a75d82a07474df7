"""The names under which a run's numbers are recorded, and what each number means.

A record in `metrics.jsonl` has numbers under `values`, which every repetition of a run reproduces, and under
`timing`, which differ. TensorBoard has all `values`; rates, the parts of the wall time and the load of the
machine are in its run `system`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

EPOCH = "epoch_"  # before the name of a mean over an epoch or a whole evaluation
RAW = "raw_"  # before the name of a value of the weights themselves, where the model shown has their averages
PART = "time/"  # before the name of a part of the wall time
RATE = "per_second"  # at the end of the name of a rate


@dataclass(frozen=True)
class Tag:
    """The name of a number, or a pattern of names.

    Attributes:
        pattern: The name; `<word>` is a part that differs.
        where: `"values"` or `"timing"` of a record in `metrics.jsonl`; `"TensorBoard"` if only it has the
            number.
        meaning: The number's meaning, with its unit.
    """

    pattern: str
    where: str
    meaning: str

    def matches(self, name: str) -> bool:
        """Whether a name has this pattern."""
        parts = re.split(r"<\w+>", self.pattern)
        return re.fullmatch(".+".join(map(re.escape, parts)), name) is not None


# The first pattern that a name has is the one that explains it.
TAGS = (
    Tag(
        "epoch_raw_<name>",
        "values",
        "As `epoch_<name>`, of the weights themselves. An evaluation of averaged weights has both.",
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
        "The same, where a trainer has several optimizers.",
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
        "The same, where a trainer has several optimizers.",
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
        "The loss that an optimizer has minimized in one step, where a step calls `minimize` with a name.",
    ),
    Tag(
        "<output>_loss",
        "values",
        "The loss of one output in one step, without its loss weight.",
    ),
    Tag(
        "seconds",
        "timing",
        "Seconds since the run began to record, in this process.",
    ),
    Tag(
        "epoch_seconds",
        "timing",
        "Seconds since the record of the epoch before.",
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
        "Tokens per second, where the shapes of a batch show them.",
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
        "Memory of a GPU that TensorFlow's tensors have now, in 10^9 bytes.",
    ),
    Tag(
        "system/gpu<index>_peak_memory_gigabytes",
        "TensorBoard",
        "The most that they have had since the process began, in 10^9 bytes.",
    ),
    Tag(
        "<name>",
        "values",
        "A value that a step returns or logs with `self.log`, of that step; a number from "
        "`looplab.summary.scalar` or from a callback's `controls.log`.",
    ),
)


def tag_of(name: str, where: str) -> Tag | None:
    """Returns the row that explains a name, or None.

    Args:
        name: As a record has it.
        where: See `Tag`.
    """
    return next((tag for tag in TAGS if tag.where == where and tag.matches(name)), None)
