"""`initialize_from`: a new run begins with the weights of another run, or of a file of Keras."""

import logging
import shutil

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.checkpoint import state
from tests.conftest import make_strategy
from tests.process import arrays, differing, read_json, steps

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 6)).astype("float32")
TEN, THREE = RNG.integers(0, 10, 24), RNG.integers(0, 3, 24)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(classes):
    return lambda: keras.Sequential(
        [
            keras.layers.Dense(8, "relu", name="stem"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(classes, name="head"),
        ]
    )


class Listed(keras.Model):
    """Not built before its first call; layers in a list, which Keras names by their number."""

    def __init__(self, classes=10):
        super().__init__()
        self.hidden = [keras.layers.Dense(8, "relu"), keras.layers.Dense(8, "relu")]
        self.top = keras.layers.Dense(classes)

    def call(self, x, training=False):
        for layer in self.hidden:
            x = layer(x)
        return self.top(x)


def still():
    return keras.optimizers.SGD(0.0)


def trainer(model, optimizer="adam", loss=LOSS, **more):
    return looplab.Trainer(model, optimizer, loss, **{"execution": "graph", **more})


def fit(one, y=TEN, **more):
    return one.fit(X, y, **{"batch_size": 8, "epochs": 1, "verbose": 0, **more})


def begins_with(source, model=None, y=TEN, **more):
    """The weights that a run begins with, by path: its steps change none of them."""
    one = trainer(model or network(10), still, initialize_from=source, **more)
    fit(one, y, steps=1, epochs=None)
    return weights(one.model)


def weights(model):
    """What is trained of a model, by path."""
    trained = {id(variable) for variable in model.trainable_variables}
    found = state.shortened(state.of_models({"model": model}))
    return {path: variable.numpy() for path, variable in found.items() if id(variable) in trained}


def same(one, other):
    assert one.keys() == other.keys()
    for path in one:
        np.testing.assert_array_equal(one[path], other[path], err_msg=path)


def refused(source, error=looplab.CheckpointError, model=None, y=TEN, **more):
    """What is said of a start that fails; nothing of its models has changed."""
    one = trainer(model or network(10), initialize_from=source, **more)
    one.build(X, y)
    before = {v.path: v.numpy() for v in one.model.variables}
    with pytest.raises(error) as raised:
        fit(one, y)
    same(before, {v.path: v.numpy() for v in one.model.variables})
    return str(raised.value)


def said(caplog):
    return [record.getMessage() for record in caplog.records]


def plan(one, y=TEN):
    return dict(one.rehearse(X, y, batch_size=8).lines)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of ten classes with four checkpoints, of which step 6 is said to be the best; and its trainer."""
    keras.backend.clear_session(free_memory=False)
    run_dir = tmp_path_factory.mktemp("source") / "run"
    one = trainer(network(10), run_dir=run_dir, checkpoint=looplab.CheckpointPolicy(keep_last=9))
    fit(one, epochs=4, validation_data=(X, TEN))
    return run_dir, one


@pytest.fixture(scope="module")
def files(run, tmp_path_factory):
    """The weights of its last step as Keras saves them."""
    folder = tmp_path_factory.mktemp("files")
    model = run[1].model
    model.save_weights(folder / "ten.weights.h5")
    model.save(folder / "ten.keras")
    return folder


# --- what is taken ---------------------------------------------------------------------------------------


@pytest.mark.share(1)
@pytest.mark.parametrize("name", ["ten.weights.h5", "ten.keras"])
def test_a_file_of_keras_gives_all_weights_and_statistics(run, files, name):
    one = trainer(network(10), initialize_from=files / name)
    assert one.evaluate(X, TEN) == run[1].evaluate(X, TEN)
    same(begins_with(str(files / name)), weights(run[1].model))


@pytest.mark.slow
def test_a_run_gives_its_best_checkpoint_and_a_folder_the_one_it_is(run):
    run_dir, _ = run
    best = read_json(run_dir / "outcome.json")["best"]["step"]
    for source, step in ((run_dir, best), (run_dir / "checkpoints/step-00000003", 3)):
        begun, saved = begins_with(source), arrays(run_dir, step)
        same(begun, {path: saved[f"models/model/{path}"] for path in begun})
    one = trainer(network(10), initialize_from=run_dir)
    kept = trainer(network(10), run_dir=run_dir)
    kept.restore("best")
    assert one.evaluate(X, TEN) == kept.evaluate(X, TEN)


@pytest.mark.fault(24)
def test_optimizer_step_and_metrics_begin_anew(run, tmp_path):
    one = trainer(network(10), initialize_from=run[0], run_dir=tmp_path / "new")
    history = fit(one, steps=1, epochs=None)
    other = trainer(network(10))  # with those weights, and an optimizer of its own
    other.restore(read_json(tmp_path / "new/environment.json")["initialized_from"])
    fit(other, steps=1, epochs=None)
    assert (int(one.step.numpy()), history.epoch) == (1, [0])
    for mine, expected in zip(
        one.optimizers["optimizer"].variables, other.optimizers["optimizer"].variables, strict=True
    ):
        np.testing.assert_array_equal(mine.numpy(), expected.numpy(), err_msg=mine.path)
    assert steps(tmp_path / "new") == [1]


@pytest.mark.slow
def test_averages_are_taken_where_the_source_evaluated_with_them(tmp_path):
    def averaging():
        return keras.optimizers.Adam(0.1, use_ema=True, ema_momentum=0.9)

    source = trainer(network(10), averaging, run_dir=tmp_path / "ema")
    fit(source, epochs=2)
    begun = begins_with(tmp_path / "ema")
    with source.averaged_weights():
        same(begun, weights(source.model))
    assert any(not np.array_equal(begun[path], raw) for path, raw in weights(source.model).items())
    one = trainer(network(10), averaging, initialize_from=tmp_path / "ema")
    assert "averages" in plan(one)["first weights"]
    with one.averaged_weights():  # those of the new run begin with them
        same(begun, weights(one.model))


@pytest.mark.share(1)
@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("precision", ["float32", "float64", "mixed_bfloat16", "mixed_float16"])
def test_on_replicas_and_in_each_precision(run, files, replicas, precision):
    for source in (run[0] / "checkpoints/step-00000012", files / "ten.keras"):
        options = {"strategy": make_strategy(replicas), "precision": precision}
        begun = begins_with(source, **options)
        assert {array.dtype.name for array in begun.values()} == {
            "float64" if precision == "float64" else "float32"
        }
        expected = weights(run[1].model)
        same(begun, {path: array.astype(begun[path].dtype) for path, array in expected.items()})


@pytest.mark.slow
def test_a_source_of_several_replicas_gives_one_value_each(tmp_path):
    options = {"strategy": looplab.strategy.simulated(2), "batch_norm": "local"}
    source = trainer(network(10), run_dir=tmp_path / "two", **options)
    fit(source)
    one = trainer(network(10), initialize_from=tmp_path / "two")
    assert one.evaluate(X, TEN)["loss"] == pytest.approx(source.evaluate(X, TEN)["loss"], rel=1e-5)


def test_a_file_whose_layers_have_no_names_is_read_by_their_places(files, run, tmp_path):
    shutil.copy(files / "ten.weights.h5", tmp_path / "old.weights.h5")
    with h5py.File(tmp_path / "old.weights.h5", "r+") as file:
        file.visititems(lambda name, item: [item.attrs.pop(key) for key in list(item.attrs)] and None)
    same(begins_with(tmp_path / "old.weights.h5"), weights(run[1].model))
    model = network(10)()
    model.build((None, 6))
    model.load_weights(tmp_path / "old.weights.h5")  # as Keras itself does
    same(weights(model), weights(run[1].model))


def test_bfloat16_is_read_from_files_of_keras(tmp_path):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(10, name="head", dtype="bfloat16")])
    model.save_weights(tmp_path / "half.weights.h5")
    begun = begins_with(
        tmp_path / "half.weights.h5", lambda: keras.Sequential([keras.layers.Dense(10, name="head")])
    )
    same(begun, {path: tf.cast(value, "float32").numpy() for path, value in weights(model).items()})


@pytest.mark.slow
def test_models_that_are_built_by_their_first_call_get_theirs_then(tmp_path):
    source = trainer(Listed, run_dir=tmp_path / "run")
    fit(source, epochs=2)
    source.model.save_weights(tmp_path / "own.weights.h5")
    for path in (tmp_path / "run", tmp_path / "own.weights.h5"):
        one = trainer(Listed, initialize_from=path)
        assert not one.model.built
        assert one.evaluate(X, TEN) == source.evaluate(X, TEN)
        assert fit(one, batch_size=24).history["loss"][0] == pytest.approx(source.evaluate(X, TEN)["loss"])


class Second(looplab.Trainer):
    """Training calls the first model, prediction the second too."""

    def compute_loss(self, batch, training):
        x, y = batch
        return keras.ops.sparse_categorical_crossentropy(
            y, self.models["first"](x, training=training), from_logits=True
        )

    def predict_step(self, batch):
        return self.models["second"](batch)


class Both(Second):
    def compute_loss(self, batch, training):
        return super().compute_loss(batch, training) + 0.0 * self.models["second"](batch[0])[:, 0]


@pytest.mark.slow
def test_a_model_that_only_prediction_calls_gets_its_weights_then_and_trained_ones_stay(tmp_path):
    options = {"models": {"first": Listed, "second": Listed}, "optimizers": {"first": "adam"}}
    source = Both(**options, run_dir=tmp_path / "both")
    fit(source)
    one = Second(**options, initialize_from=tmp_path / "both")
    fit(one)
    assert not one.models["second"].built
    trained = weights(one.models["first"])
    np.testing.assert_array_equal(one.predict(X), source.predict(X))
    same(weights(one.models["first"]), trained)


# --- what is called otherwise, left out, or missing ------------------------------------------------------


@pytest.mark.fault(21)
def test_a_head_of_another_shape_is_refused_until_it_is_skipped(run, files):
    for source in (run[0], files / "ten.weights.h5", files / "ten.keras"):
        message = refused(source, model=network(3), y=THREE)
        assert "gives 6 of 8 variables a value" in message
        assert "head/kernel: (8, 10) there" in message and ", (8, 3) here" in message
        assert "head/bias: (10,) there" in message
        assert "initialize_from.skip=[head]" in message and "Nothing was taken" in message
        one = trainer(network(3), initialize_from={"path": source, "skip": "head"})
        lines = plan(one, THREE)
        assert lines["first weights"].startswith("6 of 8 variables are those of ")
        assert lines["skipped"] == "2 (skip: head): head/kernel, head/bias"
        assert lines["mismatched"].startswith("head/kernel: (8, 10) there")
        begun = begins_with({"path": source, "skip": ["head"]}, network(3), THREE)
        assert begun["head/kernel"].shape == (8, 3)
    np.testing.assert_array_equal(begun["stem/kernel"], run[1].model.get_layer("stem").kernel)


@pytest.mark.slow
def test_what_is_skipped_keeps_its_own_value_even_where_one_would_fit(run):
    fresh, whole = trainer(network(10)), begins_with(run[0])
    fresh.build(X, TEN)
    begun = begins_with({"path": run[0], "skip": "*/bias"})
    for path, value in begun.items():
        expected = weights(fresh.model) if path.endswith("bias") else whole
        np.testing.assert_array_equal(value, expected[path], err_msg=path)


@pytest.mark.slow
@pytest.mark.fault(22)
def test_what_is_missing_there_is_listed_with_the_nearest_name_until_it_may_be(run, files):
    def longer():
        return keras.Sequential([*network(10)().layers, keras.layers.Dense(10, name="heads")])

    for source in (run[0], files / "ten.keras"):
        message = refused(source, model=longer)
        assert "gives 8 of 10 variables a value" in message
        assert "heads/kernel: (10, 10) here, nothing there" in message
        assert "initialize_from.partial=[heads] (or true)" in message
        for partial in (True, "heads", ["heads/*"]) if source == run[0] else ("heads",):
            one = trainer(longer, initialize_from={"path": source, "partial": partial})
            assert plan(one)["missing"] == "2 (partial): heads/kernel, heads/bias"
        assert "heads/bias" in refused({"path": source, "partial": "heads/kernel"}, model=longer)
    assert "Did you mean 'head/kernel'? (8, 10)" in refused(run[0], model=longer)
    # Values of another shape are not missing.
    assert "(8, 3) here" in refused({"path": run[0], "partial": True}, model=network(3), y=THREE)
    shorter = trainer(
        lambda: keras.Sequential(network(10)().layers[:1]),
        initialize_from=run[0] / "checkpoints/step-00000003",
    )
    assert plan(shorter, TEN % 8)["not taken"].startswith("6 (there only): ")


@pytest.mark.fault(23)
@pytest.mark.parametrize("partial", [False, True])
def test_nothing_that_matches_is_never_a_start(run, files, partial):
    def renamed():
        return keras.Sequential([keras.layers.Dense(8, name="a"), keras.layers.Dense(10, name="b")])

    message = refused({"path": run[0], "partial": partial}, model=renamed)
    assert "gives 0 of 4 variables a value" in message
    assert "the names here are a/kernel, a/bias" in message and "stem/kernel" in message
    message = refused({"path": files / "ten.keras", "partial": partial}, model=lambda: ConvolutionOnly())
    assert "gives 0 of 2 variables a value" in message
    everything = {"path": run[0], "skip": "*"}
    assert "gives 0 of 8" in refused(everything)


class ConvolutionOnly(keras.Model):
    def __init__(self):
        super().__init__()
        self.convolution = keras.layers.Conv1D(10, 6)

    def call(self, x, training=False):
        return self.convolution(x[:, :, None])[:, 0]


def encoder(name):
    return keras.Sequential([keras.layers.Dense(8, "relu"), keras.layers.Dense(4, "relu")], name=name)


class Autoencoder(keras.Model):
    def __init__(self):
        super().__init__()
        self.squeeze, self.stretch = encoder("encoder"), keras.layers.Dense(6, name="decoder")

    def call(self, x, training=False):
        return self.stretch(self.squeeze(x))


class Classifier(keras.Model):
    def __init__(self):
        super().__init__()
        self.features, self.head = encoder("features"), keras.layers.Dense(3, name="head")

    def call(self, x, training=False):
        return self.head(self.features(x))


def functional(inside, name, width):
    def make():
        inputs = keras.Input((6,))
        return keras.Model(inputs, keras.layers.Dense(width, name=name)(encoder(inside)(inputs)))

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "target"),
    [(Autoencoder, Classifier), (functional("encoder", "decoder", 6), functional("features", "head", 3))],
    ids=["subclassed", "functional"],
)
def test_the_encoder_of_an_autoencoder_goes_into_a_classifier(source, target, tmp_path):
    auto = trainer(source, loss="mse", run_dir=tmp_path / "auto")
    fit(auto, X, epochs=2)
    auto.model.save_weights(tmp_path / "auto.weights.h5")
    auto.model.save(tmp_path / "auto.keras")
    inner = next(layer for layer in auto.model.layers if layer.name == "encoder")
    whole, each, some = (
        {"features": "encoder"},
        {"features/*": "encoder/*"},
        {"features/d*e*": "encoder/d*e*"},
    )
    for path, renamed in (
        ("auto", whole),
        ("auto", each),
        ("auto.weights.h5", each),
        ("auto.weights.h5", some),
        ("auto.keras", some),
    ):
        asked = {"path": tmp_path / path, "map": renamed, "partial": "head"}
        one = trainer(target, initialize_from=asked)
        lines = plan(one, THREE)
        assert lines["mapped"].endswith(": 4") and lines["first weights"].startswith("4 of 6")
        mine = next(layer for layer in one.model.layers if layer.name == "features")
        for ours, theirs in zip(mine.get_weights(), inner.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    one = {"features/dense/kernel": "encoder/dense/0", "features": "encoder"}
    plan(
        trainer(target, initialize_from={"path": tmp_path / "auto.keras", "map": one, "partial": True}), THREE
    )


@pytest.mark.slow
def test_a_pattern_of_nothing_is_refused_with_the_nearest(run, files):
    for path in (run[0], files / "ten.keras"):

        def wrong(path=path, **more):
            return refused({"path": path, **more}, looplab.ConfigurationError)

        assert "initialize_from.skip: 'hed' matches no variable" in wrong(skip="hed")
        assert "Did you mean 'head'?" in wrong(partial=["hed"])
        assert "'trunk' matches no variable" in wrong(map={"trunk": "trunks"})
        assert "nothing there is called 'stam'" in wrong(map={"stem": "stam"})
        assert "Did you mean 'stem'?" in wrong(map={"stem": "stam"})
    turned = {"path": run[0], "map": {"stem": "root"}}
    model = lambda: keras.Sequential([keras.layers.Dense(8, name="root"), *network(10)().layers[1:]])  # noqa: E731
    assert "write {root: stem}" in refused(turned, looplab.ConfigurationError, model=model)


@pytest.mark.slow
def test_several_models_and_what_a_trainer_keeps_itself(run, tmp_path):
    class Twins(looplab.Trainer):
        def setup(self):
            with_target = network(10)()
            with_target.build((None, 6))
            self.target = with_target

        def compute_loss(self, batch, training):
            x, y = batch
            values = [
                keras.ops.sparse_categorical_crossentropy(y, model(x, training=training), from_logits=True)
                for model in self.models.values()
            ]
            return sum(values)

        def train_step(self, batch):
            return {
                k: v
                for name in self.optimizers
                for k, v in self.minimize(self.compute_loss, batch, name).items()
            }

    options = {
        "models": {"one": network(10), "two": network(10)},
        "optimizers": {"one": still, "two": still},
    }
    expected = weights(run[1].model)

    def kernel(model):
        return model.get_layer("stem").kernel.numpy()

    folder = run[0] / "checkpoints/step-00000012"
    with pytest.raises(looplab.CheckpointError, match="gives 0 of 16 variables"):
        fit(Twins(**options, initialize_from=folder))
    asked = {"path": folder, "map": {"one/*": "*", "two/*": "*", "trainer/target/*": "*"}}
    twins = Twins(**options, initialize_from=asked, run_dir=tmp_path / "twins")
    fit(twins)
    for model in (twins.models["one"], twins.models["two"], twins.target):
        np.testing.assert_array_equal(kernel(model), expected["stem/kernel"])
    again = Twins(**options, initialize_from=tmp_path / "twins")
    fit(again)
    np.testing.assert_array_equal(kernel(again.models["two"]), kernel(twins.models["two"]))
    assert not np.array_equal(
        kernel(again.target), kernel(twins.target)
    )  # of models alone, if nothing else is said
    single = begins_with({"path": tmp_path / "twins", "map": {"*": "two/*"}})
    np.testing.assert_array_equal(single["stem/kernel"], expected["stem/kernel"])


# --- once, at the start ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_that_began_so_goes_on_exactly_and_says_that_it_does(run, tmp_path, caplog):
    source = tmp_path / "source"
    shutil.copytree(run[0], source)

    def part(name, epochs, **more):
        one = trainer(network(10), run_dir=tmp_path / name, initialize_from=source, **more)
        fit(one, epochs=epochs)
        return one

    part("whole", 2)
    part("parts", 1)
    assert not said(caplog)
    shutil.rmtree(source)  # nobody looks there again
    with caplog.at_level(logging.INFO, "looplab"):
        second = part("parts", 2)
    assert any(
        line.startswith("the run continues; initialize_from was used at its start") for line in said(caplog)
    )
    assert differing(arrays(tmp_path / "whole"), arrays(tmp_path / "parts")) == []
    before = read_json(tmp_path / "whole/environment.json")["initialized_from"]
    assert read_json(tmp_path / "parts/environment.json")["initialized_from"] == before
    assert before.startswith(str(source / "checkpoints/step-"))
    fit(second, epochs=3)  # and in the same process
    with pytest.raises(looplab.ConfigurationError, match="does not exist"):
        trainer(network(10), initialize_from=source, run_dir=tmp_path / "another")


@pytest.mark.slow
def test_a_run_that_began_without_says_that_it_stays_so(run, tmp_path, caplog):
    fit(trainer(network(10), run_dir=tmp_path / "run"))
    before = arrays(tmp_path / "run")
    with caplog.at_level(logging.INFO, "looplab"):
        fit(trainer(network(10), run_dir=tmp_path / "run", initialize_from=run[0]))
    assert any("initialize_from is not used: the run began without it" in line for line in said(caplog))
    assert differing(before, arrays(tmp_path / "run")) == []


def test_a_start_that_is_refused_leaves_a_directory_that_can_be_started(run, tmp_path):
    one = {"run_dir": tmp_path / "run", "initialize_from": run[0]}
    with pytest.raises(looplab.CheckpointError):
        fit(trainer(network(3), **one), THREE)
    outcome = read_json(tmp_path / "run/outcome.json")
    assert (outcome["exit_code"], outcome["status"], steps(tmp_path / "run")) == (3, "failed", [])
    one["initialize_from"] = {"path": run[0], "skip": "head"}
    fit(trainer(network(3), **one), THREE)
    assert steps(tmp_path / "run") == [3]


def test_weights_that_were_restored_by_hand_stay(run):
    one = trainer(network(10), still, initialize_from=run[0] / "checkpoints/step-00000012")
    one.restore(run[0] / "checkpoints/step-00000003")
    fit(one)
    saved = arrays(run[0], 3)
    np.testing.assert_array_equal(one.model.get_layer("stem").kernel, saved["models/model/stem/kernel"])


@pytest.mark.slow
def test_a_model_of_which_a_part_is_built_waits_for_the_rest(tmp_path):
    class Half(looplab.Trainer):
        def predict_step(self, batch):
            return self.model.features(batch)

    source = Half(Classifier, "adam", LOSS, run_dir=tmp_path / "run")
    fit(source, THREE)
    one = Half(Classifier, "adam", LOSS, initialize_from=tmp_path / "run")
    with pytest.raises(looplab.CheckpointError, match=r"Call trainer.build\(training data\) first"):
        one.predict(X)
    one = Half(Classifier, "adam", LOSS, initialize_from=tmp_path / "run")
    one.build(X, THREE)
    np.testing.assert_array_equal(one.predict(X), source.predict(X))
