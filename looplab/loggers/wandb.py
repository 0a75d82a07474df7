"""Logs to Weights & Biases: `looplab.loggers.WandB(project="digits")`; needs `looplab[trackers]`."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from looplab.errors import ConfigurationError
from looplab.loggers.queued import Queued
from looplab.loggers.tracker_state import Sent
from looplab.protocols import Media, Record, Summary
from looplab.targets import configurable


@configurable(user_only=("entity", "settings"))
class WandB(Queued):
    """Sends records to Weights & Biases, with the trainer's step as the axis of every chart.

    W&B shows a tag as `<split>/<tag>`. A resumed run continues its W&B run, whose id is in
    `<run_dir>/wandb.json`, and sends nothing twice. The system metrics of W&B are on.
    """

    def __init__(
        self,
        project: str | None = None,
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        tags: Sequence[str] | None = None,
        notes: str | None = None,
        mode: str | None = None,
        **settings: Any,
    ) -> None:
        """Stores the settings; it imports and sends nothing before the first step.

        Args:
            project: The project; this and all other arguments are those of `wandb.init`.
            entity: The team or user that owns the project.
            name: The name of the run; None for the name of its directory.
            group: The name of a group of runs.
            job_type: The kind of the run.
            tags: Words to find the run by.
            notes: A text about the run.
            mode: A mode such as `"offline"`, which only writes files, for `wandb sync`.
            **settings: Other arguments of `wandb.init`. looplab sets some of them itself, and a configuration
                file cannot set any.

        Raises:
            ConfigurationError: If looplab sets an argument itself.
        """
        taken = sorted({"id", "resume", "dir", "config", "reinit"} & set(settings))
        if taken:
            raise ConfigurationError(f"WandB: looplab sets {', '.join(taken)} itself; leave them out.")
        super().__init__("wandb")
        own = {
            "project": project,
            "entity": entity,
            "name": name,
            "group": group,
            "job_type": job_type,
            "tags": tags,
            "notes": notes,
            "mode": mode,
        }
        self._settings = {key: value for key, value in own.items() if value is not None} | settings

    def start(self, summary: Summary, run_dir: Any) -> None:
        """See `Queued`."""
        import wandb

        self._wandb = wandb
        self._sent = Sent(None if run_dir is None else run_dir / "wandb.json")
        own: dict[str, Any] = {"settings": {"console": "off"}}  # otherwise it captures standard output
        if run_dir is not None:
            own |= {"dir": str(run_dir), "name": run_dir.name}
        self._run = wandb.init(
            **{**own, **self._settings},
            id=self._sent.run,  # with None, W&B chooses one
            resume="allow",
            config=dict(summary.hyperparameters),
            reinit="create_new",
        )
        self._sent.begin(self._run.id)
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def send(self, record: Record) -> None:
        """See `Queued`."""
        new = self._sent.new(record.split, record.step, record.values)
        if new:
            values = {f"{record.split}/{tag}": record.values[tag] for tag in new}
            self._run.log({**values, "step": record.step, "epoch": record.epoch})

    def draw(self, media: Media) -> None:
        """See `Queued`; does not send PR curves."""
        made: Any = None
        if media.kind == "image":
            made = [self._wandb.Image(np.asarray(picture)) for picture in media.data]
        elif media.kind == "histogram":
            made = self._wandb.Histogram(np.asarray(media.data).ravel().tolist())
        elif media.kind == "text":
            made = self._wandb.Html(f"<pre>{html.escape(str(media.data))}</pre>")
        if made is not None and self._sent.new(media.split, media.step, [media.tag]):
            self._run.log({f"{media.split}/{media.tag}": made, "step": media.step})

    def finish(self, outcome: Mapping[str, Any]) -> None:
        """See `Queued`."""
        self._run.summary["status"] = outcome["status"]
        self._run.finish(exit_code=outcome["exit_code"])
