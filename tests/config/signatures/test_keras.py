"""What is read of Keras and looplab without importing them, against what an import shows."""

import importlib
import inspect
import subprocess
import sys

import pytest

from looplab.config.signatures import Found, find
from tests.process import HANGS

ROOMS = [
    "callbacks",
    "initializers",
    "layers",
    "losses",
    "metrics",
    "models",
    "optimizers",
    "optimizers.schedules",
    "regularizers",
]
CLASSES = {
    f"keras.{room}.{name}": value
    for room in ROOMS
    for name, value in sorted(vars(importlib.import_module(f"keras.{room}")).items())
    if inspect.isclass(value) and not name.startswith("_")
}
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
# Those that do anything else with their **kwargs than to hand them on or refuse them.
OPEN = {
    "keras.callbacks.CallbackList",
    "keras.callbacks.LambdaCallback",
    "keras.callbacks.ReduceLROnPlateau",
    "keras.layers.AugMix",
    "keras.layers.HashedCrossing",
    "keras.layers.InputLayer",
    "keras.layers.RandAugment",
    "keras.metrics.MeanMetricWrapper",
    "keras.optimizers.LossScaleOptimizer",
}


def is_open(found):
    return any(each.kind is each.VAR_KEYWORD for each in found.signature.parameters.values())


def names(found):
    return [each.name for each in found.signature.parameters.values() if each.kind in NAMED]


def from_bases(path):
    """The names that a class takes by its `**kwargs` alone."""
    return set(names(find(path))) - set(inspect.signature(CLASSES[path].__init__).parameters)


def differences(path):
    """What is read otherwise than it is."""
    found, real = find(path), CLASSES[path]
    if not isinstance(found, Found):
        return [found]
    order = [f"{base.__module__}.{base.__qualname__}" for base in real.__mro__[1:-1]]
    ancestors = [base for base in found.ancestors if not base.startswith("tensorflow.")]
    _, *own = inspect.signature(real.__init__).parameters.values()
    wrong = []
    for each in (each for each in own if each.kind in NAMED):
        read = found.signature.parameters.get(each.name)
        if read is None or (read.default is read.empty) != (each.default is each.empty):
            wrong.append(each)
    if found.kind != "class" or found.path != f"{real.__module__}.{real.__qualname__}":
        wrong.append(found.path)
    if not set(ancestors) <= set(order) or is_open(found) != (path in OPEN):
        wrong.append(found)
    return wrong


def test_every_class_of_keras_is_read_as_it_is():
    # One test, since what surrounds each test takes longer than reading a class.
    assert len(CLASSES) > 300
    assert {path: wrong for path in CLASSES if (wrong := differences(path))} == {}


def needs_nothing(path):
    parameters = find(path).signature.parameters.values()
    return all(each.default is not each.empty or each.kind not in NAMED for each in parameters)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_bases_take_is_taken_and_nothing_else():
    universe = {name for path in CLASSES for name in from_bases(path)} | {"lr", "weights", "no_such_argument"}
    checked = 0
    for path, real in CLASSES.items():
        if not needs_nothing(path) or path in OPEN:
            continue
        listed = names(find(path))
        for name in from_bases(path) - {"inputs", "outputs"}:  # these two only together
            value = {"dtype": "float32", "name": "a", "trainable": True, "autocast": True}.get(name)
            try:
                real(**{name: value})
            except (TypeError, ValueError) as error:
                assert "nrecognized" not in str(error) and "unexpected keyword" not in str(error), (
                    path,
                    name,
                )
        for name in universe.difference(listed):
            with pytest.raises((TypeError, ValueError)):
                real(**{name: None})
        checked += 1
    assert checked > 150


ADAM = [
    *("learning_rate", "beta_1", "beta_2", "epsilon", "amsgrad", "weight_decay", "clipnorm", "clipvalue"),
    *("global_clipnorm", "use_ema", "ema_momentum", "ema_overwrite_frequency", "loss_scale_factor"),
    *("gradient_accumulation_steps", "name"),
]


def test_adam_takes_exactly_what_keras_takes():
    # Keras still takes decay, with a warning that it is ignored.
    assert names(find("keras.optimizers.Adam")) == [*ADAM, "decay"]


def test_looplab_s_own_names():
    assert find("looplab.Trainer") == find("looplab.trainer.Trainer")
    assert find("looplab.data.digits").kind == "function"
    assert "keras.src.models.model.Model" in find("looplab.models.ConvNet").ancestors
    for path in ("looplab.Trainer", "looplab.models.ConvNet", "looplab.schedule.WarmupCosine"):
        module, _, name = find(path).path.rpartition(".")
        _, *own = inspect.signature(getattr(importlib.import_module(module), name).__init__).parameters
        assert set(own) - {"kwargs"} <= set(names(find(path)))
    assert names(find("looplab.Callback")) == []


def test_ten_targets_load_nothing():
    code = (
        "import sys\nfrom looplab.config.signatures import Found, find\n"
        "for path in sys.argv[1:]: assert isinstance(find(path), Found), path\n"
        "loaded = {'tensorflow', 'keras', 'numpy', 'hydra'} & set(sys.modules)\n"
        "assert not loaded and 'looplab.trainer' not in sys.modules, loaded"
    )
    paths = [
        "keras.optimizers.Adam",
        "keras.layers.Dense",
        "keras.Model",
        "keras.Sequential",
        "looplab.Trainer",
    ]
    paths += ["keras.metrics.MeanSquaredError", "keras.applications.ResNet50", "looplab.models.ConvNet"]
    paths += ["keras.losses.SparseCategoricalCrossentropy", "keras.optimizers.schedules.CosineDecay"]
    subprocess.run([sys.executable, "-c", code, *paths], timeout=HANGS, check=True)
