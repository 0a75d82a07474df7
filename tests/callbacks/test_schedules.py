"""Which hooks come, how often and in which order: random schedules against an oracle that enumerates them.

The loop runs on a feed, steps and evaluations that are made up, so that hundreds of schedules take seconds.
"""

import json
import signal
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

import looplab
from looplab.callbacks import CallbackList
from looplab.execution.retraces import Retraces
from looplab.loggers import History
from looplab.protocols import Steps
from looplab.runs.agreement import Alone
from looplab.runs.signals import Request
from looplab.runs.wall_time import WallTime
from looplab.training import loop
from looplab.training.checkpointing import Checkpoints
from looplab.training.controls import RunControls
from looplab.training.evaluation import Evaluation
from looplab.training.evaluation_schedule import EveryInterval
from looplab.training.fit_plan import FitPlan, Length
from looplab.training.progress import Progress, RunSoFar
from looplab.training.records import Recorder
from looplab.training.run_state import Run


class Watcher(looplab.Callback):
    """Notes every hook but `on_clock`, and interrupts the run at one of them."""

    def __init__(self, name, every, told, interrupt_at=None):
        self.name, self.every, self.told, self.interrupt_at = name, every, told, interrupt_at
        self.steps_heard = 0

    def note(self, hook, event, controls):
        self.told.append((event.step, hook, self.name))
        if self.interrupt_at == len(self.told):
            controls.request.number = signal.SIGINT

    def on_train_begin(self, event, controls):
        self.note("begin", event, controls)

    def on_epoch_begin(self, event, controls):
        assert event.step == (event.epoch - 1) * event.steps_per_epoch
        self.note("epoch begin", event, controls)

    def on_evaluate_begin(self, event, controls):
        self.note("evaluate begin", event, controls)

    def on_step(self, event, controls):
        assert event.values == {"loss": float(event.step)}
        self.steps_heard += 1
        self.note("step", event, controls)

    def on_evaluate(self, event, controls):
        self.note(f"evaluate {event.split}", event, controls)

    def on_epoch_end(self, event, controls):
        self.note("epoch", event, controls)

    def on_save(self, event, controls):
        self.note("save", event, controls)

    def on_train_end(self, event, controls):
        self.note("end", event, controls)

    def state(self):
        return {"steps_heard": self.steps_heard}

    def restore(self, state):
        self.steps_heard = state["steps_heard"]


class Counting:
    """A feed of 4 examples a step, and the steps on it: the loss of a step is its number."""

    max_take, waited, tracing, retraces = None, 0.0, 0.0, Retraces("training")
    compiled = MappingProxyType({})

    steps_per_epoch, mode = None, "graph"

    def place(self, step, *, begun, shift):
        return step

    def seek(self, step):
        self.step = step

    def examples(self, step):
        return 4 * step

    def traces(self):
        return 0, 0

    def run(self, feed, count):
        numbers = np.arange(self.step + 1.0, self.step + count + 1.0)
        self.step += count
        return Steps(count, {"loss": numbers}, {"loss": np.ones(count)}, None, None, {})


class Lengths:
    """Makes executions as long as is drawn, in turn."""

    def __init__(self, lengths):
        self.lengths, self.turn = lengths, 0

    def plan(self, room):
        self.turn += 1
        return min(room, self.lengths[self.turn % len(self.lengths)])

    def learn(self, done):
        pass


def train(schedule, disk, told, lengths, interrupt_at=None):
    """Trains from what is on the disk, as `fitting.fit` does; returns the watchers, and whether it ended."""
    watchers = [Watcher(n, every, told, interrupt_at) for n, every in enumerate(schedule.watchers)]
    callbacks = CallbackList(watchers)
    progress = Progress()
    if disk:
        saved = json.loads(disk[-1])
        progress = Progress.from_json(saved["progress"])
        callbacks.restore(saved["callbacks"])

    class Disk(Checkpoints):
        """Keeps what a checkpoint holds, and does what a run with a directory does."""

        intervals = tuple(i for i in (schedule.policy.interval, schedule.policy.kept_interval) if i)
        saved_step = -1

        @property
        def is_saved(self):
            return self.saved_step == progress.step

        def is_due(self):
            return plan.is_due(schedule.policy.interval, progress.step)

        def must_keep(self):
            kept = schedule.policy.kept_interval
            return kept is not None and plan.is_due(kept, progress.step)

        def save(self):
            self.saved_step = progress.step
            disk.append(json.dumps({"progress": progress.to_json(), "callbacks": callbacks.state()}))
            return Path("disk")

    class Evaluates:
        pictures = MappingProxyType({})

        def run(self, give_up, wall_time, batches):
            return None if give_up() else {"loss": schedule.losses[progress.step - 1]}

    counting = Counting()
    counting.steps_per_epoch = schedule.per_epoch
    engine = SimpleNamespace(
        agreement=Alone(),
        models={},
        optimizers={},
        variables={},
        watch=None,
        keras_steps=None,
        notice_changes=lambda owner, trains: 0,
        chunk_size=Lengths(lengths),
        loops=SimpleNamespace(of=lambda purpose: counting),
        values=SimpleNamespace(shows={}, of_epoch=dict, pictures_of_epoch=dict, begin_epoch=lambda: None),
    )
    plan = FitPlan(
        engine,
        counting,
        tuple(
            Evaluation(split, counting, EveryInterval(looplab.Interval.parse(every)), Evaluates())
            for split, every in schedule.sets.items()
        ),
        Length(None, schedule.total),
        callbacks,
        schedule.policy,
        looplab.Interval.parse("3st"),
        "stop",
        RunSoFar(),
    )
    wall_time = WallTime()
    console = SimpleNamespace(progress=lambda *_: None, end_epoch=lambda: None)
    training = Run(
        plan,
        progress,
        RunControls(lambda *_: None, lambda: None, Request()),
        Recorder(plan, progress, [History()], console, wall_time),
        Disk(),
        wall_time,
        lambda step: None,
    )
    return watchers, loop.train(training) != "interrupted", progress


def multiple(every, step, per_epoch):
    """Whether an interval is due at a step, said without `Interval`: whole counts only."""
    count, unit = int(every[:-2]), every[-2:]
    if unit == "ex":  # the first step that reaches a multiple
        return 4 * step // count > 4 * (step - 1) // count
    return step % (count * {"st": 1, "ep": per_epoch}[unit]) == 0


def expected(schedule):
    """Enumerates every event of a whole run, step by step, in the one order."""
    found = [(0, "begin", name) for name in range(len(schedule.watchers))]
    everyone = range(len(schedule.watchers))
    best = []  # (loss, step), best first
    for step in range(1, schedule.total + 1):
        ends, epoch_ends = step == schedule.total, step % schedule.per_epoch == 0
        if (step - 1) % schedule.per_epoch == 0:
            found += [(step - 1, "epoch begin", name) for name in everyone]
        due = [n for n in everyone if multiple(schedule.watchers[n], step, schedule.per_epoch)]
        found += [(step, "step", name) for name in due]
        sets = [s for s, every in schedule.sets.items() if ends or multiple(every, step, schedule.per_epoch)]
        found += [(step, "evaluate begin", name) for _ in sets for name in everyone]
        found += [(step, f"evaluate {split}", name) for split in sets for name in everyone]
        if epoch_ends or ends:
            found += [(step, "epoch", name) for name in everyone]
        kept = [every for every in (schedule.policy.every, schedule.policy.keep_every) if every is not None]
        saves = ends or any(multiple(every, step, schedule.per_epoch) for every in kept)
        if "validation" in sets:
            loss = schedule.losses[step - 1]
            if not np.isnan(loss):
                best = sorted([*best, (loss, step)])[: schedule.policy.keep_best]
                saves |= (loss, step) in best
        if saves:
            found += [(step, "save", name) for name in everyone]
    found += [(schedule.total, "end", name) for name in everyone]
    return found, [step for _, step in best]


intervals = st.builds(
    lambda count, unit: f"{count * (4 if unit == 'ex' else 1)}{unit}",
    st.integers(1, 9),
    st.sampled_from(["st", "ep", "ex"]),
) | st.builds("{}ex".format, st.integers(5, 60))

SETS = [["validation"], ["shifted", "validation"], ["validation", "hard"], ["b", "validation", "a"]]


@st.composite
def schedules(draw):
    total = draw(st.integers(1, 30))
    losses = st.sampled_from([float("nan"), 0.5, 1.0, 1.5, 2.0])
    return SimpleNamespace(
        total=total,
        per_epoch=draw(st.integers(1, 12)),
        watchers=draw(st.lists(intervals, min_size=1, max_size=3)),
        sets={name: draw(intervals) for name in draw(st.sampled_from(SETS))},
        losses=draw(st.lists(losses, min_size=total, max_size=total)),
        policy=looplab.CheckpointPolicy(
            every=draw(intervals),
            keep_best=draw(st.integers(1, 3)),
            keep_every=draw(st.none() | intervals),
            monitor="val_loss",
        ),
    )


lengths = st.lists(st.integers(1, 10), min_size=1, max_size=4)


@pytest.mark.promise(33)
@pytest.mark.promise(28)
@settings(max_examples=200)
@given(schedule=schedules(), lengths=lengths)
def test_hooks_come_exactly_when_and_as_often_as_they_should(schedule, lengths):
    told = []
    _, ended, progress = train(schedule, [], told, lengths)
    events, best = expected(schedule)
    assert ended and told == events
    assert [found["step"] for found in progress.top] == best


def within(told):
    """What comes once in a run, however often it starts; an evaluation that was interrupted begins again."""
    return [one for one in told if one[1] not in ("begin", "evaluate begin", "save", "end")]


@pytest.mark.slow
@settings(max_examples=200)
@given(schedule=schedules(), lengths=lengths, data=st.data())
def test_interruptions_repeat_nothing_and_leave_nothing_out(schedule, lengths, data):
    events, best = expected(schedule)
    disk, whole, ended, starts = [], [], False, 0
    while not ended:
        told = []
        at = data.draw(st.integers(1, len(events)), label="interrupt at") if starts < 3 else None
        watchers, ended, progress = train(schedule, disk, told, lengths, at)
        assert not disk or json.loads(disk[-1])["progress"]["step"] == progress.step  # all is saved
        ended |= progress.settled == schedule.total  # `fitting.fit` finds nothing left to do
        whole += told
        starts += 1
    event(f"{starts} starts")
    assert within(whole) == within(events)
    # Where it is interrupted there is one more checkpoint, perhaps of a step that is not settled yet.
    assert {one for one in events if one[1] == "save"} <= set(whole)
    assert [found["step"] for found in progress.top] == best
    for watcher in watchers:
        steps = [one for one in events if one[1:] == ("step", watcher.name)]
        assert watcher.steps_heard == len(steps)
