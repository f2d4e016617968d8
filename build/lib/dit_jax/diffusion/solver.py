"""What a solver is: how a sampler moves from levels t to lower levels s.

A solver is a pair of functions over the whole dict of streams, so that several evaluations, or a history of past ones,
are nothing special:

    init(x, t)                                         -> state
    step(predict, processes, keys, x, t, s, state)     -> (x, state)

predict: the denoiser, with guidance in it. processes: {name: process} of the streams that move; only their entries of x
are returned. keys [B]: of this step, one for each example. x {name: [B, *shape]}: the full sample. t, s {name: [B] or
[B, G]}: its levels before and after the step. A stream whose level stays where it is keeps its value and its state: it
waits for the others.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

from jax import Array

from dit_jax.diffusion import keys as rng
from dit_jax.diffusion.gaussian import Gaussian
from dit_jax.diffusion.keys import stream_id
from dit_jax.diffusion.stream import Arrays, Levels, Predict, Processes


class Solver(NamedTuple):
    """See above. The rows of solvers.SOLVERS are such pairs. is_stochastic: whether steps add noise of their own, as
    those of an SDE do; where they do not, where a sample ends is a function of where it starts."""

    init: Callable[[Arrays, Levels], Any]
    step: Callable[[Predict, Processes, Array, Arrays, Levels, Levels, Any], tuple[Arrays, Any]]
    is_stochastic: bool = False


def stateless(
    step: Callable[[Predict, Processes, Array, Arrays, Levels, Levels], Arrays], is_stochastic: bool = False
) -> Solver:
    """A solver that remembers nothing, of step(predict, processes, keys, x, t, s) -> x."""
    return Solver(lambda x, t: {}, lambda *arguments: (step(*arguments[:-1]), arguments[-1]), is_stochastic)


def continuous(processes: Processes) -> dict[str, Gaussian]:
    """The processes that have a probability flow, which solvers integrate."""
    return {name: cast(Gaussian, process) for name, process in processes.items() if process.is_continuous}


def step_discrete(processes: Processes, keys: Array, x: Arrays, predictions: Arrays, t: Levels, s: Levels) -> Arrays:
    """A step of all other streams, such as text: by their own process, and the same under every solver."""
    return {
        name: process.step(rng.fold(keys, stream_id(name)), x[name], predictions[name], t[name], s[name])
        for name, process in processes.items()
        if not process.is_continuous
    }
