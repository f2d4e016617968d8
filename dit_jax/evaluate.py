"""Score a run: python -m dit_jax.evaluate --workdir=runs/digits

Draws class-balanced samples and compares them with held-out real data: how often an independent classifier, trained on
held-out images only, sees the label that was asked for, and the Frechet distance in raw pixels. The same two scores
of the real training images stand beside them. Writes WORKDIR/evaluation.json, with the protocol that made each score.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
from absl import flags

from dit_jax.command import run_command
from dit_jax.config import restore_run
from dit_jax.data import pipeline, sources
from dit_jax.evaluation.draw import draw, gather
from dit_jax.evaluation.frechet import frechet_distance
from dit_jax.evaluation.judge import agreement, train_judge

WORKDIR = flags.DEFINE_string("workdir", "runs/digits", "a directory that train.py has written")
NUM = flags.DEFINE_integer("num", 1000, "samples for each score, the classes in turn")
GUIDANCE = flags.DEFINE_list("guidance", ["1.0", "1.5"], "a score for each of these scales; 1 is none")


def main():
    run, params, mesh = restore_run(WORKDIR.value)
    splits = {split: sources.load(run.data.name, split, run.data.dir, run.streams) for split in ("train", "test")}
    real = {split: pipeline.batch(source, 0, len(source)) for split, source in splits.items()}
    judge = train_judge(real["test"]["image"], real["test"]["label"])

    def scores(sample: dict[str, np.ndarray]) -> dict[str, float]:
        flat, held_out = (images.reshape(len(images), -1) for images in (sample["image"], real["test"]["image"]))
        return {
            "agreement": agreement(judge, sample["image"], sample["label"]),
            "frechet_pixels": frechet_distance(flat, held_out),
        }

    rows = [{"what": "real training images", "num": len(real["train"]["label"]), **scores(real["train"])}]
    for guidance in map(float, GUIDANCE.value):
        how = dataclasses.replace(run.sample, num=NUM.value, given=("label=all",), guidance=guidance)
        rows.append({"what": "samples", **dataclasses.asdict(how), **scores(gather(draw(run, params, mesh, how)))})
    for row in rows:
        name = row["what"] if "guidance" not in row else f"{row['num']} samples, guidance {row['guidance']:g}"
        print(
            f"{name}: label agreement {row['agreement']:.1%}, Frechet distance to held-out {row['frechet_pixels']:.3f}"
        )
    (Path(WORKDIR.value) / "evaluation.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    run_command(main)
