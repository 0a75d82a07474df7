"""Every case through every property, on one device and on two replicas."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import looplab
from looplab.testing import properties
from looplab.testing.properties import EventLog, run_step_by_step, same
from tests.conformance.cases import CASES, FAMILIES
from tests.conftest import make_strategy


def is_ordinary(name, turn, families=False):
    """Whether a case goes through a property in the ordinary suite: a part does, of each property another.

    Not the shipped examples, which are large. The three properties of the families of models have a sixth of
    the other cases, the others an eighteenth.

    Args:
        name: Of the case.
        turn: Which part: properties that follow each other have others.
        families: Whether the families go through it.
    """
    if name in FAMILIES:
        return families
    return list(CASES).index(name) % (6 if families else 18) == turn and not name.startswith("example")


def every_case(turn, families=False):
    """Every case; those that are not in this part with `-m ""`."""
    return pytest.mark.parametrize(
        "name",
        [pytest.param(n, marks=() if is_ordinary(n, turn, families) else pytest.mark.slow) for n in CASES],
    )


def every_cell(turn, families=False):
    """Every case on one device and on two replicas; in the ordinary suite this part, on either in turn."""
    cells = [(name, replicas) for name in CASES for replicas in (1, 2)]

    def is_slow(name, replicas):
        ordinary = 1 + (list(CASES).index(name) // 6 + turn) % 2
        return not is_ordinary(name, turn, families) or replicas != ordinary

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


def run(name, replicas, run_dir=None, log=None, **options):
    return properties.run_case(CASES[name], make_strategy(replicas), run_dir, log, **options)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Runs each case once, step by step, and keeps what came out."""
    kept = {}

    def get(name, replicas):
        if (name, replicas) not in kept:
            run_dir = tmp_path_factory.mktemp("unbroken")
            kept[name, replicas] = run_step_by_step(CASES[name], make_strategy(replicas), run_dir)
        return kept[name, replicas]

    return get


@every_cell(turn=0, families=True)
def test_p28_no_loop_length_changes_events_values_or_state(name, replicas, unbroken, tmp_path):
    again = run(name, replicas, tmp_path, steps_per_execution=4)
    properties.loop_length_changes_nothing(unbroken(name, replicas), again)


@every_cell(turn=4, families=True)
def test_p14_a_run_stopped_and_started_again_is_the_unbroken_run(name, replicas, unbroken, tmp_path):
    strategy, whole = make_strategy(replicas), unbroken(name, replicas)
    properties.a_stopped_run_is_the_unbroken_one(CASES[name], strategy, whole, tmp_path)


@every_case(turn=1, families=True)
def test_p01_two_replicas_make_the_updates_of_one_device(name, unbroken):
    one, two = unbroken(name, 1), unbroken(name, 2)
    properties.replicas_make_the_same_updates(one, two)
    properties.events_have_the_same_values(one, two)


@every_cell(turn=2)
def test_eager_steps_agree_with_compiled_ones(name, replicas, unbroken):
    properties.modes_agree(unbroken(name, replicas), run(name, replicas, run_eagerly=True))


@every_cell(turn=7)
def test_xla_steps_agree_with_those_of_the_graph(name, replicas, unbroken):
    case = CASES[name]
    if replicas > 1 and (not case.xla or name in ("classifier", "dropout", "stream")):
        pytest.skip("collectives inside the loss (all_gather, synchronised BatchNorm) do not compile")
    if not case.xla_ops:
        pytest.skip("uses operations that XLA does not have")
    # On one device the whole loop: the step in it is that of xla_step, to the bit.
    of_known_size = isinstance(case.data().get("x"), np.ndarray | tuple | dict)
    execution = "xla_loop" if replicas == 1 and of_known_size else "xla_step"
    properties.modes_agree(unbroken(name, replicas), run(name, replicas, execution=execution))


@every_case(turn=5)
def test_p01_three_replicas_make_them_too(name, unbroken):
    properties.replicas_make_the_same_updates(unbroken(name, 1), run(name, 3, log_every="2st"), 1e-4)


@every_case(turn=0)
def test_p04_micro_batches_make_the_updates_of_the_whole(name, unbroken):
    if CASES[name].whole:
        pytest.skip("micro-batches are another step: BatchNormalization, contrasts, its own tape")
    properties.replicas_make_the_same_updates(unbroken(name, 1), run(name, 1, micro_batches=3))


@every_case(turn=8)
def test_p38_16_bits_need_no_change(name, unbroken, monkeypatch):
    whole = unbroken(name, 1)
    losses = [values.get("loss") for kind, _, values in whole.events if kind == "epoch"]
    coarse = run(name, 1, precision="mixed_bfloat16")
    rounded = [values.get("loss") for kind, _, values in coarse.events if kind == "epoch"]
    for loss, other in zip(losses, rounded, strict=True):
        if loss is not None and not CASES[name].random:
            assert other == pytest.approx(loss, rel=0.1, abs=0.05)
    monkeypatch.setattr(
        looplab.optimization.loss_scale, "INITIAL", 2.0**60
    )  # of which all gradients overflow
    half = run(name, 1, precision="mixed_float16")
    assert half.moments == whole.moments
    scales = half.trainer._engine.loss_scales.items()
    skipped = {name: int(own.skipped.numpy()) for name, own in scales}
    if name != "own tape":  # whose gradients are not scaled, and not too large
        assert all(count > 0 for count in skipped.values()), skipped
    assert all(np.isfinite(value).all() for value in half.state.values())


@pytest.mark.slow
@settings(max_examples=3)
@given(
    length=st.integers(2, 13),
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
        options = {"checkpoint": policy, "steps_per_execution": steps, "log_every": log}
        ran = run("dropout", replicas, run_dir, EventLog(every), **options)
        seen.append((ran.events, ran.left, ran.state))
    assert seen[0][:2] == seen[1][:2]
    same(seen[0][2], seen[1][2])
