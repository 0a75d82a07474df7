"""The kinds of values that configuration keys take: what each accepts, and how it describes that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from looplab.errors import ConfigurationError, nearest
from looplab.interval import Interval, TooLong
from looplab.options.paths import not_local

EXACT = 2**53  # up to here a float64, which readers of JSON use, represents every whole number

# Beside its kind, a key may have a mark for changes in a resumed run: no report (FREE), or a report (SAID).
# A key without a mark changes what is computed, and needs `allow_change`.
FREE = "may change when a run resumes"
SAID = "reported when it changes in a resumed run"


class Kind(Protocol):
    """The kind of value that a key takes."""

    def describe(self) -> str:
        """Returns a text that fits `expected ..., got ...`."""

    def read(self, value: Any) -> Any:
        """Converts a value.

        Raises:
            ValueError: If it is of another kind; its text, if any, is a hint.
        """


@dataclass(frozen=True)
class Whole:
    """A whole number in a range, the ends included.

    Attributes:
        least: The smallest number.
        most: The largest number.
        why: The reason for the upper limit, after a colon in the message.
    """

    least: int
    most: int
    why: str

    def describe(self) -> str:
        """Returns a text of what is expected."""
        if self.most == EXACT:
            return f"a whole number of at least {self.least}"
        return f"a whole number from {self.least} to {self.most}"

    def read(self, value: Any) -> int:
        """Converts to the number; `1e3` and the text `"1000"` of an environment variable mean 1000."""
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        number = value if isinstance(value, int) else float(value)
        if number > self.most:  # also infinity
            raise ValueError(f"At most {self.most:,}: {self.why}")
        if number != number or number < self.least or not float(number).is_integer():
            raise ValueError
        return int(number)


@dataclass(frozen=True)
class Fraction:
    """A number between 0 and 1, the ends excluded."""

    def describe(self) -> str:
        """Returns a text of what is expected."""
        return "a number above 0 and below 1"

    def read(self, value: Any) -> float:
        """Returns the value, if it is of this kind."""
        if isinstance(value, bool) or not isinstance(value, float | str) or not 0.0 < float(value) < 1.0:
            raise ValueError
        return float(value)


@dataclass(frozen=True)
class Positive:
    """A number above 0."""

    def describe(self) -> str:
        """Returns a text of what is expected."""
        return "a number above 0"

    def read(self, value: Any) -> float:
        """Returns the value, if it is of this kind."""
        if isinstance(value, bool) or not isinstance(value, float | int | str):
            raise ValueError
        try:
            number = float(value)
        except OverflowError:  # integers of Python have no limit
            number = math.inf
        if not 0.0 < number < math.inf:
            raise ValueError
        return number


@dataclass(frozen=True)
class Switch:
    """On or off."""

    def describe(self) -> str:
        """Returns a text of what is expected."""
        return "true or false"

    def read(self, value: Any) -> bool:
        """Converts to the switch; the words of YAML 1.1 also count, since environment variables are text."""
        words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
        if isinstance(value, str) and value.lower() in words:
            return words[value.lower()]
        if not isinstance(value, bool):
            raise ValueError
        return value


@dataclass(frozen=True)
class Text:
    """Any text: a path, a name."""

    what: str = "text"

    def describe(self) -> str:
        """Returns a text of what is expected."""
        return self.what

    def read(self, value: Any) -> str:
        """Converts to text; a number is also text (`run_dir=7`)."""
        if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
            raise ValueError
        return str(value)


@dataclass(frozen=True)
class LocalPath(Text):
    """A path of a run in a mounted file system."""

    what: str = "a path"

    def read(self, value: Any) -> str:
        """Returns the value, if it is of this kind."""
        text = super().read(value)
        if why := not_local(text):
            raise ValueError(why)
        return text


@dataclass(frozen=True)
class Names:
    """A list of texts."""

    what: str = "a list of names"

    def describe(self) -> str:
        """Returns a text of what is expected."""
        return self.what

    def read(self, value: Any) -> list[str]:
        """Converts to a list; a single text becomes a list of one."""
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError
        return names


@dataclass(frozen=True)
class OneOf:
    """One of a few values."""

    values: Sequence[str | int]

    def describe(self) -> str:
        """Returns a text of what is expected."""
        return f"one of {', '.join(map(str, self.values))}"

    def read(self, value: Any) -> str | int:
        """Returns the value, if it is of this kind."""
        for known in self.values:
            if not isinstance(value, bool) and str(value) == str(known):
                return known
        raise ValueError(nearest(str(value), map(str, self.values)).strip())


@dataclass(frozen=True)
class OneOfOrWhole:
    """A whole number in a range, or a word instead of it."""

    word: str
    number: Whole

    def describe(self) -> str:
        """Returns a text of what is expected."""
        return f"{self.word!r} or {self.number.describe()}"

    def read(self, value: Any) -> str | int:
        """Returns the value, if it is of this kind."""
        return self.word if value == self.word else self.number.read(value)


@dataclass(frozen=True)
class Every:
    """An interval in looplab's grammar.

    Attributes:
        clock: Whether wall-clock time is accepted; it is not for logs, which must be reproducible.
        bare: What a bare whole number counts: steps, or epochs for settings of Keras that count epochs.
    """

    clock: bool = False
    bare: str = "steps"

    def describe(self) -> str:
        """Returns a text of what is expected."""
        examples = "500st, 10ep, 1e6ex, 90min" if self.clock else "500st, 10ep, 1e6ex"
        return f"a positive interval such as {examples} (a bare whole number counts {self.bare})"

    def read(self, value: Any) -> str | int:
        """Returns the value, if it is of this kind."""
        try:
            interval = Interval.parse(value, what="")
        except TooLong as error:
            raise ValueError(str(error).lstrip(": ")) from None
        except ConfigurationError:
            raise ValueError from None  # `describe` has the grammar
        if interval.wall_clock and not self.clock:
            raise ValueError("Wall-clock time is not reproducible: use steps, epochs or examples.")
        return f"{value}ep" if self.bare == "epochs" and str(value).isdigit() else value


@dataclass(frozen=True)
class Duration:
    """A wall-clock time."""

    def describe(self) -> str:
        """Returns a text of what is expected."""
        return "a time such as 90min"

    def read(self, value: Any) -> str:
        """Returns the value, if it is of this kind."""
        try:
            interval = Interval.parse(value, what="")
        except TooLong as error:
            raise ValueError(str(error).lstrip(": ")) from None
        except ConfigurationError:
            raise ValueError from None
        if not interval.wall_clock:
            raise ValueError(f"{value} is not wall-clock time.")
        return str(value)


@dataclass(frozen=True)
class BySet:
    """A value for all validation sets, or a mapping from names of sets to values.

    Attributes:
        each: The kind of a value.
    """

    each: Kind

    def describe(self) -> str:
        """Returns a text of what is expected."""
        return f"{self.each.describe()}; or a mapping from validation sets to such values"

    def read(self, value: Any) -> Any:
        """Returns the value; the values of a mapping are read later, when their keys are known."""
        return self.each.read(value)


@dataclass(frozen=True)
class Anything:
    """A value that other checks cover: a section with `_target_`, or another value that its slot takes.

    Attributes:
        what: The description.
    """

    what: str

    def describe(self) -> str:
        """Returns a text of what is expected."""
        return self.what

    def read(self, value: Any) -> Any:
        """Returns the value unchanged; the arguments of its `_target_` are checked elsewhere."""
        return value


@dataclass(frozen=True)
class Values:
    """A section with any keys and values."""

    def describe(self) -> str:
        """Returns a text of what is expected."""
        return "a section of values with any names"

    def read(self, value: Any) -> dict[str, Any]:
        """Returns the value, if it is of this kind."""
        if not isinstance(value, dict):
            raise ValueError
        return value
