"""Tables for a person: rich on a terminal, Markdown for the guide."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Column, Table

from benchmarks.results import Ratio, Results, geometric_mean, ratio
from benchmarks.ways import FIT, HAND, ORBIT


@dataclass
class Sheet:
    """A table: texts in rows.

    Attributes:
        title: What it shows.
        columns: Names; the first is of what the rows are.
        rows: As many texts each.
        notes: Lines below.
    """

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def show(self, console: Console) -> None:
        """Prints it."""
        first, *others = self.columns
        table = Table(first, *(Column(name, justify="right") for name in others), title=self.title)
        for row in self.rows:
            table.add_row(*row)
        console.print(table)
        for note in self.notes:
            console.print(note, highlight=False)

    def markdown(self) -> str:
        """Returns it as the guide writes tables."""
        lines = [self.columns, ["---", *["---:"] * (len(self.columns) - 1)], *self.rows]
        return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + ["", *self.notes])


def sheets(results: Results) -> list[Sheet]:
    """Returns a table for everything that was measured."""
    makers = (times, processor, ratios, starts, preparing, memory, replicas, log, keep, save, failures)
    return [sheet for sheet in (make(results) for make in makers) if sheet.rows]


def usual(results: Results, section: str, workload: str) -> str | None:
    """Returns the way that stands for looplab: what it finds by itself, else its best fixed mode."""
    ways = [way for way in results.names(section, "way") if way.startswith("looplab_")]
    found = "looplab_auto" if results.of(section, workload=workload, way="looplab_auto") else None
    return found or results.best(section, ways, workload=workload)


def times(results: Results) -> Sheet:
    """Microseconds of a step, by way and workload."""
    return _by_way(results, "microseconds", "microseconds a step (median of the rounds)", "{:,.0f}")


def processor(results: Results) -> Sheet:
    """Processor time of a step over all threads, by way and workload."""
    title = "microseconds of processor time a step, of all threads (median of the rounds)"
    return _by_way(results, "processor", title, "{:,.0f}")


def memory(results: Results) -> Sheet:
    """Peak memory, by way and workload."""
    return _by_way(results, "peak", "most resident memory of the process, MiB", "{:,.0f}")


def starts(results: Results) -> Sheet:
    """Start-up, by way and workload."""
    sheet = _by_way(
        results, "startup", "seconds from the process's start to its first execution's end", "{:.1f}"
    )
    sheet.notes = ["hand_ ways, Orbit and *_many run many steps in their first execution, others one."]
    return sheet


def preparing(results: Results) -> Sheet:
    """What a way itself does before its first step, by way and workload."""
    title = "seconds of it for networks, tracing, compiling, the first batch, and finding a mode"
    return _by_way(results, "preparing", title, "{:.1f}")


def ratios(results: Results) -> Sheet:
    """What looplab takes, over what its peers take."""
    columns = [
        "workload",
        "looplab",
        "best hand-written",
        "fit defaults",
        "best fit",
        "best Orbit",
    ]
    sheet = Sheet(
        "looplab beside its peers: its time / theirs, under 1 is faster (and where half of the rounds lie)",
        columns,
    )
    found: dict[str, list[Ratio]] = {"hand": [], "fit": [], "best fit": [], "orbit": []}
    for workload in results.names("steps", "workload"):
        own = usual(results, "steps", workload)
        if own is None:
            continue
        peers = {
            "hand": results.best("steps", HAND, workload=workload),
            "fit": results.best("steps", ["fit"], workload=workload),
            "best fit": results.best("steps", FIT, workload=workload),
            "orbit": results.best("steps", ORBIT, workload=workload),
        }
        row = [workload, own.removeprefix("looplab_")]
        for name, peer in peers.items():
            each = _quotient(results, "steps", own, peer, workload)
            if each is not None:
                found[name].append(each)
            row.append(f"{each} {peer if name != 'fit' else ''}".strip() if each else "-")
        sheet.rows.append(row)
    if len(sheet.rows) > 1:
        means = [f"{geometric_mean(each):.2f}" if each else "-" for each in found.values()]
        sheet.rows.append(["geometric mean", "", *means])
    return sheet


def replicas(results: Results) -> Sheet:
    """Two simulated replicas."""
    ways = results.names("replicas", "way")
    sheet = Sheet(
        "two simulated replicas: microseconds a step", ["way", *results.names("replicas", "workload")]
    )
    workloads = sheet.columns[1:]
    for way in ways:
        cells = [results.median("replicas", workload=workload, way=way) for workload in workloads]
        sheet.rows.append([way, *("-" if cell is None else f"{cell:,.0f}" for cell in cells)])
    for peers in (HAND, FIT):
        found = []
        for workload in workloads:
            own, peer = (
                usual(results, "replicas", workload),
                results.best("replicas", peers, workload=workload),
            )
            found.append(own and _quotient(results, "replicas", own, peer, workload))
        if any(found):
            name = "looplab / best " + ("hand-written" if peers is HAND else "fit")
            sheet.rows.append([name, *(str(each) if each else "-" for each in found)])
    return sheet


def log(results: Results) -> Sheet:
    """What it costs to log every step."""
    columns = ["way (mlp)", "without, µs", "every step logged, µs", "ratio"]
    sheet = Sheet(
        "logging: looplab to JSONL and TensorBoard, fit to TensorBoard (update_freq='batch')", columns
    )
    for way in results.names("log", "way"):
        bare, logged = (results.by_round("log", way=way, extra=extra) for extra in ("", "log"))
        each = ratio(logged, bare)
        if each is not None:
            before, after = (statistics.median(times.values()) for times in (bare, logged))
            sheet.rows.append([way, f"{before:,.0f}", f"{after:,.0f}", str(each)])
    return sheet


def keep(results: Results) -> Sheet:
    """What it costs to be able to go on: a run directory, its lock, signals, the watchdog, the audit."""
    sheet = Sheet("a run directory, nothing saved", ["way (mlp)", "without, µs", "with, µs", "ratio"])
    for way in results.names("keep", "way"):
        bare, kept = (results.by_round("keep", way=way, extra=extra) for extra in ("", "keep"))
        each = ratio(kept, bare)
        if each is not None:
            before, after = (statistics.median(times.values()) for times in (bare, kept))
            sheet.rows.append([way, f"{before:,.1f}", f"{after:,.1f}", str(each)])
    return sheet


def save(results: Results) -> Sheet:
    """What a checkpoint after each epoch costs."""
    from benchmarks.workloads import WORKLOADS

    steps = WORKLOADS["wide"].epoch
    columns = ["way (wide, 50 MB)", f"{steps} steps, ms", "with a checkpoint, ms", "difference, ms"]
    title = "checkpoints: an epoch without and with one at its end; stall: what steps waited for one"
    sheet = Sheet(title, [*columns, "stall, ms"])
    for way, extra in itertools.product(results.names("save", "way"), ("save", "wait")):
        bare, saved = (results.median("save", way=way, extra=each) for each in ("", extra))
        if bare and saved:
            figures = [each * steps / 1000 for each in (bare, saved, saved - bare)]
            stalls = [each["stall"] for each in results.of("save", way=way, extra=extra) if each["stall"]]
            stall = f"{statistics.median(stalls):,.1f}" if stalls else "-"
            name = way + (", synchronous" if extra == "wait" else "")
            sheet.rows.append([name, *(f"{figure:,.0f}" for figure in figures), stall])
    return sheet


def failures(results: Results) -> Sheet:
    """What could not be measured, and why."""
    sheet = Sheet("not measured", ["what", "why"])
    for each in results.measurements:
        if "error" in each:
            what = f"{each['section']}: {each['workload']}, {each['way']} {each['extra']}".strip()
            sheet.rows.append([what, each["error"][:160]])
    return sheet


def compared(old: Results, new: Results) -> Sheet:
    """Two runs: plain times, and times relative to each run's own best hand-written way."""
    columns = ["what", "old, µs", "new, µs", "new / old", "old / hand-written", "new / hand-written"]
    sheet = Sheet("two runs of the benchmark", columns)
    for section, workload, way, extra in dict.fromkeys(map(_key, new.measurements)):
        where = {"workload": workload, "way": way, "extra": extra}
        before, after = (results.median(section, **where) for results in (old, new))
        if before is None or after is None:
            continue  # said below
        relative = []
        for results, own in ((old, before), (new, after)):
            best = results.best("steps", HAND, workload=workload)
            hand = results.median("steps", workload=workload, way=best) if best else None
            relative.append(f"{own / hand:.2f}" if hand else "-")
        name = f"{section}: {workload}, {way}" + (f" +{extra}" if extra else "")
        sheet.rows.append([name, f"{before:,.0f}", f"{after:,.0f}", f"{after / before:.2f}", *relative])
    for name, one, other in (("old", old, new), ("new", new, old)):
        measured = {_key(each) for each in other.measurements if "error" not in each}
        alone = [each for each in one.measurements if "error" not in each and _key(each) not in measured]
        names = dict.fromkeys(f"{each['workload']}, {each['way']}" for each in alone)
        if names:
            sheet.notes.append(f"measured in the {name} one alone: {'; '.join(names)}")
    for key in ("cpu", "cores", "tensorflow", "keras", "python", "commit"):
        if old.machine.get(key) != new.machine.get(key):
            sheet.notes.append(f"{key}: {old.machine.get(key)} -> {new.machine.get(key)}")
    return sheet


def _key(each: dict[str, str]) -> tuple[str, str, str, str]:
    return each["section"], each["workload"], each["way"], each["extra"]


def _by_way(results: Results, what: str, title: str, form: str) -> Sheet:
    workloads: Sequence[str] = results.names("steps", "workload")
    sheet = Sheet(title, ["way", *workloads])
    for way in results.names("steps", "way"):
        cells = [results.median("steps", what, workload=workload, way=way) for workload in workloads]
        if any(cell is not None for cell in cells):
            sheet.rows.append([way, *("-" if cell is None else form.format(cell) for cell in cells)])
    return sheet


def _quotient(results: Results, section: str, own: str, peer: str | None, workload: str) -> Ratio | None:
    if peer is None:
        return None
    over, under = (results.by_round(section, way=way, workload=workload) for way in (own, peer))
    return ratio(over, under)
