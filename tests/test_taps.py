"""What is inside a network: read by name and edited, under every way to run it, and free where nobody asks."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dit_jax as dj
from dit_jax.diffusion.blockwise import sample_with_cache
from dit_jax.diffusion.grids import level_rows
from dit_jax.diffusion.keys import example_keys
from dit_jax.diffusion.sampler import sample_rows
from dit_jax.network import dit, layers
from dit_jax.network.dit import DiTBlock
from dit_jax.network.layers import MODERN, PUBLISHED
from dit_jax.network.layout import attention_mask, token_counts
from dit_jax.network.taps import TAPS, Edit, edited, tapped

LABEL = dj.streams.label(3)
IMAGE = dj.streams.image((4, 6, 2), patch=2)
CLIP = dj.streams.video((2, 4, 4, 1), patch=(1, 2, 2))
TEXT = dj.streams.text(6, 5, blocks=3)
SOUND = dj.streams.audio(12, patch=4)
DURATION = dj.streams.duration(SOUND, "sound")
STREAMS = {
    "image": {"image": IMAGE, "label": LABEL},
    "joint": {"image": IMAGE, "words": dj.streams.text(4, 5), "clip": CLIP, "label": LABEL},
    "clip": {"clip": CLIP, "label": LABEL},
    "past": {"text": TEXT, "past": dj.streams.past(TEXT, "text"), "label": LABEL},
    "padded": {"sound": SOUND, "duration": DURATION},
}
NETWORKS = {
    "published": ("image", {}),
    "modern": ("image", {"block": MODERN}),
    "unrolled": ("image", {"unroll": 4}),
    "kept": ("image", {"remat": "none"}),
    "bfloat16": ("image", {"dtype": jnp.bfloat16, "block": MODERN}),
    "joint": ("joint", {"block": MODERN}),
    "experts": ("joint", {"block": MODERN, "experts": "streams", "weights": "learned"}),
    "factorised": ("clip", {"block": MODERN, "attention": "factorised"}),
    "past": ("past", {"block": MODERN}),
    "padded": ("padded", {}),
}
every_network = pytest.mark.parametrize("name", NETWORKS)
DEPTH, HEADS, WIDTH = 4, 2, 24


def filled(shapes, seed=0, scale=0.2):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype), shapes)


@functools.cache
def network(name):
    """(model, parameters that are nowhere zero, x, t)."""
    streams, options = NETWORKS[name]
    model = dj.DiT(STREAMS[streams], width=WIDTH, depth=DEPTH, heads=HEADS, **options)
    rng = np.random.default_rng(1)
    x = {
        key: jnp.asarray(rng.normal(size=(3, *stream.shape)), jnp.float32)
        if stream.process.is_continuous
        else jnp.asarray(rng.integers(0, 3, (3, *stream.shape)), stream.process.dtype)
        for key, stream in model.streams.items()
    }
    x |= {"duration": jnp.array([3, 8, 12])} if "duration" in x else {}
    t = {key: jnp.asarray(rng.uniform(0.2, 0.8, 3), jnp.float32) for key in model.streams}
    t |= {"clip": jnp.asarray(rng.uniform(0.2, 0.8, (3, 2)), jnp.float32)} if "clip" in t else {}
    return model, filled(jax.eval_shape(model.init, jax.random.key(0))), x, t


@functools.cache
def inside(name):
    """(predictions, all values by name)."""
    model, params, x, t = network(name)
    return jax.jit(lambda params, x, t: tapped(model, params)(x, t, taps=TAPS))(params, x, t)


def close(a, b, atol=1e-5, **more):
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=atol, **more), a, b)


@every_network
def test_a_network_that_nobody_looks_into_is_the_program_without_taps(name, monkeypatch):
    """Forwards and backwards, as it is and where the collections are there and empty."""
    model, params, x, t = network(name)

    def programs(params):
        cost = lambda params, x, t: sum(jnp.sum(value) for value in model.apply(params, x, t).values())
        return [str(jax.make_jaxpr(f)(params, x, t)) for f in (model.apply, jax.grad(cost))]

    here, empty = programs(params), programs(edited(model, params, {}))
    for module in (dit, layers):
        monkeypatch.setattr(module, "tap", lambda layer, name, value: value)
    monkeypatch.setattr(layers, "is_asked_for", lambda layer, name: False)
    assert here == empty == programs(params)


@every_network
def test_looking_changes_no_prediction(name):
    model, params, x, t = network(name)
    rough = 0.1 if name == "bfloat16" else 1e-5
    close(inside(name)[0], jax.jit(model.apply)(params, x, t), atol=rough, rtol=rough)
    look = tapped(model, params)
    predictions, values = jax.jit(lambda x, t: look(x, t))(x, t)
    assert values == {}
    close(predictions, jax.jit(model.apply)(params, x, t))


@every_network
def test_values_have_the_axes_that_they_say(name):
    model, *_ = network(name)
    n = sum(token_counts(model.streams).values())
    sizes = {"B": 3, "n": n, "N": n, "D": WIDTH, "6D": 6 * WIDTH, "h": HEADS, "d": WIDTH // HEADS}
    for key, value in inside(name)[1].items():
        levels = {"m": value.shape[2]} if "m" in TAPS[key] else {}
        assert value.shape == (DEPTH, *((sizes | levels)[axis] for axis in TAPS[key].split())), key
        assert levels.get("m", 1) in (1, n)


@every_network
def test_a_block_adds_its_two_gated_outputs_to_the_residual_path(name):
    values = {key: np.asarray(value, np.float64) for key, value in inside(name)[1].items()}
    added = values["attention_gate"] * values["attention_out"] + values["mlp_gate"] * values["mlp_out"]
    rough = 0.1 if name == "bfloat16" else 1e-5
    close(np.diff(values["residual"], axis=0), added[1:], atol=rough, rtol=rough)
    chunks = np.split(values["modulation"], 6, axis=-1)
    close([chunks[2], chunks[5]], [values["attention_gate"], values["mlp_gate"]])


@pytest.mark.parametrize("block", [PUBLISHED, MODERN], ids=["published", "modern"])
def test_the_residual_is_what_each_layer_returns(block):
    name = "published" if block is PUBLISHED else "modern"
    model, params, x, t = network(name)
    seen = {}

    def record(call, args, kwargs, context):
        if context.method_name == "_blocks":
            seen["inputs"] = args
        return call(*args, **kwargs)

    with dit.nn.intercept_methods(record):
        model.apply(params, x, t)
    tokens, condition, *rest = seen["inputs"][:5]
    if block.modulation == "shared":
        shared = params["params"]["modulation"]
        condition = jax.nn.silu(condition) @ shared["kernel"] + shared["bias"]
    layer = DiTBlock(HEADS, model.mlp_ratio, block, model.dtype)
    for i in range(DEPTH):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], params["params"]["blocks"])
        tokens, _ = layer.apply({"params": one}, tokens, condition, *rest)
        close(inside(name)[1]["residual"][i], tokens, atol=1e-4)


@pytest.mark.parametrize("name", ["published", "modern", "past", "padded"])
def test_heads_are_joined_by_the_projection(name):
    _, params, *_ = network(name)
    heads, out = inside(name)[1]["heads"], params["params"]["blocks"]["attention"]["out"]
    joined = jnp.einsum("lbnd,lde->lbne", heads.reshape(*heads.shape[:3], -1), out["kernel"])
    close(inside(name)[1]["attention_out"], joined + out.get("bias", jnp.zeros((DEPTH, WIDTH)))[:, None, None])


@every_network
def test_probabilities_are_shares_and_0_where_attention_is_masked(name):
    model, _, x, _ = network(name)
    probabilities = np.asarray(inside(name)[1]["probabilities"])
    close(probabilities.sum(-1), np.ones(probabilities.shape[:-1]))
    assert probabilities.min() >= 0
    n = probabilities.shape[-1]
    allowed = np.ones((DEPTH, 1, 1, n, n), bool)
    if name == "factorised":
        frame, place = np.divmod(np.arange(n), n // 2)
        allowed &= np.array([np.equal.outer(of, of) for of in (frame, place, frame, place)])[:, None, None]
    if (mask := attention_mask(model.streams, dit.valid_mask(model.streams, x))) is not None:
        allowed = np.asarray(jnp.broadcast_to(mask, (3, 1, n, n)))[None]
    np.testing.assert_array_equal(probabilities > 0, np.broadcast_to(allowed, probabilities.shape))


# Edits ----------------------------------------------------------------------------------------------------------------


def predict(name, edits):
    model, params, x, t = network(name)
    return jax.jit(lambda x, t: tapped(model, params)(x, t, taps=["residual"], edits=edits))(x, t)


@every_network
def test_an_edit_that_changes_nothing_changes_nothing(name):
    """Neither one that multiplies by 1, nor a value that takes its own place."""
    rough = 0.1 if name == "bfloat16" else 1e-5
    close(predict(name, dict.fromkeys(TAPS, Edit()))[0], inside(name)[0], atol=rough, rtol=rough)
    own = {key: Edit(0.0, value, block=2) for key, value in inside(name)[1].items()}
    close(predict(name, own)[0], inside(name)[0], atol=rough, rtol=rough)


@pytest.mark.parametrize(
    ("name", "key"),
    [*((name, "residual") for name in NETWORKS), *(("factorised", key) for key in TAPS if key != "residual")],
)
def test_an_edit_of_a_block_changes_what_comes_after_it_alone(name, key):
    before, after = inside(name)[1]["residual"], predict(name, {key: Edit(0.5, block=2)})[1]["residual"]
    rough = 0.1 if name == "bfloat16" else 1e-5
    close(after[:2], before[:2], atol=rough, rtol=rough)
    assert np.abs(np.asarray(after[2:]) - np.asarray(before[2:])).max(axis=(1, 2, 3)).min() > 1e-3


@pytest.mark.parametrize("block", range(DEPTH))
def test_ablation_is_the_network_without_those_weights(block):
    model, params, x, t = network("published")
    attention = params["params"]["blocks"]["attention"]
    kernel = attention["out"]["kernel"]
    per_head = kernel.reshape(DEPTH, HEADS, -1, WIDTH).at[block, 1].set(0).reshape(kernel.shape)
    without = {**attention, "out": {**attention["out"], "kernel": per_head}}
    blocks = {**params["params"]["blocks"], "attention": without}
    wanted = model.apply({"params": {**params["params"], "blocks": blocks}}, x, t)
    head = jnp.array([1.0, 0.0])[:, None]
    close(predict("published", {"heads": Edit(head, block=block)})[0], wanted)
    close(
        predict(
            "published", {"heads": Edit(jnp.where(jnp.arange(DEPTH)[:, None, None, None, None] == block, head, 1))}
        )[0],
        wanted,
    )


@every_network
def test_blocks_without_gates_pass_the_residual_on(name):
    zero = {"attention_gate": Edit(0.0, block=1), "mlp_gate": Edit(0.0, block=1)}
    residual = predict(name, zero)[1]["residual"]
    np.testing.assert_array_equal(residual[1], residual[0])


def test_a_block_may_be_traced_and_edits_mapped():
    model, params, x, t = network("factorised")
    look = tapped(model, params)
    every = jax.jit(jax.vmap(lambda block: look(x, t, edits={"mlp_out": Edit(0.0, block=block)})[0]["clip"]))
    for block, found in enumerate(every(jnp.arange(DEPTH))):
        close(found, predict("factorised", {"mlp_out": Edit(0.0, block=block)})[0]["clip"])


def test_values_can_be_differentiated_by():
    """A gradient by an offset is a gradient by the value: here that of the last residual, by finite differences."""
    model, params, x, t = network("modern")
    cost = lambda offset: jnp.sum(
        tapped(model, params)(x, t, edits={"residual": Edit(1.0, offset, 1)})[0]["image"] ** 2
    )
    shape = inside("modern")[1]["residual"].shape[2:]
    slope = jax.jit(jax.grad(cost))(jnp.zeros(shape))
    step = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    rise = (jax.jit(cost)(1e-2 * step) - jax.jit(cost)(-1e-2 * step)) / 2e-2
    assert float(jnp.vdot(slope, step)) == pytest.approx(float(rise), rel=1e-2)


def test_samplers_draw_from_an_edited_network_with_a_cache_and_without():
    model, params, *_ = network("past")
    streams, keys = model.streams, example_keys(jax.random.key(0), jnp.arange(3))
    given = {"label": jnp.arange(3)}
    rows = level_rows(streams, given, 4)

    @functools.partial(jax.jit, static_argnames="is_cached")
    def draw(params, is_cached):
        if is_cached:
            return sample_with_cache(functools.partial(model.apply_with_cache, params), streams, keys, given, rows)
        return sample_rows(functools.partial(model.apply, params), streams, keys, given, rows)

    loud = edited(model, params, {"mlp_out": Edit(30.0)})
    plain, cached, uncached = draw(params, False), draw(loud, True), draw(loud, False)
    np.testing.assert_array_equal(cached["text"], uncached["text"])
    assert np.any(plain["text"] != uncached["text"])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"taps": ["residul"]}, "taps: the value 'residul' does not exist; did you mean 'residual'"),
        ({"edits": {"mlp": Edit()}}, "edits: the value 'mlp' does not exist; did you mean 'mlp_"),
        ({"edits": {"heads": Edit(0.0, block=4)}}, r"edits: heads of block 4, where blocks are 0 \.\.\. 3"),
        ({"edits": {"heads": Edit(0.0, block=-1)}}, r"edits: heads of block -1, where"),
        ({"edits": {"mlp_out": Edit(np.ones((3, 1, 1, 1)))}}, r"axes 4 B n D, and an edit \(3, 1, 1, 1\)"),
        ({"edits": {"mlp_out": Edit(0.0, np.ones((1, 1, 1, 1, 1)))}}, r"axes 4 B n D, and an edit"),
    ],
)
def test_a_mistake_says_what_was_meant(asked, message):
    model, params, x, t = network("published")
    with pytest.raises(ValueError, match=message):
        tapped(model, params)(x, t, **asked)


def test_no_tap_survives_the_call():
    model, params, x, t = network("published")
    before = jax.tree.map(np.asarray, params)
    look = tapped(model, params)
    plain = look(x, t)
    look(x, t, taps=TAPS, edits={"residual": Edit(0.0)})
    jax.tree.map(np.testing.assert_array_equal, look(x, t), plain)
    jax.tree.map(np.testing.assert_array_equal, params, before)
    assert params.keys() == {"params"}


def test_a_dataclass_of_another_unroll_reads_the_same():
    model, params, x, t = network("modern")
    unrolled = dataclasses.replace(model, unroll=DEPTH)
    found = jax.jit(lambda x, t: tapped(unrolled, params)(x, t, taps=TAPS))(x, t)
    close(found, inside("modern"))
