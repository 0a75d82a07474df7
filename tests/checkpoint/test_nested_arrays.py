"""Arrays among the values of a checkpoint."""

import json

import numpy as np

from looplab.checkpoint import nested_arrays


def test_arrays_stand_apart_and_come_back():
    weights = np.arange(6.0).reshape(2, 3)
    values = {"callbacks": [{"state": {"best": [weights, 1], "none": None}}, {"state": {}}], "step": 3}
    plain, arrays = nested_arrays.lift(values)
    json.dumps(plain)
    assert list(arrays) == ["values/callbacks/0/state/best/0"]
    own, among = nested_arrays.split({"models/model/kernel": weights, **arrays})
    assert (list(own), list(among)) == (["models/model/kernel"], list(arrays))
    back = nested_arrays.lower(plain, among)
    assert back["callbacks"][0]["state"]["best"][0] is weights
    assert nested_arrays.lift(back)[0] == plain
