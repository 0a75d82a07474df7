"""The benchmark measures every family of ways, and its file and tables come about. No time is asserted."""

import json
import sys

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import __main__ as command
from benchmarks import measure, orbit_packages, plan, resume, ring, runner, tables, ways
from benchmarks.clock import Clock
from benchmarks.pipeline import pipeline
from benchmarks.results import ROOT, Results, ratio
from benchmarks.workloads import REFERENCE, WORKLOADS

pytestmark = pytest.mark.usefixtures("scripts_on_path")


def measured(workload, way, **options):
    turns = []

    def wait(clock):
        turns[:] = clock.turns
        return len(turns) < 2

    found = measure.measured(workload, way, seconds=0, wait=wait, **{"epoch": 4, **options})
    return found | {"turns": turns}


def is_whole(found):
    turns = [(turn.steps, turn.microseconds > 0) for turn in found["turns"]]
    return turns == [(4, True), (4, True)] and np.isfinite(found["loss"])


def one(workload="mlp", way="fit", microseconds=(100.0,), section="steps", **more):
    base = {"section": section, "workload": workload, "way": way, "replicas": 1, "extra": ""}
    return {
        **base,
        "microseconds": dict(enumerate(microseconds, 1)),
        "processor": dict.fromkeys(range(1, len(microseconds) + 1), 90.0),
        "startup": 2.0,
        "preparing": 1.0,
        "peak": 500.0,
        **more,
    }


@pytest.mark.share(1)
@pytest.mark.parametrize("way", ["fit_graph_many", "looplab_graph"])
@pytest.mark.parametrize("workload", ["mlp", "gan"])
def test_frameworks_are_measured(workload, way):
    assert is_whole(measured(workload, way))


@pytest.mark.share(1)
@pytest.mark.parametrize("way", ["hand_loop", "looplab_graph"])
def test_two_replicas_are_measured(way):
    assert is_whole(measured("mlp", way, replicas=2))


@pytest.mark.share(1)
@pytest.mark.parametrize("extra", ["log", "save"])
@pytest.mark.parametrize("way", ["fit_graph_many", "looplab_graph"])
def test_logging_and_saving_are_measured(way, extra):
    assert is_whole(measured("mlp", way, extra=extra))


@pytest.mark.slow
def test_a_run_directory_is_measured_and_so_are_stalls():
    assert is_whole(measured("mlp", "looplab_graph", extra="keep"))
    assert measured("mlp", "looplab_graph", extra="save")["stall"] > 0


@pytest.mark.slow
def test_resuming_is_measured(monkeypatch):
    monkeypatch.setattr(resume, "POSITIONS", (5,))
    rows = resume.resume(1)
    assert [row.name for row in rows] == ["restore after 5 steps", "first batch after 5 steps"]
    assert all(len(row.seconds) == 1 and row.seconds[0] > 0 for row in rows)


@pytest.mark.slow
def test_all_hand_written_loops_make_the_same_updates():
    losses = {way: measured("mlp", way)["loss"] for way in ways.HAND if way != "hand_function"}
    assert len(losses) == 7
    assert max(losses.values()) - min(losses.values()) < 1e-4, losses
    assert is_whole(measured("mlp", "hand_function"))  # begins with fewer steps than the others


@pytest.mark.skipif(not orbit_packages.FOLDER.exists(), reason="Orbit comes with the first scripts/benchmark")
def test_orbit_is_measured(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert is_whole(measured("mlp", "orbit"))


@pytest.mark.share(2)
@pytest.mark.parametrize("workload", WORKLOADS)
def test_workloads_are_of_the_batches_they_say(workload):
    chosen = WORKLOADS[workload]
    assert chosen.epoch % chosen.call == 0
    short = chosen.shortened(2)
    assert [len(part) for part in short.arrays()] == [64, 64]
    x = tf.constant(short.arrays()[0][:2])
    nets = short.nets()
    model = nets.get("model", nets.get("discriminator"))
    assert model(x).shape[0] == 2


def test_every_pass_has_every_row_once_in_an_order_of_its_own():
    rows = np.arange(96)
    batches = [batch.numpy() for batch, _ in pipeline((rows, rows)).take(6)]
    first, second = np.concatenate(batches[:3]), np.concatenate(batches[3:])
    assert sorted(first) == sorted(second) == list(rows)
    assert list(first) != list(second)
    stacked = next(iter(pipeline((rows, rows), stack=(3,))))[0].numpy()
    assert stacked.shape == (3, 32)
    assert list(stacked.ravel()) == list(first)


def test_ways_are_those_that_exist():
    assert set(ways._taken()) >= {"graph", "xla_step"}
    with pytest.raises(ValueError, match="'hand_lop' is not one of fit, "):
        ways.find("hand_lop")


def test_the_first_epoch_does_not_count(monkeypatch):
    """Nor does what others take before a turn."""
    now = iter([1.0, 10.0, 12.0, 14.0, 20.0, 25.0, 30.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    clock = Clock(3.0, lambda clock: len(clock.turns) < 2)
    assert [clock.mark(1000, 0.0) for _ in range(4)] == [False, False, False, True]
    assert [(turn.steps, turn.seconds) for turn in clock.turns] == [(2000, 4.0), (1000, 5.0)]
    assert [turn.microseconds for turn in clock.turns] == [2000.0, 5000.0]


def test_ratios_are_of_one_round():
    found = ratio({1: 10.0, 2: 30.0, 3: 1.0}, {1: 5.0, 2: 10.0})
    assert (found.median, found.least, found.most) == (2.5, 2.25, 2.75)
    assert str(found) == "2.50 (2.25-2.75)" and str(ratio({1: 1.0}, {1: 2.0})) == "0.50"
    assert ratio({1: 1.0}, {2: 1.0}) is None


def test_full_plan_has_every_workload_and_family():
    cases = plan.full(plan.SECTIONS, REFERENCE, ["looplab_graph", "looplab_auto"])
    assert len(cases) == len(set(cases))
    steps = {(case.workload, case.way) for case in cases if case.section == "steps"}
    assert len(steps) == len(REFERENCE) * (len(ways.FIT) + len(ways.ORBIT) + len(ways.HAND) + 2)
    assert {case.section for case in cases} == set(plan.SECTIONS)
    assert {case.way for case in cases if case.extra} == {"fit", "looplab_auto"}


@pytest.mark.slow
def test_command_measures_in_processes_and_writes_file_and_tables(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ways, "looplab_ways", lambda: ("looplab_graph",))
    monkeypatch.setattr(orbit_packages, "install", lambda: "no network")
    file = tmp_path / "found.json"
    words = "--sections steps --workloads mlp --ways hand_loop orbit --rounds 1 --seconds 0 --epoch 4 --json"
    assert command.main([*words.split(), str(file)]) == 0
    said = capsys.readouterr().out
    assert "microseconds a step" in said and "Orbit is not installed: no network" in said
    orbit, loop = json.loads(file.read_text())["measurements"]
    assert loop["microseconds"]["1"] > 0 and np.isfinite(loop["loss"])
    assert loop["startup"] > loop["preparing"] > 0 and loop["peak"] > loop["grown"] > 0
    assert orbit["error"] == "Orbit is not installed: no network"


class Fake:
    """A member of a ring; its name is its case, and says what it does."""

    def __init__(self, case, words, timeout):
        self.case, self.turns = case, {"microseconds": {}}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        Fake.told.append(f"end {self.case.way}")

    def turn(self, number):
        Fake.told.append(f"{self.case.way} {number}")
        Fake.now += 6.0 if self.case.way == "slow" else 1.0
        if self.case.way == "bad" and number == 2:
            raise ring.Failed("broken")
        self.turns["microseconds"][number] = 1.0

    def finish(self):
        return {"peak": 1.0}


@pytest.fixture
def fakes(monkeypatch):
    Fake.told, Fake.now = [], 0.0
    monkeypatch.setattr(runner, "Member", Fake)
    monkeypatch.setattr("time.monotonic", lambda: Fake.now)

    def run(ways, rounds, limit=None, generations=1):
        found, said = [], []
        cases = [plan.Case("steps", "mlp", way) for way in ways]
        options = {"rounds": rounds, "words": [], "timeout": 100, "limit": limit}
        runner.run(cases, **options, generations=generations, tell=said.append, found=found.append)
        return [(each["way"], each.get("error", [*each.get("microseconds", {})])) for each in found], said

    return run


def test_each_generation_has_processes_and_rounds_of_its_own(fakes):
    found, _ = fakes(["one", "two"], 2, generations=2)
    assert found == [("one", [1, 2]), ("two", [1, 2]), ("one", [3, 4]), ("two", [3, 4])]
    assert [told for told in Fake.told if told.startswith("end")] == ["end two", "end one"] * 2
    peaks = [{"section": "steps", "way": way, "peak": peak} for peak, way in enumerate("abab")]
    results = Results({}, peaks)
    assert results.by_round("steps", "peak", way="b") == {1: 1, 2: 3}


def test_turns_go_to_and_fro_and_slow_ones_have_two(fakes):
    found, _ = fakes(["one", "slow", "two"], 3)
    rounds = ["one 1", "slow 1", "two 1", "two 2", "slow 2", "one 2", "one 3", "two 3"]
    assert Fake.told == [*rounds, "end two", "end slow", "end one"]
    assert found == [("one", [1, 2, 3]), ("slow", [1, 2]), ("two", [1, 2, 3])]


def test_what_breaks_does_not_stop_the_others(fakes):
    found, _ = fakes(["one", "bad"], 3)
    assert found == [("bad", "broken"), ("one", [1, 2, 3])]


def test_a_limit_ends_rounds_before_it(fakes):
    found, _ = fakes(["one", "two"], 9, limit=7.5)
    assert found == [("one", [1, 2, 3]), ("two", [1, 2, 3])] and Fake.now <= 7.5


def test_memory_bounds_how_many_train_in_turns(fakes, monkeypatch):
    monkeypatch.setattr(runner, "_MEMORY", 2**62)
    fakes(["a", "b", "c"], 1)
    assert Fake.told == ["a 1", "b 1", "end b", "end a", "c 1", "end c"]


def test_a_process_that_fails_is_a_row_and_not_tried_again(tmp_path):
    found = []
    cases = [plan.Case("steps", "mlp", "nonsense")]
    options = {"rounds": 2, "words": [], "timeout": 100, "limit": None, "tell": lambda line: None}
    runner.run(cases, generations=1, found=found.append, **options)
    (failure,) = found
    assert "'nonsense' is not one of fit" in failure["error"]
    sheet = tables.failures(Results({}, found))
    assert sheet.rows[0][0] == "steps: mlp, nonsense"


def test_tables_set_looplab_beside_the_best_of_each_family():
    times = {
        "fit": 400,
        "fit_xla": 200,
        "hand_loop": 100,
        "hand_resident": 50,
        "orbit": 120,
        "looplab_auto": 60,
    }
    found = [one(way=way, microseconds=[time, 2 * time]) for way, time in times.items()]
    found += [one(workload="cnn", way=way, microseconds=[time]) for way, time in times.items()]
    sheet = tables.ratios(Results({}, found))
    mlp, cnn, mean = sheet.rows
    assert mlp == ["mlp", "auto", "1.20 hand_resident", "0.15", "0.30 fit_xla", "0.50 orbit"]
    assert cnn[0] == "cnn" and mean == ["geometric mean", "", "1.20", "0.15", "0.30", "0.50"]
    assert sheet.markdown().splitlines()[2] == "| " + " | ".join(mlp) + " |"


def test_two_files_are_compared(tmp_path, capsys):
    for name, factor, cores in (("old", 1.0, 2), ("new", 1.5, 4)):
        found = [one(way="hand_loop"), one(way="looplab_graph", microseconds=[200 * factor])]
        found += [one(way="fit")] if name == "old" else []
        Results({"cores": cores}, found).write(tmp_path / f"{name}.json")
    assert command.main(["compare", str(tmp_path / "old.json"), str(tmp_path / "new.json")]) == 0
    said = capsys.readouterr().out
    assert "1.50" in said and "2.00" in said and "3.00" in said and "cores: 2 -> 4" in said
    assert "measured in the old one alone: mlp, fit" in said and "new one alone" not in said


def test_the_quick_form_takes_no_choice_that_it_would_drop(capsys):
    with pytest.raises(SystemExit):
        command.main(["--quick", "--workloads", "cnn"])
    assert "leave it out to choose them" in capsys.readouterr().err


def test_the_guide_shows_what_was_measured():
    results = Results.read(ROOT / "scripts" / "benchmarks" / "measured.json")
    page = (ROOT / "scripts" / "benchmarks" / "README.md").read_text("utf-8")
    for sheet in (tables.ratios(results), tables.times(results)):
        assert sheet.markdown().strip() in page


def test_a_file_of_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(SystemExit):
        command.main(["show", str(tmp_path / "other.json")])
    assert "measure again" in capsys.readouterr().err
