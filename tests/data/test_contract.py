"""One contract for every source: order, ragged ends, resume, and errors that say where."""

from typing import Any, NamedTuple

import keras
import numpy as np
import pandas
import pytest
import tensorflow as tf

import looplab
from looplab.data import (
    build_feed,
    explained,
    first_batches,
    image_folder,
    records,
    split_and_weigh,
    table,
    tfds,
)
from looplab.execution.batches import batch_at
from looplab.testing import check_feed

SIZE, BATCH, CLASSES = 23, 4, 3
LOSS = "sparse_categorical_crossentropy"
X = np.arange(SIZE * 2, dtype="float32").reshape(SIZE, 2)  # the first number of a row, halved, is its index
Y = np.arange(SIZE) % CLASSES


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return -(-SIZE // BATCH)

    def __getitem__(self, index):
        rows = slice(index * BATCH, (index + 1) * BATCH)
        return X[rows], Y[rows]


class SequenceSource:
    def __len__(self):
        return SIZE

    def __getitem__(self, index):
        return X[index], int(Y[index])


def generator():
    for start in range(0, SIZE, BATCH):
        yield X[start : start + BATCH], Y[start : start + BATCH]


class Again:
    """Can be iterated over again and again, as a DataLoader."""

    def __iter__(self):
        return generator()


def memmap(folder):
    np.save(folder / "x.npy", X)
    return np.load(folder / "x.npy", mmap_mode="r"), Y


def parse(record):
    found = tf.io.parse_single_example(
        record, {"x": tf.io.FixedLenFeature([2], tf.float32), "y": tf.io.FixedLenFeature([], tf.int64)}
    )
    return found["x"], found["y"]


def write_records(folder, parts=2):
    def example(x, y):
        features = {
            "x": tf.train.Feature(float_list=tf.train.FloatList(value=x)),
            "y": tf.train.Feature(int64_list=tf.train.Int64List(value=[y])),
        }
        return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()

    for part, rows in enumerate(np.array_split(np.arange(SIZE), parts)):
        with tf.io.TFRecordWriter(str(folder / f"part-{part}.tfrecord")) as writer:
            for row in rows:
                writer.write(example(X[row], Y[row]))
    return str(folder / "*.tfrecord")


def images(folder):
    """Each image is a single grey, twice its index; one folder for each class."""
    for row in range(SIZE):
        path = folder / f"class_{Y[row]}" / f"{row:02d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(tf.io.encode_png(np.full([3, 2, 1], 2 * row, "uint8")).numpy())
    return image_folder(folder, image_size=(2, 2), color_mode="grayscale", seed=None)


def csv(folder):
    frame = pandas.DataFrame({"a": X[:, 0], "b": X[:, 1], "kind": [f"kind {y}" for y in Y]})
    frame.to_csv(folder / "t.csv", index=False)
    return table(folder / "t.csv", target="kind")


def parquet(folder):
    pandas.DataFrame({"a": X[:, 0], "b": X[:, 1], "y": Y}).to_parquet(folder / "t.parquet")
    return table(folder / "t.parquet", target="y", features=["a", "b"])


def grain_source(folder):
    grain = pytest.importorskip("grain")
    return grain.MapDataset.source(SequenceSource())


def grain_loader(folder):
    grain = pytest.importorskip("grain")
    return grain.MapDataset.source(SequenceSource()).to_iter_dataset().batch(BATCH, drop_remainder=False)


BY_EXAMPLE = {
    "arrays": lambda folder: (X, Y),
    "tensors": lambda folder: (tf.constant(X), tf.constant(Y)),
    "dict": lambda folder: ({"a": X, "b": X[:, :1]}, Y),
    "list of inputs": lambda folder: ([X, X[:, :1]], Y),
    "memmap": memmap,
    "items": lambda folder: SequenceSource(),
    "grain": grain_source,
    "records": lambda folder: records(write_records(folder), parse),
    "images": images,
    "csv": csv,
    "parquet": parquet,
}
BATCHED = {
    "PyDataset": lambda folder: Batches(),
    "PyDataset with workers": lambda folder: Batches(workers=3),
    "tf.data": lambda folder: tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH),
    "tf.data of unknown length": lambda folder: (
        tf.data.Dataset.from_tensor_slices((X, Y)).filter(lambda x, y: True).batch(BATCH)
    ),
    "generator": lambda folder: generator,
    "iterable": lambda folder: Again(),
    "grain batches": grain_loader,
}
EVERY = {**BY_EXAMPLE, **BATCHED}
SHUFFLED = [*BY_EXAMPLE, "PyDataset", "PyDataset with workers"]


BY_CLASS = np.lexsort((np.arange(SIZE), Y))  # as images lie, each of which is all one grey
EXPECTED = {
    "dict": ({"a": X, "b": X[:, :1]}, Y),
    "list of inputs": ([X, X[:, :1]], Y),
    "images": (np.full([SIZE, 2, 2, 1], 2 * BY_CLASS[:, None, None, None], "float32"), Y[BY_CLASS]),
}


class Made(NamedTuple):
    """A source, its feed's batch size, the rows in the order in which it has them, and all examples in it."""

    source: Any
    batch_size: int | None
    rows: np.ndarray
    expected: Any


@pytest.fixture
def made(request, tmp_path):
    """The source of a name."""
    name = request.param
    rows = BY_CLASS if name == "images" else np.arange(SIZE)
    batch_size = None if name in BATCHED else BATCH
    return Made(EVERY[name](tmp_path), batch_size, rows, EXPECTED.get(name, (X, Y)))


def feed_of(made, shuffle=False, seed=3, **more):
    return build_feed(made.source, batch_size=made.batch_size, shuffle=shuffle, seed=seed, **more)


def drawn(feed, first, count):
    feed.seek(first)
    return [tf.nest.map_structure(lambda part: part.numpy(), batch_at(feed.take(1), 0)) for _ in range(count)]


def rows_of(batch):
    """The indices of the examples of a batch; checks that labels go with them."""
    inputs, labels = batch[:2]
    rows = (tf.nest.flatten(inputs)[0].reshape(len(labels), -1)[:, 0] / 2).astype(int)
    np.testing.assert_array_equal(labels, Y[rows])
    return list(rows)


def all_rows(batches):
    return [row for batch in batches for row in rows_of(batch)]


def equal(one, other):
    tf.nest.map_structure(np.testing.assert_array_equal, one, other)


every = pytest.mark.parametrize("made", EVERY, indirect=True)
shuffled = pytest.mark.parametrize("made", SHUFFLED, indirect=True)


def checked(made, **more):
    return check_feed(made.source, batch_size=made.batch_size, seed=3, expected=made.expected, **more)


@pytest.mark.share(1)
@every
def test_p10_in_order_and_shuffled_it_is_complete_in_each_pass_and_found_again(made):
    report = checked(made, places=(7,))  # at every place in the slow tests
    left_out = {each.name for each in report.properties if each.verdict == "left out"}
    if made.batch_size is not None:
        assert left_out == {"snapshot"}
    elif isinstance(made.source, keras.utils.PyDataset):
        assert left_out == {"snapshot", "batch size", "rows"}
    else:
        assert left_out - {"snapshot"} == {"batch size", "rows", "order", "shards"}
    feed = feed_of(made)
    assert feed.steps_per_epoch == 6
    batches = drawn(feed, 0, 14)
    assert [len(batch[1]) for batch in batches[:7]] == [4, 4, 4, 4, 4, 3, 4]  # the last one is ragged
    for start in (0, 6):
        assert all_rows(batches[start : start + 6]) == list(made.rows)
    again = feed_of(made)  # of the same source
    for step in (5, 7, 11):
        equal(drawn(again, step, 2), batches[step : step + 2])
        equal(tf.nest.map_structure(np.asarray, again.batch(step)), batches[step])
    assert again.position(7) == feed.position(7)
    assert len(str(feed.position(7))) < 300


@pytest.mark.slow
@every
def test_p10_it_is_found_again_at_every_place(made):
    checked(made)


@pytest.mark.share(2)
@shuffled
def test_p08_shuffled_each_pass_has_an_order_of_its_own_and_is_found_again(made):
    batches = drawn(feed_of(made, shuffle=True), 0, 12)
    orders = [all_rows(batches[start : start + 6]) for start in (0, 6)]
    assert orders[0] != orders[1]
    for order in orders:
        assert sorted(order) == list(range(SIZE)) and order != list(made.rows)
    again = feed_of(made, shuffle=True)  # of the same source
    for step in (4, 7):
        equal(drawn(again, step, 5), batches[step : step + 5])
    other = drawn(feed_of(made, shuffle=True, seed=4), 0, 6)
    assert all_rows(other) != orders[0]


@pytest.mark.share(5)
@every
def test_it_is_cut_and_weighed(made):
    source, batch_size, rows, _ = made
    feed = feed_of(made, steps_per_epoch=4)  # an epoch goes on where the last one stopped
    assert feed.steps_per_epoch == 4
    limited = first_batches(source, 2, batch_size)
    feed = build_feed(limited, batch_size=batch_size, shuffle=False, seed=0)
    assert feed.steps_per_epoch == 2
    assert all_rows(drawn(feed, 0, 4)) == [*rows[:8], *rows[:8]]
    weighted, _ = split_and_weigh(source, None, None, {0: 2.0, "2": 0.5})
    feed = build_feed(weighted, batch_size=batch_size, shuffle=False, seed=0)
    assert len(feed.element_spec) == 3
    for _, labels, weights in drawn(feed, 0, 6):
        np.testing.assert_array_equal(weights, np.array([2.0, 1.0, 0.5], "float32")[labels])
    if batch_size is None:
        with pytest.raises(looplab.ConfigurationError, match=r"validation_split.*validation_data"):
            split_and_weigh(source, None, 0.3, None)
        return
    train, held_out = split_and_weigh(source, None, 0.3, None)
    feeds = [build_feed(part, batch_size=100, shuffle=False, seed=0) for part in (train, held_out)]
    found = [rows_of(drawn(feed, 0, 1)[0]) for feed in feeds]
    assert found == [list(rows[:16]), list(rows[16:])]


# --- errors: the person's own first, then the source and the element ------------------------------


def broken(kind, at):
    """A source whose code fails at an element, or gives something else there."""

    def mistake(number):
        if number == at[0]:
            if at[1] == "raise":
                raise KeyError("a mistake of mine")
            return X[:, :1]
        return X

    class BrokenItems(SequenceSource):
        def __getitem__(self, index):
            return mistake(index)[index], Y[index]

    class BrokenBatches(Batches):
        def __getitem__(self, index):
            rows = slice(index * BATCH, (index + 1) * BATCH)
            return mistake(index)[rows], Y[rows]

    def broken_generator():
        for number, start in enumerate(range(0, SIZE, BATCH)):
            yield mistake(number)[start : start + BATCH], Y[start : start + BATCH]

    return {"items": BrokenItems, "PyDataset": BrokenBatches, "generator": lambda: broken_generator}[kind]()


@pytest.mark.share(1)
@pytest.mark.fault(56)
@pytest.mark.parametrize(
    ("kind", "element", "named"),
    [
        ("items", 9, "example 9 (counted from 0) of 23 examples of BrokenItems"),
        ("PyDataset", 3, "batch 3 of 6 (counted from 0) of BrokenBatches"),
        ("generator", 3, "batch 3 (counted from 0) of the generator broken.<locals>.broken_generator"),
    ],
)
def test_an_exception_in_the_code_of_a_source_is_named_with_its_element(kind, element, named):
    trainer = looplab.Trainer(lambda: keras.Sequential([keras.layers.Dense(3, "softmax")]), "sgd", LOSS)
    data = broken(kind, (element, "raise"))
    options = {} if kind != "items" else {"batch_size": BATCH}
    with pytest.raises(looplab.DataError) as error:
        trainer.fit(data, steps=6, steps_per_epoch=6, shuffle=False, verbose=0, **options)
    said = str(error.value)
    assert said.startswith("KeyError: 'a mistake of mine' (") and "in mistake)" in said
    assert f"reading {named}" in said
    assert isinstance(error.value.__cause__.__cause__ or error.value.__cause__, Exception)


@pytest.mark.parametrize(("kind", "element"), [("items", 9), ("PyDataset", 3), ("generator", 3)])
def test_a_specification_that_changes_is_named_with_both(kind, element):
    batch_size = BATCH if kind == "items" else None
    feed = build_feed(
        broken(kind, (element, "change")), batch_size=batch_size, shuffle=False, seed=0, steps_per_epoch=6
    )
    with (
        pytest.raises(looplab.DataError, match=r"differ: expected .*2\], int64 \[.*got .*1\]") as error,
        explained(feed, 0, 6),
    ):
        drawn(feed, 0, 6)
    assert f" {element} " in str(error.value)


@pytest.mark.fault(56)
def test_an_exception_inside_a_pipeline_of_tf_data_is_named():
    def mine(number):
        if number == 3:
            raise KeyError("a mistake of mine")
        return X[:4]

    data = tf.data.Dataset.range(6).map(
        lambda n: tf.ensure_shape(tf.numpy_function(mine, [n], tf.float32), [4, 2])
    )
    trainer = looplab.Trainer(
        lambda: keras.Sequential([keras.layers.Dense(2)]), "sgd", "mse", steps_per_execution=1
    )
    with pytest.raises(looplab.DataError) as error:
        trainer.fit(data.map(lambda x: (x, x)), epochs=1, verbose=0)
    said = str(error.value)
    assert said.startswith("KeyError: 'a mistake of mine' (") and ", in mine)" in said
    assert "reading batch 3 (counted from 0 through all epochs) of the data: tf.data stream" in said


@pytest.mark.fault(59)
def test_a_damaged_record_is_named_with_file_and_place(tmp_path):
    pattern = write_records(tmp_path, parts=1)
    path = tmp_path / "part-0.tfrecord"
    good = path.read_bytes()
    path.write_bytes(good[:-10] + bytes([good[-10] ^ 1]) + good[-9:])
    feed = build_feed(records(pattern, parse), batch_size=SIZE, shuffle=False, seed=0)
    with (
        pytest.raises(
            looplab.DataError, match=r"DataLossError.*record 22 \(counted from 0, at byte \d+\) of"
        ) as e,
        explained(feed, 0, 1),
    ):
        drawn(feed, 0, 1)
    assert str(path) in str(e.value)
    path.write_bytes(good[:-5])
    with pytest.raises(looplab.DataError, match="cut off: record 22"):
        records(pattern, parse)
    with pytest.raises(looplab.DataError, match="no file"):
        records(str(tmp_path / "other-*"), parse)


def test_a_record_that_does_not_parse_is_named(tmp_path):
    pattern = write_records(tmp_path)

    def wrong(record):
        return tf.io.parse_single_example(record, {"z": tf.io.FixedLenFeature([], tf.int64)})

    with pytest.raises(looplab.DataError, match=r"Feature: z .*reading record 0 .*part-0\.tfrecord"):
        records(pattern, wrong)


def test_an_index_of_records_is_kept_and_not_used_for_another_file(tmp_path):
    pattern, folder = write_records(tmp_path, parts=1), tmp_path / "index"
    whole = list(tf.data.TFRecordDataset(pattern.replace("*", "part-0")).as_numpy_iterator())
    for _ in range(2):
        assert records(pattern, parse, index_dir=folder).size == SIZE
        (kept,) = folder.iterdir()
        np.testing.assert_array_equal(np.load(kept)[:3], [0, *np.cumsum([len(r) + 16 for r in whole[:2]])])
    with tf.io.TFRecordWriter(pattern.replace("*", "part-0")) as writer:
        writer.write(whole[0])
    assert records(pattern, parse, index_dir=folder).size == 1


@pytest.mark.fault(59)
def test_a_damaged_image_is_named(tmp_path):
    images(tmp_path)
    (tmp_path / "class_1" / "04.png").write_bytes(b"no image")
    feed = build_feed(image_folder(tmp_path, (2, 2), "grayscale"), batch_size=SIZE, shuffle=False, seed=0)
    says = r"InvalidArgumentError: .*image.*class_1/04\.png"
    with pytest.raises(looplab.DataError, match=says), explained(feed, 0, 1):
        drawn(feed, 0, 1)


def test_folders_without_images_and_wrong_arguments_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(looplab.DataError, match=r"no images.*\['a'\]"):
        image_folder(tmp_path)
    with pytest.raises(looplab.DataError, match="no folder"):
        image_folder(tmp_path / "none")
    with pytest.raises(looplab.ConfigurationError, match="Did you mean 'grayscale'"):
        image_folder(tmp_path, color_mode="greyscale")


@pytest.mark.parametrize(
    ("text", "options", "error", "says"),
    [
        ("a,b\n1,x\n", {}, looplab.DataError, "'b' has the value 'x', which is not a number"),
        ("a,b\n1,2\n,3\n", {}, looplab.DataError, r"'a' has no value in 1 of 2 rows; the first is row 1"),
        ("a,b\n", {}, looplab.DataError, "empty"),
        ("", {}, looplab.DataError, "EmptyDataError"),
        (
            "a,b\n1,2\n",
            {"target": "bb"},
            looplab.ConfigurationError,
            "target: .*no column 'bb'.*Did you mean 'b'",
        ),
    ],
)
def test_tables_that_cannot_be_used_say_why(tmp_path, text, options, error, says):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(error, match=says):
        table(tmp_path / "t.csv", **options)


def test_a_function_that_gives_the_same_generator_again_is_refused():
    running = generator()
    with pytest.raises(looplab.DataError, match="the same generator each time"):
        build_feed(lambda: running, batch_size=None, shuffle=False, seed=0)
    with pytest.raises(looplab.DataError, match="empty"):
        build_feed(lambda: iter(()), batch_size=None, shuffle=False, seed=0)


def test_a_memory_map_is_not_read_whole(tmp_path):
    path = tmp_path / "big.npy"
    np.lib.format.open_memmap(path, "w+", "float32", (2**20, 64)).flush()  # sparse: 256 MiB of nothing
    data = np.load(path, mmap_mode="r")
    feed = build_feed(data, batch_size=8, shuffle=False, seed=0)
    assert drawn(feed, 1000, 1)[0].shape == (8, 64)
    assert not any(isinstance(value, np.ndarray) and value.nbytes > 1000 for value in vars(feed).values())


class Turning(Batches):
    """Mixes its rows between epochs, with a generator of its own."""

    def __init__(self):
        super().__init__()
        self.generator, self.order, self.begun = np.random.default_rng(5), np.arange(SIZE), 0

    def __getitem__(self, index):
        rows = self.order[index * BATCH : (index + 1) * BATCH]
        return X[rows], Y[rows]

    def on_epoch_end(self):
        self.order = self.generator.permutation(self.order)

    def on_epoch_begin(self):
        self.begun += 1


@pytest.mark.slow
def test_on_epoch_end_is_called_between_passes_and_again_on_a_resume():
    def feed(dataset):
        return build_feed(dataset, batch_size=None, shuffle=True, seed=1)

    check_feed(Turning(), places=(0, 5, 7))
    dataset = Turning()
    whole = drawn(feed(dataset), 0, 18)
    assert dataset.begun == 2  # not for a fourth pass, which nobody asked for
    orders = [all_rows(whole[start : start + 6]) for start in (0, 6, 12)]
    assert all(sorted(order) == list(range(SIZE)) for order in orders)
    equal(drawn(feed(Turning()), 8, 10), whole[8:])
    evaluated = build_feed(dataset, batch_size=None, shuffle=False, seed=1)
    equal(drawn(evaluated, 0, 6), drawn(evaluated, 0, 6))
    assert dataset.begun == 2


def test_an_endless_py_dataset_needs_the_length_of_an_epoch():
    class Endless(Batches):
        num_batches = None

        def __getitem__(self, index):
            return np.full([2, 1], index, "float32")

    with pytest.raises(looplab.DataError, match="steps_per_epoch"):
        build_feed(Endless(), batch_size=None, shuffle=True, seed=0)
    feed = build_feed(Endless(), batch_size=None, shuffle=True, seed=0, steps_per_epoch=3)
    assert [batch[0, 0] for batch in drawn(feed, 5, 3)] == [5, 6, 7]


@pytest.mark.slow
def test_a_data_set_of_tensorflow_datasets_is_read_by_index(tmp_path):
    library = pytest.importorskip("tensorflow_datasets")

    class Tiny(library.core.GeneratorBasedBuilder):
        VERSION = library.core.Version("1.0.0")

        def _info(self):
            return self.dataset_info_from_configs(
                features=library.features.FeaturesDict({
                    "image": library.features.Tensor(shape=[2], dtype=np.float32),
                    "label": library.features.ClassLabel(num_classes=3),
                })
            )  # fmt: skip

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for row in range(SIZE):
                yield row, {"image": X[row], "label": int(Y[row])}

    Tiny(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    feed = build_feed(tfds("tiny", "train", data_dir=tmp_path), batch_size=BATCH, shuffle=True, seed=0)
    assert sorted(all_rows(drawn(feed, 0, 6))) == list(range(SIZE))
    with pytest.raises(looplab.ConfigurationError, match=r"no feature 'labels'.*Did you mean 'label'"):
        tfds("tiny", "train", target="labels", data_dir=tmp_path)
    with pytest.raises(looplab.DataError, match="reading the data set 'tyny'"):
        tfds("tyny", "train", data_dir=tmp_path)


def test_a_part_of_images_that_is_held_out_has_all_classes(tmp_path):
    images(tmp_path)
    labels = [image_folder(tmp_path).example(row)[1] for row in range(SIZE)]
    assert set(labels[-SIZE // 3 :]) == set(Y.tolist())


def test_classes_of_tables_that_belong_together_are_given(tmp_path):
    csv(tmp_path)
    _, labels = table(tmp_path / "t.csv", target="kind", classes=["kind 2", "kind 1", "kind 0"])
    np.testing.assert_array_equal(labels, 2 - Y)
    with pytest.raises(
        looplab.DataError, match=r"'kind' has .* row 1 .*'kind 1', 'kind 2'.*; the classes are 'kind 0'"
    ):
        table(tmp_path / "t.csv", target="kind", classes=["kind 0"])


def test_files_to_validate_with_have_the_classes_and_the_columns_of_the_first(tmp_path, caplog):
    train, one, other = (tmp_path / f"{name}.csv" for name in ("train", "one", "other"))
    train.write_text("a,b,kind\n1,2,ape\n3,4,cat\n5,6,dog\n")
    one.write_text("kind,b,a\ndog,8,7\ncat,10,9\n")  # which lacks a class, and has another order
    other.write_text("a,b,kind\n1,2,dog\n3,4,dgo\n")
    with caplog.at_level("INFO", "looplab"):
        data = table(train, target="kind", validation=one)
    assert [record.getMessage() for record in caplog.records] == ["classes of kind: 0 ape, 1 cat, 2 dog"]
    np.testing.assert_array_equal(data["train"][1], [0, 1, 2])
    np.testing.assert_array_equal(data["validation"][1], [2, 1])
    np.testing.assert_array_equal(data["validation"][0], [[7, 8], [9, 10]])
    assert list(table(train, target="kind", validation={"x": one, "y": train})) == ["train", "x", "y"]
    says = r"other.csv: .*value 'dgo' in row 1 .*not a class; .*train.csv are 'ape', 'cat', 'dog'.*'dog'\?"
    with pytest.raises(looplab.DataError, match=says):
        table(train, target="kind", validation={"x": one, "y": other})


@pytest.mark.slow
def test_a_generator_that_fails_while_it_is_counted_is_named():
    def batches():
        yield X[:4], Y[:4]
        yield X[:4], Y[:4]
        raise RuntimeError("boom")

    with pytest.raises(looplab.DataError, match=r"RuntimeError: boom .*test_contract.py.*batch 2"):
        build_feed(batches, batch_size=None, shuffle=False, seed=0)
