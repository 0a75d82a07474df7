"""Everything that looplab takes from others beyond their public interfaces, and everything that it replaces.

A test reads looplab's source and demands that each such name stands here and is still used. The test of an
entry fails when the name, or what it does, changes in a release of the other package.
"""

from __future__ import annotations

from dataclasses import dataclass

_TESTS = "tests/compat/test_private_interfaces.py::"


@dataclass(frozen=True)
class PrivateUse:
    """Names of another package that looplab depends on, though no public interface promises them.

    Attributes:
        owner: The dotted name of the module or class that has them; it begins with the package.
        names: The attributes of the owner, or the beginnings of their names.
        modules: The modules of looplab that use them.
        why: What they are used for.
        test: The node id of the test that fails when they change.
        without: What becomes of looplab's work where patches are off (`LOOPLAB_PATCHES=off`), for names that
            looplab replaces; empty for names that it only reads, or sets on an object of its own.
    """

    owner: str
    names: tuple[str, ...]
    modules: tuple[str, ...]
    why: str
    test: str
    without: str = ""


_KERAS = (
    PrivateUse(
        owner="keras.Layer",
        names=("_flatten_layers",),
        modules=(
            "looplab.callbacks.freeze",
            "looplab.checkpoint.warm_start.warm_start",
            "looplab.checkpoint.weights",
            "looplab.execution.flops",
            "looplab.optimization.remake",
            "looplab.strategy.batch_norm",
            "looplab.testing.probe",
        ),
        why="Gives every layer of a model, also those in lists; `model.layers` gives the outer ones.",
        test=_TESTS + "test_layers_can_be_walked",
    ),
    PrivateUse(
        owner="keras.Layer",
        names=("_trainable_variables", "_non_trainable_variables"),
        modules=("looplab.callbacks.freeze", "looplab.testing.frozen", "looplab.testing.probe"),
        why="Give the variables that are a layer's own, without those of the layers in it.",
        test=_TESTS + "test_a_layer_knows_its_own_variables",
    ),
    PrivateUse(
        owner="keras.Layer",
        names=("call",),
        modules=("looplab.testing.frozen",),
        why="Is watched on layers of a trial's own trainer, to find the one that changes what is frozen.",
        test=_TESTS + "test_layers_and_optimizers_are_called_through_attributes_of_the_object",
        without="check_step refuses to say who has changed a frozen variable",
    ),
    PrivateUse(
        owner="keras.Model",
        names=("call",),
        modules=("looplab.strategy.precision",),
        why="Gives float32 to the step where layers compute in 16 bits: losses need the width.",
        test=_TESTS + "test_layers_and_optimizers_are_called_through_attributes_of_the_object",
        without="mixed_bfloat16 and mixed_float16 are refused",
    ),
    PrivateUse(
        owner="keras.Model",
        names=("__setattr__",),
        modules=("looplab.callbacks.keras.adapter",),
        why="Is bypassed (`object.__setattr__`): the optimizer that callbacks see is no part of the model.",
        test=_TESTS + "test_an_attribute_that_is_set_past_tracking_is_no_part_of_a_model",
    ),
    PrivateUse(
        owner="keras.layers.BatchNormalization",
        names=("_moments",),
        modules=("looplab.strategy.batch_norm",),
        why="Averages over all replicas with masks too, and gives no NaN for a piece without rows.",
        test=_TESTS + "test_batch_normalization_takes_its_moments_from_one_method",
        without="several replicas are refused, and BatchNormalization that trains in several micro-batches",
    ),
    PrivateUse(
        owner="keras.layers.BatchNormalization",
        names=("_reduction_axes",),
        modules=("looplab.strategy.batch_norm",),
        why="Says over which axes the moments are taken.",
        test=_TESTS + "test_batch_normalization_takes_its_moments_from_one_method",
    ),
    PrivateUse(
        owner="keras.KerasTensor",
        names=("_keras_mask",),
        modules=(
            "looplab.optimization.loss_terms",
            "looplab.strategy.precision",
            "looplab.training.engine.metric_set",
        ),
        why="Keras hangs the mask of an output on the tensor, without a public reader.",
        test=_TESTS + "test_masks_hang_on_tensors",
    ),
    PrivateUse(
        owner="keras.Variable",
        names=("_path",),
        modules=("looplab.optimization.remake",),
        why="A clone's variables get the paths of the original's: Keras leaves out names of models inside.",
        test=_TESTS + "test_the_path_of_a_variable_can_be_set",
    ),
    PrivateUse(
        owner="keras.random.SeedGenerator",
        names=("seed_generator_state",),
        modules=("looplab.random",),
        why="The name of its variable tells it from others.",
        test=_TESTS + "test_seed_generators_are_variables_by_name",
    ),
    PrivateUse(
        owner="keras.optimizers.Optimizer",
        names=("_learning_rate",),
        modules=(
            "looplab.callbacks.keras.restored_state",
            "looplab.optimization.learning_rate",
            "looplab.optimization.remake",
            "looplab.training.allow_change",
            "looplab.training.engine.engine",
            "looplab.training.plan_text",
        ),
        why="Holds the schedule; the public property gives its present value.",
        test=_TESTS + "test_optimizer_keeps_its_schedule_in_learning_rate",
    ),
    PrivateUse(
        owner="keras.optimizers.Optimizer",
        names=("learning_rate",),
        modules=("looplab.optimization.optimizers", "looplab.schedule"),
        why="Takes any function as a rate, and calls its `assign` where a number is set later.",
        test=_TESTS + "test_optimizer_hands_a_rate_to_what_its_learning_rate_is",
    ),
    PrivateUse(
        owner="keras.optimizers.Optimizer",
        names=("add_variable_from_reference",),
        modules=("looplab.checkpoint.state",),
        why="Names a slot after the variable that it belongs to.",
        test=_TESTS + "test_slots_are_named_after_their_variables",
    ),
    PrivateUse(
        owner="keras.optimizers.Optimizer",
        names=("_all_reduce_sum_gradients",),
        modules=("looplab.optimization.update",),
        why="Is taken out: gradients reach the optimizer reduced, and would be summed over replicas again.",
        test=_TESTS + "test_optimizer_reduces_through_all_reduce_sum_gradients",
        without="several replicas are refused; on one there is nothing to sum",
    ),
    PrivateUse(
        owner="keras.optimizers.Optimizer",
        names=("_backend_apply_gradients",),
        modules=("looplab.optimization.optimizer_numbers",),
        why="Gives the optimizer its numbers as float64 before each update; Keras rounds them to float32.",
        test=_TESTS + "test_optimizer_clips_decays_and_updates_inside_of_backend_apply_gradients",
        without="float64 is refused",
    ),
    PrivateUse(
        owner="keras.optimizers.Optimizer",
        names=("_update_model_variables_moving_average",),
        modules=("looplab.optimization.weight_averages",),
        why="Keeps every bit of the average of a frozen weight, which Keras goes on computing.",
        test=_TESTS + "test_optimizer_keeps_averages_beside_its_variables",
        without="optimizers with use_ema=True are refused",
    ),
    PrivateUse(
        owner="keras.optimizers.Optimizer",
        names=("_trainable_variables", "_model_variables_moving_average"),
        modules=("looplab.checkpoint.state", "looplab.optimization.weight_averages"),
        why="Pair each weight with its average.",
        test=_TESTS + "test_optimizer_keeps_averages_beside_its_variables",
    ),
    PrivateUse(
        owner="keras.optimizers.Optimizer",
        names=("update_step", "_apply_weight_decay"),
        modules=("looplab.optimization.optimizers", "looplab.optimization.parameter_groups"),
        why="Apply the learning rate and the weight decay of a variable's own parameter group.",
        test=_TESTS + "test_optimizer_updates_through_update_step_and_decays_before_it",
        without="parameter_groups are refused",
    ),
    PrivateUse(
        owner="keras.optimizers.Optimizer",
        names=("_var_key", "_use_weight_decay"),
        modules=("looplab.optimization.parameter_groups",),
        why="Identify a variable during an update, and say whether it is excluded from weight decay.",
        test=_TESTS + "test_optimizer_updates_through_update_step_and_decays_before_it",
    ),
    PrivateUse(
        owner="keras.optimizers.Optimizer",
        names=("apply",),
        modules=("looplab.testing.frozen",),
        why="Is taken out of a trial's own trainer, to find out whether an optimizer changes what is frozen.",
        test=_TESTS + "test_layers_and_optimizers_are_called_through_attributes_of_the_object",
        without="check_step refuses to say who has changed a frozen variable",
    ),
    PrivateUse(
        owner="keras.optimizers.Optimizer",
        names=("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"),
        modules=("looplab.optimization.remake",),
        why="Hold what is excluded from weight decay, which no configuration of an optimizer has.",
        test=_TESTS + "test_exclusions_from_weight_decay_are_kept_beside_the_configuration",
    ),
    PrivateUse(
        owner="keras.saving.KerasSaveable",
        names=(
            *("_auto", "_distribution_strategy", "_lock", "_name", "_obj"),
            *("_path", "_self_", "_tf_", "_tracker"),
        ),
        modules=("looplab.optimization.remake",),
        why="Fields that begin so are Keras' books of an object, and are not compared with those of a copy.",
        test=_TESTS + "test_keras_keeps_books_of_an_object_in_fields_with_these_names",
    ),
    PrivateUse(
        owner="keras.callbacks.TensorBoard",
        names=("_should_trace",),
        modules=("looplab.callbacks.keras.batch_hooks",),
        why="Says whether its hooks for batches do anything.",
        test=_TESTS + "test_fields_of_keras_callbacks",
    ),
    PrivateUse(
        owner="keras.callbacks.TensorBoard",
        names=(
            *("_batch_trace_context", "_is_tracing", "_log_write_dir", "_prev_summary_state"),
            *("_profiler_started", "_should_write_train_graph", "_summary_module", "_train_dir", "_val_dir"),
            "_writers",
        ),
        modules=("looplab.callbacks.keras.saved_fields",),
        why="Are made anew by the callback, and left out of checkpoints.",
        test=_TESTS + "test_fields_of_keras_callbacks",
    ),
    PrivateUse(
        owner="keras.callbacks.Callback",
        names=("_model",),
        modules=("looplab.callbacks.keras.saved_fields",),
        why="Is set by `set_model`, and left out of checkpoints.",
        test=_TESTS + "test_fields_of_keras_callbacks",
    ),
    PrivateUse(
        owner="keras.src.utils.traceback_utils",
        names=("_keras_call_info_injected",),
        modules=("looplab.errors",),
        why="An exception that has this attribute is handed on as it is.",
        test=_TESTS + "test_errors_with_an_attribute_are_handed_on_as_they_are",
    ),
    PrivateUse(
        owner="keras.src.backend.common.stateless_scope",
        names=("in_stateless_scope",),
        modules=("looplab.execution.inlined",),
        why="Says whether Keras infers shapes on placeholders: a trace from there never sees a weight.",
        test=_TESTS + "test_keras_infers_shapes_in_a_scope_that_can_be_asked_for",
    ),
    PrivateUse(
        owner="keras.src.backend.common.global_state",
        names=("get_global_attribute",),
        modules=("looplab.training.audit.untracked_variables",),
        why="Finds the global seed generator without making one.",
        test=_TESTS + "test_keras_global_seed_generator_is_found_where_it_is_kept",
    ),
    PrivateUse(
        owner="keras.src.saving.saving_lib",
        names=("NpzIOStore", "_save_state"),
        modules=("looplab.checkpoint.warm_start.keras_names",),
        why="Tell how a weight file calls each variable, without writing one.",
        test=_TESTS + "test_what_keras_saves_goes_to_a_store_that_can_be_another",
    ),
    PrivateUse(
        owner="keras.src",
        names=("applications",),
        modules=("looplab.experiment.instantiate",),
        why="A module whose name begins so is one of Keras' own models.",
        test=_TESTS + "test_models_and_schedules_of_keras_are_told_by_their_modules",
    ),
    PrivateUse(
        owner="keras.src.optimizers",
        names=("schedules",),
        modules=("looplab.schedule",),
        why="A module whose name begins so is one of Keras' own schedules.",
        test=_TESTS + "test_models_and_schedules_of_keras_are_told_by_their_modules",
    ),
)

_TENSORFLOW = (
    PrivateUse(
        owner="tensorflow.python.ops.random_ops_util",
        names=("get_key_counter_alg",),
        modules=("looplab.execution.xla_random",),
        why="Chooses Philox for seeded random numbers, also in XLA.",
        test=_TESTS + "test_seeded_random_numbers_come_from_functions_that_can_be_replaced",
        without="XLA draws other random numbers than the graph does",
    ),
    PrivateUse(
        owner="tensorflow.python.ops.gen_stateless_random_ops_v2",
        names=("stateless_random_uniform_v2", "stateless_random_normal_v2"),
        modules=("looplab.execution.xla_random",),
        why="Make floating point numbers of Philox' integers, in XLA as in the kernels.",
        test=_TESTS + "test_seeded_random_numbers_come_from_functions_that_can_be_replaced",
        without="XLA draws other random numbers than the graph does",
    ),
    PrivateUse(
        owner="tensorflow.python.ops.gen_stateless_random_ops_v2",
        names=("stateless_random_uniform_full_int_v2",),
        modules=("looplab.execution.xla_random",),
        why="Gives the integers of Philox.",
        test=_TESTS + "test_philox_gives_integers",
    ),
    PrivateUse(
        owner="tensorflow.python.eager.polymorphic_function.polymorphic_function.Function",
        names=("__call__",),
        modules=("looplab.execution.inlined",),
        why="Runs a tf.function that a step calls as the function in it: a trace has one purpose.",
        test=_TESTS + "test_a_function_is_called_through_its_class_and_has_what_it_was_made_of",
        without="tf.config.run_functions_eagerly does it, and AutoGraph translates no tf.function in a step",
    ),
    PrivateUse(
        owner="tensorflow.python.eager.polymorphic_function.polymorphic_function.Function",
        names=("_autograph", "_jit_compile"),
        modules=("looplab.execution.inlined",),
        why="Say how the function was decorated.",
        test=_TESTS + "test_a_function_is_called_through_its_class_and_has_what_it_was_made_of",
    ),
    PrivateUse(
        owner="tensorflow.python.autograph.core.config",
        names=("CONVERSION_RULES",),
        modules=("looplab.execution.autograph",),
        why="Leave looplab's own code as it is: to translate it takes seconds.",
        test=_TESTS + "test_autograph_asks_rules_what_to_translate",
        without="looplab's own code is translated too, and a run begins later",
    ),
    PrivateUse(
        owner="tensorflow.python.autograph.core.config_lib",
        names=("Convert", "DoNotConvert"),
        modules=("looplab.execution.autograph",),
        why="Are the kinds of those rules.",
        test=_TESTS + "test_autograph_asks_rules_what_to_translate",
    ),
    PrivateUse(
        owner="tensorflow.python.autograph.core.ag_ctx",
        names=("ControlStatusCtx",),
        modules=("looplab.execution.autograph", "looplab.execution.inlined"),
        why="Carries to another thread, or a function, whether code is translated.",
        test=_TESTS + "test_autograph_has_a_status_that_can_be_set",
    ),
    PrivateUse(
        owner="tensorflow.python.autograph.core.ag_ctx",
        names=("Status",),
        modules=("looplab.execution.inlined",),
        why="Says whether code is translated.",
        test=_TESTS + "test_autograph_has_a_status_that_can_be_set",
    ),
    PrivateUse(
        owner="tensorflow.__internal__.autograph",
        names=("tf_convert",),
        modules=("looplab.execution.autograph", "looplab.execution.inlined"),
        why="Translates a function of the user's where looplab calls it.",
        test=_TESTS + "test_autograph_asks_rules_what_to_translate",
    ),
    PrivateUse(
        owner="tensorflow.__internal__.autograph",
        names=("control_status_ctx",),
        modules=("looplab.execution.autograph",),
        why="Gives whether this thread translates.",
        test=_TESTS + "test_autograph_has_a_status_that_can_be_set",
    ),
    PrivateUse(
        owner="tensorflow.python.autograph.impl.api",
        names=("ag_pass_through",),
        modules=("looplab.errors",),
        why="An exception that has this attribute is handed on as it is.",
        test=_TESTS + "test_errors_with_an_attribute_are_handed_on_as_they_are",
    ),
    PrivateUse(
        owner="tensorflow.python.autograph.impl.api",
        names=("ag_error_metadata",),
        modules=("looplab.runs.cause",),
        why="Has the lines of translated code as they were written.",
        test=_TESTS + "test_autograph_keeps_the_lines_as_they_were_written",
    ),
    PrivateUse(
        owner="tensorflow.Graph",
        names=("_get_function",),
        modules=("looplab.execution.graph_operations", "looplab.execution.memory"),
        why="Gives the graph of a function that is called; the public interface gives its name only.",
        test=_TESTS + "test_graphs_know_the_functions_they_call",
    ),
    PrivateUse(
        owner="tensorflow.python.framework.auto_control_deps_utils",
        names=("get_read_write_resource_inputs",),
        modules=("looplab.training.audit.untracked_variables",),
        why="Says which variables an operation changes.",
        test=_TESTS + "test_operations_tell_which_resources_they_change",
    ),
    PrivateUse(
        owner="tensorflow.python.framework.config",
        names=("is_op_determinism_enabled",),
        modules=("looplab.devices",),
        why="Is recorded of a run; the public interface only turns it on.",
        test=_TESTS + "test_tensorflow_tells_whether_operations_are_deterministic",
    ),
    PrivateUse(
        owner="tensorflow.python.lib.io.tf_record",
        names=("tf_record_random_reader",),
        modules=("looplab.data.records",),
        why="Reads a record by its offset in the file.",
        test=_TESTS + "test_records_are_read_by_offset",
    ),
    PrivateUse(
        owner="tensorflow.data.Dataset",
        names=(
            *("_buffer_size", "_deterministic", "_functions", "_inputs"),
            *("_reshuffle_each_iteration", "_seed", "_seed2"),
        ),
        modules=("looplab.data.pipeline_inspection",),
        why="Say what a pipeline is made of, without TensorFlow's graph of it, which has all arrays in it.",
        test=_TESTS + "test_datasets_know_what_they_are_made_of",
    ),
    PrivateUse(
        owner="tensorflow.data.Iterator",
        names=("_iterator_resource",),
        modules=("looplab.data.iterators",),
        why="Is what the operations that save and restore the place of an iterator take.",
        test=_TESTS + "test_iterators_can_be_saved_by_their_resource",
    ),
)

_CONFIGURATION = (
    PrivateUse(
        owner="hydra._internal.utils",
        names=("create_automatic_config_search_path",),
        modules=("looplab.config.compose",),
        why="Gives Hydra's search path outside of its decorator.",
        test=_TESTS + "test_hydra_parses_and_composes_outside_of_its_decorator",
    ),
    PrivateUse(
        owner="hydra._internal.utils",
        names=("get_args_parser",),
        modules=("looplab.cli.arguments",),
        why="Gives Hydra's own options outside of its decorator.",
        test=_TESTS + "test_hydra_parses_and_composes_outside_of_its_decorator",
    ),
    PrivateUse(
        owner="hydra._internal.hydra.Hydra",
        names=("create_main_hydra2",),
        modules=("looplab.config.compose",),
        why="Makes the loader of configurations as Hydra's decorator does.",
        test=_TESTS + "test_hydra_parses_and_composes_outside_of_its_decorator",
    ),
    PrivateUse(
        owner="hydra._internal.config_loader_impl.ConfigLoaderImpl",
        names=("_parse_overrides_and_create_caching_repo", "load_configuration"),
        modules=("looplab.config.compose",),
        why="Compose with Hydra's own section, and give the parsed words of a command line and the files.",
        test=_TESTS + "test_hydra_parses_and_composes_outside_of_its_decorator",
    ),
    PrivateUse(
        owner="hydra._internal.defaults_list",
        names=("create_defaults_list",),
        modules=("looplab.config.compose",),
        why="Gives the files that a configuration is composed of, so that messages can name them.",
        test=_TESTS + "test_hydra_parses_and_composes_outside_of_its_decorator",
    ),
    PrivateUse(
        owner="omegaconf.Container",
        names=("_get_node", "_value"),
        modules=("looplab.config.validation",),
        why="Give a value as it was written, without resolving it: a secret must not be there.",
        test=_TESTS + "test_omegaconf_gives_values_as_they_were_written",
    ),
    PrivateUse(
        owner="argparse.ArgumentParser",
        names=("_option_string_actions",),
        modules=("looplab.cli.arguments",),
        why="Gives the options there are, for the nearest to one that is misspelt.",
        test=_TESTS + "test_argparse_knows_its_options",
    ),
)

PRIVATE_USES = (*_KERAS, *_TENSORFLOW, *_CONFIGURATION)
