"""scripts/results trains, reads what the run left, and writes the README's table; --check looks at it."""

import importlib.util
import subprocess
import sys

import pytest

from tests.process import HANGS, ROOT, environment

SCRIPT = ROOT / "scripts" / "results.py"  # without the bootstrap of scripts/results
ROW = "| `digits` | handwriting | validation accuracy 99.0% (above 98.5%) | 920 | 17 s |"


@pytest.fixture(scope="module")
def results():
    spec = importlib.util.spec_from_file_location("results", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["results"] = module
    spec.loader.exec_module(module)
    return module


def run(*words, cwd):
    command = [sys.executable, SCRIPT, *words]
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=HANGS,
        stdin=subprocess.DEVNULL,
    )


def readme(results, folder, *rows):
    path = folder / "README.md"
    lines = [results.BEGIN, *(results.HEADER.splitlines() if rows else ()), *rows, results.END]
    path.write_text("\n".join(["before", *lines, "after", ""]), encoding="utf-8")
    return path


def test_a_run_becomes_a_row_and_other_rows_stay(results, tmp_path):
    path = readme(results, tmp_path, ROW.replace("digits", "ppo"))
    words = ["epochs=1", "model.filters=[2]", "data.batch_size=300"]
    done = run("digits", *words, "--readme", path, cwd=tmp_path)
    assert "not what is stated: digits" in done.stderr and done.returncode == 1, done.stderr
    written = results.read(path)
    assert list(written) == ["digits", "ppo"] and written["ppo"] == ROW.replace("digits", "ppo")
    assert written["digits"].startswith("| `digits` | Handwritten digits (scikit-learn, 8x8)")
    assert "(not above 98.5%) | 5 |" in written["digits"]
    text = path.read_text("utf-8")
    assert text.startswith(f"before\n{results.BEGIN}\n") and text.endswith(f"{results.END}\nafter\n")
    assert "TensorFlow 2." in text and "cores" in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md"]


def record(split="train", **values):
    return {"split": split, "values": values}


def test_figures_are_the_last_values_and_say_whether_they_are_good_enough(results):
    earned = [record(evaluation_return=20.0), record(loss=1.0), record(evaluation_return=480.0)]
    (figure,) = results.FIGURES["ppo"]
    assert figure.read(earned) == ("mean return 480.0 (above 475.0)", True)
    assert figure.read(earned[:2]) == ("mean return 20.0 (not above 475.0)", False)
    with pytest.raises(SystemExit, match="logged no 'evaluation_return'"):
        figure.read([record(loss=1.0)])
    (figure,) = results.FIGURES["forecaster"]
    evaluated = record("validation", epoch_mae=22.0, epoch_seasonal_naive_mae=28.0)
    assert figure.read([evaluated, record(epoch_mae=1.0)]) == (
        "MAE in sunspots 22.0 (below seasonal_naive_mae 28.0)",
        True,
    )


def test_check_asks_for_a_row_of_every_experiment(results, tmp_path, capsys):
    rows = [ROW.replace("digits", name) for name in results.EXPERIMENTS]
    path = readme(results, tmp_path, *rows)
    assert results.check(path, results.read(path)) == 0
    path = readme(results, tmp_path, *rows[1:], ROW.replace("digits", "gone"), "| broken |")
    assert results.check(path, results.read(path)) == 1
    said = capsys.readouterr().err
    for problem in (f"no row for {results.EXPERIMENTS[0]}", "a row for gone", "not a row: | broken |"):
        assert problem in said


def test_what_it_cannot_run_or_write_is_a_usage_error(results, tmp_path):
    path = readme(results, tmp_path)
    assert "there is no experiment nothing" in run("nothing", "--readme", path, cwd=tmp_path).stderr
    path.write_text("no marks")
    done = run("--check", "--readme", path, cwd=tmp_path)
    assert done.returncode == 1 and "needs one line <!-- results" in done.stderr


def test_the_readme_has_every_shipped_experiment():
    done = run("--check", cwd=ROOT)
    assert done.returncode == 0, done.stderr
