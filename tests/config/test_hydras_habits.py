"""What people know from Hydra: values of their own, lists of sections, `${hydra:...}`."""

import sys

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from looplab.config import check, diff, saved_config
from looplab.config import compose as composing
from looplab.errors import Refused
from tests.config.in_process import say
from tests.process import PROJECT, write

SLOW = "{_target_: mine.Slow, step: 3}"
FILES = {
    **PROJECT,
    "conf/experiment/dicts.yaml": """
# @package _global_
# weights by class, and groups by name
defaults: [mine, _self_]
data: {class_weight: {0: 1.0, 1: 2.0}}
parameter_groups: {plain: {match: "*/bias", weight_decay: 0.0}}
""",
    "conf/experiment/named.yaml": """
# @package _global_
# callbacks by name
defaults: [mine, _self_]
callbacks: {slow: {_target_: mine.Slow, step: 100}, other: {_target_: mine.Slow, step: 100}}
loggers: {more: {csv: {_target_: looplab.loggers.Csv}}}
""",
    "conf/experiment/listed.yaml": """
# @package _global_
# callbacks in a list
defaults: [mine, _self_]
callbacks:
  - {_target_: mine.Slow, step: 100}
  - null
loggers:
  more:
    - {_target_: looplab.loggers.Csv}
""",
    "conf/experiment/vars.yaml": """
# @package _global_
# a width that is used twice
defaults: [mine, _self_]
vars: {width: 6, unused: [1, 2]}
model: {units: "${vars.width}"}
""",
}


@pytest.fixture
def compose(tmp_path, monkeypatch):
    """Composes and checks in a project, as the command does; returns the settings and what is written."""

    def composed(*words, run_dir=None):
        found = []

        def task(whole, experiment, said):
            found.append((check(whole, said, run_dir), diff.written(whole, experiment)))

        said = say(words, tmp_path, FILES, monkeypatch, task)
        assert said.code == 0, said.text
        return found[0]

    return composed


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Returns what the command says of words that it refuses."""

    def words_refused(*words, files=None):
        said = say(words, tmp_path, {**FILES, **(files or {})}, monkeypatch)
        assert said.code == 2, said.text
        return said.text

    return words_refused


# --- dicts ------------------------------------------------------------------------------------------


@pytest.mark.share(2)
@pytest.mark.parametrize(
    ("words", "weights"),
    [
        (["data.class_weight={1: 3.0, 5: 2.0}"], {"0": 1.0, "1": 3.0, "5": 2.0}),
        (["data.class_weight.5=2"], {"0": 1.0, "1": 2.0, "5": 2}),
        (["+data.class_weight.0=7"], {"0": 7, "1": 2.0}),
        (["~data.class_weight", "data.class_weight={5: 2.0}"], {"5": 2.0}),
        (["~data.class_weight"], None),
        (["data.class_weight=null"], None),
    ],
    ids=str,
)
def test_a_dict_is_merged_and_a_tilde_removes_it(compose, words, weights):
    config, _ = compose("+experiment=dicts", *words)
    assert config.data.class_weight == weights


@pytest.mark.slow
def test_a_dict_that_cannot_be_merged_or_cut_is_refused_with_the_way(compose, refused):
    for words in (["+parameter_groups={more: {match: x}}"], ["~parameter_groups.plain"]):
        compose("+experiment=dicts", *words)
    said = refused("+experiment=dicts", "parameter_groups={more: {match: x}}", "~data.class_weight.0")
    assert (
        "parameter_groups.more: there is no such key in parameter_groups; valid are plain. A dict on the "
        "command line is merged with that of the files: +parameter_groups={...} adds keys to it, and "
        "~parameter_groups '+parameter_groups={...}' replaces it.\n"
        "    on the command line: parameter_groups={more: {match: x}}\n"
    ) in said
    assert "data.class_weight.0: a single class cannot be removed: give the dict of those that stay, " in said
    config, _ = compose("+experiment=dicts", "~parameter_groups", "+parameter_groups={more: {match: x}}")
    assert [*config.parameter_groups] == ["more"]


# --- values of one's own ---------------------------------------------------------------------------


@pytest.mark.share(2)
@pytest.mark.parametrize(
    ("word", "experiment"),
    [
        ("vars.width=8", "mine"),
        ("+vars.width=8", "mine"),
        ("vars={width: 8}", "mine"),
        ("vars.width=8", "vars"),
        ("+vars.width=8", "vars"),
    ],
)
def test_a_value_of_ones_own_is_given_in_any_way_and_recorded(compose, word, experiment):
    config, written = compose(f"experiment={experiment}", word, "model.units=${vars.width}")
    assert config.model["units"] == config.vars["width"] == 8
    assert (written["vars"]["width"], written["model"]["units"]) == (8, "${vars.width}")


def test_an_experiment_has_values_of_its_own_and_a_section_may_be_one(compose):
    config, _ = compose("+experiment=vars", "vars.more={_target_: os.system}", "~vars.unused")
    assert config.model["units"] == 6
    assert config.vars == {"width": 6, "more": {"_target_": "os.system"}}  # which nothing calls


@pytest.mark.share(1)
@pytest.mark.parametrize("word", ["width=8", "+width=8", "+rate=8"])
def test_the_refusal_of_an_unknown_key_says_where_it_goes(refused, word):
    name = word.strip("+").partition("=")[0]
    assert f"Your own values belong under vars: vars.{name}=..." in refused("+experiment=mine", word)


@pytest.mark.share(2)
@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("model.units=${width}", "Your own values belong under vars: ${vars.width}."),
        ("model.units=${vars.widht}", "Did you mean 'width'?"),
        ("vars=3", "vars: expected a section of values with any names or null, got 3."),
        ("vars.unused=???", "vars.unused: a value is required"),
    ],
)
def test_what_a_value_of_ones_own_cannot_be(refused, word, says):
    assert says in refused("+experiment=vars", word)


def test_what_takes_a_section_of_ones_own_is_checked_as_if_it_stood_there(refused):
    text = "# @package _global_\ndefaults: [mine, _self_]\nvars: {n: {_target_: os.system}}\nmodel: ${vars.n}"
    assert "'os.system' belongs neither to looplab" in refused(
        "+experiment=bad", files={"conf/experiment/bad.yaml": text}
    )


def whole(**sections):
    return diff.written(OmegaConf.create(sections), "mine")


def keys(before, now):
    return [(change.key, change.mark) for change in diff.differences(whole(**before), whole(**now))]


def test_a_run_that_goes_on_is_compared_by_what_its_values_come_to():
    model, units = {"units": "${vars.width}"}, {"units": 8}
    eight, nine = {"width": 8}, {"width": 9}
    found = diff.differences(whole(vars=eight, model=model), whole(vars=nine, model=model))
    assert [(c.key, c.before, c.now, c.mark) for c in found] == [
        ("model.units", 8, 9, None),
        ("vars.width", 8, 9, "reported when it changes in a resumed run"),
    ]
    assert [key for key, _ in keys({"vars": eight}, {"vars": nine})] == ["vars.width"]  # nothing uses it
    assert keys({"model": units}, {"vars": eight, "model": model})[0][0] == "vars.width"
    assert keys({"model": {"sizes": ["${seed}"]}, "seed": 1}, {"model": {"sizes": ["${seed}"]}, "seed": 2})
    inside = {"vars": {"net": {"units": 3}}, "model": "${vars.net}"}
    assert keys(inside, {**inside, "vars": {"net": {"units": 4}}})[0] == ("model", None)


@pytest.mark.parametrize("text", ["${now:%f}", "${hydra:runtime.output_dir}", "${oc.env:HOME}/x", "${a.b}"])
def test_what_holds_for_one_start_only_is_compared_as_it_is_written(text):
    assert keys({"model": {"a": text}}, {"model": {"a": text}}) == []
    assert keys({"model": {"a": text}}, {"model": {"a": text + "1"}}) == [("model.a", None)]


def test_an_empty_section_is_as_good_as_none():
    assert keys({"callbacks": {}}, {"callbacks": None}) == []


# --- lists of sections -----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_list_of_callbacks_takes_the_place_of_those_in_files(compose):
    for experiment in ("mine", "named", "listed"):
        config, written = compose(f"+experiment={experiment}", f"callbacks=[{SLOW},{SLOW}]")
        assert config.callbacks == {
            "Slow": {"_target_": "mine.Slow", "step": 3},
            "Slow_2": {"_target_": "mine.Slow", "step": 3},
        }
        assert written["callbacks"] == config.callbacks
    config, _ = compose("+experiment=named", "callbacks=early_stopping")
    assert list(config.callbacks) == ["early_stopping", "slow", "other"]
    config, _ = compose("+experiment=named", "callbacks=[]", "loggers.more=[]")
    assert (config.callbacks, config.loggers.more) == (None, None)


def test_a_list_of_callbacks_leaves_those_of_a_way_to_debug(compose):
    config, _ = compose(f"callbacks=[{SLOW}]", "debug=profile", "experiment=named")
    assert list(config.callbacks) == ["profile", "Slow"]


def test_with_a_plus_a_list_adds_to_those_in_files(compose):
    config, _ = compose("+experiment=named", f"+callbacks=[{SLOW}]")
    assert list(config.callbacks) == ["slow", "other", "Slow"]


@pytest.mark.slow
def test_a_list_of_loggers_takes_the_place_of_those_in_files(compose):
    for experiment in ("mine", "named", "listed"):
        words = "loggers.more=[{_target_: looplab.loggers.Csv, filename: 'a b.csv'}]"
        config, _ = compose(f"+experiment={experiment}", words)
        assert config.loggers.more == {"Csv": {"_target_": "looplab.loggers.Csv", "filename": "a b.csv"}}


def test_what_stands_in_a_list_keeps_its_types(compose):
    given = "{_target_: LAMBDA, a: '4', b: [1, 2.5, true, null, {c: x y}], d: ${seed}, e: 1e-3, f: 'it\\'s'}"
    given = given.replace("LAMBDA", "looplab.callbacks.LambdaCallback")
    found = composing.compose(
        composing.understood(["+experiment=digits", f"callbacks=[{given}]", f"+trainer.one={given}"])
    )
    (section,) = OmegaConf.to_container(found.config.callbacks).values()
    assert section == OmegaConf.to_container(found.config.trainer.one)
    assert (section["a"], section["d"], section["f"]) == ("4", "${seed}", "it's")


def test_callbacks_and_loggers_may_be_lists_in_files(compose):
    config, written = compose("+experiment=listed")
    assert config.callbacks == [{"_target_": "mine.Slow", "step": 100}, None] == written["callbacks"]


@pytest.mark.share(2)
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["+experiment=named", "callbacks=[{_target_: mine.Slow, stp: 1}]"],
            ["callbacks.Slow.stp: mine.Slow"],
        ),
        (
            ["+experiment=named", "callbacks=[{step: 1}]"],
            ["callbacks.unnamed: expected a section with _target_"],
        ),
        (
            ["+experiment=named", "callbacks=[norms,{step: 1}]"],
            ["callbacks: a list may name options", "not both"],
        ),
        (["+experiment=listed", "callbacks=norms"], ["a list and named sections cannot be merged"]),
        (["+experiment=listed", "+callbacks=[{step: 1}]"], ["callbacks: a list and named sections"]),
        (["+experiment=mine", "callbacks=[{step: 1},"], ["callbacks: the value cannot be read"]),
    ],
)
def test_what_is_wrong_with_a_list_is_said(refused, words, says):
    text = refused(*words)
    assert [word for word in says if word not in text] == [], text


def test_a_mistake_in_a_list_has_its_line(refused):
    text = refused(
        "+experiment=bad",
        files={
            "conf/experiment/bad.yaml": "# @package _global_\ndefaults: [mine, _self_]\ncallbacks:\n"
            "  - {_target_: mine.Slow, step: 1}\n  - {_target_: mine.Slow, stp: 1, step: 3}\n"
        },
    )
    assert "callbacks[1].stp: mine.Slow takes no argument 'stp'" in text
    assert "conf/experiment/bad.yaml:5" in text


# --- what Hydra knows of a run ---------------------------------------------------------------------

OF_HYDRA = [
    "+experiment=mine",
    "vars.dir=${hydra:runtime.output_dir}",
    "vars.number=${hydra:job.num}",
    "vars.name=${hydra:job.name}",
    "vars.id=${hydra:job.id}",
    "vars.cwd=${hydra:runtime.cwd}",
    "vars.chosen=${hydra:runtime.choices.optimizer}",
]


def test_hydras_words_stand_for_the_run(compose, tmp_path):
    config, written = compose(*OF_HYDRA, run_dir=tmp_path / "runs" / "a")
    assert config.vars == {
        "dir": str(tmp_path / "runs" / "a"),
        "number": 0,
        "name": "train",
        "id": "train_0",
        "cwd": str(tmp_path),
        "chosen": "sgd",
    }
    assert written["vars"]["dir"] == "${hydra:runtime.output_dir}"
    assert written["vars"]["chosen"] == "sgd"  # which the written configuration does not know otherwise


@pytest.mark.slow
def test_the_number_is_that_of_a_job_of_a_sweep(compose, tmp_path):
    write(tmp_path, {"sweep/12/job.json": "{}", "3/config.yaml": ""})
    assert compose(*OF_HYDRA, run_dir=tmp_path / "sweep" / "12")[0].vars["number"] == 12
    assert compose(*OF_HYDRA, run_dir=tmp_path / "3")[0].vars["number"] == 0
    config, _ = compose(*OF_HYDRA, "hydra.job.num=7", "hydra.job.name=mine", run_dir=tmp_path / "3")
    assert (config.vars["number"], config.vars["name"]) == (7, "mine")


def test_a_run_that_is_loaded_knows_its_directory_and_leaves_hydra_alone(compose, tmp_path, monkeypatch):
    _, written = compose(*OF_HYDRA)
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {"sweep/4/config.yaml": OmegaConf.to_yaml(written), "sweep/4/job.json": "{}"})
    before = HydraConfig.instance().cfg
    monkeypatch.syspath_prepend(tmp_path)
    found = saved_config.composed(tmp_path / "sweep" / "4", ["++model.units=${hydra:job.num}"])
    assert found.vars["dir"] == str(tmp_path / "sweep" / "4")
    assert (found.vars["number"], found.model["units"], found.vars["chosen"]) == (4, 4, "sgd")
    assert HydraConfig.instance().cfg is before


def test_a_run_directory_is_not_made_of_itself(refused):
    text = refused("+experiment=mine", "run_dir=${hydra:runtime.output_dir}/x")
    assert "run_dir: ${hydra:runtime.output_dir} is this directory itself" in text


def test_what_is_composed_in_python_says_that_hydra_is_not_there(monkeypatch):
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    with pytest.raises(Refused, match=r"model.a: cannot be resolved: .*HydraConfig"):
        check(OmegaConf.create({"epochs": 1, "model": {"_target_": "a.b", "a": "${hydra:job.num}"}}))


@pytest.mark.slow
def test_a_dollar_in_a_description_is_shown_by_help(tmp_path, monkeypatch):
    cheap = "# @package _global_\n# $5 a day, ${seed}\ndefaults: [mine, _self_]\n"
    with pytest.raises(SystemExit, match="0"):
        say(["--help"], tmp_path, {**FILES, "conf/experiment/cheap.yaml": cheap}, monkeypatch)
    assert "$5 a day, ${seed}" in sys.stdout.getvalue()
    assert "`${vars.name}`" in sys.stdout.getvalue()
