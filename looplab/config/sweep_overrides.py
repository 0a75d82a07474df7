"""Checks the words of a sweep: what each of their values composes, before the first job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException

from looplab.config.compose import compose
from looplab.config.hydra_errors import options
from looplab.config.source_locations import from_word
from looplab.errors import Problem
from looplab.secret import is_secret, redacted_word


def keys(words: Sequence[str]) -> list[str]:
    """Returns the keys to which words give several values; none if a word cannot be read."""
    try:
        found = OverridesParser.create().parse_overrides(list(words))
    except OverrideParseException:
        return []
    return [word.key_or_group for word in found if word.is_sweep_override()]


def problems(words: Sequence[str], name: str, folder: Path | None) -> Iterator[Problem]:
    """Finds what Hydra refuses in a sweep's words, and what would make it run something.

    It composes every option of a group, since its file may contain anything; of a key, only the first value.

    Args:
        words: Overrides that compose by themselves.
        name: The primary configuration.
        folder: A folder that is searched first.
    """
    for word, override in zip(words, OverridesParser.create().parse_overrides(list(words)), strict=True):
        if not override.is_sweep_override():
            continue
        key = override.get_key_element()
        if key.lstrip("+~").startswith("hydra"):
            yield Problem(key.lstrip("+~"), "a sweep cannot vary Hydra's own section.", from_word(word))
            continue
        if any(map(is_secret, key.lstrip("+").split("."))) or redacted_word(word) != word:
            message = "a sweep cannot vary a secret: take it from the environment, ${oc.env:NAME}."
            yield Problem(key.lstrip("+~"), message, from_word(word))
            continue
        if not override.is_discrete_sweep():  # an interval, from which a sampler draws values
            continue
        values = list(override.sweep_string_iterator())
        if not values:
            yield Problem(
                key.lstrip("+~"),
                "there is no value to try: a range must end after it begins.",
                from_word(word),
            )
        others = [other for other in words if other != word]
        for value in values if options(key.lstrip("+")) else values[:1]:
            found = compose([*others, f"{key}={value}"], name=name, folder=folder, sweep=True)
            for problem in (*found.problems, *found.unsafe):
                yield replace(problem, where=from_word(word))
