"""The mean over seeds and folds at the end of a sweep, from what its jobs have left behind."""

import csv
import json
import math
import re
import statistics

import pytest

from looplab.cli.sweep import end as sweep_end
from tests.process import PROJECT, ended, start, write


class Ended:
    """A sweep that has come to its end."""

    def __init__(self, directory):
        self.directory, self.lifeline = directory, self
        self.signal = None

    def close(self):
        pass


def job(folder, number, words, value=None, status="finished", exit_code=0):
    """Writes what a job leaves behind."""
    best = None if value is None else {"monitor": "val_loss", "value": value, "step": 5, "epoch": 1}
    best = best and best | {"values": {"val_loss": best["value"]}}
    outcome = {"status": status, "exit_code": exit_code, "step": 5, "seconds": 1.0, "best": best}
    files = {
        "job.json": {"words": words, "configuration": "x", "exit_code": exit_code, "reason": None},
        "outcome.json": {**outcome, "reason": None, "last_checkpoint": None},
    }
    write(folder / str(number), {name: json.dumps(content) for name, content in files.items()})
    write(folder / str(number), {"config.yaml": "checkpoint: {mode: auto}\n"})


def results(folder, capsys, fixed=("experiment",)):
    """Ends the sweep; returns the lines of `results.csv` and what was printed."""
    write(folder, {"sweep.json": json.dumps({"words": [], "fixed": list(fixed), "jobs": None})})
    sweep_end.end(Ended(folder), 0)
    with (folder / "results.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file)), re.sub(r" +", " ", capsys.readouterr().out)


def test_the_mean_over_seeds_and_folds_is_per_setting_of_all_else(tmp_path, capsys):
    values = {"8": [0.5, 0.7, 0.6, 0.4], "16": [0.2, 0.1, 0.3, 0.4]}
    number = 0
    for units, own in values.items():
        for place, value in enumerate(own):
            words = [f"model.units={units}", f"seed={place // 2}", f"data.fold={place % 2}"]
            job(tmp_path, number, ["experiment=mine", *words], value)
            number += 1
    found, said = results(tmp_path, capsys)
    assert list(found[0]) == [
        *("job", "model.units", "seed", "data.fold", "status", "val_loss"),
        *("step", "seconds", "exit_code", "reason", "mean", "std", "n"),
    ]
    assert len(found) == 8
    for row in found:
        own = values[row["model.units"]]
        assert float(row["mean"]) == pytest.approx(statistics.mean(own))
        assert float(row["std"]) == pytest.approx(statistics.stdev(own))
        assert row["n"] == "4"
    assert "over seed and data.fold (std is the sample standard deviation, with n - 1)" in said
    assert re.search(r"model.units n mean val_loss std \n.*\n 16 4 0\.25 0\.129099 \n 8 4 0\.55", said)
    assert "left out" not in said


def test_jobs_without_a_value_are_left_out_and_told(tmp_path, capsys):
    for seed, (value, status, code) in enumerate(
        [(1.0, "finished", 0), (0.1, "failed", 1), (3.0, "stopped", 0), (None, "diverged", 4)]
    ):
        job(tmp_path, seed, [f"seed={seed}", "model.units=8"], value, status, code)
    job(tmp_path, 4, ["seed=0", "model.units=9"], None)
    job(tmp_path, 5, ["seed=0", "model.units=10"], 9.0)
    found, said = results(tmp_path, capsys)
    assert [(row["job"], row["mean"], row["n"]) for row in found] == [
        *(("0", "2.0", "2"), ("2", "2.0", "2"), ("5", "9.0", "1")),
        *(("1", "2.0", "2"), ("3", "2.0", "2"), ("4", "", "0")),
    ]
    assert float(found[0]["std"]) == pytest.approx(math.sqrt(2)) and found[2]["std"] == ""
    assert "8 2 2 1.41421 job 1 failed; job 3 diverged" in said
    assert "10 1 9 - " in said
    assert "9 0 - - job 4 without a value" in said


def test_values_that_are_not_finite_do_not_end_it(tmp_path, capsys):
    for seed, value in enumerate([1.0, math.inf, 2.0]):
        job(tmp_path, seed, [f"seed={seed}"], value)
    found, _ = results(tmp_path, capsys)
    assert {(row["mean"], row["std"], row["n"]) for row in found} == {("inf", "nan", "3")}


def test_without_seeds_and_folds_there_is_no_second_table(tmp_path, capsys):
    for number, rate in enumerate(("0.1", "0.2")):
        job(tmp_path, number, [f"optimizer.learning_rate={rate}", "seed=3"], 1.0)
    found, said = results(tmp_path, capsys, fixed=("seed",))
    assert "mean" not in found[0] and "mean" not in said


@pytest.mark.slow
def test_a_sweep_of_seeds_and_folds(tmp_path):
    write(tmp_path, PROJECT)
    words = ["--multirun", "experiment=mine", "epochs=2", "data.folds=2", "seed=0,1", "data.fold=0,1"]
    code, said = ended(start(*words, "run_dir=sweep", cwd=tmp_path))
    assert code == 0, said
    with (tmp_path / "sweep" / "results.csv").open(encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    values = [float(row["val_loss"]) for row in found]
    assert len({*values}) == 4
    assert [float(row["std"]) for row in found] == [pytest.approx(statistics.stdev(values))] * 4
    assert "over seed and data.fold" in said
    assert "fold 1 of 0 to 1: 25 training examples, 25 validation examples" in said
