"""See inside a run: python -m dit_jax.inspect --workdir=runs/digits --out=page

Draws what the network does to held-out examples, by block and by noise level, into OUT/index.html, one file that needs
no other, and each picture into a PNG beside it. Panels that do not apply to the streams of a run are left out.
"""

import functools
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dit_jax.command import run_command
from dit_jax.data import pipeline, sources
from dit_jax.diffusion.sampler import sample
from dit_jax.diffusion.solvers import SOLVERS
from dit_jax.diffusion.stream import Arrays, drawable, in_data
from dit_jax.inside import heads, identity, parts
from dit_jax.inside.jacobian import top_directions
from dit_jax.inside.noised import Study, by_level, estimate, noised, values_by_level
from dit_jax.inside.optimum import losses_and_optimum
from dit_jax.inside.page import Figures, curves, heat, page, picture
from dit_jax.network.layout import token_counts
from dit_jax.restore import restore_run
from dit_jax.run import Count, Run
from dit_jax.sampling.sheet import sheet
from dit_jax.schema import Local, Range, checked

MOST = 4000  # training examples that the optimum and probes know
BASIS = 8  # directions
LEVEL = "noise level t"


def lens(study: Study, run: Run, train: Arrays) -> Figures:
    """The final layer, applied before the first block and after each: where its loss no longer falls, the network is
    done."""
    rows = ["embedded", *_named("block", study.model.depth)]
    figures, streams = _heats(study, parts.lens_losses(study), rows, "loss"), study.model.streams
    estimates = parts.lens(study._replace(batch=first(study.batch, 1)))
    for i, level in enumerate(study.levels):
        found = {name: np.asarray(x[i, :, 0]) for name, x in estimates.items()}
        tiles, caption = sheet(streams, found, columns=len(rows)), f"t = {level:g}: an example, {' | '.join(rows)}"
        words = [show(found[name]) for name, stream in streams.items() if name in found and (show := stream.view.show)]
        figures[caption] = "\n".join(map(" ".join, zip(*words, strict=True))) if tiles is None else picture(tiles)
    return figures


def ablation(study: Study, run: Run, train: Arrays) -> Figures:
    """By how much the loss rises without the attention or the MLP of a block, and without each head of the block whose
    attention is worth most. What costs 0 is idle."""
    figures: Figures = {}
    for part in parts.GATES:
        rises = parts.block_ablation(study, part)
        figures |= _heats(study, rises, _named("block", study.model.depth), f"without {part}")
        if part == "attention":
            dearest = int(np.argmax(sum(np.mean(rise, axis=1) for rise in rises.values())))
    of_heads = parts.head_ablation(study, dearest)
    return figures | _heats(study, of_heads, _named("head", study.model.heads), f"without a head of block {dearest}")


def optimum(study: Study, run: Run, train: Arrays) -> Figures:
    """The loss, that of the optimum of the finite training set, and the distance of the two predictions. Above the
    optimum, the network has not learnt the training set; near to it, it has learnt it by heart."""
    streams = study.model.streams
    drawn = drawable(streams)
    if not {*streams} - {*drawn} <= {"label"} or not all(s.process.is_continuous for s in drawn.values()):
        return {}
    of_train = study._replace(batch=first(train, len(next(iter(study.batch.values())))))
    found = {"train": losses_and_optimum(of_train, train), "held-out": losses_and_optimum(study, train)}
    lines = {f"{what}, {split}": rows[what] for split, rows in found.items() for what in rows}
    of = lambda name: {what: losses[name] for what, losses in lines.items()}
    return {name: curves(study.levels, of(name), (LEVEL, "loss"), "log") for name in drawn}


def massive_activations(study: Study, run: Run, train: Arrays) -> Figures:
    """The largest channel of the residual over the median, and what it costs to have such channels 0 everywhere, beside
    as many of the middle."""
    found = np.asarray(parts.activation_map(study))
    order = np.argsort(found.max(axis=(0, 1)))[::-1].tolist()
    count, middle = max(1, len(order) // 50), len(order) // 2
    choices = {"the largest": order[:count], "others": order[middle : middle + count]}
    figures = _heats(
        study, {"residual": found.max(-1).T}, _named("block", study.model.depth), f"most in {order[:count]}"
    )
    for name, rises in parts.channel_ablation(study, [*choices.values()]).items():
        lines = {f"without {what}: {choices[what]}": rise for what, rise in zip(choices, rises, strict=True)}
        figures[f"{name}: without channels"] = curves(study.levels, lines, (LEVEL, "rise of the loss"))
    return figures


def attention(study: Study, run: Run, train: Arrays) -> Figures:
    """Of each head, at the middle level: the entropy in nats, the mass on the own stream and on that token which gets
    most, and the distance of what it attends to. Of streams: the mass of attention from one to another."""
    streams, middle = study.model.streams, study.levels[len(study.levels) // 2]
    few = study._replace(batch=first(study.batch, 16), levels=[middle])
    maps = values_by_level(few, "probabilities")[0]
    names, columns = [*token_counts(streams)], _named("head", study.model.heads)
    table = {k: v for k, v in heads.head_table(streams, maps).items() if len(names) > 1 or k != "own"}
    figures: Figures = {k: heat(v, _named("block", len(v)), columns) for k, v in table.items() if np.any(v > 0)}
    if len(names) > 1:
        mass = heads.between_streams(streams, maps)
        values = [[jnp.mean(mass[reader, read]) for read in names] for reader in names]
        figures["who reads whom"] = heat(values, names, names, ("read", "reader"))
    return figures


def basis(study: Study, run: Run, train: Arrays) -> Figures:
    """The directions of the input that change the estimate of one held-out example most, and by how much."""
    figures: Figures = {}
    for name, stream in drawable(study.model.streams).items():
        if not stream.process.is_continuous or len(stream.shape) != 3 or stream.view.show is None:
            continue

        def at(params: Any, batch: Arrays, level: Array, name: str = name, stream: Any = stream) -> Any:
            x, t, _ = noised(study.model.streams, batch, level)
            predict: Any = lambda z: study.model.apply(params, {**x, name: z[None]}, t)
            clean = lambda z: estimate(stream, z[None], predict(z)[name], t[name])[0]
            return top_directions(clean, x[name][0], BASIS)

        found = by_level(study._replace(batch=first(study.batch, 1)), at)
        for level, values, directions in zip(study.levels, *map(np.asarray, found), strict=True):
            tiles = sheet({name: stream}, {name: directions / np.abs(directions).max()}, columns=BASIS)
            figures[f"{name} at t = {level:g}: {' '.join(f'{value:.2g}' for value in values)}"] = picture(tiles)
    return figures


def label(study: Study, run: Run, train: Arrays) -> Figures:
    """When the label is decided: how far the residual after a block, taken from a run with another label, moves the
    prediction; how often probes read in it the label that the network is not given; and which label samples show where
    one takes the place of another on the way down."""
    model, streams, blocks = study.model, study.model.streams, _named("block", study.model.depth)
    if "label" not in streams or "label" in drawable(streams):
        return {}
    before = study.batch["label"]
    after = (before + 1) % streams["label"].process.vocabulary
    figures = _heats(study, identity.patched(study, {"label": after}), blocks, "patched")
    some, name = first(train, 1000), next(iter(drawable(streams)))
    given = {condition: x for condition, x in study.batch.items() if condition not in drawable(streams)}
    for probe in (identity.linear_probe, identity.nearest_probe):
        accuracy = identity.probe_map(study, some, probe)
        figures[f"accuracy, {probe.__name__}"] = heat(accuracy, blocks, study.levels, (LEVEL, ""))

    @jax.jit
    def drawn(params: Any, level: Array) -> Array:
        predict: Any = functools.partial(model.apply, params)
        how: dict[str, Any] = {"steps": run.sample.steps, "solver": SOLVERS[run.sample.solver]}
        predict = identity.switched(predict, "label", level, before, after)
        return sample(predict, streams, jax.random.key(0), len(before), given, **how)[name]

    flat, switches = (lambda x: x.reshape(len(x), -1)), [i / 10 for i in range(11)]
    shown = [flat(drawn(study.params, jnp.float32(level))) for level in switches]
    read = lambda wanted: [identity.nearest_probe(flat(train[name]), train["label"], x, wanted) for x in shown]
    lines = {"the label before": read(before), "the label after": read(after)}
    figures["what samples show"] = curves(switches, lines, ("noise level of the change", "share of samples"))
    return figures


# Of a study, its run and the train split; nothing where it does not apply.
Draw = Callable[[Study, Run, Arrays], Figures]
PANELS: list[Draw] = [lens, ablation, optimum, massive_activations, attention, basis, label]


def main(
    workdir: Annotated[Local, "a directory that train.py has written"] = "runs/digits",
    out: Annotated[Local, "a directory for the page; default: WORKDIR/inside"] = "",
    num: Annotated[int, "held-out examples to look at"] = 64,
    levels: Annotated[tuple, "noise levels to look at, above 0"] = ("0.1", "0.3", "0.5", "0.7", "0.9"),
    step: Annotated[int, "the checkpoint; -1 is the newest"] = -1,
) -> None:
    """Write the page of a run."""
    at = [level_of(word) for word in levels]
    run, params, _ = restore_run(workdir, step=step)
    train, test = examples(run, "train", MOST), examples(run, "test", checked(num, Count, "--num"))
    folder, panels = Path(out or f"{workdir}/inside"), {}
    folder.mkdir(parents=True, exist_ok=True)
    for panel in PANELS:
        if figures := panel(Study(run.model, params, test, at), run, train):
            heading = panel.__name__.replace("_", " ").capitalize()
            panels[heading, " ".join(str(inspect.getdoc(panel)).split())] = figures
            print(f"{heading}: {len(figures)} figures", flush=True)
            for caption, shown in figures.items():
                if isinstance(shown, bytes):
                    name = re.sub(r"\W+", "_", f"{panel.__name__} {caption}")[:80].strip("_")
                    (folder / f"{name}.png").write_bytes(shown)
    (folder / "index.html").write_text(page(f"Inside {workdir}", panels), encoding="utf-8")
    print(folder / "index.html")


def level_of(word: str) -> float:
    """A noise level. Raises ValueError for anything else."""
    try:
        level = float(word)
    except ValueError:
        raise ValueError(f"--levels={word} should be numbers above 0 and up to 1, as in --levels=0.2,0.5,0.8") from None
    return checked(level, Annotated[float, Range(above=0, at_most=1)], "--levels")


def examples(run: Run, split: str, most: int) -> Arrays:
    """So many examples of a split at random, or all of it; of the train split where there is no other."""
    data, streams = run.data, in_data(run.streams)
    held_out = sources.held_out(data.name, data.dir, streams, data.holdout) if split == "test" else None
    source = held_out or sources.load(data.name, "train", data.dir, streams, data.holdout)
    places = np.random.default_rng(0).permutation(len(source))[:most]
    return jax.tree.map(jnp.asarray, pipeline.picked(source, places.tolist()))


def first(batch: Arrays, count: int) -> Arrays:
    return {name: x[:count] for name, x in batch.items()}


def _named(what: str, count: int) -> list[str]:
    return [f"{what} {i}" for i in range(count)]


def _heats(study: Study, values: Arrays, rows: list[str], caption: str) -> Figures:
    """A heat map of rows and levels for each stream."""
    return {f"{name}: {caption}": heat(v, rows, study.levels, (LEVEL, "")) for name, v in values.items()}


if __name__ == "__main__":
    run_command(main)
