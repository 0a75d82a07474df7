"""Remembers what a tracker has received of a run, over all its starts, so that nothing is sent twice."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from looplab.runs.directory import read_json
from looplab.runs.sealed import json_text
from looplab.runs.shapes import fields, optional, table, text, whole

_SENT = fields({"run": optional(text), "steps": table(whole)})


class Sent:
    """The tracker's id of a run, and the last step that was sent for each series.

    A resumed run repeats the steps after its checkpoint with the same values, so values that were already
    sent stay correct.

    Attributes:
        run: The tracker's id of the run, or None if it has none yet.
    """

    def __init__(self, path: Path | None) -> None:
        """Reads what an earlier start has stored.

        Args:
            path: A file in the run directory; None keeps the state in memory.
        """
        self._path = path
        found = (read_json(path, _SENT) if path else None) or {}
        self.run: str | None = found.get("run")
        self._steps: dict[str, int] = dict(found.get("steps", {}))

    def begin(self, run: str) -> None:
        """Stores the tracker's id of the run."""
        self.run = run
        self._write()

    def new(self, split: str, step: int, tags: Iterable[str]) -> list[str]:
        """Returns the tags that were not sent at this step or a later one, and marks them as sent."""
        found = [tag for tag in tags if step > self._steps.get(f"{split}/{tag}", -1)]
        self._steps |= {f"{split}/{tag}": step for tag in found}
        if found:
            self._write()
        return found

    def _write(self) -> None:
        if self._path is None:
            return
        part = self._path.with_name(f"{self._path.name}.part")
        # Not synced to the disk: it must survive a kill, but not a power failure, and it is written often.
        part.write_text(json_text({"run": self.run, "steps": self._steps}), encoding="utf-8")
        os.replace(part, self._path)
