"""Decides which settings work together, in one place, and refuses all others.

The table is strategy x precision x execution x micro-batches x BatchNormalization. A test checks every cell.
These are pure functions of plain values: neither TensorFlow nor Keras is imported.
"""

from __future__ import annotations

from dataclasses import dataclass

from looplab.compat import patches
from looplab.errors import ConfigurationError, Problem, Refused, nearest
from looplab.protocols import HOST, Placement

_PURPOSES = {"train": "training", "test": "evaluation", "predict": "prediction"}


@dataclass(frozen=True)
class Settings:
    """One cell of the table.

    Attributes:
        placement: What the strategy's devices can do.
        replicas: The number of replicas that share a batch.
        precision: One of `looplab.options.distribution.PRECISIONS`.
        execution: The mode, one of `looplab.options.execution.MODES`.
        run_eagerly: Whether steps run in Python.
        micro_batches: The number of pieces in which an update computes its gradients.
        separable: Whether the loss of an example does not depend on other examples.
        batch_norm: The rows over which the models' BatchNormalization averages: `"sync"` for all replicas,
            `"local"` for each replica's own rows, `"none"` if no BatchNormalization is trained (or it is not
            known yet).
        patches: Whether looplab's patches of Keras and TensorFlow are `"on"` or `"off"`.
    """

    placement: Placement = HOST
    replicas: int = 1
    precision: str = "float32"
    execution: str = "graph"
    run_eagerly: bool = False
    micro_batches: int = 1
    separable: bool = True
    batch_norm: str = "none"
    patches: str = patches.SETTING


def refusals(settings: Settings) -> list[Problem]:
    """Returns why settings do not work together, each reason with its remedy; empty if they do."""
    found, placement = [], settings.placement
    if settings.micro_batches > 1 and not settings.separable:
        found.append(
            Problem(
                "micro_batches",
                "the trainer is not separable (its loss looks across the batch), so "
                f"{settings.micro_batches} micro-batches would change the loss. Use micro_batches=1.",
            )
        )
    if settings.run_eagerly and settings.execution.startswith("xla"):
        found.append(
            Problem(
                "execution.mode",
                f"{settings.execution} compiles steps, but run_eagerly runs them in Python: choose one of "
                "the two (execution=graph, or run_eagerly=false).",
            )
        )
    elif settings.execution == "xla_loop" and settings.replicas > 1 and not placement.always_compiled:
        found.append(
            Problem(
                "execution.mode",
                f"xla_loop on {settings.replicas} replicas (strategy): XLA cannot compile an exchange "
                "between replicas, and an update exchanges gradients. Use execution=xla_step, which "
                "compiles the gradients, or execution=graph.",
            )
        )
    elif settings.execution == "xla_step" and settings.replicas > 1 and settings.batch_norm == "sync":
        found.append(
            Problem(
                "execution.mode",
                f"xla_step on {settings.replicas} replicas (strategy) does not support a BatchNormalization "
                "that averages over all replicas: XLA cannot compile sums over replicas. Use "
                "execution=graph, or one device; a BatchNormalization with trainable=False works.",
            )
        )
    found += _refusals_without_patches(settings) if settings.patches != "on" else []
    return found + _refusals_of_placement(settings)


def _refusals_without_patches(settings: Settings) -> list[Problem]:
    if settings.patches != "off":
        message = f"expected on or off, got {settings.patches!r}.{nearest(settings.patches, ('on', 'off'))}"
        return [Problem(patches.VARIABLE, message)]
    found = []
    if settings.replicas > 1:  # sums of gradients, and the averages of BatchNormalization
        message = f"an exact update on {settings.replicas} replicas {patches.NEEDED}"
        found.append(Problem("strategy.name", message))
    if settings.precision != "float32":
        found.append(Problem("precision.policy", f"{settings.precision} {patches.NEEDED}"))
    return found


def _refusals_of_placement(settings: Settings) -> list[Problem]:
    found, placement = [], settings.placement
    if placement.always_compiled and settings.run_eagerly:
        found.append(
            Problem(
                "execution.run_eagerly",
                f"strategy={placement.name} runs only compiled steps. Set it to false, or debug with "
                "strategy=one_device.",
            )
        )
    elif placement.always_compiled and settings.execution.startswith("xla"):
        found.append(
            Problem(
                "execution.mode",
                f"{settings.execution} has no effect under strategy={placement.name}, where XLA compiles "
                "every step. Use execution=graph.",
            )
        )
    if settings.precision not in placement.precisions:
        found.append(
            Problem(
                "precision.policy",
                f"{settings.precision} is not supported by strategy={placement.name}, whose units multiply "
                "in bfloat16. Use precision=mixed_bfloat16, or float32.",
            )
        )
    return found


def remarks(settings: Settings) -> list[str]:
    """Returns remarks on supported settings for the plan of a run, one sentence each."""
    if settings.batch_norm == "none" or settings.micro_batches == 1:
        return []
    return [
        "BatchNormalization uses the statistics of a micro-batch: the update depends on "
        f"micro_batches={settings.micro_batches}"
    ]


def check(settings: Settings) -> None:
    """Refuses settings that do not work together.

    Raises:
        Refused: With the reason for each refusal.
    """
    if problems := refusals(settings):
        raise Refused(problems)


def check_collective(name: str, *, in_xla: bool) -> None:
    """Refuses an exchange of values between replicas where XLA compiles each replica's gradients separately.

    Args:
        name: The name of the method.
        in_xla: Whether it is called there.

    Raises:
        ConfigurationError: If so. (It is raised inside a step, where AutoGraph passes only errors that take
            one message.)
    """
    if in_xla:
        raise ConfigurationError(
            "execution.mode: xla_step on several replicas (strategy) does not support a loss that calls "
            f"{name}: XLA cannot compile an exchange between replicas. Use execution=graph, or one device."
        )


def check_rows(placement: Placement, largest: int | None, purpose: str) -> None:
    """Refuses data that a strategy cannot split.

    On CPU and GPU looplab splits batches of any size exactly, also a short last one. A TPU compiles a step
    for one size, to which looplab pads all batches; this size must be known.

    Args:
        placement: What the strategy's devices can do.
        largest: Examples of the largest batch; None if that is not known.
        purpose: The purpose of the batches: `"train"`, `"test"` or `"predict"`.

    Raises:
        Refused: If the strategy needs a size that is not known.
    """
    if not placement.fixed_rows or largest is not None:
        return
    raise Refused(
        [
            Problem(
                "strategy.name",
                f"{placement.name} needs batches of a known size; the size of those for {_PURPOSES[purpose]} "
                "is not known. Give arrays or another source that is read by index, a tf.data.Dataset "
                "batched with drop_remainder=True, or use another strategy.",
            )
        ]
    )
