"""What a person sees: on a terminal, elsewhere, and in `log.txt`."""

import fcntl
import logging
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

import pytest

import looplab
from looplab import ConfigurationError
from looplab.loggers import Console
from looplab.protocols import Record, Summary
from tests.process import HANGS

SUMMARY = Summary((("data", "32 examples"), ("length", "8 steps")), (), 0, 8, 4)


def record(step, split="train", **values):
    return Record(step, -(-step // 4), split, {f"epoch_{name}": value for name, value in values.items()})


def test_a_run_in_plain_lines_and_the_same_in_its_log(train, tmp_path, capsys):
    train(tmp_path / "run")
    said = capsys.readouterr().out.splitlines()
    number = r"\d+\.\d{4}"
    values = f"loss {number}  error {number}  val_loss {number}  val_error {number}"
    for expected in (
        r"model +layer +kind +parameters +trained +memory",
        r"model +dense +Dense +2 +2 +8 bytes",
        r"data +32 examples .*batch 8, 4 steps an epoch.*",
        r"validation +32 examples .*",
        r"optimizer +SGD",
        rf"epoch 1/2  {values}  \d+\.\ds",
        rf"epoch 2/2  {values}  \d+\.\ds",
        rf"best +val_loss {number} .*\(epoch \d, step \d\)",
        rf"watch +tensorboard --logdir {tmp_path}/run",
    ):
        assert [line for line in said if re.fullmatch(expected, line.rstrip())], expected
    assert not [line for line in said if "\x1b" in line]

    logged = (tmp_path / "run/log.txt").read_text().splitlines()
    stamp = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ")
    assert [stamp.sub("", line).rstrip() for line in logged] == [line.rstrip() for line in said if line]
    assert all(stamp.match(line) for line in logged)


def test_a_log_goes_on_where_the_run_does(train, tmp_path):
    train(tmp_path, epochs=1, verbose=0)
    before = (tmp_path / "log.txt").read_text()
    train(tmp_path, epochs=2, verbose=0)
    log = (tmp_path / "log.txt").read_text()
    assert log.startswith(before)
    assert "continues after step 4" in log.removeprefix(before)


def test_verbose_0_says_nothing_and_logs_all_the_same(train, tmp_path, capfd):
    train(tmp_path / "run", verbose=0)
    assert capfd.readouterr().out == ""
    assert "epoch 2/2  loss" in (tmp_path / "run/log.txt").read_text()


def test_without_a_run_directory_there_is_no_log(train, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train(None, epochs=1)
    assert "epoch 1/1  loss" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verbose", [3, -1, "loud", None])
def test_an_unknown_verbose_is_refused(verbose):
    with pytest.raises(ConfigurationError, match=re.escape(f"verbose: {verbose!r}")):
        Console(verbose)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.25, "0.2500"),
        (0.0, "0.0000"),
        (0.00004321, "4.32e-05"),
        (-0.00004321, "-4.32e-05"),
        (1234567.0, "1.23e+06"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
    ],
)
def test_small_and_large_values_keep_their_digits(value, text, capsys):
    console = Console()
    console.begin(SUMMARY)
    console.write(record(4, loss=value))
    console.end_epoch()
    assert f"epoch 1/2  loss {text}  " in capsys.readouterr().out


def test_evaluations_stand_beside_their_epoch_and_only_there(capsys):
    console = Console()
    console.begin(SUMMARY)
    capsys.readouterr()
    console.write(Record(2, 1, "train", {"loss": 9.0}))  # a step's own value has no line
    console.write(record(4, "validation", loss=1.0))
    console.write(record(4, "test", loss=2.0))
    console.write(record(4, loss=3.0))
    console.write(record(8, loss=4.0))
    console.close()
    said = [line.rsplit("  ", 1)[0] for line in capsys.readouterr().out.splitlines()]
    assert said == ["epoch 1/2  loss 3.0000  val_loss 1.0000  test_loss 2.0000", "epoch 2/2  loss 4.0000"]


@pytest.mark.slow
def test_numbers_of_callbacks_stand_on_the_line_of_their_epoch_and_in_history(train, tmp_path, capsys):
    class Logs(looplab.Callback):
        every = "3st"

        def on_step(self, event, controls):
            controls.log({"own": event.step, "group/own": 0.5})

        def on_epoch_end(self, event, controls):
            controls.log({"at_end": event.epoch})

    own = {"callbacks": [Logs()], "validation_freq": 2}
    train(tmp_path / "parts", epochs=1, **own)
    for run_dir in (tmp_path / "whole", tmp_path / "parts"):
        capsys.readouterr()
        history = train(run_dir, epochs=3, **own).history  # 4 steps an epoch
        said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch 3/3")]
        assert re.fullmatch(r"epoch 3/3  loss \S+  error \S+  own 12.0000  at_end 3.0000  \S+s", said[0])
        assert (history["own"], history["at_end"]) == ([3, 6, 12], [1, 2, 3])
        assert history["group/own"] == [0.5] * 3
        assert len(history["val_loss"]) == 1 and len(history["loss"]) == 3


def test_a_long_epoch_has_a_line_now_and_then(capsys, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("looplab.loggers.console.time.monotonic", lambda: now)
    console = Console()
    console.begin(Summary(SUMMARY.lines, (), 0, 2000, 1000))
    capsys.readouterr()
    for step in range(1, 301):
        now += 0.125
        console.progress(step, 1, lambda: {"loss": 0.5})
    assert capsys.readouterr().out.splitlines() == [
        f"epoch 1/2  step {step}/2000  loss 0.5000" for step in (80, 160, 240)
    ]


def test_messages_of_other_rooms_come_out_here_once_and_logging_is_put_back(tmp_path, capsys, caplog):
    caplog.set_level(logging.ERROR, "looplab")
    logger = logging.getLogger("looplab.data")
    root = logging.getLogger("looplab")
    before = root.level, list(root.handlers)
    with Console(log_file=tmp_path / "log.txt"):
        logger.debug("too much")
        logger.info("as many as %d", 3)
        logger.warning("[not] markup: %s", "a/b")
    logger.info("nobody listens any more")
    assert capsys.readouterr().out == "as many as 3\nwarning: [not] markup: a/b\n"
    assert (root.level, root.handlers) == before
    assert [line[21:] for line in (tmp_path / "log.txt").read_text().splitlines()] == [
        "as many as 3",
        "warning: [not] markup: a/b",
    ]


# --- on a terminal -------------------------------------------------------------------------------

# Time passes where a script says so, also for the bar, which is drawn at each change.
MOVED = """
import queue, subprocess, sys, threading, time  # those that wait keep the real clock

now = 1000.0
time.monotonic = lambda: now

import rich.progress

update = rich.progress.Progress.update
rich.progress.Progress.update = lambda *given, **how: update(*given, **how, refresh=True)
"""

SLOW_RUN = (
    MOVED
    + """
import keras, numpy
import looplab

class Slow(looplab.Callback):
    every = "1st"
    def on_step(self, event, controls):
        global now
        now += 0.125
        if event.step == 50:
            print("a line of the user's own")

x = numpy.linspace(-1, 1, 240, dtype="float32").reshape(-1, 1)
model = lambda: keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
error = keras.metrics.MeanAbsoluteError("error")
trainer = looplab.Trainer(model, "sgd", "mse", [error], callbacks=[Slow()], run_dir=sys.argv[1])
trainer.fit(x, x, validation_data=(x, x), batch_size=8, epochs=2)
"""
)

FEW_STEPS = (
    MOVED
    + """
from looplab.loggers import Console
from looplab.protocols import Summary

console = Console()
console.begin(Summary((("length", "40 steps"),), (), 0, 40, 40))
for step in range(1, 4):
    now += float(sys.argv[1])
    console.progress(step, 1, lambda: {"loss": 0.5, "a_metric_with_a_long_name": 0.5})
console.close()
"""
)


def on_terminal(script, *arguments, columns=120, **env):
    """Runs Python code on a pseudo-terminal; returns the lines it drew there, without their colours."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    settings = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=settings | {"TERM": "xterm-256color"} | env,
        stdin=child,
        stdout=child,
        stderr=child,
    )
    os.close(child)
    said, deadline = b"", time.monotonic() + HANGS
    try:
        while select.select([parent], [], [], max(0, deadline - time.monotonic()))[0]:
            try:
                said += os.read(parent, 65536)
            except OSError:  # the terminal's last user is gone
                break
        assert process.wait(HANGS) == 0, said.decode()
    finally:
        process.kill()
        os.close(parent)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode()).replace("\r\n", "\n").replace("\r", "\n")


def test_a_terminal_shows_a_bar_with_rate_time_left_and_values(tmp_path):
    said = on_terminal(SLOW_RUN, tmp_path / "run")
    assert re.search(r"preparing the first step ━+ 0/60", said)
    bar = r"epoch 1/2 [━╸╺ ]+ \d+/60  8 steps/s  0:00:0\d left  loss \d\.\d{4}  error \d\.\d{4}"
    assert re.search(bar, said)
    assert re.search(r"epoch 2/2 [━╸╺ ]+ 60/60 ", said)
    assert len(re.findall(r"^epoch \d/2  loss .*s$", said, re.MULTILINE)) == 2
    assert "a line of the user's own" in said.splitlines()  # above the bar, not into it

    log = (tmp_path / "run/log.txt").read_text()
    assert "━" not in log
    assert "epoch 2/2  loss" in log


def test_a_slow_step_on_a_narrow_terminal_keeps_to_one_line():
    said = on_terminal(FEW_STEPS, 1.3, columns=64)
    assert re.search(
        r"^epoch 1/1 [━╸╺ ]+ 3/40  1\.3 s/step  0:00:49 left  loss 0\.50* *…$", said, re.MULTILINE
    )
    assert max(map(len, said.splitlines())) == 64


def test_a_terminal_that_cannot_move_its_cursor_has_plain_lines():
    assert on_terminal(FEW_STEPS, 0.21, TERM="dumb").split("\n") == ["length  40 steps", "", ""]
