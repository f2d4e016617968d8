"""Train: python train.py --config=configs/digits.py --workdir=runs/digits [--config.train.steps=2000 ...]

The same command again goes on from the newest checkpoint.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from absl import app, flags, logging

from dit_jax.config import build, define_flag
from dit_jax.training.checkpoint import CheckpointError
from dit_jax.training.loop import placement, train

CONFIG = define_flag("configs/digits.py")
WORKDIR = flags.DEFINE_string("workdir", "runs/digits", "where checkpoints, metrics and samples go")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "print the config, the parameter count and the mesh, and stop")


def main(_):
    logging.set_verbosity(logging.WARNING)
    run = build(CONFIG.value)
    if DRY_RUN.value:
        shapes = jax.eval_shape(run.model.init, jax.random.key(0))
        print(json.dumps(run.config, indent=2))
        print(f"parameters: {sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(shapes)):,}")
        print(f"mesh: {dict(placement(run)[0].shape)} on {jax.devices()[0].device_kind}")
        return
    train(run, Path(WORKDIR.value))


if __name__ == "__main__":
    try:
        app.run(main)
    except (ValueError, FileNotFoundError, CheckpointError) as error:
        sys.exit(f"train.py: {error}")
