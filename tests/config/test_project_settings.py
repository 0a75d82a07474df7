"""What the user decides and no file: the command line, `[tool.looplab]` of `pyproject.toml`, plug-ins."""

import pytest

from looplab import experiment
from looplab.config import check, project_settings
from tests.config.in_process import inside, say
from tests.process import PROJECT, write

PACKAGE = {
    "site-packages/kit/__init__.py": """
import functools, keras, os
from subprocess import run

def net(units):
    return keras.Sequential([keras.layers.Dense(units), keras.layers.Dense(2)])

class Net(keras.Sequential):
    @classmethod
    def of(cls, units):
        return cls([keras.layers.Dense(units), keras.layers.Dense(2)])

class Clock:
    def __init__(self, **anything):
        pass

wrapped = functools.wraps(net)(lambda units: net(units))
system = os.system
""",
    "site-packages/kit/conf/experiment/of_kit.yaml": """
# @package _global_
# an experiment that a package brings
defaults: [mine, _self_]
model: {_target_: kit.net, units: 4}
""",
    "site-packages/kit/conf/model/small.yaml": "_target_: kit.net\nunits: 3\n",
    "site-packages/kit-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: kit\nVersion: 1.0\n",
}
ENTRY = {"site-packages/kit-1.0.dist-info/entry_points.txt": "[looplab.plugins]\nkit = kit\n"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project beside an installed package called `kit`."""
    write(tmp_path, PROJECT)
    write(tmp_path, PACKAGE)
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    yield tmp_path
    project_settings.plugins.cache_clear()


@pytest.fixture
def command(folder, monkeypatch):
    """Says words to the command, with what `[tool.looplab]` has and whether the package is a plug-in."""

    def act(*words, table="", plugin=False, files=(), variables=(), only_check=False):
        for name, value in dict(variables).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("LOOPLAB_FOUND", "none")
        found = {"configs": []}

        def task(composed, name, said):
            config = check(composed, said)
            found["configs"].append(config)
            if not only_check:
                experiment.build(config, None)

        write(folder, {"pyproject.toml": f"[tool.looplab]\n{table}\n"} if table else {})
        write(folder, {**dict(files), **(ENTRY if plugin else {})})
        project_settings.plugins.cache_clear()
        said = say(list(words), folder, {}, monkeypatch, task)
        return said, found["configs"][-1] if found["configs"] else None

    return act


@pytest.mark.share(2)
@pytest.mark.parametrize("target", ["kit.net", "kit.Net.of", "kit.wrapped"])
@pytest.mark.parametrize("how", [{"table": 'trust = ["kit"]'}, {"plugin": True}], ids=["trust", "plug-in"])
def test_a_trusted_package_makes_its_classes_and_functions_targets(target, how, command):
    said, config = command(
        "+experiment=mine", "model=none", f"+model={{_target_: {target}, units: 4}}", **how
    )
    assert said.code == 0, said.text
    assert config.model["_target_"] == target


@pytest.mark.slow
def test_a_package_that_nobody_trusts_is_refused_with_the_words_that_trust_it(command):
    said, _ = command("+experiment=mine", "model._target_=kit.net")
    assert said.code == 2
    assert 'trust = ["kit"] under [tool.looplab] of pyproject.toml' in said.text
    assert "entry point looplab.plugins" in said.text


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("kit.run", "subprocess.run"),
        ("kit.system", "neither a class nor a function"),
        ("kit.os.system", "neither a class nor a function"),
        ("kit.Clock", "not a keras.Model"),
        ("kit.nt", "Did you mean 'net'?"),
    ],
)
def test_what_it_imports_from_elsewhere_is_refused_and_its_kind_is_checked(target, says, command):
    said, _ = command(
        "+experiment=mine", "model=none", f"+model={{_target_: {target}}}", table='trust = ["kit"]'
    )
    assert said.code == 2 and says in said.text, said.text


@pytest.mark.share(1)
@pytest.mark.parametrize("how", [{"table": 'trust = ["kit"]'}, {"plugin": True}], ids=["trust", "plug-in"])
def test_a_package_brings_configurations_of_its_own(how, command):
    said, config = command("+experiment=of_kit", **how)
    assert said.code == 0, said.text
    assert (config.model["units"], config.epochs) == (4, 2)
    said, config = command("+experiment=mine", "model=small", "~model.units", "+model.units=5", **how)
    assert said.code == 0, said.text
    said, _ = command("+experiment=mine", "model=smal", **how)
    assert "Did you mean 'small'?" in said.text


def test_without_trust_its_configurations_are_not_there(command):
    said, _ = command("+experiment=of_kit")
    assert said.code == 2 and "there is no option 'of_kit'" in said.text


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ('trust = ["os"]', "is part of Python"),
        ('trust = "kit"', "expected a list of strings"),
        ('trust = ["a b"]', "is not the name of a package"),
        ('trusted = ["kit"]', "Did you mean 'trust'?"),
        ("run_dir = 3", "expected a string"),
        ('resume = "alwys"', "resume"),
        ('allow_change = ["nothing"]', "there is no key 'nothing'"),
        ("a = ", "cannot be read"),
    ],
)
def test_a_mistake_in_the_table_is_refused_by_name(table, says, command):
    said, _ = command("+experiment=mine", table=table)
    assert said.code == 2 and says in said.text and "pyproject.toml" in said.text, said.text


@pytest.mark.share(2)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run_dir", "conf"),
        ("run_dir", "${oc.env:HOME}/x"),
        ("resume", "latest"),
        ("allow_change", "[config]"),
        ("strategy", "{name: tpu, address: 'grpc://elsewhere:8470'}"),
        ("from_run", "runs/x"),
        ("initialize_from", "/etc/weights.h5"),
        ("initialize_from", "{path: ../x}"),
    ],
)
def test_a_file_does_not_decide_what_only_the_user_decides(key, value, command):
    text = PROJECT["conf/experiment/mine.yaml"] + f"{key}: {value}\n"
    said, _ = command("+experiment=bad", files={"conf/experiment/bad.yaml": text})
    assert said.code == 2 and f"looplab: {key}" in said.text and "conf/experiment/bad.yaml:" in said.text, (
        said.text
    )


def test_nor_a_file_of_a_group_or_one_that_is_named_like_one_of_looplab(command):
    files = {"conf/debug/fast.yaml": "# @package _global_\nresume: never\nallow_change: [config]\n"}
    said, _ = command("+experiment=mine", "debug=fast", files=files)
    assert said.code == 2 and "resume: 'never' is in a file" in said.text and "allow_change: " in said.text


@pytest.mark.slow
def test_the_command_line_and_the_project_decide_it(command):
    _, config = command(
        "+experiment=mine", "run_dir=runs/a", "resume=never", "allow_change=[seed]", only_check=True
    )
    assert (config.run_dir, config.resume, config.allow_change) == ("runs/a", "never", ["seed"])
    table = 'run_dir = "runs/of the project"\nresume = "never"\nallow_change = ["seed"]'
    _, config = command("+experiment=mine", table=table, only_check=True)
    assert (config.run_dir, config.resume, config.allow_change) == ("runs/of the project", "never", ["seed"])
    _, config = command("+experiment=mine", "run_dir=runs/b", table=table, only_check=True)
    assert (config.run_dir, config.resume) == ("runs/b", "never")


READER = """
import looplab, pathlib

@looplab.configurable(reads=("folder",))
def rows(folder):
    import mine
    assert type(folder) is str and pathlib.Path(folder).is_dir()
    return mine.points()
"""


def reading(folder):
    text = PROJECT["conf/experiment/mine.yaml"].replace(
        "{_target_: mine.points}", f"{{_target_: reader.rows, folder: '{folder}'}}"
    )
    return {"conf/experiment/reads.yaml": text, "reader.py": READER}


@pytest.mark.slow
def test_a_file_reads_in_the_project_and_in_folders_that_the_user_named(command, folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("data")
    (elsewhere / "inner").mkdir()
    said, _ = command("+experiment=reads", files=reading("conf/experiment"))
    assert said.code == 0, said.text
    said, _ = command("+experiment=reads", files=reading(elsewhere / "inner"))
    assert (
        said.code == 2 and "data.source.folder: " in said.text and "under read in [tool.looplab]" in said.text
    )
    said, _ = command(
        "+experiment=reads", f"data.source.folder={elsewhere}", files=reading(elsewhere / "inner")
    )
    assert said.code == 0, said.text
    said, _ = command(
        "+experiment=reads", files=reading(elsewhere / "inner"), table=f'read = ["{elsewhere}"]'
    )
    assert said.code == 0, said.text
    said, _ = command(
        "+experiment=reads",
        files=reading("${oc.env:DATA_OF_MINE}/inner"),
        table='read = ["$DATA_OF_MINE"]',
        variables={"DATA_OF_MINE": str(elsewhere)},
    )
    assert said.code == 0, said.text


TOLD = "the value of an environment variable is a secret"


@pytest.mark.share(4)
@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("metrics: [{_target_: keras.metrics.Mean, name: '${oc.env:TOKEN_OF_MINE}'}]", "metrics[0].name"),
        ("metrics: ['${oc.env:TOKEN_OF_MINE}']", "metrics[0]"),
        ("checkpoint: {monitor: '${oc.env:TOKEN_OF_MINE}'}", "checkpoint.monitor"),
        ("experiment: 'x_${oc.env:TOKEN_OF_MINE}'", "experiment"),
        ("loggers: {more: {w: {_target_: looplab.loggers.WandB, project: '${oc.env:TOKEN_OF_MINE}'}}}",
         "loggers.more.w.project"),
        ("loggers: {more: {w: {_target_: looplab.loggers.MLflow, tracking_uri: 'http://x/${oc.env:TOKEN_OF_MINE}'}}}",
         "loggers.more.w.tracking_uri"),
        ("loggers: {more: {w: {_target_: looplab.loggers.Csv, filename: '${oc.env:TOKEN_OF_MINE}.csv'}}}",
         "loggers.more.w.filename"),
        ("callbacks: {w: {_target_: keras.callbacks.CSVLogger, filename: '${oc.env:TOKEN_OF_MINE}'}}",
         "callbacks.w.filename"),
        ("model: {name: '${oc.env:TOKEN_OF_MINE}'}", "model.name"),
        ("model: {name: '${model.units}', units: '${oc.env:TOKEN_OF_MINE}'}", "model.name"),
        ("model: {name: '${oc.env:NOT_THERE_AT_ALL,${oc.env:TOKEN_OF_MINE}}'}", "model.name"),
        ("seed: '${oc.env:TOKEN_OF_MINE}'", "seed"),
        ("optimizer: '${oc.env:TOKEN_OF_MINE}'", "optimizer"),
    ],
)  # fmt: skip
def test_a_variable_of_the_environment_ends_in_no_log_and_no_name(section, key, command):
    text = PROJECT["conf/experiment/mine.yaml"]
    first = section.partition(":")[0]
    lines = [line for line in text.splitlines() if not line.startswith(f"{first}:")]
    section = section.replace("model: {", "model: {_target_: mine.Net, ")
    files = {"conf/experiment/leaks.yaml": "\n".join([*lines, section]) + "\n"}
    said, _ = command("+experiment=leaks", files=files, variables={"TOKEN_OF_MINE": "sesame"})
    assert said.code == 2 and f"looplab: {key}: " in said.text, said.text
    assert "sesame" not in said.text


def test_a_variable_is_used_as_a_number_a_secret_and_by_the_command_line(command, folder, monkeypatch):
    text = PROJECT["conf/experiment/mine.yaml"].replace("units: 16", "units: '${oc.decode:${oc.env:WIDTH}}'")
    files = {"conf/experiment/uses.yaml": text + "seed: ${oc.env:SEED_OF_MINE}\n"}
    said, config = command(
        "+experiment=uses",
        "+optimizer.name='${oc.env:NAME_OF_MINE}'",
        files=files,
        variables={"WIDTH": "5", "SEED_OF_MINE": "7", "NAME_OF_MINE": "net"},
        only_check=True,
    )
    assert said.code == 0, said.text
    assert (config.seed, config.model["units"]) == (7, 5)
    with inside(folder):
        monkeypatch.syspath_prepend(folder)
        assert experiment.write_limits.placed(config, None).optimizer["name"] == "net"


def test_the_name_of_a_variable_that_another_one_holds_is_told_to_nobody(command):
    text = PROJECT["conf/experiment/mine.yaml"] + "vars: {a: '${oc.env:${oc.env:TOKEN_OF_MINE}}'}\n"
    files = {"conf/experiment/leaks.yaml": text}
    said, _ = command("+experiment=leaks", files=files, variables={"TOKEN_OF_MINE": "sesame"})
    assert said.code == 2 and "vars.a: cannot be resolved" in said.text and "sesame" not in said.text
    text = text.replace("${oc.env:${oc.env:TOKEN_OF_MINE}}", "${oc.decode:${oc.env:TOKEN_OF_MINE}}")
    files = {"conf/experiment/leaks.yaml": text}
    said, _ = command("+experiment=leaks", files=files, variables={"TOKEN_OF_MINE": "{sesame: ${x"})
    assert said.code == 2 and "sesame" not in said.text
    said, _ = command(
        "+experiment=mine", "optimizer=${oc.env:TOKEN_OF_MINE}", variables={"TOKEN_OF_MINE": "sesame"}
    )
    assert said.code == 2


def test_a_section_on_the_command_line_does_not_speak_for_what_a_file_adds_to_it(command):
    text = PROJECT["conf/experiment/mine.yaml"]
    text += "callbacks: {x: {_target_: keras.callbacks.CSVLogger, filename: /tmp/x.csv}}\n"
    words = "+callbacks=[{_target_: keras.callbacks.CSVLogger, filename: /tmp/y.csv}]"
    said, _ = command("+experiment=adds", words, files={"conf/experiment/adds.yaml": text})
    assert said.code == 2 and "callbacks.x.filename: '/tmp/x.csv'" in said.text
    assert "y.csv" not in said.text
