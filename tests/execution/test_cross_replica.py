"""What replicas exchange in a branch or a loop of the graph: refused in looplab's words, or it works."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from tests.conftest import make_strategy

X = np.ones((8, 3), "float32")
NOTHING = tf.constant(0.0)


# What is called, each returning a scalar.


def minimize(self, x):
    return self.minimize(self.compute_loss, x)["loss"]


def apply_gradients(self, x):
    weights = self.model.trainable_variables
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(self.compute_loss(x, True))
    self.apply_gradients(tape.gradient(loss, weights), weights, weight=tf.cast(tf.shape(x)[0], tf.float32))
    return loss


def measure(self, x):
    return self.measure(self.compute_loss, x)["loss"]


def all_gather(self, x):
    return tf.reduce_sum(self.all_gather(x))


def reduce(self, x):
    return self.reduce(tf.reduce_sum(x))


UPDATES = [minimize, apply_gradients]
EXCHANGES = [measure, all_gather, reduce]


# Where it is called.


def under_if(self, x, act):
    result = NOTHING
    if self.step % 3 != 2:
        result = act(self, x)
    return result


def under_for(self, x, act):
    result = NOTHING
    for _ in tf.range(2):
        result = act(self, x)
    return result


def under_while(self, x, act):
    result, index = NOTHING, 0
    while tf.less(index, 2):
        result, index = act(self, x), index + 1
    return result


def in_cond(self, x, act):
    return tf.cond(self.step % 3 != 2, lambda: act(self, x), lambda: NOTHING)


def in_while_loop(self, x, act):
    return tf.while_loop(lambda i, _: i < 2, lambda i, _: (i + 1, act(self, x)), (0, NOTHING))[1]


def in_function(self, x, act):
    return tf.function(lambda rows: act(self, rows))(x)


PLACES = [under_if, under_for, under_while, in_cond, in_while_loop]


def train(place, act, **given):
    class Own(looplab.Trainer):
        def compute_loss(self, x, training):
            return tf.reduce_sum(self.model(x) ** 2, -1)

        def train_step(self, x):
            own = place(self, x, act)
            return {"own": own} if act in UPDATES else {"own": own, **self.minimize(self.compute_loss, x)}

    made = Own(lambda: keras.Sequential([keras.layers.Dense(1)]), "sgd", execution="graph", **given)
    made.fit(X, batch_size=4, steps=2, verbose=0)
    return made


def evaluate(place, act, **given):
    class Own(looplab.Trainer):
        def compute_loss(self, x, training):
            return tf.reduce_sum(self.model(x) ** 2, -1)

        def test_step(self, x):
            return {"own": place(self, x, act)}

    made = Own(lambda: keras.Sequential([keras.layers.Dense(1)]), "sgd", execution="graph", **given)
    return made.evaluate(X, batch_size=4)


def refused(run, *arguments, **given):
    with pytest.raises(looplab.LossError) as caught:
        run(*arguments, **given)
    assert "merge_call" not in str(caught.value) and "in user code" not in str(caught.value)
    return str(caught.value)


@pytest.mark.share(5)
@pytest.mark.parametrize("guard", ["stop", "ignore"])
@pytest.mark.parametrize("act", UPDATES)
@pytest.mark.parametrize("place", PLACES)
def test_an_update_on_replicas_is_told_of_when(place, act, guard):
    said = refused(train, place, act, strategy=make_strategy(2), on_nonfinite=guard)
    assert said.startswith(
        f"{act.__name__} is called on several replicas inside a condition or loop of the graph"
    )
    assert "minimize(..., when=condition)" in said and said.endswith("Or train on one device.")


@pytest.mark.share(7)
@pytest.mark.parametrize("run", [train, evaluate])
@pytest.mark.parametrize("act", EXCHANGES)
@pytest.mark.parametrize("place", PLACES)
def test_an_exchange_between_replicas_is_told_of_where(place, act, run):
    said = refused(run, place, act, strategy=make_strategy(2))
    assert said.startswith(
        f"{act.__name__} is called on several replicas inside a condition or loop of the graph"
    )
    assert "choose with tf.where" in said


@pytest.mark.share(2)
@pytest.mark.parametrize("act", UPDATES)
@pytest.mark.parametrize("place", PLACES)
def test_an_update_on_one_device_is_told_of_when_or_is_made(place, act):
    said = refused(train, place, act)
    assert said.startswith(
        "an update is made inside a tf.while_loop, a tf.cond or a tf.function within the step"
    )
    assert "when=condition" in said and "on_nonfinite='ignore'" in said
    made = train(place, act, on_nonfinite="ignore")
    assert int(made.step.numpy()) == 2


@pytest.mark.share(1)
@pytest.mark.parametrize("act", EXCHANGES)
def test_an_exchange_on_one_device_works_anywhere(act):
    train(under_if, act)
    assert np.isfinite(evaluate(in_while_loop, act)["own"])


@pytest.mark.slow
def test_the_remedy_trains_alike_on_one_device_and_on_two():
    class Gated(looplab.Trainer):
        def compute_loss(self, x, training):
            return tf.reduce_sum(self.model(x) ** 2, -1)

        def train_step(self, x):
            return self.minimize(self.compute_loss, x, when=self.step % 3 == 0)

    weights = []
    for replicas in (1, 2):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, kernel_initializer="ones")])
        made = Gated(model, "sgd", strategy=make_strategy(replicas), execution="graph")
        made.fit(X, batch_size=4, steps=4, verbose=0)
        weights.append(made.model.get_weights())
    np.testing.assert_allclose(weights[0][0], weights[1][0], rtol=1e-6)


def with_batch_norm(self, x):
    return tf.reduce_sum(self.model(x, training=True))


def with_all_reduce(self, x):
    return tf.distribute.get_replica_context().all_reduce("SUM", tf.reduce_sum(x))


@pytest.mark.share(1)
@pytest.mark.parametrize("act", [with_batch_norm, with_all_reduce])
def test_what_others_exchange_is_told_of_likewise(act):
    class Own(looplab.Trainer):
        def train_step(self, x):
            own = in_cond(self, x, act)
            return {"own": own, **self.minimize(self.compute_loss, x)}

        def compute_loss(self, x, training):
            return tf.reduce_sum(self.model(x, training=training) ** 2, -1)

    def fit(**given):
        layers = [keras.layers.BatchNormalization(), keras.layers.Dense(1)]
        made = Own(lambda: keras.Sequential(layers), "sgd", execution="graph", **given)
        made.fit(X, batch_size=4, steps=1, verbose=0)

    said = refused(fit, strategy=make_strategy(2))
    assert said.startswith("values are exchanged between replicas (by synchronised BatchNormalization")
    fit()


def test_what_is_shown_in_a_branch_is_told_of():
    def shows(self, x):
        looplab.summary.scalar("rows", tf.reduce_sum(x), every=1)
        return NOTHING

    said = refused(train, under_if, shows)
    assert said.startswith("looplab.summary: 'rows' is shown inside a tf.while_loop, a tf.cond")
    train(lambda self, x, act: act(self, x), shows)


@pytest.mark.share(2)
@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("act", [*UPDATES, *EXCHANGES])
def test_in_a_function_of_the_step_they_do_what_they_do_outside(act, replicas):
    def outside(self, x, act):
        return act(self, x)

    strategy = make_strategy(replicas)
    one, other = (train(place, act, strategy=strategy, seed=3) for place in (in_function, outside))
    for left, right in zip(one.model.get_weights(), other.model.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-6)


class Scatters(looplab.Trainer):
    def setup(self):
        self.table = tf.Variable(tf.zeros([4]), trainable=False)

    def train_step(self, batch):
        self.table.scatter_nd_update([[0]], [1.0])
        return self.minimize(self.compute_loss, batch)


def test_a_method_that_variables_of_replicas_lack_is_named_with_the_remedy():
    trainer = Scatters(
        keras.Sequential([keras.layers.Dense(1)]), "sgd", "mse", strategy=make_strategy(2), execution="graph"
    )
    with pytest.raises(
        looplab.LossError, match=r"scatter_nd_update of a variable .*tf\.tensor_scatter_nd_update"
    ):
        trainer.build(X, X[:, :1])
