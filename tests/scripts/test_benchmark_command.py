"""scripts/benchmark startup runs to its end and writes what it measured; no time is asserted."""

import json
import subprocess
import sys

import pytest

from tests.process import HANGS, ROOT, environment

BENCHMARK = [sys.executable, "-m", "benchmarks"]  # without the bootstrap of scripts/benchmark
ENVIRONMENT = environment(COLUMNS="120", PYTHONPATH=str(ROOT / "scripts"))  # as scripts/benchmark sets it


@pytest.mark.slow
def test_startup_is_measured_and_written(tmp_path):
    file = tmp_path / "startup.json"
    done = subprocess.run(
        [*BENCHMARK, "startup", "--rounds", "1", "--json", file],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=HANGS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "under 1 s" in done.stdout
    measured = json.loads(file.read_text())
    assert measured["rounds"] == 1
    rows = {row["name"]: row for row in measured["rows"]}
    assert {"--help", "five errors at once", "python -c 'import tensorflow'", "signatures"} <= set(rows)
    assert all(len(row["seconds"]) == 1 and row["seconds"][0] >= 0 for row in rows.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["startup.json"]


def test_an_unknown_section_is_a_usage_error():
    done = subprocess.run(
        [*BENCHMARK, "speed"], env=ENVIRONMENT, capture_output=True, text=True, timeout=HANGS
    )
    assert (done.returncode, "invalid choice: 'speed'" in done.stderr) == (2, True)
