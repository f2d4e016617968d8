"""The training loop: resume, update, report, save, and stop when asked."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dit_jax.data import pipeline, sources
from dit_jax.data.identity import identity
from dit_jax.diffusion.joint_levels import JOINT_LEVELS
from dit_jax.diffusion.keys import domain
from dit_jax.diffusion.objective import OBJECTIVES
from dit_jax.diffusion.stream import in_data
from dit_jax.network.layout import token_counts
from dit_jax.parallel.mesh import check_division, make_mesh
from dit_jax.parallel.modes import MODES, Mode
from dit_jax.progress import progress
from dit_jax.run import Run
from dit_jax.sampling.draw import draw, gather
from dit_jax.sampling.plan import make_plan
from dit_jax.sampling.sheet import sheet
from dit_jax.training import checkpoint
from dit_jax.training.flops import PEAK, matmul_flops
from dit_jax.training.lock import locked
from dit_jax.training.metrics import Meter, Writer
from dit_jax.training.saving import Saver
from dit_jax.training.step import Step, make_init, make_step


def train(run: Run, workdir: Path):
    """Train a run in its directory, from its newest checkpoint if there is one, to run.train.steps updates.

    SIGTERM and Ctrl-C save and return; a second one leaves at once. Mistakes are ValueErrors or FileNotFoundErrors,
    raised before anything compiles.
    """
    if run.sample.every:
        make_plan(run.streams, run.sample)  # so that what is given can be read, and drawn from
    mesh, mode = placement(run)
    source = sources.load(run.data.name, "train", run.data.dir, in_data(run.streams))
    examples = pipeline.examples(source, run.train.seed, run.data.augment)
    rows = _rows(run)

    init = make_init(run.model, run.optimizer)
    meter = Meter(run.data.batch_size, _flops(run), _peak(mesh))
    workdir.mkdir(parents=True, exist_ok=True)
    with locked(workdir), Saver(workdir, run.checkpoint.keep) as saver, interruptible() as asked:
        data = identity(run.data.name, source)
        done, state, apart = checkpoint.restore(workdir, mode.abstract(init), run.config, data, run.data.changed)
        about = {"config": run.config, "data": data, "keys_apart": apart}
        init_key, root = training_keys(run.train.seed, apart)
        step = mode.compile(_step(run, root, mode))
        if state is None:
            state = mode.create(init, init_key)
        else:
            print(f"resuming from step {done} of {workdir}")
        state = mode.adopt(state)
        batches = pipeline.batches(examples, done, run.data.batch_size, rows, run.data.threads)
        placed_rows = mode.put({"rows": np.arange(run.data.batch_size)[rows]})["rows"]

        with Writer(workdir) as writer, progress(run.train.steps, done, "training") as show:
            while done < run.train.steps and not asked:
                state, metrics = step(state, mode.put(next(batches)), placed_rows)
                meter.add(metrics)
                done += 1
                show(done)
                if done % run.train.log_every == 0 or done == run.train.steps:
                    values = meter.means()
                    writer.scalars(done, values)
                    shown = {"loss": "loss", "examples_per_second": "examples/s"}
                    show(done, **{shown[name]: value for name, value in values.items() if name in shown})
                if run.sample.every and done % run.sample.every == 0:
                    with meter.paused():
                        drawn = gather(draw(run, mode.plain(state).ema, mesh, run.sample))
                        writer.picture(done, "samples", sheet(run.streams, drawn))
                if done % run.checkpoint.every == 0 and done < run.train.steps:
                    saver.save(done, mode.plain(state), about)
        saver.save(done, mode.plain(state), about)
    print(f"{'stopped' if asked else 'finished'} at step {done}; checkpoint in {workdir / 'checkpoints' / str(done)}")


def _step(run: Run, root: jax.Array, mode: Mode) -> Step:
    """The update of a run: everything in it that the config decides."""
    return make_step(
        run.model.apply,
        run.streams,
        run.optimizer,
        root=root,
        batch_size=run.data.batch_size,
        ema=run.train.ema,
        objective=OBJECTIVES[run.train.objective],
        joint_levels=JOINT_LEVELS[run.train.levels],
        uncertainty=lambda params, t: run.model.apply(params, t, method="uncertainty"),
        accumulation=run.train.accumulation,
        axis=mode.axis,
    )


def training_keys(seed: int, apart: bool = True) -> tuple[jax.Array, jax.Array]:
    """(key of the initial parameters, root of the keys of all updates) of a seed. apart: from those of its samples,
    which the keys of runs begun by older versions are not."""
    key = jax.random.key(seed)
    if apart:
        return domain(key, "init"), domain(key, "train")
    init_key, root = jax.random.split(key)
    return init_key, root


def placement(run: Run) -> tuple[jax.sharding.Mesh, Mode]:
    """The mesh of a run and its mode, on the devices there are."""
    parallel = run.parallel
    mesh = make_mesh(parallel.data, parallel.fsdp, parallel.context, parallel.tensor)
    mode = MODES[parallel.mode](mesh)
    parts = mode.parts * run.train.accumulation
    if run.data.batch_size % parts:
        raise ValueError(
            f"data.batch_size = {run.data.batch_size} is not divisible by {parts}: "
            f"{mode.parts} devices x train.accumulation = {run.train.accumulation}"
        )
    tokens = sum(token_counts(run.streams).values())
    for axis, name, size in (("tensor", "model.heads", run.model.heads), ("context", "the number of tokens", tokens)):
        if size % mesh.shape[axis]:
            raise ValueError(f"parallel.{axis} = {mesh.shape[axis]} does not divide {name} = {size}")
    for axis, share in check_division(jax.eval_shape(run.model.init, jax.random.key(0)), mesh).items():
        if share:
            print(f"parallel.{axis} = {mesh.shape[axis]}: {share:.1%} of the parameters stay whole on each device")
    return mesh, mode


@contextlib.contextmanager
def interruptible() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT in the list that is yielded; the second one ends the process."""
    asked: list[int] = []

    def handle(number, frame):
        if asked:
            os._exit(128 + number)
        asked.append(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _rows(run: Run) -> slice:
    """The rows of a global batch that this process loads."""
    share = run.data.batch_size // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def _flops(run: Run) -> int:
    """Of the matrix products of an update; three forward passes' worth, by the convention of MFU."""
    n = run.data.batch_size
    shapes = {
        name: jax.ShapeDtypeStruct((n, *stream.shape), stream.process.dtype) for name, stream in run.streams.items()
    }
    levels = {name: jax.ShapeDtypeStruct((n,), jnp.float32) for name in shapes}
    return 3 * matmul_flops(run.model.apply, jax.eval_shape(run.model.init, jax.random.key(0)), shapes, levels)


def _peak(mesh: jax.sharding.Mesh) -> float | None:
    """Operations a second that the whole mesh could do, where the data sheet is known."""
    peak = PEAK.get(mesh.devices.flat[0].device_kind)
    return peak and peak * mesh.size
