"""`python -m looplab.predict` and `looplab.predictions`: every prediction once, in the order of the data."""

import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import looplab
import looplab.execution.batch_map
from looplab import predict
from tests.conftest import on_two_replicas
from tests.process import ended, snapshot, start
from tests.recorded import act, at_home, make_run

parquet = pytest.importorskip("pyarrow.parquet")


class Rows(looplab.Trainer):
    """Predicts several things of each row."""

    def predict_step(self, batch):
        return {
            "row": batch,
            "more": (batch[:, None] * [1.0, 2.0], {"third": batch[:, None, None] + [[1.0], [2.0]]}),
        }


def read(path):
    """The arrays of a file by name."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            return dict(file)
    table = parquet.read_table(path)
    return {name: np.array(table[name].to_pylist()) for name in table.column_names}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("project"))


def test_the_command_predicts_in_the_order_of_the_data_on_any_number_of_replicas(project):
    before = snapshot(project / "runs")
    with at_home(project):
        import mine

        x, _ = mine.points(50)["train"]
        expected = looplab.load("runs/mine").predict(x)
    replicas = ["strategy=simulated", "strategy.replicas=2", "data.batch_size=7"]  # 50 = 7 * 7 + 1
    for name, words in {"a.npz": [], "b.parquet": [], "c.parquet": replicas}.items():
        said = act(
            predict.main, "run_dir=runs/mine", f"output=out/{name}", "split=train", *words, cwd=project
        )
        assert said[0] == 0 and f"written     out/{name}" in said[1], said
        (found,) = read(project / "out" / name).items()
        assert found[0] == "predictions"
        np.testing.assert_allclose(found[1], expected, rtol=1e-6, atol=1e-7)
    code, said = act(predict.main, "run_dir=runs/mine", "output=out/d.npz", cwd=project)
    assert code == 0 and "validation  predictions [20, 2]" in said
    code, said = act(predict.main, "run_dir=runs/mine", "output=out/a.npz", cwd=project)
    assert code == 2 and "out/a.npz exists. Choose another name, or set overwrite=true" in said
    code, said = act(predict.main, "run_dir=runs/mine", "output=out/a.nzp", cwd=project)
    assert code == 2 and "ends in none of .npz, .parquet" in said and "Did you mean '.npz'" in said
    code, said = act(predict.main, "run_dir=runs/mine", cwd=project)
    assert code == 2 and "name the file: output=FILE" in said
    assert snapshot(project / "runs") == before


@on_two_replicas
@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_nested_outputs_are_arrays_or_columns_by_name(suffix, strategy, tmp_path):
    trainer = Rows(lambda: keras.Sequential([keras.layers.Dense(1)]), strategy=strategy)
    rows = np.arange(23, dtype="float32")
    path = tmp_path / f"some.{suffix}"
    shapes = looplab.predictions.write(path, trainer.predict_batches(rows, batch_size=5))
    assert shapes == {"row": (23,), "more/0": (23, 2), "more/1/third": (23, 2, 1)}
    found, whole = read(path), trainer.predict(rows, batch_size=4)
    assert list(found) == list(shapes)
    np.testing.assert_array_equal(found["row"], rows)
    np.testing.assert_array_equal(found["more/0"], whole["more"][0])
    np.testing.assert_array_equal(found["more/1/third"], whole["more"][1]["third"])
    assert [path.name for path in tmp_path.iterdir()] == [path.name]
    assert len(trainer.predict(rows, batch_size=5, steps=2)["row"]) == 10


@pytest.mark.share(1)
def test_many_batches_run_in_one_call_and_are_those_that_run_alone(strategy):
    calls = []

    class Counted(Rows):
        def predict_step(self, batch):
            calls.append(1)  # when it is traced
            return super().predict_step(batch)

    rows = np.arange(203, dtype="float32")  # the last of 41 batches has three
    whole = {"arrays": rows, "stream": tf.data.Dataset.from_tensor_slices(rows).batch(5)}
    alone = Rows(lambda: keras.Sequential([keras.layers.Dense(1)]), run_eagerly=True)
    expected = list(alone.predict_batches(rows, batch_size=5))
    for kind, data in whole.items():
        calls.clear()
        trainer = Counted(lambda: keras.Sequential([keras.layers.Dense(1)]), strategy=strategy)
        size = 5 if kind == "arrays" else None
        found = list(trainer.predict_batches(data, batch_size=size))
        assert len(found) == len(expected) == 41
        for own, other in zip(found, expected, strict=True):
            for left, right in zip(tf.nest.flatten(own), tf.nest.flatten(other), strict=True):
                np.testing.assert_array_equal(left, right)
        traces = len(calls)
        list(trainer.predict_batches(data, batch_size=size))
        assert len(calls) == traces


@pytest.mark.slow
def test_xla_compiles_predictions_where_it_is_named():
    class Read(looplab.Trainer):
        def predict_step(self, batch):
            return {"length": tf.strings.length(tf.strings.as_string(batch)), "row": 2.0 * batch}

    rows = np.arange(23, dtype="float32")
    found = {}
    for execution in ("auto", "graph", "xla_step"):
        made = Rows(lambda: keras.Sequential([keras.layers.Dense(1)]), execution=execution)
        found[execution] = made.predict(rows, batch_size=5)
        read = Read(lambda: keras.Sequential([keras.layers.Dense(1)]), execution=execution)
        if execution == "xla_step":
            with pytest.raises(
                looplab.ConfigurationError, match=r"cannot compile.*AsString"
            ):  # XLA has no strings
                read.predict(rows, batch_size=5)
        else:
            np.testing.assert_array_equal(read.predict(rows, batch_size=5)["row"], 2.0 * rows)
    for other in ("auto", "xla_step"):
        for left, right in zip(tf.nest.flatten(found["graph"]), tf.nest.flatten(found[other]), strict=True):
            np.testing.assert_array_equal(left, right)


def test_outputs_are_given_away_before_they_fill_memory(monkeypatch):
    monkeypatch.setattr(looplab.execution.batch_map, "_BYTES", 4 * 5 * 20)  # three batches, and some
    taken = []
    trainer = Rows(lambda: keras.Sequential([keras.layers.Dense(1)]))
    run = looplab.execution.BatchMap._collected

    def counted(self, feed, batches, count, rows, size):
        taken.append(count)
        return run(self, feed, batches, count, rows, size)

    monkeypatch.setattr(looplab.execution.BatchMap, "_collected", counted)
    assert len(trainer.predict(np.zeros(500, "float32"), batch_size=5)["row"]) == 500
    assert 1 < max(taken) <= 4


class Widths(looplab.Trainer):
    """Predicts as many values of each row as it is long."""

    def predict_step(self, batch):
        return batch * 2.0


def test_outputs_of_changing_shapes_are_predicted_one_by_one():
    batches = [np.full((2, 1 + number % 3), number, "float32") for number in range(9)]
    trainer = Widths(lambda: keras.Sequential([keras.layers.Dense(1)]))
    found = list(trainer.predict_batches(lambda: iter(batches)))
    for own, batch in zip(found, batches, strict=True):
        np.testing.assert_array_equal(own, 2 * batch)


def test_a_prediction_that_is_traced_again_says_so(caplog):
    trainer = Widths(lambda: keras.Sequential([keras.layers.Dense(1)]))
    with caplog.at_level("WARNING", "looplab"):
        for width in (2, 2, 3, 3):
            for rows in (64, 70, 20):
                assert trainer.predict(np.ones((rows, width), "float32")).shape == (rows, width)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(
        "prediction was traced again: the inputs were float32 [?, 2] and are float32 [?, 3]"
    )


@settings(max_examples=25)
@given(
    sizes=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    shape=st.lists(st.integers(0, 3), max_size=3),
    dtype=st.sampled_from(["float16", "float32", "float64", "int8", "int64", "uint8", "bool"]),
)
def test_what_is_written_is_what_was_predicted(tmp_path_factory, sizes, shape, dtype):
    generator = np.random.default_rng(0)
    batches = [(generator.normal(size=(n, *shape)) * 9).astype(dtype) for n in sizes]
    whole, folder = np.concatenate(batches), tmp_path_factory.mktemp("written")
    looplab.predictions.write(folder / "a.npz", batches)
    found = read(folder / "a.npz")["predictions"]
    assert found.dtype == whole.dtype
    np.testing.assert_array_equal(found, whole)
    looplab.predictions.write(folder / "a.parquet", batches)
    column = parquet.read_table(folder / "a.parquet")["predictions"].to_pylist()
    assert column == whole.tolist()


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_memory_holds_a_few_batches_only(suffix, tmp_path, monkeypatch):
    monkeypatch.setattr(looplab.predictions, "_ROW_GROUP", 2**16)  # bytes: two batches and a half
    weak, most = [], 0

    def batches():
        nonlocal most
        for number in range(20):
            batch = np.full((100, 32), number, "float64")
            weak.append(weakref.ref(batch))
            yield batch
            del batch
            most = max(most, sum(ref() is not None for ref in weak))

    looplab.predictions.write(tmp_path / f"a.{suffix}", batches())
    assert most <= 4
    if suffix == "parquet":
        assert 5 < parquet.ParquetFile(tmp_path / "a.parquet").metadata.num_row_groups < 20


def test_variable_shapes_and_text_are_for_parquet(tmp_path):
    ragged = [np.ones((2, 3)), np.ones((1, 4))]
    looplab.predictions.write(tmp_path / "a.parquet", ragged)
    assert [len(row) for row in parquet.read_table(tmp_path / "a.parquet")["predictions"].to_pylist()] == [
        3,
        3,
        4,
    ]
    with pytest.raises(
        looplab.DataError, match=r"rows of float64 \[4\] in a batch, but float64 \[3\] before it"
    ):
        looplab.predictions.write(tmp_path / "a.npz", ragged)
    text = [np.array([b"one", b"two"], object)]
    looplab.predictions.write(tmp_path / "b.parquet", text)
    assert parquet.read_table(tmp_path / "b.parquet")["predictions"].to_pylist() == [b"one", b"two"]
    with pytest.raises(looplab.DataError, match=r"is text"):
        looplab.predictions.write(tmp_path / "a.npz", text)
    for wrong, says in [
        ([{"a": np.ones(2)}, {"b": np.ones(2)}], r"returned \['b'\] for a batch, but \['a'\] before it"),
        ([{"a": np.ones(2), "b": np.ones(3)}], r"every output needs a row"),
        ([np.float32(1)], r"every output needs a row"),
        ([], r"no predictions"),
    ]:
        with pytest.raises(looplab.DataError, match=says):
            looplab.predictions.write(tmp_path / "a.npz", wrong)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "b.parquet"]


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_what_fails_leaves_the_file_that_was_there(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    looplab.predictions.write(path, [np.ones(3)])
    before = snapshot(tmp_path)

    def failing():
        yield np.ones(3)
        raise OSError("a mistake in the data")

    with pytest.raises(OSError, match="a mistake in the data"):
        looplab.predictions.write(path, failing(), overwrite=True)
    with pytest.raises(looplab.ConfigurationError, match=r"path: .* exists.* overwrite=True"):
        looplab.predictions.write(path, [np.ones(3)])
    assert snapshot(tmp_path) == before
    with pytest.raises(looplab.StorageError, match=r"cannot be written"):
        looplab.predictions.write(path / f"a.{suffix}", [np.ones(3)])


def test_an_error_of_the_model_stays_what_it_is():
    """Also one that comes with a later batch, whose predictions are then being joined."""

    class Fails(looplab.Trainer):
        def predict_step(self, batch):
            if batch.shape[0] == 1:
                raise ValueError("a mistake in the model")
            return batch

    trainer = Fails(lambda: keras.Sequential([keras.layers.Dense(1)]), run_eagerly=True)
    for rows in (1, 5):
        with pytest.raises(ValueError, match=r"^a mistake in the model"):
            trainer.predict(np.ones((rows, 2), "float32"), batch_size=4)


def test_arguments_are_refused_at_the_call_and_no_precision_is_left_behind():
    trainer = Rows(lambda: keras.Sequential([keras.layers.Dense(1)]), precision="float64")
    with pytest.raises(looplab.ConfigurationError, match="batch_size"):
        trainer.predict_batches(np.ones(3), batch_size=0)
    batches = trainer.predict_batches(np.ones(3), batch_size=2)
    assert next(batches)["row"].dtype == np.float64
    assert keras.config.floatx() == "float32"


def test_the_command_has_its_place(tmp_path):
    code, said = ended(start("--help", module="looplab.predict", cwd=tmp_path))
    assert (code, said.startswith("python -m looplab.predict run_dir=")) == (0, True), said
