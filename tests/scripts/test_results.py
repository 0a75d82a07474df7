"""scripts/results trains, reads what the run left, and writes both tables; --check looks at them."""

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


def pages(results, folder, *rows):
    """Writes both pages with these rows; returns them by name."""
    lines = [*results.HEADER.splitlines(), *rows] if rows else []
    for page, content in ((results.GUIDE, lines), (results.README, results.shortened(lines))):
        (folder / page).parent.mkdir(parents=True, exist_ok=True)
        text = "\n".join(["before", results.BEGIN, *content, results.END, "after", ""])
        (folder / page).write_text(text, encoding="utf-8")


@pytest.mark.slow
def test_a_run_becomes_a_row_and_other_rows_stay(results, tmp_path):
    pages(results, tmp_path, ROW.replace("digits", "ppo"))
    words = ["epochs=1", "model.filters=[2]", "data.batch_size=300"]
    done = run("digits", *words, "--root", tmp_path, cwd=tmp_path)
    assert "not what is stated: digits" in done.stderr and done.returncode == 1, done.stderr
    written = results.read(tmp_path)
    assert list(written) == ["digits", "ppo"] and written["ppo"] == ROW.replace("digits", "ppo")
    assert written["digits"].startswith("| `digits` | Handwritten digits (scikit-learn, 8x8)")
    assert "(not above 98.5%) | 5 |" in written["digits"]
    guide, readme = ((tmp_path / page).read_text("utf-8") for page in (results.GUIDE, results.README))
    for text in (guide, readme):
        assert text.startswith(f"before\n{results.BEGIN}\n") and text.endswith(f"{results.END}\nafter\n")
    assert "TensorFlow 2." in guide and "cores" in guide
    assert readme.splitlines()[-3] == "| `ppo` | handwriting | validation accuracy 99.0% (above 98.5%) |"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "looplab"]


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


def test_check_asks_for_a_row_of_every_experiment_and_for_pages_that_agree(results, tmp_path, capsys):
    rows = [ROW.replace("digits", name) for name in results.EXPERIMENTS]
    pages(results, tmp_path, *rows)
    assert results.check(tmp_path, results.read(tmp_path)) == 0
    pages(results, tmp_path, *rows[1:], ROW.replace("digits", "gone"), "| broken |")
    readme = tmp_path / results.README
    readme.write_text(readme.read_text().replace("99.0%", "100.0%"))
    assert results.check(tmp_path, results.read(tmp_path)) == 1
    said = capsys.readouterr().err
    for problem in (f"no row for {results.EXPERIMENTS[0]}", "a row for gone", "not a row: | broken |"):
        assert problem in said
    assert "README.md is not the first columns" in said


def test_what_it_cannot_run_or_write_is_a_usage_error(results, tmp_path):
    pages(results, tmp_path)
    assert "there is no experiment nothing" in run("nothing", "--root", tmp_path, cwd=tmp_path).stderr
    (tmp_path / results.GUIDE).write_text("no marks")
    done = run("--check", "--root", tmp_path, cwd=tmp_path)
    assert done.returncode == 1 and "needs one line <!-- results" in done.stderr


def test_both_pages_have_every_shipped_experiment():
    done = run("--check", cwd=ROOT)
    assert done.returncode == 0, done.stderr
