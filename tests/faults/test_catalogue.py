"""Every row of the catalogue of faults is a test, or says why it is none."""

import ast
from pathlib import Path

from tests.faults.catalogue import LATER, NEVER, PARTLY, ROWS

TESTS = Path(__file__).parents[1]


def marked():
    """The rows that tests are marked with."""
    found = set()
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("mark.fault"):
                found |= {argument.value for argument in node.args}
    return found


def test_every_row_is_met_or_said_not_to_be():
    assert list(ROWS) == list(range(1, 71))
    met, left = marked(), LATER.keys() | NEVER.keys()
    assert not met & left, "these have tests, and are listed as left"
    assert sorted(ROWS.keys() - met - left) == []
    assert PARTLY.keys() <= met, "these have no tests"
