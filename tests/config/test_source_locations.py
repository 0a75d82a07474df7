"""Where a key was written: the word, or the file and the line."""

import pytest

from looplab.config.compose import compose
from looplab.config.source_locations import File, Origins, line_of
from tests.process import write

TEXT = """
# a comment
epochs: 2

optimizer:
  _target_: keras.optimizers.SGD
  learning_rate: {_target_: mine.Rate, peak: 3}

metrics:
  - accuracy
  - _target_: keras.metrics.Mean
    name: mean
  - [a,
     b]
plain.dotted: 3
twice: 1
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {"x.yaml": TEXT})
    return tmp_path


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("epochs", 2),
        ("optimizer", 4),
        ("optimizer._target_", 5),
        ("optimizer.learning_rate", 6),
        ("optimizer.learning_rate.peak", 6),
        ("metrics", 8),
        ("metrics.0", 9),
        ("metrics.1._target_", 10),
        ("metrics.1.name", 11),
        ("metrics.2.0", 12),
        ("metrics.2.1", 13),
        ("plain.dotted", 14),
        ("nothing", 0),
        ("metrics.7", 0),
        ("epochs.inside", 0),
    ],
)
def test_the_line_of_a_key(folder, key, line):
    assert line_of(folder / "x.yaml", key.split(".")) == line


def test_no_line_where_there_is_no_file_or_no_yaml(folder):
    write(folder, {"broken.yaml": "a: [1\n"})
    assert line_of(folder / "none.yaml", ["a"]) == 0
    assert line_of(folder / "broken.yaml", ["a"]) == 0


def test_a_missing_key_has_the_place_of_the_section_it_is_missing_from(folder):
    origins = Origins(files=[File(folder / "x.yaml", "")])
    assert origins.of("optimizer.momentum") == "x.yaml:4"
    assert origins.of("metrics[1].dtype") == "x.yaml:10"
    assert origins.of("nowhere.at.all") == ""


def test_a_package_is_where_the_keys_of_a_file_go(folder):
    write(folder, {"sgd.yaml": "learning_rate: 1\nmomentum: 2\n"})
    origins = Origins(files=[File(folder / "x.yaml", ""), File(folder / "sgd.yaml", "optimizer")])
    assert origins.of("optimizer.momentum") == "sgd.yaml:2"
    assert origins.of("momentum") == ""


def test_of_several_files_the_last_wins_and_a_word_wins_over_files(folder):
    write(folder, {"y.yaml": "epochs: 5\n"})
    files = [File(folder / "x.yaml", ""), File(folder / "y.yaml", "")]
    assert Origins(files=files).of("epochs") == "y.yaml:1"
    assert Origins(["epochs=3", "epochs=4"], files).of("epochs") == "on the command line: epochs=4"
    assert Origins(["optimizer=adam"], files).of("optimizer") == "on the command line: optimizer=adam"


def test_a_word_with_a_section_holds_what_is_in_it(folder):
    word = "+callbacks.slow={_target_: mine.Slow, step: 3}"
    assert Origins([word]).of("callbacks.slow.step") == f"on the command line: {word}"
    assert Origins(["metrics=[{_target_: mine.M}]"]).of("metrics[0]._target_").endswith("mine.M}]")


def test_a_secret_is_not_repeated():
    assert Origins(["+model.api_key=abc"]).of("model.api_key") == "on the command line: +model.api_key=***"


def test_an_own_file_stands_over_the_shipped_one_of_the_same_name(folder):
    write(folder, {"conf/optimizer/sgd.yaml": "# mine\n_target_: keras.optimizers.SGD\nlearning_rate: 7\n"})
    write(folder, {"conf/experiment/x.yaml": "# @package _global_\nepochs: 2\noptimizer: {momentum: 0.5}\n"})
    origins = compose(["optimizer=sgd", "+experiment=x"]).origins
    assert origins.of("optimizer.learning_rate") == "conf/optimizer/sgd.yaml:3"
    assert origins.of("optimizer.momentum") == "conf/experiment/x.yaml:3"
    assert origins.of("seed").endswith("conf/train.yaml:20")
    assert origins.of("checkpoint.every").endswith("conf/checkpoint/default.yaml:2")
