import math

import keras
import numpy as np
import pytest

from looplab.schedule import WarmupCosine


def test_warmup_cosine_is_its_formula():
    schedule = WarmupCosine(0.1, total_steps=50, warmup_steps=10, floor=0.2)
    for step in (0, 5, 9, 10, 30, 49, 50, 80):
        if step < 10:
            expected = 0.1 * (step + 1) / 11
        else:
            part = min((step - 10) / 40, 1)
            expected = 0.1 * (0.2 + 0.8 * (1 + math.cos(math.pi * part)) / 2)
        assert float(schedule(step)) == pytest.approx(expected, rel=1e-5)


def test_a_schedule_survives_keras_serialisation():
    schedule = WarmupCosine(0.1, 50, 10)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert np.allclose([schedule(s) for s in range(60)], [again(s) for s in range(60)])
