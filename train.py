"""Train: python train.py --config=configs/digits.py --workdir=runs/digits [--config.train.steps=2000 ...]

The same command again goes on from the newest checkpoint.
"""

import json
from pathlib import Path

import jax
import numpy as np
from absl import flags

from dit_jax.command import run_command
from dit_jax.config import build, define_flag
from dit_jax.training.loop import placement, train

CONFIG = define_flag()
WORKDIR = flags.DEFINE_string("workdir", "runs/digits", "where checkpoints, metrics and samples go")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "print the config, the parameter count and the mesh, and stop")


def main():
    run = build(CONFIG.value)
    if DRY_RUN.value:
        shapes = jax.eval_shape(run.model.init, jax.random.key(0))
        print(json.dumps(run.config, indent=2))
        print(f"parameters: {sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(shapes)):,}")
        print(f"mesh: {dict(placement(run)[0].shape)} on {jax.devices()[0].device_kind}")
        return
    train(run, Path(WORKDIR.value))


if __name__ == "__main__":
    run_command(main, defaults=["--config=configs/digits.py"])
