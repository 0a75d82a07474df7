"""Several models: which optimizer trains which, what is said of those that none trains, and shared layers."""

import keras
import numpy as np
import pytest

import looplab

X = np.random.default_rng(0).normal(size=(12, 3))


class Autoencoder(looplab.Trainer):
    """Says nothing of what is trained."""

    def compute_loss(self, batch, training):
        code = self.models["encoder"](batch, training=training)
        return keras.ops.mean((self.models["decoder"](code, training=training) - batch) ** 2, axis=-1)


def dense(units, seed, **more):
    def make():
        init = keras.initializers.GlorotUniform(seed)
        return keras.Sequential([keras.layers.Dense(units, kernel_initializer=init, **more)])

    return make


MODELS = {"encoder": dense(2, 1), "decoder": dense(3, 2)}


def momentum():
    return keras.optimizers.SGD(0.125, momentum=0.5)  # numbers that float32 holds, as Keras keeps them


def fit(models=MODELS, trainer=Autoencoder, **options):
    made = trainer(models=models, precision="float64", execution="graph", **options)
    made.fit(X, batch_size=4, epochs=3, shuffle=False, verbose=0)
    return made


@pytest.fixture(scope="module")
def expected():
    """The weights of one model of both, as Keras trains it."""
    with looplab.strategy.precision.scope("float64"):
        inputs = keras.Input((3,))
        both = keras.Model(inputs, MODELS["decoder"]()(MODELS["encoder"]()(inputs)))
        both.compile(momentum(), "mse", run_eagerly=True)
        both.fit(X, X, batch_size=4, epochs=3, shuffle=False, verbose=0)
        return both.get_weights()


@pytest.mark.share(1)
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"optimizer": momentum}, marks=pytest.mark.slow),  # on two replicas: the same, and more
        {"optimizer": momentum, "strategy": looplab.strategy.simulated(2)},
        {"optimizers": {"both": (momentum, ["encoder", "decoder"])}},
        {"optimizers": {"both": [momentum, ["decoder", "encoder"]]}, "micro_batches": 2},
    ],
    ids=["one", "two replicas", "a pair", "a list, micro-batches"],
)
def test_one_optimizer_trains_all_models(options, expected):
    trainer = fit(**options)
    weights = [array for name in MODELS for array in trainer.models[name].get_weights()]
    for own, keras_own in zip(weights, expected, strict=True):
        np.testing.assert_allclose(own, keras_own, rtol=0, atol=1e-12)
    assert trainer.optimizer is next(iter(trainer.optimizers.values()))


def test_a_list_alone_names_an_optimizer_of_keras():
    trainer = fit(optimizers={"adam": ["encoder", "decoder"]})
    assert isinstance(trainer.optimizer, keras.optimizers.Adam)


@pytest.mark.parametrize("of_keras", [True, False])
def test_what_nothing_trains_is_named_and_the_table_shows_it(of_keras, capsys):
    optimizers = {"adam": ["encoder"]} if of_keras else {"encoder": "adam"}

    class One(Autoencoder):
        def train_step(self, batch):
            return self.minimize(self.compute_loss, batch, "adam" if of_keras else "encoder")

    frozen = dense(3, 2)()
    trainer = One(models={"encoder": MODELS["encoder"], "decoder": frozen}, optimizers=optimizers)
    trainer.fit(X.astype("float32"), batch_size=4, verbose=2)
    said = capsys.readouterr().out
    assert "nothing trains the model 'decoder'" in said and "model 'encoder'" not in said
    rows = [line.split() for line in said.splitlines() if "Dense" in line or line.startswith("total")]
    assert [(row[-4], row[-3]) for row in rows] == [("8", "8"), ("9", "0"), ("17", "8")]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"adam": ["encoder", "decodr"]}, "'decodr'.*Did you mean 'decoder'"),
        ({"adam": []}, "name each model once"),
        ({"adam": ["encoder", "encoder"]}, "name each model once"),
        ({"both": ("adam", [])}, "name each model once"),
        ({"both": ("adam", ["encoder"], ["decoder"])}, "no such model"),
        ({"both": ["encoder", "decoder"]}, "'both' is not a Keras optimizer"),
        ({"both": "adam"}, "none trains|there is none.*'both'"),
    ],
)
def test_a_list_of_models_that_cannot_be_is_refused(given, says):
    with pytest.raises(looplab.ConfigurationError, match=f"(?s){says}"):
        fit(optimizers=given)


def test_the_defaults_that_call_one_model_say_so():
    trainer = looplab.Trainer(models=MODELS, optimizer="adam", loss="mse")
    with pytest.raises(looplab.ConfigurationError, match="override compute_loss"):
        trainer.fit(X, X, verbose=0)
    with pytest.raises(looplab.ConfigurationError, match="override predict_step"):
        fit(optimizer="adam").predict(X)


def test_the_only_optimizer_is_that_of_trainer_optimizer():
    with pytest.raises(looplab.ConfigurationError, match="several optimizers"):
        _ = Autoencoder(models=MODELS, optimizers={"encoder": "sgd", "decoder": "sgd"}).optimizer
    with pytest.raises(looplab.ConfigurationError, match="has no optimizer"):
        _ = Autoencoder(models=MODELS).optimizer


@pytest.mark.slow
def test_the_penalty_of_a_layer_that_models_share_counts_once():
    """An encoder beside the whole: the update and what is shown are those of the whole alone."""

    def models():
        inputs = keras.Input((3,))
        code = keras.layers.Dense(
            2, kernel_regularizer="l2", kernel_initializer="ones", activity_regularizer="l2"
        )
        encoder = keras.Model(inputs, code(inputs))
        return encoder, keras.Model(inputs, keras.layers.Dense(3, kernel_initializer="ones")(code(inputs)))

    class Whole(looplab.Trainer):
        def compute_loss(self, batch, training):
            return keras.ops.mean((self.models["whole"](batch, training=training) - batch) ** 2, axis=-1)

    found = []
    for shared in (True, False):
        with looplab.strategy.precision.scope("float64"):
            encoder, whole = models()
        given = {"encoder": encoder, "whole": whole} if shared else {"whole": whole}
        trainer = fit(given, Whole, optimizer=momentum)
        found.append([*trainer.evaluate(X, batch_size=4).values(), *whole.get_weights()])
    for own, alone in zip(*found, strict=True):
        np.testing.assert_allclose(own, alone, rtol=0, atol=1e-12)
