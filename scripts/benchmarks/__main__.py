"""The command: `scripts/benchmark`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from benchmarks import plan, resume, runner, startup, tables, ways
from benchmarks.results import Results, machine
from benchmarks.workloads import REFERENCE, WORKLOADS

QUICK = 170.0  # seconds within which the quick form ends


def main(words: list[str]) -> int:
    """Does what the words say; `run` where they name nothing."""
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark", description="Measures looplab beside its peers."
    )
    commands = parser.add_subparsers(dest="command", metavar="{run,compare,show,startup,resume}")
    _add_run(commands.add_parser("run", help="the default: looplab, fit, Orbit and hand-written loops"))
    one = commands.add_parser("show", help="the tables of a file")
    one.add_argument("file", type=Path)
    one.add_argument("--markdown", action="store_true", help="as Markdown, for the guide")
    two = commands.add_parser("compare", help="two files, row by row")
    two.add_argument("old", type=Path)
    two.add_argument("new", type=Path)
    soon = commands.add_parser("startup", help="how soon the commands answer")
    late = commands.add_parser("resume", help="how soon a run goes on, against how far it came")
    for command, rounds in ((soon, 7), (late, 3)):
        command.add_argument("--rounds", type=_count, default=rounds, help=f"of all rows ({rounds})")
        command.add_argument("--json", type=Path, metavar="FILE", help="write every measurement there")
    plain = not words or (words[0].startswith("-") and words[0] not in ("-h", "--help"))
    args = parser.parse_args(["run", *words] if plain else words)
    console = Console(width=None if sys.stdout.isatty() else 200)
    try:
        if args.command == "startup":
            startup.run(startup.startup, args.rounds, args.json)
        elif args.command == "resume":
            startup.run(resume.resume, args.rounds, args.json)
        elif args.command == "compare":
            tables.compared(Results.read(args.old), Results.read(args.new)).show(console)
        elif args.command == "show":
            _show(Results.read(args.file), console, args.markdown)
        else:
            return _run(args, console)
    except ValueError as error:
        parser.error(str(error))
    return 0


def _add_run(parser: argparse.ArgumentParser) -> None:
    quick = f"a few of them, within {QUICK:g} s"
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--sections", nargs="+", choices=plan.SECTIONS, help="(all)")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, help="of steps (all but wide)")
    parser.add_argument(
        "--ways", nargs="+", metavar="WAY", help="only these, such as fit hand_loop looplab_graph"
    )
    parser.add_argument("--rounds", type=_count, default=12, help="turns that each process takes (12)")
    parser.add_argument(
        "--generations", type=_count, default=1, help="processes that each has, one after another (1)"
    )
    parser.add_argument(
        "--seconds", type=float, default=0.3, help="of a turn, which ends with an epoch (0.3)"
    )
    parser.add_argument("--timeout", type=float, default=180, help="seconds for a start or a turn (180)")
    parser.add_argument("--epoch", type=_count, metavar="STEPS", help="shorter epochs, for trying things out")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", default=Path("benchmark.json"), help="(benchmark.json)"
    )


def _run(args: argparse.Namespace, console: Console) -> int:
    if args.quick and (args.sections or args.workloads):
        raise ValueError("--quick has its own sections and workloads: leave it out to choose them")
    looplab = ways.looplab_ways()
    sections, workloads = args.sections or plan.SECTIONS, args.workloads or REFERENCE
    cases = plan.quick(looplab) if args.quick else plan.full(sections, workloads, looplab)
    if args.ways:
        known = (*ways.FIT, *ways.ORBIT, *ways.HAND, *looplab)
        if strangers := [way for way in args.ways if way not in known]:
            raise ValueError(f"--ways: {', '.join(strangers)} is not among {', '.join(known)}")
        cases = [case for case in cases if case.way in args.ways]
    results = Results(machine())

    def found(measurement: dict[str, object]) -> None:
        results.measurements.append(measurement)
        results.write(args.json)

    words = ["--seconds", str(args.seconds), *(["--epoch", str(args.epoch)] if args.epoch else [])]
    try:
        runner.run(
            cases,
            rounds=args.rounds,
            generations=args.generations,
            words=words,
            timeout=args.timeout,
            limit=QUICK if args.quick else None,
            tell=lambda line: console.print(line, highlight=False, markup=False),
            found=found,
        )
    except KeyboardInterrupt:
        console.print("interrupted: what follows is what was measured until then")
    _show(results, console)
    console.print(f"written to {args.json}", highlight=False)
    return 0 if any("error" not in each for each in results.measurements) else 1


def _show(results: Results, console: Console, markdown: bool = False) -> None:
    for sheet in tables.sheets(results):
        if markdown:
            print(f"**{sheet.title}**\n\n{sheet.markdown()}\n")
        else:
            sheet.show(console)
    print(", ".join(f"{key} {value}" for key, value in results.machine.items()))


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
