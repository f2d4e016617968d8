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
from dit_jax.restore import restore_run
from dit_jax.run import Run, SampleOptions
from dit_jax.sampling.draw import check_drawn, draw, gather
from dit_jax.schema import Range, checked
from dit_jax.streams import label

Row = dict[str, Any]
Sample = dict[str, np.ndarray]
Part = tuple[str, ...]
Scores = dict[str, float]
# Of the judges of what is drawn, a sample, its labels if there are any, and the streams that were given.
Measure = Callable[[dict[str, Judge], Sample, np.ndarray | None, Part], Scores]


def main(
    workdir: Annotated[str, "a directory that train.py has written"] = "runs/digits",
    guidance: Annotated[tuple, "a score for each of these scales; 1 is none"] = ("1.0", "1.5"),
    num: Annotated[int, "samples for each score, the classes in turn"] = 1000,
    step: Annotated[int, "the checkpoint to score; -1 is the newest"] = -1,
    options: Annotated[dict[str, Any] | None, SampleOptions] = None,
) -> None:
    """Score a run; options are those of SampleOptions that differ from the run's."""
    if decided := {"given", "drawn"} & (options or {}).keys():
        raise ValueError(f"--{min(decided)} says nothing here: samples are scored given nothing, and given every part")
    run, params, mesh = restore_run(workdir, step=step)
    how = dataclasses.replace(run.sample, num=num, **(options or {}))
    scales = [checked(float(scale), Annotated[float, Range()], "--guidance") for scale in guidance]
    labelled = "label" in sources.find(run.data.name, run.data.dir).info.features
    rows = []
    for row in classes(run, params, mesh, how, scales) if labelled else texts(run, params, mesh, how):
        print(f"{row['what']}: {', '.join(f'{name} {value:.4g}' for name, value in row['scores'].items())}", flush=True)
        rows.append(row)
    (Path(workdir) / "evaluation.json").write_text(json.dumps(rows, indent=2) + "\n")


def texts(run: Run, params, mesh, how) -> Iterator[Row]:
    """Scores of text that has no labels."""
    real = {split: examples(run, split, in_data(run.streams)) for split in ("train", "test")}
    if absent := missing(language_model.PACKAGES):
        print(f"no language model reads what is drawn: {absent} not installed: {language_model.INSTALL}")
    return text.score(run, params, mesh, how, real, reader=None if absent else language_model.load())


def classes(run: Run, params, mesh, how: SampleOptions, scales: Sequence[float] = (1.0, 1.5)) -> Iterator[Row]:
    """Scores of data with labels: of real examples, of samples, and of samples of which some streams are given."""
    streams, info = in_data(run.streams), sources.find(run.data.name, run.data.dir).info
    if "label" not in streams:
        streams = {**streams, "label": label(info.features["label"].num_classes)}
    test = examples(run, "test", streams)
    judges, held_out = train_judges(run.streams, test, test["label"]), described(run.streams, test)
    measures = [make(run) for make in MEASURES.get(run.data.name, [])]

    def found(judges: dict[str, Judge], sample: Sample, labels: np.ndarray | None, given: Part = ()) -> Scores:
        result = scores(run.streams, judges, sample, held_out, labels)
        for measure in measures:
            result |= measure(judges, sample, labels, given)
        return result

    if known := found({}, test, None):
        yield {"what": "real data, test split", "scores": known}

    for split in ("train", *sorted(info.splits.keys() - {"train", "test"})):
        real = examples(run, split, streams, how.num)
        yield {"what": f"real data, {split} split", "scores": found(judges, real, real["label"])}

    turns = np.arange(how.num)
    asked = (turns % (test["label"].max() + 1)).astype(np.int32)
    picked = np.random.default_rng(0).permutation(len(test["label"]))[turns % len(test["label"])]
    names = list(drawable(run.streams))
    others = [name for name in in_data(run.streams) if name not in (*names, "label")]
    parts = [part for count in range(len(names)) for part in itertools.combinations(names, count)]
    for scale, part in itertools.product(scales, parts):
        wanted = test["label"][picked] if part or others else asked
        given = {name: test[name][picked] for name in (*part, *others)}
        given |= {"label": wanted} if "label" in run.streams else {}
        here = dataclasses.replace(how, guidance=scale, given=(), drawn=())
        sample = gather(draw(run, params, mesh, here, examples=given))
        check_drawn(run.streams, sample, [name for name in names if name not in part])
        left = {name: judge for name, judge in judges.items() if name not in part}
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
    source = sources.load(run.data.name, split, run.data.dir, streams)
    return pipeline.picked(source, sorted(np.random.default_rng(0).permutation(len(source)).tolist()[:most]))


def mode(words: Sequence[str]) -> Callable[..., None]:
    """Which command a command line means: to score files, to compare such scores, or to score a run."""
    flags = {word.partition("=")[0] for word in words}
    others: dict[str, Callable[..., None]] = {"--samples": evaluate_files.main, "--compare": evaluate_files.compare}
    return next((command for flag, command in others.items() if flag in flags), main)


if __name__ == "__main__":
    run_command(mode(sys.argv[1:]))
