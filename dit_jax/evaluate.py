"""Score a run: python -m dit_jax.evaluate --workdir=runs/digits

Judges that have seen real held-out data only look at samples: how often each stream shows the label that was asked for,
and the Frechet distance of its features to held-out data. The same scores of as many real examples stand beside them.
Streams that are drawn together are scored together, and each part of them given the rest, taken from held-out data.
Clips are held against exact physics, words are heard by a recogniser, captions compared with what they say, and text
without labels is scored in bits a byte, its samples by a language model too.
Writes WORKDIR/evaluation.json, with the protocol that made each score.

Anybody's samples are scored by --samples=FILE.npz --reference=FILE.npz, and such scores compared by
--compare=A.json,B.json: --samples= --help and --compare= --help say how.
"""

import dataclasses
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np

from dit_jax import evaluate_files
from dit_jax.command import run_command
from dit_jax.data import audio_digits, pipeline, sources
from dit_jax.data.packages import missing
from dit_jax.diffusion.stream import Streams, drawable, in_data
from dit_jax.evaluation import alignment, language_model, physics, speech, text
from dit_jax.evaluation.judge import Judge, described, scores, train_judges
from dit_jax.parallel import hosts
from dit_jax.restore import restore_run
from dit_jax.run import Run, SampleOptions
from dit_jax.sampling.draw import check_drawn, draw, gather
from dit_jax.sampling.plan import check_guidance
from dit_jax.schema import Local, Range, checked
from dit_jax.streams import label

Row = dict[str, Any]
Sample = dict[str, np.ndarray]
Part = tuple[str, ...]
Scores = dict[str, float]
# Of the judges of what is drawn, a sample, its labels if there are any, and the streams that were given.
Measure = Callable[[dict[str, Judge], Sample, np.ndarray | None, Part], Scores]


def main(
    workdir: Annotated[Local, "a directory that train.py has written"] = "runs/digits",
    guidance: Annotated[tuple, "a score for each of these scales; 1 is none"] = ("1.0", "1.5"),
    num: Annotated[int, "samples for each score, the classes in turn"] = 1000,
    step: Annotated[int, "the checkpoint to score; -1 is the newest"] = -1,
    distributed: Annotated[str, hosts.FLAG] = "",
    options: Annotated[dict[str, Any] | None, SampleOptions] = None,
) -> None:
    """Score a run; options are those of SampleOptions that differ from the run's."""
    if decided := {"given", "drawn"} & (options or {}).keys():
        raise ValueError(f"--{min(decided)} says nothing here: samples are scored given nothing, and given every part")
    scales, num = [scale_of(word) for word in guidance], checked(num, Annotated[int, Range(at_least=2)], "--num")
    hosts.join(distributed)
    run, params, mesh = restore_run(workdir, step=step)
    how = dataclasses.replace(run.sample, num=num, **(options or {}))
    for scale in scales:
        check_guidance(run.streams, dataclasses.replace(how, guidance=scale), run.streams)
    labelled = contents_of(run).classes or "label" in run.streams
    featured = any(stream.view.features for stream in drawable(run.streams).values())
    rows = []
    for row in classes(run, params, mesh, how, scales) if labelled or featured else texts(run, params, mesh, how):
        print(f"{row['what']}: {', '.join(f'{name} {value:.4g}' for name, value in row['scores'].items())}", flush=True)
        rows.append(row)
    if hosts.is_first():
        (Path(workdir) / "evaluation.json").write_text(json.dumps(rows, indent=2) + "\n")
    hosts.barrier("scores are written")


def scale_of(word: str) -> float:
    """A guidance scale. Raises ValueError for anything else."""
    try:
        scale = float(word)
    except ValueError:
        raise ValueError(
            f"--guidance={word} should be numbers: each is a score of samples that all that is given guides by as "
            "much, as in --guidance=1,2"
        ) from None
    return checked(scale, Annotated[float, Range()], "--guidance")


def contents_of(run: Run) -> sources.Contents:
    """What the data of a run have. Raises ValueError if there is nothing that judges could be trained on."""
    has = sources.contents(run.data.name, run.data.dir, run.data.holdout)
    if not has.splits:
        raise ValueError(
            f"this run has no data to score samples against: its data.name is {run.data.name!r}, as that of published "
            "weights is; samples.npz of dit_jax.sample is what other evaluators read"
        )
    if not has.held_out:
        raise ValueError(
            f"nothing of {run.data.name} is held out to score samples against: it has {', '.join(has.splits)}, and "
            "needs test or validation; of a folder of images, train a run with data.holdout above 0, or with test/ "
            "beside train/"
        )
    return has


def texts(run: Run, params, mesh, how) -> Iterator[Row]:
    """Scores of text that has no labels."""
    splits = {"train": "train", "test": contents_of(run).held_out}
    real = {name: examples(run, split, in_data(run.streams)) for name, split in splits.items()}
    if absent := missing(language_model.PACKAGES):
        print(f"no language model reads what is drawn: {absent} not installed: {language_model.INSTALL}")
    return text.score(run, params, mesh, how, real, reader=None if absent else language_model.load())


def classes(run: Run, params, mesh, how: SampleOptions, scales: Sequence[float] = (1.0, 1.5)) -> Iterator[Row]:
    """Scores of data that judges can see features of: of real examples, of samples, and of samples of which some
    streams are given. Where the data have labels, those that are held out are asked for."""
    streams, has = in_data(run.streams), contents_of(run)
    if "label" not in streams and has.classes:
        streams = {**streams, "label": label(has.classes)}
    test = examples(run, has.held_out, streams)
    labels = test["label"] if "label" in streams else None
    known = np.unique(np.array([], np.int32) if labels is None else labels)
    if len(known) < has.classes:
        print(f"nothing is held out of {has.classes - len(known)} of {has.classes} classes, which are not asked for")
    judges, held_out = train_judges(run.streams, test, labels), described(run.streams, test)
    measures, names = [make(run) for make in MEASURES.get(run.data.name, [])], [*drawable(run.streams)]

    def found(names: Sequence[str], sample: Sample, labels: np.ndarray | None, given: Part = ()) -> Scores:
        left = {name: judge for name, judge in judges.items() if name in names}
        features = {name: of_real for name, of_real in held_out.items() if name in names}
        result = scores(run.streams, left, sample, features, labels)
        for measure in measures:
            result |= measure(left, sample, labels, given)
        return result

    if of_held_out := found([], test, None):
        yield {"what": f"real data, {has.held_out} split", "scores": of_held_out}

    for split in ("train", *sorted({*has.splits} - {"train", has.held_out})):
        real = examples(run, split, streams, how.num)
        yield {"what": f"real data, {split} split", "scores": found(names, real, real.get("label"))}

    turns, count = np.arange(how.num), len(next(iter(test.values())))
    picked = np.random.default_rng(0).permutation(count)[turns % count]
    others = [name for name in in_data(run.streams) if name not in (*names, "label")]
    parts = [part for count in range(len(names)) for part in itertools.combinations(names, count)]
    for scale, part in itertools.product(scales, parts):
        given = {name: test[name][picked] for name in (*part, *others)}
        wanted = None if labels is None else labels[picked] if given else known[turns % len(known)]
        given |= {"label": wanted} if wanted is not None and "label" in run.streams else {}
        here = dataclasses.replace(how, guidance=scale, given=(), drawn=())
        sample = gather(draw(run, params, mesh, here, examples=given))
        left = [name for name in names if name not in part]
        check_drawn(run.streams, sample, left)
        scored = found(left, sample, wanted if given else None, part)
        what = f"{how.num} samples, guidance {scale:g}" + (f", given {' and '.join(part)}" if part else "")
        yield {"what": what, **dataclasses.asdict(here), "given": list(given), "scores": scored}


def flights(run: Run) -> Measure:
    """How clips move, against exact physics."""
    return lambda judges, sample, labels, given: (
        physics.scores(judges["clip"], sample["clip"], labels) if "clip" in judges else {}
    )


def words(run: Run) -> Measure:
    """Which words a recogniser hears."""

    def measure(judges, sample, labels, given):
        if "speech" not in judges or labels is None or missing(["pocketsphinx"]):
            return {}
        said = [audio_digits.WORDS[label] for label in labels]
        return {"speech/words": speech.word_accuracy(sample["speech"][..., 0], audio_digits.RATE, said)}

    return measure


def captions(run: Run) -> Measure:
    """Whether pictures and names belong together, by a judge fitted on the train split: its own accuracy is that on the
    test split, whose names are others."""
    pictured = [name for name in ("clip", "still") if {name, "name"} <= run.streams.keys()]
    if absent := missing(alignment.PACKAGES):
        print(f"nobody judges captions: {absent} not installed: {alignment.INSTALL}")
        return lambda judges, sample, labels, given: {}
    train, show = examples(run, "train", in_data(run.streams)), cast(Any, run.streams["name"].view.show)
    judge = {name: alignment.train(train[name], show(train["name"])) for name in pictured}

    def measure(judges, sample, labels, given):
        said = show(sample["name"])
        plain = [caption.split(",")[0] for caption in said]  # without its skin tone
        left = [name for name in pictured if not {name, "name"} <= {*given}]
        return {f"{name}/caption": alignment.precision(judge[name](sample[name], said), plain) for name in left}

    return measure


# What can be measured of a data set's samples, beyond their labels.
MEASURES: dict[str, list[Callable[[Run], Measure]]] = {
    "video_digits": [flights],
    "audio_digits": [words],
    "joint_digits": [flights, words],
    "emoji": [captions],
}


def examples(run: Run, split: str, streams: Streams, most: int | None = None) -> dict[str, np.ndarray]:
    """A split, or so many of its examples at random, in order: {name: [n, *shape]}."""
    source = sources.load(run.data.name, split, run.data.dir, streams, run.data.holdout)
    places = sorted(np.random.default_rng(0).permutation(len(source)).tolist()[:most])
    found = pipeline.usable(source, places, streams, run.data.unreadable)
    if len(found) < 2:
        raise ValueError(f"{run.data.name} has {len(found)} examples in its split {split}, and scores take 2 or more")
    return pipeline.stacked(found)


def mode(words: Sequence[str]) -> Callable[..., None]:
    """Which command a command line means: to score files, to compare such scores, or to score a run."""
    flags = {word.partition("=")[0] for word in words}
    others: dict[str, Callable[..., None]] = {"--samples": evaluate_files.main, "--compare": evaluate_files.compare}
    return next((command for flag, command in others.items() if flag in flags), main)


if __name__ == "__main__":
    run_command(mode(sys.argv[1:]))
