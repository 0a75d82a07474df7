"""Layers frozen by pattern and for a time: not a bit of them changes, and resume is exact."""

import keras
import numpy as np
import pytest

import looplab
from looplab.callbacks import Freeze
from tests.conftest import make_strategy

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(16, 3)).astype("float32"), RNG.normal(size=(16, 1)).astype("float32")


def network():
    stem = keras.Sequential([keras.layers.Dense(4), keras.layers.BatchNormalization()], name="stem")
    return keras.Sequential([keras.Input((3,)), stem, keras.layers.Dense(1, name="head")])


class States(looplab.Callback):
    """The whole state after every step."""

    def __init__(self):
        self.arrays, self.trainer = [], None

    def on_step(self, event, controls):
        variables = self.trainer._engine.variables
        self.arrays.append({path: np.array(v.numpy()) for path, v in variables.items()})


def make(*callbacks, strategy="auto", model=network, **more):
    states = States()
    trainer = looplab.Trainer(
        model,
        lambda: keras.optimizers.AdamW(0.01, use_ema=True),
        "mse",
        strategy=strategy,
        callbacks=[*callbacks, states],
        **more,
    )
    states.trainer = trainer
    return trainer, states


def changed(before, after):
    return {path for path in before if not np.array_equal(before[path], after[path])}


@pytest.mark.slow
def test_frozen_layers_keep_every_bit_and_are_trained_afterwards():
    trainer, states = make(Freeze("stem", until="2ep"), strategy=make_strategy(2))
    trainer.fit((X, Y), batch_size=8, epochs=4, verbose=0)
    frozen = changed(states.arrays[0], states.arrays[3])
    assert frozen and not [path for path in frozen if "stem" in path]
    trained = changed(states.arrays[3], states.arrays[4])
    stem = {path for path in states.arrays[0] if "/stem/" in path}
    assert len(stem) == 6 + 3 * 4  # weights and statistics; two moments and the average of each weight
    assert stem <= trained


def test_a_run_resumed_in_any_phase_is_the_uninterrupted_one(tmp_path):
    def run(folder, *epochs):
        for last in epochs:
            trainer, _ = make(Freeze("stem/dense", until="3st"), run_dir=tmp_path / folder)
            trainer.fit((X, Y), batch_size=8, epochs=last, verbose=0)
        return {path: v.numpy() for path, v in trainer._engine.variables.items()}

    whole, parts = run("whole", 3), run("parts", 1, 2, 3)
    assert not changed(whole, parts)


@pytest.mark.slow
def test_several_unfreeze_one_after_another_and_for_good_is_for_good():
    callbacks = [Freeze("*", until="1st"), Freeze("stem/*", until="2st"), Freeze("*/batch_norm*")]
    trainer, states = make(*callbacks)
    trainer.fit((X, Y), batch_size=8, epochs=2, verbose=0)
    steps = [changed(a, b) for a, b in zip(states.arrays, states.arrays[1:], strict=False)]
    weights = [{p.removeprefix("models/model/") for p in own if p.startswith("models/")} for own in steps]
    assert weights == [
        {"head/kernel", "head/bias"},
        {"head/kernel", "head/bias", "stem/dense/kernel", "stem/dense/bias"},
        {"head/kernel", "head/bias", "stem/dense/kernel", "stem/dense/bias"},
    ]


def test_what_the_user_froze_stays_frozen():
    def frozen():
        model = network()
        model.get_layer("stem").trainable = False
        return model

    trainer, states = make(Freeze("stem", until="1st"), model=frozen)
    trainer.fit((X, Y), batch_size=8, epochs=2, verbose=0)
    assert not [path for path in changed(states.arrays[0], states.arrays[-1]) if "stem" in path]


@pytest.mark.slow
def test_a_weight_alone_is_frozen_and_its_layer_goes_on():
    trainer, states = make(Freeze("*/kernel"), Freeze("*/batch_normalization/gamma", until="2st"))
    trainer.fit((X, Y), batch_size=8, epochs=2, verbose=0)
    first, *_, last = [changed(a, b) for a, b in zip(states.arrays, states.arrays[1:], strict=False)]
    assert not [path for path in first | last if "kernel" in path]
    gamma, moving = (f"models/model/stem/batch_normalization/{name}" for name in ("gamma", "moving_mean"))
    assert gamma not in first and gamma in last and moving in first & last


@pytest.mark.slow
def test_a_weight_that_the_user_froze_stays_frozen_when_its_layer_is_released():
    def frozen():
        model = network()
        model.get_layer("head").kernel.trainable = False
        return model

    trainer, states = make(Freeze("*", until="1st"), Freeze("*/bias", until="3st"), model=frozen)
    trainer.fit((X, Y), batch_size=8, epochs=2, verbose=0)
    steps = [changed(a, b) for a, b in zip(states.arrays, states.arrays[1:], strict=False)]
    head = [
        {path.rpartition("/")[2] for path in own if path.startswith("models/model/head/")} for own in steps
    ]
    assert head == [set(), set(), {"bias"}]


def test_a_step_that_has_passed_holds_up_no_loop():
    told = []
    clock = looplab.callbacks.Lambda(on_clock=lambda event, controls: told.append(event.step))
    trainer = looplab.Trainer(
        network, "sgd", "mse", steps_per_execution=100, callbacks=[Freeze("stem", until="1st"), clock]
    )
    trainer.fit((X, Y), batch_size=2, epochs=1, verbose=0)
    assert told == [1, 8]


def test_a_pattern_that_matches_nothing_is_refused_before_anything_begins(tmp_path):
    said = r"Freeze\.layers: 'stam' matches no variable and no layer: variables are stem/dense.*mean 'stem'"
    for freeze in (Freeze("stam"), Freeze(["head", "stam"])):
        trainer, _ = make(freeze, run_dir=tmp_path / "run")
        with pytest.raises(looplab.ConfigurationError, match=said):
            trainer.fit((X, Y), verbose=0)
        with pytest.raises(looplab.ConfigurationError, match=said):
            trainer.rehearse((X, Y))
    assert not (tmp_path / "run" / "environment.json").exists()
    with pytest.raises(looplab.ConfigurationError, match="moving_mean' matches no"):
        make(Freeze("*/moving_mean"))[0].rehearse((X, Y))
    with pytest.raises(looplab.ConfigurationError, match=r"Freeze\.until"):
        Freeze("stem", until="2 weeks")
