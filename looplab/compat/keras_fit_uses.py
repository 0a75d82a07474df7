"""Lists what looplab uses of Keras' training, callbacks and saving beyond their public interfaces."""

from looplab.compat.private_use import TESTS, PrivateUse

KERAS_FIT = (
    PrivateUse(
        owner="keras.Model",
        names=("_compile_metrics", "_loss_tracker"),
        modules=("looplab.callbacks.keras.model_view",),
        why="A compiled model shows its training through them: a callback sees those of the trainer.",
        test=TESTS + "test_a_compiled_model_shows_its_training_by_these_attributes",
    ),
    PrivateUse(
        owner="keras.Model",
        names=("_symbolic_build",),
        modules=("looplab.training.engine.recipe",),
        why="Makes the metrics that a compiled model lists, as `fit` does at its first batch.",
        test="tests/test_compiled.py::test_a_compiled_model_lists_its_metrics_after_a_fit_as_after_that_of_keras",
    ),
    PrivateUse(
        owner="keras.src.trainers.compile_utils",
        names=("MetricsList",),
        modules=("looplab.callbacks.keras.model_view",),
        why="Callbacks look for their monitored metric in such a list.",
        test=TESTS + "test_a_compiled_model_shows_its_training_by_these_attributes",
    ),
    PrivateUse(
        owner="keras.Metric",
        names=("_direction",),
        modules=("looplab.callbacks.keras.monitors",),
        why="Tells callbacks whether a higher value of a metric is better.",
        test=TESTS + "test_a_compiled_model_shows_its_training_by_these_attributes",
    ),
    PrivateUse(
        owner="keras.callbacks.TensorBoard",
        names=("_should_trace",),
        modules=("looplab.callbacks.keras.batch_hooks",),
        why="Tells whether the batch hooks have an effect.",
        test=TESTS + "test_fields_of_keras_callbacks",
    ),
    PrivateUse(
        owner="keras.callbacks.TensorBoard",
        names=(
            *("_batch_trace_context", "_is_tracing", "_log_write_dir", "_prev_summary_state"),
            *("_profiler_started", "_should_write_train_graph", "_summary_module", "_train_dir", "_val_dir"),
            "_writers",
        ),
        modules=("looplab.callbacks.keras.saved_fields",),
        why="The callback makes them again by itself, so checkpoints leave them out.",
        test=TESTS + "test_fields_of_keras_callbacks",
    ),
    PrivateUse(
        owner="keras.callbacks.Callback",
        names=("_model",),
        modules=("looplab.callbacks.keras.saved_fields",),
        why="`set_model` sets it, so checkpoints leave it out.",
        test=TESTS + "test_fields_of_keras_callbacks",
    ),
    PrivateUse(
        owner="keras.src.utils.traceback_utils",
        names=("_keras_call_info_injected",),
        modules=("looplab.errors",),
        why="Keras passes on an exception that has this attribute unchanged.",
        test=TESTS + "test_errors_with_an_attribute_are_handed_on_as_they_are",
    ),
    PrivateUse(
        owner="keras.src.backend.common.stateless_scope",
        names=("in_stateless_scope",),
        modules=(
            "looplab.execution.inline_functions",
            "looplab.execution.recomputed_calls",
            "looplab.execution.running_step",
        ),
        why="Tells whether Keras infers shapes on placeholders: a trace from there never sees a weight.",
        test=TESTS + "test_keras_infers_shapes_in_a_scope_that_can_be_asked_for",
    ),
    PrivateUse(
        owner="keras.src.backend.common.global_state",
        names=("get_global_attribute",),
        modules=(
            "looplab.execution.recomputed_calls",
            "looplab.execution.unseeded_draws",
        ),
        why="Finds the global seed generator, and what inner layers inherit from a call, without making one.",
        test=TESTS + "test_keras_global_seed_generator_is_found_where_it_is_kept",
    ),
    PrivateUse(
        owner="keras.src.backend.common.global_state",
        names=("set_global_attribute",),
        modules=(
            "looplab.execution.recomputed_calls",
            "looplab.execution.unseeded_draws",
        ),
        why="Puts a generator of the trainer, or what an earlier call handed on, in its place.",
        test=TESTS + "test_keras_global_seed_generator_is_found_where_it_is_kept",
    ),
    PrivateUse(
        owner="keras.Layer",
        names=("_get_call_context", "_maybe_reset_call_context"),
        modules=("looplab.execution.recomputed_calls",),
        why="Begin and end what inner layers inherit from a call, such as `training`.",
        test=TESTS + "test_inner_layers_inherit_from_a_context_that_can_be_kept",
    ),
    PrivateUse(
        owner="keras.src.backend.common.variables",
        names=("AutocastScope",),
        modules=("looplab.execution.recomputed_calls",),
        why="Reads the values of variables as they are stored, within a layer that computes in 16 bits.",
        test=TESTS + "test_a_scope_without_a_dtype_gives_values_as_they_are_stored",
    ),
    PrivateUse(
        owner="keras.src.saving.saving_lib",
        names=("NpzIOStore", "_save_state"),
        modules=("looplab.checkpoint.warm_start.keras_names",),
        why="Return the name of each variable in a weight file, without writing one.",
        test=TESTS + "test_what_keras_saves_goes_to_a_store_that_can_be_another",
    ),
    PrivateUse(
        owner="keras.src",
        names=("activations", "applications", "callbacks", "export", "layers", "losses", "utils"),
        modules=("looplab.config.foreign_targets",),
        why="looplab identifies classes and functions of Keras by their modules before Keras is imported.",
        test="tests/experiment/test_write_limits.py::test_keras_is_where_the_list_says",
    ),
    PrivateUse(
        owner="keras.src.optimizers",
        names=("schedules",),
        modules=("looplab.schedule",),
        why="Modules whose names begin so hold Keras' own schedules.",
        test=TESTS + "test_models_and_schedules_of_keras_are_told_by_their_modules",
    ),
)
