"""`python -m looplab.check` as a real process: the plan, and nothing else."""

import re

from tests.process import PROJECT, ended, snapshot, start, write


def check(*words, cwd):
    return ended(start(*words, cwd=cwd, module="looplab.check"))


def test_the_plan_of_the_digits_is_printed_and_nothing_is_written(tmp_path):
    code, said = check("+experiment=digits", "run_dir=mine", cwd=tmp_path)
    assert code == 0, said
    assert list(tmp_path.iterdir()) == []
    lines = said.splitlines()
    assert lines[0].split() == ["model", "layer", "kind", "parameters", "trained", "memory"]
    plan = dict(
        re.split(r"\s{2,}", line, maxsplit=1) for line in lines[lines.index("") + 1 :] if "  " in line
    )
    assert plan["data"].startswith("1438 examples shuffled by index, batch 64, 23 steps an epoch")
    assert plan["batch"] == "0: float32 [?, 8, 8, 1], 1: int64 [?]"
    assert plan["length"] == "920 steps, 40 epochs of 23"
    assert plan["saved"].startswith("every 1ep: steps 23, 46, 69, ... (40 times)")
    assert 1.5 < float(re.match(r"loss (\S+); .* s with tracing", plan["step 1"])[1]) < 4
    assert re.match(r"loss \S+  accuracy \S+, on its first batch", plan["evaluation"])
    assert (
        len({line.index(plan[label]) for label in plan for line in lines if line.startswith(label + " ")})
        == 1
    )
    assert lines[-1] == "nothing was written"


def test_what_training_would_meet_is_met_here(tmp_path):
    write(tmp_path, PROJECT)
    before = snapshot(tmp_path)
    code, said = check("experiment=mine", "+trainer.fail=true", cwd=tmp_path)
    assert code == 1
    assert "a mistake in train_step" in said and "nothing was written" not in said
    code, said = check("experiment=mine", "checkpoint.every=often", cwd=tmp_path)
    assert code == 2
    assert said.startswith("looplab: checkpoint.every: expected a positive interval")
    assert {name: text for name, text in snapshot(tmp_path).items() if "__pycache__" not in name} == before
