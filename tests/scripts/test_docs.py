"""The documentation site: links work on it as in the repository, and whatever is broken fails its build."""

import subprocess
import sys
import types

import keras
import numpy as np
import pytest

import looplab
from documentation import build, conf, names
from looplab.callbacks import Norms
from looplab.loggers import read_records
from looplab.runs import tags
from tests.process import HANGS, ROOT

README = """# Top

![A picture](.images/one.svg) of [the wing](looplab/data/), [its code](looplab/data/code.py#L1) and
[a heading](looplab/data/README.md#more).

```text
[not a link](nowhere.md)
```
"""
WING = "# Data\n\n## More\n\nBack to [the top](../../README.md).\n"
SVG = '<svg xmlns="http://www.w3.org/2000/svg"/>'


@pytest.fixture
def repository(tmp_path):
    files = {"README.md": README, "looplab/data/README.md": WING, ".images/one.svg": SVG}
    for path, text in (files | {"looplab/data/code.py": "x = 1\n"}).items():
        (tmp_path / "repository" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "repository" / path).write_text(text)
    return tmp_path / "repository"


def test_links_lead_to_pages_pictures_and_files(repository, tmp_path, capsys):
    assert build.build(repository, tmp_path / "site", {}), capsys.readouterr().err
    top = (tmp_path / "site" / "index.html").read_text()
    for target in ("looplab/data/README.html#more", "source/looplab/data/code.py.html", "_images/one.svg"):
        assert f'"{target}"' in top
    assert '"../../index.html"' in (tmp_path / "site/looplab/data/README.html").read_text()
    assert "[not a link](nowhere.md)" in top


@pytest.mark.parametrize(
    ("page", "line", "named"),
    [
        ("looplab/data/README.md", "[gone](../gone/README.md)", "../gone/README.md"),
        ("README.md", "[gone](looplab/data/README.md#gone)", "gone"),
        ("README.md", "{py:func}`looplab.random.seed_everythin`", "looplab.random.seed_everythin"),
    ],
)
def test_what_leads_nowhere_fails_the_build(page, line, named, repository, tmp_path, capsys):
    with (repository / page).open("a") as file:
        file.write(f"\n{line}\n")
    assert not build.build(repository, tmp_path / "site", {})
    said = capsys.readouterr().err
    assert named in said and page.replace("README.md", "index.md" if "/" not in page else "README.md") in said


def test_docstrings_become_restructuredtext():
    lines = ["The `Key`s: all.", "", "    x = 1", "", "Returns:", "    A pair: two."]
    conf._as_google(None, "property", "made", None, None, lines)
    assert lines == [":The `Key`\\ s: all.", "", "::", "", "    x = 1", "", "Returns:", "    :A pair: two."]


def test_a_public_name_without_a_docstring_is_named(monkeypatch):
    made = types.ModuleType("looplab.made", "A module.")
    exec("class Shown:\n    '''A class.'''\n    def run(self): pass\ndef bare(): pass", made.__dict__)
    monkeypatch.setitem(sys.modules, "looplab.made", made)
    assert list(names.undocumented("looplab.made", ["Shown", "bare"])) == [
        "looplab.made.Shown.run",
        "looplab.made.bare",
    ]
    for module, public in looplab.PUBLIC.items():
        assert list(names.undocumented(f"looplab.{module}", public.split())) == []


def test_every_number_of_a_run_is_explained(tmp_path):
    x = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
    model = keras.Sequential([keras.layers.Dense(1, kernel_regularizer="l2")])
    trainer = looplab.Trainer(
        model, "adam", "mse", ["mae"], callbacks=[Norms(every=2)], run_dir=tmp_path / "run", log_every=1
    )
    trainer.fit((x, x[:, :1]), validation_data=(x, x[:, :1]), batch_size=4, epochs=2, verbose=0)
    found = read_records(tmp_path / "run" / "metrics.jsonl")
    logged = {name for record in found for name in record.values}
    explained = {name: tags.tag_of(name, "values") for name in logged}
    assert [name for name, tag in explained.items() if tag.pattern == "<name>"] == []
    assert {"loss", "epoch_loss", "learning_rate", "gradient_norm/all"} <= logged
    clocks = {name for record in found for name in record.timing}
    assert [name for name in clocks if tags.tag_of(name, "timing") is None] == []


@pytest.mark.slow
def test_the_whole_site_builds(tmp_path):
    done = subprocess.run(
        [ROOT / "scripts" / "docs", "--output", tmp_path], capture_output=True, text=True, timeout=HANGS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "checkpoint.keep_best" in (tmp_path / "reference/configuration.html").read_text()
    assert "looplab.trainer.Trainer.train_step" in (tmp_path / "reference/looplab.trainer.html").read_text()
    assert (tmp_path / "source/conf/optimizer/adam.yaml.html").exists()
