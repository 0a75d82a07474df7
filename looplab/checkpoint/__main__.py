"""Lists, verifies or shows checkpoints; changes nothing.

python -m looplab.checkpoint list|verify|show DIR
"""

from __future__ import annotations

import json
import os
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import rich.box
import rich.console
import rich.table
from rich.filesize import decimal

from looplab.checkpoint import arrays_file, bundle, listing
from looplab.errors import CheckpointError, ConfigurationError, LooplabError, nearest
from looplab.options.paths import local
from looplab.runs.terminal import Lasting, printable

_NAME = "python -m looplab.checkpoint"


def main(given: Sequence[str] | None = None) -> int:
    """Runs one action with the given command-line arguments.

    Returns:
        The exit code: 0 for success; 2 if there is no such directory or no checkpoint in it; 3 if a
        checkpoint is damaged (`list` reports damage but still returns 0).
    """
    sys.stdout, sys.stderr = Lasting(sys.stdout), Lasting(sys.stderr)
    try:
        asked = _words().parse_args(given)
        asked.act(listing.find(local(asked.directory, "DIR").expanduser()), asked)
    except LooplabError as error:
        print(f"looplab: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("looplab: interrupted", file=sys.stderr)
        return 130
    return 0


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        given = re.search(r"invalid choice: '(.*?)'|unrecognized arguments: (\S+)", message)
        word = (given[1] or given[2]) if given else ""
        hint = nearest(word, {*_ACTIONS, "--values", "--help"} - {word})
        raise ConfigurationError(f"on the command line: {message}.{hint} See {_NAME} --help.")


def _words() -> ArgumentParser:
    parser = _Parser(prog=_NAME, description=(__doc__ or "").partition("\n")[0])
    actions = parser.add_subparsers(required=True, metavar="list|verify|show")
    for name, act in _ACTIONS.items():
        own = actions.add_parser(name, help=act.__doc__, description=act.__doc__)
        own.add_argument(
            "directory", metavar="DIR", help="a run directory, its checkpoints/ folder, or one checkpoint"
        )
        own.set_defaults(act=act)
        if name == "show":
            own.add_argument(
                "--values", action="store_true", help="also show the minimum, mean and maximum of each array"
            )
    return parser


def _list(paths: Sequence[Path], asked: Namespace) -> None:
    """Shows step, epoch, time, size and monitored value of each checkpoint; marks best and damaged ones."""
    entries = [entry for path in paths if (entry := listing.Entry.of(path))]
    run_dir = listing.run_of(paths[0])
    known, best = listing.evaluations(entries, run_dir)
    steps = {entry.step for entry in entries if entry.step is not None}
    epochs = listing.epochs(run_dir, steps)
    rows = []
    for entry in entries:
        found = known.get(entry.step) if entry.step is not None else None
        monitored = f"{printable(found['monitor'])} {found['value']:.6g}" if found else "-"
        word = "damaged" if entry.wrong else "best" if found and entry.step == best else ""
        epoch = epochs.get(entry.step, "-") if entry.step is not None else "-"
        rows.append([_or_dash(entry.step), str(epoch), entry.saved, decimal(entry.size), monitored, word])
    _print_table(["step", "epoch", "saved", "size", "monitored", ""], rows, left={"saved", "monitored", ""})
    for entry in entries:
        if entry.wrong:
            print(f"damaged: {entry.wrong}")


def _verify(paths: Sequence[Path], asked: Namespace) -> None:
    """Checks that every array is what was saved; the exit code is 3 if one is not."""
    bad = looked_at = 0
    for path in paths:
        wrong = bundle.verify(path)
        if wrong and not os.path.lexists(path):
            continue  # a run in progress has dropped it
        looked_at += 1
        bad += wrong is not None
        print(f"{printable(path.absolute().name)}  {wrong or 'good'}", flush=True)
    if bad:
        raise CheckpointError(f"{bad} of {looked_at} cannot be used.")


def _show(paths: Sequence[Path], asked: Namespace) -> None:
    """Shows the manifest and the arrays of one checkpoint (for a run, the newest one)."""
    entry = listing.Entry.of(paths[-1])
    if entry is None:
        raise CheckpointError(f"{paths[-1]} was just dropped by a run in progress; run the command again.")
    if entry.manifest is None:
        raise CheckpointError(str(entry.wrong))
    for label, text in _facts(entry, entry.manifest):
        print(f"{label:<11} {text}")
    headings = ["path", "shape", "dtype", "bytes"]
    described = {name: _described(entry.path, name, what) for name, what in entry.manifest["arrays"].items()}
    if asked.values:
        headings += ["min", "mean", "max"]
        for name, array in bundle.each(entry.path):
            described[name] += _extremes(array)
    _print_table(headings, described.values(), left={"path", "dtype"})


def _facts(entry: listing.Entry, manifest: dict[str, Any]) -> Iterable[tuple[str, str]]:
    step = manifest["step"]
    epoch = listing.epochs(listing.run_of(entry.path), {step}).get(step)
    yield "checkpoint", printable(str(entry.path), 4096)
    yield "step", f"{step}, epoch {epoch}" if epoch is not None else str(step)
    yield "saved", f"{entry.saved}, {decimal(entry.size)}, format version {manifest['format_version']}"
    for name, value in manifest.get("values", {}).items():
        yield printable(name, 40), printable(json.dumps(value, ensure_ascii=False), 100)
    for name, size in manifest.get("logs", {}).items():
        yield "log", f"{printable(name)}, {size} bytes"
    yield "arrays", str(len(manifest["arrays"]))


def _described(path: Path, name: str, what: dict[str, Any]) -> list[str]:
    size = arrays_file.size_of(path / bundle.ARRAYS, name, what)
    return [printable(name), str(what["shape"]), what["dtype"], str(size)]


def _extremes(array: np.ndarray) -> list[str]:
    if array.size == 0 or array.dtype.kind == "c":
        return ["-"] * 3
    with np.errstate(all="ignore"):
        return [f"{float(value):.6g}" for value in (array.min(), array.mean(dtype="float64"), array.max())]


def _or_dash(value: Any) -> str:
    return "-" if value is None else str(value)


def _print_table(headings: Iterable[str], rows: Iterable[Sequence[str]], left: set[str]) -> None:
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in left else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else 120
    console = rich.console.Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)
    console.print(table)


_ACTIONS = {"list": _list, "verify": _verify, "show": _show}

if __name__ == "__main__":
    sys.exit(main())
