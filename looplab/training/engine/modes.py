"""How training steps run: as the user says, or as was found out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from looplab.execution import autotune
from looplab.options.execution import Execution

LATER = "to be measured when training begins"


@dataclass(frozen=True)
class Decision:
    """How the steps of a run have run before.

    Attributes:
        mode: Of `looplab.options.execution.MODES`.
        micro_batches: In how many pieces an update computed its gradients; None where that is not known.
        key: Of the step for which the mode was measured, by a start that came to no checkpoint: it holds for
            that step only. None for the decision of a checkpoint, which holds for the run.
    """

    mode: str
    micro_batches: int | None = None
    key: str | None = None

    @classmethod
    def of_checkpoint(cls, saved: Mapping[str, Any] | None) -> Decision | None:
        """Reads what `Engine.how` gave to a checkpoint; None where it has nothing."""
        return None if saved is None else cls(saved["mode"], int(saved["micro_batches"]))

    @classmethod
    def of_environment(cls, choice: Mapping[str, Any]) -> Decision | None:
        """Reads the choice that `environment.json` records; None where it has none."""
        mode, key = choice.get("mode"), choice.get("key")
        return cls(mode, key=key) if isinstance(mode, str) and isinstance(key, str) else None


class Modes:
    """The execution mode and the number of micro-batches of training steps.

    Attributes:
        mode: Of `looplab.options.execution.MODES`; the one that was chosen, where it is to be chosen.
        choice: Why; None where a mode was given.
        micro_batches: In how many pieces an update computes its gradients.
        chooses_micro_batches: Whether that number is found out when training begins, and was not yet.
        before: How the run's steps have run before; None where that is not known.
    """

    def __init__(self, execution: Execution) -> None:
        """Settles what is given."""
        self.mode, micro_batches = execution.mode, execution.micro_batches
        self.choice: autotune.Choice | None = None
        if execution.mode == "auto":  # until training begins
            self.mode = "graph"
            eagerly = execution.run_eagerly
            self.choice = autotune.Choice("graph") if eagerly else autotune.Choice("auto", why=LATER)
        self.micro_batches = 1 if micro_batches == "auto" else int(micro_batches)
        self.chooses_micro_batches = micro_batches == "auto"
        self.before: Decision | None = None

    def resume(self, before: Decision | None) -> None:
        """Takes up how the run's steps have run before; None where that is not known."""
        self.before = before

    @property
    def chooses_mode(self) -> bool:
        """Whether the mode is found out when training begins, and was not yet."""
        return self.choice is not None and self.choice.mode == "auto"
