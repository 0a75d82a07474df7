"""Which value there belongs to which variable here, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from looplab.checkpoint.patterns import matches, of_nothing
from looplab.errors import Problem, Refused, nearest
from looplab.options.initialize_from import KEY, InitializeFrom

OWN = "trainer/"  # begins the names of what a trainer keeps itself


class Rule:
    """One line of `map`: what is called so here, and how it is called there."""

    def __init__(self, here: str, there: str) -> None:
        """Reads both patterns.

        Args:
            here: The name of a variable or of a layer it is in, with `*`.
            there: The name of a variable or a layer there; its first `*` stands for the same as the first `*`
                here, and so on.
        """
        self.here, self.there = here, there
        self._pattern = re.compile("(.*)".join(map(re.escape, here.split("*"))) + "(/.*)?")

    def __call__(self, name: str) -> str | None:
        """Returns how what is called `name` here is called there, or None if the rule is not of it."""
        found = self._pattern.fullmatch(name)
        if found is None:
            return None
        *stand, rest = found.groups(default="")
        first, *parts = self.there.split("*")
        pairs = zip(stand, parts, strict=False)  # there may be fewer there
        return first + "".join(before + after for before, after in pairs) + rest

    def __str__(self) -> str:
        """Returns both."""
        return f"{self.here} <- {self.there}"


@dataclass
class Pairs:
    """What belongs together.

    Attributes:
        found: The key there of each variable here.
        skipped: Variables that keep their own value, each with the pattern that says so.
        passed_over: The key there of those of them that have one.
        missing: Variables that have none there, each with the name it would have.
        counts: How many each rule found.
    """

    found: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    passed_over: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


def pair(asked: InitializeFrom, here: Mapping[str, Sequence[str]], there: Mapping[str, str]) -> Pairs:
    """Finds the value of each variable.

    Args:
        asked: Which names are others there, and what is left out.
        here: All names that each variable goes by, by its path; the first is its name there where no
            rule is of it.
        there: The key of each value, by all names that it goes by.

    Raises:
        Refused: If a pattern is of nothing.
    """
    rules, pairs = [Rule(*each) for each in asked.map.items()], Pairs()
    used: set[Rule] = set()
    for path, names in here.items():
        skip = next((pattern for pattern in asked.skip if matches(path, pattern)), None)
        own = [rule for rule in rules if rule.here.startswith(OWN) == path.startswith(OWN)]
        rule = next((rule for rule in own if any(rule(name) for name in names)), None)
        if rule is not None:
            used.add(rule)
        elif path.startswith(OWN):
            continue
        wanted = [names[0]] if rule is None else list(filter(None, map(rule, names)))
        key = next((there[name] for name in wanted if name in there), None)
        if rule is not None and key is not None:
            pairs.counts[str(rule)] = pairs.counts.get(str(rule), 0) + (skip is None)
        if skip is not None:
            pairs.skipped[path] = skip
            pairs.passed_over |= {path: key} if key is not None else {}
        elif key is None:
            pairs.missing[path] = wanted[0]
        else:
            pairs.found[path] = key
    problems = [_vain(rule, rule in used, here, there) for rule in rules if str(rule) not in pairs.counts]
    listed = {"skip": asked.skip, "partial": asked.partial if isinstance(asked.partial, tuple) else ()}
    problems += [
        Problem(f"{KEY}.{word}", of_nothing(pattern, list(here)))
        for word, patterns in listed.items()
        for pattern in patterns
        if not any(matches(path, pattern) for path in here)
    ]
    if problems:
        raise Refused(problems)
    return pairs


def listed(names: Sequence[str], between: str = ", ", most: int = 8) -> str:
    """Returns names in a row, or the first of them and how many more there are."""
    return between.join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _vain(rule: Rule, used: bool, here: Mapping[str, Sequence[str]], there: Mapping[str, str]) -> Problem:
    """Says of a rule why nothing came of it."""
    key, turned, names = f"{KEY}.map", Rule(rule.there, rule.here), list(there)
    if not used and any(map(rule, names)) and any(turned(name) for own in here.values() for name in own):
        return Problem(key, f"what is here comes first: write {{{rule.there}: {rule.here}}}.")
    if not used:
        return Problem(key, of_nothing(rule.here, list(here)))
    parts = [name.split("/") for name in names]
    inside = dict.fromkeys("/".join(part[: n + 1]) for part in parts for n in range(len(part)))
    near = nearest(rule.there, inside)
    return Problem(key, f"nothing there is called {rule.there!r}; there are {listed(names)}.{near}")
