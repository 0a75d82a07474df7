"""What a manifest says of a run is what a run saves, or it is damaged; never some other error."""

import copy
import json
import random
from pathlib import Path

import pytest

import looplab
from looplab.checkpoint import bundle
from looplab.training import saved_values
from looplab.training.progress import Progress

ZOO = Path(__file__).parents[1] / "checkpoint" / "zoo"
OLD = [*sorted(ZOO.glob("**/checkpoints/step-*")), ZOO / "version_1" / "step-00000004"]


@pytest.mark.fault(26)
@pytest.mark.parametrize("path", OLD, ids=lambda path: f"{path.parent.parent.name} {path.name}")
def test_what_earlier_versions_saved_is_taken(path):
    saved_values.check(path, bundle.read_manifest(path))


def changed(change):
    """A manifest of the zoo, changed; and where it is."""
    path = OLD[-2]
    manifest = copy.deepcopy(bundle.read_manifest(path))
    change(manifest)
    return path, manifest


DAMAGE = {
    "values.progress has no 'step'": lambda m: m["values"]["progress"].pop("step"),
    "values has no 'progress'": lambda m: m["values"].pop("progress"),
    "values has no 'position'": lambda m: m["values"].pop("position"),
    "values.progress.epochs.length is 0": lambda m: m["values"]["progress"]["epochs"].update(length=0),
    "values.progress.epochs has an unknown 'lenght'": lambda m: m["values"]["progress"]["epochs"].update(
        lenght=1
    ),
    "values.progress.sums.loss is 3": lambda m: m["values"]["progress"]["sums"].update(loss=3),
    "values.callbacks[0] has no 'class'": lambda m: m["values"]["callbacks"][0].pop("class"),
    "values.execution.mode is 1": lambda m: m["values"]["execution"].update(mode=1),
    "values.progress.top[0].value is 'x'": lambda m: m["values"]["progress"]["top"][0].update(value="x"),
    "values.topology.replicas is true": lambda m: m["values"]["topology"].update(replicas=True),
    "it has no 'logs'": lambda m: m.pop("logs"),
    "is of step 11": lambda m: m["values"]["progress"].update(step=11, settled=11),
    "settled up to 13": lambda m: m["values"]["progress"].update(settled=13),
}


@pytest.mark.fault(17, 33)
@pytest.mark.parametrize("said", DAMAGE)
def test_what_no_run_saves_is_damaged_and_says_where(said):
    with pytest.raises(looplab.CheckpointError) as refused:
        saved_values.check(*changed(DAMAGE[said]))
    assert said in str(refused.value) and "is damaged" in str(refused.value)


@pytest.mark.fault(17)
def test_a_flipped_bit_of_a_manifest_without_a_digest_is_the_one_error_or_can_be_used(tmp_path):
    content, drawn = (OLD[-2] / "manifest.json").read_bytes(), random.Random(0)
    path = tmp_path / OLD[-2].name
    path.mkdir()
    refused = 0
    for _ in range(400):
        broken = bytearray(content[: content.index(b'"logs"') + 900])  # values and logs, not all arrays
        broken[drawn.randrange(len(broken))] ^= 1 << drawn.randrange(8)
        (path / "manifest.json").write_bytes(broken + content[len(broken) :])
        try:
            manifest = bundle.read_manifest(path)
            saved_values.check(path, manifest)
        except looplab.CheckpointError as error:
            assert "damaged" in str(error) or "cannot be read" in str(error)
            refused += 1
            continue
        Progress.from_json(manifest["values"]["progress"])
        json.dumps(manifest)
    assert refused > 100
