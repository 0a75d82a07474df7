"""Layers that the backward pass computes again: the same training, with less to keep."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import looplab
from looplab.errors import ConfigurationError, LossError
from looplab.execution import flops, memory
from looplab.execution.recompute import Chosen, Saved
from tests.conftest import make_strategy

ROWS = np.random.default_rng(0).normal(size=(14, 6, 4))
WORDS = np.random.default_rng(1).integers(0, 3, (14, 6))  # 0 is masked
TARGETS = ROWS[:, 0, :1] ** 2
CALLS = []  # of blocks


class Block(layers.Layer):
    """Counts its calls; inner layers inherit `training` and masks from the call around it."""

    def __init__(self, kind, **given):
        super().__init__(**given)
        self.kind, self.supports_masking = kind, True
        self.inner = KINDS[kind][1]()

    def call(self, x):
        CALLS.append(self.name)
        return self.compute(x)

    def compute(self, x):
        for layer in self.inner:
            x = layer(x)
        return x


class Noisy(Block):
    def __init__(self, kind, **given):
        super().__init__(kind, **given)
        self.seeds = keras.random.SeedGenerator(7)

    def compute(self, x):
        if self.kind != "no seed":
            x += keras.random.normal(ops.shape(x), seed=self.seeds, dtype=x.dtype)
        else:
            x += keras.random.normal(ops.shape(x), dtype=x.dtype)
        return super().compute(x)


class Losing(Block):
    def compute(self, x):
        x = super().compute(x)
        self.add_loss(ops.mean(x**2))
        return x


class Attending(Block):
    def compute(self, x):
        (layer,) = self.inner
        return x + layer(x, x, use_causal_mask=True)


class Paired(Block):
    """Returns several things, of which some have no gradient."""

    def compute(self, x):
        return {"x": super().compute(x), "count": ops.cast(ops.ones_like(x), "int32")}


def _dense():
    return layers.Dense(4, "tanh")


KINDS = {
    "dropout": (Block, lambda: [_dense(), layers.Dropout(0.5), _dense()]),
    "moving statistics": (Block, lambda: [_dense(), layers.BatchNormalization(), layers.GaussianNoise(0.3)]),
    "own seeds": (Noisy, lambda: [_dense()]),
    "no seed": (Noisy, lambda: [_dense()]),
    "added losses": (Losing, lambda: [layers.Dense(4, "tanh", activity_regularizer="l2")]),
    "attention": (Attending, lambda: [layers.MultiHeadAttention(2, 2, dropout=0.3)]),
    "recurrent": (Block, lambda: [layers.SimpleRNN(4, return_sequences=True, recurrent_dropout=0.2)]),
    "several results": (Paired, lambda: [_dense(), layers.SpatialDropout1D(0.3)]),
    "functional": (
        Block,
        lambda: [keras.Sequential([keras.Input((6, 4)), _dense(), layers.AlphaDropout(0.2)])],
    ),
    "shared": (Block, lambda: [shared := _dense(), layers.Dropout(0.2), shared]),
    "no weights": (Block, lambda: [layers.GaussianDropout(0.3), layers.Activation("tanh")]),
}

WAYS = {
    "graph": {},
    "two replicas": {"strategy": 2},
    "two micro-batches": {"micro_batches": 2},
    "eager": {"run_eagerly": True},
    "xla_step": {"execution": "xla_step"},
    "xla_loop": {"execution": "xla_loop"},
    "two replicas in XLA": {"strategy": 2, "execution": "xla_step", "batch_norm": "local"},
}


def model(kind):
    made = KINDS[kind][0]
    words = keras.Input((6,), dtype="int32")
    x = layers.Embedding(3, 4, mask_zero=True)(words)
    for number in range(2):
        x = made(kind, name=f"block_{number}")(x)
        x = x["x"] if isinstance(x, dict) else x
    return keras.Model(words, layers.Dense(1, name="top")(layers.GlobalAveragePooling1D()(x)))


def trained(kind, *, trainer=looplab.Trainer, precision="float64", strategy=1, **options):
    CALLS.clear()
    options = {"execution": "graph"} | options
    if options.get("run_eagerly"):
        del options["execution"]
    made = trainer(
        lambda: model(kind),
        "adam",
        "mse",
        precision=precision,
        seed=3,
        strategy=make_strategy(strategy),
        **options,
    )
    losses = made.fit(WORDS, TARGETS, batch_size=7, epochs=1, verbose=0).history["loss"]
    return losses, [np.asarray(v) for v in made.model.variables], len(CALLS)


def same(kind, tolerance=1e-12, **options):
    """Trains with and without; returns how many more calls of blocks were traced or run."""
    losses, values, once = trained(kind, **options)
    others, again, twice = trained(kind, recompute="block_*", **options)
    np.testing.assert_allclose(others, losses, rtol=tolerance, atol=tolerance)
    for value, other in zip(values, again, strict=True):
        np.testing.assert_allclose(other, value, rtol=tolerance, atol=tolerance)
    assert twice > once  # otherwise nothing was computed again
    return twice - once


@pytest.mark.share(2)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_a_layer_that_is_computed_again_trains_as_without(kind, way):
    same(kind, **WAYS[way])


class OwnTape(looplab.Trainer):
    def train_step(self, batch):
        x, y = batch[:2]
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum((self.model(x, training=True) - y) ** 2)
        weight = tf.cast(tf.shape(x)[0], loss.dtype)
        variables = self.model.trainable_variables
        self.apply_gradients(tape.gradient(loss, variables), variables, weight=weight)
        return {"loss": loss / weight}


def test_a_step_with_a_tape_of_its_own_does_it_too():
    assert same("dropout", trainer=OwnTape) == 2  # blocks in one trace


@pytest.mark.share(1)
@pytest.mark.parametrize(
    "precision",
    ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)],
)
def test_it_computes_in_the_dtypes_of_the_layer(precision):
    same("dropout", tolerance=1e-6, precision=precision)


@pytest.mark.slow
def test_layers_inside_each_other_are_computed_again_once():
    _, _, outer = trained("functional", recompute=["block_*", "block_*/*"])
    assert outer == trained("functional", recompute="block_*")[2]


@pytest.mark.slow
def test_a_run_goes_on_exactly_and_may_do_without(tmp_path):
    def run(epochs, run_dir=None, **options):
        made = looplab.Trainer(
            lambda: model("dropout"),
            "adam",
            "mse",
            precision="float64",
            seed=3,
            execution="graph",
            run_dir=run_dir,
            **options,
        )
        made.fit(WORDS, TARGETS, batch_size=7, epochs=epochs, verbose=0)
        return [np.asarray(v) for v in made.model.variables]

    whole = run(2)
    run(1, tmp_path / "run", recompute="block_0")
    for value, other in zip(run(2, tmp_path / "run"), whole, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-12, atol=1e-12)


class Tied(layers.Layer):
    """Has the weights of another layer, which are in both gradients."""

    def __init__(self, other, **given):
        super().__init__(**given)
        self._others = (other,)  # which Keras does not track

    def call(self, x):
        return ops.tanh(ops.matmul(x, self._others[0].kernel))


class TwoModels(looplab.Trainer):
    def compute_loss(self, batch, training):
        x, y = batch[:2]
        return (self.models["head"](self.models["body"](x, training=training))[:, 0] - y[:, 0]) ** 2


@pytest.mark.parametrize("strategy", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_weights_of_another_layer_and_whole_models_are_computed_again_too(strategy):
    def body():
        first = layers.Dense(4, use_bias=False)
        made = [first, Tied(first, name="tied"), layers.Dropout(0.3), layers.GlobalAveragePooling1D()]
        return keras.Sequential([keras.Input((6, 4)), *made])

    def values(**options):
        made = TwoModels(
            models={"body": body, "head": lambda: keras.Sequential([keras.Input((4,)), layers.Dense(1)])},
            optimizer="adam",
            precision="float64",
            execution="graph",
            strategy=make_strategy(strategy),
            **options,
        )
        made.fit(ROWS, TARGETS, batch_size=7, epochs=1, verbose=0)
        return [np.asarray(v) for own in made.models.values() for v in own.variables]

    whole = values()
    for recompute in ("body/tied", "body", ["body/*", "head"]):
        for value, other in zip(values(recompute=recompute), whole, strict=True):
            np.testing.assert_allclose(value, other, rtol=1e-12, atol=1e-12)


class Counting(Block):
    """Counts its calls in a variable of somebody else."""

    other = None

    def compute(self, x):
        type(self).other.assign_add(1)
        return x


class Holding(looplab.Trainer):
    def setup(self):
        self.count = Counting.other


def test_a_variable_of_somebody_else_is_not_changed_twice_in_silence(monkeypatch):
    monkeypatch.setitem(KINDS, "other", (Counting, list))
    monkeypatch.setattr(Counting, "other", keras.Variable(0, trainable=False, dtype="int32"))
    with pytest.raises(LossError, match=r"recompute: the layer 'block_0' changes a variable .* not its own"):
        trained("other", trainer=Holding, recompute="block_*")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("blok_0", r"recompute: 'blok_0' matches no layer; there are .*Did you mean 'block_0'\?"),
        (["block_*", "tail"], "recompute: 'tail' matches no layer"),
        (None, "recompute: expected patterns of layers .*; got None"),
        (["block_0", 3], r"recompute: expected patterns .*; got \['block_0', 3\]"),
        ("", "recompute: expected patterns"),
    ],
)
def test_what_cannot_be_meant_is_refused(given, message):
    with pytest.raises(ConfigurationError, match=message):
        trained("dropout", recompute=given)


def test_a_rehearsal_shows_what_is_saved_and_what_it_costs():
    """By hand: of a block all is freed but its result, and of two blocks one is held at a time."""

    def lines(**options):
        options = {"execution": "graph", "strategy": make_strategy(2)} | options
        made = looplab.Trainer(lambda: model("dropout"), "sgd", "mse", **options)
        return dict(made.rehearse(WORDS, TARGETS, batch_size=14).lines)

    before, after = lines(), lines(recompute="block_*")
    assert after["recompute"] == "block_*: 2 layers are computed again in the backward pass"
    assert "recompute" not in before and "recompute keeps" not in before["memory"]
    # Four products of 7 x 6 rows, 4 x 4 each; one of 7 rows, 4 x 1. Each forward, for inputs, for weights.
    again, whole = 4 * 2 * 7 * 6 * 4 * 4, 3 * (4 * 2 * 7 * 6 * 4 * 4 + 2 * 7 * 4)
    assert f"for {again / whole:.0%} more products in a step" in after["memory"]
    assert "recompute keeps" in after["memory"]


def test_the_sums_are_those_of_the_layers():
    chosen = Chosen({}, [Saved(100, 10.0), Saved(300, 20.0)])
    assert (chosen.freed, chosen.less) == (400, 100)
    assert chosen.again(150.0) == ", for 25% more products in a step"
    assert chosen.again(None) == Chosen({}, [Saved(1, None)]).again(3.0) == ""
    with tf.Graph().as_default() as graph:
        a = tf.ones([2, 3]) @ tf.ones([3, 5])
        operations = [own for own in graph.get_operations() if own.type == "MatMul"]
        assert flops.of_operations(graph, operations) == 2 * 2 * 3 * 5
        assert memory.of_operations(graph, operations).size == 2 * 5 * a.dtype.size
