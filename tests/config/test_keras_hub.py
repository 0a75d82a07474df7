"""A tiny backbone of KerasHub with random weights, by the project's trust: a run, a kill, the run again."""

import pytest

from tests.process import arrays, assert_same_run, ended, start, steps, train, wait_for, write

FILES = {
    "pyproject.toml": '[tool.looplab]\ntrust = ["keras_hub"]\n',
    "tokens.py": """
import time
import numpy as np
import looplab


@looplab.configurable
def sentences(rows=64, length=8):
    generator = np.random.default_rng(0)
    ids = generator.integers(1, 20, size=(rows, length)).astype("int32")
    inputs = {"token_ids": ids, "segment_ids": ids * 0, "padding_mask": ids > 0}
    rows = inputs, (ids[:, 0] > 9).astype("int64")
    return {"train": rows, "validation": rows}


class Slowly(looplab.Callback):
    every = "1st"

    def on_step(self, event, controls):
        time.sleep(0.1)
""",
    "conf/experiment/bert.yaml": """
# @package _global_
# a tiny transformer of KerasHub on random sentences
defaults:
  - override /optimizer: adam
epochs: 5
execution: {mode: graph}
data: {source: {_target_: tokens.sentences}, batch_size: 8}
model:
  _target_: keras_hub.models.BertTextClassifier
  num_classes: 2
  backbone:
    _target_: keras_hub.models.BertBackbone
    vocabulary_size: 20
    num_layers: 1
    num_heads: 2
    hidden_dim: 8
    intermediate_dim: 16
    max_sequence_length: 8
loss: {_target_: keras.losses.SparseCategoricalCrossentropy, from_logits: true}
checkpoint: {every: 4st}
callbacks: {slowly: {_target_: tokens.Slowly}}
""",
}


@pytest.mark.slow
def test_a_backbone_of_keras_hub_is_trained_killed_and_goes_on(tmp_path):
    write(tmp_path, FILES)
    process = start("+experiment=bert", "run_dir=killed", cwd=tmp_path)
    wait_for(process, lambda: len(steps(tmp_path / "killed")) > 1)
    process.kill()
    ended(process)
    assert len(arrays(tmp_path / "killed")) > 10
    for name in ("killed", "whole"):
        code, said = train("+experiment=bert", f"run_dir={name}", cwd=tmp_path)
        assert code == 0, said
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
def test_without_trust_it_is_refused(tmp_path):
    write(tmp_path, FILES | {"pyproject.toml": ""})
    code, said = train("+experiment=bert", "run_dir=x", cwd=tmp_path)
    assert code == 2 and 'trust = ["keras_hub"] under [tool.looplab]' in said
