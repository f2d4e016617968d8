"""Log-likelihood by the instantaneous change of variables (Chen et al. 2018; Song et al. 2021, section 4.3).

The probability flow carries a sample z from data at t = 0 to noise at t = 1, and its density with it:

    log p(x) = log N(z(1); 0, 1) + int_0^1 div dz/dt dt,     z(0) = x.

At t = 0 itself a prediction of x says nothing about the velocity, so the path begins at a floor, with alpha x, of which
the noised data have nearly the density alpha^-D p(x): the error is of the order of D sigma^2 over the data's variance.
It ends at `process.top`. This is the density of what `sample` draws in infinitely many steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from dit_jax.diffusion.derivatives import linearize
from dit_jax.diffusion.encode import FLOOR, check_clean, encoding_levels, flow_processes
from dit_jax.diffusion.keys import domain, example_keys, fold
from dit_jax.diffusion.sampler import STEPS, check_whole, priors
from dit_jax.diffusion.stream import Arrays, Predict, Streams

Velocity = Callable[[Array, Array], Array]  # (z [B, D], u) -> dz/du
Slope = Callable[[Array, Array], tuple[Array, Array]]  # (z, u) -> (dz/du, its divergence [B])

RK4_C, RK4_B = np.array([0, 1 / 2, 1 / 2, 1]), np.array([1, 2, 2, 1]) / 6  # Butcher's c and b of the classical rule


def log_likelihood(
    predict: Predict,
    streams: Streams,
    key: Array,
    x: Arrays,
    given: Arrays | None = None,
    steps: int = 50,
    probes: int = 0,
    floor: float = FLOOR,
) -> Array:
    """log p(x | given) in nats, [B], of the streams in x {name: [B, *shape]} jointly.

    given: {name: [B, *shape]} clean values of other streams. Any stream in neither is marginalised out. steps: of the
    fourth-order Runge-Kutta rule; each takes four predictions, and their derivatives along every axis of an example, or
    with `probes` along so many random signs that do not change on the way: Hutchinson's estimate, which is unbiased.
    floor: sigma / alpha where the path begins, small beside the finest structure of the data, but no smaller than the
    network has learnt, for its error is divided by it.

    Bits a dimension are -log p / (D log 2), plus log2 127.5 for bytes scaled to [-1, 1], dequantised by uniform noise.
    Raises ValueError if a stream in x has no flow, and for what `sample` refuses.
    """
    n, given, steps = check_clean(streams, key, x, given or {}), given or {}, check_whole(steps, "steps")
    processes = flow_processes(streams, x)
    keys = example_keys(domain(key, "likelihood"), jnp.arange(n))
    still = {**priors(streams, keys), **given}
    levels = {name: jnp.full(n, 0.0 if name in given else 1.0) for name in streams}

    def rise(u: Array) -> dict[str, Array]:
        return {name: encoding_levels(process, u, floor) for name, process in processes.items()}

    alpha = {name: processes[name].schedule(level)[0] for name, level in rise(jnp.zeros(())).items()}
    start = {name: alpha[name] * x[name] for name in x}
    flatten = jax.vmap(lambda parts: ravel_pytree(parts)[0])
    unflatten = jax.vmap(ravel_pytree({name: part[0] for name, part in start.items()})[1])

    def velocity(flat: Array, u: Array) -> Array:
        """dz/du, where u in [0, 1] is even in sqrt(t)."""
        level, rate = jax.jvp(rise, (u,), (jnp.ones_like(u),))
        z, t = unflatten(flat), {**levels, **{name: jnp.full(n, level[name]) for name in x}}
        prediction = predict({**still, **z}, t)
        return flatten({name: rate[name] * processes[name].flow(z[name], prediction[name], t[name]) for name in x})

    flat = flatten(start)
    size = flat.shape[1]
    if probes:
        signs = jax.vmap(lambda key: jax.random.rademacher(key, (probes, size), flat.dtype))(fold(keys, STEPS))
        slope = with_divergence(velocity, jnp.moveaxis(signs, 1, 0), 1 / probes)
    else:
        slope = with_divergence(velocity, jnp.eye(size, dtype=flat.dtype), 1.0)
    end, gained = runge_kutta(slope, flat, steps)
    shrunk = sum(math.prod(streams[name].shape) * jnp.log(alpha[name]) for name in x)
    return gained + shrunk - jnp.sum(end**2, axis=1) / 2 - size / 2 * math.log(2 * math.pi)


def with_divergence(velocity: Velocity, directions: Array, weight: float) -> Slope:
    """The divergence is the sum of v . J v over the directions v, [k, D] or [k, B, D], times the weight. They are taken
    one at a time, and in all examples at once, which do not depend on each other."""

    def slope(z: Array, u: Array) -> tuple[Array, Array]:
        forward, derivative = linearize(lambda z: velocity(z, u), z)

        def along(direction: Array) -> Array:
            direction = jnp.broadcast_to(direction, z.shape)
            return jnp.sum(direction * derivative(direction), axis=1)

        return forward, weight * jnp.sum(jax.lax.map(along, directions), axis=0)

    return slope


def runge_kutta(slope: Slope, z: Array, steps: int) -> tuple[Array, Array]:
    """From u = 0 to 1 by the classical rule: where z [B, D] ends, and the integral of the divergence, [B]."""

    def stage(
        carry: tuple[Array, Array], scanned: tuple[Array, Array]
    ) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        (z, last), (u, c) = carry, scanned
        k, divergence = slope(z + c * last, u)
        return (z, k), (k, divergence)

    def step(carry: tuple[Array, Array], u: Array) -> tuple[tuple[Array, Array], None]:
        z, integral = carry
        _, (k, divergence) = jax.lax.scan(stage, (z, jnp.zeros_like(z)), (u, jnp.asarray(RK4_C / steps)))
        z = z + jnp.tensordot(RK4_B, k, 1) / steps
        return (z, integral + jnp.tensordot(RK4_B, divergence, 1) / steps), None

    u = jnp.asarray((np.arange(steps)[:, None] + RK4_C) / steps)
    (z, integral), _ = jax.lax.scan(step, (z, jnp.zeros(len(z), z.dtype)), u)
    return z, integral
