"""What stays in the ordinary suite, whatever goes behind the marker `slow`."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def marked_rows(kind):
    """The numbers that tests are marked with: in all of the suite, and in the ordinary one."""
    everywhere, ordinary = set(), set()
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            decorators = getattr(node, "decorator_list", [])
            calls = [call for d in decorators for call in ast.walk(d) if isinstance(call, ast.Call)]
            marks = [call for call in calls if ast.unparse(call.func) == f"pytest.mark.{kind}"]
            numbers = {number.value for call in marks for number in call.args}
            everywhere |= numbers
            if "pytest.mark.slow" not in map(ast.unparse, decorators):
                ordinary |= numbers
    return everywhere, ordinary


@pytest.mark.parametrize("kind", ["promise", "fault"])
def test_every_row_that_has_a_test_has_an_ordinary_one(kind):
    everywhere, ordinary = marked_rows(kind)
    assert len(everywhere) > 25
    assert sorted(everywhere - ordinary) == []
