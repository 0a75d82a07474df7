"""Models in the style of keras.io's generative and self-supervised guides, with Keras' own steps; small."""

import keras
import tensorflow as tf
from keras import layers, ops


class Sampling(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(7)

    def call(self, inputs):
        mean, log_var = inputs
        noise = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
        return mean + ops.exp(0.5 * log_var) * noise


class VAE(keras.Model):
    """train_step with loss trackers, of which `metrics` tells."""

    def __init__(self):
        super().__init__()
        image = keras.Input((6,))
        hidden = layers.Dense(5, activation="tanh")(image)
        mean, log_var = layers.Dense(2)(hidden), layers.Dense(2)(hidden)
        self.encoder = keras.Model(image, [mean, log_var, Sampling()([mean, log_var])])
        latent = keras.Input((2,))
        self.decoder = keras.Model(latent, layers.Dense(6, activation="sigmoid")(latent))
        self.total_loss_tracker = keras.metrics.Mean(name="loss")
        self.reconstruction_loss_tracker = keras.metrics.Mean(name="reconstruction_loss")
        self.kl_loss_tracker = keras.metrics.Mean(name="kl_loss")

    @property
    def metrics(self):
        return [self.total_loss_tracker, self.reconstruction_loss_tracker, self.kl_loss_tracker]

    def call(self, inputs):
        return self.decoder(self.encoder(inputs)[2])

    def train_step(self, data):
        with tf.GradientTape() as tape:
            mean, log_var, latent = self.encoder(data)
            reconstruction = ops.mean(ops.sum((data - self.decoder(latent)) ** 2, axis=1))
            kl = -0.5 * ops.mean(ops.sum(1 + log_var - mean**2 - ops.exp(log_var), axis=1))
            total = reconstruction + kl
        grads = tape.gradient(total, self.trainable_weights)
        self.optimizer.apply_gradients(zip(grads, self.trainable_weights, strict=True))
        self.total_loss_tracker.update_state(total)
        self.reconstruction_loss_tracker.update_state(reconstruction)
        self.kl_loss_tracker.update_state(kl)
        return {m.name: m.result() for m in self.metrics}


def vae():
    model = VAE()
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    return model


class GAN(keras.Model):
    """Two optimizers that its own compile takes; Keras' own, which compile makes, is never used."""

    def __init__(self):
        super().__init__()
        self.discriminator = keras.Sequential([keras.Input((6,)), layers.Dense(8, "relu"), layers.Dense(1)])
        self.generator = keras.Sequential([keras.Input((3,)), layers.Dense(8, "relu"), layers.Dense(6)])
        self.latent_dim = 3
        self.seed_generator = keras.random.SeedGenerator(1337)

    def compile(self, d_optimizer, g_optimizer, loss_fn):
        super().compile()
        self.d_optimizer, self.g_optimizer, self.loss_fn = d_optimizer, g_optimizer, loss_fn
        self.d_loss_metric = keras.metrics.Mean(name="d_loss")
        self.g_loss_metric = keras.metrics.Mean(name="g_loss")

    @property
    def metrics(self):
        return [self.d_loss_metric, self.g_loss_metric]

    def train_step(self, real):
        count = ops.shape(real)[0]
        noise = keras.random.normal((count, self.latent_dim), seed=self.seed_generator)
        both = ops.concatenate([self.generator(noise), real], axis=0)
        labels = ops.concatenate([ops.ones((count, 1)), ops.zeros((count, 1))], axis=0)
        labels += 0.05 * keras.random.uniform(ops.shape(labels), seed=self.seed_generator)
        with tf.GradientTape() as tape:
            d_loss = self.loss_fn(labels, self.discriminator(both))
        grads = tape.gradient(d_loss, self.discriminator.trainable_weights)
        self.d_optimizer.apply_gradients(zip(grads, self.discriminator.trainable_weights, strict=True))

        noise = keras.random.normal((count, self.latent_dim), seed=self.seed_generator)
        with tf.GradientTape() as tape:
            g_loss = self.loss_fn(ops.zeros((count, 1)), self.discriminator(self.generator(noise)))
        grads = tape.gradient(g_loss, self.generator.trainable_weights)
        self.g_optimizer.apply_gradients(zip(grads, self.generator.trainable_weights, strict=True))
        self.d_loss_metric.update_state(d_loss)
        self.g_loss_metric.update_state(g_loss)
        return {"d_loss": self.d_loss_metric.result(), "g_loss": self.g_loss_metric.result()}


def gan():
    model = GAN()
    schedule = keras.optimizers.schedules.ExponentialDecay(0.01, 2, 0.5)
    model.compile(
        d_optimizer=keras.optimizers.Adam(schedule),
        g_optimizer=keras.optimizers.Adam(0.003),
        loss_fn=keras.losses.BinaryCrossentropy(from_logits=True),
    )
    return model


class WGAN(keras.Model):
    """Several critic steps with a gradient penalty; returns the losses of the step, and no metric."""

    def __init__(self, discriminator_extra_steps=2, gp_weight=10.0):
        super().__init__()
        self.discriminator = keras.Sequential([keras.Input((6,)), layers.Dense(8, "tanh"), layers.Dense(1)])
        self.generator = keras.Sequential([keras.Input((3,)), layers.Dense(8, "relu"), layers.Dense(6)])
        self.latent_dim, self.d_steps, self.gp_weight = 3, discriminator_extra_steps, gp_weight
        self.seed_generator = keras.random.SeedGenerator(3)

    def compile(self, d_optimizer, g_optimizer, d_loss_fn, g_loss_fn):
        super().compile()
        self.d_optimizer, self.g_optimizer = d_optimizer, g_optimizer
        self.d_loss_fn, self.g_loss_fn = d_loss_fn, g_loss_fn

    def gradient_penalty(self, count, real, fake):
        alpha = keras.random.uniform((count, 1), seed=self.seed_generator)
        between = real + alpha * (fake - real)
        with tf.GradientTape() as tape:
            tape.watch(between)
            judged = self.discriminator(between, training=True)
        grads = tape.gradient(judged, [between])[0]
        return ops.mean((ops.sqrt(ops.sum(grads**2, axis=1)) - 1.0) ** 2)

    def train_step(self, real):
        if isinstance(real, tuple):
            real = real[0]
        count = ops.shape(real)[0]
        for _ in range(self.d_steps):
            noise = keras.random.normal((count, self.latent_dim), seed=self.seed_generator)
            with tf.GradientTape() as tape:
                fake = self.generator(noise, training=True)
                cost = self.d_loss_fn(
                    self.discriminator(real, training=True), self.discriminator(fake, training=True)
                )
                d_loss = cost + self.gradient_penalty(count, real, fake) * self.gp_weight
            grads = tape.gradient(d_loss, self.discriminator.trainable_variables)
            self.d_optimizer.apply_gradients(zip(grads, self.discriminator.trainable_variables, strict=True))
        noise = keras.random.normal((count, self.latent_dim), seed=self.seed_generator)
        with tf.GradientTape() as tape:
            g_loss = self.g_loss_fn(self.discriminator(self.generator(noise, training=True), training=True))
        grads = tape.gradient(g_loss, self.generator.trainable_variables)
        self.g_optimizer.apply_gradients(zip(grads, self.generator.trainable_variables, strict=True))
        return {"d_loss": d_loss, "g_loss": g_loss}


def wgan():
    model = WGAN()
    model.compile(
        d_optimizer=keras.optimizers.Adam(0.002, beta_1=0.5, beta_2=0.9),
        g_optimizer=keras.optimizers.Adam(0.002, beta_1=0.5, beta_2=0.9),
        d_loss_fn=lambda real, fake: ops.mean(fake) - ops.mean(real),
        g_loss_fn=lambda fake: -ops.mean(fake),
    )
    return model


class Contrastive(keras.Model):
    """SimCLR beside a linear probe: two optimizers, metrics of both, a test_step of the probe alone."""

    def __init__(self):
        super().__init__()
        self.temperature = 0.1
        self.augmenter = keras.Sequential([keras.Input((6,)), layers.GaussianNoise(0.1, seed=5)])
        self.encoder = keras.Sequential([keras.Input((6,)), layers.Dense(8, "relu")])
        self.projection_head = keras.Sequential([keras.Input((8,)), layers.Dense(4)])
        self.linear_probe = keras.Sequential([keras.Input((8,)), layers.Dense(3)])

    def compile(self, contrastive_optimizer, probe_optimizer, **kwargs):
        super().compile(**kwargs)
        self.contrastive_optimizer, self.probe_optimizer = contrastive_optimizer, probe_optimizer
        self.probe_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.contrastive_loss_tracker = keras.metrics.Mean(name="c_loss")
        self.contrastive_accuracy = keras.metrics.SparseCategoricalAccuracy(name="c_acc")
        self.probe_loss_tracker = keras.metrics.Mean(name="p_loss")
        self.probe_accuracy = keras.metrics.SparseCategoricalAccuracy(name="p_acc")

    @property
    def metrics(self):
        own = [self.contrastive_loss_tracker, self.contrastive_accuracy]
        return [*own, self.probe_loss_tracker, self.probe_accuracy]

    def contrastive_loss(self, first, second):
        first, second = ops.normalize(first, axis=1), ops.normalize(second, axis=1)
        similarities = ops.matmul(first, ops.transpose(second)) / self.temperature
        labels = ops.arange(ops.shape(first)[0])
        self.contrastive_accuracy.update_state(labels, similarities)
        self.contrastive_accuracy.update_state(labels, ops.transpose(similarities))
        there = keras.losses.sparse_categorical_crossentropy(labels, similarities, from_logits=True)
        back = keras.losses.sparse_categorical_crossentropy(
            labels, ops.transpose(similarities), from_logits=True
        )
        return ops.mean(there + back) / 2

    def train_step(self, data):
        images, labels = data
        first, second = (self.augmenter(images, training=True) for _ in range(2))
        with tf.GradientTape() as tape:
            loss = self.contrastive_loss(
                *(self.projection_head(self.encoder(view, training=True)) for view in (first, second))
            )
        trained = self.encoder.trainable_weights + self.projection_head.trainable_weights
        self.contrastive_optimizer.apply_gradients(zip(tape.gradient(loss, trained), trained, strict=True))
        self.contrastive_loss_tracker.update_state(loss)
        features = self.encoder(self.augmenter(images, training=True), training=False)
        with tf.GradientTape() as tape:
            logits = self.linear_probe(features)
            loss = self.probe_loss(labels, logits)
        trained = self.linear_probe.trainable_weights
        self.probe_optimizer.apply_gradients(zip(tape.gradient(loss, trained), trained, strict=True))
        self.probe_loss_tracker.update_state(loss)
        self.probe_accuracy.update_state(labels, logits)
        return {m.name: m.result() for m in self.metrics}

    def test_step(self, data):
        images, labels = data
        logits = self.linear_probe(self.encoder(images, training=False), training=False)
        self.probe_loss_tracker.update_state(self.probe_loss(labels, logits))
        self.probe_accuracy.update_state(labels, logits)
        return {m.name: m.result() for m in self.metrics[2:]}


def contrastive():
    model = Contrastive()
    model.compile(
        contrastive_optimizer=keras.optimizers.Adam(0.01), probe_optimizer=keras.optimizers.SGD(0.1)
    )
    return model


class Diffusion(keras.Model):
    """Noise prediction with an averaged network that its train_step moves; `compile(optimizer, loss)`."""

    def __init__(self):
        super().__init__()
        inputs = [keras.Input((6,)), keras.Input((1,))]
        hidden = layers.Dense(8, "swish")(layers.Concatenate()(inputs))
        self.network = keras.Model(inputs, layers.Dense(6)(layers.BatchNormalization()(hidden)))
        self.ema_network = keras.models.clone_model(self.network)
        self.ema_network.set_weights(self.network.get_weights())
        self.seed_generator = keras.random.SeedGenerator(11)

    def compile(self, **kwargs):
        super().compile(**kwargs)
        self.noise_loss_tracker = keras.metrics.Mean(name="n_loss")
        self.image_loss_tracker = keras.metrics.Mean(name="i_loss")

    @property
    def metrics(self):
        return [self.noise_loss_tracker, self.image_loss_tracker]

    def call(self, images):
        return self.ema_network([images, ops.ones((ops.shape(images)[0], 1))], training=False)

    def noised(self, images):
        noise = keras.random.normal(ops.shape(images), seed=self.seed_generator)
        times = keras.random.uniform((ops.shape(images)[0], 1), seed=self.seed_generator)
        signal, rate = ops.cos(1.5 * times) + 0.02, ops.sin(1.5 * times)
        return signal * images + rate * noise, noise, signal, rate

    def denoise(self, noisy, signal, rate, training):
        network = self.network if training else self.ema_network
        noise = network([noisy, rate**2], training=training)
        return noise, (noisy - rate * noise) / signal

    def train_step(self, images):
        noisy, noise, signal, rate = self.noised(images)
        with tf.GradientTape() as tape:
            predicted, clean = self.denoise(noisy, signal, rate, training=True)
            noise_loss, image_loss = self.loss(noise, predicted), self.loss(images, clean)
        gradients = tape.gradient(noise_loss, self.network.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.network.trainable_weights, strict=True))
        self.noise_loss_tracker.update_state(noise_loss)
        self.image_loss_tracker.update_state(image_loss)
        for weight, ema in zip(self.network.weights, self.ema_network.weights, strict=True):
            ema.assign(0.9 * ema + (1 - 0.9) * weight)
        return {m.name: m.result() for m in self.metrics}

    def test_step(self, images):
        noisy, noise, signal, rate = self.noised(images)
        predicted, clean = self.denoise(noisy, signal, rate, training=False)
        self.noise_loss_tracker.update_state(self.loss(noise, predicted))
        self.image_loss_tracker.update_state(self.loss(images, clean))
        return {m.name: m.result() for m in self.metrics}


def diffusion():
    model = Diffusion()
    model.compile(
        optimizer=keras.optimizers.AdamW(0.01, weight_decay=1e-3), loss=keras.losses.MeanAbsoluteError()
    )
    return model


class Distiller(keras.Model):
    """compute_loss of a student beside its teacher, Keras' own train_step, metrics of compile."""

    def __init__(self):
        super().__init__()
        self.teacher = keras.Sequential([keras.Input((6,)), layers.Dense(8, "relu"), layers.Dense(3)])
        self.student = keras.Sequential([keras.Input((6,)), layers.Dropout(0.2, seed=2), layers.Dense(3)])
        self.teacher.trainable = False

    def compile(self, optimizer, metrics, student_loss_fn, distillation_loss_fn, alpha, temperature):
        super().compile(optimizer=optimizer, metrics=metrics)
        self.student_loss_fn, self.distillation_loss_fn = student_loss_fn, distillation_loss_fn
        self.alpha, self.temperature = alpha, temperature

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, allow_empty=False):
        teacher = self.teacher(x, training=False)
        student_loss = self.student_loss_fn(y, y_pred)
        distillation_loss = self.distillation_loss_fn(
            ops.softmax(teacher / self.temperature, axis=1), ops.softmax(y_pred / self.temperature, axis=1)
        ) * (self.temperature**2)
        return self.alpha * student_loss + (1 - self.alpha) * distillation_loss

    def call(self, x):
        return self.student(x)


def distiller():
    model = Distiller()
    model.compile(
        optimizer=keras.optimizers.Adam(0.01),
        metrics=[keras.metrics.SparseCategoricalAccuracy()],
        student_loss_fn=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        distillation_loss_fn=keras.losses.KLDivergence(),
        alpha=0.1,
        temperature=10,
    )
    return model
