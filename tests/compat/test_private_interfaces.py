"""What others do behind the private names that looplab uses; `looplab.compat.registry` lists the names.

An entry of the registry names its test. If one fails after an upgrade, the entry says where to look.
"""

import copy
from types import SimpleNamespace

import keras
import pytest
import tensorflow as tf
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import create_defaults_list
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_automatic_config_search_path, get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from keras.src.backend.common import global_state
from keras.src.backend.common.stateless_scope import in_stateless_scope
from keras.src.backend.common.variables import AutocastScope
from keras.src.saving.saving_lib import NpzIOStore, _save_state
from keras.src.trainers import compile_utils
from omegaconf import OmegaConf
from tensorflow.python.autograph.core import ag_ctx, config_lib
from tensorflow.python.autograph.core import config as autograph
from tensorflow.python.autograph.operators import conditional_expressions, control_flow
from tensorflow.python.framework import auto_control_deps_utils, config
from tensorflow.python.lib.io import tf_record
from tensorflow.python.ops import gen_stateless_random_ops_v2, random_ops_util, stateless_random_ops

from looplab.compat import patches
from looplab.execution import inline_functions


def test_seeded_random_numbers_come_from_functions_that_can_be_replaced(monkeypatch):
    """They are replaced, so that XLA draws what the kernels draw."""
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


def test_seeded_draws_reach_their_kernels_through_two_names():
    """What stands there in their place sees each draw, with the arguments of the kernel by name."""
    old, new = stateless_random_ops.gen_stateless_random_ops, stateless_random_ops.gen_stateless_random_ops_v2
    seen = []
    before = old._drawn
    try:
        old._drawn = new._drawn = lambda call: seen.append(call) or call.run()
        tf.nn.experimental.stateless_dropout(tf.ones([2, 3]), 0.5, seed=[0, 1])
        tf.random.stateless_categorical([[0.0, 1.0]], 2, [0, 1])
        tf.random.split([0, 1], 3)
    finally:
        old._drawn = new._drawn = before
    kinds = ["stateless_random_uniform_v2", "stateless_multinomial", "stateless_random_uniform_full_int_v2"]
    assert [call.kind for call in seen] == kinds
    assert [call.shape for call in seen] == [(2, 3), (1, 2), (3, 2)]
    assert {"key", "counter", "shape", "alg"} <= seen[0].arguments.keys()


def test_a_recomputed_layer_is_run_by_recompute_grad(monkeypatch):
    """Keras calls it by this name, and it calls its function again in the backward pass."""
    called = []
    original = tf.recompute_grad
    monkeypatch.setattr(tf, "recompute_grad", lambda f: original(lambda x: called.append(1) or f(x)))
    with tf.GradientTape() as tape:
        x = tf.ones([2])
        tape.watch(x)
        y = keras.remat(lambda x: x * x)(x)
    assert called == [1]
    tape.gradient(y, x)
    assert called == [1, 1]


def test_autograph_asks_rules_what_to_translate():
    """Two are put before them; the first that fits counts."""
    assert any(isinstance(rule, config_lib.DoNotConvert) for rule in autograph.CONVERSION_RULES)
    rule = config_lib.DoNotConvert("some.room")
    assert rule.matches("some.room.inside") and not rule.matches("some.roommate")
    unknown = tf.__internal__.autograph.control_status_ctx()
    assert tf.__internal__.autograph.tf_convert(len, unknown, convert_by_default=False)([1]) == 1


def test_errors_with_an_attribute_are_handed_on_as_they_are():
    """AutoGraph and Keras make no other exception of looplab's own."""

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
    """They hang on the exception of which AutoGraph has made another."""

    def raises(x):
        raise ValueError("mine")

    with pytest.raises(ValueError, match=r"^in user code:") as caught:
        tf.function(raises)(tf.ones([1]))
    innermost = caught.value.__context__.ag_error_metadata.translated_stack[0]
    assert (innermost.filename, innermost.function_name) == (__file__, "raises")
    assert innermost.lineno == raises.__code__.co_firstlineno + 1


def test_a_function_is_called_through_its_class_and_has_what_it_was_made_of():
    """The call is replaced, and what is inside is called as the decorator would have it traced."""
    function = tf.function(len, autograph=False, jit_compile=True)
    assert (
        type(function).__call__.__module__
        == inline_functions.__name__
        == "looplab.execution.inline_functions"
    )
    assert function.python_function is len and function._autograph is False and function._jit_compile is True
    assert function.input_signature is None


def test_keras_infers_shapes_in_a_scope_that_can_be_asked_for():
    """No trace that is made there is kept: weights are placeholders."""
    seen = []

    class Layer(keras.layers.Layer):
        def call(self, x):
            seen.append(in_stateless_scope())
            return x

    Layer()(keras.Input((2,)))
    Layer()(tf.zeros([1, 2]))
    assert seen == [True, False]


def test_inner_layers_inherit_from_a_context_that_can_be_kept():
    """A call that is made again later has the same `training`; it is copied, since calls change it."""
    seen = []

    class Inner(keras.layers.Layer):
        def call(self, x, training=None):
            seen.append(training)
            return x

    class Outer(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = Inner()

        def call(self, x):
            self.kept = copy.copy(self.inner._get_call_context())
            return self.inner(x)

    outer, x = Outer(), tf.zeros([1, 2])
    outer(x, training=True)
    outer._maybe_reset_call_context()
    assert global_state.get_global_attribute("current_call_ctx") is None
    outer.inner(x)
    global_state.set_global_attribute("current_call_ctx", outer.kept)
    outer.inner(x)
    global_state.set_global_attribute("current_call_ctx", None)
    assert seen[-3:] == [True, None, True]  # and once where Keras infers a shape


def test_a_scope_without_a_dtype_gives_values_as_they_are_stored():
    variable = keras.Variable([1.0])
    with AutocastScope("float16"):
        assert variable.value.dtype == tf.float16
        with AutocastScope(None):
            assert variable.value.dtype == tf.float32


def test_layers_keep_the_losses_that_they_add_in_a_field():
    """Each replica gets one of its own, and all of this goes through three methods."""

    class Adds(keras.layers.Layer):
        def call(self, x):
            self.add_loss(keras.ops.sum(x))
            return x

    layer = Adds()
    model = keras.Sequential([layer])
    for value in (1.0, 2.0):  # the second call clears what the first one added
        model(tf.fill([1], value))
        assert [float(loss) for loss in vars(layer)["_losses"]] == [value]
    assert len(layer._get_own_losses()) == len(model.losses) == 1
    layer._clear_losses()
    assert not model.losses and not vars(layer)["_losses"]


def test_optimizer_reduces_through_all_reduce_sum_gradients():
    """It is taken out: gradients arrive reduced."""
    optimizer = keras.optimizers.SGD(1.0)
    variable = keras.Variable([1.0])
    optimizer.build([variable])
    seen = []
    optimizer._all_reduce_sum_gradients = lambda pairs: seen.append(True) or list(pairs)
    optimizer.apply([tf.constant([0.5])], [variable])
    assert seen and variable.numpy() == [0.5]


def test_optimizer_keeps_averages_beside_its_variables():
    """Both are read, and the averages are computed by looplab."""
    optimizer = keras.optimizers.SGD(1.0, use_ema=True)
    variable = keras.Variable([1.0])
    optimizer.build([variable])
    assert optimizer._trainable_variables == [variable]
    (average,) = optimizer._model_variables_moving_average
    seen = []
    optimizer._update_model_variables_moving_average = seen.append
    optimizer.apply([tf.constant([0.5])], [variable])
    assert seen == [[variable]] and average.numpy() == [0.0]
    optimizer.ema_overwrite_frequency = 2
    optimizer._overwrite_model_variables_with_average_value = seen.append
    optimizer.apply([tf.constant([0.5])], [variable])
    assert seen == [[variable]] * 3


def test_schedule_free_begins_at_copies_of_weights():
    """They are set anew before the first update."""
    optimizer = keras.optimizers.ScheduleFreeAdamW()
    variable = keras.Variable([3.0])
    optimizer.build([variable])
    (copy,) = optimizer._momentums
    assert copy.numpy() == [3.0]


def test_optimizer_clips_decays_and_updates_inside_of_backend_apply_gradients():
    """It is wrapped: before it an optimizer gets its numbers as doubles."""
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
    """The one is wrapped, and the other is taken out."""
    optimizer = keras.optimizers.SGD(1.0, weight_decay=0.5)
    variable = keras.Variable([1.0])
    optimizer.build([variable])
    called = []
    optimizer._apply_weight_decay = lambda variables: called.append("decay")
    optimizer.update_step = lambda gradient, own, rate: called.append(
        optimizer._var_key(own) == optimizer._var_key(variable) and optimizer._use_weight_decay(variable),
    )
    optimizer.apply([tf.constant([0.5])], [variable])
    assert called == ["decay", True]


def test_optimizer_keeps_its_schedule_in_learning_rate():
    """The public property only gives the value."""
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
    assert keras.optimizers.SGD(schedule)._learning_rate is schedule
    assert float(keras.optimizers.SGD(0.5)._learning_rate.numpy()) == 0.5


def test_optimizer_hands_a_rate_to_what_its_learning_rate_is():
    """`optimizer.learning_rate = x` calls `assign` of anything but a schedule."""

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


def test_optimizer_saves_its_rate_after_the_count_of_its_updates():
    optimizer, store = keras.optimizers.SGD(0.25, momentum=0.5), {}
    optimizer.build([keras.Variable([1.0])])
    optimizer.save_own_variables(store)
    assert [variable.name for variable in optimizer.variables][:2] == ["iteration", "learning_rate"]
    assert list(store) == ["0", "1", "2"] and store["1"] == 0.25
    optimizer.load_own_variables({**store, "1": 0.5})
    assert optimizer.get_config()["learning_rate"] == 0.5


def test_a_variable_may_compute_its_value():
    class Computed(keras.Variable):
        def _initialize(self, value):
            pass

        @property
        def _value(self):
            return tf.constant(2.0)

    variable = Computed(0.0, dtype="float32")
    assert float(variable) == variable.numpy() == float(variable.value) == 2.0
    assert float(keras.ops.cast(variable, "float64") * 2) == 4.0
    assert "2.0" in repr(variable)


def test_records_are_read_by_offset(tmp_path):
    """A record is found by its place in the file; TensorFlow checks the checksums."""
    path = str(tmp_path / "two")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(b"one")
        writer.write(b"two")
    assert tf_record.tf_record_random_reader(path).read(3 + 16) == (b"two", 2 * (3 + 16))


def test_masks_hang_on_tensors():
    """The mask of a model's output is read there."""
    embedded = keras.layers.Embedding(3, 2, mask_zero=True)(tf.constant([[0, 1]]))
    assert embedded._keras_mask.numpy().tolist() == [[False, True]]


def test_the_path_of_a_variable_can_be_set():
    """Those of a clone get the paths of the original."""
    variable = keras.Variable([1.0])
    variable._path = "encoder/dense/kernel"
    assert variable.path == "encoder/dense/kernel"


def test_exclusions_from_weight_decay_are_kept_beside_the_configuration():
    """They are handed on to an optimizer that is made anew."""
    optimizer = keras.optimizers.AdamW(weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    assert not optimizer._exclude_from_weight_decay
    assert optimizer._exclude_from_weight_decay_pattern.pattern == "bias"


def test_layers_can_be_walked():
    """Every layer is found, also in lists and dicts."""

    class Nested(keras.Model):
        def __init__(self):
            super().__init__()
            self.kept = {"a": [keras.Sequential([keras.layers.BatchNormalization()])]}

    kinds = [type(layer).__name__ for layer in Nested()._flatten_layers()]
    assert "BatchNormalization" in kinds


def test_seed_generators_are_variables_by_name():
    """Their name tells them from other variables."""
    names = [v.name for v in keras.layers.Dropout(0.5).variables]
    assert names == ["seed_generator_state"]


def test_every_draw_of_a_seed_generator_calls_its_next(monkeypatch):
    """Layers and `keras.random` take their seeds from this method."""
    called = []
    original = keras.random.SeedGenerator.next
    monkeypatch.setattr(
        keras.random.SeedGenerator,
        "next",
        lambda own, ordered=True: called.append(ordered) or original(own, ordered),
    )
    keras.layers.Dropout(0.5)(tf.ones([2]), training=True)
    keras.random.normal([2], seed=keras.random.SeedGenerator(1))
    keras.random.normal([2])
    assert called == [True, True, False]


def test_graphs_know_the_functions_they_call():
    """The public interface gives their names only."""
    inner = tf.function(lambda x: x + 1)
    graph = tf.function(lambda x: inner(x)).get_concrete_function(tf.TensorSpec([2])).graph
    (call,) = [op for op in graph.get_operations() if op.type.endswith("PartitionedCall")]
    kinds = [op.type for op in graph._get_function(call.get_attr("f").name).graph.get_operations()]
    assert "AddV2" in kinds


def test_slots_are_named_after_their_variables():
    """A checkpoint names a slot by the variable that it belongs to."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="head")])
    optimizer = keras.optimizers.SGD(momentum=0.5)
    optimizer.build(model.trainable_variables)
    path = model.trainable_variables[0].path.replace("/", "_")
    assert [v for v in optimizer.variables if v.path.split("/")[-1].startswith(f"{path}_")]


def test_batch_normalization_takes_its_moments_from_one_method():
    """It is replaced: Keras forgets the other replicas where there is a mask."""
    layer = keras.layers.BatchNormalization(momentum=0.0)
    layer.build((None, 2))
    assert list(layer._reduction_axes) == [0]
    layer._moments = lambda inputs, mask: (tf.constant([1.0, 2.0]), tf.constant([3.0, 4.0]))
    layer(tf.zeros([5, 2]), training=True)
    assert layer.moving_mean.numpy().tolist() == [1.0, 2.0]
    assert layer.moving_variance.numpy().tolist() == [3.0, 4.0]


def test_tensorflow_tells_whether_operations_are_deterministic():
    """It is recorded of a run; tests/test_devices.py turns it on, in another process."""
    assert config.is_op_determinism_enabled() is False


def test_what_keras_saves_goes_to_a_store_that_can_be_another():
    """The store notes which variable is called what, and the names of layers."""
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
    """It is asked of each consumer of a captured handle."""
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
    """Its state is told from other variables; the public way would make one."""
    keras.random.normal((1,))
    generator = global_state.get_global_attribute("global_seed_generator")
    assert isinstance(generator, keras.random.SeedGenerator)
    drawn = []
    try:
        stand_in = SimpleNamespace(next=lambda ordered: drawn.append(ordered) or tf.constant([0, 0]))
        global_state.set_global_attribute("global_seed_generator", stand_in)
        keras.random.normal((1,))
    finally:
        global_state.set_global_attribute("global_seed_generator", generator)
    assert drawn == [False]


def test_datasets_know_what_they_are_made_of():
    """Over them, their functions, and the seeds of a shuffle."""
    mapped = tf.data.Dataset.range(3).shuffle(2, seed=4).map(lambda x: x + 1)
    (shuffled,) = mapped._inputs()
    assert int(shuffled._seed2) == 4 and int(shuffled._buffer_size) == 2
    assert int(shuffled._seed) >= 0 and shuffled._reshuffle_each_iteration is not False
    (function,) = mapped._functions()
    assert "AddV2" in [operation.type for operation in function.function.graph.get_operations()]
    loose = tf.data.Dataset.range(3).map(lambda x: x, num_parallel_calls=2, deterministic=False)
    assert loose._deterministic == "false"
    random = tf.data.Dataset.random(seed=3)
    assert int(random._seed2) == 3 and int(random._seed) >= 0 and not random._rerandomize
    assert tf.data.Dataset.random(seed=3, rerandomize_each_iteration=True)._rerandomize
    (array,) = tf.data.Dataset.from_tensor_slices([1, 2])._tensors
    assert array.shape == [2]


def test_a_layer_knows_its_own_variables():
    """Not those of the layers in it."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)])
    norm, dense = model.layers
    assert norm._trainable_variables == [norm.gamma, norm.beta]
    assert norm._non_trainable_variables == [norm.moving_mean, norm.moving_variance]
    dense.trainable = False
    assert dense._trainable_variables == [dense.kernel, dense.bias] and not model._trainable_variables


def test_layers_and_optimizers_are_called_through_attributes_of_the_object():
    """What is put on the object is called in the place of what its class has."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    called = []
    for owner in (model, model.layers[0]):
        call = owner.call
        owner.call = lambda *a, call=call, owner=owner, **k: called.append(owner) or call(*a, **k)
    model(tf.zeros([1, 2]))
    assert model in called
    model.layers[0](tf.zeros([1, 2]))
    assert called[-1] is model.layers[0]
    optimizer = keras.optimizers.SGD(1.0)
    optimizer.build(model.trainable_variables)
    optimizer.apply = lambda *a: called.append(optimizer)
    optimizer.apply_gradients([(tf.zeros_like(v), v) for v in model.trainable_variables])
    assert called[-1] is optimizer and not int(optimizer.iterations)


def test_an_attribute_that_is_set_past_tracking_is_no_part_of_a_model():
    """Callbacks find the trainer's optimizer on the model; set as usual it would be one of its parts."""
    model, layer = keras.Model(), keras.layers.Dense(1)
    layer.build((None, 2))
    object.__setattr__(model, "optimizer", layer)
    assert model.optimizer is layer and model.variables == []
    object.__delattr__(model, "optimizer")
    model.optimizer = layer
    assert model.variables == [layer.kernel, layer.bias]


def test_keras_keeps_books_of_an_object_in_fields_with_these_names():
    """All other fields of a metric, a loss, an optimizer or a layer say how it was made."""
    layer = {name for name in vars(keras.layers.Dense(1)) if name.startswith("_")}
    assert {"_tracker", "_lock", "_auto_config", "_path", "_self_setattr_tracking"} <= layer
    optimizer = {name for name in vars(keras.optimizers.SGD()) if name.startswith("_")}
    assert {"_tracker", "_lock", "_distribution_strategy", "_self_update_uid"} <= optimizer
    assert "_tracker" in vars(keras.metrics.Mean())


def test_fields_of_keras_callbacks():
    """TensorBoard makes these anew in `set_model`, and asks one of them whether it acts on batches."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    board = keras.callbacks.TensorBoard("never", write_graph=False)
    assert board._should_trace is False
    board.set_model(model)
    assert board._model is model
    assert keras.callbacks.TensorBoard("never", profile_batch=2)._should_trace is True
    made_anew = ("_batch_trace_context", "_is_tracing", "_log_write_dir", "_prev_summary_state", "_writers")
    made_anew += (
        "_profiler_started",
        "_should_write_train_graph",
        "_summary_module",
        "_train_dir",
        "_val_dir",
    )
    assert set(made_anew) <= set(vars(board))


def test_models_and_schedules_of_keras_are_told_by_their_modules():
    """Each is what Keras has written, not a class of the user's that is derived from it."""
    schedule = keras.optimizers.schedules.CosineDecay
    assert schedule.__call__.__module__.startswith("keras.src.optimizers.schedules.")
    assert keras.applications.MobileNetV2.__module__.startswith("keras.src.applications.")


def test_philox_gives_integers():
    """They are the same in XLA, where floating point numbers are made of them."""

    def draw():
        return gen_stateless_random_ops_v2.stateless_random_uniform_full_int_v2(
            [4],
            key=tf.constant([1], tf.uint64),
            counter=tf.constant([2, 3], tf.uint64),
            alg=1,
            dtype=tf.uint32,
        )

    here, compiled = tf.function(draw)().numpy(), tf.function(draw, jit_compile=True)().numpy()
    assert here.tolist() == compiled.tolist() and len(set(here.tolist())) == 4


def test_a_layer_is_called_through_its_class_and_looks_its_call_up():
    """An attribute of the object that stands in the place of `call` is called, and builds the layer."""

    class Own(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = keras.layers.Dense(1)

        def call(self, x):
            return self.inner(x)

    layer, seen, kinds = Own(), [], []
    before, original = layer.call, keras.Layer.__call__
    vars(layer)["call"] = lambda x: seen.append(x.shape) or before(x)
    with patches.patched(
        "keras.Layer.__call__",
        keras.Layer,
        lambda call: lambda self, *a: kinds.append(type(self)) or call(self, *a),
    ):
        layer(tf.ones([2, 3]))
    assert seen == [(2, 3), (2, 3)] and kinds == [Own, keras.layers.Dense, keras.layers.Dense]
    assert keras.Layer.__call__ is original


def test_control_flow_is_traced_by_functions_that_can_be_replaced(monkeypatch):
    """With the state that control flow changes, and how many of its values come out."""
    seen = []

    def note(module, name):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given: seen.append((name, given)) or original(*given))

    note(control_flow, "_tf_if_stmt")
    note(control_flow, "_tf_while_stmt")
    note(conditional_expressions, "_tf_if_exp")

    @tf.function
    def function(x):
        if x > 0.0:
            y, z = x, x + 1.0
            y = y + z
        else:
            y = -x
        for _ in tf.range(2):
            x = x + 1.0
        while x > 0.0:
            x = x - 1.0
        return x + y if x > 0.0 else y

    function(tf.constant(2.0))
    statement, loop, other, expression = seen
    assert statement[0] == "_tf_if_stmt" and statement[1][5][: statement[1][6]] == ("y",)
    assert loop[0] == other[0] == "_tf_while_stmt" and loop[1][4][-1] == "x" and other[1][4] == ("x",)
    assert expression[0] == "_tf_if_exp" and len(expression[1]) == 4


def test_a_graph_tells_what_xla_compiles_and_which_loops_have_no_bound():
    """The gradient of a loop keeps its values in lists whose size is that of the bound."""

    def sizes(bound):
        @tf.function(jit_compile=True)
        def slope(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = tf.while_loop(
                    lambda y: y > 1.0,
                    lambda y: (tf.sin(y) * y,),
                    [x],
                    maximum_iterations=bound,
                )
            return tape.gradient(y, x)

        graph = tf.function(lambda x: slope(x)).get_concrete_function(tf.TensorSpec([])).graph
        (call,) = [each for each in graph.get_operations() if "PartitionedCall" in each.type]
        assert call.get_attr("_XlaMustCompile")
        inner = graph._get_function(call.get_attr("f").name).graph.get_operations()
        lists = [each for each in inner if each.type == "EmptyTensorList"]
        assert {user.type for each in lists for user in each.outputs[0].consumers()} == {"StatelessWhile"}
        return {int(tf.get_static_value(each.inputs[1])) for each in lists}

    assert sizes(None) == {-1} and sizes(7) == {7}


def test_autograph_has_a_status_that_can_be_set():
    """It is carried to the threads of replicas, and to what a `tf.function` was made of."""
    for status in (ag_ctx.Status.ENABLED, ag_ctx.Status.DISABLED):
        with ag_ctx.ControlStatusCtx(status=status, options=None):
            seen = tf.__internal__.autograph.control_status_ctx()
            assert seen.status == status and seen.options is None


def test_iterators_can_be_saved_by_their_resource():
    """Operations that save and restore the place of an iterator take it."""
    iterator = iter(tf.data.Dataset.range(3))
    next(iterator)
    state = tf.raw_ops.SerializeIterator(resource_handle=iterator._iterator_resource, external_state_policy=2)
    next(iterator)
    tf.raw_ops.DeserializeIterator(resource_handle=iterator._iterator_resource, serialized=state)
    assert next(iterator).numpy() == 1


def test_hydra_parses_and_composes_outside_of_its_decorator(tmp_path):
    """Its command line, its search path, its own section, and the files that a configuration is made of."""
    (tmp_path / "group").mkdir()
    (tmp_path / "main.yaml").write_text("defaults: [{group: one}, _self_]\nx: 1\n")
    (tmp_path / "group" / "one.yaml").write_text("y: 2\n")
    options = get_args_parser().parse_intermixed_args(["x=3", "--multirun"])
    assert options.overrides == ["x=3"] and options.multirun and options.cfg is None
    path = create_automatic_config_search_path(None, None, str(tmp_path))
    GlobalHydra.instance().clear()
    loader = Hydra.create_main_hydra2("any", path).config_loader
    GlobalHydra.instance().clear()
    assert isinstance(loader, ConfigLoaderImpl)
    config = loader.load_configuration("main", ["x=3"], RunMode.RUN)
    assert (config.x, config.group.y) == (3, 2) and "sweeper" in config.hydra
    parsed, repository = loader._parse_overrides_and_create_caching_repo("main", ["x=3"])
    listed = create_defaults_list(repository, "main", parsed, prepend_hydra=True, skip_missing=True)
    assert {"group/one", "main"} <= {default.config_path for default in listed.defaults}


def test_omegaconf_gives_values_as_they_were_written():
    """A secret is to come from the environment, and not to stand there."""
    config = OmegaConf.create({"key": "${oc.env:NOT_SET,written}"})
    assert config.key == "written" and config._get_node("key")._value() == "${oc.env:NOT_SET,written}"
    whole = OmegaConf.create({"a": {"b": {}}})
    assert whole.a.b._get_root() is whole


def test_argparse_knows_its_options():
    """The nearest to one that is misspelt is looked for among them."""
    assert {"--cfg", "--multirun", "-m"} <= set(get_args_parser()._option_string_actions)


def test_a_compiled_model_has_the_arguments_of_compile():
    """As they were given, but for the optimizer, which is an object."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    assert not model.compiled
    metric, loss = keras.metrics.MeanSquaredError(), keras.losses.MeanSquaredError()
    model.compile("sgd", loss, metrics=[metric], weighted_metrics=["mae"], loss_weights=2.0)
    settings = model._compile_config.config
    assert model.compiled and settings["loss"] is loss and settings["metrics"][0] is metric
    assert settings["optimizer"] is model.optimizer and settings["weighted_metrics"] == ["mae"]
    assert (settings["loss_weights"], settings["run_eagerly"]) == (2.0, False)
    assert (settings["steps_per_execution"], settings["jit_compile"]) == (1, False)
    assert keras.models.clone_model(model).compiled
    model.compiled = False
    assert not keras.models.clone_model(model).compiled


def test_a_layer_knows_its_own_metrics():
    """Those in lists too; neither those of layers in it, nor those of `compile`."""

    class Outer(keras.Model):
        def __init__(self):
            super().__init__()
            self.own, self.more = keras.metrics.Mean(name="own"), [keras.metrics.Mean(name="more")]
            self.inner = keras.layers.Dense(1)
            self.inner.mean = keras.metrics.Mean(name="inner")

    model = Outer()
    model.compile("sgd", "mse", metrics=["mae"])
    assert [metric.name for metric in model._metrics] == ["own", "more"]
    assert [metric.name for metric in model.inner._metrics] == ["inner"]


def test_metrics_are_called_through_attributes_of_the_object():
    metric, called = keras.metrics.Mean(), []
    for name in ("update_state", "result"):
        method = getattr(metric, name)
        setattr(metric, name, lambda *a, name=name, method=method: called.append(name) or method(*a))
    assert float(metric(3.0)) == 3.0 and called == ["update_state", "result"]


def test_a_compiled_model_shows_its_training_by_these_attributes():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["accuracy"])
    assert model.metrics == [model._loss_tracker, model._compile_metrics]
    assert model._compile_config.serialize() == model.get_compile_config()
    held = compile_utils.MetricsList([keras.metrics.BinaryAccuracy("accuracy")], name="compile_metrics")
    held.metrics[0].update_state([[1.0]], [[1.0]])
    assert held.metrics[0]._direction == "up"
    object.__setattr__(model, "_compile_metrics", held)
    stopping = keras.callbacks.EarlyStopping("accuracy")
    stopping.set_model(model)
    stopping._set_monitor_op()
    assert stopping.monitor_op is keras.ops.greater and model.metrics_names == ["loss", "compile_metrics"]


def test_a_metric_notes_that_it_has_made_its_variables():
    metric = keras.metrics.F1Score()
    assert not metric._built and not metric.variables
    metric.update_state(tf.eye(2), tf.eye(2))
    assert metric._built and metric.variables
