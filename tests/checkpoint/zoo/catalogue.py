"""The catalogue of damaged and hostile checkpoints, and what they are made with.

A specimen is a function that spoils a good checkpoint and is called what is wrong with it. None may be read:
nothing may come of one but the one error, in bounded time and memory.
"""

import json
import struct

import numpy as np

from looplab.checkpoint import Store
from looplab.runs import sealed

ARRAYS = {
    "models/model/dense/kernel": np.arange(6, dtype="float32").reshape(2, 3),
    "models/model/dense/other": np.arange(6, dtype="float32").reshape(2, 3) + 1,
    "flags": np.array([True, False]),
    "loop/step": np.int64(8),
    "none": np.zeros((0, 3)),
}
KERNEL, OTHER = list(ARRAYS)[:2]
SPECIMENS = {}  # by name: the function, and the rows of the table of faults that it belongs to


def good(folder, *steps):
    """A store of good checkpoints of these steps."""
    store = Store(folder / "checkpoints")
    for step in steps:
        best = {"monitor": "val_loss", "value": 0.5, "step": steps[0], "epoch": 1, "values": {"loss": 1.0}}
        values = {"progress": {"step": step, "top": [best]}, "worst": float("nan")}
        store.save(step, ARRAYS, {"values": values, "logs": {"metrics.jsonl": 10 * step}})
    return store


def same(arrays, others):
    """Whether arrays have the same names, dtypes, shapes and bits."""
    kinds = [{name: (a.dtype, a.shape, a.tobytes()) for name, a in some.items()} for some in (arrays, others)]
    return kinds[0] == kinds[1]


def specimen(*faults):
    """Enters a function in the catalogue."""

    def kept(spoil):
        assert spoil.__name__ not in SPECIMENS
        SPECIMENS[spoil.__name__] = spoil, faults
        return spoil

    return kept


def family(name, spoil, values, *faults):
    """Enters `spoil(path, value)` once for each value; `name` has a place for what each is called."""
    for called, value in values.items():

        def one(path, value=value):
            spoil(path, value)

        one.__name__ = name.format(called)
        specimen(*faults)(one)


def arrays_of(path):
    return path / "arrays.safetensors"


def manifest_of(path):
    return path / "manifest.json"


def rewrite(path, **entries):
    """Changes entries of the manifest; `...` takes one away."""
    manifest = {**json.loads(manifest_of(path).read_text()), **entries}
    manifest = {key: value for key, value in manifest.items() if value is not ... and key != "sha256"}
    reseal(path, json.dumps(manifest))


def reseal(path, text):
    """Writes a manifest as somebody does who knows how its digest is made."""
    manifest_of(path).write_text(sealed.seal(text, 1))


def unsealed(path):
    """The text of the manifest without its digest."""
    body, _ = sealed.body_of_json(manifest_of(path).read_bytes())
    return body.decode()


def relist(path, change):
    """Changes what the manifest lists of the arrays."""
    listed = json.loads(manifest_of(path).read_text())["arrays"]
    change(listed)
    rewrite(path, arrays=listed)


def described(path, **facts):
    """Changes shape, dtype or digest of the kernel in the manifest; `...` takes one away."""

    def change(listed):
        listed[KERNEL] |= facts
        listed[KERNEL] = {key: value for key, value in listed[KERNEL].items() if value is not ...}

    relist(path, change)


def named(path, name):
    """Gives the kernel another name, in both files."""

    def change(entries):
        entries[name] = entries.pop(KERNEL)

    relist(path, change)
    reheaded(path, change)


def parts(path):
    """Header and content of the arrays' file."""
    whole = arrays_of(path).read_bytes()
    size = int.from_bytes(whole[:8], "little")
    return json.loads(whole[8 : 8 + size]), whole[8 + size :]


def put(path, header, content, size=None):
    """Writes the arrays' file, perhaps with a lie about the size of its header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode("utf-8", "surrogatepass")
    arrays_of(path).write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + content)


def reheaded(path, change):
    """Changes the header of the arrays' file."""
    header, content = parts(path)
    change(header)
    put(path, header, content)


def both(path, **facts):
    """Changes what both files say of the kernel."""
    described(path, **facts)
    reheaded(path, lambda header: header[KERNEL].update(facts, dtype="F32"))


def elsewhere(path, file):
    """Moves a file out of the checkpoint, and links to it."""
    moved = path.parent.parent / f"elsewhere-{file.name}"
    file.rename(moved)
    file.symlink_to(moved)
