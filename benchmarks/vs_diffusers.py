"""A DiT of this project against `diffusers.DiTTransformer2DModel` in torch, the same shape and batch, in the same run.

    pip install torch diffusers && python benchmarks/vs_diffusers.py

On a processor it is DiT-S/4 in float32, on a GPU DiT-B/2 with bfloat16 products and float32 parameters (autocast in
torch), against torch eager and compiled. Each repetition runs both sides in turn; the result is the ratio of the
medians, theirs over ours: above 1, this project is faster. Diffusers embeds the level and the class anew in each block,
so its AdamW updates 40 million parameters of S/4, ours 33 million. Leave the machine alone meanwhile: on a processor
torch's threads wait by spinning, so a busy machine (the load is printed) flatters us.
"""

import contextlib
import functools
import os
import statistics
import subprocess
import time

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch wants memory of the same GPU

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
from dit_jax.network.dit import SIZES

GPU = jax.default_backend() == "gpu"
SIZE, PATCH, BATCH, LABELS = ("B", 2, 128, 32) if GPU else ("S", 4, 16, 4)  # LABELS: drawn, evaluating twice as many
SIDES = {"eager": lambda model: model} | ({"compiled": torch.compile} if GPU else {})
STEPS, SCALE = 10, 1.5  # of sampling with guidance
REPETITIONS = 15
WIDTH, DEPTH, HEADS = SIZES[SIZE]
DEVICE = "cuda" if GPU else "cpu"


def ours():
    """(forward, step, sampling): each runs once and waits for its result."""
    network = functools.partial(
        dj.DiT,
        width=WIDTH,
        depth=DEPTH,
        heads=HEADS,
        dtype=jnp.bfloat16 if GPU else jnp.float32,
        unroll=DEPTH if GPU else 1,
    )
    model = network({"image": dj.streams.image((32, 32, 4), patch=PATCH), "label": dj.streams.label(1000)})
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

    image = dj.streams.image((32, 32, 4), patch=PATCH, process=DDPM())
    drawer = network({"image": image, "label": dj.streams.label(1000)})
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
        num_attention_heads=HEADS,
        attention_head_dim=WIDTH // HEADS,
        in_channels=4,
        out_channels=out_channels,
        num_layers=DEPTH,
        patch_size=PATCH,
        sample_size=32,
        norm_type="ada_norm_zero",
        num_embeds_ada_norm=1000,
    ).to(DEVICE)


def products() -> contextlib.AbstractContextManager:
    """Matrix products as ours are."""
    return torch.autocast("cuda", torch.bfloat16) if GPU else contextlib.nullcontext()


def wait():
    if GPU:
        torch.cuda.synchronize()


def theirs(wrap):
    """(forward, step, sampling), as ours; sampling does what DiTPipeline does between its noise and its VAE."""
    model = network(4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    x = torch.randn(BATCH, 4, 32, 32, device=DEVICE)
    t, label = torch.linspace(0, 999, BATCH).long().to(DEVICE), torch.arange(BATCH, device=DEVICE)
    run = wrap(model)

    def forward():
        model.eval()
        with torch.inference_mode(), products():
            run(x, t, label)
        wait()

    def step():
        model.train()
        optimizer.zero_grad()
        with products():
            loss = torch.nn.functional.mse_loss(run(x, t, label).sample, x)
        loss.backward()
        optimizer.step()
        wait()

    drawer = wrap(network(8).eval())
    scheduler = diffusers.DDIMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=False)
    scheduler.set_timesteps(STEPS, device=DEVICE)

    def sampling():
        z = torch.randn(LABELS, 4, 32, 32, device=DEVICE)
        labels = torch.cat([torch.arange(LABELS), torch.full((LABELS,), 1000)]).to(DEVICE)
        with torch.inference_mode(), products():
            for t in scheduler.timesteps:
                out = drawer(torch.cat([z, z]), t.expand(2 * LABELS), labels).sample
                (strong, weak), rest = out[:, :3].chunk(2), out[:LABELS, 3:4]
                guided = torch.cat([weak + SCALE * (strong - weak), rest], 1)
                z = scheduler.step(guided, t, z).prev_sample
        wait()

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
    torch.set_float32_matmul_precision("high")  # as in JAX: TF32 where a GPU has it
    mine = ours()
    for name, wrap in SIDES.items():
        forward, step, sampling = (ratio(a, b) for a, b in zip(mine, theirs(wrap), strict=True))
        print(
            f"DiT-{SIZE}/{PATCH}, batch {BATCH}, torch {name}: forward {forward:.2f}x, training step {step:.2f}x, "
            f"guided sampling {sampling:.2f}x (above 1: ours is faster)",
            flush=True,
        )
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(
        f"{jax.devices()[0].device_kind}, dit_jax {commit}, jax {jax.__version__}, diffusers {diffusers.__version__}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, load before {load:.1f}"
    )
