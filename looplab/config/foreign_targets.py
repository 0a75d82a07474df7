"""Lists Keras' targets that act on files or hosts, and what a configuration may decide about them.

The names are those under which Keras defines them. A test compares the list with the constructors.
"""

from __future__ import annotations

from collections.abc import Iterable

from looplab.targets import Limits

_CALLBACKS = "keras.src.callbacks"
_LAYERS = "keras.src.layers"
_PROGRAM = "runs any program; write your own layer around it"

# Arguments that are paths.
LIMITS = {
    f"{_CALLBACKS}.backup_and_restore.BackupAndRestore": Limits(writes=frozenset({"backup_dir"})),
    f"{_CALLBACKS}.csv_logger.CSVLogger": Limits(writes=frozenset({"filename"})),
    f"{_CALLBACKS}.model_checkpoint.ModelCheckpoint": Limits(writes=frozenset({"filepath"})),
    f"{_CALLBACKS}.orbax_checkpoint.OrbaxCheckpoint": Limits(writes=frozenset({"directory"})),
    f"{_CALLBACKS}.tensorboard.TensorBoard": Limits(
        frozenset({"embeddings_metadata"}), frozenset({"log_dir"})
    ),
    f"{_CALLBACKS}.remote_monitor.RemoteMonitor": Limits(
        user_only=frozenset({"root", "path", "field", "headers", "send_as_json"})
    ),
    f"{_LAYERS}.preprocessing.index_lookup.IndexLookup": Limits(frozenset({"vocabulary"})),
    f"{_LAYERS}.preprocessing.text_vectorization.TextVectorization": Limits(frozenset({"vocabulary"})),
}
APPLICATIONS = "keras.src.applications."
PURE = ("keras.src.losses.losses.", "keras.src.activations.activations.")  # functions of tensors
OF_APPLICATIONS = Limits(reads=frozenset({"weights"}))

# Targets that no configuration may name.
REFUSED = {
    f"{_CALLBACKS}.remote_monitor.RemoteMonitor": (
        "sends the logs to any host that a configuration names. Give it to the trainer in Python, or write "
        "your own class"
    ),
    f"{_LAYERS}.core.lambda_layer.Lambda": _PROGRAM,
    "keras.src.export.tfsm_layer.TFSMLayer": _PROGRAM,
    "keras.src.utils.jax_layer.JaxLayer": _PROGRAM,
    "keras.src.utils.jax_layer.FlaxLayer": _PROGRAM,
    "keras.src.utils.torch_utils.TorchModuleWrapper": _PROGRAM,
}


def limits(paths: Iterable[str]) -> Limits:
    """Returns the combined limits of Keras' classes and functions with these paths.

    Args:
        paths: The path of a definition, and those of a class's bases.
    """
    found = Limits()
    for path in paths:
        found |= OF_APPLICATIONS if path.startswith(APPLICATIONS) else LIMITS.get(path, Limits())
    return found
