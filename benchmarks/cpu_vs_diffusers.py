"""DiT-S/4 on the processor: this project against `diffusers.DiTTransformer2DModel` in torch, the same shape and batch.

    pip install torch diffusers && python benchmarks/cpu_vs_diffusers.py

Each repetition runs both sides in turn; the result is the ratio of the medians, theirs over ours: above 1, this project
is faster. Both sides run their defaults: torch eagerly, ours jitted, a thread a processor. Diffusers embeds the level
and the class anew in each block, so its AdamW updates 40 million parameters, ours 33 million. Leave the machine alone
meanwhile: torch's threads wait by spinning, so a busy machine (the load is printed) flatters us.
"""

import functools
import os
import statistics
import subprocess
import time

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

import dit_jax as dj
from dit_jax.diffusion.ddpm import DDPM
from dit_jax.diffusion.grids import timesteps
from dit_jax.diffusion.solvers import SOLVERS

BATCH, REPETITIONS = 16, 15
LABELS, STEPS, SCALE = 4, 10, 1.5  # of sampling with guidance, which evaluates twice as many at once


def ours():
    """(forward, step, sampling): each runs once and waits for its result."""
    model = dj.DiT({"image": dj.streams.image((32, 32, 4), patch=4), "label": dj.streams.label(1000)})
    optimizer = optax.adamw(1e-4)
    x = {"image": jax.random.normal(jax.random.key(0), (BATCH, 32, 32, 4)), "label": jnp.arange(BATCH)}
    t = {"image": jnp.linspace(0, 1, BATCH), "label": jnp.zeros(BATCH)}
    params = model.init(jax.random.key(1))
    state = params, optimizer.init(params)

    def loss(params):
        return jnp.mean(jnp.square(model.apply(params, x, t)["image"] - x["image"]))

    def update(params, moments):
        value, gradient = jax.value_and_grad(loss)(params)
        updates, moments = optimizer.update(gradient, moments, params)
        return (optax.apply_updates(params, updates), moments), value

    predict, update = jax.jit(model.apply), jax.jit(update, donate_argnums=(0, 1))

    def forward():
        jax.block_until_ready(predict(state[0], x, t))

    def step():
        nonlocal state
        state, value = update(*state)
        jax.block_until_ready((state, value))

    image = dj.streams.image((32, 32, 4), patch=4, process=DDPM())
    drawer = dj.DiT({"image": image, "label": dj.streams.label(1000)})
    weights = drawer.init(jax.random.key(1))

    @jax.jit
    def draw(weights, labels):
        predict = functools.partial(drawer.apply, weights)
        how = {"steps": STEPS, "solver": SOLVERS["ddim"], "grid": timesteps}
        given, guidance = {"label": labels}, dj.classifier_free(SCALE, channels=3)
        return dj.sample(predict, drawer.streams, jax.random.key(2), LABELS, given, guidance=guidance, **how)

    def sampling():
        jax.block_until_ready(draw(weights, jnp.arange(LABELS)))

    return forward, step, sampling


def network(out_channels):
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=6,
        attention_head_dim=64,
        in_channels=4,
        out_channels=out_channels,
        num_layers=12,
        patch_size=4,
        sample_size=32,
        norm_type="ada_norm_zero",
        num_embeds_ada_norm=1000,
    )


def theirs():
    """(forward, step, sampling), as ours; sampling does what DiTPipeline does between its noise and its VAE."""
    model = network(4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    x, t, label = torch.randn(BATCH, 4, 32, 32), torch.linspace(0, 999, BATCH).long(), torch.arange(BATCH)

    @torch.inference_mode()
    def forward():
        model.eval()(x, t, label)

    def step():
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model.train()(x, t, label).sample, x).backward()
        optimizer.step()

    drawer, scheduler = network(8).eval(), diffusers.DDIMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=False)
    scheduler.set_timesteps(STEPS)

    @torch.inference_mode()
    def sampling():
        z = torch.randn(LABELS, 4, 32, 32)
        labels = torch.cat([torch.arange(LABELS), torch.full((LABELS,), 1000)])
        for t in scheduler.timesteps:
            out = drawer(torch.cat([z, z]), t.expand(2 * LABELS), labels).sample
            (strong, weak), rest = out[:, :3].chunk(2), out[:LABELS, 3:4]
            guided = torch.cat([weak + SCALE * (strong - weak), rest], 1)
            z = scheduler.step(guided, t, z).prev_sample

    return forward, step, sampling


def seconds(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ratio(a, b) -> float:
    """Median time of `b` over that of `a`, in turns; the first two are for compiling and warming up."""
    times = np.array([(seconds(a), seconds(b)) for _ in range(REPETITIONS + 2)])[2:]
    return statistics.median(times[:, 1]) / statistics.median(times[:, 0])


if __name__ == "__main__":
    load = os.getloadavg()[0]
    forward, step, sampling = (ratio(a, b) for a, b in zip(ours(), theirs(), strict=True))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(
        f"forward {forward:.2f}x, training step {step:.2f}x, guided sampling {sampling:.2f}x (above 1: ours is faster)"
    )
    print(
        f"dit_jax {commit}, jax {jax.__version__}, diffusers {diffusers.__version__}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, load before {load:.1f}"
    )
