"""The network: published DiT, its modern sibling, and what tokens of several streams may know of each other."""

import dataclasses
import functools
import json
import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dit_jax as dj
from dit_jax.diffusion.gaussian import PREDICTIONS, Gaussian
from dit_jax.diffusion.masked import Masked
from dit_jax.diffusion.objective import OBJECTIVES, total
from dit_jax.diffusion.schedules import SCHEDULES
from dit_jax.network.dit import REMAT, SIZES, DiTBlock
from dit_jax.network.layers import MODERN, PUBLISHED, LevelEmbed, dot_product_attention
from dit_jax.network.tokens import patchify, positions, sincos, unpatchify
from dit_jax.training.flops import matmul_flops

every_block = pytest.mark.parametrize("block", [PUBLISHED, MODERN], ids=["published", "modern"])
IMAGE = dj.streams.image((4, 6, 2), patch=2)
SOUND = dj.streams.image((1, 4, 3), patch=1, process=Gaussian(SCHEDULES["cosine"]))
LABEL = dj.streams.label(3)
STREAMS = {"image": IMAGE, "sound": SOUND, "label": LABEL}
SMALL = {"width": 24, "depth": 3, "heads": 2}


def sample_of(streams, n=4, seed=0):
    """Any noised sample, and a level for each of its streams."""
    rng = np.random.default_rng(seed)
    x = {name: jnp.asarray(rng.normal(size=(n, *stream.shape)), jnp.float32) for name, stream in streams.items()}
    t = {name: jnp.asarray(rng.uniform(0.2, 0.8, n), jnp.float32) for name in streams}
    if "label" in streams:
        x["label"] = jnp.arange(n) % 4  # 3 is the mask
    return x, t


def filled(shapes, seed=0, scale=0.2):
    """Parameters of these shapes that are nowhere zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype), shapes)


@functools.cache
def network(*names, **options):
    """(a small model of these streams, or of all; parameters that are not as they begin)."""
    model = dj.DiT({name: STREAMS[name] for name in names or STREAMS}, **SMALL | options)
    return model, filled(jax.eval_shape(model.init, jax.random.key(0)))


@functools.cache
def beginning(block):
    """(a small model, its initial parameters)."""
    model = dj.DiT(STREAMS, **SMALL, block=block)
    return model, jax.jit(model.init)(jax.random.key(0))


PROGRAMS = {}


def apply(model, *args):
    """model.apply, compiled once a model."""
    return PROGRAMS.setdefault(id(model), jax.jit(model.apply))(*args)


def around_the_blocks(model, params, x, t):
    """((tokens, condition, group, turn) that go into the blocks, the tokens that come out)."""
    seen = []

    def record(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if context.method_name == "_blocks":
            seen.append((args, out))
        return out

    with nn.intercept_methods(record):
        model.apply(params, x, t)
    return seen[0]


def deaf(params):
    """The same parameters, but attention says nothing, so that tokens do not hear of each other."""
    blocks = params["params"]["blocks"]
    attention = blocks["attention"] | {"out": jax.tree.map(jnp.zeros_like, blocks["attention"]["out"])}
    return {"params": params["params"] | {"blocks": blocks | {"attention": attention}}}


# As published ---------------------------------------------------------------------------------------------------------


@every_block
def test_a_new_network_says_zero_and_its_blocks_do_nothing(block):
    (model, params), (x, t) = beginning(block), sample_of(STREAMS)
    out = apply(model, params, x, t)
    assert {name: value.shape for name, value in out.items()} == {"image": (4, 4, 6, 2), "sound": (4, 1, 4, 3)}
    assert all(np.all(value == 0) for value in out.values())
    (tokens, *_), after = around_the_blocks(model, params, x, t)
    np.testing.assert_array_equal(after, tokens)


def test_initial_parameters_are_those_of_the_paper():
    """Linear layers are Xavier-uniform, embeddings of level and label N(0, 0.02^2), modulations and heads zero."""
    width = 48
    params = jax.jit(dj.DiT(STREAMS, width=width, depth=2, heads=4).init)(jax.random.key(0))["params"]
    blocks = params["blocks"]
    for kernel in (blocks["attention"]["qkv"], blocks["attention"]["out"], blocks["mlp"]["in"], blocks["mlp"]["out"]):
        kernel = kernel["kernel"]
        limit = np.sqrt(6 / sum(kernel.shape[1:]))
        assert 0.95 * limit < np.max(np.abs(kernel)) <= limit
        assert np.std(kernel) == pytest.approx(limit / np.sqrt(3), rel=0.05)
        assert np.all(kernel[0] != kernel[1])
    assert np.std(params["level_embed"]["in"]["kernel"]) == pytest.approx(0.02, rel=0.1)
    assert np.std(params["level_embed"]["out"]["kernel"]) == pytest.approx(0.02, rel=0.1)
    assert np.std(params["label_embed"]["embedding"]) == pytest.approx(0.02, rel=0.3)
    for new in (blocks["modulation"], params["final_modulation"], params["image_head"], params["sound_head"]):
        assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(new))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


def test_the_level_embedding_is_the_published_one():
    t = np.array([[0.0, 300.0], [700.0, 1000.0]])
    params = filled(jax.eval_shape(LevelEmbed(8).init, jax.random.key(0), jnp.zeros((2, 2))))
    angle = [[[level / 10000 ** (i / 128) for i in range(128)] for level in row] for row in t]
    x = np.concatenate([np.cos(angle), np.sin(angle)], -1)
    inner, outer = (params["params"][name] for name in ("in", "out"))
    x = x @ inner["kernel"] + inner["bias"]
    x = x / (1 + np.exp(-x)) @ outer["kernel"] + outer["bias"]
    np.testing.assert_allclose(LevelEmbed(8).apply(params, jnp.asarray(t, jnp.float32)), x, atol=2e-3)


def test_the_published_block_is_its_equations():
    """x += gate attention(modulate(norm x)); x += gate mlp(modulate(norm x)), in NumPy."""
    rng, heads = np.random.default_rng(0), 2
    x, c = rng.normal(size=(2, 5, 8)), rng.normal(size=(2, 1, 8))
    module, group = DiTBlock(heads, 4.0, PUBLISHED, jnp.float32), np.zeros(5, int)
    args = jnp.asarray(x, jnp.float32), jnp.asarray(c, jnp.float32), group, None
    params = filled(jax.eval_shape(lambda *args: module.init(jax.random.key(0), *args, group, None), *args[:2]))
    p = jax.tree.map(np.asarray, params["params"])

    def dense(x, layer):
        return x @ layer["kernel"] + layer["bias"]

    def norm(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)

    def attention(x):
        q, k, v = (
            y.reshape(2, 5, heads, 4).transpose(0, 2, 1, 3) for y in np.split(dense(x, p["attention"]["qkv"]), 3, -1)
        )
        scores = np.exp(q @ k.transpose(0, 1, 3, 2) / 2)
        y = scores / scores.sum(-1, keepdims=True) @ v
        return dense(y.transpose(0, 2, 1, 3).reshape(2, 5, 8), p["attention"]["out"])

    def mlp(x):
        x = dense(x, p["mlp"]["in"])
        return dense(x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))), p["mlp"]["out"])

    modulation = np.split(dense(c / (1 + np.exp(-c)), p["modulation"]), 6, -1)
    for (shift, scale, gate), layer in zip((modulation[:3], modulation[3:]), (attention, mlp), strict=True):
        x = x + gate * layer(norm(x) * (1 + scale) + shift)
    np.testing.assert_allclose(module.apply(params, *args)[0], x, atol=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)])
def test_attention_is_a_mean_of_values_in_shares_of_a_softmax(dtype, tolerance):
    """Of tokens that are seen only, in NumPy and float64; scores of +-100 neither overflow nor vanish."""
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(scale * rng.normal(size=(2, n, 3, 4)), dtype) for n, scale in ((5, 10), (7, 10), (7, 1)))
    seen = rng.random((5, 7)) < 0.6
    seen[:, 0] = True
    wide = [np.asarray(y, np.float64).transpose(0, 2, 1, 3) for y in (q, k, v)]
    scores = np.where(seen, wide[0] @ wide[1].swapaxes(2, 3) / 2, -np.inf)
    assert np.ptp(scores[:, :, seen]) > 150
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    wanted = (shares / shares.sum(-1, keepdims=True) @ wide[2]).transpose(0, 2, 1, 3)
    found = dot_product_attention(q, k, v, jnp.asarray(seen))
    assert found.dtype == dtype
    np.testing.assert_allclose(np.asarray(found, np.float64), wanted, atol=tolerance)
    np.testing.assert_array_equal(
        dot_product_attention(q, k, v, None), dot_product_attention(q, k, v, jnp.ones((5, 7), bool))
    )


CLIP = {"clip": dj.streams.video((3, 4, 4, 1), patch=(1, 2, 2)), "label": LABEL}


@every_block
def test_experts_that_know_the_same_are_one(block):
    """A network whose streams have weights of their own, all alike, is the network that shares them."""
    model, params = network(block=block)
    experts = dataclasses.replace(model, experts="streams")
    shapes = jax.eval_shape(experts.init, jax.random.key(0))

    def same(path, leaf):
        names = [
            part.key.removeprefix("image_").removeprefix("sound_") if "blocks" in str(path) else part.key
            for part in path
        ]
        if "level_offset" in names:
            return jnp.zeros(leaf.shape)
        return functools.reduce(lambda tree, name: tree[name], names, params)

    alike = jax.tree_util.tree_map_with_path(same, shapes)
    x, t = sample_of(STREAMS)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
        apply(experts, alike, x, t),
        apply(model, params, x, t),
    )
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    assert count(alike["params"]["blocks"]) > 1.5 * count(params["params"]["blocks"])


@pytest.mark.parametrize("view", ["frame", "place"])
def test_a_factorised_block_looks_along_a_frame_or_along_a_place(view):
    """A token moves those that share its frame, or those that share its place in other frames, and no others."""
    rng, (frame, place) = np.random.default_rng(0), np.divmod(np.arange(12), 4)
    x, condition = (jnp.asarray(rng.normal(size=(1, n, width)), jnp.float32) for n, width in ((12, 24), (3, 6 * 24)))
    module = DiTBlock(2, 4.0, MODERN, jnp.float32, (), view, 3)
    params = filled(jax.eval_shape(lambda: module.init(jax.random.key(0), x, condition, frame, None)))
    influence = jax.jacobian(lambda x: module.apply(params, x, condition, frame, None)[0][0].sum(-1))(x)[:, 0]
    shared = {"frame": frame, "place": place}[view]
    np.testing.assert_array_equal(np.any(np.asarray(influence) != 0, -1), np.equal.outer(shared, shared))


def test_factorised_attention_is_cheaper_by_the_scores_that_it_leaves_out():
    def flops(attention):
        model = dj.DiT(CLIP, width=24, depth=2, heads=2, block=MODERN, attention=attention)
        x = {name: jax.ShapeDtypeStruct((1, *stream.shape), stream.process.dtype) for name, stream in CLIP.items()}
        t = {name: jax.ShapeDtypeStruct((1,), jnp.float32) for name in CLIP}
        return matmul_flops(model.apply, jax.eval_shape(model.init, jax.random.key(0)), x, t)

    frames, places, width = 3, 4, 24
    scores = lambda seen: 2 * 2 * frames * places * seen * width  # products with keys and with values
    assert flops("full") - flops("factorised") == 2 * scores(frames * places) - scores(places) - scores(frames)


def test_factorised_attention_is_for_frames_alone():
    for streams, depth, what in ((STREAMS, 2, "image, sound"), (CLIP, 3, "depth = 3"), ({"image": IMAGE}, 2, "image")):
        with pytest.raises(ValueError, match=what):
            dj.DiT(streams, width=24, depth=depth, heads=2, attention="factorised")


COUNTS = {"S": 32_963_360, "B": 130_512_416, "L": 458_102_816, "XL": 675_129_632}  # published, of patch 2


@pytest.mark.parametrize("patch", [2, 4, 8])
@pytest.mark.parametrize("size", SIZES)
def test_parameter_counts_are_those_published(size, patch):
    """DiT counts its frozen sin-cos table, [tokens, width], and learns sigma, so that its head is twice as wide."""
    width, depth, heads = SIZES[size]
    streams = {"image": dj.streams.image((32, 32, 4), patch), "label": dj.streams.label(1000)}
    shapes = jax.eval_shape(dj.DiT(streams, width=width, depth=depth, heads=heads).init, jax.random.key(0))
    table, sigma = (32 // patch) ** 2 * width, (width + 1) * patch**2 * 4
    found = sum(leaf.size for leaf in jax.tree.leaves(shapes)) + table + sigma
    # Only the patch layers and the table depend on the patch: what a patch adds to the published count of patch 2.
    of_patch = lambda p: p**2 * 4 * width + 2 * p**2 * 4 * (width + 1) + (32 // p) ** 2 * width
    assert found == COUNTS[size] + of_patch(patch) - of_patch(2)


@pytest.mark.parametrize(("width", "ratio", "hidden"), [(96, 4.0, 256), (72, 4.0, 192), (60, 4.0, 192), (96, 2.0, 128)])
def test_a_modern_block_has_two_thirds_of_the_hidden_width_in_tiles_and_no_biases(width, ratio, hidden):
    """Three matrices of the MLP for two, with a hidden width of ratio * width * 2 / 3 up to a multiple of 64."""
    model = dj.DiT(STREAMS, width=width, depth=2, heads=2, mlp_ratio=ratio, block=MODERN)
    blocks = jax.eval_shape(model.init, jax.random.key(0))["params"]["blocks"]
    assert jax.tree.map(lambda leaf: leaf.shape, blocks) == {
        "attention": {"qkv": {"kernel": (2, width, 3 * width)}, "out": {"kernel": (2, width, width)}},
        "mlp": {"in": {"kernel": (2, width, 2 * hidden)}, "out": {"kernel": (2, hidden, width)}},
        "modulation": (2, 6 * width),
    }


# One program, however it is run ---------------------------------------------------------------------------------------


@every_block
def test_scan_is_a_loop_over_layers(block):
    (model, params), (x, t) = network(block=block), sample_of(STREAMS)
    (tokens, condition, *rest), after = around_the_blocks(model, params, x, t)
    if block.modulation == "shared":
        shared = params["params"]["modulation"]
        condition = jax.nn.silu(condition) @ shared["kernel"] + shared["bias"]
    layer = jax.jit(DiTBlock(model.heads, model.mlp_ratio, block, model.dtype).apply)
    for i in range(model.depth):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], params["params"]["blocks"])
        tokens, _ = layer({"params": one}, tokens, condition, *rest)
    np.testing.assert_allclose(after, tokens, atol=1e-4)


def test_unrolled_layers_are_the_same_layers():
    (model, params), (x, t) = network(), sample_of(STREAMS)
    unrolled = apply(dataclasses.replace(model, unroll=model.depth), params, x, t)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), unrolled, apply(model, params, x, t))


def grad(model):
    def cost(params, x, t):
        return sum(jnp.sum(jnp.sin(value)) for value in model.apply(params, x, t).values())

    return jax.value_and_grad(cost)


@functools.cache
def slopes(remat):
    """(the program of value and gradient, what it computes)."""
    (model, params), (x, t) = network(), sample_of(STREAMS)
    program = jax.jit(grad(dataclasses.replace(model, remat=remat)))
    return str(jax.make_jaxpr(program)(params, x, t)), program(params, x, t)


@pytest.mark.parametrize("remat", REMAT)
def test_remat_is_another_program_with_the_same_gradients(remat):
    (_, wanted), (program, found) = slopes("none"), slopes(remat)
    assert ("remat" in program) == (remat != "none")
    assert all((program == slopes(other)[0]) == (remat == other) for other in REMAT)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), found, wanted)


@every_block
def test_forward_and_reverse_derivatives_agree(block):
    """<u, J v> = <J^T u, v>: few-step objectives differentiate the network forwards."""
    (model, params), (x, t) = network(block=block), sample_of(STREAMS)
    of_image = lambda image: model.apply(params, {**x, "image": image}, t)["image"]
    u, v = (jnp.asarray(np.random.default_rng(i).normal(size=x["image"].shape), jnp.float32) for i in (1, 2))
    _, forward = jax.jit(lambda: jax.jvp(of_image, (x["image"],), (v,)))()
    backward = jax.jit(lambda: jax.vjp(of_image, x["image"])[1](u)[0])()
    assert float(jnp.vdot(u, forward)) == pytest.approx(float(jnp.vdot(backward, v)), rel=1e-3)


@every_block
def test_bfloat16_is_a_coarser_float32(block):
    (model, params), (x, t) = network(block=block), sample_of(STREAMS)
    coarse = dataclasses.replace(model, dtype=jnp.bfloat16)
    assert "bf16" in str(jax.make_jaxpr(coarse.apply)(params, x, t))
    for name, wanted in apply(model, params, x, t).items():
        found = apply(coarse, params, x, t)[name]
        assert found.dtype == jnp.float32 and np.any(found != wanted)
        assert np.linalg.norm(found - wanted) < 0.03 * np.linalg.norm(wanted)


def test_the_program_and_the_noise_are_the_same_in_every_process():
    """Hosts of one job must compile one program and draw one noise, however Python hashes names today."""
    program = """
import hashlib, jax, jax.numpy as jnp, dit_jax as dj
from dit_jax.diffusion.keys import stream_id
streams = {"image": dj.streams.image((2, 2, 1), 1)} | {name: dj.streams.label(5 + ord(name)) for name in "abcdef"}
model = dj.DiT(streams, width=12, depth=1, heads=1)
params = jax.eval_shape(model.init, jax.random.key(0))
x = {name: jnp.zeros((1, *stream.shape), stream.process.dtype) for name, stream in streams.items()}
jaxpr = jax.make_jaxpr(model.apply)(params, x, {name: jnp.ones(1) for name in x})
print(hashlib.sha256(str(jaxpr).encode()).hexdigest(), [stream_id(name) for name in streams])
"""
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
        )
        for seed in "12"
    ]
    first, second = (run.communicate()[0] for run in runs)
    assert first and first == second


# What is learnt -------------------------------------------------------------------------------------------------------


@every_block
def test_every_parameter_learns(block):
    """Gates and heads start at zero and hide what is behind them, so it takes two steps until all have a gradient."""
    (model, params), (x, t) = beginning(block), sample_of(STREAMS)

    def cost(params):
        out = model.apply(params, x, t)
        return sum(jnp.mean((out[name] - 1 - x[name]) ** 2) for name in out)

    slope = jax.jit(jax.grad(cost))
    for _ in range(2):
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, slope(params))
    slopes = slope(params)["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(slopes):
        layers = leaf if path[0].key == "blocks" else leaf[None]
        assert all(np.any(layer != 0) for layer in layers), jax.tree_util.keystr(path)
    assert np.all(np.any(slopes["label_embed"]["embedding"] != 0, axis=1))  # every class, and the mask


# Who may know what ----------------------------------------------------------------------------------------------------


@every_block
def test_a_stream_at_one_does_not_leak_its_clean_value(block):
    """Not one bit of any output may depend on what a stream at t = 1 was, whatever its process."""
    model, params = network(block=block)
    rng, keys = np.random.default_rng(1), jax.random.split(jax.random.key(0), 4)

    def answer(hidden, level, clean):
        x, t = sample_of(STREAMS)
        t[hidden] = jnp.full(4, level, jnp.float32)
        x[hidden], _ = STREAMS[hidden].process.corrupt(keys, clean, t[hidden])
        return apply(model, params, x, t)

    for hidden, stream in STREAMS.items():
        if hidden == "label":
            values = [jnp.array([0, 1, 2, 0]), jnp.array([1, 2, 0, 2])]
        else:
            values = [jnp.asarray(rng.normal(size=(4, *stream.shape)), jnp.float32) for _ in range(2)]
        absent, there = ([answer(hidden, level, value) for value in values] for level in (1.0, 0.0))
        jax.tree.map(np.testing.assert_array_equal, *absent)
        assert all(jax.tree.leaves(jax.tree.map(lambda a, b: np.all(np.any(a != b)), *there)))


def test_a_streams_level_modulates_its_own_tokens_only():
    """Where attention says nothing, a stream's output knows neither the level nor the value of another."""
    (model, params), (x, t) = network(), sample_of(STREAMS)
    params = deaf(params)
    before = apply(model, params, x, t)
    after = apply(model, params, {**x, "sound": x["sound"] + 1}, {**t, "sound": t["sound"] + 0.1})
    np.testing.assert_array_equal(after["image"], before["image"])
    level_only = apply(model, params, x, {**t, "sound": t["sound"] + 0.1})
    np.testing.assert_array_equal(level_only["image"], before["image"])
    assert np.all(np.any(level_only["sound"] != before["sound"], axis=(1, 2, 3)))


@every_block
def test_equal_levels_of_groups_are_one_level(block):
    (model, params), (x, t) = network(block=block), sample_of(STREAMS)
    one = apply(model, params, x, t)
    many = apply(model, params, x, {**t, "image": jnp.repeat(t["image"][:, None], 2, axis=1)})
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), many, one)


def test_a_group_is_modulated_by_its_own_level():
    model, params = network("image", "label")
    (x, t), params = sample_of(model.streams), deaf(params)
    levels = jnp.repeat(t["image"][:, None], 2, axis=1)
    a, b = (apply(model, params, x, {**t, "image": level})["image"] for level in (levels, levels.at[:, 1].add(0.1)))
    np.testing.assert_array_equal(np.any(a != b, axis=(0, 2, 3)), [False, False, True, True])


def test_streams_with_weights_of_their_own_have_an_offset_each_in_the_order_of_their_names():
    """It is added to what every level of the stream, of all groups, has said."""
    model, params = network("sound", "image", "label", block=MODERN, experts="streams")
    x, t = sample_of(model.streams)
    t["image"] = jnp.stack([t["image"], t["sound"]], axis=1)
    ((_, condition, *_), _) = around_the_blocks(model, params, x, t)
    offset = params["params"]["level_offset"]
    plain = {"params": params["params"] | {"level_offset": jnp.zeros_like(offset)}}
    ((_, without, *_), _) = around_the_blocks(model, plain, x, t)
    image, sound = offset
    np.testing.assert_allclose(condition - without, np.stack([[sound, image, image]] * 4), rtol=1e-4, atol=1e-5)


@every_block
def test_a_token_is_known_by_its_position_not_its_place(block):
    """Tokens shuffled together with their positions give shuffled outputs; positions alone shuffled do not."""
    order = np.array([3, 0, 5, 1, 4, 2])

    def shuffle(x):
        return unpatchify(patchify(x, (2, 2))[:, order], (4, 6), (2, 2))

    where = positions((2, 3), (1, 2))
    model, params = network("image", "label", block=block)
    moved = dj.DiT({"image": dataclasses.replace(IMAGE, positions=where[order]), "label": LABEL}, **SMALL, block=block)
    x, t = sample_of(model.streams)
    out = shuffle(apply(model, params, x, t)["image"])
    np.testing.assert_allclose(
        apply(moved, params, {**x, "image": shuffle(x["image"])}, t)["image"], out, rtol=1e-4, atol=1e-5
    )
    assert np.max(np.abs(apply(model, params, {**x, "image": shuffle(x["image"])}, t)["image"] - out)) > 1e-2


def test_modern_positions_are_relative():
    """A rotary network gives the same answer wherever the image lies."""
    model, params = network("image", "label", block=MODERN)
    far = dataclasses.replace(IMAGE, positions=IMAGE.positions + np.array([2, 5, 3], np.float32))
    x, t = sample_of(model.streams)
    found = apply(dataclasses.replace(model, streams={"image": far, "label": LABEL}), params, x, t)["image"]
    np.testing.assert_allclose(found, apply(model, params, x, t)["image"], rtol=1e-3, atol=1e-4)


def test_an_example_ignores_its_neighbours():
    (model, params), (x, t) = network(), sample_of(STREAMS)
    whole = apply(model, params, x, t)
    other, _ = sample_of(STREAMS, seed=7)
    mixed = jax.tree.map(lambda a, b: b.at[0].set(a[0]), x, other)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b[0]), apply(model, params, mixed, t), whole)


@pytest.mark.heavy
def test_learned_weights_find_the_loss_of_every_stream_and_level():
    """Trained on losses that are known: e^{1 + 2 t} of one stream, and 0.1 of the other."""
    model, _ = network(weights="learned")
    params, t = model.init(jax.random.key(0)), {name: jnp.linspace(0, 1, 33)[1:] for name in STREAMS}
    expect = lambda params: model.apply(params, t, method="uncertainty")
    losses = {"image": jnp.exp(1 + 2 * t["image"]), "sound": jnp.full(32, 0.1)}
    np.testing.assert_array_equal(jnp.stack(list(expect(params).values())), np.zeros((2, 32)))
    optimizer = optax.adam(1e-2)

    def update(carry, _):
        params, state = carry
        grads = jax.grad(lambda params: jnp.mean(total(losses, expect(params))))(params)
        changes, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, changes), state), None

    (params, _), _ = jax.jit(lambda carry: jax.lax.scan(update, carry, length=500))((params, optimizer.init(params)))
    for name, u in expect(params).items():
        np.testing.assert_allclose(u, jnp.log(losses[name]), atol=0.1)
    clean = {name: jnp.zeros(2) for name in STREAMS}  # where the loss is 0, whose logarithm is to do no harm
    assert all(np.all(u == 0) for u in model.apply(params, clean, method="uncertainty").values())


def test_only_squared_errors_are_weighted():
    """A cross entropy of 0 is certainty, and would weigh without end."""
    model, _ = network(weights="learned")
    words = dataclasses.replace(model.streams["sound"], process=Masked(5))
    model = dataclasses.replace(model, streams={**model.streams, "sound": words})
    assert model.init(jax.random.key(0))["params"].keys() & {"expected_image", "expected_sound"} == {"expected_image"}


def test_weights_are_no_part_of_a_network_that_has_none():
    model, params = network()
    assert model.apply(params, {name: jnp.ones(2) for name in STREAMS}, method="uncertainty") == {}


# Tokens and their positions -------------------------------------------------------------------------------------------

KINDS = {
    "image": dj.streams.image((4, 6, 2), patch=2),
    "text": dj.streams.text(6),
    "audio": dj.streams.audio(24, patch=4),
    "video": dj.streams.video((3, 4, 4, 1), patch=(1, 2, 2)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["sincos", "rotary"])
@every_block
def test_a_token_is_known_by_its_position(block, place, kind):
    """Tokens that change places are another sample, whichever axis they move along: nothing is a bag of tokens.

    Moving the positions instead of the tokens is the same move, and needs no knowledge of how a stream is cut up.
    """
    stream, block = KINDS[kind], dataclasses.replace(block, positions=place)
    model = dj.DiT({"x": stream}, **SMALL | {"depth": 1}, block=block)
    params = filled(jax.eval_shape(model.init, jax.random.key(0)))
    x, t = {"x": stream.process.prior(jax.random.split(jax.random.key(1), 2), stream.shape)}, {"x": jnp.full(2, 0.5)}
    if kind == "text":
        x = {"x": jnp.asarray([[1, 2, 3, 4, 5, 6]] * 2)}
    outcome = np.asarray(model.apply(params, x, t)["x"])
    for axis in range(3):
        if not stream.positions[:, axis].any():
            continue
        mirrored = stream.positions.copy()
        mirrored[:, axis] = mirrored[:, axis].max() - mirrored[:, axis]
        moved = dj.DiT({"x": dataclasses.replace(stream, positions=mirrored)}, **SMALL | {"depth": 1}, block=block)
        change = np.abs(np.asarray(moved.apply(params, x, t)["x"]) - outcome).max() / np.abs(outcome).max()
        assert change > 1e-3, f"axis {axis} makes no difference"


def test_an_image_and_a_sound_in_one_network_are_where_they_are_alone():
    """Time is added to what has time: positions of an image are DiT's to the last bit, whoever is beside it."""
    image, sound = KINDS["image"].positions, KINDS["audio"].positions
    together = sincos(np.concatenate([image, sound]), 24)
    np.testing.assert_array_equal(together[: len(image)], sincos(image, 24))
    assert len(np.unique(together[len(image) :].round(6), axis=0)) == len(sound)


@pytest.mark.parametrize("experts", ["none", "streams"])
def test_streams_in_another_order_are_the_same_network(experts):
    options = {**SMALL, "block": MODERN, "experts": experts}
    streams = {"name": KINDS["text"], "image": KINDS["image"], "clip": KINDS["video"], "label": LABEL}
    model = dj.DiT(streams, **options)
    params = filled(jax.eval_shape(model.init, jax.random.key(0)))
    x = {name: s.process.prior(jax.random.split(jax.random.key(1), 2), s.shape) for name, s in streams.items()}
    t = {name: jnp.full(2, level) for name, level in zip(streams, (0.2, 0.5, 0.7, 0.0), strict=True)}
    there = dj.DiT(dict(reversed(streams.items())), **options).apply(params, x, t)
    for name, prediction in model.apply(params, x, t).items():
        np.testing.assert_allclose(there[name], prediction, rtol=1e-3, atol=1e-4)


# Memory ---------------------------------------------------------------------------------------------------------------


def gradient_of(batch=4, **options):
    """(the gradient of a network's sum of squares, arguments' shapes)."""
    model = dj.DiT({"image": dj.streams.image((32, 32, 4), patch=2)}, **{"width": 48, "heads": 4, **options})
    params = jax.eval_shape(model.init, jax.random.key(0))
    x = {"image": jax.ShapeDtypeStruct((batch, 32, 32, 4), jnp.float32)}
    t = {"image": jax.ShapeDtypeStruct((batch,), jnp.float32)}
    return jax.jit(jax.grad(lambda p, x, t: jnp.sum(model.apply(p, x, t)["image"] ** 2))), (params, x, t)


@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize("remat", ["dots", "full"])
def test_no_compiler_merges_what_rematerialisation_computes_again(remat, depth):
    """Where layers are unrolled the two computations stand side by side, so a barrier has to keep them apart. In a loop
    they are in two loops."""
    function, shapes = gradient_of(depth=depth, unroll=depth, remat=remat)
    assert "optimization_barrier" in function.lower(*shapes).as_text()
    function, shapes = gradient_of(depth=depth, unroll=depth, remat="none")
    assert "optimization_barrier" not in function.lower(*shapes).as_text()


@pytest.mark.heavy
@pytest.mark.parametrize("unrolled", [False, True])
def test_rematerialisation_saves_memory_in_a_loop_and_unrolled(unrolled, tpu):
    """Temporaries as TPU's own compiler plans them: none > dots > full."""
    text = tpu(
        """
        import json, sys
        import jax, jax.numpy as jnp
        from jax.sharding import SingleDeviceSharding
        from tests.test_dit import gradient_of
        one_chip, found = SingleDeviceSharding(topology("v5e:2x4").devices[0]), []
        for remat in ("none", "dots", "full"):
            options = {"width": 256, "depth": 2, "unroll": int(sys.argv[1]), "dtype": jnp.bfloat16}
            function, shapes = gradient_of(32, **options, remat=remat)
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one_chip), shapes)
            program = function.trace(*shapes).lower(lowering_platforms=("tpu",)).compile()
            found.append(program.memory_analysis().temp_size_in_bytes)
        print(json.dumps(found))
        """,
        "2" if unrolled else "1",
    )
    none, dots, full = json.loads(text.splitlines()[-1])
    assert none > 1.1 * dots > 1.2 * full


# Derivatives ----------------------------------------------------------------------------------------------------------


def for_cuda(function, *arguments):
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()


@pytest.fixture
def nvidia(monkeypatch):
    """As if the first device were a GPU that has cuDNN's attention; programs are lowered for it, and not run."""
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91000)
    monkeypatch.setattr("dit_jax.network.layers.has_kernel", lambda q: q.dtype == jnp.bfloat16)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_differentiates_on_a_gpu_in_bfloat16(objective, nvidia):
    velocity = Gaussian(prediction=PREDICTIONS["velocity"])
    streams = {"image": dj.streams.image((16, 16, 4), patch=2, process=velocity), "span": dj.streams.span()}
    model = dj.DiT(streams, width=64, depth=2, heads=2, dtype=jnp.bfloat16)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    batch = {"image": jax.ShapeDtypeStruct((2, 16, 16, 4), jnp.float32)}

    def gradient(params, batch):
        loss = lambda p: dj.loss(functools.partial(model.apply, p), streams, key, batch, OBJECTIVES[objective])
        return jax.grad(loss)(params)

    key = jax.random.key(0)
    text = for_cuda(gradient, shapes, batch)
    assert ("cudnn" in text) == (objective != "meanflow")  # the improved one asks for its velocity first


@pytest.mark.parametrize("probes", [0, 2])
def test_the_likelihood_differentiates_on_a_gpu_in_bfloat16(probes, nvidia):
    streams = {"image": dj.streams.image((16, 16, 1), patch=2)}
    model = dj.DiT(streams, width=64, depth=2, heads=2, dtype=jnp.bfloat16)
    shapes = jax.eval_shape(model.init, jax.random.key(0))

    def likelihood(params, x):
        predict = functools.partial(model.apply, params)
        return dj.log_likelihood(predict, streams, jax.random.key(0), {"image": x}, steps=2, probes=probes)

    assert "cudnn" not in for_cuda(likelihood, shapes, jax.ShapeDtypeStruct((2, 16, 16, 1), jnp.float32))


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "learnt"}, "weights = 'learnt' does not exist; did you mean 'learned'"),
        ({"block": "modren"}, "block = 'modren' does not exist; did you mean 'modern'"),
        ({"remat": "dot"}, "remat = 'dot' does not exist; did you mean 'dots'"),
        ({"attention": "factorized"}, "attention = 'factorized' does not exist; did you mean 'factorised'"),
        ({"block": "modern(qk_norm='rsm')"}, "block.qk_norm = 'rsm' does not exist; did you mean 'rms'"),
        ({"width": 0}, "width = 0 should be at least 1"),
        ({"heads": 5}, "heads = 5 does not divide width = 24"),
    ],
)
def test_a_choice_that_does_not_exist_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        dj.DiT(STREAMS, **SMALL | options)
    with pytest.raises(ValueError, match="qk_norm = 'rsm' does not exist; did you mean 'rms'"):
        dataclasses.replace(MODERN, qk_norm="rsm")


def test_a_block_can_be_named():
    assert dj.DiT(STREAMS, **SMALL, block="modern") == dj.DiT(STREAMS, **SMALL, block=MODERN)
    without = dataclasses.replace(MODERN, qk_norm="none")
    assert dj.DiT(STREAMS, **SMALL, block="modern(qk_norm='none')") == dj.DiT(STREAMS, **SMALL, block=without)
