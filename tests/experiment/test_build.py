"""From a configuration to a trainer: what is made, what is refused, and what goes through."""

import inspect

import hydra
import keras
import numpy as np
import pytest
from omegaconf import OmegaConf

import looplab
from looplab import config, experiment
from looplab.config import components, diff, targets
from looplab.errors import ConfigurationError
from tests.process import PROJECT, ROOT, records, snapshot, write

NET = {"_target_": "mine.Net"}

MARK = "import looplab\n@looplab.configurable\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A working directory with a module of its own, as the command sees it."""
    write(tmp_path, PROJECT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    import sys

    for name in [n for n, m in sys.modules.items() if str(tmp_path) in str(getattr(m, "__file__", ""))]:
        del sys.modules[name]


def composed(*overrides):
    with hydra.initialize_config_dir(str(config.directory()), version_base="1.3"):
        return config.check(hydra.compose("train", list(overrides)))


def whole(**sections):
    """A configuration, written without Hydra."""
    source = {"_target_": "mine.points"}
    found = {"epochs": 2, "data": {"source": source}, "model": NET, **sections}
    found.setdefault("loss", {"_target_": "keras.losses.SparseCategoricalCrossentropy", "from_logits": True})
    found.setdefault("optimizer", {"_target_": "keras.optimizers.SGD", "learning_rate": 0.1})
    return OmegaConf.create(found)


def described(**sections):
    return config.check(whole(**sections))


def written(**sections):
    return diff.written(whole(**sections), "mine")


def run(run_dir, **sections):
    return experiment.run(described(**sections), run_dir, written(**sections))


def refused(**sections):
    with pytest.raises(ConfigurationError) as caught:
        experiment.build(described(**sections), None)
    return str(caught.value)


def test_digits_is_what_its_file_says():
    trainer, data = experiment.build(composed("+experiment=digits"), None)
    assert type(trainer) is looplab.Trainer
    assert isinstance(trainer.model, looplab.models.ConvNet)
    assert trainer.model.filters == (32, 64)
    assert type(trainer.optimizers["optimizer"]) is keras.optimizers.Adam
    images, labels = data["train"]
    assert (images.shape, images.dtype, labels.shape) == ((1438, 8, 8, 1), np.float32, (1438,))
    assert len(data["validation"][0]) == 359


@pytest.mark.parametrize(
    ("length", "total"), [(["epochs=40"], 40 * 23), (["epochs=null", "steps=100"], 100)], ids=str
)
def test_a_schedule_runs_as_long_as_training_and_peaks_at_the_optimizers_rate(length, total):
    trainer, _ = experiment.build(composed("+experiment=digits", *length), None)
    rate = trainer.optimizers["optimizer"]._learning_rate
    assert (rate.total_steps, rate.warmup_steps, rate.learning_rate) == (total, 23, 0.003)


def test_a_schedule_of_keras_gets_nothing_but_its_own(project):
    decay = {"_target_": "keras.optimizers.schedules.ExponentialDecay", "initial_learning_rate": 0.5}
    decay |= {"decay_steps": "3ep", "decay_rate": 0.1}
    trainer, _ = experiment.build(described(schedule=decay, data={"source": {"_target_": "mine.points"},
                                                                  "batch_size": 10}), None)  # fmt: skip
    rate = trainer.optimizers["optimizer"]._learning_rate
    assert (rate.decay_steps, rate.initial_learning_rate) == (15, 0.5)


def test_several_models_and_optimizers_go_by_their_names(project):
    sgd = {"_target_": "keras.optimizers.SGD"}
    trainer, _ = experiment.build(
        described(
            model={"generator": NET | {"units": 3}, "critic": NET},
            optimizer={"generator": sgd | {"learning_rate": 0.5}, "critic": sgd},
        ),
        None,
    )
    assert list(trainer.models) == list(trainer.optimizers) == ["generator", "critic"]
    assert trainer.models["generator"].inner.units == 3
    assert float(trainer.optimizers["generator"].learning_rate.numpy()) == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0, 1])
def test_a_whole_number_is_as_good_as_a_float_for_keras(project, rate):
    sgd = {"_target_": "keras.optimizers.SGD", "learning_rate": rate, "momentum": 0, "clipnorm": 1}
    decay = {"_target_": "keras.optimizers.schedules.ExponentialDecay", "decay_steps": 4, "decay_rate": 2}
    cosine = {"_target_": "keras.optimizers.schedules.CosineDecay", "decay_steps": 4, "alpha": 0}
    pieces = {"_target_": "keras.optimizers.schedules.PiecewiseConstantDecay"}
    pieces |= {"boundaries": [2], "values": [rate, 0.5]}
    cases = [(None, rate), (pieces, rate)] if rate == 0 else [(None, rate), (decay, 2**0.5), (cosine, 0.5)]
    for schedule, at_2 in cases:
        described_ = described(optimizer=sgd, schedule=schedule)
        trainer, data = experiment.build(described_, None)
        trainer.fit(**experiment.arguments(described_, data) | {"epochs": 1}, verbose=0)
        made = trainer.optimizers["optimizer"]
        if schedule is not None:
            assert float(made._learning_rate.base(2)) == pytest.approx(at_2)
        elif rate == 0:
            assert float(made.learning_rate.numpy()) == 0.0


def test_a_trainer_of_ones_own_gets_its_own_arguments(project):
    trainer, _ = experiment.build(described(trainer={"_target_": "mine.Mine", "fail": True}), None)
    assert type(trainer).__name__ == "Mine"
    assert trainer.fail is True


def test_arguments_may_have_targets_of_their_own(project):
    write(
        project, {"parts.py": "import looplab\n@looplab.configurable\ndef rows(n):\n    return int(n) * 2\n"}
    )
    source = {"_target_": "mine.points", "rows": {"_target_": "parts.rows", "n": 30}}
    _, data = experiment.build(described(data={"source": source}), None)
    assert len(data["train"][0]) == 60


def test_further_splits_are_validation_sets(project, tmp_path):
    text = (
        "import mine\n"
        + MARK
        + "def sets():\n    return {**mine.points(), 'other': mine.points(30)['train']}\n"
    )
    write(project, {"sets.py": text})
    data = {
        "source": {"_target_": "sets.sets"},
        "batch_size": 10,
        "validation_freq": "3st",
        "validation_steps": 1,
    }
    run(tmp_path / "run", data=data, epochs=None, steps=5)
    found = [(r["split"], r["step"]) for r in records(tmp_path / "run") if r["split"] != "train"]
    assert found == [("validation", 3), ("other", 3), ("validation", 5), ("other", 5)]


SETS = """
import looplab, mine

@looplab.configurable
def sets():
    own = looplab.Validation(mine.points(30)["train"], every="2st", steps=2, batch_size=3)
    return {**mine.points(), "hard": mine.points(30)["train"], "own": own}
"""
BY_SET = {"source": {"_target_": "sets.sets"}, "batch_size": 10}  # 5 steps an epoch


def evaluated(run_dir):
    return [(r["split"], r["step"]) for r in records(run_dir) if r["split"] != "train"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("freq", "steps", "expected"),
    [
        # A set that no mapping names keeps its own, or the default.
        ({"hard": "3st"}, None, {"validation": ("1ep", None), "hard": ("3st", None), "own": ("2st", 2)}),
        ("4st", 1, {"validation": ("4st", 1), "hard": ("4st", 1), "own": ("2st", 2)}),
        # A Validation's own values give way to a mapping that names it, and to nothing else.
        (
            {"own": 2, "validation": "4st"},
            {"own": None, "hard": 1},
            {"validation": ("4st", None), "hard": ("1ep", 1), "own": ("2ep", None)},
        ),
    ],
)
def test_each_set_has_the_cadence_that_is_said_for_it(project, freq, steps, expected):
    write(project, {"sets.py": SETS})
    described_ = described(data=BY_SET | {"validation_freq": freq, "validation_steps": steps})
    trainer, data = experiment.build(described_, None)
    found = experiment.arguments(described_, data)["validation_data"]
    assert {split: (own.every, own.steps) for split, own in found.items()} == expected
    assert found["own"].batch_size == 3
    sizes = {split: feed.steps_per_epoch for split, feed in experiment.feeds(described_).items()}
    assert sizes["hard"] == (expected["hard"][1] or 3)
    assert trainer.rehearse(**experiment.arguments(described_, data))


def test_several_sets_are_evaluated_each_at_its_own_steps(project, tmp_path):
    write(project, {"sets.py": SETS})
    data = BY_SET | {"validation_freq": {"validation": "1ep", "hard": "3st", "own": "4st"}}
    run(tmp_path / "run", data=data, epochs=None, steps=5, loggers={"verbose": 0})
    assert evaluated(tmp_path / "run") == [
        ("hard", 3), ("own", 4), ("validation", 5), ("hard", 5), ("own", 5),
    ]  # fmt: skip


def test_a_set_that_the_data_does_not_have_is_refused(project):
    write(project, {"sets.py": SETS})
    message = refused(data=BY_SET | {"validation_freq": {"hrad": 1}, "validation_steps": {"train": 1}})
    freq, steps = message.splitlines()
    assert freq == (
        "data.validation_freq.hrad: the data has no validation set 'hrad'; there are validation, hard, own. "
        "Did you mean 'hard'?"
    )
    assert steps.startswith("data.validation_steps.train: the data has no validation set 'train'")
    made = {"source": None, "validation_freq": {"validation": 1}}
    assert "no validation set 'validation'; it has none" in refused(data=made)
    described_ = described(data=BY_SET | {"validation": "train", "validation_freq": {"hard": 1}})
    _, data = experiment.build(described_, None)  # debug=overfit, of an experiment that names its sets
    assert list(data) == ["train", "validation"]


def test_validation_none_evaluates_nothing_and_monitors_say_so(project, tmp_path):
    data = {"source": {"_target_": "mine.points"}, "batch_size": 10, "validation": "none"}
    run(tmp_path / "run", data=data, loggers={"verbose": 0})
    assert evaluated(tmp_path / "run") == []
    stop = {"_target_": "looplab.callbacks.EarlyStopping", "monitor": "val_loss"}
    with pytest.raises(ConfigurationError, match=r"'val_loss'.* need validation data"):
        run(tmp_path / "other", data=data, callbacks={"stop": stop}, loggers={"verbose": 0})
    write(project, {"alone.py": "import mine\n" + MARK + "def alone():\n    return mine.points()['train']\n"})
    held_out = described(data=data | {"validation_split": 0.2, "source": {"_target_": "alone.alone"}})
    _, found = experiment.build(held_out, None)
    assert {split: own.size for split, own in found.items()} == {"train": 40}  # trains on the same examples


@pytest.mark.parametrize(
    ("split", "meant"),
    [("training", "train"), ("val", "validation"), ("valid", "validation")],
)
def test_a_split_that_goes_by_another_name_is_named(project, split, meant):
    text = (
        "import mine\n"
        + MARK
        + f"def sets():\n    data = mine.points()\n    data['{split}'] = data.pop('{meant}')\n"
    )
    write(project, {"sets.py": f"{text}    return data\n"})
    message = refused(data={"source": {"_target_": "sets.sets"}})
    assert message == f"data.source: sets.sets returned the split {split!r}; name it {meant!r}."


def test_test_data_is_a_set_like_any_other(project):
    text = (
        "import mine\n"
        + MARK
        + "def sets():\n    return {**mine.points(), 'test': mine.points(30)['train']}\n"
    )
    write(project, {"sets.py": text})
    described_ = described(data={"source": {"_target_": "sets.sets"}})
    _, data = experiment.build(described_, None)
    assert list(experiment.arguments(described_, data)["validation_data"]) == ["validation", "test"]


def test_tables_beside_the_one_that_is_trained_on_have_its_classes(project):
    write(project, {"train.csv": "a,kind\n1,ape\n2,cat\n3,dog\n", "some.csv": "a,kind\n1,dog\n"})
    of = {"_target_": "looplab.data.table", "target": "kind"}
    source = {"_target_": "looplab.data.splits", "train": of | {"path": "train.csv"}}
    _, data = experiment.build(described(data={"source": source | {"some": of | {"path": "some.csv"}}}), None)
    assert (data["train"][1].tolist(), data["some"][1].tolist()) == ([0, 1, 2], [2])


def test_a_source_may_be_training_data_alone_and_is_split(project):
    write(project, {"alone.py": "import mine\n" + MARK + "def alone():\n    return mine.points()['train']\n"})
    data = {"source": {"_target_": "alone.alone"}, "validation_split": 0.2}
    _, found = experiment.build(described(data=data), None)
    assert {split: own.size for split, own in found.items()} == {"train": 40, "validation": 10}


FOLDS = {"source": {"_target_": "mine.points"}, "folds": 5, "fold": 1}


def test_a_fold_takes_the_place_of_the_validation_set(project, caplog):
    caplog.set_level("INFO", logger="looplab")
    _, data = experiment.build(described(data=FOLDS), None)
    assert {split: own.size for split, own in data.items()} == {"train": 40, "validation": 10}
    assert "the fold replaces the validation set of the source" in caplog.text
    assert "fold 1 of 0 to 4: 40 training examples, 10 validation examples" in caplog.text
    _, other = experiment.build(described(data=FOLDS, seed=7), None)
    for split in data:
        rows = np.arange(data[split].size)
        assert list(data[split].places(rows)) == list(other[split].places(rows))


def test_sets_beside_the_fold_are_kept_and_its_cadence_holds(project):
    write(project, {"sets.py": SETS})
    config_ = described(data=BY_SET | {"folds": 4, "fold": 3})
    _, data = experiment.build(config_, None)
    assert list(data) == ["train", "validation", "hard", "own"]
    sets = experiment.arguments(config_, data)["validation_data"]
    assert sets["validation"].data.size + data["train"].size == len(mine_points()[0])


def mine_points():
    import mine

    return mine.points()["train"]


@pytest.mark.slow
def test_a_fold_is_trained_with_and_evaluated_again(project, tmp_path):
    data = FOLDS | {"batch_size": 10, "class_weight": {0: 1.0, 1: 2.0}}
    run(tmp_path / "run", data=data, loggers={"verbose": 0})
    *_, last = (record for record in records(tmp_path / "run") if record["split"] == "validation")
    found = looplab.load(tmp_path / "run", "last")
    _, loaded = experiment.build(described(data=data), None)
    assert found.evaluate(loaded["validation"])["loss"] == pytest.approx(
        last["values"]["epoch_loss"], rel=1e-6
    )
    with pytest.raises(looplab.CheckpointError, match=r"data: the values of inputs have changed"):
        run(tmp_path / "run", data=data | {"fold": 2}, epochs=3, loggers={"verbose": 0})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"fold": None}, r"data\.fold: the fold to hold out is missing.*data\.fold=range\(5\)"),
        ({"folds": None}, r"data\.folds: data\.fold=1 needs the number of folds"),
        ({"folds": 5, "fold": 5}, r"data\.fold: there is no fold 5; data\.folds=5 has the folds 0 to 4"),
        ({"folds": 5, "fold": 1, "validation_split": 0.2}, r"data\.validation_split: 0\.2 and data\.folds"),
        ({"folds": 5, "fold": 1, "source": None}, r"data\.folds: .* leave folds and fold out"),
        ({"folds": 1, "fold": 0}, r"data\.folds: expected a whole number of at least 2"),
        ({"folds": 51, "fold": 0}, r"data\.folds: 51 folds of 50 examples"),
    ],
)
def test_folds_that_cannot_be_are_refused(project, data, said):
    with pytest.raises(ConfigurationError, match=said):
        experiment.build(described(data=FOLDS | data), None)


@pytest.mark.promise(40)
@pytest.mark.parametrize(
    ("sections", "words"),
    [
        # Not to be imported.
        ({"model": {"_target_": "mien.Net"}}, ["model._target_", "'mien.Net'", "no module 'mien'", "'mine'"]),
        ({"model": {"_target_": "mine.Nett"}}, ["mine has no 'Nett'", "Did you mean 'Net'?"]),
        ({"optimizer": {"_target_": "keras.optimizers.Adm"}}, ["optimizer._target_", "Did you mean 'Adam'?"]),
        ({"loss": {"_target_": "keras.loses.Loss"}}, ["loss._target_", "keras has no 'loses'", "'losses'"]),
        ({"model": {"_target_": "looplab.models.convnett.X"}}, ["looplab.models has no 'convnett'"]),
        ({"model": {"_target_": "mine.Net.nothing"}}, ["mine.Net has no 'nothing'"]),
        ({"model": {"_target_": "mine..Net"}}, ["model._target_", "'mine..Net' is not a dotted name"]),
        ({"model": {"_target_": 3}}, ["model._target_", "3 is not a dotted name"]),
        ({"model": {"units": 3}}, ["model: expected a section with _target_, got {'units': 3}"]),
        ({"data": {"source": 3}}, ["data.source: expected a section with _target_, got 3"]),
        # Of another kind than the slot takes.
        ({"model": {"_target_": "keras.optimizers.Adam"}}, ["keras.optimizers.Adam is not a keras.Model"]),
        ({"optimizer": NET}, ["optimizer._target_: mine.Net is not a keras.optimizers.Optimizer"]),
        ({"trainer": NET}, ["trainer._target_: mine.Net is not a looplab.Trainer"]),
        ({"loss": NET}, ["loss._target_: mine.Net is not a keras.losses.Loss"]),
        ({"metrics": ["accuracy", NET]}, ["metrics[1]._target_: mine.Net is not a keras.metrics.Metric"]),
        ({"loss": {"a": "mse", "b": NET}}, ["loss.b._target_: mine.Net is not a keras.losses.Loss"]),
        ({"callbacks": {"x": NET}}, ["callbacks.x._target_: mine.Net is not a looplab.Callback"]),
        ({"schedule": NET}, ["schedule._target_: mine.Net is not a keras.optimizers.schedules"]),
        ({"model": {"_target_": "mine.points"}}, ["model: mine.points returned a dict, not a keras.Model"]),
        ({"model": {"_target_": "mine.np"}}, ["model._target_: mine.np is neither a class nor a function"]),
        # Arguments.
        ({"model": NET | {"unitz": 3}}, ["model.unitz: mine.Net takes no", "'unitz'; valid are units"]),
        (
            {"model": {"_target_": "looplab.models.ConvNet", "filterz": 3}},
            ["model.filterz", "valid are classes, filters, dropout", "Did you mean 'filters'?"],
        ),
        (
            {"optimizer": {"_target_": "keras.optimizers.Adam", "learning_rat": 3}},
            ["optimizer.learning_rat", "Did you mean 'learning_rate'?"],
        ),
        (
            {"optimizer": {"_target_": "keras.optimizers.Adam", "learning_rate": "high"}},
            ["optimizer: keras.optimizers.Adam refused its arguments", "high"],
        ),
        ({"trainer": {"_target_": "mine.Mine", "fial": 1}}, ["trainer.fial", "Did you mean 'fail'?"]),
        ({"trainer": {"_target_": "mine.Mine", "seed": 1}}, ["trainer.seed", "sets this argument"]),
        ({"callbacks": {"x": {"_target_": "mine.Slow"}}}, ["callbacks.x: mine.Slow needs", "'step'"]),
        ({"model": NET | {"_partial_": "yes"}}, ["model._partial_: expected true or false, got 'yes'"]),
        ({"model": NET | {"units": {"_target_": "mien.x"}}}, ["model.units", "mien"]),
        # What is made does not serve.
        ({"data": {"source": {"_target_": "mine.time.time"}}}, ["neither a class nor a function"]),
        ({"data": {"source": {"_target_": "mine.splits", "a": 2}}}, ["returned the splits", "'train'"]),
    ],
    ids=str,
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_words_that_help(project, sections, words):
    (project / "mine.py").write_text(
        (project / "mine.py").read_text()
        + "\n@looplab.configurable\ndef splits(**given):\n    return given\n"
    )
    message = refused(**sections)
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("broken.Net", "import keras\nimport nowhere_at_all\n", ModuleNotFoundError),
        ("broken.Net", "def Net(:\n", SyntaxError),
        ("broken.Net", "1 / 0\n", ZeroDivisionError),
        ("broken.Net", MARK + "def Net():\n    raise ValueError('my own')\n", ValueError),
        ("broken.Net", MARK + "def Net(**more):\n    raise TypeError('my own')\n", TypeError),
    ],
    ids=["module missing", "syntax", "at import", "in a function", "in a constructor"],
)
def test_an_error_in_someones_own_code_goes_through(project, name, text, error):
    (project / "broken.py").write_text(text)
    with pytest.raises(error):
        experiment.build(described(model={"_target_": name}), None)


def test_an_error_inside_a_nested_target_goes_through(project):
    source = {"_target_": "mine.points", "rows": {"_target_": "mine.points", "fail": True}}
    with pytest.raises(KeyError, match="a mistake in the data"):
        experiment.build(described(data={"source": source}), None)


def test_all_slots_are_checked_before_anything_is_made(project):
    message = refused(
        model=NET | {"unitz": 3},
        loss={"_target_": "keras.losses.Losss"},
        metrics=["acuracy", {"_target_": "mine.Net"}],
        callbacks={"x": {"_target_": "mine.Slow"}},
        data={"source": {"_target_": "mine.points", "fail": True}},  # would raise if it were called
    )
    assert [line.split(":")[0] for line in message.splitlines()] == [
        "model.unitz", "loss._target_", "metrics[1]._target_", "callbacks.x", "metrics[0]",
    ]  # fmt: skip
    assert "Did you mean 'accuracy'?" in message


def test_the_configuration_is_written_as_it_was(project):
    experiment.write_config(written(seed=3, model=NET | {"units": "${seed}"}), project / "run")
    text = (project / "run" / "config.yaml").read_text()
    assert "${seed}" in text
    assert "experiment: mine" in text
    assert OmegaConf.create(text).model.units == 3


def test_a_run_that_goes_on_otherwise_says_in_what(project, caplog):
    run_dir = project / "run"
    experiment.write_config(written(), run_dir)
    assert caplog.records == []
    experiment.write_config(written(run_dir="elsewhere"), run_dir)
    assert caplog.records == []
    with caplog.at_level("INFO", "looplab"):
        experiment.write_config(written(epochs=5), run_dir)
        experiment.write_config(written(model=NET | {"units": 3}, epochs=5), run_dir)
    more, other = caplog.records
    assert (more.levelname, more.getMessage()[-15:]) == ("INFO", "epochs (2 -> 5)")
    assert (other.levelname, "model.units (None -> 3)" in other.getMessage()) == ("WARNING", True)


def test_a_refused_start_leaves_nothing_and_changes_nothing(project):
    run_dir = project / "runs" / "new"
    bad = {"metrics": ["acuracy"]}
    with pytest.raises(ConfigurationError, match="acuracy"):
        run(run_dir, **bad)
    assert not (project / "runs").exists()

    run(run_dir, loggers={"verbose": 0})
    before = snapshot(run_dir)
    with pytest.raises(ConfigurationError, match="acuracy"):
        run(run_dir, **bad)
    with pytest.raises(ConfigurationError, match="holds a run"):
        run(run_dir, resume="never")
    assert snapshot(run_dir) == before
    with pytest.raises(looplab.CheckpointError, match="does not fit"):
        run(run_dir, model=NET | {"units": 3}, epochs=5)
    now = snapshot(run_dir)
    assert {name for name in before if now[name] != before[name]} <= {"log.txt"}


def test_where_looplab_is_worked_on_its_functions_are_not_the_projects(project, monkeypatch):
    (project / "mine.py").write_text((project / "mine.py").read_text() + "\nimport looplab.train\n")
    monkeypatch.chdir(ROOT)
    for target in ("looplab.runs.directory.write_text", "looplab.experiment.run", "looplab.train.main"):
        for section in ({"model": {"_target_": target}}, {"data": {"source": {"_target_": target}}}):
            message = refused(**section)
            assert f"{target} is the function looplab." in message
    monkeypatch.syspath_prepend(project)
    monkeypatch.setenv("PYTHONPATH", f"{project}:{ROOT}")
    assert "mine.looplab.train.main is the function" in refused(model={"_target_": "mine.looplab.train.main"})


def test_several_optimizers_may_be_names_and_unknown_ones_are_refused(project):
    optimizers = {"one": "adam", "two": {"_target_": "keras.optimizers.SGD"}}
    trainer, _ = experiment.build(described(model={"one": NET, "two": NET}, optimizer=optimizers), None)
    kinds = [type(optimizer).__name__ for optimizer in trainer.optimizers.values()]
    assert kinds == ["Adam", "SGD"]
    trainer, _ = experiment.build(described(optimizer="adam"), None)
    assert type(trainer.optimizers["optimizer"]).__name__ == "Adam"
    message = refused(model={"one": NET, "two": NET}, optimizer=optimizers | {"one": "adm"})
    assert message == "optimizer.one: 'adm' is not a Keras optimizer. Did you mean 'adam'?"
    both = {"_target_": "keras.optimizers.Adam", "one": {"_target_": "keras.optimizers.SGD"}}
    (problem,) = targets.check(described(optimizer=both))
    assert problem.key == "optimizer.one"
    assert "Several by name need '- override /optimizer: none'" in problem.message


def test_what_comes_from_the_rest_of_the_configuration_is_what_the_trainer_takes():
    taken = set(inspect.signature(looplab.Trainer).parameters)
    assert taken == components.supplied_to_trainer()


def test_parameter_groups_and_freezing_come_from_the_configuration(project):
    groups = {"kernels": {"match": "*kernel*", "learning_rate_scale": 0.5}, "rest": {}}
    freeze = {"_target_": "looplab.callbacks.Freeze", "layers": "*", "until": "1ep"}
    trainer, data = experiment.build(described(parameter_groups=groups, callbacks={"freeze": freeze}), None)
    before = trainer.model.get_weights() if trainer.model.built else None
    lines = trainer.rehearse(data["train"]).lines
    assert [text.split(":")[0] for label, text in lines if label == "group"] == ["kernels", "rest"]
    trainer.fit(data["train"], epochs=1, verbose=0)
    assert before is None or all(map(np.array_equal, before, trainer.model.get_weights()))
    said = refused(loss_weights={"a": 1.0})
    assert "loss_weights" in said


@pytest.mark.slow
def test_a_configuration_lets_callbacks_with_a_state_come_and_go(project, tmp_path, caplog):
    stop = {"stop": {"_target_": "keras.callbacks.EarlyStopping", "patience": 9}}
    quiet = {"nan": {"_target_": "keras.callbacks.TerminateOnNaN"}}
    loggers = {"verbose": 0}
    run(tmp_path / "run", epochs=1, loggers=loggers)
    run(tmp_path / "run", epochs=2, loggers=loggers, callbacks=quiet)
    with pytest.raises(
        looplab.CheckpointError, match=r"only in the trainer: EarlyStopping.*allow_change=\[callbacks\]"
    ):
        run(tmp_path / "run", epochs=3, loggers=loggers, callbacks=stop)
    run(tmp_path / "run", epochs=3, loggers=loggers, callbacks=stop, allow_change=["callbacks"])


@pytest.mark.parametrize(
    "optimizer",
    [
        {"sgd": ["encoder", "decoder"]},
        {"both": [{"_target_": "keras.optimizers.SGD", "learning_rate": 0.5}, ["encoder", "decoder"]]},
        {"_target_": "keras.optimizers.SGD"},
        "sgd",
    ],
    ids=["a list", "a pair", "one", "a name"],
)
def test_an_optimizer_says_which_models_it_trains(project, optimizer):
    checked = described(model={"encoder": NET, "decoder": NET}, optimizer=optimizer)
    trainer, _ = experiment.build(checked, None)
    assert list(trainer.models) == ["encoder", "decoder"]
    assert list(trainer._engine.recipe.trains.values()) == [["encoder", "decoder"]]


@pytest.mark.parametrize(
    ("optimizer", "says"),
    [
        ({"sgdd": ["encoder"]}, "optimizer.sgdd: 'sgdd' is not a Keras optimizer"),
        ({"both": [{"_target_": "keras.optimizers.SGD", "rate": 1}, ["encoder"]]}, "optimizer.both.rate"),
        ({"both": [[], []]}, "optimizer: expected a section with _target_"),
    ],
)
def test_a_wrong_optimizer_beside_its_models_is_refused(project, optimizer, says):
    with pytest.raises(ConfigurationError, match=says):
        experiment.build(described(model={"encoder": NET, "decoder": NET}, optimizer=optimizer), None)


COMPILED = """
import keras
import looplab


@looplab.configurable
def compiled():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")])
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.SGD(0.25), loss, weighted_metrics=["accuracy"])
    return model
"""


@pytest.mark.slow
def test_what_a_model_was_compiled_with_counts_where_the_configuration_says_nothing(project, tmp_path):
    (tmp_path / "theirs.py").write_text(COMPILED)
    sections = {"model": {"_target_": "theirs.compiled"}, "loss": None, "optimizer": None}
    run(tmp_path / "run", **sections, loggers={"verbose": 0})
    last = records(tmp_path / "run")[-1]["values"]
    assert "epoch_accuracy" in last
    loaded = looplab.load(tmp_path / "run", "last")
    assert float(loaded.optimizers["optimizer"].learning_rate.numpy()) == 0.25
    assert loaded.evaluate(*experiment.build(described(**sections), None)[1]["train"]).keys() == {
        "loss",
        "accuracy",
    }
    more = {"metrics": ["accuracy"], "weighted_metrics": ["accuracy"], "loss_weights": 2.0}
    trainer, data = experiment.build(described(**sections | more), None)
    history = trainer.fit(data["train"], epochs=1, verbose=0).history
    assert history.keys() == {"loss", "accuracy", "weighted_accuracy", "learning_rate"}
    assert "weighted_metrics[0]: 'mea' is not a Keras metric" in refused(**sections, weighted_metrics=["mea"])
    with pytest.raises(ConfigurationError, match="schedule: it needs an optimizer"):
        described(**sections, schedule={"_target_": "looplab.schedule.WarmupCosine"})
