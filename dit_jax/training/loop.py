"""The training loop: resume, update, report, save, and stop when asked."""

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from dit_jax.data import pipeline, sources
from dit_jax.data.identity import identity, with_names
from dit_jax.diffusion.stream import in_data
from dit_jax.network.dit import parameter_shapes
from dit_jax.parallel import hosts
from dit_jax.parallel.modes import Mode
from dit_jax.progress import announced, progress
from dit_jax.run import Run
from dit_jax.sampling.draw import draw, gather
from dit_jax.sampling.plan import make_plan
from dit_jax.sampling.sheet import sheet, texts, title_of
from dit_jax.training import checkpoint
from dit_jax.training.changes import as_begun
from dit_jax.training.flops import flops, peak
from dit_jax.training.held_out import HeldOut, held_out_loss
from dit_jax.training.initial import fitted
from dit_jax.training.lock import locked
from dit_jax.training.metrics import Meter, Writer, memory, profiled, write_json
from dit_jax.training.optimizer import updates_made
from dit_jax.training.placement import placement
from dit_jax.training.saving import NotFiniteError, Saver
from dit_jax.training.step import State, Step, make_init
from dit_jax.training.stopping import Watcher, silence, watched
from dit_jax.training.update import make_update, training_keys

PICTURES = "samples"  # what pictures and texts are called, in front of their step


class Diverged(ValueError):
    """Training whose losses or gradients are not finite any more."""


def train(run: Run, workdir: Path, initial: Any = None, profile: range = range(0)) -> bool:
    """Train a run in its directory, from its newest checkpoint if there is one, to run.train.steps updates; whether it
    came to its end. Every process of a job calls this, with a directory that all of them see.

    initial: parameters that a run without a checkpoint begins with (see initial.py), in place of random ones.

    Signals and a closed terminal save and return; a second signal leaves at once. Mistakes are ValueErrors or OSErrors,
    raised before anything compiles. Raises Diverged, and what cannot be read of the data, with what is trained saved.
    """
    run = as_begun(run, checkpoint.newest_config(workdir))
    mesh, mode = placement(run)
    with announced(f"reading {run.data.name}"):
        source = sources.load(run.data.name, "train", run.data.dir, in_data(run.streams), run.data.holdout)
    data = identity(run.data.name, source)
    check_one_job(run, data)
    run = dataclasses.replace(run, streams=with_names(run.streams, data))
    if run.sample.every:
        make_plan(run.streams, run.sample)  # so that what is given can be read, and drawn from
    examples = pipeline.examples(source, run.train.seed, run.data.augment, run.streams, run.data.unreadable)
    workdir.mkdir(parents=True, exist_ok=True)
    with locked(workdir), Saver(workdir, run.checkpoint.keep) as saver:
        training = begin(run, mode, saver, workdir, data, initial)
        training.profile = profile
        operations = flops(run)
        if hosts.is_first():
            write_json(workdir / "config.json", run.config)
        print(sources.described(run.data.name, source, run.streams))
        print(described(run, mesh, operations))
        is_alone = jax.process_count() == 1
        watcher = Watcher(training.end, run.train.watchdog, training.unchanged, run.train.stopped_status, is_alone)
        with watched(watcher), Writer(workdir, training.step) as writer:
            try:
                _train(training, watcher, writer, mesh, examples, operations)
            except BrokenPipeError:  # who read what this says is gone: stop, as after a signal
                silence()
                if not is_alone:
                    raise
            except Diverged:
                raise
            except Exception:
                if not is_alone:  # the others are elsewhere, and would be waited for
                    raise
                with contextlib.suppress(Exception), watcher.saving():  # an update that failed has taken the state
                    if not training.unchanged():
                        training.end()
                raise
            with watcher.saving():
                sentence = training.end()
    hosts.barrier("the run is saved")
    print(sentence)
    return training.step >= run.train.steps


def check_one_job(run: Run, data: dict[str, Any]) -> None:
    """Raises ValueError, naming what, unless all processes of a job have the same config, data, code and packages."""
    code = {"digest": hosts.code_digest(), **checkpoint.versions()}
    hosts.check_agreement({"config": run.config, "data": data, "code": code})


@dataclasses.dataclass
class Training:
    """A run under way. step: updates done, skipped ones too; position: of the next batch in the data, which is another
    number after a rollback; saved: the step of the newest checkpoint, -1 for none. about: what checkpoints say beside
    their arrays. profile: the updates that are traced."""

    run: Run
    mode: Mode
    saver: Saver
    workdir: Path
    about: dict[str, Any]
    update: Step
    step: int
    position: int
    state: State
    saved: int
    profile: range = range(0)

    def save(self) -> None:
        """Write a checkpoint in the background. Raises Diverged for a state that is not finite."""
        try:
            self.saver.save(self.step, self.mode.plain(self.state), self.about | {"data_position": self.position})
        except NotFiniteError as error:
            raise Diverged(str(error)) from None
        self.saved = self.step

    def unchanged(self) -> str:
        """How a run ends that has made no step since its newest checkpoint; nothing for one that has."""
        if self.step != max(self.saved, 0):
            return ""
        return f"stopped at step {self.step}, before the first update since the newest checkpoint: nothing is lost"

    def end(self) -> str:
        """Save what is not saved yet, wait for it, and say so."""
        if self.saved != self.step:
            self.save()
        self.saver.wait()
        how = "finished" if self.step >= self.run.train.steps else "stopped"
        return f"{how} at step {self.step}; checkpoint in {self.workdir / 'checkpoints' / str(self.step)}"


def begin(run: Run, mode: Mode, saver: Saver, workdir: Path, data: dict | None, initial: Any = None) -> Training:
    """A run at its newest good checkpoint, or at its beginning."""
    init = make_init(run.model, run.optimizer, run.train.spike)
    position, state, apart = checkpoint.restore(workdir, mode.abstract(init), run.config, data, run.data.changed)
    init_key, root = training_keys(run.train.seed, apart)
    if state is None:
        step, saved, state = 0, -1, mode.create(init, init_key)
        if initial is not None:
            params, anew = fitted(state.params, initial)
            state = state._replace(params=params, ema=jax.tree.map(jnp.copy, params))
            print(f"starts from {run.train.init}" + (f"; anew are {', '.join(anew)}" if anew else ""))
    else:
        step = saved = int(state.step)
        print(f"resuming from step {step} of {workdir}")
    update = mode.compile(make_update(run, root, mode))
    about = {"config": run.config, "data": data, "keys_apart": apart}
    return Training(run, mode, saver, workdir, about, update, step, position, mode.adopt(state), saved)


def _train(
    training: Training,
    watcher: Watcher,
    writer: Writer,
    mesh: jax.sharding.Mesh,
    examples: pipeline.Examples,
    operations: int,
) -> None:
    """All updates that are left; after a divergence, from the newest checkpoint, past the batches that broke it."""
    run = training.run
    if training.step >= run.train.steps:
        return
    held_out = held_out_loss(run, mesh)
    with progress(run.train.steps, training.step, "training") as show:
        for rollbacks_left in range(run.train.rollback, -1, -1):
            meter = Meter(run.data.batch_size, operations, peak(mesh))
            reporter = Reporter(training, meter, writer, show, mesh, held_out)
            try:
                with profiled(training.profile, training.workdir / "profile") as trace:
                    return _updates(training, watcher, reporter, examples, trace)
            except Diverged as error:
                training.saver.wait()
                if not rollbacks_left or training.saver.newest is None:
                    raise
                roll_back(training)
                writer.rewind(training.step)
                print(f"{error}: goes on from step {training.step}, past the batches before {training.position}")


def _updates(
    training: Training,
    watcher: Watcher,
    reporter: "Reporter",
    examples: pipeline.Examples,
    trace: Callable[[int, Any], None],
) -> None:
    run, mode = training.run, training.mode
    rows = mode.rows(run.data.batch_size)
    batches = pipeline.batches(examples, training.position, run.data.batch_size, rows, run.data.threads)
    placed_rows = mode.put({"rows": rows})["rows"]
    begun, is_asked = training.step, hosts.agreed(lambda: watcher.asked)
    reporter.before_first_step()
    while training.step < run.train.steps and not is_asked():
        with reporter.meter.waiting("reading"):
            batch = mode.put(next(batches))
        if training.step == begun:
            reporter.show(begun, doing="compiling")
        trace(training.step, training.state)
        with watcher.updating:
            training.state, metrics = training.update(training.state, batch, placed_rows)
            training.step, training.position = training.step + 1, training.position + 1
        watcher.step()
        reporter.after_step(metrics, watcher)
    trace(training.step, training.state)


def roll_back(training: Training) -> None:
    """To the newest checkpoint, and on from where the data are now."""
    run, mode = training.run, training.mode
    abstract = mode.abstract(make_init(run.model, run.optimizer, run.train.spike))
    _, state, _ = checkpoint.restore(training.workdir, abstract, run.config)
    assert state is not None
    training.step = training.saved = int(state.step)
    training.state = mode.adopt(state)


class Reporter:
    """What is done beside the updates, each at its own steps: numbers, pictures and checkpoints."""

    def __init__(
        self,
        training: Training,
        meter: Meter,
        writer: Writer,
        show: Callable[..., None],
        mesh: jax.sharding.Mesh,
        held_out: HeldOut | None,
    ):
        self.training, self.meter, self.writer, self.show = training, meter, writer, show
        self.mesh, self.held_out = mesh, held_out

    def before_first_step(self) -> None:
        """What an untrained network draws, once; then the first batch is read."""
        training = self.training
        is_drawn = training.saved == 0 and any(training.workdir.glob(f"{PICTURES}_0000000.*"))
        if training.run.sample.every and training.step == 0 and not is_drawn:
            self.picture()
        self.show(training.step, doing="reading data")

    def after_step(self, metrics: dict, watcher: Watcher) -> None:
        """Report, draw and save, if it is time to."""
        training, run = self.training, self.training.run
        step, is_last = training.step, training.step == run.train.steps
        self.meter.add(metrics, step)
        self.show(step)
        if step % run.train.log_every == 0 or is_last:
            self.numbers()
        if run.sample.every and step % run.sample.every == 0:
            self.picture()
        if step % run.checkpoint.every == 0 and not is_last:
            self.meter.fetch()
            self.check(at_save=True)
            with self.meter.paused("saving"), watcher.saving():
                training.save()

    def picture(self) -> None:
        """What the averaged parameters draw: a contact sheet, and the texts, of which the first is printed."""
        training, run, step = self.training, self.training.run, self.training.step
        self.show(step, doing="drawing")
        with self.meter.paused("drawing"):
            drawn = gather(draw(run, training.mode.plain(training.state).ema, self.mesh, run.sample))
            page = sheet(run.streams, drawn, title_of(training.workdir, step, run.sample))
            self.writer.picture(step, PICTURES, page)
            if said := texts(run.streams, drawn, run.streams):
                self.writer.text(step, PICTURES, "\n".join(said))
                print(f"step {step:,}, sample {said[0]}", flush=True)

    def numbers(self) -> None:
        """One line of metrics.jsonl, and the most important of it on the terminal."""
        training, run = self.training, self.training.run
        values = self.meter.means()
        values["learning_rate"] = float(run.optimizer.learning_rate(max(updates_made(training.state.opt) - 1, 0)))
        values["examples"] = float(training.position * run.data.batch_size)
        if self.held_out is not None:
            with self.meter.paused("held_out"):
                values |= self.held_out(training.mode.plain(training.state).ema)
        self.writer.scalars(training.step, values | memory())
        shown = {"loss": "loss", "examples_per_second": "examples/s"}
        self.show(training.step, **{shown[name]: value for name, value in values.items() if name in shown})
        self.check()

    def check(self, at_save: bool = False) -> None:
        """Say which steps were skipped, and raise Diverged where none is made any more."""
        training, run, meter = self.training, self.training.run, self.meter
        if meter.skipped:
            first, last = meter.skipped[0], meter.skipped[-1]
            steps = f"step {first}" if first == last else f"{len(meter.skipped)} of the steps {first} ... {last}"
            print(f"skipped {steps}, whose loss or gradient is not finite{' or far too large' * bool(run.train.spike)}")
            meter.skipped = []
        since_save = training.step - max(training.saved, 0)
        if meter.in_a_row >= run.train.patience or (at_save and meter.in_a_row >= since_save):
            raise Diverged(
                f"the last {meter.in_a_row} steps up to {training.step} were skipped, because their loss or gradient "
                f"is not finite; the newest good checkpoint in {training.workdir} is {_named(training.saver.newest)}; "
                "set a lower --config.optimizer.learning_rate, or --config.train.rollback=1 to go on past these batches"
            )


def _named(step: int | None) -> str:
    return "none" if step is None else f"step {step}"


def described(run: Run, mesh: jax.sharding.Mesh, operations: int) -> str:
    """The network and devices of a run, and the operations of an update."""
    parameters = sum(leaf.size for leaf in jax.tree.leaves(parameter_shapes(run.model)))
    kind = mesh.devices.flat[0].device_kind
    return f"{parameters:,} parameters; {mesh.size} x {kind}; {operations:.3g} operations an update"
