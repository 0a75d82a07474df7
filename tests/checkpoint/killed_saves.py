"""Kills one save at each of its calls to the system, in turn, and says what is found afterwards.

    python killed_saves.py FOLDER synchronous|asynchronous

Prints one line of JSON for each: the call, whether the kill came before or amid it, and what the store has.
Imports no TensorFlow, so that it may fork.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np

from looplab.checkpoint import Saver, Store, bundle

CALLS = ("rename", "mkdir", "unlink", "rmdir", "fsync")
FACTS = {"values": {"x": [1, 2]}, "logs": {"metrics.jsonl": 3}}


def arrays(step):
    return {"a": np.full((100, 7), step, "float32"), "b": np.arange(step), "loop/step": np.int64(step)}


def dying(count, amid):
    """Has the process killed at its `count`-th call; returns the calls that were made."""
    made = []

    def reached(name):
        made.append(name)
        return len(made) == count + 1

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def wrapped(name, call):
        def wrapper(*arguments, **how):
            due = reached(name)
            if due and not amid:
                die()
            try:
                return call(*arguments, **how)
            finally:
                if due:
                    die()

        return wrapper

    def halved(name, call, place):
        def wrapper(*arguments, **how):
            due = reached(name)
            if due and not amid:
                die()
            result = call(*arguments, **how)
            if due:
                path = Path(arguments[place])
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
                die()
            return result

        return wrapper

    for name in CALLS:
        setattr(os, name, wrapped(name, getattr(os, name)))
    bundle.save_file = halved("arrays", bundle.save_file, 1)
    Path.write_text = halved("manifest", Path.write_text, 0)
    return made


def save(folder, step, asynchronous, keep_last=2):
    saver = Saver(Store(folder / "checkpoints"), asynchronous=asynchronous)
    saver.save(step, arrays(step), FACTS, before=[folder / "metrics.jsonl"], keep_last=keep_last)
    saver.finish()


def found(folder, step):
    """What the next start finds, and whether it can go on."""
    store = Store(folder / "checkpoints")
    store.recover()
    _, content, manifest = store.newest()
    own = arrays(manifest["step"])
    same = content.keys() == own.keys() and all(np.array_equal(content[k], own[k]) for k in own)
    whole = all(bundle.verify(store.path(each)) is None for each in store.steps())
    store.sweep()
    save(folder, step + 1, False)
    left = sorted(entry.name for entry in store.directory.iterdir())
    return {"step": manifest["step"], "same": same, "whole": whole, "after": left}


def main(folder, how, replaces):
    asynchronous, folder = how == "asynchronous", Path(folder)
    begun = folder / "begun"
    begun.mkdir(parents=True)
    (begun / "metrics.jsonl").write_text("{}\n")
    for step in (1, 2, 3) if replaces else (1, 2):
        save(begun, step, False)
    count = 0
    while True:
        for amid in (False, True):
            copy = folder / f"{count}{amid}"
            shutil.copytree(begun, copy)
            child = os.fork()
            if child == 0:
                made = dying(count, amid)
                save(copy, 3, asynchronous)
                os._exit(0 if len(made) <= count else 9)
            _, status = os.waitpid(child, 0)
            ended = os.WIFEXITED(status)
            if ended and os.WEXITSTATUS(status):
                sys.exit(f"the save failed with {os.WEXITSTATUS(status)}")
            print(json.dumps({"call": count, "amid": amid, "ended": ended, **found(copy, 3)}))
        if ended:
            return
        count += 1


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], "replaces" in sys.argv[3:])
