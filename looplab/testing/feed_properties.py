"""The properties of every feed, as functions: what a run relies on when it reads, stops and continues.

Each function takes one way to read the data, and returns a description of the violation, or None.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from looplab.data import StreamFeed
from looplab.data.indexed_source import BATCH_SIZE, IndexedSource
from looplab.data.pipeline_inspection import keeps_place, resumes
from looplab.data.stream import Stream
from looplab.execution.batches import batch_at
from looplab.testing.batches import Batch, joined, read, take
from looplab.testing.feed_trials import Trial
from looplab.testing.report import Property

_FEW = 5  # with fewer elements two orders may be equal by chance


class LeftOut(Exception):
    """Carries the reason why a property is not examined."""


def reading(trial: Trial) -> str | None:
    """Three passes can be read without an error."""
    return None if trial.whole else "there is no batch"


def description(trial: Trial) -> str | None:
    """A feed describes itself, how it finds its place, and how it would be faster."""
    texts = {"describe()": trial.feed.describe(), "resumes": trial.feed.resumes, "faster": trial.feed.faster}
    for name, text in texts.items():
        if not isinstance(text, str) or not text or "\n" in text:
            return f"{name} is {text!r}: one line of text is shown to the user"
    return None


def specification(trial: Trial) -> str | None:
    """Each batch fits `element_spec`."""
    for step, batch in enumerate(trial.whole):
        if misfit := batch.misfit(trial.feed.element_spec):
            return f"batch {step} is not what element_spec says: {misfit}"
    return None


def length(trial: Trial) -> str | None:
    """An epoch is one pass, or has the requested length."""
    steps, own = trial.feed.steps_per_epoch, trial.source.length(trial.given.batch_size)
    if not isinstance(steps, int) or steps < 1:
        return f"steps_per_epoch of the feed is {steps}, not a number of steps"
    if trial.given.steps_per_epoch:
        expected, why = trial.given.steps_per_epoch, "as requested"
    elif isinstance(trial.source, IndexedSource) and not trial.source.batched:
        size = trial.given.batch_size or BATCH_SIZE
        expected, why = -(-trial.source.size // size), f"{trial.source.size} examples in batches of {size}"
        if own != expected:
            return f"length() of the source is {own}, not {expected}: {why}"
    else:
        expected, why = own or steps, "length() of the source"
    return None if steps == expected else f"steps_per_epoch of the feed is {steps}, not {expected}: {why}"


def batch_size(trial: Trial) -> str | None:
    """All batches of a pass have the given size; the last one has the rest."""
    if trial.source.batched or not isinstance(trial.source, IndexedSource):
        raise LeftOut("its elements are the batches")
    size = trial.given.batch_size or BATCH_SIZE
    for own in trial.passes:
        for index, batch in enumerate(own):
            expected = min(size, trial.source.size - index * size)
            if len(batch) != expected:
                return f"batch {index} of a pass has {len(batch)} examples, not {expected}"
    return None


def repetition(trial: Trial) -> str | None:
    """A feed of the same data and seed gives the same batches, as in another process."""
    differs = trial.difference(read(trial.new(), 0, len(trial.whole)), 0)
    return differs and (
        f"read again from the beginning, {differs}. Something draws random numbers that no seed determines, "
        "or continues to count: derive it from the index and a seed, or give check_feed a function that "
        "creates the data"
    )


def completeness(trial: Trial) -> str | None:
    """Each pass has each example once."""
    if trial.known is None:
        raise LeftOut("the length of a pass is not known")
    if not trial.whole[0].has_rows:
        raise LeftOut("its batches are not tensors with a row for each example")
    expected = trial.given.examples
    reference = trial.lying if expected is None else expected.examples
    for number, own in enumerate(trial.passes, 1):
        found = Counter(each for batch in own for each in batch.examples)
        if wrong := _miscounted(found, reference):
            return f"in pass {number} {wrong}"
    return None


def _miscounted(found: Counter[bytes], reference: Sequence[bytes]) -> str | None:
    """Describes the first example that comes too often or too rarely."""
    expected = Counter(reference)
    for row, example in enumerate(reference):
        if found[example] != expected[example]:
            return f"example {row} (counted from 0) comes {found[example]} times, not {expected[example]}"
    more = (found - expected).total()
    return f"{more} examples come that are not in the data" if more else None


def order(trial: Trial) -> str | None:
    """Data that is not shuffled comes in order, in each pass; each shuffled pass has another order."""
    if not isinstance(trial.source, IndexedSource):
        raise LeftOut("a stream has its own order")
    return _shuffled(trial, trial.source) if trial.shuffle else _as_it_lies(trial)


def _as_it_lies(trial: Trial) -> str | None:
    expected = trial.given.examples
    if expected is not None and (differs := joined(trial.passes[0]).difference(expected)):
        return f"the first pass is not the data in their order: {differs}"
    if trial.source.batched:  # its batches may change from pass to pass
        return None
    for step in range(trial.steps, 2 * trial.steps):
        if differs := trial.whole[step].difference(trial.whole[step - trial.steps]):
            return f"batch {step - trial.steps} of the second pass is another than in the first: {differs}"
    return None


def _shuffled(trial: Trial, source: IndexedSource) -> str | None:
    if trial.known is None:
        raise LeftOut("data without an end is not shuffled")
    if (trial.steps if source.batched else source.size) < _FEW:
        raise LeftOut(f"fewer than {_FEW} of them may have the same order by chance")
    own, seed = _orders(trial), trial.given.seed
    if own[0] == own[1] == own[2]:
        return "all passes have the same order"
    if _orders(Trial(replace(trial.given, seed=seed + 1), shuffle=True)) == own:
        return f"the seeds {seed} and {seed + 1} give the same orders"
    return None


def _orders(trial: Trial) -> list[list[bytes]]:
    return [[array.tobytes() for batch in own for _, array in batch.arrays] for own in trial.passes]


def examples(trial: Trial) -> str | None:
    """`examples(step)` is the number of examples that have been read, or None."""
    seen = 0
    for step in range(len(trial.whole) + 1):
        said = trial.feed.examples(step)
        if said is not None and said != seen:
            return f"after {step} steps examples() is {said}, but {seen} were read"
        seen += len(trial.whole[step]) if step < len(trial.whole) else 0
    return None


def rows(trial: Trial) -> str | None:
    """`rows(step)` are the indices of the batch's examples."""
    if trial.feed.rows(0) is None:
        raise LeftOut("its feed does not know them")
    assert isinstance(trial.source, IndexedSource)
    places = trial.source.places(np.arange(trial.source.size)).tolist()
    lying = dict(zip(places, trial.lying, strict=False))
    for number in range(3):
        seen: list[int] = []
        for step in range(number * trial.steps, (number + 1) * trial.steps):
            own, batch = trial.feed.rows(step), trial.whole[step]
            assert own is not None
            if [lying.get(row) for row in own] != batch.examples:
                return f"rows({step}) is {own}, which is not what the batch holds"
            seen += own
        if sorted(seen) != sorted(lying):
            return f"rows() of pass {number + 1} are not each of 0 to {len(lying) - 1} once: {sorted(seen)}"
    return None


def seek(trial: Trial) -> str | None:
    """A run that continues at any step gets the batches that it would have got."""
    for place in trial.places:
        if differs := trial.difference(trial.read_from(trial.new(), place), place):
            return f"after seek({place}) {differs}"
    if trial.counts:
        return None
    feed, middle = trial.new(), trial.steps // 2
    for place in (0, middle, 0):  # as in evaluations
        if differs := trial.difference(read(feed, place, 1), place):
            return f"after a second seek({place}) of one feed {differs}"
    return None


def batch(trial: Trial) -> str | None:
    """`batch(step)` is the batch of the step, and does not move the feed."""
    for place in trial.places:
        if differs := trial.difference([Batch(trial.new().batch(place))], place):
            return f"of batch({place}) {differs}"
    if trial.counts:
        return None
    feed = trial.new()
    found = read(feed, 0, 1)
    feed.batch(trial.steps - 1)
    if trial.steps > 1 and (differs := trial.difference([*found, take(feed, 1)], 0)):
        return f"batch({trial.steps - 1}) moves the feed: {differs}"
    return None


def position(trial: Trial) -> str | None:
    """`position(step)` has JSON's types, is the same for the same data, and differs for each step."""
    again, known = trial.new(), list[Any]()
    for place in trial.places:
        own = trial.feed.position(place)
        if own != again.position(place):
            return f"position({place}) is {own}, but {again.position(place)} in another feed of the same data"
        try:
            written = json.loads(json.dumps(own))
        except (TypeError, ValueError) as error:
            return f"position({place}) cannot be saved: {error}"
        if written != own:
            return f"position({place}) is {own}, but {written} after it was saved: use JSON's types"
        if own in known:
            return f"position({place}) is that of another step: {own}"
        known.append(own)
    return None


def snapshot(trial: Trial) -> str | None:
    """A feed that gets a snapshot back continues exactly from there, and from any step after it."""
    if not keeps_place(trial.feed):
        why = f"a run goes on {resumes(trial.feed)}"
        raise LeftOut(why if isinstance(trial.feed, StreamFeed) else f"{why}, by its position")
    for place in sorted({max(1, trial.steps // 2), trial.steps + trial.steps // 2}):
        feed = trial.new()
        read(feed, 0, place)
        saved = copy.deepcopy(feed.snapshot(place))
        take(feed, place)  # it continues meanwhile
        for later in (place, place + 1):
            other = trial.new()
            other.resume_from(saved)
            if differs := trial.difference(trial.read_from(other, later), later):
                return f"with the snapshot of step {place}, after seek({later}) {differs}"
    return None


def taking(trial: Trial) -> str | None:
    """Batches that are taken together equal those that are taken one by one."""
    feed, step = trial.new(), 0
    feed.seek(0)
    while step < len(trial.whole):
        some = min(len(trial.whole) - step, feed.max_take or len(trial.whole))
        taken = feed.take(some)
        found = [Batch(batch_at(taken, index)) for index in range(some)]
        if differs := trial.difference(found, step):
            return f"of take({some}) at step {step}, {differs}"
        step += some
    return None


def independence(trial: Trial) -> str | None:
    """Two feeds of one source that are read in turn do not disturb each other."""
    if trial.counts:
        raise LeftOut("a shuffle of tf.data counts its iterators")
    source = trial.given.source()
    feeds = [trial.of(source), trial.of(source)]
    for feed in feeds:
        feed.seek(0)
    for step in range(trial.steps):
        for feed in feeds:
            if differs := trial.difference([take(feed, step)], step):
                return f"when two feeds are read in turn, {differs}"
    return None


def shards(trial: Trial) -> str | None:
    """The rows of all processes that share a batch form the batch."""
    if isinstance(trial.source, Stream):
        raise LeftOut("a stream is not read in shards")
    for count in (2, 3):
        feeds = [trial.new(shard=(rank, count)) for rank in range(count)]
        for step in range(trial.steps):
            pieces = [Batch(feed.batch(step)) for feed in feeds]
            if differs := trial.difference([joined(pieces)], step):
                return f"joined from {count} shards, {differs}"
    for step, piece in enumerate(read(feeds[1], 0, trial.steps)):
        if differs := piece.difference(Batch(feeds[1].batch(step))):
            return f"of shard 1 of {count}, batch {step} differs from batch({step}): {differs}"
    return None


PROPERTIES: Mapping[str, Callable[[Trial], str | None]] = {
    "reading": reading,
    "description": description,
    "specification": specification,
    "length": length,
    "batch size": batch_size,
    "repetition": repetition,
    "completeness": completeness,
    "order": order,
    "examples": examples,
    "rows": rows,
    "seek": seek,
    "batch": batch,
    "position": position,
    "snapshot": snapshot,
    "take": taking,
    "independence": independence,
    "shards": shards,
}
# The properties that show nothing if another property is broken: they compare with batches that are not
# repeatable, or check the order of examples that are not all present.
_ORDERED = "order", "rows"
_FOLLOW = {
    "repetition": ("completeness", *_ORDERED, "seek", "batch", "snapshot", "take", "independence", "shards"),
    "completeness": _ORDERED,
}


def examined(trial: Trial) -> Iterator[Property]:
    """Yields every property, and whether it holds."""
    broken: set[str] = set()
    for name, holds in PROPERTIES.items():
        try:
            if "reading" in broken:
                raise LeftOut("the data cannot be read")
            for other in broken:
                if name in _FOLLOW.get(other, ()):
                    raise LeftOut(f"{other} is broken")
            note = holds(trial)
        except LeftOut as why:
            yield Property(name, trial.order, "left out", str(why))
            continue
        except Exception as error:  # any error of the source's code
            note = f"{type(error).__name__}: {error}"
        if note:
            broken.add(name)
        yield Property(name, trial.order, "broken" if note else "held", note or "")
