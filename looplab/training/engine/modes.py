"""The way in which training steps run: set by the user, or chosen by looplab."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from looplab.execution import autotune
from looplab.execution.recompute import Recompute
from looplab.options.execution import Execution

LATER = "to be measured when training begins"


@dataclass(frozen=True)
class Decision:
    """An earlier decision on how the steps of a run run.

    Attributes:
        mode: One of `looplab.options.execution.MODES`.
        micro_batches: The number of slices in which an update computed its gradients; None if it is not
            known.
        key: The key of the step for which the mode was measured, by a start that reached no checkpoint: the
            decision holds for that step only. None for the decision of a checkpoint, which holds for the run.
    """

    mode: str
    micro_batches: int | None = None
    key: str | None = None

    @classmethod
    def of_checkpoint(cls, saved: Mapping[str, Any] | None) -> Decision | None:
        """Reads the values of `Engine.how` in a checkpoint; None if it has none."""
        return None if saved is None else cls(saved["mode"], int(saved["micro_batches"]))

    @classmethod
    def of_environment(cls, choice: Mapping[str, Any]) -> Decision | None:
        """Reads the choice that `environment.json` records; None if it has none."""
        mode, key = choice.get("mode"), choice.get("key")
        return cls(mode, key=key) if isinstance(mode, str) and isinstance(key, str) else None


class Modes:
    """The execution mode and the number of micro-batches of training steps.

    Attributes:
        mode: One of `looplab.options.execution.MODES`; the chosen one, if looplab chooses.
        choice: The reasons; None if a mode was given.
        micro_batches: The number of slices in which an update computes its gradients.
        chooses_micro_batches: Whether that number is chosen when training begins, and is not chosen yet.
        before: The run's earlier decision; None if it is not known.
        recompute: The layers that the backward pass computes again.
    """

    def __init__(self, execution: Execution) -> None:
        """Stores the given settings."""
        self.mode, micro_batches = execution.mode, execution.micro_batches
        self.choice: autotune.Choice | None = None
        if execution.mode == "auto":  # until training begins
            self.mode = "graph"
            eagerly = execution.run_eagerly
            self.choice = autotune.Choice("graph") if eagerly else autotune.Choice("auto", why=LATER)
        self.micro_batches = 1 if micro_batches == "auto" else int(micro_batches)
        self.chooses_micro_batches = micro_batches == "auto"
        self.before: Decision | None = None
        self.recompute = Recompute(execution.recompute)

    def resume(self, before: Decision | None) -> None:
        """Sets the run's earlier decision; None if it is not known."""
        self.before = before

    @property
    def chooses_mode(self) -> bool:
        """Whether the mode is chosen when training begins, and is not chosen yet."""
        return self.choice is not None and self.choice.mode == "auto"
