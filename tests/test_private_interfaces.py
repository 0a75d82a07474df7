"""The private interfaces of Keras and TensorFlow that looplab leans on, all of them, one test each.

A test that fails here after an upgrade names the place that must be looked at.
"""

import keras
import pytest
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.backend.common.stateless_scope import in_stateless_scope
from keras.src.saving.saving_lib import NpzIOStore, _save_state
from tensorflow.python.autograph.core import config as autograph
from tensorflow.python.autograph.core import config_lib
from tensorflow.python.framework import auto_control_deps_utils, config
from tensorflow.python.lib.io import tf_record
from tensorflow.python.ops import gen_stateless_random_ops_v2, random_ops_util


def test_seeded_random_numbers_come_from_functions_that_can_be_replaced(monkeypatch):
    """philox.py replaces these three, so that XLA draws what the kernels draw."""
    called = []

    def note(module, name):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **k: called.append(name) or original(*a, **k))

    note(random_ops_util, "get_key_counter_alg")
    note(gen_stateless_random_ops_v2, "stateless_random_uniform_v2")
    note(gen_stateless_random_ops_v2, "stateless_random_normal_v2")
    tf.nn.experimental.stateless_dropout(tf.ones([1]), 0.5, seed=[0, 1])
    tf.random.stateless_normal([1], [0, 1])
    own = "get_key_counter_alg"
    assert called == [own, "stateless_random_uniform_v2", own, "stateless_random_normal_v2"]


def test_autograph_asks_rules_what_to_translate():
    """translation.py puts two before them; the first that fits counts."""
    assert any(isinstance(rule, config_lib.DoNotConvert) for rule in autograph.CONVERSION_RULES)
    rule = config_lib.DoNotConvert("some.room")
    assert rule.matches("some.room.inside") and not rule.matches("some.roommate")
    unknown = tf.__internal__.autograph.control_status_ctx()
    assert tf.__internal__.autograph.tf_convert(len, unknown, convert_by_default=False)([1]) == 1


def test_errors_with_an_attribute_are_handed_on_as_they_are():
    """errors.py has these: AutoGraph and Keras make no other exception of looplab's own."""

    class Own(Exception):
        ag_pass_through = True
        _keras_call_info_injected = True

    class Layer(keras.layers.Layer):
        def call(self, x):
            raise Own("mine")

    layer = Layer()
    for call in (layer, tf.function(lambda x: layer(x), autograph=True)):
        with pytest.raises(Own, match=r"^mine$"):
            call(tf.ones([1]))


def test_autograph_keeps_the_lines_as_they_were_written():
    """cause.py reads them, of the exception of which AutoGraph has made another."""

    def raises(x):
        raise ValueError("mine")

    with pytest.raises(ValueError, match=r"^in user code:") as caught:
        tf.function(raises)(tf.ones([1]))
    innermost = caught.value.__context__.ag_error_metadata.translated_stack[0]
    assert (innermost.filename, innermost.function_name) == (__file__, "raises")
    assert innermost.lineno == raises.__code__.co_firstlineno + 1


def test_a_function_is_called_through_its_class_and_has_what_it_was_made_of():
    """inlined.py replaces `__call__`, and calls what is inside as the decorator would have it traced."""
    function = tf.function(len, autograph=False, jit_compile=True)
    assert type(function).__call__.__module__ == "looplab.execution.inlined"
    assert function.python_function is len and function._autograph is False and function._jit_compile is True
    assert function.input_signature is None


def test_keras_infers_shapes_in_a_scope_that_can_be_asked_for():
    """inlined.py keeps no trace that is made there: weights are placeholders."""
    seen = []

    class Layer(keras.layers.Layer):
        def call(self, x):
            seen.append(in_stateless_scope())
            return x

    Layer()(keras.Input((2,)))
    Layer()(tf.zeros([1, 2]))
    assert seen == [True, False]


def test_optimizer_reduces_through_all_reduce_sum_gradients():
    """optimization/update.py replaces it: gradients arrive reduced."""
    optimizer = keras.optimizers.SGD(1.0)
    variable = keras.Variable([1.0])
    optimizer.build([variable])
    seen = []
    optimizer._all_reduce_sum_gradients = lambda pairs: seen.append(True) or list(pairs)
    optimizer.apply([tf.constant([0.5])], [variable])
    assert seen and variable.numpy() == [0.5]


def test_optimizer_keeps_averages_beside_its_variables():
    """optimization/averages.py reads both, and computes the averages itself."""
    optimizer = keras.optimizers.SGD(1.0, use_ema=True)
    variable = keras.Variable([1.0])
    optimizer.build([variable])
    assert optimizer._trainable_variables == [variable]
    (average,) = optimizer._model_variables_moving_average
    seen = []
    optimizer._update_model_variables_moving_average = seen.append
    optimizer.apply([tf.constant([0.5])], [variable])
    assert seen == [[variable]] and average.numpy() == [0.0]


def test_optimizer_clips_decays_and_updates_inside_of_backend_apply_gradients():
    """optimization/numbers.py wraps it: before it an optimizer gets its numbers as doubles."""
    optimizer = keras.optimizers.SGD(1.0, clipvalue=1.0, weight_decay=0.5)
    variable = keras.Variable([1.0])
    optimizer.build([variable])
    apply, called = optimizer._backend_apply_gradients, []
    optimizer._clip_gradients = lambda gradients: called.append("clip") or gradients
    optimizer._apply_weight_decay = lambda variables: called.append("decay")
    optimizer._backend_apply_gradients = lambda *arguments: called.append("apply") or apply(*arguments)
    optimizer.apply([tf.constant([0.5])], [variable])
    assert called == ["apply", "clip", "decay"]


def test_optimizer_updates_through_update_step_and_decays_before_it():
    """optimization/groups.py wraps the one and replaces the other."""
    optimizer = keras.optimizers.SGD(1.0, weight_decay=0.5)
    variable = keras.Variable([1.0])
    optimizer.build([variable])
    called = []
    optimizer._apply_weight_decay = lambda variables: called.append("decay")
    optimizer.update_step = lambda gradient, own, rate: called.append(
        optimizer._var_key(own) == optimizer._var_key(variable) and optimizer._use_weight_decay(variable)
    )
    optimizer.apply([tf.constant([0.5])], [variable])
    assert called == ["decay", True]


def test_optimizer_keeps_its_schedule_in_learning_rate():
    """optimizers.py reads it: the public property only gives the value."""
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
    assert keras.optimizers.SGD(schedule)._learning_rate is schedule
    assert float(keras.optimizers.SGD(0.5)._learning_rate.numpy()) == 0.5


def test_optimizer_hands_a_rate_to_what_its_learning_rate_is():
    """schedule.py takes it: `optimizer.learning_rate = x` calls `assign` of anything but a schedule."""

    class Rate:
        def __call__(self):
            return 0.5

        def assign(self, rate):
            self.assigned = rate

    optimizer, rate = keras.optimizers.SGD(0.1), Rate()
    optimizer.learning_rate = rate
    assert optimizer.learning_rate == 0.5
    optimizer.learning_rate = 0.25
    assert rate.assigned == 0.25 and optimizer._learning_rate is rate


def test_records_are_read_by_offset(tmp_path):
    """data/records.py finds a record by its place in the file; the checksums are TensorFlow's to check."""
    path = str(tmp_path / "two")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(b"one")
        writer.write(b"two")
    assert tf_record.tf_record_random_reader(path).read(3 + 16) == (b"two", 2 * (3 + 16))


def test_masks_hang_on_tensors():
    """optimization/terms.py reads the mask of a model's output."""
    embedded = keras.layers.Embedding(3, 2, mask_zero=True)(tf.constant([[0, 1]]))
    assert embedded._keras_mask.numpy().tolist() == [[False, True]]


def test_the_path_of_a_variable_can_be_set():
    """remake.py gives those of a clone the paths of the original."""
    variable = keras.Variable([1.0])
    variable._path = "encoder/dense/kernel"
    assert variable.path == "encoder/dense/kernel"


def test_exclusions_from_weight_decay_are_kept_beside_the_configuration():
    """assembly.py hands them on."""
    optimizer = keras.optimizers.AdamW(weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    assert not optimizer._exclude_from_weight_decay
    assert optimizer._exclude_from_weight_decay_pattern.pattern == "bias"


def test_layers_can_be_walked():
    """batch_norm.py finds every BatchNormalization, also in lists and dicts."""

    class Nested(keras.Model):
        def __init__(self):
            super().__init__()
            self.kept = {"a": [keras.Sequential([keras.layers.BatchNormalization()])]}

    kinds = [type(layer).__name__ for layer in Nested()._flatten_layers()]
    assert "BatchNormalization" in kinds


def test_seed_generators_are_variables_by_name():
    """random.py tells them from other variables by their name."""
    names = [v.name for v in keras.layers.Dropout(0.5).variables]
    assert names == ["seed_generator_state"]


def test_graphs_know_the_functions_they_call():
    """memory.py looks into them: the public interface gives their names only."""
    inner = tf.function(lambda x: x + 1)
    graph = tf.function(lambda x: inner(x)).get_concrete_function(tf.TensorSpec([2])).graph
    (call,) = [op for op in graph.get_operations() if op.type.endswith("PartitionedCall")]
    kinds = [op.type for op in graph._get_function(call.get_attr("f").name).graph.get_operations()]
    assert "AddV2" in kinds


def test_slots_are_named_after_their_variables():
    """state.py names a slot by the variable it belongs to."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="head")])
    optimizer = keras.optimizers.SGD(momentum=0.5)
    optimizer.build(model.trainable_variables)
    path = model.trainable_variables[0].path.replace("/", "_")
    assert [v for v in optimizer.variables if v.path.split("/")[-1].startswith(f"{path}_")]


def test_batch_normalization_takes_its_moments_from_one_method():
    """batch_norm.py replaces it: Keras forgets the other replicas where there is a mask."""
    layer = keras.layers.BatchNormalization(momentum=0.0)
    layer.build((None, 2))
    assert list(layer._reduction_axes) == [0]
    layer._moments = lambda inputs, mask: (tf.constant([1.0, 2.0]), tf.constant([3.0, 4.0]))
    layer(tf.zeros([5, 2]), training=True)
    assert layer.moving_mean.numpy().tolist() == [1.0, 2.0]
    assert layer.moving_variance.numpy().tolist() == [3.0, 4.0]


def test_tensorflow_tells_whether_operations_are_deterministic():
    """devices.py records it; tests/test_devices.py turns it on, in another process."""
    assert config.is_op_determinism_enabled() is False


def test_what_keras_saves_goes_to_a_store_that_can_be_another():
    """warm_start/keras_names.py notes there which variable is called what, and the names of layers."""
    made = {}

    class Noted(NpzIOStore):
        def __init__(self):
            pass

        def make(self, path, metadata=None):
            return made.setdefault((path, (metadata or {}).get("name")), {})

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="head")], name="whole")
    _save_state(model, weights_store=Noted(), assets_store=None, inner_path="", visited_saveables=set())
    (layer,) = [own for (path, name), own in made.items() if (path, name) == ("layers/dense", "head")]
    assert layer == {"0": model.layers[0].kernel, "1": model.layers[0].bias}
    assert ("", "whole") in made


def test_operations_tell_which_resources_they_change():
    """audit/variables.py asks of each consumer of a captured handle."""
    read, written = tf.Variable(1.0), tf.Variable(1.0)
    inner = tf.function(lambda: written.assign_add(read))
    graph = tf.function(lambda: inner()).get_concrete_function().graph
    changed = {
        id(outside)
        for outside, inside in graph.captures
        for operation in inside.consumers()
        if any(inside is one for one in auto_control_deps_utils.get_read_write_resource_inputs(operation)[1])
    }
    assert id(written.handle) in changed and id(read.handle) not in changed


def test_keras_global_seed_generator_is_found_where_it_is_kept():
    """audit/variables.py tells its state from other variables, and must not make one."""
    keras.random.normal((1,))
    generator = global_state.get_global_attribute("global_seed_generator")
    assert isinstance(generator, keras.random.SeedGenerator)


def test_datasets_know_what_they_are_made_of():
    """audit/streams.py walks over them, their functions, and the seeds of a shuffle."""
    mapped = tf.data.Dataset.range(3).shuffle(2, seed=4).map(lambda x: x + 1)
    (shuffled,) = mapped._inputs()
    assert int(shuffled._seed2) == 4 and int(shuffled._buffer_size) == 2
    assert int(shuffled._seed) >= 0 and shuffled._reshuffle_each_iteration is not False
    (function,) = mapped._functions()
    assert "AddV2" in [operation.type for operation in function.function.graph.get_operations()]
    loose = tf.data.Dataset.range(3).map(lambda x: x, num_parallel_calls=2, deterministic=False)
    assert loose._deterministic == "false"
    random = tf.data.Dataset.random(seed=3)
    assert int(random._seed2) == 3 and int(random._seed) >= 0
