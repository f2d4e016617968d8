"""The update of a run: what its config decides, and the randomness of its seed."""

import jax

from dit_jax.diffusion.joint_levels import JOINT_LEVELS
from dit_jax.diffusion.keys import domain
from dit_jax.diffusion.objective import OBJECTIVES
from dit_jax.network.dit import parameter_shapes
from dit_jax.parallel.modes import Mode
from dit_jax.run import Run
from dit_jax.training.initial import trainable
from dit_jax.training.step import Step, make_step


def make_update(run: Run, root: jax.Array, mode: Mode) -> Step:
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
        spike=run.train.spike,
        trainable=trainable(run.train.freeze, parameter_shapes(run.model)),
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
