"""Pairs the variables of this trainer with the values of a source, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from looplab.checkpoint.patterns import matches, of_nothing
from looplab.errors import Problem, Refused, nearest
from looplab.options.initialize_from import KEY, InitializeFrom

OWN = "trainer/"  # the prefix of a trainer's own attributes


class Rule:
    """One entry of `map`: a name in this trainer, and its name in the source."""

    def __init__(self, here: str, there: str) -> None:
        """Reads both patterns.

        Args:
            here: The name of a variable or of a layer in this trainer, with `*`.
            there: The name of a variable or a layer in the source; its first `*` stands for the same text as
                the first `*` of `here`, and so on.
        """
        self.here, self.there = here, there
        self._pattern = re.compile("(.*)".join(map(re.escape, here.split("*"))) + "(/.*)?")

    def __call__(self, name: str) -> str | None:
        """Returns the name in the source of what is called `name` here; None if the rule does not match."""
        found = self._pattern.fullmatch(name)
        if found is None:
            return None
        *stand, rest = found.groups(default="")
        first, *parts = self.there.split("*")
        pairs = zip(stand, parts, strict=False)  # `there` may have fewer
        return first + "".join(before + after for before, after in pairs) + rest

    def __str__(self) -> str:
        """Returns both patterns."""
        return f"{self.here} <- {self.there}"


@dataclass
class Pairs:
    """The result of `pair`.

    Attributes:
        found: The key in the source of each variable that gets a value.
        skipped: Variables that keep their own value, each with the pattern that skips it.
        passed_over: The key in the source of each skipped variable that has one.
        missing: Variables without a value in the source, each with the name that was expected.
        counts: The number of variables that each rule has found.
    """

    found: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    passed_over: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


def pair(asked: InitializeFrom, here: Mapping[str, Sequence[str]], there: Mapping[str, str]) -> Pairs:
    """Finds the value of each variable.

    Args:
        asked: The settings: which names differ in the source, and which variables to skip.
        here: All names of each variable, by its path; the first one is its name in the source if no rule
            matches.
        there: The key of each value in the source, by all its names.

    Raises:
        Refused: If a pattern matches nothing.
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
    """Returns names as a list in a text, or the first ones and how many more there are."""
    return between.join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _vain(rule: Rule, used: bool, here: Mapping[str, Sequence[str]], there: Mapping[str, str]) -> Problem:
    """Returns the problem of a rule that found nothing."""
    key, turned, names = f"{KEY}.map", Rule(rule.there, rule.here), list(there)
    if not used and any(map(rule, names)) and any(turned(name) for own in here.values() for name in own):
        return Problem(key, f"the name here comes first: write {{{rule.there}: {rule.here}}}.")
    if not used:
        return Problem(key, of_nothing(rule.here, list(here)))
    parts = [name.split("/") for name in names]
    inside = dict.fromkeys("/".join(part[: n + 1]) for part in parts for n in range(len(part)))
    near = nearest(rule.there, inside)
    return Problem(key, f"nothing there is called {rule.there!r}; there are {listed(names)}.{near}")
