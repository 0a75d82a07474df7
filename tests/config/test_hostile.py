"""Configurations that try to run or write something: each is refused, and nothing has happened."""

import sys

import keras
import pytest
import yaml
from omegaconf import OmegaConf

from looplab import config, experiment
from looplab.errors import ConfigurationError
from tests.config.in_process import inside, say
from tests.process import PROJECT, ROOT, snapshot, write

CORPUS = yaml.safe_load((ROOT / "tests" / "config" / "hostile.yaml").read_text(encoding="utf-8"))
GOOD = {
    "epochs": 2,
    "data": {"source": {"_target_": "mine.points"}},
    "model": {"_target_": "mine.Net"},
    "optimizer": {"_target_": "keras.optimizers.SGD"},
    "loss": {"_target_": "keras.losses.SparseCategoricalCrossentropy"},
}
# What each would import, which says something or opens a browser.
LOUD = ("this", "antigravity", "turtledemo")


@pytest.fixture
def folder(tmp_path):
    """A project whose module has much in it, beside something that must stay as it is."""
    write(tmp_path / "victim", {"file.txt": "kept", "x.yaml": "vars: {stolen: 1}\n"})
    write(tmp_path / "project", PROJECT)
    write(tmp_path / "project", {"mine.py": PROJECT["mine.py"] + CORPUS["mine"]})
    before = snapshot(tmp_path)
    yield tmp_path / "project"
    assert not [name for name in snapshot(tmp_path) if "canary" in name], "it was run"
    assert {k: v for k, v in snapshot(tmp_path).items() if k in before} == before
    assert not set(LOUD) & set(sys.modules)
    assert keras.src.saving.serialization_lib.in_safe_mode() is not False


def filled(node, folder):
    """Puts paths in: <canary> would be made, <victim> would be removed."""
    text = yaml.safe_dump(node, allow_unicode=True)
    for name in ("canary", "victim"):
        text = text.replace(f"<{name}>", str(folder.parent / name))
    return yaml.safe_load(text)


def build(composed, name, said=None):
    experiment.build(config.check(composed, said), None)


def named(case):
    return " ".join(case.get("words", ())) or f"{case['key']} {case['section']}"[:90]


@pytest.mark.share(16)
@pytest.mark.parametrize("case", CORPUS["sections"], ids=named)
def test_a_hostile_section_is_refused_by_the_command(case, folder, monkeypatch):
    whole = {**GOOD, **filled(case["section"], folder)}
    text = "# @package _global_\ndefaults:\n  - override /optimizer: sgd\n" + yaml.safe_dump(whole)
    write(folder, {"conf/experiment/x.yaml": text})
    said = say(["+experiment=x"], folder, {}, monkeypatch, build)
    (folder / "conf/experiment/x.yaml").unlink()
    assert said.code == 2, said.text
    assert any(message.startswith(f"{case['key']}: ") for message, _ in said.problems), said.text
    assert "Traceback" not in said.text


@pytest.mark.share(66)
@pytest.mark.parametrize("case", CORPUS["sections"], ids=named)
def test_and_by_the_builder_for_who_skips_the_first_phase(case, folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    whole = {**GOOD, **filled(case["section"], folder)}
    with inside(folder), pytest.raises(ConfigurationError) as caught:
        build(OmegaConf.create(whole), "x")
    assert f"{case['key']}: " in str(caught.value)


@pytest.mark.share(12)
@pytest.mark.parametrize("case", CORPUS["words"], ids=named)
def test_hostile_words_and_files_are_refused(case, folder, monkeypatch):
    files = filled(case.get("files", {}), folder)
    write(folder, files)
    said = say(filled(case["words"], folder), folder, {}, monkeypatch, build)
    assert said.code == 2, said.text
    missing = [phrase for phrase in filled(case["says"], folder) if phrase not in said.text]
    assert not missing, f"not said: {missing}\n{said.text}"
    assert "Traceback" not in said.text


def test_the_corpus_is_not_small():
    assert len(CORPUS["sections"]) + len(CORPUS["words"]) >= 80
