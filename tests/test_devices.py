"""Options of devices; in processes of their own where they would change this one."""

import json

import pytest
import tensorflow as tf

from looplab import devices
from looplab.errors import ConfigurationError
from tests.process import run_python

FIRST = "import tensorflow as tf, looplab; from looplab import devices\n"

TRAIN = """
import json, sys, zlib
import keras, numpy as np
from looplab.training import plan_text
x = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
found = []

def model():
    return keras.Sequential([keras.layers.Dense(5), keras.layers.Dropout(0.5), keras.layers.Dense(1)])

for _ in range(2):
    trainer = looplab.Trainer(model, "adam", "mse", strategy=strategy)
    trainer.fit(x, x[:, :1], batch_size=5, epochs=2, verbose=0)
    found.append(zlib.crc32(b"".join(v.numpy().tobytes() for v in trainer.model.trainable_variables)))
print(json.dumps({"weights": found, **plan_text.facts(trainer._engine)["device_options"]}))
"""


def in_a_process(program):
    done = run_python(FIRST + program)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_options_are_applied_and_recorded_and_determinism_trains_bit_equally():
    program = "devices.configure(tf32=False, deterministic=True, intra_threads=2, inter_threads=1)\n"
    found = json.loads(in_a_process(f"{program}strategy = looplab.strategy.simulated(2)\n{TRAIN}"))
    first, second = found.pop("weights")
    assert first == second
    assert found == {
        "memory_growth": None,
        "tf32": False,
        "deterministic": True,
        "intra_threads": 2,
        "inter_threads": 1,
    }


def test_a_configuration_applies_them_before_anything_runs():
    words = "'+experiment=digits', 'devices=deterministic', 'devices.intra_threads=1', 'data.batch_size=7'"
    program = (
        "from looplab import config, experiment\nfrom looplab.training import plan_text\n"
        "from looplab.config.compose import compose\n"
        f"settled = config.check(compose([{words}]).config)\n"
        "trainer, _ = experiment.build(settled, None)\n"
        "print(plan_text.facts(trainer._engine)['device_options'])\n"
    )
    found = eval(in_a_process(program))
    assert found["deterministic"] is True and found["intra_threads"] == 1 and found["tf32"] is True


def test_nothing_asked_changes_nothing_and_is_never_too_late():
    before = devices.facts()
    devices.configure()
    assert devices.facts() == before
    assert before["deterministic"] is False and before["tf32"] is True


@pytest.mark.parametrize("option", ["intra_threads", "inter_threads"])
def test_threads_come_too_late_once_tensorflow_runs(option):
    tf.constant(0)
    have = devices.facts()[option]
    devices.configure(**{option: have})  # what is so already
    with pytest.raises(
        ConfigurationError, match=rf"devices\.{option}: 7 comes too late.*runs already, with {have}"
    ):
        devices.configure(**{option: 7})
    with pytest.raises(
        ConfigurationError, match=rf"devices\.{option}: expected a whole number from 1 to 1024"
    ):
        devices.configure(**{option: 0})


class Gpu:
    """Stands for a GPU: what TensorFlow is asked to do with it."""

    def __init__(self, monkeypatch, running):
        self.name, self.grows = "/physical_device:GPU:0", False

        def set_growth(_, grows):
            if running and grows != self.grows:
                raise RuntimeError("Physical devices cannot be modified after being initialized")
            self.grows = grows

        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [self])
        monkeypatch.setattr(tf.config.experimental, "set_memory_growth", set_growth)
        monkeypatch.setattr(tf.config.experimental, "get_memory_growth", lambda gpu: self.grows)


@pytest.mark.parametrize(("asked", "grows"), [(None, True), (True, True), (False, False)])
def test_memory_of_gpus_grows_unless_it_is_not_to(monkeypatch, asked, grows):
    Gpu(monkeypatch, running=False)
    devices.configure(memory_growth=asked)
    assert devices.facts()["memory_growth"] is grows


def test_memory_growth_comes_too_late_only_if_it_was_asked_for(monkeypatch):
    gpu = Gpu(monkeypatch, running=True)
    devices.configure()
    assert gpu.grows is False
    with pytest.raises(ConfigurationError, match=r"devices\.memory_growth: True comes too late"):
        devices.configure(memory_growth=True)
