"""Logs to MLflow: `looplab.loggers.MLflow(experiment="digits")`; needs `looplab[trackers]`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from looplab.loggers.hyperparameters import as_text, flat
from looplab.loggers.queued import Queued
from looplab.loggers.tracker_state import Sent
from looplab.protocols import Media, Record, Summary
from looplab.targets import configurable

_LONGEST = 6000  # the most characters of a parameter
_AT_ONCE = 100  # the most parameters in one call


@configurable(user_only=("tracking_uri",))
class MLflow(Queued):
    """Sends records to an MLflow server, or writes them into its files, at the trainer's steps.

    MLflow shows a tag as `<split>/<tag>`. A resumed run continues its MLflow run, whose id is in
    `<run_dir>/mlflow.json`, and sends nothing twice.
    """

    def __init__(
        self, experiment: str = "looplab", tracking_uri: str | None = None, run_name: str | None = None
    ) -> None:
        """Stores the settings; it imports and sends nothing before the first step.

        Args:
            experiment: The MLflow experiment; it is created if it does not exist.
            tracking_uri: An address such as `"sqlite:///mlflow.db"` or `"http://..."`; None for MLflow's
                default (`MLFLOW_TRACKING_URI`).
            run_name: The name of the run in MLflow; None for the name of its directory.
        """
        super().__init__("mlflow")
        self._experiment, self._uri, self._name = experiment, tracking_uri, run_name

    def start(self, summary: Summary, run_dir: Any) -> None:
        """See `Queued`."""
        from mlflow import MlflowClient, entities

        self._entities, self._client = entities, MlflowClient(self._uri)
        self._sent = Sent(None if run_dir is None else run_dir / "mlflow.json")
        if self._sent.run is not None:
            self._run: str = self._sent.run
            self._client.update_run(self._run, status="RUNNING")
            return
        name = self._name or (run_dir.name if run_dir is not None else None)
        self._run = self._client.create_run(self._experiment_id(), run_name=name).info.run_id
        self._sent.begin(self._run)
        self._describe(summary.hyperparameters)

    def send(self, record: Record) -> None:
        """See `Queued`."""
        new, now = self._sent.new(record.split, record.step, record.values), int(1000 * time.time())
        metrics = [
            self._entities.Metric(f"{record.split}/{tag}", float(record.values[tag]), now, record.step)
            for tag in new
        ]
        if metrics:
            self._client.log_batch(self._run, metrics=metrics)

    def draw(self, media: Media) -> None:
        """See `Queued`; sends images and texts as files of the run."""
        name = f"{media.split}/{media.tag}/{media.step:08d}"
        known = media.kind in ("image", "text")
        if not known or not self._sent.new(media.split, media.step, [media.tag]):
            return
        if media.kind == "text":
            self._client.log_text(self._run, str(media.data), f"{name}.md")
            return
        for index, picture in enumerate(np.asarray(media.data)):
            self._client.log_image(self._run, picture, artifact_file=f"{name}-{index}.png")

    def finish(self, outcome: Mapping[str, Any]) -> None:
        """See `Queued`."""
        known = {"finished": "FINISHED", "stopped": "FINISHED", "interrupted": "KILLED"}
        self._client.set_terminated(self._run, known.get(outcome["status"], "FAILED"))

    def _experiment_id(self) -> Any:
        found = self._client.get_experiment_by_name(self._experiment)
        return found.experiment_id if found else self._client.create_experiment(self._experiment)

    def _describe(self, hyperparameters: Mapping[str, Any]) -> None:
        params = [
            self._entities.Param(key, str(value)[:_LONGEST]) for key, value in flat(hyperparameters).items()
        ]
        for first in range(0, len(params), _AT_ONCE):
            self._client.log_batch(self._run, params=params[first : first + _AT_ONCE])
        if params:
            self._client.log_text(self._run, as_text(hyperparameters), "configuration.yaml")
