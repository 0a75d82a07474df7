"""A run so small that it takes no time, and a real TensorBoard to look at it."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import keras
import numpy as np
import pytest

import looplab
from tests.process import HANGS


@pytest.fixture
def train():
    """Trains a line through 32 points, 4 steps an epoch, with validation data."""

    def train(run_dir, epochs=2, **how):
        x = np.linspace(-1, 1, 32, dtype="float32").reshape(-1, 1)
        trainer = looplab.Trainer(
            lambda: keras.Sequential([keras.Input([1]), keras.layers.Dense(1)]),
            keras.optimizers.SGD(0.1),
            "mse",
            [keras.metrics.MeanAbsoluteError("error")],
            run_dir=run_dir,
        )
        return trainer.fit(x, 2 * x, validation_data=(x, 3 * x), batch_size=8, epochs=epochs, **how)

    return train


class Server:
    """`tensorboard --logdir DIRECTORY`, on a free port of this machine."""

    def __init__(self, directory, folder, fast):
        log = folder / "log.txt"
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(directory), "--host=127.0.0.1"]
        with log.open("w") as said:
            self.process = subprocess.Popen(
                [*command, "--port=0", f"--load_fast={str(fast).lower()}"],
                env=os.environ | {"TMPDIR": str(folder)},
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + HANGS
        while not (found := re.search(r" at (http://\S+)/ ", log.read_text())):
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.stop()
                pytest.fail(f"TensorBoard did not start:\n{log.read_text()}")
            time.sleep(0.1)
        self.address = found[1]

    def points(self, run, tag, last_step):
        """What a page would draw, `[(step, value), ...]`, as soon as the last step is loaded."""
        query = f"{self.address}/data/plugin/scalars/scalars?run={run}&tag={tag}"
        directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        points, deadline = [], time.monotonic() + HANGS
        while last_step not in dict(points) and time.monotonic() < deadline:
            with contextlib.suppress(urllib.error.HTTPError), directly.open(query, timeout=HANGS) as answer:
                points = [(step, value) for _, step, value in json.load(answer)]
            time.sleep(0.1)
        return points

    def stop(self):
        for number in (signal.SIGTERM, signal.SIGKILL):  # to its data server, too
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(self.process.pid, number)
                self.process.wait(10)


@pytest.fixture(scope="module")
def tensorboard(tmp_path_factory):
    """Starts servers, and ends them after the last test of the file."""
    servers = []

    def start(directory, fast=True):
        servers.append(Server(directory, tmp_path_factory.mktemp("tensorboard"), fast))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
