"""Trains the shipped experiments, or those named, and writes their results into two tables.

scripts/results [EXPERIMENT ...] [KEY=VALUE ...] [--root FOLDER]
scripts/results --check

The guide of the examples has the whole table, the README its first columns. Each experiment is a process of
`python -m looplab.train` with a run directory of its own, one after the other. A row is written when its run
has ended; the other rows stay. With --check nothing runs: the whole table must be well formed and have a
row for every shipped experiment, and the README must agree. Exit code 1: a result is not what is stated.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))
BEGIN, END = "<!-- results: written by scripts/results -->", "<!-- end of results -->"
HEADER = "| experiment | what | result at the last step | steps | time |\n|---|---|---|---|---|"
SHORT = 3  # columns in the README
GUIDE, README = Path("looplab/examples/README.md"), Path("README.md")
ROW = re.compile(r"\| `(\w+)` \|( [^|]+ \|){4}")
TIMEOUT = 3600  # seconds for one experiment


@dataclass(frozen=True)
class Figure:
    """A number that a run ends with, and what it should be: above a number, or below another tag's value."""

    tag: str  # in metrics.jsonl
    name: str
    form: str
    split: str | None = None  # any
    above: float | None = None
    below: str | None = None

    def read(self, records: list[dict]) -> tuple[str, bool]:
        """Returns it in words, and whether it is what it should be."""
        value = self.last(self.tag, records)
        limit = self.last(self.below, records) if self.below else self.above
        text = f"{self.name} {value:{self.form}}"
        if limit is None:
            return text, True
        met = value < limit if self.below else value > limit
        side = f"below {self.below.removeprefix('epoch_')}" if self.below else "above"
        return f"{text} ({'' if met else 'not '}{side} {limit:{self.form}})", met

    def last(self, tag: str, records: list[dict]) -> float:
        here = [r["values"][tag] for r in records if tag in r["values"] and self.split in (None, r["split"])]
        if not here:
            sys.exit(f"results: the run logged no {tag!r}")
        return float(here[-1])


FIGURES = {
    "contrastive": [Figure("probe_accuracy", "accuracy of a linear probe", ".1%", above=0.95)],
    "digits": [Figure("epoch_accuracy", "validation accuracy", ".1%", "validation", above=0.985)],
    "forecaster": [
        Figure("epoch_mae", "MAE in sunspots", ".1f", "validation", below="epoch_seasonal_naive_mae")
    ],
    "gan": [Figure("recognised", "samples recognised", ".1%"), Figure("classes", "classes", ".0f")],
    "ppo": [Figure("evaluation_return", "mean return", ".1f", above=475)],
    "reinforce": [Figure("evaluation_return", "mean return", ".1f", above=195)],
    "vae": [Figure("epoch_loss", "validation loss", ".2f", "validation")],
    "wgan_gp": [Figure("recognised", "samples recognised", ".1%"), Figure("classes", "classes", ".0f")],
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/results", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", metavar="WORD", help="experiments (all), and KEY=VALUE for each")
    parser.add_argument(
        "--root", type=Path, default=ROOT, metavar="FOLDER", help=f"with {README} and {GUIDE} (looplab's own)"
    )
    parser.add_argument("--check", action="store_true", help="run nothing, look at the tables")
    args = parser.parse_args()
    named = [word for word in args.words if "=" not in word]
    if unknown := sorted(set(named) - set(EXPERIMENTS)):
        parser.error(f"there is no experiment {', '.join(unknown)}; there are {', '.join(EXPERIMENTS)}")
    rows = read(args.root)
    if args.check:
        return check(args.root, rows)
    missed = []
    for name in named or EXPERIMENTS:
        row, met = measure(name, [word for word in args.words if "=" in word])
        print(row, flush=True)
        rows[name] = row
        write(args.root, rows)
        missed += [] if met else [name]
    if missed:
        print(f"results: not what is stated: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


def measure(name: str, words: Iterable[str]) -> tuple[str, bool]:
    """Trains one experiment; returns its row, and whether all of its figures are what they should be."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "looplab.train", f"+experiment={name}", "run_dir=run", *words]
        began = time.monotonic()
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, stdin=subprocess.DEVNULL
        )
        seconds = time.monotonic() - began
        if done.returncode != 0:
            sys.exit(f"results: {name} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text("utf-8").splitlines()
        outcome = json.loads((Path(folder) / "run" / "outcome.json").read_text("utf-8"))
    found = [figure.read([json.loads(line) for line in lines]) for figure in FIGURES.get(name, ())]
    if (stated := outcome.get("result")) is not None:
        found.append(said(stated))
    result = ", ".join(text for text, _ in found)
    row = f"| `{name}` | {what(name)} | {result} | {outcome['step']} | {seconds:.0f} s |"
    return row, all(met for _, met in found)


def said(stated: dict) -> tuple[str, bool]:
    """Returns the result that a run states in words, and whether it meets its baseline."""
    side = "above" if stated["mode"] == "max" else "below"
    value = "not finite" if stated["value"] is None else f"{stated['value']:.3g}"
    met = "" if stated["met"] else "not "
    return f"{stated['name']} {value} ({met}{side} {stated['baseline']:.3g})", stated["met"]


def what(name: str) -> str:
    """What the experiment's file says it is, up to its colon."""
    line = (ROOT / "conf" / "experiment" / f"{name}.yaml").read_text("utf-8").splitlines()[1]
    return line.removeprefix("# ").split(": ")[0]


def read(root: Path) -> dict[str, str]:
    """Returns the rows of the guide's table, by experiment."""
    return {match[1]: line for line in table(root / GUIDE) if (match := ROW.fullmatch(line))}


def table(page: Path) -> list[str]:
    """Returns the lines of a page's table, its header too."""
    text = page.read_text("utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        sys.exit(f"results: {page} needs one line {BEGIN} and, after it, one line {END}")
    within = text.partition(BEGIN)[2].partition(END)[0]
    return [line for line in within.splitlines() if line.startswith("|")]


def shortened(lines: Iterable[str]) -> list[str]:
    """Returns the first columns of a table."""
    return ["|".join(line.split("|")[: SHORT + 1]) + "|" for line in lines]


def write(root: Path, rows: dict[str, str]) -> None:
    """Puts rows into both pages, and says in the guide where they were measured."""
    lines = [*HEADER.splitlines(), *(rows[name] for name in sorted(rows))]
    where = (
        f"Seed 0, {os.cpu_count()} cores, no GPU; Python {platform.python_version()}, "
        f"TensorFlow {version('tensorflow')}, Keras {version('keras')}; time from command to exit."
    )
    for page, content in ((GUIDE, [*lines, "", where]), (README, shortened(lines))):
        text = (root / page).read_text("utf-8")
        before, after = text.partition(BEGIN)[0], text.partition(END)[2]
        within = "\n".join([BEGIN, *content, END])
        (root / page).write_text(f"{before}{within}{after}", encoding="utf-8")


def check(root: Path, rows: dict[str, str]) -> int:
    """Says what is wrong with the tables; returns the exit code."""
    problems = [f"no row for {name}" for name in EXPERIMENTS if name not in rows]
    problems += [f"a row for {name}, which is not shipped" for name in rows if name not in EXPERIMENTS]
    lines = table(root / GUIDE)
    well_formed = [*HEADER.splitlines(), *rows.values()]
    problems += [f"not a row: {line}" for line in lines if line not in well_formed]
    if table(root / README) != shortened(lines):
        problems.append(f"the table of {README} is not the first columns of the one in {GUIDE}")
    for problem in problems:
        print(f"results: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
