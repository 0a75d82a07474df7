"""Files that are read again, with every kind of mistake: what was written, or what the guide says.

Never another exception, and never other content. The ordinary tests try some hundred mistakes, the slow ones
as many flipped bits as there are bytes.
"""

import random
from pathlib import Path

import numpy as np
import pytest

from looplab.checkpoint import Store, bundle
from looplab.cli.sweep import files
from looplab.config import config_file
from looplab.data.records import _keep, _kept
from looplab.errors import DamagedFile
from looplab.execution import autotune_cache
from looplab.execution.autotune_trials import Trial
from looplab.loggers import JsonLines, mend, read_records
from looplab.loggers.tracker_state import Sent
from looplab.protocols import Record
from looplab.runs import directory, sealed
from tests.checkpoint.zoo.catalogue import same
from tests.faults.mutations import flipped, mutations
from tests.process import read_json

FEW = 120


def broken(content, slow):
    """Versions of a file: a few of every kind, or as many flipped bits as bytes."""
    if not slow:
        return mutations(content, FEW)
    drawn = random.Random(1)
    return (flipped(content, drawn.randrange(8 * len(content))) for _ in range(len(content)))


extents = pytest.mark.parametrize(
    "slow",
    [pytest.param(False, id="a few"), pytest.param(True, id="as many as bytes", marks=pytest.mark.slow)],
)


RECORDS = [
    Record(step, step // 4 + 1, split, {"loss": 1 / step, "accuracy": float("nan")}, {"seconds": step / 7})
    for step in range(1, 13)
    for split in ("train", "validation")
]


@extents
@pytest.mark.fault(17, 18)
def test_the_record_of_truth_is_what_was_written_or_it_is_said(slow, tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    logger = JsonLines(path)
    for record in RECORDS:
        logger.write(record)
    size, digest = logger.offsets()[path.name], logger.digests()[path.name]
    logger.close()
    content = path.read_bytes()
    assert (mend(path, size, digest, 12), caplog.messages) == (size, [])
    for number, change in enumerate(broken(content, slow)):
        own = tmp_path / str(number) / path.name
        own.parent.mkdir()
        own.write_bytes(change)
        list(read_records(own))
        caplog.clear()
        logger = JsonLines(own)
        logger.rewind({own.name: mend(own, size, digest if number % 2 else None, 12)})
        logger.close()
        said, kept = list(caplog.messages), own.read_bytes()
        if number % 2 and change[:size] != content:
            assert any("has lost records" in text or "is damaged" in text for text in said), change
        caplog.clear()
        assert len(list(read_records(own))) == kept.count(b"\n") and caplog.messages == []
        if not said and number % 2:
            assert kept == content


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Checkpoints of steps 5 and 8 with what a run keeps."""
    store = Store(tmp_path_factory.mktemp("run") / "checkpoints")
    for step in (5, 8):
        best = {"monitor": "val_loss", "value": 0.5, "step": 5, "epoch": 1, "values": {"val_loss": 0.5}}
        values = {"progress": {"step": step, "settled": step, "sums": {}, "top": [best]}, "callbacks": []}
        arrays = {"models/model/kernel": np.arange(6, dtype="float32"), "loop/step": np.int64(step)}
        facts = {"values": values | {"position": {}}, "logs": {"metrics.jsonl": 10}}
        store.save(step, arrays, facts)
    return store


@extents
@pytest.mark.fault(17, 18, 33)
@pytest.mark.parametrize("name", [bundle.MANIFEST, bundle.ARRAYS])
def test_a_checkpoint_is_what_was_saved_or_the_one_before_is_taken(name, slow, store, caplog):
    path = store.path(8)
    content = (path / name).read_bytes()
    whole = bundle.read_manifest(path), bundle.read(path)
    try:
        for change in broken(content, slow):
            (path / name).write_bytes(change)
            caplog.clear()
            if bundle.verify(path) is None:
                assert (bundle.read_manifest(path), same(bundle.read(path), whole[1])) == (whole[0], True)
                continue
            found, _, manifest = store.newest()
            assert (found, manifest["step"]) == (store.path(5), 5)
            assert "step-00000008" in caplog.text and "Taking step-00000005 instead" in caplog.text
    finally:
        (path / name).write_bytes(content)


RUN = Path(__file__).parents[1] / "checkpoint" / "zoo" / "runs_9c05644" / "command"
TRIALS = [Trial("graph", 300.5, 1.5), Trial("xla_loop", 30.25, 2.5), Trial("xla_step", why_not="too slow")]
JOB = {"words": ["seed=1"], "configuration": "0a1b2c3d", "exit_code": 0, "reason": None}


def sent(path):
    """What a tracker was sent of a run."""
    found = Sent(path)
    return found.run, found._steps


def index(path):
    """The kept offsets of records."""
    found = _kept(path)
    return None if found is None else found.tolist()


# By file: what writes it into a folder, what reads it, and what is read of a damaged one.
FILES = {
    "outcome.json": (
        lambda folder: directory.write_outcome(folder, read_json(RUN / "outcome.json")),
        lambda path: directory.read_outcome(path.parent),
        None,
    ),
    "environment.json": (
        lambda folder: directory.write_sealed(
            folder / "environment.json", read_json(RUN / "environment.json")
        ),
        lambda path: directory.earlier_choice(path.parent),
        {},
    ),
    "config.yaml": (
        lambda folder: directory.write_text(
            folder / "config.yaml", sealed.commented((RUN / "config.yaml").read_text())
        ),
        lambda path: config_file.read(path.parent),
        ...,
    ),
    "job.json": (
        lambda folder: directory.write_sealed(folder / "job.json", JOB),
        lambda path: files.job_facts(path.parent),
        ...,
    ),
    "sweep.json": (
        lambda folder: directory.write_sealed(
            folder / "sweep.json", {"words": ["seed=1,2"], "fixed": ["epochs"], "jobs": 2}
        ),
        lambda path: files.sweep_facts(path.parent),
        {"words": [], "fixed": [], "jobs": None},
    ),
    "tracker.json": (lambda folder: fill(Sent(folder / "tracker.json")), sent, (None, {})),
    "looplab/execution/key.json": (
        lambda folder: autotune_cache.remember("key", TRIALS, 3.5),
        lambda path: autotune_cache.remembered("key"),
        None,
    ),
    "data.tfrecord.npy": (
        lambda folder: _keep(folder / "data.tfrecord.npy", np.arange(40) * 17),
        index,
        None,
    ),
}


def fill(found):
    found.begin("a1b2")
    for step in (1, 2, 3):
        found.new("train", step, ["loss", "accuracy"])


@extents
@pytest.mark.fault(17, 18)
@pytest.mark.parametrize("name", FILES)
def test_a_file_is_what_was_written_or_counts_as_damaged(name, slow, tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    caplog.set_level("INFO")
    write, read, nothing = FILES[name]
    write(tmp_path)
    path = tmp_path / name
    content, whole = path.read_bytes(), read(path)
    assert whole != nothing and caplog.messages == []
    for change in broken(content, slow):
        path.write_bytes(change)
        caplog.clear()
        try:
            found = read(path)
        except DamagedFile as error:
            assert nothing is ... and str(path) in str(error) and error.exit_code == 3
            continue
        if found != whole:
            assert found == nothing, change
            assert str(path) in caplog.text or name.endswith(".npy")
