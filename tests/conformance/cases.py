"""Example trainers of every rung, each small: what all conformance properties are asked of."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.examples import autoencoder, contrastive, forecaster, gan, ppo, reinforce, vae, vq_vae
from looplab.testing.properties import Case

RNG = np.random.default_rng(0)
SIZE, FEATURES, CLASSES = 29, 6, 3
X = RNG.normal(size=(SIZE, FEATURES)).astype("float32")
Y = RNG.integers(0, CLASSES, SIZE)


class Listed(keras.Model):
    """Subclassed, not built before its first call, with layers in a list and in a dict."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.hidden = [keras.layers.Dense(8, "relu"), keras.layers.Dense(8, "relu")]
        self.named = {"norm": keras.layers.BatchNormalization(), "drop": keras.layers.Dropout(dropout)}
        self.top = keras.layers.Dense(CLASSES)

    def call(self, x, training=False):
        for layer in self.hidden:
            x = layer(x)
        x = self.named["drop"](self.named["norm"](x, training=training), training=training)
        return self.top(x)


def scce():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def classifier(dropout, **options):
    return looplab.Trainer(lambda: Listed(dropout), keras.optimizers.AdamW, scce(), ["accuracy"], **options)


class Turns(keras.layers.Layer):
    """Takes as many turns as the example with the most needs; what each comes to is its own."""

    def __init__(self):
        super().__init__()
        self.cell = keras.layers.Dense(5, "tanh")

    def call(self, x, count, training=False):
        assert isinstance(training, bool)
        for turn in tf.range(4):
            goes_on = tf.cast(turn, count.dtype) < count
            if not tf.reduce_any(goes_on):
                break
            x = self.turn(x, goes_on)
        return x

    def turn(self, x, goes_on):
        return tf.where(goes_on, self.cell(x), x)


class Branching(keras.Model):
    """Its call, and that of a layer in it, branch on data in Python, and leave a loop early."""

    turns = Turns

    def __init__(self):
        super().__init__()
        self.first, self.layer, self.top = keras.layers.Dense(5), self.turns(), keras.layers.Dense(CLASSES)

    def call(self, x, training=False):
        h = self.first(x)
        if tf.reduce_any(tf.abs(h) > 1.5):
            h = tf.clip_by_value(h, -1.5, 1.5)
        return self.top(self.layer(h, count=3.0 * tf.abs(x[:, :1]), training=training))


class LoopingTurns(Turns):
    """The same by a `while`, which has no bound."""

    def call(self, x, count, training=False):
        assert isinstance(training, bool)
        while tf.reduce_any(count > 0.0):
            x = self.turn(x, count > 0.0)
            count -= 1.0
        return x


class Looping(Branching):
    """Its loops are as long as the data decides."""

    turns = LoopingTurns


class Contrastive(looplab.Trainer):
    separable = False

    def compute_loss(self, batch, training):
        a, b = (self.model(view, training=training) for view in batch)
        everyone = self.all_gather(b)
        similarity = tf.matmul(a, everyone, transpose_b=True)
        return -tf.reduce_sum(a * b, axis=-1) + tf.reduce_logsumexp(similarity, axis=-1)


class GAN(looplab.Trainer):
    """Two models, two optimizers; the noise comes with the batch."""

    def train_step(self, batch):
        d = self.minimize(self.discriminator_loss, batch, "discriminator")
        g = self.minimize(self.generator_loss, batch, "generator")
        return {**d, **g, "noise": tf.reduce_mean(batch["noise"])}

    def discriminator_loss(self, batch, training):
        fake = self.models["generator"](batch["noise"], training=training)
        judge = self.models["discriminator"]
        real, fake = judge(batch["real"], training=training), judge(fake, training=training)
        return {"real": tf.nn.softplus(-real)[:, 0], "fake": tf.nn.softplus(fake)[:, 0]}

    def generator_loss(self, batch, training):
        fake = self.models["generator"](batch["noise"], training=training)
        return tf.nn.softplus(-self.models["discriminator"](fake, training=training))[:, 0]

    def test_step(self, batch):
        return {"noise": tf.reduce_mean(batch["noise"])}


class Reinforce(looplab.Trainer):
    """Makes its own data, with the policy as it is."""

    def make_batch(self, step):
        rng = np.random.default_rng([7, step])
        states = rng.normal(size=(10 + step % 3, FEATURES)).astype("float32")
        chosen = np.argmax(self.model(states).numpy() + rng.gumbel(size=(len(states), CLASSES)), axis=-1)
        return {"state": states, "action": chosen, "reward": (chosen == 0).astype("float32")}

    def compute_loss(self, batch, training):
        log_policy = tf.nn.log_softmax(self.model(batch["state"], training=training))
        taken = tf.gather(log_policy, batch["action"], batch_dims=1)
        return -taken * (batch["reward"] - 0.5)


class OwnTape(looplab.Trainer):
    """A raw tape, a variable of its own, and a branch on data in the step."""

    def setup(self):
        self.seen = tf.Variable(0, dtype=tf.int64, trainable=False, aggregation=tf.VariableAggregation.SUM)
        self.slow = {
            "mean": [
                tf.Variable(tf.zeros([CLASSES]), trainable=False, aggregation=tf.VariableAggregation.MEAN)
            ]
        }

    def train_step(self, batch):
        x, y = batch
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            logits = self.model(x, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
            total = tf.reduce_sum(losses)
        count = tf.cast(tf.shape(x)[0], tf.float32)
        self.apply_gradients(tape.gradient(total, variables), variables, weight=count)
        self.seen.assign_add(tf.shape(x, out_type=tf.int64)[0])
        if tf.reduce_mean(losses) > 1e9:
            total = -total
        return {"loss": total / tf.maximum(count, 1)}


def two_headed():
    a, b = keras.Input((FEATURES,), name="a"), keras.Input((2,), name="b")
    shared = keras.layers.Dense(5, "tanh")
    joined = keras.layers.Concatenate()([shared(a), keras.layers.Dense(3)(b)])
    return keras.Model(
        {"a": a, "b": b},
        {"class": keras.layers.Dense(CLASSES)(joined), "size": keras.layers.Dense(1)(joined)},
    )


def recurrent():
    return keras.Sequential(
        [keras.layers.Embedding(11, 4, mask_zero=True), keras.layers.LSTM(5), keras.layers.Dense(CLASSES)]
    )


TOKENS = RNG.integers(0, 11, (SIZE, 7))
TARGETS = {"class": Y, "size": X[:, :1]}
HEADS = ({"a": X, "b": X[:, :2]}, TARGETS)


WAVE = np.sin(np.arange(60) * 2 * np.pi / 11).astype("float32")
WINDOWS = tuple(np.stack([WAVE[i + a : i + b] for i in range(SIZE)]) for a, b in ((0, 12), (12, 14)))
DIGITS = tuple(part[:SIZE] for part in looplab.data.digits()["train"])
IMAGES = {"x": DIGITS, "batch_size": 8, "epochs": 3, "validation_data": DIGITS}


def stream(batch=8):
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(batch)


PICTURES = RNG.uniform(size=(SIZE, 6, 6, 1)).astype("float32")


class Noisy(looplab.Trainer):
    """Draws noise in the step from seed and step, and numbers without a seed, which all rows share."""

    def train_step(self, batch):
        inputs, labels = batch
        seed = [self.seed, tf.cast(self.step, tf.int32)]
        noise = tf.random.stateless_normal(tf.shape(inputs), seed, dtype=inputs.dtype)
        shared = keras.random.uniform((FEATURES,), dtype=inputs.dtype)
        return self.minimize(self.compute_loss, (inputs + 0.1 * noise + shared, labels))


def augmented():
    layers = [
        keras.layers.RandomFlip(),
        keras.layers.RandomTranslation(0.2, 0.2),
        keras.layers.RandomContrast(0.3),
        keras.layers.Flatten(),
        keras.layers.Dense(CLASSES),
    ]
    return keras.Sequential([keras.Input((6, 6, 1)), *layers])


class SmallVAE(looplab.Trainer):
    """Draws a code for each row, in training and in evaluation."""

    def setup(self):
        self.seeds = keras.random.SeedGenerator(self.seed)

    def compute_loss(self, batch, training):
        mean, spread = tf.split(self.models["encoder"](batch, training=training), 2, axis=-1)
        draw = keras.random.normal(tf.shape(mean), seed=self.seeds, dtype=mean.dtype)
        found = self.models["decoder"](mean + tf.exp(0.5 * spread) * draw, training=training)
        divergence = -0.5 * (1 + spread - mean**2 - tf.exp(spread))
        return {
            "reconstruction": tf.reduce_sum((found - batch) ** 2, axis=-1),
            "divergence": tf.reduce_sum(divergence, axis=-1),
        }


class Diffusion(looplab.Trainer):
    """Draws a time and noise for each row."""

    def setup(self):
        self.seeds = keras.random.SeedGenerator(self.seed)

    def compute_loss(self, batch, training):
        rows = tf.shape(batch)[0]
        time = keras.random.randint([rows, 1], 1, 10, seed=self.seeds)
        share = tf.cast(time, batch.dtype) / 10
        noise = keras.random.normal(tf.shape(batch), seed=self.seeds, dtype=batch.dtype)
        mixed = tf.sqrt(1 - share) * batch + tf.sqrt(share) * noise
        found = self.model(tf.concat([mixed, share], axis=-1), training=training)
        return tf.reduce_mean((found - noise) ** 2, axis=-1)


CASES: dict[str, Case] = {
    "classifier": Case(
        lambda **o: classifier(0.0, **o),
        {"x": X, "y": Y, "batch_size": 8, "epochs": 3, "validation_data": (X, Y)},
        whole=True,
    ),
    "dropout": Case(
        lambda **o: classifier(0.5, **o),
        {"x": X, "y": Y, "batch_size": 8, "epochs": 3, "validation_data": (X, Y)},
        random=True,
        whole=True,
    ),
    "branching": Case(
        lambda **o: looplab.Trainer(Branching, "sgd", scce(), **o),
        {"x": (X, Y, np.abs(X[:, 0])), "batch_size": 9, "epochs": 3},
    ),
    "looping": Case(
        lambda **o: looplab.Trainer(Looping, "sgd", scce(), ["accuracy"], **o),
        {"x": X, "y": Y, "batch_size": 8, "epochs": 3, "validation_data": (X, Y)},
        xla_ops=False,  # the gradient of a loop without a bound does not compile
    ),
    "contrastive": Case(
        lambda **o: Contrastive(lambda: keras.Sequential([keras.layers.Dense(4)]), "rmsprop", **o),
        {"x": (X, X + 0.1), "batch_size": 8, "epochs": 3, "validation_data": (X, X)},
        xla=False,  # collectives do not compile
        whole=True,
    ),
    "gan": Case(
        lambda **o: GAN(
            models={
                "generator": lambda: keras.Sequential([keras.layers.Dense(FEATURES)]),
                "discriminator": lambda: keras.Sequential(
                    [keras.layers.Dense(4, "tanh", kernel_regularizer="l2"), keras.layers.Dense(1)]
                ),
            },
            optimizers={"generator": "adam", "discriminator": lambda: keras.optimizers.Adam(0.01)},
            **o,
        ),
        {
            "x": {"real": X, "noise": X[:, ::-1].copy()},
            "batch_size": 8,
            "epochs": 3,
            "validation_data": {"real": X, "noise": X[:, ::-1].copy()},
        },
    ),
    "reinforce": Case(
        lambda **o: Reinforce(lambda: keras.Sequential([keras.layers.Dense(CLASSES)]), "sgd", **o),
        {"epochs": 3, "steps_per_epoch": 4},
    ),
    "own tape": Case(
        lambda **o: OwnTape(lambda: keras.Sequential([keras.layers.Dense(CLASSES)]), "adam", **o),
        {"x": (X, Y), "batch_size": 8, "epochs": 3},
        whole=True,
    ),
    "two heads": Case(
        lambda **o: looplab.Trainer(
            two_headed,
            "adam",
            {"class": scce(), "size": "mse"},
            {"class": ["accuracy"], "size": ["mae"]},
            **o,
        ),
        {"x": HEADS, "batch_size": 8, "epochs": 3, "validation_data": HEADS},
    ),
    "recurrent": Case(
        lambda **o: looplab.Trainer(recurrent, "adam", scce(), ["accuracy"], **o),
        {"x": (TOKENS, Y), "batch_size": 8, "epochs": 3},
    ),
    "stream": Case(
        # SGD, and an order in which no pre-activation is a zero that rounding may give either sign.
        lambda **o: looplab.Trainer(lambda: Listed(0.0), "sgd", scce(), ["accuracy"], **o),
        lambda: {
            "x": stream().unbatch().shuffle(SIZE, seed=1).batch(7),
            "epochs": 3,
            "validation_data": stream(),
        },
        whole=True,
    ),
    "example reinforce": Case(
        lambda **o: reinforce.Reinforce(lambda: reinforce.Policy(8), "adam", episodes=5, **o),
        {"epochs": 3, "steps_per_epoch": 4},
    ),
    "example ppo": Case(
        lambda **o: ppo.PPO(lambda: ppo.ActorCritic(8), "sgd", games=2, rollout=48, passes=1, **o),
        {"epochs": 3, "steps_per_epoch": 4},
    ),
    "example forecaster": Case(
        lambda **o: forecaster.Forecast(lambda: forecaster.Forecaster(2, units=4), "adam", "mae", **o),
        {"x": WINDOWS, "batch_size": 8, "epochs": 3, "validation_data": WINDOWS},
    ),
    "example contrastive": Case(
        lambda **o: contrastive.MomentumContrast(
            lambda: contrastive.Encoder(filters=[8], dimension=4),
            lambda: keras.optimizers.SGD(1.0),  # its gradients are small
            momentum=0.9,
            **o,
        ),
        IMAGES,
        random=True,
        xla_ops=False,  # the random views move pixels
    ),
    "example wgan_gp": Case(
        lambda **o: gan.WGANGP(
            models={"generator": lambda: gan.Generator(3, 4), "critic": lambda: gan.Critic(4, 0.3)},
            optimizers={"generator": "sgd", "critic": "sgd"},
            critic_steps=2,
            **o,
        ),
        IMAGES,
        random=True,
    ),
    "example vae": Case(
        lambda **o: vae.VAE(lambda: vae.Autoencoder(2, 4), lambda: keras.optimizers.SGD(1e-3), **o),
        IMAGES,
        random=True,
    ),
}

CASES |= {
    "noise": Case(
        lambda **o: Noisy(lambda: keras.Sequential([keras.layers.Dense(CLASSES)]), "adam", scce(), **o),
        {"x": X, "y": Y, "batch_size": 8, "epochs": 3, "validation_data": (X, Y)},
        random=True,
    ),
    "augmentation": Case(
        lambda **o: looplab.Trainer(augmented, "sgd", scce(), ["accuracy"], **o),
        {"x": PICTURES, "y": Y, "batch_size": 8, "epochs": 3},
        random=True,
        xla_ops=False,  # images are moved by an operation that XLA does not have
    ),
    "small vae": Case(
        lambda **o: SmallVAE(
            models={
                "encoder": lambda: keras.Sequential([keras.layers.Dense(4)]),
                "decoder": lambda: keras.Sequential([keras.layers.Dense(FEATURES)]),
            },
            optimizer="adam",
            **o,
        ),
        {"x": X, "batch_size": 8, "epochs": 3, "validation_data": X},
        random=True,
    ),
    "diffusion": Case(
        lambda **o: Diffusion(lambda: keras.Sequential([keras.layers.Dense(FEATURES)]), "adam", **o),
        {"x": X, "batch_size": 8, "epochs": 3},
        random=True,
    ),
}

# The tiny case of each family of models, which goes through three properties in the ordinary suite.
FAMILIES = {
    "autoencoder": Case(
        lambda **o: autoencoder.Denoiser(lambda: autoencoder.Autoencoder(2, 4), "adam", **o),
        IMAGES,
        random=True,
    ),
    "vq_vae": Case(
        lambda **o: vq_vae.Codebook(lambda: vq_vae.VQVAE(2, 8, 3, width=4), "adam", **o),
        IMAGES,
        random=True,
    ),
}
CASES |= FAMILIES

# All of them, of which the shipped examples, which are large, are no part of the ordinary suite.
SMALL = [pytest.param(name, marks=pytest.mark.slow if name.startswith("example") else ()) for name in CASES]
