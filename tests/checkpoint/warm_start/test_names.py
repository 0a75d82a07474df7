"""Which name there is whose here: patterns, and how Keras' files call layers."""

import keras
import pytest

from looplab.checkpoint.warm_start import Rule, keras_file, keras_names, pair
from looplab.errors import ConfigurationError
from looplab.options import initialize_from
from looplab.strategy import unwrapped


@pytest.mark.parametrize(
    ("here", "there", "name", "expected"),
    [
        ("encoder", "backbone", "encoder/conv/kernel", "backbone/conv/kernel"),
        ("encoder/*", "backbone/*", "encoder/conv/kernel", "backbone/conv/kernel"),
        ("encoder/*", "*", "encoder/conv/kernel", "conv/kernel"),
        ("*", "net/*", "conv/kernel", "net/conv/kernel"),
        ("*/attention/*", "*/self/*", "block_1/attention/kernel", "block_1/self/kernel"),
        ("blocks/*/conv", "b*/c", "blocks/3/conv/bias", "b3/c/bias"),
        ("copies/*/kernel", "kernel", "copies/2/kernel", "kernel"),
        ("head/kernel", "top/w", "head/kernel", "top/w"),
        ("head", "top", "headline/kernel", None),
        ("encoder/*", "x/*", "decoder/kernel", None),
        ("a.b", "c", "axb/kernel", None),
    ],
)
def test_a_rule_says_how_a_variable_or_all_of_a_layer_is_called_there(here, there, name, expected):
    assert Rule(here, there)(name) == expected


def asked(tmp_path, **more):
    return initialize_from.read({"path": tmp_path, **more}, exists=False)


def test_the_first_rule_counts_and_what_none_fits_has_its_own_name(tmp_path):
    there = {name: name for name in ("a/kernel", "a/bias", "c/kernel", "trainer/queue")}
    here = {name: (name,) for name in ("a/kernel", "a/bias", "b/kernel", "trainer/queue", "trainer/other")}
    pairs = pair(asked(tmp_path, map={"a/kernel": "c/kernel", "b": "a"}), here, there)
    assert pairs.found == {"a/kernel": "c/kernel", "a/bias": "a/bias", "b/kernel": "a/kernel"}
    assert pairs.counts == {"a/kernel <- c/kernel": 1, "b <- a": 1}
    pairs = pair(
        asked(tmp_path, map={"b": "a", "trainer/other": "trainer/queue"}, skip="a/bias"), here, there
    )
    assert pairs.found["trainer/other"] == "trainer/queue" and "trainer/queue" not in pairs.found
    assert (pairs.skipped, pairs.passed_over) == ({"a/bias": "a/bias"}, {"a/bias": "a/bias"})
    assert pair(asked(tmp_path), here, there).missing == {"b/kernel": "b/kernel"}


def test_all_patterns_of_nothing_are_refused_together(tmp_path):
    there = {"a/kernel": "a/kernel"}
    wrong = asked(tmp_path, map={"a": "b", "c": "a", "*/kernel": "*/kernel"}, skip="d", partial="e")
    with pytest.raises(ConfigurationError) as raised:
        pair(wrong, {"a/kernel": ("a/kernel",)}, there)
    lines = str(raised.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        *["initialize_from.map"] * 3,
        "initialize_from.skip",
        "initialize_from.partial",
    ]
    assert "nothing there is called 'b'" in lines[0] and "'c' matches no variable" in lines[1]


def test_layers_are_numbered_in_the_order_they_were_added():
    layers = {"": "model"} | {f"layers/dense{f'_{n}' if n else ''}": f"dense_{n + 7}" for n in range(12)}
    shown = keras_names.readable(layers)
    assert [shown[path] for path in layers] == ["", "dense", *(f"dense_{n}" for n in range(1, 12))]
    nested = {
        "": "m",
        "enc": "encoder",
        "enc/layers/dense": "one",
        "top": "",
        "enc/layers/dense/cell": "cell_3",
    }
    shown = keras_names.readable(nested)
    assert list(shown.values()) == ["", "encoder", "encoder/one", "encoder/one/cell", "top"]


def test_the_names_of_a_model_are_those_in_the_file_that_it_saves(tmp_path):
    class Mixed(keras.Model):
        def __init__(self):
            super().__init__()
            self.blocks = [keras.layers.Dense(3), [keras.layers.Dense(3)]]
            self.named = {"a": keras.layers.Embedding(5, 2), "b": keras.layers.Conv1D(2, 1)}
            self.lstm = keras.layers.Bidirectional(keras.layers.LSTM(2))
            self.attention = keras.layers.MultiHeadAttention(2, 2)
            self.drop = keras.layers.Dropout(0.5)
            self.scale = self.add_weight(shape=(1,), name="scale")

        def call(self, x):
            x = self.blocks[1][0](self.blocks[0](x))[:, None] + self.named["a"](x[:, :1])[..., :1]
            x = self.named["b"](self.lstm(x)[:, None])
            return self.drop(self.attention(x, x)) * self.scale

    model = Mixed()
    model(keras.ops.ones((2, 4)))
    model.save_weights(tmp_path / "mixed.weights.h5")
    seeds = {id(unwrapped(v)) for v in model.variables if "seed" in v.path}
    own = keras_names.of_model(model)
    with keras_file.opened(tmp_path / "mixed.weights.h5") as found:
        assert {names[0] for key, names in own.items() if key not in seeds} <= set(found.values)
        assert len(own.keys() - seeds) == len({id(unwrapped(v)) for v in model.variables} - seeds)
        for variable in model.variables:
            place, layers = own.get(id(unwrapped(variable)), ("", ""))
            if place:
                assert found.names[layers] == place
                assert (found.values[place].read() == variable.numpy()).all(), variable.path
