"""Makes every target with hostile values for its arguments, has it act, and prints what it did outside.

A process of its own: `python -m tests.experiment.hostile_values SCRATCH PART PARTS MANY`. It watches the
events that Python audits. TensorFlow's C++ raises none: so it compares the files of the scratch folder, too
(the home, the project and a folder beside it), child processes, and connections to a server that listens.
"""

import inspect
import json
import os
import socket
import sys
import threading
from pathlib import Path

SCRATCH = Path(sys.argv[1])
HOME, TEMPORARY, PROJECT, OUTSIDE = (SCRATCH / name for name in ("home", "tmp", "project", "outside"))
for folder in (HOME, TEMPORARY, PROJECT / "images" / "a", OUTSIDE):
    folder.mkdir(parents=True, exist_ok=True)
os.environ |= {"HOME": str(HOME), "TMPDIR": str(TEMPORARY), "XDG_CACHE_HOME": str(HOME / ".cache")}
os.environ |= {"KERAS_HOME": str(HOME / ".keras"), "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
# Trackers do what the user's own settings say, and a file gives them no address.
os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_TRACKING_URI": f"sqlite:///{TEMPORARY}/mlflow.db"}
os.chdir(PROJECT)
(OUTSIDE / "kept.csv").write_text("a,b\n1,2\n")

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

import looplab  # noqa: E402
from looplab.config import check, foreign_targets, targets  # noqa: E402
from looplab.data import as_source, build_feed  # noqa: E402
from looplab.experiment import instantiate, write_limits  # noqa: E402
from looplab.protocols import Logger  # noqa: E402
from tests.process import snapshot  # noqa: E402
from tests.registered import registered  # noqa: E402

keras.utils.disable_interactive_logging()
server = socket.create_server(("127.0.0.1", 0))
PORT = server.getsockname()[1]
connections: list[str] = []


def _listen() -> None:
    while True:
        client, _ = server.accept()
        connections.append("a connection from C++ or from Python")
        client.close()


threading.Thread(target=_listen, daemon=True).start()

VALUES = [
    str(OUTSIDE / "new.csv"),
    f"http://127.0.0.1:{PORT}/x",
    [str(OUTSIDE / "kept.csv")],
    f"$(touch {OUTSIDE}/run)",
    "../outside/new",
    "~/new.csv",
    str(OUTSIDE / "kept.csv"),
    f"grpc://127.0.0.1:{PORT}",
    f"sqlite:///{OUTSIDE}/new.db",
    f"file://{OUTSIDE}/kept.csv",
    {"a": str(OUTSIDE / "kept.csv")},
    "a\0b",
]
X = np.ones((4, 8, 8, 1), "float32")
(PROJECT / "images" / "a" / "1.png").write_bytes(tf.io.encode_png(np.zeros((4, 4, 1), "uint8")).numpy())
(PROJECT / "t.csv").write_text("a,b\n1,2\n3,4\n")
with tf.io.TFRecordWriter("r.tfrecord") as writer:
    writer.write(b"x")

KINDS = [  # where a class stands, in the order in which it is asked for
    (keras.callbacks.Callback, "callbacks", lambda section: {"x": section}),
    (looplab.Callback, "callbacks", lambda section: {"x": section}),
    (Logger, "loggers", lambda section: {"more": {"x": section}}),
    (looplab.Trainer, "trainer", lambda section: section),
    (keras.Model, "model", lambda section: section),
    (keras.optimizers.Optimizer, "optimizer", lambda section: section),
    (keras.optimizers.schedules.LearningRateSchedule, "schedule", lambda section: section),
    (keras.losses.Loss, "loss", lambda section: section),
    (keras.metrics.Metric, "metrics", lambda section: [section]),
]
NEEDED = {  # arguments without which something is not made
    "files": "r.tfrecord",
    "parse": {"_target_": "keras.layers.Identity"},
    "directory": "images",
    "path": "t.csv",
    "train": 1,
    "inputs": [[1.0]],
    "match": "*",
    "at": 1,
    "limit": "1min",
    "monitor": "loss",
    "filename": "f.csv",
    "filepath": "w.weights.h5",
    "units": 2,
    "rate": 0.1,
    "schedule": 0.1,
    "size": 2,
    "filters": 2,
    "kernel_size": 1,
}
violations: list[str] = []
armed: list[Path] = []  # the run directory of the case that is tried


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if not armed:
        return
    run_dir = armed[0]
    if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        path = Path(os.fsdecode(arguments[0]))
        flags = arguments[2] if isinstance(arguments[2], int) else 0
        whole = Path(os.path.abspath(path))
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        free = (run_dir, TEMPORARY, HOME / ".netrc")  # the last is where W&B looks for its own key
        inside = whole.is_relative_to(SCRATCH) and not any(whole.is_relative_to(own) for own in free)
        if inside and (writes or whole.is_relative_to(OUTSIDE) or whole.is_relative_to(HOME)):
            violations.append(f"open {whole} {'to write' if writes else 'to read'}")
    elif event in ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.truncate"):
        whole = Path(os.path.abspath(os.fsdecode(arguments[0])))  # type: ignore[arg-type]
        if (
            not any(whole.is_relative_to(own) for own in (run_dir, TEMPORARY))
            and whole not in run_dir.parents
        ):
            violations.append(f"{event} {whole}")
    elif event in ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pty.spawn"):
        if "git" not in str(arguments[0]):  # which environment.json asks for the commit
            violations.append(f"{event} {arguments[0]}")
    elif event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        violations.append(f"{event} {arguments[1:]}")


sys.addaudithook(_watch)


def children() -> set[str]:
    """Returns the processes that this one has started and that go on."""
    tasks = Path("/proc/self/task").glob("*/children")
    return {child for task in tasks for child in task.read_text().split()}


def act(made: object, run_dir: Path) -> None:
    """Has an object do what it does in a run: one step, one evaluation."""
    if isinstance(made, looplab.Callback | keras.callbacks.Callback | Logger):
        callbacks = [] if isinstance(made, Logger) else [made]
        loggers = [made] if isinstance(made, Logger) else []
        trainer = looplab.Trainer(
            lambda: keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(1)]),
            "sgd",
            "mse",
            run_dir=run_dir,
            callbacks=callbacks,
            loggers=loggers,
            execution=looplab.options.execution.Execution(run_eagerly=True),
            hang_timeout=None,
        )
        trainer.fit(X, X[:, 0, 0], epochs=1, batch_size=4, validation_data=(X, X[:, 0, 0]), verbose=0)
    elif isinstance(made, looplab.Trainer):
        made.fit(X, X[:, 0, 0], epochs=1, batch_size=4, verbose=0)
    elif not isinstance(made, keras.Layer | keras.losses.Loss | keras.metrics.Metric):
        source = made["train"] if isinstance(made, dict) else made
        feed = build_feed(as_source(source), batch_size=1, shuffle=False, seed=0, steps_per_epoch=1)
        next(iter(feed.take(1)))


def cases(many: int):
    """Yields a target, the section that it stands in, an argument, and the whole configuration."""
    of_keras = [keras.callbacks, keras.layers, keras.applications]
    public = {value for module in of_keras for value in vars(module).values() if inspect.isroutine(value)}
    public |= {value for module in of_keras for value in vars(module).values() if isinstance(value, type)}
    for target in sorted([*registered(), *public], key=lambda own: f"{own.__module__}.{own.__qualname__}"):
        path = f"{target.__module__}.{target.__qualname__}"
        if path.startswith("keras.") and not isinstance(target, type):
            if not path.startswith(foreign_targets.APPLICATIONS) or "MobileNet" not in path:
                continue  # all of them load weights in one way, and making one takes seconds
            # Keras' own weights would come from Keras' own host.
            key, place = "model", lambda section: {"weights": None, **section}
        elif isinstance(target, type):
            kind = next(((key, place) for own, key, place in KINDS if issubclass(target, own)), None)
            key, place = kind or ("model", lambda s: {"_target_": "keras.Sequential", "layers": [s]})
        else:
            key, place = "data", lambda section: {"source": section}
        parameters = inspect.signature(target).parameters
        needed = {n: NEEDED[n] for n, own in parameters.items() if own.default is own.empty and n in NEEDED}
        if key == "trainer":
            needed, parameters = {}, {n: p for n, p in parameters.items() if n not in targets_of_trainer()}
        for name in parameters:
            for value in VALUES[:many]:
                yield path, name, key, place({"_target_": path, **needed, name: value})


def targets_of_trainer():
    """Returns the arguments that looplab gives a trainer."""
    from looplab.config.components import supplied_to_trainer

    return supplied_to_trainer()


def try_one(key: str, section: object, run_dir: Path) -> str:
    """Checks, makes and runs what a section describes, as a run would; returns how far it came."""
    base = {"epochs": 1, "optimizer": "sgd", "loss": "mse"}
    try:
        config = check(OmegaConf.create({**base, key: section}))
        if targets.check(config):
            return "refused"
        instantiate.check(config)
        write_limits.check(config, run_dir)
        config = write_limits.placed(config, run_dir)
        where = {
            "callbacks": lambda: (config.callbacks["x"], "callbacks.x"),
            "loggers": lambda: (config.loggers.more["x"], "loggers.more.x"),
            "data": lambda: (config.data.source, "data.source"),
            "metrics": lambda: (config.metrics[0], "metrics[0]"),
        }
        inner, name = where.get(key, lambda: (getattr(config, key), key))()
        more = {}
        if key == "trainer":
            more = {
                "model": keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(1)]),
                "optimizer": "sgd",
            }
            more |= {"loss": "mse", "run_dir": run_dir, "hang_timeout": None}
        act(instantiate.make(inner, name, **more), run_dir)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "made"


def main() -> None:
    """Tries a part of all cases; prints a line of JSON with the counts and the violations."""
    part, parts, many = map(int, sys.argv[2:5])
    counts, found, before_of_all = {"refused": 0, "made": 0, "failed": 0}, [], children()
    for number, (path, name, key, section) in enumerate(cases(many)):
        if number % parts != part:
            continue
        run_dir = SCRATCH / "runs" / str(number)
        before = [snapshot(folder) for folder in (HOME, PROJECT, OUTSIDE)]
        violations.clear()
        armed[:] = [run_dir]
        result = try_one(key, section, run_dir)
        armed.clear()
        after = [snapshot(folder) for folder in (HOME, PROJECT, OUTSIDE)]
        seen = [*violations, *connections, *(["files have changed"] if after != before else [])]
        seen += [f"a process {child}" for child in children() - before_of_all]
        connections.clear()
        counts[result if result in counts else "failed"] += 1
        if seen:
            found.append(f"{path}({name}=...) {section}: {sorted(set(seen))} {result[:80]}")
    print(json.dumps({"counts": counts, "violations": found}))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
