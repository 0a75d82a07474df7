"""Runs in a notebook: what is shown, what shows itself, and the interrupt button; in a real kernel."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from tests.notebook import kernel

MADE = """
import keras, numpy as np, looplab
x = np.random.default_rng(0).normal(size=(640, 4)).astype("float32")
y = (x.sum(1) > 0).astype("int64")
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

def model():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)])

class Pause(looplab.Callback):
    every = 1
    def on_step(self, event, controls):
        import time
        time.sleep(0.05)

trainer = looplab.Trainer(model, "adam", loss, metrics=["accuracy"], callbacks=[Pause()], run_dir="run")
how = {"batch_size": 64, "validation_split": 0.2}
"""
EPOCH = r"epoch {}/{}  loss \d\.\d+  accuracy \d\.\d+  val_loss \d\.\d+  val_accuracy \d\.\d+  \d\.\ds"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook")
    with kernel(folder) as started:
        cell = started.run(MADE)
        assert cell.error is None, cell.error
        yield started, folder


def test_a_notebook_shows_one_output_and_the_interrupt_button_saves(running):
    started, folder = running
    cell = started.run("history = trainer.fit(x, y, epochs=2, **how)")
    assert cell.error is None
    (shown,) = cell.displays
    assert set(shown) == {"text/plain"} and "\x1b" not in shown["text/plain"]
    text = shown["text/plain"]
    assert len(re.findall("^model  layer", text, re.MULTILINE)) == 1  # one table
    assert [len(re.findall(EPOCH.format(epoch, 2), text)) for epoch in (1, 2)] == [1, 1]
    assert len(re.findall(r"^epoch", text, re.MULTILINE)) == 2  # the live line is gone
    assert 2 < cell.updates < 60
    assert "step" not in text[text.index("epoch 1/2") : text.index("best")]
    assert "\x1b" not in (folder / "run" / "log.txt").read_text()

    def is_live(cell):
        return re.search(r"epoch  4/60  step \d+/480  [\d,]+ steps/s  0:\d\d:\d\d left  loss", cell.text)

    cell = started.run("history = trainer.fit(x, y, epochs=60, **how)", when=is_live)
    (step,) = re.findall(
        r"^Interrupted: interrupted at step (\d+), everything is saved: run_dir=run", cell.error
    )
    assert 24 < int(step) < 100
    assert len(cell.error.splitlines()) == 1
    assert "stopping after the current execution; the interrupt button again aborts at once" in cell.text
    assert [p.name for p in (folder / "run" / "checkpoints").glob(f"step-{int(step):08}")]

    cell = started.run(f"history = trainer.fit(x, y, epochs=1 + {step} // 8, **how); history")
    assert cell.error is None
    assert f"epoch {1 + int(step) // 8}/{1 + int(step) // 8}" in cell.text
    check_page(cell.displays[-1], "History(")
    check_page(
        started.run("trainer").displays[-1], "<Trainer: model Sequential (58 parameters), optimizer Adam"
    )


def check_page(shown, words):
    assert shown["text/plain"].startswith(words)
    page = ElementTree.fromstring(shown["text/html"])
    svg = "{http://www.w3.org/2000/svg}"
    pictures = page.findall(f".//{svg}svg")
    assert [p.get("aria-label") for p in pictures] == ["loss", "accuracy", "learning_rate"]
    assert [len(p.findall(f"{svg}polyline")) for p in pictures] == [2, 2, 1]
    assert "val_accuracy" in [cell.text for cell in page.iter("td")]


@pytest.mark.slow
def test_what_is_captured_or_quiet_is_plain_or_nothing(running):
    started, _ = running
    made = "trainer = looplab.Trainer(model, 'adam', loss)\n"
    cell = started.run("%%capture said\n" + made + "trainer.fit(x, y, epochs=2)")
    assert cell.outputs == []
    cell = started.run("print(said.stdout)")
    assert re.search(r"^epoch 2/2  loss", cell.text, re.MULTILINE)
    cell = started.run(made + "_ = trainer.fit(x, y, epochs=2, verbose=0)")
    assert cell.outputs == []
    cell = started.run(made + "_ = trainer.fit(x, y, epochs=2, verbose=2)")
    assert len(cell.displays) == 1 and "epoch 2/2" in cell.text


@pytest.mark.slow
def test_a_long_run_stays_small(running):
    started, _ = running
    cell = started.run("_ = looplab.Trainer(model, 'adam', loss).fit(x, y, epochs=450, batch_size=640)")
    assert len(re.findall(r"^epoch", cell.text, re.MULTILINE)) == 450
    assert 5 <= len(cell.displays) <= 6
    assert max(len(shown["text/plain"]) for shown in cell.displays) < 10_000
    assert cell.updates < 400


@pytest.mark.slow
def test_a_fit_in_a_thread_shows_its_lines(running):
    started, _ = running
    cell = started.run(
        "import threading\n"
        "own = looplab.Trainer(model, 'adam', loss)\n"
        "thread = threading.Thread(target=own.fit, args=(x, y), kwargs={'epochs': 3})\n"
        "thread.start(); thread.join(); own"
    )
    assert "epoch 3/3" in cell.displays[0]["text/plain"]
    assert "step 60" in cell.displays[-1]["text/plain"]


@pytest.mark.slow
def test_interrupts_without_patience_do_not_end_the_kernel(running):
    started, _ = running
    source = (
        "import os, signal, time\n"
        "class Deaf(looplab.Callback):\n"
        "    every = 1\n"
        "    def on_step(self, event, controls):\n"
        "        for _ in range(4):\n"
        "            try:\n"
        "                os.kill(os.getpid(), signal.SIGINT); time.sleep(1)\n"
        "            except KeyboardInterrupt:\n"
        "                pass\n"
        "        time.sleep(7)\n"
        "own = looplab.Trainer(model, 'adam', loss, callbacks=[Deaf()])\n"
        "own.fit(x, y, epochs=3)"
    )
    cell = started.run(source)
    assert "interrupted at step 1; another fit of this trainer continues" in cell.error
    cell = started.run("own.fit(x[:64], y[:64], epochs=1, callbacks=[]); print('alive')")
    assert "alive" in started.run("print('alive')").text
