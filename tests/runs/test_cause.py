"""The cause of a failure is what the person's own code said, and where; whatever is put around it."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
import looplab.trainer
from looplab.runs import cause, crash_report
from looplab.runs.directory import ending
from tests.conftest import make_strategy

X = np.ones((8, 3), "float32")
Y = np.ones((8, 1), "float32")
MISSING = "the weights file of the teacher is missing"


class Odd(Exception):
    """Cannot be made from one message, as TensorFlow and Keras make exceptions anew."""

    def __init__(self, name, *, place):
        super().__init__(f"{name} is not at {place}")


def missing(*_):
    raise ValueError(MISSING)


def odd(*_):
    raise Odd("the teacher", place="home")


def of_another(*_):
    try:
        {}["teacher"]
    except KeyError as error:
        raise RuntimeError("no teacher was named") from error


def in_lines(*_):
    raise ValueError("the first sentence.\nAnd the second\n  in three lines")


def silent(*_):
    raise NotImplementedError


def with_words_of_its_own(*_):
    try:
        keras.layers.Dense(1)(tf.ones([]))
    except ValueError as error:
        raise Odd("the head", place="its input") from error


def while_it_handles_another(*_):
    try:
        missing()
    except ValueError:
        tf.matmul(tf.ones([2, 3]), tf.ones([5, 2]))


class Layer(keras.layers.Layer):
    def __init__(self, act, **named):
        super().__init__(**named)
        self.act = act

    def call(self, x):
        self.act()
        return x


class OwnModel(keras.Model):
    def __init__(self):
        super().__init__()
        self.head = keras.layers.Dense(1, name="head")
        self.head.build((None, 7))

    def call(self, x):
        return self.head(x)


class OwnLoss(keras.losses.Loss):
    def call(self, targets, predictions):
        missing()


class OwnMetric(keras.metrics.Mean):
    def update_state(self, *_, **__):
        missing()


class OwnKerasCallback(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        missing()


class OwnCallback(looplab.Callback):
    every = 1
    on_failure = "critical"

    def on_step(self, event, controls):
        missing()


def model(*layers):
    return lambda: keras.Sequential([*(layer() for layer in layers), keras.layers.Dense(1)])


def trainer(act, method="compute_loss", **given):
    """A trainer that acts in a method of its own, before what the method does else."""

    def acts(self, *arguments, **named):
        act(*arguments)
        return getattr(looplab.Trainer, method)(self, *arguments, **named)

    kind = type("Own", (looplab.Trainer,), {method: acts})
    arguments = {"model": model(), "optimizer": "sgd", "loss": "mse", "execution": "graph", **given}
    return kind(arguments.pop("model"), **arguments)


def also(compute):
    """A trainer with another term in its loss: whatever is computed of the inputs, which counts nothing."""

    def compute_loss(self, batch, training):
        nothing = tf.zeros(tf.shape(batch[0])[:1]) * tf.reduce_sum(
            tf.cast(compute(self, batch[0]), tf.float32)
        )
        return {"own": looplab.Trainer.compute_loss(self, batch, training), "nothing": nothing}

    def made(**given):
        return type("Own", (looplab.Trainer,), {"compute_loss": compute_loss})(
            model(), "sgd", "mse", execution="graph", **given
        )

    return made


@tf.function
def compiled(x):
    missing()
    return x


def python_function(kind, act):
    return also(lambda self, x: kind(lambda own: act() or own, [x], tf.float32))


def checked(self, x):
    tf.debugging.assert_less(x, 0.5, message="inputs lie below a half")
    return x


def does_not_fit(self, x):
    return tf.matmul(x, tf.ones([5, 2]))


def does_not_fit_later(self, x):
    return tf.matmul(x, tf.ones([5 + tf.cast(self.step, tf.int32), 2]))


def not_a_number(self, x):
    return tf.debugging.check_numerics(x / 0.0, "the ratio is not finite")


# By what raises: how a trainer is made, the type, the sentence, and the function that raised it.
CASES = {
    "compute_loss": (lambda **g: trainer(missing, **g), "ValueError", MISSING, missing),
    "train_step": (lambda **g: trainer(missing, "train_step", **g), "ValueError", MISSING, missing),
    "test_step": (lambda **g: trainer(missing, "test_step", **g), "ValueError", MISSING, missing),
    "setup": (lambda **g: trainer(missing, "setup", **g), "ValueError", MISSING, missing),
    "an odd type": (lambda **g: trainer(odd, **g), "Odd", "the teacher is not at home", odd),
    "from another": (
        lambda **g: trainer(of_another, **g),
        "RuntimeError",
        "no teacher was named",
        of_another,
    ),
    "several lines": (lambda **g: trainer(in_lines, **g), "ValueError", "the first sentence", in_lines),
    "no message": (lambda **g: trainer(silent, **g), "NotImplementedError", "", silent),
    "its own words for Keras'": (
        lambda **g: trainer(with_words_of_its_own, "setup", **g),
        "Odd",
        "the head is not at its input",
        with_words_of_its_own,
    ),
    "while it handles another": (
        lambda **g: trainer(while_it_handles_another, "setup", **g),
        "InvalidArgumentError",
        "Matrix size-incompatible: In[0]: [2,3], In[1]: [5,2]",
        while_it_handles_another,
    ),
    "a layer": (
        lambda **g: trainer(len, model=model(lambda: Layer(missing, name="odd_one")), **g),
        "ValueError",
        MISSING,
        missing,
    ),
    "an odd type in a layer": (
        lambda **g: trainer(len, model=model(lambda: Layer(odd, name="odd_one")), **g),
        "Odd",
        "the teacher is not at home",
        odd,
    ),
    "a shape that a layer refuses": (
        lambda **g: trainer(len, model=OwnModel, **g),
        "ValueError",
        "Input 0 with name 'None' of layer 'head' is incompatible with the layer: expected axis -1 of input "
        "shape to have value 7, but received input with shape (8, 3)",
        OwnModel.call,
    ),
    "a loss": (lambda **g: trainer(len, loss=OwnLoss(), **g), "ValueError", MISSING, missing),
    "a metric": (lambda **g: trainer(len, metrics=[OwnMetric()], **g), "ValueError", MISSING, missing),
    "a tf.function": (also(lambda self, x: compiled(x)), "ValueError", MISSING, missing),
    "a tf.py_function": (python_function(tf.py_function, missing), "ValueError", MISSING, missing),
    "a tf.numpy_function": (python_function(tf.numpy_function, missing), "ValueError", MISSING, missing),
    "an odd type in a tf.py_function": (
        python_function(tf.py_function, odd),
        "Odd",
        "the teacher is not at home",
        odd,
    ),
    "an assertion": (
        also(checked),
        "InvalidArgumentError",
        "assertion failed: inputs lie below a half [Condition x < y did not hold element-wise:] [x (",
        checked,
    ),
    "check_numerics": (
        also(not_a_number),
        "InvalidArgumentError",
        "the ratio is not finite : Tensor had ",
        not_a_number,
    ),
    "shapes that do not fit": (
        also(does_not_fit),
        "ValueError",
        "Dimensions must be equal, but are 3 and 5 for",
        does_not_fit,
    ),
    "shapes that do not fit in the loop": (
        also(does_not_fit_later),
        "InvalidArgumentError",
        "Matrix size-incompatible: In[0]: [8,3], In[1]: [5,2]",
        does_not_fit_later,
    ),
    "a Keras callback": (
        lambda **g: trainer(len, callbacks=[OwnKerasCallback()], **g),
        "ValueError",
        MISSING,
        missing,
    ),
    "a callback": (
        lambda **g: trainer(len, callbacks=[OwnCallback()], **g),
        "ValueError",
        MISSING,
        missing,
    ),
}
ON_TWO = ["compute_loss", "an odd type", "an odd type in a layer", "a tf.py_function", "an assertion"]
EAGERLY = ["compute_loss", "a layer", "an odd type in a layer", "a tf.py_function", "check_numerics"]


def place_of(function):
    """Where code is: a pattern for its file, any of its lines, and its name."""
    return rf"{re.escape(__file__)}, line \d+, in (<lambda>|{function.__name__})"


def check(error, kind, sentence, function):
    reason = ending(error)["reason"]
    first, *more = reason.splitlines()
    assert first.startswith(f"{kind}: {sentence}" if sentence else f"{kind} ("), reason
    assert re.search(place_of(function), first), reason
    for noise in ("in user code", "Graph execution", "Exception encountered", "StagingError", "[[{{", "\x1b"):
        assert noise not in reason
    assert len(first) < 600
    return first, more


def raised(make, data=(X, Y), **given):
    with pytest.raises(Exception) as caught:
        make(**given).fit(*data, validation_data=(X, Y), batch_size=8, epochs=2, verbose=0)
    return caught.value


@pytest.mark.share(5)
@pytest.mark.parametrize("name", CASES)
def test_the_cause_is_the_persons_own_sentence(name):
    make, *expected = CASES[name]
    first, more = check(raised(make), *expected)
    assert more == (["And the second", "  in three lines"] if name == "several lines" else [])
    named = {
        "a layer": "odd_one",
        "an odd type in a layer": "odd_one",
        "a shape that a layer refuses": "head",
    }
    assert named.get(name, "") in first
    if name.endswith("callback"):
        assert first.endswith(" at step 0)") or first.endswith(" at step 1)")


@pytest.mark.share(2)
@pytest.mark.parametrize("name", ON_TWO)
def test_the_cause_is_the_same_under_two_replicas(name):
    make, *expected = CASES[name]
    check(raised(make, strategy=make_strategy(2)), *expected)


@pytest.mark.parametrize("name", EAGERLY)
def test_the_cause_is_the_same_in_python(name):
    make, *expected = CASES[name]
    check(raised(lambda: make(run_eagerly=True)), *expected)


def test_the_layer_is_named_and_the_persons_line_that_called_it_if_there_is_one():
    def seven():
        return keras.Sequential([keras.layers.Reshape((7,), name="seven")])

    plain = looplab.Trainer(seven, "sgd", "mse", execution="graph")
    for made, place in ((plain, ""), (trainer(len, model=seven), rf"; {__file__}, line \d+, in acts")):
        reason = ending(raised(lambda made=made: made))["reason"]
        assert reason.startswith("ValueError: The total size of the tensor must be unchanged.")
        assert re.search(rf"\(in the layer 'seven'{place}\)$", reason), reason


def test_a_prediction_fails_with_the_persons_sentence():
    made = trainer(missing, "predict_step")
    with pytest.raises(ValueError, match=MISSING) as caught:
        made.predict(X)
    check(caught.value, "ValueError", MISSING, missing)


def of_a_dataset():
    def yields():
        yield X[:4], Y[:4]
        missing()

    spec = tf.TensorSpec([4, 3]), tf.TensorSpec([4, 1])
    return tf.data.Dataset.from_generator(yields, output_signature=spec)


def of_a_map():
    def loads(x, y):
        own = tf.py_function(lambda own: missing() or own, [x], tf.float32)
        return tf.ensure_shape(own, [3]), y

    return tf.data.Dataset.from_tensor_slices((X, Y)).map(loads).batch(4)


def of_a_generator():
    def yields():
        yield X[:4], Y[:4]
        missing()

    return yields


@pytest.mark.share(2)
@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("data", [of_a_dataset, of_a_map, of_a_generator])
def test_data_fails_with_the_persons_sentence(data, replicas):
    made = trainer(len, strategy=make_strategy(replicas))
    with pytest.raises(looplab.errors.DataError) as caught:
        made.fit(data(), steps=4, verbose=0)
    check(caught.value, "ValueError", MISSING, missing)


def test_make_batch_fails_with_the_persons_sentence():
    made = trainer(missing, "make_batch")
    with pytest.raises(ValueError, match=MISSING) as caught:
        made.fit(steps=2, verbose=0)
    check(caught.value, "ValueError", MISSING, missing)


def test_looplabs_own_errors_come_out_of_a_step_as_they_are():
    def refuses(*_):
        raise looplab.errors.Refused([looplab.errors.Problem("data", "there is none")])

    within = [
        lambda: trainer(refuses),
        lambda: trainer(refuses, "test_step"),
        lambda: trainer(len, model=model(lambda: Layer(refuses))),
        lambda: trainer(len, model=model(lambda: Layer(refuses)), strategy=make_strategy(2)),
    ]
    for make in within:
        error = raised(make)
        assert type(error) is looplab.errors.Refused and str(error) == "data: there is none"
        assert ending(error) == {"status": "refused", "exit_code": 2, "reason": "data: there is none"}


def test_the_report_the_outcome_and_the_line_of_a_run_say_the_cause(tmp_path):
    def made(**given):
        return trainer(in_lines, "test_step", run_dir=tmp_path, **given)

    error = raised(made)
    first, more = check(error, "ValueError", "the first sentence", in_lines)
    reason = looplab.runs.directory.read_json(tmp_path / "outcome.json")["reason"]
    assert reason.splitlines() == [first, *more]
    report = (tmp_path / crash_report.REPORT).read_text()
    assert report.startswith(f"# {first}\n") and "\nAnd the second\n  in three lines\n" in report
    assert f'"cause": "{first}"' in crash_report.line(ending(error))


class Settings(dict):
    def __missing__(self, name):
        raise KeyError(name)


@tf.autograph.experimental.do_not_convert
def looks_up():
    return Settings()["teacher"]


def of_another_in_a_step(*_):
    try:
        looks_up()
    except KeyError:
        raise RuntimeError("no teacher was named")  # noqa: B904 - as people write it


def test_words_of_their_own_for_an_error_are_the_cause_in_a_step_too():
    error = raised(lambda: trainer(of_another_in_a_step))
    check(error, "RuntimeError", "no teacher was named", of_another_in_a_step)


@pytest.mark.parametrize(("package", "follows"), [("looplab", False), ("keras", True)])
def test_an_installed_looplab_is_not_taken_for_a_library_that_wraps(package, follows, monkeypatch):
    monkeypatch.setattr(cause, "_LOOPLAB", "/venv/lib/python3.11/site-packages/looplab")
    code = """
def reads(function):
    try:
        function()
    except ValueError as error:
        raise OSError("in the words of a library") from error
"""
    names = {}
    exec(compile(code, f"/venv/lib/python3.11/site-packages/{package}/code.py", "exec"), names)
    with pytest.raises(OSError, match="in the words") as caught:
        names["reads"](missing)
    assert isinstance(cause.origin(caught.value), ValueError) == follows


def test_the_innermost_line_is_the_persons_not_that_which_called_looplab():
    inside = cause.Frame(looplab.trainer.__file__, 1, "fit")
    called, own = cause.Frame("/project/run.py", 1, "main"), cause.Frame("/project/net.py", 2, "call")
    library = cause.Frame("/venv/lib/site-packages/keras/layer.py", 3, "__call__")
    assert cause.own([called, inside, library]) is None
    assert cause.own([called, inside, own, library]) == own
    assert cause.own([called, library]) == called
    example = cause.Frame(looplab.trainer.__file__.replace("trainer", "examples/gan"), 4, "train_step")
    assert cause.own([called, inside, example, inside]) == example
