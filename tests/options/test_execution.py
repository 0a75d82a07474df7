"""How steps run, as a mode with keywords beside it or all in one."""

import keras
import pytest

import looplab
from looplab.errors import ConfigurationError
from looplab.options.execution import Execution, read_execution


def made(**options):
    return looplab.Trainer(lambda: keras.Sequential([keras.layers.Dense(1)]), "sgd", "mse", **options)


@pytest.mark.parametrize(
    "options",
    [
        {"execution": "graph", "micro_batches": 2},
        {"execution": Execution("graph", micro_batches=2)},
        {"execution": Execution("graph", micro_batches=2), "micro_batches": 1},  # the default says nothing
    ],
)
def test_it_is_given_in_pieces_or_in_one(options):
    engine = made(**options)._engine
    assert (engine.modes.mode, engine.modes.micro_batches, engine.run_eagerly) == ("graph", 2, False)


def test_nothing_is_given_twice():
    with pytest.raises(ConfigurationError, match=r"micro_batches: it is given twice, 3 here and 2 in"):
        made(execution=Execution("graph", micro_batches=2), micro_batches=3)
    with pytest.raises(ConfigurationError, match="jit_compile: it means execution='xla_step', but"):
        made(execution=Execution("graph"), jit_compile=True)
    assert made(execution=Execution("xla_step"), jit_compile=True)._engine.modes.mode == "xla_step"
    with pytest.raises(
        ConfigurationError, match=r"recompute: it is given twice, \['a'\] here and \['b'\] in"
    ):
        made(execution=Execution("graph", recompute=["b"]), recompute="a")
    assert made(execution=Execution("graph", recompute=["a"]), recompute=()) is not None
    with pytest.raises(ConfigurationError, match="run_eagerly: it is given twice"):
        read_execution(Execution(), run_eagerly=True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"execution": "grahp"}, r"execution: 'grahp' is not one of auto, graph, .*Did you mean 'graph'"),
        ({"execution": None}, "execution: None is not one of"),
        ({"micro_batches": 0}, "micro_batches: expected 'auto' or a whole number from 1 to 1024, got 0"),
        (
            {"micro_batches": "many"},
            "micro_batches: expected 'auto' or a whole number from 1 to 1024, got 'many'",
        ),
        (
            {"steps_per_execution": 0},
            "steps_per_execution: expected 'auto' or a whole number from 1 to 2147483647, got 0",
        ),
    ],
)
def test_what_is_wrong_is_refused(options, says):
    with pytest.raises(ConfigurationError, match=says):
        made(**options)
