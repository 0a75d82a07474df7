"""Every block of the README runs, from top to bottom, in one folder, as a reader would run it."""

import os
import re
import resource
import subprocess
import sys
import tomllib

from tests.process import HANGS, ROOT, records
from tests.test_guides import blocks, commands

README = ROOT / "README.md"
TEXTS = [text for _, text in blocks(README)]
DIGITS = "python -m looplab.train +experiment=digits\n"


def processor_seconds():
    """Of all processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(command, folder):
    """Runs a command as a reader would, with the venv's python first on the path."""
    return subprocess.run(
        command,
        cwd=folder,
        env={
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "-1",
            "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
            # `scripts/test` inside a test: it starts and collects a file, and does not run itself again.
            "PYTEST_ADDOPTS": f"--collect-only -q -n 0 {ROOT / 'tests' / 'test_packaging.py'}",
        },
        capture_output=True,
        text=True,
        timeout=HANGS,
        stdin=subprocess.DEVNULL,
    )


def test_the_blocks_run_from_top_to_bottom(tmp_path):
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    before = processor_seconds()
    first, *others = commands(README, tmp_path)
    assert first[-1] == DIGITS
    done = run(first, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (run_dir,) = (tmp_path / "runs").glob("digits/*")
    last = [r for r in records(run_dir) if r["split"] == "validation"][-1]
    assert last["step"] == 40 * 23 and last["values"]["epoch_accuracy"] > 0.985
    assert processor_seconds() - before < 120
    seen = set()
    for command in others:
        done, text = run(command, tmp_path), command[-1]
        assert done.returncode == 0, text + done.stdout + done.stderr
        if text.startswith("! "):  # the block after it is what it says
            shown = re.sub(r"\(looked in .*?\)", "(looked in ...)", done.stderr)
            assert shown == TEXTS[TEXTS.index(text) + 1]
            seen.add("mistakes")
        if "says that nothing is left" in text:
            assert "nothing is left to do" in done.stdout
            assert "test_wheel_ships" in done.stdout  # scripts/test, in the same block
            seen.add("finished")
    assert seen == {"mistakes", "finished"}


def test_pictures_exist():
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README.read_text("utf-8")):
        assert (ROOT / picture).stat().st_size < 400_000


def test_the_guide_of_the_architecture_lists_every_module_with_its_rank():
    ((_, tree),) = (each for each in blocks(ROOT / "looplab" / "README.md") if each[0] == "text")
    listed = {}
    for rank, names in re.findall(r"^(\d+) +(\w+/?(?:, \w+)*) ", tree, re.M):
        found = {name for name in names.rstrip("/").split(", ") if name[0] != "_"}
        listed.setdefault(int(rank), set()).update(found)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    # Wings in parentheses come later; __main__ may be left out.
    layers = [[name for name in row.split(" | ") if name[0] not in "(_"] for row in contracts[0]["layers"]]
    assert listed == {rank: set(names) for rank, names in enumerate(reversed(layers)) if names}
