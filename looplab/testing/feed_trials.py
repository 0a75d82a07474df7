"""Ways to read the data of `check_feed`: in order and shuffled, again and again from the beginning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from looplab.data import Source, as_source, build_feed
from looplab.data.indexed_source import BATCH_SIZE, IndexedSource
from looplab.data.pipeline_inspection import counts_passes
from looplab.data.stream import Stream
from looplab.protocols import Feed
from looplab.testing.batches import Batch, read
from looplab.testing.fresh import fresh

_PLACES = 12  # that are tried, about, if nobody names them


@dataclass(frozen=True)
class Given:
    """What is examined.

    Attributes:
        data: Data that `fit` takes, or a function that makes it.
        batch_size: Examples of a batch of arrays; None for 32.
        steps_per_epoch: Steps of an epoch, where it is not one pass over the data.
        seed: Decides the orders.
        expected: All examples in their order, nested arrays; None if nobody says.
        places: Completed steps at which a run is to find its place; None for some.
    """

    data: Any
    batch_size: int | None
    steps_per_epoch: int | None
    seed: int
    expected: Any
    places: Sequence[int] | None

    def source(self) -> Source:
        """Returns the source as a new process would have it."""
        return as_source(fresh(self.data, "check_feed("))

    @cached_property
    def examples(self) -> Batch | None:
        """All examples in their order, as a batch has them."""
        if self.expected is None:
            return None
        source = as_source(self.expected)
        assert isinstance(source, IndexedSource)
        return read(source.feed(source.size, shuffle=False, seed=0), 0, 1)[0]


@dataclass
class Trial:
    """One way to read the data.

    Attributes:
        given: What is looked at.
        shuffle: Whether it is shuffled.
        in_order: The same data in order; None for these themselves.
    """

    given: Given
    shuffle: bool = False
    in_order: Trial | None = None
    source: Source = field(init=False)
    feed: Feed = field(init=False)

    def __post_init__(self) -> None:
        self.source = self.given.source()
        self.feed = self.of(self.source)

    def of(self, source: Source, **more: Any) -> Feed:
        """Returns a feed of a source."""
        how = {"shuffle": self.shuffle, "seed": self.given.seed, **more}
        size, steps = self.given.batch_size, self.given.steps_per_epoch
        return build_feed(source, batch_size=size, steps_per_epoch=steps, **how)

    def new(self, **more: Any) -> Feed:
        """Returns the feed as a new process would have it."""
        return self.of(self.given.source(), **more)

    @property
    def order(self) -> str:
        """The way, in words."""
        if isinstance(self.source, Stream):
            return "as it comes"
        return "shuffled" if self.shuffle else "in order"

    @cached_property
    def steps(self) -> int:
        """Steps of one pass over the data; those of an epoch where that is not known."""
        return self.known or self.feed.steps_per_epoch or 1

    @cached_property
    def known(self) -> int | None:
        """Steps of one pass over the data, if they are known."""
        if isinstance(self.source, IndexedSource):
            batched, size = self.source.batched, self.given.batch_size or BATCH_SIZE
            return self.source.length(None) if batched else -(-self.source.size // size)
        return None if self.given.steps_per_epoch else self.feed.steps_per_epoch

    @cached_property
    def passes(self) -> list[list[Batch]]:
        """The batches of three passes, read one by one in a feed of their own."""
        found = read(self.new(), 0, 3 * self.steps)
        return [found[number * self.steps : (number + 1) * self.steps] for number in range(3)]

    @cached_property
    def whole(self) -> list[Batch]:
        """All of these."""
        return [batch for own in self.passes for batch in own]

    @cached_property
    def lying(self) -> list[bytes]:
        """What tells the examples apart, in the order of the first pass that is not shuffled."""
        return [each for batch in (self.in_order or self).passes[0] for each in batch.examples]

    @cached_property
    def places(self) -> Sequence[int]:
        """Completed steps at which a run is to find its place, within two passes."""
        if self.given.places is not None:
            return sorted({*self.given.places})
        last = 2 * self.steps
        if last <= _PLACES:
            return range(last + 1)
        edges = {0, 1, self.steps - 1, self.steps, self.steps + 1, last}
        return sorted(edges | {index * last // _PLACES for index in range(_PLACES)})

    @property
    def counts(self) -> bool:
        """Whether an iterator over the data is told from those before."""
        return isinstance(self.source, Stream) and counts_passes(self.source.dataset)

    def read_from(self, feed: Feed, step: int) -> list[Batch]:
        """Has a feed find its place, and returns a batch or two from there on."""
        return read(feed, step, min(2, len(self.whole) - step))

    def difference(self, found: Sequence[Batch], first: int) -> str | None:
        """Says which of the batches from a step on is not the one that was read first; None if all are."""
        for step, batch in enumerate(found, first):
            if differs := batch.difference(self.whole[step]):
                return f"batch {step} (counted from 0) is another than before: {differs}"
        return None
