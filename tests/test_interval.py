"""The time grammar against brute force."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from looplab import ConfigurationError, Interval


@pytest.mark.parametrize(
    ("text", "count", "unit"),
    [
        ("10ep", 10, "ep"),
        ("500st", 500, "st"),
        ("1e6ex", 1_000_000, "ex"),
        ("90min", 90, "min"),
        (25, 25, "st"),
        ("25", 25, "st"),
        ("0.5ep", Fraction(1, 2), "ep"),
        (" 2 ep ", 2, "ep"),
    ],
)
def test_reads_the_grammar(text, count, unit):
    assert Interval.parse(text) == Interval(Fraction(count), unit)


@pytest.mark.parametrize("text", ["", "ep", "10x", "-3st", "0", "1.5st", "0ep", True, None, "nan"])
def test_refuses_everything_else_and_names_the_key(text):
    with pytest.raises(ConfigurationError, match=r"checkpoint\.every"):
        Interval.parse(text, what="checkpoint.every")


@given(count=st.integers(1, 50), per_epoch=st.integers(1, 40), step=st.integers(0, 500))
def test_steps_and_epochs_are_due_at_their_multiples(count, per_epoch, step):
    due = Interval.parse(f"{count}st").next_step(step, per_epoch, lambda s: None)
    assert due == next(s for s in range(step + 1, step + count + 1) if s % count == 0)
    due = Interval.parse(f"{count}ep").next_step(step, per_epoch, lambda s: None)
    assert due == next(
        s for s in range(step + 1, step + count * per_epoch + 1) if s % (count * per_epoch) == 0
    )


@given(quarters=st.integers(1, 12), per_epoch=st.integers(1, 40), step=st.integers(0, 300))
def test_parts_of_an_epoch_are_due_at_the_first_step_that_reaches_them(quarters, per_epoch, step):
    length = Fraction(quarters, 4) * per_epoch
    marks = {math.ceil(n * length) for n in range(1, 2000)}
    due = Interval.parse(f"{quarters / 4}ep").next_step(step, per_epoch, lambda s: None)
    assert due == min(mark for mark in marks if mark > step)


@given(
    count=st.integers(1, 300), size=st.integers(1, 100), batch=st.integers(1, 32), step=st.integers(0, 200)
)
def test_examples_are_due_at_the_first_step_whose_count_reaches_them(count, size, batch, step):
    per_epoch = -(-size // batch)

    def examples(s):
        epoch, index = divmod(s, per_epoch)
        return epoch * size + min(index * batch, size)

    due = Interval.parse(f"{count}ex").next_step(step, per_epoch, examples)
    assert due == next(s for s in range(step + 1, 10**6) if examples(s) // count > examples(step) // count)


def test_counting_examples_needs_their_number():
    with pytest.raises(ConfigurationError, match="steps"):
        Interval.parse("100ex").next_step(3, 10, lambda s: None)
