"""Every optimizer of Keras with each of its options, and every schedule, three steps beside `model.fit`."""

from functools import partial

import keras
import numpy as np
import pytest

import looplab
from looplab.strategy import precision
from tests.conftest import make_strategy
from tests.training.keras_table import exceptions
from tests.training.keras_table.comparison import BATCH, EXAMPLES
from tests.training.keras_table.optimizers import INERT, SCHEDULES, cases, kinds, options, unknown

RNG = np.random.default_rng(6)
X, Y = RNG.normal(size=(EXAMPLES, 5)), RNG.normal(size=(EXAMPLES, 2))
FIRST = [RNG.normal(size=shape) for shape in ((5, 4), (4,), (4, 2), (2,))]
# Keras computes these in float32; looplab computes them in float64 where that is the precision.
ROUNDED = ["CosineDecay", "InverseTimeDecay"]
# `model.fit` begins at zeros unless it runs eagerly; see the plan.
EAGER = {"ScheduleFreeAdamW"}


def network():
    hidden = keras.layers.Dense(4, "tanh", name="hidden")
    return keras.Sequential([keras.Input((5,)), hidden, keras.layers.Dense(2, name="output")])


def scheduled(schedule):
    return keras.optimizers.SGD(schedule(), momentum=0.5)


class Each(looplab.Trainer):
    """Several models with an optimizer each, on the same batches."""

    def train_step(self, batch):
        logs = {}
        for name in self.models:
            logs |= self.minimize(partial(self.loss_of, name), batch, name)
        return logs

    def loss_of(self, name, batch, training):
        error = self.models[name](batch[0], training=training) - batch[1]
        return keras.ops.mean(error**2, axis=-1)


def by_model_fit(optimizers, eager):
    found = {}
    with precision.scope("float64"):
        for name, make in optimizers.items():
            model = network()
            model.set_weights(FIRST)
            model.compile(make(), "mse", run_eagerly=eager, jit_compile=False)
            history = model.fit(X, Y, batch_size=BATCH, shuffle=False, verbose=0)
            found[name] = history.history["loss"][-1], model.get_weights()
    return found


def by_looplab(optimizers, replicas):
    trainer = Each(
        models=dict.fromkeys(optimizers, network),
        optimizers=optimizers,
        precision="float64",
        strategy=make_strategy(replicas),
        execution="graph",
    )
    for model in trainer.models.values():
        model.set_weights(FIRST)
    history = trainer.fit((X, Y), batch_size=BATCH, shuffle=False, verbose=0).history
    with trainer.averaged_weights():  # which model.fit leaves in the model
        return {
            name: (history[f"{name}/loss"][-1], model.get_weights()) for name, model in trainer.models.items()
        }


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def differing(ours, theirs, tolerance):
    found = []
    for name, (loss, weights) in theirs.items():
        gaps = [np.max(np.abs(a - b)) for a, b in zip(ours[name][1], weights, strict=True)]
        if not max(*gaps, abs(ours[name][0] - loss)) <= tolerance:
            found.append(f"{name}: weights {max(gaps):.1e}, loss {abs(ours[name][0] - loss):.1e}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", kinds())
def test_optimizers_train_as_in_model_fit(kind):
    optimizers = cases(kinds()[kind])
    theirs = by_model_fit(optimizers, eager=kind in EAGER)
    plain = theirs["plain"][1]
    assert [name for name in options(kinds()[kind]) if same(theirs[name][1], plain)] == INERT.get(kind, [])
    for replicas in (1, 2):
        ours = by_looplab(optimizers, replicas)
        assert differing(ours, theirs, 1e-12) == [], f"{replicas} replicas"


def test_a_share_of_optimizers_trains_as_in_model_fit():
    shares = {"SGD": "nesterov", "RMSprop": "centered", "AdamW": "weight_decay", "Adam": "global_clipnorm"}
    optimizers = {kind: cases(kinds()[kind])[option] for kind, option in shares.items()}
    theirs = by_model_fit(optimizers, eager=True)  # for so few steps it takes less time than graphs
    assert differing(by_looplab(optimizers, 2), theirs, 1e-12) == []


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
def test_schedules_train_as_in_model_fit(replicas):
    optimizers = {name: partial(scheduled, make) for name, make in SCHEDULES.items()}
    theirs = by_model_fit(optimizers, eager=False)
    ours = by_looplab(optimizers, replicas)
    assert differing(ours, theirs, 1e-6) == []
    rounded = [text.partition(":")[0] for text in differing(ours, theirs, 1e-12)]
    assert rounded == ROUNDED


@pytest.mark.parametrize("option", exceptions.REFUSED_OPTIONS)
def test_what_looplab_owns_is_refused_on_every_optimizer(option):
    for kind in kinds().values():
        with pytest.raises(looplab.ConfigurationError, match=option):
            looplab.Trainer(network, partial(kind, **{option: 2}), "mse")


def test_every_optimizer_option_and_schedule_has_an_entry_or_a_reason():
    where = "give each an entry in tests/training/keras_table/optimizers.py"
    known = set(kinds())  # all that have no reason are compared
    assert exceptions.unfit(keras.optimizers, known, exceptions.OPTIMIZERS) == []
    missing = {f"{name}.{own}" for name, kind in kinds().items() for own in unknown(kind)}
    assert sorted(missing) == [], where
    schedules = keras.optimizers.schedules
    assert exceptions.classes(schedules, set(SCHEDULES), exceptions.SCHEDULES) == [], where
    assert exceptions.unfit(schedules, set(SCHEDULES), exceptions.SCHEDULES) == []
