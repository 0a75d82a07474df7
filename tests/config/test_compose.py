"""Words of a command line as Hydra wants them, and what is composed of them."""

import pytest

from looplab.config.compose import compose, understood
from tests.process import PROJECT, write


@pytest.fixture
def project(tmp_path, monkeypatch):
    write(tmp_path, PROJECT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("run_dir=runs/a b", "run_dir=runs/a b"),
        ("run_dir=Prüfstand", "run_dir='Prüfstand'"),
        ("run_dir=runs/a(1)", "run_dir='runs/a(1)'"),
        ("run_dir=a=b", "run_dir='a=b'"),
        ("run_dir='a b'", "run_dir='a b'"),
        ('run_dir="ä"', 'run_dir="ä"'),
        ("metrics=[accuracy,mae]", "metrics=[accuracy,mae]"),
        ("model={_target_: mine.Net}", "model={_target_: mine.Net}"),
        ("seed=1,2", "seed=1,2"),
        ("seed=range(1,3)", "seed=range(1,3)"),
        ("run_dir=${oc.env:HOME}/ä", "run_dir=${oc.env:HOME}/ä"),
        ("~optimizer", "~optimizer"),
        ("mine", "mine"),
        ("--epochs=ü", "--epochs=ü"),
        ("debug=nan", "+debug='nan'"),  # which would be a number
        ("a=nan", "a=nan"),
        ("data.validation_freq={a: 1ep}", "++data.validation_freq={a: 1ep}"),  # whatever is named there
        ("data.validation_steps.a=3", "++data.validation_steps.a=3"),
        ("data.validation_freq=2", "data.validation_freq=2"),
    ],
)
def test_a_value_is_quoted_where_it_is_plain_text_that_hydra_does_not_take(word, expected):
    assert understood([word]) == [expected]


def test_experiment_debug_and_sweep_are_added_in_this_order():
    words = ["sweep=big", "seed=3", "debug=fast", "+experiment=mine", "epochs=2"]
    assert understood(words) == ["+experiment=mine", "+debug=fast", "+sweep=big", "seed=3", "epochs=2"]


def test_keys_that_only_begin_like_them_stay_where_they_are():
    assert understood(["experiments=a", "experiment.b=c", "a=1"]) == [
        "experiments=a",
        "experiment.b=c",
        "a=1",
    ]


def test_of_a_word_given_twice_the_later_holds(project):
    composed = compose(understood(["experiment=mine", "seed=1", "seed=2"]))
    assert (composed.config.seed, composed.problems) == (2, ())
    assert composed.origins.of("seed") == "on the command line: seed=2"


def test_what_hydra_refuses_is_left_out_and_all_is_said_at_once(project):
    composed = compose(understood(["experiment=mine", "epohcs=3", "optimizer=admw", "seed=4"]))
    assert {problem.key for problem in composed.problems} == {"epohcs", "optimizer"}
    assert composed.config.seed == 4
    assert composed.choices["experiment"] == "mine"
    assert "hydra" not in composed.config


@pytest.mark.slow
def test_values_by_set_take_the_place_of_one_for_all_and_join_those_of_the_experiment(project):
    of_file = {
        "conf/experiment/sets.yaml": "# @package _global_\ndata: {validation_freq: {a: 1ep, b: 2ep}}\n"
    }
    write(project, of_file)
    for experiment, words, expected in (
        ("mine", ["data.validation_freq={a: 3st}"], {"a": "3st"}),
        ("mine", ["data.validation_freq.a=3st", "data.validation_freq.b=2"], {"a": "3st", "b": 2}),
        ("sets", ["data.validation_freq={b: 3st, c: 1}"], {"a": "1ep", "b": "3st", "c": 1}),
        ("sets", ["data.validation_freq=3st"], "3st"),
    ):
        composed = compose(understood([f"experiment={experiment}", *words]))
        assert (composed.config.data.validation_freq, composed.problems) == (expected, ())


def test_a_folder_of_the_command_line_is_searched_first(project):
    write(project / "other", {"experiment/mine.yaml": "# @package _global_\nepochs: 7\n"})
    composed = compose(["+experiment=mine"], folder=project / "other")
    assert composed.config.epochs == 7
    assert composed.origins.of("epochs") == "other/experiment/mine.yaml:2"
