"""execution=auto: the fastest way is taken, and nothing is different for having looked for it."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.checkpoint import state
from looplab.data import build_feed
from looplab.execution import autotune, autotune_cache, autotune_trials

X = np.linspace(-1, 1, 44, dtype="float32").reshape(11, 4)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Clock:
    """Time passes only in the steps of the executions that it makes."""

    def __init__(self, monkeypatch, **modes):
        self.now, self.modes, self.made = 0.0, modes, []
        self.weight, self.counter = tf.Variable([1.0, 2.0]), tf.Variable(0)
        monkeypatch.setattr("looplab.execution.autotune.time.perf_counter", lambda: self.now)

    def make(self, mode):
        clock, (step, compilation, update) = self, self.modes[mode]
        self.made.append(mode)

        class CompiledLoop:
            compiled = False

            def run(self, feed, count):
                clock.now += step * count + (0.0 if self.compiled else compilation)
                self.compiled = True
                if update is None:
                    raise NotImplementedError("no kernel")
                clock.counter.assign_add(count)
                clock.weight.assign_add(tf.constant(update) * count)

        CompiledLoop.mode = mode
        return CompiledLoop()

    def choose(self, left=10**6, key="k", operations=100, modes=None, draws=(), serial=()):
        feed = build_feed(X, batch_size=4, shuffle=False, seed=0)
        feed.seek(0)
        return autotune.choose(
            self.make,
            modes or list(self.modes),
            feed,
            {"weight": self.weight, "counter": self.counter},
            trained=[self.weight],
            left=left,
            precision="float32",
            operations=operations,
            draws=draws,
            serial=serial,
            key=key,
        )


def test_the_fastest_is_taken_and_the_state_is_as_before(monkeypatch):
    clock = Clock(
        monkeypatch,
        graph=(1e-3, 0.5, [0.5, 0.25]),
        xla_step=(2e-3, 1.0, [0.5, 0.25]),
        xla_loop=(1e-4, 2.0, [0.5, 0.25]),
    )
    choice = clock.choose()
    assert choice.mode == "xla_loop"
    assert [(t.mode, round(t.microseconds)) for t in choice.trials] == [
        ("graph", 1000),
        ("xla_loop", 100),
        ("xla_step", 2000),
    ]
    assert choice.lines()[1] == "graph 1000 us; xla_loop 100 us; xla_step 2000 us"
    assert clock.weight.numpy().tolist() == [1.0, 2.0] and clock.counter.numpy() == 0
    assert clock.choose().mode == "xla_loop" and clock.made == ["graph", "xla_loop", "xla_step"]  # remembered
    assert clock.choose(key="other step").mode == "xla_loop" and len(clock.made) == 6


def test_what_is_remembered_is_weighed_against_compiling_it_again(monkeypatch):
    clock = Clock(monkeypatch, graph=(1e-3, 0.0, [0.5, 0.0]), xla_step=(5e-4, 3.0, [0.5, 0.0]))
    assert clock.choose().mode == "xla_step"
    assert clock.choose(left=5000).mode == "graph"  # 5 s against 3 + 2.5
    assert clock.choose(left=7000).mode == "xla_step"


def test_another_update_is_rejected_and_a_failure_is_none(monkeypatch):
    clock = Clock(
        monkeypatch,
        graph=(1e-3, 0.0, [0.5, 0.25]),
        xla_step=(1e-5, 0.0, None),
        xla_loop=(1e-4, 0.0, [0.5, 0.26]),
    )
    choice = clock.choose(draws=["StatelessRandomGammaV3"])
    assert choice.mode == "graph"
    assert "rejected: its update is off by" in choice.trials[1].why_not
    assert choice.trials[1].why_not.endswith("XLA draws other random numbers for StatelessRandomGammaV3")
    assert choice.trials[2].why_not == "cannot run this step: no kernel"
    assert clock.weight.numpy().tolist() == [1.0, 2.0]


@pytest.mark.fault(35)
@pytest.mark.parametrize("end", [looplab.errors.Terminated, KeyboardInterrupt])
def test_who_asks_for_the_end_meanwhile_is_heard(monkeypatch, end):
    """A signal that comes before training begins is raised wherever the run is."""
    clock = Clock(monkeypatch, graph=(1e-3, 0.0, [0.5, 0.25]), xla_step=(1e-4, 0.0, [0.5, 0.25]))
    make = clock.make

    def ended(mode):
        if mode != "graph":
            raise end
        return make(mode)

    clock.make = ended
    with pytest.raises(end):
        clock.choose()
    assert clock.weight.numpy().tolist() == [1.0, 2.0]


@pytest.mark.parametrize(("left", "made"), [(50, []), (900, ["graph"])])
def test_short_runs_are_not_measured(monkeypatch, left, made):
    clock = Clock(monkeypatch, graph=(1e-3, 0.0, [0.5, 0.0]), xla_step=(1e-4, 0.0, [0.5, 0.0]))
    choice = clock.choose(left=left)
    assert (choice.mode, clock.made, choice.trials) == ("graph", made, ())
    assert "too few to measure" in choice.why


def test_a_compilation_that_may_cost_more_than_it_can_save_is_not_begun(monkeypatch):
    clock = Clock(monkeypatch, graph=(1e-3, 0.0, [0.5, 0.0]), xla_step=(1e-4, 9.0, [0.5, 0.0]))
    choice = clock.choose(left=5000, operations=3000)
    assert choice.mode == "graph" and clock.made == ["graph"]
    assert choice.why.startswith("the only one of 2 ways that was measured, in ")
    assert "not tried: it may take" in choice.trials[1].why_not
    assert clock.choose(left=10**6, operations=3000).mode == "xla_step"  # and nothing was remembered


def test_no_mode_is_tried_that_cannot_end_in_time_after_the_trace_of_the_first(monkeypatch):
    clock = Clock(monkeypatch, graph=(1e-3, 6.0, [0.5, 0.0]), xla_step=(1e-4, 1.0, [0.5, 0.0]))
    choice = clock.choose(left=10**5)
    assert choice.mode == "graph" and clock.made == ["graph"]
    assert choice.trials[1].why_not.startswith("not tried: it may take 6.4 s, and 6.")
    assert choice.trials[1].why_not.endswith(" s of at most 10 s are spent")


def test_slow_steps_are_not_repeated_beyond_the_budget(monkeypatch):
    same = [0.5, 0.0]
    clock = Clock(monkeypatch, graph=(0.8, 0.0, same), xla_step=(0.6, 0.0, same), xla_loop=(0.7, 0.0, same))
    choice = clock.choose(left=500)
    assert choice.mode == "xla_step" and choice.seconds == clock.now < 10


def test_a_way_that_was_not_tried_is_tried_when_it_may_pay(monkeypatch):
    """Until then the run after pays nothing for what the one before has found out."""
    clock = Clock(monkeypatch, graph=(1e-3, 0.0, [0.5, 0.0]), xla_step=(1e-4, 9.0, [0.5, 0.0]))
    first = clock.choose(left=5000, operations=3000)
    again = clock.choose(left=5000, operations=3000)
    assert again.trials[0] == first.trials[0] and "earlier" in again.why and clock.made == ["graph"]
    assert "not tried: it may take" in again.trials[1].why_not
    assert clock.choose(left=10**6, operations=3000).mode == "xla_step"
    assert clock.made == ["graph", "graph", "xla_step"]


def test_what_disturbs_one_measurement_decides_nothing(monkeypatch):
    """The other half of a machine may be away for as long as one way is timed."""
    clock = Clock(monkeypatch, graph=(1e-3, 0.0, [0.5, 0.0]), xla_step=(5e-4, 0.0, [0.5, 0.0]))
    make = clock.make

    def disturbed(mode):
        made = make(mode)
        ran = made.run

        def run(feed, count):
            ran(feed, count)
            if mode == "xla_step" and clock.now < 1.0:
                clock.now += 2e-3 * count

        made.run = run
        return made

    clock.make = disturbed
    choice = clock.choose()
    assert choice.mode == "xla_step"
    assert [round(trial.microseconds) for trial in choice.trials] == [1000, 500]


def test_a_hopeless_way_runs_three_steps(monkeypatch):
    """A whole loop of convolutions in XLA takes 30 times as long, on a CPU."""
    steps = []
    clock = Clock(monkeypatch, graph=(0.03, 0.0, [0.5, 0.0]), xla_loop=(1.0, 0.0, [0.5, 0.0]))
    make = clock.make

    def counted(mode):
        made = make(mode)
        ran = made.run
        made.run = lambda feed, count: (ran(feed, count), steps.append((mode, count)))
        return made

    clock.make = counted
    assert clock.choose().trials[1].microseconds == pytest.approx(1e6)
    assert [count for mode, count in steps if mode == "xla_loop"] == [2, 1]


@pytest.mark.parametrize(
    ("step", "made"), [(2e-3, ["graph", "xla_step"]), (5e-4, ["graph", "xla_step", "xla_loop"])]
)
def test_a_loop_of_convolutions_is_tried_where_the_step_gains_from_xla(monkeypatch, step, made):
    clock = Clock(
        monkeypatch,
        graph=(1e-3, 0.5, [0.5, 0.25]),
        xla_step=(step, 1.0, [0.5, 0.25]),
        xla_loop=(1e-4, 1.0, [0.5, 0.25]),
    )
    choice = clock.choose(serial=["Conv2D"])
    assert (choice.mode, clock.made) == ("graph" if len(made) == 2 else "xla_loop", made)
    assert ("xla_loop left out: it runs Conv2D on one core" in choice.lines()[1]) == (len(made) == 2)
    clock.made.clear()
    assert clock.choose(serial=["Conv2D"]).mode == choice.mode and not clock.made  # as remembered


def test_convolutions_are_known_by_their_operations(monkeypatch):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [])  # no GPU
    layers = keras.layers
    found = {}
    for layer, shape in [
        (layers.Conv1D(2, 3), (8, 2)),
        (layers.Conv2DTranspose(2, 3), (8, 8, 2)),
        (layers.SeparableConv2D(2, 3), (8, 8, 2)),
        (layers.Dense(2), (8, 2)),
    ]:
        trace = tf.function(layer).get_concrete_function(tf.TensorSpec([4, *shape])).graph
        found[layer.name] = autotune.on_one_core(operation.type for operation in trace.get_operations())
    assert found == {
        "conv1d": ["Conv2D"],
        "conv2d_transpose": ["Conv2DBackpropInput"],
        "separable_conv2d": ["Conv2D", "DepthwiseConv2dNative"],
        "dense": [],
    }


def test_a_short_run_is_measured_once(monkeypatch):
    clock = Clock(monkeypatch, graph=(1e-3, 0.0, [0.5, 0.0]), xla_step=(1e-4, 0.0, [0.5, 0.0]))
    assert clock.choose(left=900).why == clock.choose(left=900).why and clock.made == ["graph"]


def test_what_one_compilation_took_foretells_the_next(monkeypatch):
    clock = Clock(
        monkeypatch,
        graph=(1e-3, 0.0, [0.5, 0.0]),
        xla_step=(1e-4, 7.0, [0.5, 0.0]),
        xla_loop=(9e-4, 7.0, [0.5, 0.0]),
    )
    choice = clock.choose(left=20_000)  # of which 10 s may be spent
    assert clock.made == ["graph", "xla_loop"]
    assert choice.why.startswith("the fastest of 2 ways that were measured, of 3, in ")
    assert choice.trials[2].why_not == "not tried: it may take 7.4 s, and 7.8 s of at most 10 s are spent"


def test_a_broken_cache_is_no_hindrance(monkeypatch, cache):
    clock = Clock(monkeypatch, graph=(1e-3, 0.0, [0.5, 0.0]))
    clock.choose()
    (file,) = (cache / "looplab" / "execution").iterdir()
    for broken in ("{", "[]", '{"trials": [], "needed": 1}'):
        file.write_text(broken)
        assert clock.choose().mode == "graph"
    assert clock.made == 4 * ["graph"]
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert clock.choose().mode == "graph"


# --- in a trainer -----------------------------------------------------------------------------------


def model():
    return keras.Sequential(
        [keras.layers.Dropout(0.5), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    )


def plain():
    return keras.Sequential([keras.layers.Dense(1)])


def trainer(run_dir=None, network=model, **options):
    return looplab.Trainer(network, "adam", "mse", ["mae"], run_dir=run_dir, **options)


def fit(made, epochs):
    return made.fit(X, X[:, :1], batch_size=4, epochs=epochs, verbose=0).history


@pytest.fixture
def eager_to_measure(monkeypatch):
    """Has every run measured, and XLA win."""
    monkeypatch.setattr(autotune, "_FEW", 0)
    monkeypatch.setattr(autotune, "_LEAST_SAVING", 0.0)
    monkeypatch.setattr(autotune, "_BUDGET", 1e9)
    monkeypatch.setattr(autotune, "_LARGEST_SAVING", 1e9)
    monkeypatch.setattr(autotune, "TIMED", 1e-4)
    monkeypatch.setattr(autotune_trials, "TIMED", 1e-4)
    speeds = {"graph": 3.0, "xla_step": 2.0, "xla_loop": 1.0}
    monkeypatch.setattr(autotune_trials.Trials, "_time", lambda self, execution: speeds[execution.mode])


@pytest.mark.slow
def test_the_run_is_that_of_the_way_by_name_and_goes_on_with_it(eager_to_measure, monkeypatch, tmp_path):
    chosen, named = trainer(tmp_path / "chosen"), trainer(execution="xla_loop")
    assert fit(chosen, 2) == fit(named, 2)
    before, after = state.read(named._engine.variables), state.read(chosen._engine.variables)
    assert before.keys() == after.keys()
    for path in before:
        np.testing.assert_array_equal(before[path], after[path], err_msg=path)
    environment = json.loads((tmp_path / "chosen" / "environment.json").read_text())
    assert environment["execution"]["mode"] == "xla_loop"
    assert [trial["why_not"] for trial in environment["execution"]["choice"]["trials"]] == [""] * 3

    monkeypatch.setattr(autotune, "choose", None)  # not asked again
    again = trainer(tmp_path / "chosen")
    assert fit(again, 4)["loss"] == fit(named, 4)["loss"]
    assert again._engine.modes.mode == "xla_loop"


@pytest.mark.share(1)
@pytest.mark.parametrize("content", [None, "{"], ids=["kept", "lost"])
def test_the_choice_stands_before_the_first_update(eager_to_measure, monkeypatch, tmp_path, content):
    """Of a run that is killed before its first checkpoint, too: its steps are those it had begun with."""

    class Killed(looplab.Callback):
        def on_train_begin(self, event, controls):
            raise KeyboardInterrupt

    run_dir = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(trainer(run_dir, plain, callbacks=[Killed()]), 2)
    assert not list((run_dir / "checkpoints").glob("step_*"))
    if content is not None:  # of a machine that lost its power: it is found out again
        (run_dir / "environment.json").write_text(content)
    again = {"graph": 1.0, "xla_step": 2.0, "xla_loop": 3.0}
    monkeypatch.setattr(autotune_trials.Trials, "_time", lambda self, execution: again[execution.mode])
    monkeypatch.setattr(autotune, "remembered", lambda key: None)
    made = trainer(run_dir, plain)
    fit(made, 2)
    assert made._engine.modes.mode == ("xla_loop" if content is None else "graph")
    if content is not None:
        return
    changed = trainer(run_dir.with_name("other"), plain, precision="float64")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "environment.json").write_text((run_dir / "environment.json").read_text())
    fit(changed, 1)
    assert changed._engine.modes.mode == "graph"  # another step than that which was measured


@pytest.mark.slow
def test_an_evaluation_that_xla_cannot_compile_runs_in_the_graph(eager_to_measure, monkeypatch, caplog):
    """How steps are trained was found out; that evaluations can be run so was not."""
    speeds = {"graph": 3.0, "xla_step": 1.0, "xla_loop": 2.0}
    monkeypatch.setattr(autotune_trials.Trials, "_time", lambda self, execution: speeds[execution.mode])

    class Read(looplab.Trainer):
        def test_step(self, batch):
            lengths = tf.strings.length(tf.strings.as_string(batch[1][:, 0]))  # XLA has no strings
            return {"length": tf.reduce_mean(tf.cast(lengths, tf.float32))}

    data, values = (X, X[:, :1]), []
    for execution in ("graph", "auto"):
        made = Read(plain, "adam", "mse", execution=execution)
        with caplog.at_level("INFO", "looplab"):
            made.fit(*data, batch_size=4, epochs=1, validation_data=data, verbose=0)
        values.append(made.evaluate(*data, batch_size=4))
    assert made._engine.modes.mode == "xla_step" and values[0] == values[1]
    said = [r.getMessage() for r in caplog.records if "evaluation" in r.getMessage()]
    assert len(said) == 1 and "evaluations run without XLA" in said[0]
    with pytest.raises(Exception, match=r"(?i)compil"):  # who asks for it is told
        named = Read(plain, "adam", "mse", execution="xla_step")
        named.fit(*data, batch_size=4, epochs=1, validation_data=data, verbose=0)


@pytest.mark.slow
def test_on_several_replicas_only_what_they_can_run_is_tried(eager_to_measure):
    two = looplab.Trainer(plain, "sgd", "mse", strategy=looplab.strategy.simulated(2))
    fit(two, 1)
    assert [trial.mode for trial in two._engine.modes.choice.trials] == ["graph", "xla_step"]


@pytest.mark.slow
def test_a_run_that_goes_on_where_its_way_is_not_offered_is_measured_anew(eager_to_measure, tmp_path):
    def made(strategy):
        return looplab.Trainer(plain, "sgd", "mse", strategy=strategy, run_dir=tmp_path / "run")

    one, two = made("auto"), made(looplab.strategy.simulated(2))
    fit(one, 1)
    assert one._engine.modes.mode == "xla_loop"
    fit(two, 2)
    assert two._engine.modes.mode == "xla_step"


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [pytest.param([5], marks=pytest.mark.slow), [3, 5, 4, 4]], ids=str)
def test_batches_of_several_lengths_are_measured_by_those_of_one(eager_to_measure, lengths):
    def rows():
        for index in range(40):
            yield np.full([lengths[index % len(lengths)], 2], index / 40, "float32")

    data = tf.data.Dataset.from_generator(rows, output_signature=tf.TensorSpec([None, 2])).padded_batch(2)
    data = data.map(lambda x: (x, tf.reduce_sum(x, [1, 2])[:, None])).apply(
        tf.data.experimental.assert_cardinality(20)
    )

    def pooled():
        layers = keras.layers
        return keras.Sequential([keras.Input([None, 2]), layers.GlobalAveragePooling1D(), layers.Dense(1)])

    made = looplab.Trainer(pooled, "sgd", "mse")
    made.fit(data, epochs=1, verbose=0)
    assert made._engine.modes.choice.mode == "xla_step"


def measured_key(model=None, **options):
    layers = keras.layers
    made = looplab.Trainer(model or (lambda: keras.Sequential([layers.Dense(1)])), "sgd", "mse", **options)
    made.fit(X, X[:, :1], batch_size=options.pop("batch_size", 4), epochs=1, verbose=0)
    return made._engine.modes.choice.key


@pytest.mark.slow
def test_what_is_remembered_is_of_this_step_on_this_machine(monkeypatch):
    """Any difference that could make another way the fastest makes another key."""
    same, again = measured_key(), measured_key()
    assert same == again
    others = {
        "step": measured_key(lambda: keras.Sequential([keras.layers.Dense(2), keras.layers.Dense(1)])),
        "precision": measured_key(precision="mixed_bfloat16"),
        "micro-batches": measured_key(micro_batches=2),
        "replicas": measured_key(strategy=looplab.strategy.simulated(2)),
        "guard": measured_key(on_nonfinite="ignore"),
    }
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
    others["flags"] = measured_key()
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setattr(autotune_cache, "_processor", lambda: "another")
    others["processor"] = measured_key()
    monkeypatch.undo()
    monkeypatch.setattr(tf, "__version__", "2.99")
    others["version"] = measured_key()
    assert len({same, *others.values()}) == 1 + len(others), others


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("options", "why"), [({"run_eagerly": True}, ""), ({"execution": "graph"}, None)], ids=str
)
def test_what_is_given_is_not_measured(eager_to_measure, options, why):
    made = trainer(**options)
    fit(made, 1)
    assert made._engine.modes.mode == "graph"
    assert (made._engine.modes.choice and made._engine.modes.choice.why) == why


def test_a_step_that_makes_its_own_data_is_not_measured(eager_to_measure):
    class Made(looplab.Trainer):
        def make_batch(self, step):
            return X, X[:, :1]

    made = Made(model, "sgd", "mse")
    made.fit(steps=3, verbose=0)
    assert made._engine.modes.choice.why == "a step that makes its own data is not measured"


# --- micro_batches="auto" ---------------------------------------------------------------------------


def too_large(count):
    raise tf.errors.ResourceExhaustedError(None, None, f"out of memory in {count}")


@pytest.mark.parametrize(
    ("fits", "most", "tried"),
    [(1, 8, [1]), (3, 8, [1, 2, 4, 3]), (6, 6, [1, 2, 4, 6, 5]), (8, 9, [1, 2, 4, 8, 6, 7])],
)
def test_the_fewest_micro_batches_that_fit_are_found(fits, most, tried):
    seen = []
    assert autotune.fewest(lambda n: seen.append(n) or (n < fits and too_large(n)), most) == fits
    assert seen == tried


def test_what_fits_in_no_pieces_is_said():
    with pytest.raises(looplab.ConfigurationError, match="in 3 micro-batches: out of memory in 3"):
        autotune.fewest(too_large, 3)


def test_without_a_gpu_they_are_not_looked_for():
    with pytest.raises(
        looplab.ConfigurationError,
        match=r"no GPU. By its graph a step needs: weights 100 bytes, .*activations",
    ):
        fit(trainer(micro_batches="auto"), 1)


def test_a_run_goes_on_in_the_pieces_that_fitted(monkeypatch, tmp_path):
    """With a GPU that is none, whose memory is full at will."""
    made = looplab.execution.CompiledLoop.run
    tight = {"needs": 2}

    def dense(**options):
        return looplab.Trainer(plain, "sgd", "mse", **options)

    def run(execution, feed, count):
        return (
            made(execution, feed, count)
            if one._engine.modes.micro_batches >= tight["needs"]
            else too_large(count)
        )

    monkeypatch.setattr("looplab.trainer.tf.config.list_logical_devices", lambda kind=None: [])
    monkeypatch.setattr("looplab.execution.CompiledLoop.run", run)
    one = dense(micro_batches="auto", run_dir=tmp_path / "run")
    with pytest.raises(looplab.ConfigurationError, match="no GPU"):
        fit(one, 1)
    gpu = tf.config.LogicalDevice("/device:GPU:0", "GPU")
    monkeypatch.setattr("looplab.trainer.tf.config.list_logical_devices", lambda kind=None: [gpu])
    fit(one, 2)
    assert one._engine.modes.micro_batches == 2
    tight["needs"], first = 0, one
    one = dense(micro_batches="auto", run_dir=tmp_path / "run")
    assert fit(one, 2) == fit(first, 2)
    assert one._engine.modes.micro_batches == 2


@pytest.mark.slow
def test_the_order_of_a_stream_does_not_depend_on_whether_ways_were_measured(eager_to_measure, tmp_path):
    """A shuffle draws anew each time its pipeline is begun."""

    def losses(**options):
        made = looplab.Trainer(lambda: keras.Sequential([keras.layers.Dense(1)]), "sgd", "mse", **options)
        data = (
            tf.data.Dataset.from_tensor_slices((X, X[:, :1]))
            .shuffle(11, seed=1)
            .batch(3, drop_remainder=True)
        )
        return made.fit(data, epochs=3, verbose=0).history["loss"], made._engine.modes.choice

    measured, choice = losses()
    remembered, known = losses()
    named, none = losses(execution=choice.mode)
    assert measured == pytest.approx(remembered, rel=1e-5)
    assert measured == pytest.approx(named, rel=1e-5)
    assert "fastest" in choice.why and "earlier" in known.why and none is None
