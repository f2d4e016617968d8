"""Every entry of every section of a config changes what happens, or it would be accepted and ignored.

The table below has, for each entry, a value that is not the usual one and what has to change with it when a run is
built by `config.build`, trained by `training.loop.train` and drawn by `sampling.draw.draw`. An entry without a row
fails, and so does one whose change nobody sees: one that is lost on the way from the config to where it should act.
"""

import contextlib
import functools
import io
import itertools
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.interpreters.partial_eval import dce_jaxpr
from PIL import Image

from dit_jax import schema
from dit_jax.config import SECTIONS, STREAMS, build, default, stream
from dit_jax.data import pipeline, sources
from dit_jax.diffusion.ddpm import PROCESSES
from dit_jax.diffusion.levels import LEVELS
from dit_jax.diffusion.objective import OBJECTIVES, losses_at
from dit_jax.network.layers import BLOCKS
from dit_jax.parallel.mesh import make_mesh
from dit_jax.parallel.modes import MODES, Mode
from dit_jax.run import Run
from dit_jax.sampling.draw import draw
from dit_jax.train import initial_weights
from dit_jax.training import loop

# Base configs: what an entry needs around it to act. ----------------------------------------------------------------

SMALL = {
    "model": {"width": 24, "depth": 2, "heads": 2, "remat": "none"},
    "data": {"name": "synthetic", "batch_size": 4, "threads": 0},
    "optimizer": {"learning_rate": 0.01},
    "train": {"steps": 3},
    "sample": {"num": 2, "batch": 2, "steps": 2},
}
IMAGE = stream("image", shape=(4, 4, 1), levels="uniform()")
LABEL = stream("label", classes=10)
TEXT = stream("text", length=8, vocabulary=16)
CLIP = stream("video", shape=(4, 4, 4, 1))
SOUND = stream("audio", length=32, patch=8)
MEAN = {"image": {**IMAGE, "process": "gaussian(prediction='velocity')"}, "span": stream("span")}
GUIDED = {"sample": {"given": ["label=1"], "guidance": 3.0, "steps": 4}}
PICTURES, BROKEN = "FOLDER_OF_PICTURES", "FOLDER_WITH_A_BROKEN_ONE"
EVERY = {"checkpoint": {"every": 1, "keep": 3}}
LOOK = {"sample": {"every": 3}}

BASES: dict[str, dict] = {
    "digits": {"streams": {"image": IMAGE, "label": LABEL}},
    "colours": {"streams": {"image": {**IMAGE, "shape": (4, 4, 3)}, "label": LABEL}},
    "joint": {"streams": {"image": IMAGE, "text": TEXT, "label": LABEL}},
    "mean": {"streams": MEAN},
    "text": {"streams": {"text": TEXT}},
    "blocks": {"streams": {"text": {**TEXT, "blocks": 2}, "other": TEXT, "past": stream("past")}},
    "clip": {"streams": {"clip": CLIP}},
    "sound": {"streams": {"speech": SOUND, "drums": SOUND, "duration": stream("duration")}},
}


class Row(NamedTuple):
    """value: of the entry, in place of the one in the base. see: what has to change. more: changes of the base."""

    see: Callable[[dict], Any]
    base: str
    value: Any
    more: dict | None = None


def configured(base: str, more: dict | None = None) -> dict:
    """A whole config, as checkpoints hold it."""
    config = json.loads(default().to_json())
    for changes in (SMALL, BASES[base], more or {}):
        for section, entries in json.loads(json.dumps(changes)).items():
            config[section] |= entries
    return config


# What happens. -------------------------------------------------------------------------------------------------------


class Stopped(Exception):
    """Training has been seen as far as is needed."""


@contextlib.contextmanager
def devices(count: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "device_count", lambda: count)
        yield


@functools.cache  # what one run leaves is looked at in many ways, and to compile it takes seconds
def trained(config: str) -> dict[str, Any]:
    """What a run leaves that is trained on one device: parameters and their averages by step, which pictures, and of
    which updates metrics are."""
    with tempfile.TemporaryDirectory() as folder, devices(1):
        workdir = Path(folder) / "run"
        loop.train(build(json.loads(config)), workdir)
        steps = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        return {
            "params": {step: leaves(restored(workdir, step, "params")) for step in steps},
            "ema": {step: leaves(restored(workdir, step, "ema")) for step in steps},
            "pictures": {path.name: path.read_bytes() for path in workdir.glob("*.png")},
            "metrics": [json.loads(line)["step"] for line in lines],
        }


def started(config: dict, look: Callable, count: int = 1, born: bool = False) -> Any:
    """look(step, state, batch, rows) at the first update of a run, which is not made: `step` is what would have been
    compiled, and the others are what it would have been called with. The state is one of shapes and of where they
    would lie, which need not be compiled, if it is not `born`."""

    def stop(step: Callable) -> Callable:
        def stopped(*arguments):
            seen.append(look(step, *arguments))
            raise Stopped

        return stopped

    def stopping(mode: Mode) -> Mode:
        unborn = {} if born else {"create": lambda init, key: mode.abstract(init), "adopt": lambda state: state}
        return mode._replace(compile=stop, **unborn)

    seen: list[Any] = []
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder, devices(count):
        for name, mode in MODES.items():
            patch.setitem(MODES, name, lambda mesh, mode=mode: stopping(mode(mesh)))
        patch.setattr(loop, "flops", lambda run: 0)  # of no update is any time told
        with contextlib.suppress(Stopped):
            loop.train(build(config), Path(folder) / "run")
    return seen[0]


def leaves(tree: Any) -> dict[str, bytes]:
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in jax.tree.leaves_with_path(tree)}


def restored(workdir: Path, step: int, item: str) -> Any:
    return ocp.StandardCheckpointer().restore(workdir / "checkpoints" / str(step) / item)


def parameters(config: dict) -> Any:
    """Those at the end."""
    return [*trained(json.dumps(config))["params"].values()][-1]


def averages(config: dict) -> Any:
    """Averaged parameters at the end."""
    return [*trained(json.dumps(config))["ema"].values()][-1]


def moved(config: dict) -> Any:
    """Which parameters the second and third update change."""
    by_step = trained(json.dumps(config))["params"]
    return {name for name in by_step[1] if by_step[1][name] != by_step[3][name]}


def files(config: dict) -> Any:
    """Of which steps there are checkpoints, pictures and metrics."""
    found = trained(json.dumps(config))
    return [*found["params"]], [*found["pictures"]], found["metrics"]


def pictures(config: dict) -> Any:
    """Those that are drawn while it trains."""
    return trained(json.dumps(config))["pictures"]


def program(config: dict) -> Any:
    """The whole update as JAX has it, with the constants in it and without what is computed in vain."""

    def look(step: Callable, *arguments) -> Any:
        whole = jax.make_jaxpr(step)(*arguments)
        jaxpr, _ = dce_jaxpr(whole.jaxpr, True)
        plain = [
            jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in whole.consts
        ]
        return re.sub("0x[0-9a-f]+", "", str(jaxpr)), [np.asarray(x).tobytes() for x in plain]

    return started(config, look)


def noise(config: dict) -> Any:
    """The constants of the update, such as the key of its randomness."""
    return program(config)[1]


def shapes(config: dict) -> Any:
    """Of the state."""
    look = lambda step, state, batch, rows: [
        (jax.tree_util.keystr(k), x.shape) for k, x in jax.tree.leaves_with_path(state)
    ]
    return started(config, look)


def begun(config: dict) -> Any:
    """The state before the first update."""
    return started(config, lambda step, state, batch, rows: leaves(state), born=True)


def fed(config: dict) -> Any:
    """The first batch."""
    return started(config, lambda step, state, batch, rows: leaves(batch))


def layout(config: dict) -> Any:
    """Where the state and the first batch are, on eight devices."""

    def look(step: Callable, *arguments) -> Any:
        return [(np.shape(leaf), str(getattr(leaf, "sharding", None))) for leaf in jax.tree.leaves(arguments)]

    try:
        return started(config, look, 8)
    except ValueError as error:  # which names what does not fit
        return str(error)


def threads(config: dict) -> Any:
    """How many prepare batches ahead."""
    asked, options = [], grain.ReadOptions
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grain, "ReadOptions", lambda **how: asked.append(how["num_threads"]) or options(**how))
        started(config, lambda *_: None)
    return asked


def refused(config: dict) -> Any:
    """Why it does not train, if so."""
    try:
        return bool(fed(config))
    except (ValueError, OSError) as error:
        return str(error)


def watcher(config: dict) -> Any:
    """How long a run may be without a step, and the status of one that is stopped."""
    with pytest.MonkeyPatch.context() as patch:
        asked: list = []
        real = loop.Watcher
        patch.setattr(loop, "Watcher", lambda save, *rest: asked.append([rest[0], rest[2]]) or real(save, *rest))
        started(config, lambda *_: None)
        return asked


def diverging(config: dict) -> Any:
    """What a run says whose loss is infinite from the second batch on."""
    run = build(config)
    source = sources.load("synthetic", "train", "", run.streams)
    size = run.data.batch_size
    first = [pipeline.batch(pipeline.examples(source, 0), i, size)["image"][0, 0, 0, 0] for i in range(1, 40)]

    def infinite(predict, streams, keys, batch, t):
        is_bad = jax.numpy.isin(batch["image"][0, 0, 0, 0], np.array(first))
        return {"image": jax.numpy.where(is_bad, np.inf, losses_at(predict, streams, keys, batch, t)["image"])}

    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder, devices(1):
        patch.setitem(OBJECTIVES, "denoise", infinite)
        try:
            with contextlib.redirect_stdout(said):
                loop.train(run, Path(folder))
        except loop.Diverged as error:
            return said.getvalue().count("goes on from step"), str(error).replace(folder, "")
    return said.getvalue().count("skipped")


def initial(config: dict) -> Any:
    """Where a run's first weights come from."""
    try:
        return initial_weights(build(config))
    except OSError as error:
        return str(error)


def resumed(config: dict) -> Any:
    """What becomes of a run that began with other data."""
    with tempfile.TemporaryDirectory() as folder, devices(1):
        workdir, one = Path(folder) / "run", {**config, "train": {**config["train"], "steps": 1}}
        loop.train(build({**one, "data": {**config["data"], "name": "synthetic"}}), workdir)
        try:
            return loop.train(build(one), workdir)
        except OSError as error:
            return str(error).replace(folder, "")


@functools.cache
def network(config: str) -> tuple[Run, Any]:
    """A run and parameters of it that are random everywhere: at initialisation every sample would be the same."""
    run = build(json.loads(config))
    shapes, tree = jax.tree.flatten(jax.eval_shape(run.model.init, jax.random.key(0)))
    rng = np.random.default_rng(0)
    return run, jax.tree.unflatten(tree, [0.2 * rng.standard_normal(leaf.shape, np.float32) for leaf in shapes])


def drawn(config: dict) -> Any:
    """The samples, batch after batch. Runs that differ in how they are sampled share one network, and one `Run`."""
    run, params = network(json.dumps({**config, "sample": SMALL["sample"]}))
    with devices(1):
        return [leaves(batch) for batch in draw(run, params, make_mesh(), build(config).sample)]


def kinds(config: dict) -> Any:
    """How many samples, and of which streams."""
    run, params = network(json.dumps({**config, "sample": SMALL["sample"]}))
    with devices(1):
        batches = list(draw(run, params, make_mesh(), build(config).sample))
    return [{name: x.shape for name, x in batch.items()} for batch in batches]


def not_drawn(config: dict) -> Any:
    """Why nothing is drawn, if so."""
    try:
        return bool(drawn(config))
    except ValueError as error:
        return str(error)


def saved(config: dict) -> Any:
    """The first drawn stream that has files, as a file."""
    run = build(config)
    name = next(name for name, stream in run.streams.items() if stream.view.save is not None)
    with tempfile.TemporaryDirectory() as folder:
        save = run.streams[name].view.save
        return save(np.linspace(-1, 1, 32, dtype=np.float32)[:, None], Path(folder) / "x").read_bytes()


def transparent(config: dict) -> Any:
    """What the stream of pictures reads from a file that shows nothing."""
    pictured = next(stream for stream in build(config).streams.values() if stream.process.is_continuous)
    with tempfile.TemporaryDirectory() as folder:
        Image.new("LA", (4, 4), (128, 0)).save(file := f"{folder}/clear.png")
        return pictured.view.read(file).tobytes()


# The table. ----------------------------------------------------------------------------------------------------------

LONG = {"train": {"steps": 12, "log_every": 1, "patience": 4}, "checkpoint": {"every": 1}}
FLAT = {"optimizer": {"decay": "linear"}}
WIRES: dict[str, list[Row]] = {
    "model.width": [Row(shapes, "digits", 12)],
    "model.depth": [Row(shapes, "digits", 1)],
    "model.heads": [Row(program, "digits", 1)],
    "model.mlp_ratio": [Row(shapes, "digits", 2.0)],
    "model.block": [Row(program, "digits", "modern")],
    "model.attention": [Row(program, "clip", "factorised")],
    "model.experts": [Row(shapes, "joint", "streams")],
    "model.dtype": [Row(program, "digits", "bfloat16")],
    "model.remat": [Row(program, "digits", "dots"), Row(program, "digits", "full", {"model": {"remat": "dots"}})],
    "model.unroll": [Row(program, "digits", 2)],
    "model.weights": [Row(shapes, "digits", "learned"), Row(moved, "digits", "learned", EVERY)],
    "data.name": [Row(parameters, "digits", PICTURES)],
    "data.dir": [Row(refused, "digits", "/nowhere/else", {"data": {"name": "kjv", "dir": "/nowhere"}})],
    "data.batch_size": [Row(program, "digits", 8)],
    "data.holdout": [Row(fed, "digits", 0.9, {"data": {"name": PICTURES}})],
    "data.augment": [Row(fed, "digits", "flip")],
    "data.unreadable": [Row(refused, "digits", "skip", {"data": {"name": BROKEN, "batch_size": 10}})],
    "data.changed": [Row(resumed, "digits", "allow", {"data": {"name": PICTURES}})],
    "data.threads": [Row(threads, "digits", 3)],
    "optimizer.name": [Row(program, "digits", "muon")],
    "optimizer.learning_rate": [Row(program, "digits", 0.02)],
    "optimizer.warmup": [Row(program, "digits", 2)],
    "optimizer.decay": [Row(program, "digits", "linear"), Row(program, "digits", "cosine", FLAT)],
    "optimizer.decay_steps": [Row(program, "digits", 1, FLAT)],
    "optimizer.clip": [Row(program, "digits", 0.001)],
    "optimizer.weight_decay": [
        Row(program, "digits", 0.5),
        Row(program, "digits", 0.5, {"optimizer": {"name": "muon"}}),
    ],
    "optimizer.b1": [Row(program, "digits", 0.5), Row(program, "digits", 0.5, {"optimizer": {"name": "muon"}})],
    "optimizer.b2": [Row(program, "digits", 0.5), Row(program, "digits", 0.5, {"optimizer": {"name": "muon"}})],
    "train.steps": [Row(files, "digits", 2), Row(program, "digits", 4, FLAT)],
    "train.objective": [Row(program, "mean", "meanflow"), Row(program, "mean", "improved_meanflow")],
    "train.levels": [Row(program, "joint", "corners")],
    "train.seed": [Row(begun, "digits", 1), Row(fed, "digits", 1), Row(noise, "digits", 1)],
    "train.ema": [Row(averages, "digits", 0.05, LOOK), Row(pictures, "digits", 0.05, LOOK)],
    "train.accumulation": [Row(program, "digits", 2)],
    "train.patience": [Row(diverging, "digits", 2, {**LONG, "checkpoint": {"every": 100}})],
    "train.rollback": [Row(diverging, "digits", 1, LONG)],
    "train.spike": [Row(shapes, "digits", 6.0)],
    "train.init": [Row(initial, "digits", "/nowhere")],
    "train.freeze": [Row(program, "digits", "blocks/")],
    "train.watchdog": [Row(watcher, "digits", 60.0)],
    "train.stopped_status": [Row(watcher, "digits", 75)],
    "train.log_every": [Row(files, "digits", 1)],
    "checkpoint.every": [Row(files, "digits", 2)],
    "checkpoint.keep": [Row(files, "digits", 1, EVERY)],
    "parallel.mode": [Row(layout, "digits", "pmap", {"data": {"batch_size": 8}})],
    "parallel.data": [Row(layout, "digits", 4, {"data": {"batch_size": 8}, "parallel": {"data": 2, "fsdp": -1}})],
    "parallel.fsdp": [Row(layout, "digits", 4, {"data": {"batch_size": 8}})],
    "parallel.context": [Row(layout, "digits", 2, {"data": {"batch_size": 8}})],
    "parallel.tensor": [Row(layout, "digits", 2, {"data": {"batch_size": 8}})],
    "sample.every": [Row(files, "digits", 2)],
    "sample.num": [Row(kinds, "digits", 3), Row(pictures, "digits", 5, LOOK)],
    "sample.given": [Row(drawn, "digits", ["label=2"], {"sample": {"given": ["label=1"]}})],
    "sample.guidance": [Row(drawn, "digits", 1.5, GUIDED)],
    "sample.interval": [Row(drawn, "digits", [0.0, 0.6], GUIDED), Row(drawn, "digits", [0.6, 1.0], GUIDED)],
    "sample.combine": [Row(drawn, "digits", "rescaled", GUIDED)],
    "sample.channels": [Row(drawn, "colours", 2, GUIDED)],
    "sample.weak": [Row(not_drawn, "digits", "runs/small")],
    "sample.steps": [Row(drawn, "digits", 3)],
    "sample.solver": [Row(drawn, "digits", "ancestral")],
    "sample.reveal": [Row(drawn, "text", "confident")],
    "sample.grid": [Row(drawn, "digits", "karras", {"sample": {"steps": 4}})],
    "sample.shift": [Row(drawn, "digits", 3.0)],
    "sample.first": [Row(drawn, "joint", ["text"])],
    "sample.drawn": [Row(kinds, "joint", ["text"])],
    "sample.rollout": [
        Row(kinds, "clip", "clip=6:1"),
        Row(drawn, "clip", "clip=6:2", {"sample": {"rollout": "clip=6:1"}}),
    ],
    "sample.seed": [Row(drawn, "digits", 1)],
    "sample.batch": [Row(kinds, "digits", 1)],
    "streams.audio.length": [Row(program, "sound", 64)],
    "streams.audio.patch": [Row(shapes, "sound", 16)],
    "streams.audio.rate": [Row(saved, "sound", 16000)],
    "streams.audio.process": [Row(program, "sound", "gaussian(schedule='gvp')")],
    "streams.audio.levels": [Row(program, "sound", "uniform()")],
    "streams.audio.basis": [Row(program, "sound", "mdct")],
    "streams.duration.of": [Row(program, "sound", "drums")],
    "streams.duration.dropout_rate": [Row(program, "sound", 0.5)],
    "streams.image.shape": [Row(fed, "digits", (8, 4, 1))],
    "streams.image.patch": [Row(shapes, "digits", 4)],
    "streams.image.process": [Row(program, "digits", "gaussian(schedule='gvp')")],
    "streams.image.levels": [Row(program, "digits", "logit_normal()")],
    "streams.image.codec": [Row(refused, "digits", "0a1b", {"data": {"name": PICTURES}})],
    "streams.image.background": [Row(transparent, "digits", "black")],
    "streams.label.classes": [Row(shapes, "digits", 5)],
    "streams.label.dropout_rate": [Row(program, "digits", 0.5)],
    "streams.past.of": [Row(program, "blocks", "other")],
    "streams.span.rate": [Row(program, "mean", 0.5, {"train": {"objective": "meanflow"}})],
    "streams.text.length": [Row(fed, "text", 16)],
    "streams.text.vocabulary": [Row(shapes, "text", 17)],
    "streams.text.levels": [Row(program, "text", "logit_normal()")],
    "streams.text.blocks": [Row(program, "blocks", 4)],
    "streams.text.merges": [Row(shapes, "text", "97,98", {"streams": {"text": {**TEXT, "vocabulary": 256}}})],
    "streams.video.shape": [Row(fed, "clip", (6, 4, 4, 1))],
    "streams.video.patch": [Row(shapes, "clip", (2, 4, 4))],
    "streams.video.process": [Row(program, "clip", "gaussian(schedule='gvp')")],
    "streams.video.levels": [Row(program, "clip", "uniform()")],
    "streams.video.background": [Row(transparent, "clip", "black")],
    "process.gaussian.schedule": [Row(program, "digits", "gvp")],
    "process.gaussian.prediction": [Row(program, "digits", "noise")],
    "process.gaussian.loss_in": [Row(program, "digits", "x")],
    "process.gaussian.clamp": [Row(program, "digits", 0.2)],
    "process.gaussian.clock": [Row(program, "digits", "reversed_unit")],
    "process.gaussian.outputs": [Row(shapes, "digits", 2)],
    "levels.uniform.shift": [Row(program, "digits", 2.0)],
    "levels.logit_normal.mean": [Row(program, "digits", 0.5)],
    "levels.logit_normal.std": [Row(program, "digits", 0.5)],
    "levels.logit_normal.shift": [Row(program, "digits", 2.0)],
    "levels.log_normal.mean": [Row(program, "digits", 0.5)],
    "levels.log_normal.std": [Row(program, "digits", 0.5)],
    "levels.log_normal.schedule": [Row(program, "digits", "linear")],
    "levels.steps.count": [Row(program, "digits", 10)],
    "levels.dropout.rate": [Row(program, "digits", 0.5)],
    "levels.spans.rate": [Row(program, "digits", 0.5)],
    "block.published.norm": [Row(program, "digits", "rms")],
    "block.published.mlp": [Row(program, "digits", "swiglu")],
    "block.published.positions": [Row(program, "digits", "rotary")],
    "block.published.modulation": [Row(program, "digits", "shared")],
    "block.published.qk_norm": [Row(program, "digits", "rms")],
    "block.published.bias": [Row(shapes, "digits", False)],
}


def entries() -> Iterator[str]:
    """All that a config can say: entries of sections, of streams by their kind, of processes, levels and blocks."""
    for section in SECTIONS:
        yield from (f"{section}.{entry}" for entry in default()[section])
    calls = {"streams": STREAMS, "process": PROCESSES, "levels": LEVELS, "block": {"published": BLOCKS["published"]}}
    for table, rows in calls.items():
        for name, function in rows.items():
            yield from (f"{table}.{name}.{entry}" for entry in schema.parameters(function) if entry != "stream")


def changed(config: dict, path: str, value: Any) -> dict:
    """The same config with another value of an entry: of a section, of the first stream of a kind, or of the call that
    is the image's process or levels."""
    config = json.loads(json.dumps(config))
    table, *names, entry = path.split(".")
    if not names:
        config[table][entry] = value
    elif table == "streams":
        next(entries for entries in config["streams"].values() if entries["kind"] == names[0])[entry] = value
    elif table == "block":
        config["model"]["block"] = f"{names[0]}({entry}={value!r})"
    else:
        config["streams"]["image"][table] = f"{names[0]}({entry}={value!r})"
    return config


@functools.cache
def seen(see: Callable[[dict], Any], config: str) -> Any:
    return see(json.loads(config))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """A folder of images, two in each of ten classes; and one of one in each, of which the last is cut off."""
    folder = tmp_path_factory.mktemp("pictures")
    for kind, i in itertools.product(("whole", "broken"), range(10)):
        (folder / kind / str(i)).mkdir(parents=True)
        Image.fromarray(np.full((4, 4), 20 * i, np.uint8)).save(folder / kind / str(i) / "0.png")
        if kind == "whole":
            Image.fromarray(np.full((4, 4), 20 * i + 10, np.uint8)).save(folder / kind / str(i) / "1.png")
    last = folder / "broken" / "9" / "0.png"
    last.write_bytes(last.read_bytes()[:30])
    return str(folder)


def placed(config: dict, folder: str) -> str:
    """A config as JSON, with the folders of images where they are."""
    return json.dumps(config).replace(PICTURES, f"{folder}/whole").replace(BROKEN, f"{folder}/broken")


# What trains or draws to be seen takes seconds.
SLOW = {averages, diverging, drawn, files, kinds, moved, not_drawn, parameters, pictures, resumed}


def marked(entry: str):
    is_slow = any(row.see in SLOW for row in WIRES.get(entry, ()))
    return pytest.param(entry, marks=[pytest.mark.heavy] * is_slow)


@pytest.mark.parametrize("entry", [*map(marked, entries())])
def test_every_entry_changes_what_happens(entry, folder):
    assert entry in WIRES, f"{entry} is new: say in WIRES what it changes"
    table, *names, _ = entry.split(".")
    for row in WIRES[entry]:
        base = configured(row.base, row.more)
        if table in ("process", "levels"):
            base["streams"]["image"][table] = f"{names[0]}()"
        before, after = (seen(row.see, placed(config, folder)) for config in (base, changed(base, entry, row.value)))
        assert before != after, f"{entry} = {row.value!r} is accepted, and the {row.see.__name__} stay the same"


@pytest.mark.parametrize(("table", "rows"), [("process", PROCESSES), ("levels", LEVELS)])
def test_every_row_is_a_program_of_its_own(table, rows):
    base = configured("digits")
    image = base["streams"]["image"]
    programs = [
        program({**base, "streams": {**base["streams"], "image": {**image, table: f"{name}()"}}}) for name in rows
    ]
    assert len(set(map(str, programs))) == len(rows)


@pytest.mark.heavy
@pytest.mark.parametrize(
    "see",
    sorted(
        {row.see for rows in WIRES.values() for row in rows} - {averages, files, moved}, key=lambda see: see.__name__
    ),
)
def test_what_is_seen_of_a_run_twice_is_the_same(see, folder):
    """Or every change would be seen, also where there is none. Three more are parts of what others see."""
    row = next(row for rows in WIRES.values() for row in rows if row.see is see)
    config = (
        json.dumps(configured(row.base, row.more))
        .replace(PICTURES, f"{folder}/whole")
        .replace(BROKEN, f"{folder}/broken")
    )
    before = seen(see, config)
    trained.cache_clear()
    assert see(json.loads(config)) == before


def test_every_row_is_of_an_entry():
    assert WIRES.keys() <= {*entries()}
