"""Saves that nobody waits for: what is saved is the moment it was asked for, and no error is lost."""

import errno
import json
import os
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.checkpoint import Saver, Store, bundle, state
from tests.process import HANGS, differing, read_json

X = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
FACTS = {"values": {}, "logs": {}}


def arrays(step):
    return {"a": np.full(1000, step, "float32"), "loop/step": np.int64(step)}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "checkpoints")


class Gate:
    """Holds a save back until it is opened."""

    def __init__(self, monkeypatch):
        self.opened, self.reached = threading.Event(), threading.Event()
        write = bundle.write

        def held(*arguments, **how):
            self.reached.set()
            assert self.opened.wait(HANGS)
            write(*arguments, **how)

        monkeypatch.setattr(bundle, "write", held)


def test_a_save_returns_before_it_is_written_and_the_next_waits_for_it(store, monkeypatch):
    gate, saver = Gate(monkeypatch), Saver(store)
    path = saver.save(3, arrays(3), FACTS, keep_last=1)
    assert gate.reached.wait(HANGS) and not path.exists() and saver.is_busy()
    gate.opened.set()
    saver.save(5, arrays(5), FACTS, keep_last=1)
    saver.finish()
    assert not saver.is_busy() and store.steps() == [5] and len(saver.writes) == 2
    assert looplab.checkpoint.read(store.path(5))["a"][0] == 5


@pytest.mark.fault(12)
def test_an_error_comes_at_the_next_call_and_once(store, monkeypatch):
    saver = Saver(store)

    def failing(*arguments, **how):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(bundle, "write", failing)
        saver.save(3, arrays(3), FACTS, keep_last=1)
        assert not saver.is_busy(HANGS)
        with pytest.raises(
            looplab.errors.StorageError, match=r"step 3 could not be saved.*Input/output error"
        ):
            saver.check()
    saver.check()
    saver.save(4, arrays(4), FACTS, keep_last=1)
    saver.finish()
    assert store.steps() == [4]


@pytest.mark.fault(5, 10)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.EDQUOT])
def test_a_full_disk_is_tried_again_and_an_error_in_the_end(store, monkeypatch, number, caplog):
    saver = Saver(store, asynchronous=False)
    for step in (1, 2, 3):
        saver.save(step, arrays(step), FACTS, keep_last=3)
    tries = []

    def full(directory, *arguments, **how):
        tries.append(directory.name)
        raise OSError(number, "there is no room")

    with monkeypatch.context() as broken:
        broken.setattr(bundle, "write", full)
        for step in (4, 5, 6):
            saver.save(step, arrays(step), FACTS, keep_last=2)
        assert store.steps() == [2, 3] and tries == [f"step-0000000{s}" for s in (4, 4, 5, 5, 6, 6)]
        assert caplog.text.count("Training continues; the next save tries again.") == 3
        with pytest.raises(looplab.errors.StorageError, match=r"step 6 .*MB are needed"):
            saver.finish()
        with pytest.raises(looplab.errors.StorageError, match="step 7 could not be saved"):
            saver.save(7, arrays(7), FACTS, keep_last=2)
    saver.save(8, arrays(8), FACTS, keep_last=2)  # there is room again
    saver.finish()
    assert store.steps() == [3, 8]


@pytest.mark.fault(5)
def test_a_new_best_that_finds_no_room_does_not_cost_the_old_one(store, monkeypatch):
    def best(step):
        evaluation = {"step": step, "monitor": "loss", "value": 1.0 / step}
        return {"values": {"progress": {"top": [evaluation]}}, "logs": {}}

    saver = Saver(store, asynchronous=False)
    for step in (1, 2, 3, 4):
        saver.save(step, arrays(step), best(1), keep_last=2, keep={1})
    with monkeypatch.context() as broken:
        broken.setattr(bundle, "save_file", full)
        saver.save(5, arrays(5), best(5), keep_last=2, keep={5})
        assert store.steps() == [1, 3, 4]
    saver.save(5, arrays(5), best(5), keep_last=2, keep={5})
    assert store.steps() == [4, 5]


def full(content, path):
    raise OSError(errno.ENOSPC, "there is no room")


def steps_on_disk(store):
    """What a start would find after the process was killed now."""
    return sorted(
        json.loads(manifest.read_text())["values"]["x"]
        for manifest in store.directory.glob("*/manifest.json")
    )


@pytest.mark.fault(11)
def test_a_step_that_is_saved_again_keeps_its_old_copy_until_the_new_one_is_safe(store, monkeypatch):
    store.save(3, arrays(3), {"values": {"x": "old"}, "logs": {}})
    there, sync, each = [], bundle.sync, bundle.each

    def seen(call):
        def wrapper(path):
            there.append((call.__name__, path.name, steps_on_disk(store)))
            return call(path)

        return wrapper

    monkeypatch.setattr(bundle, "sync", seen(sync))
    monkeypatch.setattr(bundle, "each", seen(each))
    store.save(3, arrays(3), {"values": {"x": "new"}, "logs": {}})
    assert {"each", "sync"} == {name for name, *_ in there}
    assert [found for *_, found in there] == [["new", "old"]] * len(there)
    assert there[-1][:2] == ("sync", "checkpoints")  # the last thing that is waited for
    assert [path.name for path in store.directory.iterdir()] == ["step-00000003"]


@pytest.mark.fault(5, 9, 17)
@pytest.mark.parametrize("what", ["verified", "renamed"])
def test_a_step_that_cannot_be_saved_again_is_as_it_was(what, store, monkeypatch):
    store.save(3, arrays(3), {"values": {"x": "old"}, "logs": {}})
    save_file, rename = bundle.save_file, type(store.directory).rename

    def damaged(content, path):
        save_file(content, path)
        path.write_bytes(path.read_bytes()[:-1] + b"x")

    def refused(path, to):
        if to == store.path(3) and not path.name.endswith(bundle.REPLACED):
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, to)

    with monkeypatch.context() as broken:
        if what == "verified":
            broken.setattr(bundle, "save_file", damaged)
        else:
            broken.setattr(type(store.directory), "rename", refused)
        with pytest.raises((looplab.CheckpointError, OSError)):
            store.save(3, arrays(3), {"values": {"x": "new"}, "logs": {}})
    assert [path.name for path in store.directory.iterdir()] == ["step-00000003"]
    assert steps_on_disk(store) == ["old"] and bundle.verify(store.path(3)) is None


@pytest.mark.fault(5)
def test_what_could_not_be_written_leaves_nothing_behind(store, monkeypatch):
    def half(content, path):
        path.write_bytes(b"half")
        raise bundle.SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )

    monkeypatch.setattr(bundle, "save_file", half)
    Saver(store, asynchronous=False).save(3, arrays(3), FACTS, keep_last=1)
    assert list(store.directory.iterdir()) == []


def net():
    layers = [keras.layers.BatchNormalization(), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((3,)), *layers])


class Everything(looplab.Trainer):
    """Changes variables in every way there is."""

    def setup(self):
        self.queue = tf.Variable(tf.zeros([4, 3]), trainable=False)
        self.table = tf.Variable(tf.zeros([4, 3]), trainable=False)
        self.count = tf.Variable(0, trainable=False)
        self.generator = tf.random.Generator.from_seed(1)

    def train_step(self, batch):
        logs = self.minimize(self.compute_loss, batch)
        self.queue[0].assign(batch[0][0])
        self.table.scatter_nd_update([[1]], [batch[0][1]])
        self.table.scatter_add(tf.IndexedSlices(batch[0][2:3], [2]))
        self.count.assign_add(1)
        self.queue[3].assign(self.generator.normal([3]))
        return logs


@pytest.mark.slow
@pytest.mark.fault(13)
@pytest.mark.parametrize("execution", ["graph", "xla_step", "xla_loop", "eager"])
def test_what_was_read_does_not_change_by_training_on(execution, strategy):
    if execution.startswith("xla") and strategy != "auto":
        pytest.skip("BatchNormalization over replicas does not compile in XLA")
    how = {"run_eagerly": True} if execution == "eager" else {"execution": execution}
    # Slices do not compile in XLA, and are not written on several replicas.
    kind = Everything if strategy == "auto" and not execution.startswith("xla") else looplab.Trainer
    trainer = kind(net, keras.optimizers.Adam(use_ema=True), "mse", ["mae"], strategy=strategy, **how)
    data = {"batch_size": 8, "verbose": 0}
    trainer.fit(X, X[:, :1], epochs=1, **data)
    read = state.read(trainer._engine.variables)
    copies = {path: array.copy() for path, array in read.items()}
    trainer.fit(X, X[:, :1], epochs=4, **data)
    after = state.read(trainer._engine.variables)
    assert [path for path in read if read[path].tobytes() != copies[path].tobytes()] == []
    same = [path for path in read if after[path].tobytes() == copies[path].tobytes()]
    assert all(
        path.startswith(("metrics/", "loop/learning_rate", "optimizers/optimizer/learning")) for path in same
    )


@pytest.mark.share(1)
@pytest.mark.promise(20)
@pytest.mark.fault(13)
def test_what_is_written_while_training_goes_on_is_what_would_have_been_waited_for(
    strategy, tmp_path, monkeypatch
):
    write, ahead = bundle.write, []
    monkeypatch.setattr("looplab.training.checkpointing._PATIENCE", HANGS)

    def saved(name, asynchronous):
        policy = looplab.CheckpointPolicy(every="4st", keep_last=9, asynchronous=asynchronous)
        optimizer = keras.optimizers.Adam(use_ema=True)
        how = {"strategy": strategy, "execution": "graph", "steps_per_execution": 1}
        run_dir = tmp_path / name
        trainer = looplab.Trainer(net, optimizer, "mse", ["mae"], checkpoint=policy, run_dir=run_dir, **how)

        def late(directory, *arguments, **how):
            """Writes when the run has gone on for two steps, where it does not wait for it."""
            step, until = int(directory.name[5:]), time.monotonic() + HANGS
            while asynchronous and trainer.step.numpy() < min(step + 2, 20) and time.monotonic() < until:
                time.sleep(0.001)
            ahead.append(int(trainer.step.numpy()) - step)
            write(directory, *arguments, **how)

        monkeypatch.setattr(bundle, "write", late)
        trainer.fit(X, X[:, :1], batch_size=2, verbose=0)  # one epoch
        outcome = read_json(run_dir / "outcome.json")["saves"]
        assert outcome["count"] == 5 and outcome["stall_seconds"] > 0
        store = Store(run_dir / "checkpoints")
        assert store.steps() == [4, 8, 12, 16, 20]
        found = [looplab.checkpoint.read(store.path(step)) for step in store.steps()]
        values = [looplab.checkpoint.read_manifest(store.path(step))["values"] for step in store.steps()]
        return found, values

    waited, values = saved("waited for", False)
    assert ahead == [0] * 5
    ahead.clear()
    written, same_values = saved("written meanwhile", True)
    assert all(steps >= 2 for steps in ahead[:4]) and ahead[4:] == [0]
    assert same_values == values
    for one, other in zip(written, waited, strict=True):
        assert differing(one, other) == []


@pytest.mark.fault(9, 12)
def test_a_save_that_fails_ends_the_run_at_the_next_step(tmp_path, monkeypatch):
    write, save, steps, savers = bundle.write, Saver.save, [], []

    def remembered(self, *arguments, **how):
        savers.append(self)
        return save(self, *arguments, **how)

    def failing(directory, *arguments, **how):
        if directory.name == "step-00000004":
            raise OSError(errno.EIO, "Input/output error")
        write(directory, *arguments, **how)

    class Watch(looplab.Callback):
        every = 1

        def on_step(self, event, controls):
            steps.append(event.step)
            assert not savers or not savers[-1].is_busy(HANGS)

    monkeypatch.setattr(bundle, "write", failing)
    monkeypatch.setattr(Saver, "save", remembered)
    policy = looplab.CheckpointPolicy(every="2st")
    trainer = looplab.Trainer(net, "sgd", "mse", callbacks=[Watch()], checkpoint=policy, run_dir=tmp_path)
    with pytest.raises(looplab.errors.StorageError, match="step 4 could not be saved"):
        trainer.fit(X, X[:, :1], batch_size=8, epochs=4, verbose=0)
    assert 4 <= steps[-1] <= 5
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert (outcome["status"], outcome["exit_code"]) == ("failed", 6)
    assert outcome["last_checkpoint"] == "step-00000002"


@pytest.mark.fault(14)
def test_saves_do_not_pile_up(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("looplab.training.checkpointing._PATIENCE", 0.0)
    gate = Gate(monkeypatch)

    class Opens(looplab.Callback):
        every = "5st"

        def on_step(self, event, controls):
            gate.opened.set()

    policy = looplab.CheckpointPolicy(every="2st", monitor="loss", mode="max")
    trainer = looplab.Trainer(net, "sgd", "mse", callbacks=[Opens()], checkpoint=policy, run_dir=tmp_path)
    trainer.fit(X, X[:, :1], batch_size=8, steps=12, verbose=0)
    assert "the checkpoint of step 4 is left out (1 so far)" in caplog.text
    assert Store(tmp_path / "checkpoints").steps()[-1] == 12


@pytest.mark.fault(8)
def test_a_folder_that_somebody_removed_is_made_again(tmp_path):
    import shutil

    class Removes(looplab.Callback):
        every = "3st"

        def on_step(self, event, controls):
            if event.step == 3:
                shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)

    policy = looplab.CheckpointPolicy(every="2st")
    trainer = looplab.Trainer(net, "sgd", "mse", callbacks=[Removes()], checkpoint=policy, run_dir=tmp_path)
    trainer.fit(X, X[:, :1], batch_size=8, steps=8, verbose=0)
    assert Store(tmp_path / "checkpoints").steps()[-1] == 8


def test_a_checkpoint_that_was_being_replaced_is_found_again(store):
    store.save(3, arrays(3), FACTS)
    store.path(3).rename(store.path(3).with_name(".step-00000003.replaced"))
    assert store.steps() == []
    store.recover()
    store.sweep()
    assert store.steps() == [3]
    store.save(3, {**arrays(3), "a": np.ones(2)}, FACTS)
    assert looplab.checkpoint.read(store.path(3))["a"].shape == (2,)
    assert [path.name for path in store.directory.iterdir()] == ["step-00000003"]


@pytest.mark.fault(11)
def test_everything_is_on_the_disk_before_anything_relies_on_it(store, tmp_path, monkeypatch):
    log = tmp_path / "metrics.jsonl"
    log.write_text("{}\n")
    store.save(1, arrays(1), FACTS)
    done, sync = [], bundle.sync
    monkeypatch.setattr(bundle, "sync", lambda path: (done.append(("sync", path.name)), sync(path)))
    rename = type(log).rename
    monkeypatch.setattr(
        type(log), "rename", lambda path, to: (done.append(("rename", to.name)), rename(path, to))[1]
    )
    Saver(store, asynchronous=False).save(2, arrays(2), FACTS, before=[log], keep_last=1)
    names = [name for kind, name in done]
    committed, dropped = names.index("step-00000002"), names.index(".step-00000001.deleted")
    for name in ("arrays.safetensors", "manifest.json", "metrics.jsonl"):
        assert names.index(name) < committed
    assert any(name.startswith(".step-00000002") for name in names[:committed])  # its own entries
    assert committed < names.index("checkpoints") < dropped  # the new name, before the old one goes
    done.clear()
    Saver(store, asynchronous=False, durable=False).save(3, arrays(3), FACTS, before=[log], keep_last=1)
    assert not [name for kind, name in done if kind == "sync"]


@pytest.mark.fault(11)
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="what a descriptor leads to is not known here")
def test_a_fit_has_its_logs_on_the_disk_before_a_checkpoint_counts(tmp_path, monkeypatch):
    saves, waited = {}, []  # by checkpoint: what was waited for since the one before
    fsync, rename = os.fsync, os.rename

    def noted(descriptor):
        waited.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def committed(path, to):
        if Path(to).name.startswith("step-"):
            saves[int(Path(to).name[5:])] = set(waited)
            waited.clear()
        rename(path, to)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "rename", committed)
    run, policy = tmp_path / "runs" / "mine", looplab.CheckpointPolicy(every="2st", asynchronous=False)
    logs = run / "tensorboard"
    trainer = looplab.Trainer(net, "sgd", "mse", checkpoint=policy, log_every=1, run_dir=run)
    data = {"validation_data": (X, X[:, :1]), "verbose": 0}
    trainer.fit(X, X[:, :1], batch_size=8, epochs=2, **data)  # evaluated after 5 steps, and after 10
    events = {split: next((logs / split).glob("events*")) for split in ("train", "validation")}
    assert list(saves) == [2, 4, 5, 6, 8, 10]
    for step, files in saves.items():
        assert {run / "metrics.jsonl", events["train"]} <= files
        assert (events["validation"] in files) == (step >= 5)
    # The names of what is new, and of no other.
    assert {tmp_path, tmp_path / "runs", run, logs, logs / "train"} <= saves[2]
    assert not {run, logs / "train"} & saves[4]
    assert {logs, logs / "validation"} <= saves[5] and logs / "validation" not in saves[6]


@pytest.mark.fault(6)
def test_a_disk_that_will_be_full_is_refused_before_the_first_step(tmp_path, monkeypatch):
    from looplab.checkpoint import saver

    usage = saver.shutil.disk_usage
    monkeypatch.setattr(saver.shutil, "disk_usage", lambda path: usage(path)._replace(free=300))
    trainer = looplab.Trainer(net, "adam", "mse", run_dir=tmp_path / "run")
    with pytest.raises(
        looplab.errors.StorageError, match=r"the run keeps 3, and one more .* 0.0 MB are free"
    ) as no:
        trainer.fit(X, X[:, :1], batch_size=8, verbose=0)
    assert no.value.exit_code == 6 and int(trainer.step.numpy()) == 0
    assert not (tmp_path / "run" / "checkpoints").exists()
