"""A corpus of bad configurations: each is refused at once, with the key, the place and a remedy."""

import pytest
import yaml

from tests.config.in_process import say
from tests.process import PROJECT, ROOT, snapshot, train, write
from tests.test_train import WITNESS

CASES = yaml.safe_load((ROOT / "tests" / "config" / "bad.yaml").read_text(encoding="utf-8"))


def named(case):
    return " ".join(case["words"])[:60] + "".join(f" {path}" for path in case.get("files", {}))


def files_of(case):
    return {**PROJECT, **case.get("files", {})}


def held_against(case, text):
    missing = [phrase for phrase in case["says"] if phrase not in text]
    assert not missing, f"not said: {missing}\n{text}"
    assert "Traceback" not in text


@pytest.mark.share(30)
@pytest.mark.promise(40)
@pytest.mark.parametrize("case", CASES, ids=named)
def test_a_bad_configuration_is_refused_with_key_place_and_remedy(case, tmp_path, monkeypatch):
    write(tmp_path, files_of(case))
    before = snapshot(tmp_path)
    said = say(case["words"], tmp_path, {}, monkeypatch)
    held_against(case, said.text)
    assert said.code == 2
    assert len(said.problems) == case["problems"]
    for message, where in said.problems:
        assert where or message.startswith(("on the command line: ", "no experiment: ")), message
    assert snapshot(tmp_path) == before


def test_the_corpus_is_not_small():
    assert len(CASES) >= 70
    assert {case["problems"] for case in CASES} >= {1, 2, 8}


@pytest.mark.share(1)
@pytest.mark.parametrize("case", CASES[:: len(CASES) // 5][:5], ids=named)
def test_a_real_process_says_the_same_before_tensorflow_is_imported(case, tmp_path):
    project, witness = tmp_path / "project", tmp_path / "witness"
    write(witness, WITNESS)
    write(project, files_of(case))
    told = witness / "told"
    code, said = train(
        *case["words"], cwd=project, PYTHONPATH=str(witness), WITNESS=str(told), served={"light": True}
    )
    held_against(case, said)
    assert (code, told.read_text().splitlines()[0]) == (2, "")
