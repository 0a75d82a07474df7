"""Hundreds of kills: the run that comes out is the run that nobody disturbed, to the bit.

Each cell is a way to run steps, where their batches come from, and in how many pieces. The model of every
cell has dropout and averaged weights, its rows are shuffled, and early stopping ends the run.

scripts/test -n 0 -m slow tests/faults/test_soak.py                200 kills, spread over the cells
LOOPLAB_KILLS=1000 scripts/test -n 2 -m slow tests/faults/test_soak.py

Each cell has at least one, and two runs to the end; each of these takes six to nine seconds of a processor:
with -n 2 the 200 took 21 minutes.
"""

import itertools
import os
import random
import signal
import time

import pytest

from tests.faults.soaked import DATA, PIECES, PROJECT, REPLICAS, WAYS, words_of
from tests.process import assert_same_run, ended, read_json, start, steps, trained, wait_for, write

KILLS = int(os.environ.get("LOOPLAB_KILLS", "200"))

RESUMES = {"stream": "from the state of its pipeline", "stream in other orders": "by skipping batches"}

CROSSING = {cell: words_of(*cell) for cell in itertools.product(REPLICAS, WAYS, DATA, PIECES)}
CELLS = [cell for cell, words in CROSSING.items() if words is not None]
SHARE = {cell: max(1, KILLS // len(CELLS) + (i < KILLS % len(CELLS))) for i, cell in enumerate(CELLS)}


def test_no_cell_is_left_out_but_those_that_cannot_be():
    """Whatever replicas exchange does not compile, and the whole loop exchanges gradients."""
    left_out = {cell[:2] for cell in CROSSING if cell not in CELLS}
    assert left_out == {(2, "xla loop")} and len(CELLS) == 42
    assert sum(SHARE.values()) == max(KILLS, len(CELLS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("soak")
    write(path, PROJECT)
    return path


def disturb(words, run_dir, folder):
    """Starts the run, and sends it a signal at some instant; returns which, and what it came to."""
    number = random.choice([signal.SIGKILL, signal.SIGTERM])
    process = start(*words, f"run_dir={run_dir.name}", cwd=folder)
    before = steps(run_dir)[-1:]
    try:
        if random.random() < 0.8:  # once it trains; else whenever it may be
            wait_for(process, lambda: process.poll() is not None or steps(run_dir)[-1:] != before)
            time.sleep(random.uniform(0, 0.4))
        else:
            time.sleep(random.uniform(0, 12))
        process.send_signal(number)
        code, said = ended(process)
    finally:
        process.kill()
    assert code in (0, -number, 143), f"{signal.Signals(number).name} after {before}: {code}\n{said}"
    return code


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
@pytest.mark.promise(10, 13, 14, 17, 31)
@pytest.mark.fault(1, 2, 3, 4, 34, 39, 67)
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: "-".join(map(str, cell)).replace(" ", "_"))
def test_a_run_that_is_killed_again_and_again(cell, folder):
    words = CROSSING[cell]
    name = f"cell{CELLS.index(cell)}"
    reference, run_dir, kills, rounds = folder / f"{name}_whole", folder / name, 0, 0
    trained(*words, f"run_dir={reference.name}", cwd=folder)
    assert read_json(reference / "outcome.json")["status"] == "stopped"
    assert f"resumes {RESUMES.get(cell[2], '')}" in (reference / "log.txt").read_text()
    last = reference / "checkpoints" / f"step-{steps(reference)[-1]:08d}"
    kept = read_json(last / "manifest.json")["values"]["snapshot"]
    assert (kept is not None) == (cell[2] == "stream")
    while kills < SHARE[cell]:
        code = disturb(words, run_dir, folder)
        kills += code != 0
        if code == 0:  # it came to its end before
            assert_same_run(run_dir, reference)
            rounds += 1
            run_dir = folder / f"{name}_{rounds}"
    trained(*words, f"run_dir={run_dir.name}", cwd=folder)
    assert_same_run(run_dir, reference)
