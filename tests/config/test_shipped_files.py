"""Every option that looplab ships has every key of its section: Hydra refuses a word for any other key."""

import dataclasses
import typing

import pytest
import yaml

from looplab.config import schema
from tests.process import ROOT

SECTIONS = {
    name: kind
    for name, kind in typing.get_type_hints(schema.Config).items()
    if dataclasses.is_dataclass(kind)
}
FILES = [path for name in SECTIONS for path in sorted((ROOT / "conf" / name).glob("*.yaml"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_it_has_every_key(path):
    keys = {each.name for each in dataclasses.fields(SECTIONS[path.parent.name])}
    assert sorted(keys - set(yaml.safe_load(path.read_text("utf-8")))) == []
