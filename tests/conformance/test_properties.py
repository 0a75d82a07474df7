"""Every case through every property, on one device and on two replicas."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import looplab
import looplab.checkpoint.state
from tests.conformance.cases import CASES
from tests.conftest import make_strategy
from tests.process import records, saved

EVERY_CASE = pytest.mark.parametrize("name", CASES)
# The shipped examples, which are large, meet the others in the ordinary suite, and these with `-m ""`.
SMALL_CASES = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name.startswith("example") else ()) for name in CASES],
)


def every_cell(ordinary):
    """Every case on one device and on two replicas; with `-m ""` all of these pairs.

    Args:
        ordinary: On how many replicas the shipped examples, which are large, go through this property in
            the ordinary suite, and every other one of the rest; so each meets every property and both.
    """
    cells = [(name, replicas) for name in CASES for replicas in (1, 2)]
    others = [name for name in CASES if not name.startswith("example")]

    def is_slow(name, replicas):
        swapped = name in others and others.index(name) % 2
        return (replicas == ordinary) == bool(swapped)

    return pytest.mark.parametrize(
        ("name", "replicas"),
        [
            pytest.param(
                *cell,
                id=f"{cell[0]}-{'one device' if cell[1] == 1 else 'two replicas'}",
                marks=pytest.mark.slow if is_slow(*cell) else (),
            )
            for cell in cells
        ],
    )


class Recorder(looplab.Callback):
    """Writes every event down, with its values."""

    def __init__(self, every="3st", stop_at=None):
        self.every, self.stop_at, self.events = every, stop_at, []
        self.epochs = []  # a state, to be found again in the checkpoint

    def on_step(self, event, controls):
        self.events.append(("step", event.step, dict(event.values)))
        if self.stop_at is not None and event.step >= self.stop_at:
            controls.stop("asked to")

    def on_evaluate(self, event, controls):
        self.events.append(("evaluate", event.step, dict(event.values)))

    def on_epoch_end(self, event, controls):
        self.events.append(("epoch", event.step, dict(event.values)))
        self.epochs.append([event.step, sorted(event.values.items())])

    def on_save(self, event, controls):
        self.events.append(("save", event.step, event.path.name))

    def state(self):
        return {"epochs": self.epochs}

    def restore(self, state):
        self.epochs = state["epochs"]


def run(name, replicas, *, recorder=None, run_dir=None, **options):
    """Fits a case and returns (trainer, events, state)."""
    case = CASES[name]
    recorder = recorder or Recorder()
    trainer = case.make(
        strategy=make_strategy(replicas), callbacks=[recorder], run_dir=run_dir, seed=5, **options
    )
    trainer.fit(**case.data(), verbose=0)
    return trainer, recorder.events, looplab.checkpoint.state.read(trainer._engine.variables)


def assert_same(left, right, tolerance=0.0):
    assert left.keys() == right.keys()
    for path, value in left.items():
        if tolerance:
            np.testing.assert_allclose(value, right[path], rtol=tolerance, atol=tolerance, err_msg=path)
        else:
            np.testing.assert_array_equal(value, right[path], err_msg=path)


def assert_close(split, state, tolerance=2e-5):
    """Whether a step that was split has left what the whole one has, but for rounding."""
    split = {path.removesuffix("@replicas"): value for path, value in split.items()}
    for path, value in state.items():
        if path.startswith(("models/", "optimizers/", "trainer/")) and "seed_generator" not in path:
            np.testing.assert_allclose(split[path], value, rtol=2e-4, atol=tolerance, err_msg=path)


def left(run_dir):
    """Returns what a run leaves behind beside its variables: the log, and the checkpoint's values."""
    return {"log": records(run_dir), "checkpoint": saved(run_dir)}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Runs each case once, step by step, and keeps what came out."""
    kept = {}

    def get(name, replicas):
        if (name, replicas) not in kept:
            run_dir = tmp_path_factory.mktemp("unbroken")
            trainer, events, state = run(
                name, replicas, run_dir=run_dir, steps_per_execution=1, checkpoint=POLICY, log_every="2st"
            )
            traces = trainer._engine.loops.of("train").traces()
            kept[name, replicas] = traces, events, state, left(run_dir)
        return kept[name, replicas]

    return get


POLICY = looplab.CheckpointPolicy(every="5st", keep_last=3)


@every_cell(ordinary=2)
def test_p28_no_loop_length_changes_events_values_or_state(name, replicas, unbroken, tmp_path):
    traces, events, state, rest = unbroken(name, replicas)
    again, same_events, same_state = run(
        name, replicas, run_dir=tmp_path, steps_per_execution=4, checkpoint=POLICY, log_every="2st"
    )
    assert same_events == events
    assert left(tmp_path) == rest
    assert_same(same_state, state)
    for step, loop in (traces, again._engine.loops.of("train").traces()):
        assert step == 1
        assert loop == 1


@every_cell(ordinary=1)
def test_p14_a_run_stopped_and_started_again_is_the_unbroken_run(name, replicas, unbroken, tmp_path):
    _, _, state, rest = unbroken(name, replicas)
    for stop_at in (7, None):
        recorder = Recorder(every="1st", stop_at=stop_at)
        _, _, resumed = run(
            name, replicas, recorder=recorder, run_dir=tmp_path, checkpoint=POLICY, log_every="2st"
        )
    assert left(tmp_path) == rest
    assert_same(resumed, state)


@EVERY_CASE
def test_p01_two_replicas_make_the_updates_of_one_device(name, unbroken):
    if CASES[name].random:
        pytest.skip("draws random masks, which belong to a replica")
    _, one, state, _ = unbroken(name, 1)
    _, two, split, _ = unbroken(name, 2)
    assert_close(split, state)
    assert [(kind, step) for kind, step, _ in one] == [(kind, step) for kind, step, _ in two]
    for (kind, _, values), (_, _, others) in zip(one, two, strict=True):
        if kind != "save":
            assert values == pytest.approx(others, rel=1e-3, abs=1e-5)


@every_cell(ordinary=1)
def test_eager_steps_agree_with_compiled_ones(name, replicas, unbroken):
    _, events, state, _ = unbroken(name, replicas)
    _, eager_events, eager = run(name, replicas, run_eagerly=True)
    kept = [event for event in events if event[0] != "save"]
    assert [event[:2] for event in eager_events] == [event[:2] for event in kept]
    assert_same(eager, state, tolerance=2e-3)


@every_cell(ordinary=1)
def test_xla_steps_agree_with_those_of_the_graph(name, replicas, unbroken):
    case = CASES[name]
    if replicas > 1 and (not case.xla or name in ("classifier", "dropout", "stream")):
        pytest.skip("collectives inside the loss (all_gather, synchronised BatchNorm) do not compile")
    _, events, state, _ = unbroken(name, replicas)
    if not case.xla_ops:
        pytest.skip("uses operations that XLA does not have")
    # On one device the whole loop: the step in it is that of xla_step, to the bit.
    of_known_size = isinstance(case.data().get("x"), np.ndarray | tuple | dict)
    execution = "xla_loop" if replicas == 1 and of_known_size else "xla_step"
    _, xla_events, compiled = run(name, replicas, execution=execution)
    assert [event[:2] for event in xla_events] == [e[:2] for e in events if e[0] != "save"]
    assert_same(compiled, state, tolerance=2e-3)  # of random masks too


@SMALL_CASES
def test_p01_three_replicas_make_them_too(name, unbroken):
    if CASES[name].random:
        pytest.skip("draws random masks, which belong to a replica")
    _, events, state, _ = unbroken(name, 1)
    _, split_events, split = run(name, 3, log_every="2st")
    assert_close(split, state, tolerance=1e-4)
    assert [event[:2] for event in split_events] == [event[:2] for event in events if event[0] != "save"]


@SMALL_CASES
def test_p04_micro_batches_make_the_updates_of_the_whole(name, unbroken):
    if CASES[name].whole or CASES[name].random:
        pytest.skip("micro-batches are another step: BatchNormalization, contrasts, masks, its own tape")
    _, events, state, _ = unbroken(name, 1)
    _, split_events, split = run(name, 1, micro_batches=3)
    assert_close(split, state)
    assert [event[:2] for event in split_events] == [event[:2] for event in events if event[0] != "save"]


@SMALL_CASES
def test_p38_16_bits_need_no_change(name, unbroken, monkeypatch):
    events = [event for event in unbroken(name, 1)[1] if event[0] != "save"]
    losses = [values.get("loss") for kind, _, values in events if kind == "epoch"]
    _, coarse_events, _ = run(name, 1, precision="mixed_bfloat16")
    coarse = [values.get("loss") for kind, _, values in coarse_events if kind == "epoch"]
    for loss, other in zip(losses, coarse, strict=True):
        if loss is not None and not CASES[name].random:
            assert other == pytest.approx(loss, rel=0.1, abs=0.05)
    monkeypatch.setattr(
        looplab.optimization.loss_scale, "INITIAL", 2.0**60
    )  # of which all gradients overflow
    trainer, half_events, state = run(name, 1, precision="mixed_float16")
    assert [event[:2] for event in half_events] == [event[:2] for event in events]
    skipped = {name: int(own.skipped.numpy()) for name, own in trainer._engine.loss_scales.items()}
    if name != "own tape":  # whose gradients are not scaled, and not too large
        assert all(count > 0 for count in skipped.values()), skipped
    assert all(np.isfinite(value).all() for value in state.values())


@settings(max_examples=4)
@given(
    length=st.integers(1, 13),
    every=st.sampled_from(["1st", "2st", "7st", "1ep", "0.5ep", "11ex"]),
    save=st.sampled_from(["2st", "3st", "1ep", "20ex"]),
    log=st.integers(1, 5),
    replicas=st.sampled_from([1, 2]),
)
def test_p28_random_schedules_of_events_do_not_depend_on_the_loop(
    length, every, save, log, replicas, tmp_path_factory
):
    seen = []
    for steps in (1, length):
        run_dir = tmp_path_factory.mktemp("events")
        policy = looplab.CheckpointPolicy(every=save)
        _, events, state = run(
            "dropout", replicas, recorder=Recorder(every), run_dir=run_dir, checkpoint=policy,
            steps_per_execution=steps, log_every=log,
        )  # fmt: skip
        seen.append((events, left(run_dir), state))
    assert seen[0][:2] == seen[1][:2]
    assert_same(seen[0][2], seen[1][2])
