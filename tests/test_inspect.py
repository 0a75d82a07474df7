"""`python -m looplab.inspect` as a real process: what the data is like, and nothing else."""

import re

from tests.process import PROJECT, ended, snapshot, start, write

MORE = """

@looplab.configurable
def spoilt(rows=40):
    found = points(rows)
    found["train"][0][3] = np.nan
    return {**found, "other": found["train"]}


def stops():
    yield points()["train"]
    raise OSError("a mistake in the data")


@looplab.configurable
def stream():
    return {"train": stops}
"""


def inspect(*words, cwd):
    return ended(start(*words, cwd=cwd, module="looplab.inspect"))


def lines_of(said):
    """{split: {label: text}}"""
    found, split = {}, ""
    for line in said.splitlines():
        if line.startswith("  "):
            label, text = re.split(r"\s{2,}", line.strip(), maxsplit=1)
            found[split][label] = text
        elif line:
            split = line
            found[split] = {}
    return found


def test_every_set_is_described_and_nothing_is_written(tmp_path):
    write(tmp_path, {**PROJECT, "mine.py": PROJECT["mine.py"] + MORE})
    before = snapshot(tmp_path)
    words = ["data.source._target_=mine.spoilt", "data.validation_steps=1"]
    code, said = inspect("experiment=mine", *words, cwd=tmp_path)
    assert code == 0, said
    found = lines_of(said)
    assert list(found) == ["train", "validation", "other", "nothing was written"]
    train = found["train"]
    assert train["data"] == "40 examples shuffled by index, batch 10, 4 steps an epoch"
    assert train["batch"] == "(float32 [10, 4], int64 [10])"
    assert train["looked at"] == "40 examples"
    assert train["values: inputs"].endswith("; 4 of 160 values are not finite")
    assert train["values: targets"].startswith("from 0 to 1, mean 0.")
    assert re.match(r"4: .*, .*, .*, ", train["example: inputs"])
    zeros, ones = map(int, re.match(r"2; 0: (\d+) \(.*%\), 1: (\d+) \(", train["classes"]).groups())
    assert zeros + ones == 40
    assert re.match(r"\S+ batches/s, \S+ examples/s", train["rate"])
    assert "1 step an epoch" in found["validation"]["data"]
    assert {name: text for name, text in snapshot(tmp_path).items() if "__pycache__" not in name} == before


def test_a_mistake_in_the_code_of_the_data_is_named(tmp_path):
    write(tmp_path, {**PROJECT, "mine.py": PROJECT["mine.py"] + MORE})
    words = ["data.source._target_=mine.stream", "data.batch_size=null"]
    code, said = inspect("experiment=mine", *words, cwd=tmp_path)
    assert code == 5, said
    assert said.startswith("looplab: OSError: a mistake in the data (") and "in stops)" in said
    assert "reading batch 1 (counted from 0) of the generator stops" in said
