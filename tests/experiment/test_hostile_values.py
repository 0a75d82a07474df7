"""No registered target acts outside its run, whatever values a file gives: tried, and watched."""

import json
import subprocess
import sys

import pytest

from tests.process import ROOT, environment


def tried(folder, part, parts, many, timeout):
    words = ["-m", "tests.experiment.hostile_values", str(folder), str(part), str(parts), str(many)]
    path = environment(PYTHONPATH=str(ROOT))
    process = subprocess.run(
        [sys.executable, *words], cwd=folder, env=path, capture_output=True, text=True, timeout=timeout
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


def test_some_hostile_values_do_nothing_outside_a_run(tmp_path):
    found = tried(tmp_path, 3, 32, 3, 600)
    assert found["violations"] == []
    assert min(found["counts"].values()) > 5, found["counts"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_hostile_value_does_anything_outside_a_run(tmp_path):
    found = tried(tmp_path, 0, 1, 12, 3500)
    assert found["violations"] == []
