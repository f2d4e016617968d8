"""Sample i of a seed is the same however many are drawn, in batches of any size, on any number of devices."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from PIL import Image

import dit_jax as dj
from dit_jax.config import build
from dit_jax.configs import digits, text_kjv, text_kjv_blocks, video_digits
from dit_jax.diffusion import grids
from dit_jax.diffusion.guidance import classifier_free
from dit_jax.diffusion.keys import example_keys
from dit_jax.diffusion.masked import REVEALS
from dit_jax.diffusion.sampler import priors, sample_rows
from dit_jax.diffusion.solvers import SOLVERS
from dit_jax.diffusion.stream import revealing
from dit_jax.media.image import fit
from dit_jax.names import ConfigError
from dit_jax.parallel.mesh import AXES, make_mesh
from dit_jax.sampling.draw import _sampler, check_drawn, draw, gather
from dit_jax.sampling.interpolate import check_interpolation, interpolation_noise

CONFIG = json.loads(digits.get_config().to_json())
RUN = build({**CONFIG, "model": {"width": 48, "depth": 2, "heads": 2, "block": "modern"}})
HOW = dataclasses.replace(RUN.sample, num=12, batch=12, steps=4, given=("label=all",), guidance=1.5)


def scattered(model, seed):
    """Parameters random everywhere: at initialisation every sample would be the same."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [0.1 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, drawn)


@pytest.fixture(scope="module")
def params():
    return scattered(RUN.model, 1)


def changed(path, value):
    """A run whose config differs in one entry of a stream or of the model."""
    config = json.loads(json.dumps(RUN.config))
    *sections, key = path.split(".")
    section = config
    for name in sections:
        section = section[name]
    section[key] = value
    config["sample"]["given"] = []
    return build(config)


def one_device() -> Mesh:
    return Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1, 1), AXES, axis_types=(AxisType.Auto,) * 4)


@pytest.fixture(scope="module")
def reference(params):
    return gather(draw(RUN, params, one_device(), HOW))


def test_samples_differ_from_each_other(reference):
    flat = reference["image"].reshape(12, -1)
    distance = np.abs(flat[:, None] - flat[None]).max(-1) + np.eye(12)
    assert distance.min() > 0.01


@pytest.mark.parametrize("batch", [1, 5, 12, 100])
def test_the_batch_does_not_matter(batch, params, reference):
    drawn = gather(draw(RUN, params, one_device(), dataclasses.replace(HOW, batch=batch)))
    np.testing.assert_allclose(drawn["image"], reference["image"], atol=1e-5)
    np.testing.assert_array_equal(drawn["label"], reference["label"])


def test_the_number_of_samples_does_not_matter(params, reference):
    drawn = gather(draw(RUN, params, one_device(), dataclasses.replace(HOW, num=7)))
    np.testing.assert_allclose(drawn["image"], reference["image"][:7], atol=1e-5)


@pytest.mark.parametrize("axes", [{}, {"fsdp": 4}])
@pytest.mark.parametrize("solver", ["2m", "ancestral"])
def test_the_mesh_does_not_matter(axes, solver, params):
    how = dataclasses.replace(HOW, solver=solver)
    alone, spread = (gather(draw(RUN, params, mesh, how)) for mesh in (one_device(), make_mesh(**axes)))
    np.testing.assert_allclose(spread["image"], alone["image"], atol=1e-5)


def test_parameters_may_come_from_another_mesh(params, reference):
    """Those of a pmap run are on one device."""
    drawn = gather(draw(RUN, jax.device_put(params, jax.devices()[3]), make_mesh(), HOW))
    np.testing.assert_allclose(drawn["image"], reference["image"], atol=1e-5)


def test_another_seed_draws_others(params, reference):
    drawn = gather(draw(RUN, params, one_device(), dataclasses.replace(HOW, seed=1)))
    assert np.abs(drawn["image"] - reference["image"]).max() > 0.01


def test_one_program_serves_all_batches_seeds_labels_and_scales_of_guidance(params):
    """Drawn again and again, as pictures in training and evaluation over scales are; without guidance is another."""
    traced = []
    _sampler.cache_clear()
    run = dataclasses.replace(RUN, streams={**RUN.streams})
    rows = grids.level_rows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grids, "level_rows", lambda *args, **options: traced.append(args) or rows(*args, **options))
        how = dataclasses.replace(HOW, batch=8, num=16, guidance=1.5)
        gather(draw(run, params, one_device(), how))
        assert len(traced) == 1
        for change in ({"guidance": 2.5}, {"seed": 7}, {"num": 13}, {"given": ("label=3",)}, {"every": 5}):
            drawn = gather(draw(run, params, one_device(), dataclasses.replace(how, **change)))
            assert np.isfinite(drawn["image"]).all() and len(traced) == 1, change
        for change in ({"guidance": 1.0}, {"steps": 3}, {"solver": "ddim"}):
            before = len(traced)
            gather(draw(run, params, one_device(), dataclasses.replace(how, **change)))
            assert len(traced) == before + 1, change


@pytest.mark.parametrize("guidance", [1.3, 4.0, "label=1.3"])
def test_a_scale_that_is_an_argument_draws_what_a_constant_draws(params, guidance):
    how = dataclasses.replace(HOW, num=8, batch=8, guidance=guidance)
    given = {"label": np.arange(8) % 10}
    predict = functools.partial(RUN.model.apply, params)
    scale = {"label": 1.3} if guidance == "label=1.3" else guidance
    sampler = lambda key, given: dj.sample(
        predict, RUN.streams, key, 8, given, how.steps, SOLVERS[how.solver], classifier_free(scale)
    )
    wanted = jax.jit(sampler)(jax.random.key(how.seed), given)["image"]
    found = gather(draw(RUN, params, one_device(), dataclasses.replace(how, given=()), examples=given))["image"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("sample.grid", "karas", "sample.grid = 'karas' does not exist; did you mean 'karras'"),
        ("sample.reveal", "confidant", "sample.reveal = 'confidant' does not exist; did you mean 'confident'"),
        ("sample.combine", "project", "sample.combine = 'project' does not exist; did you mean 'projected'"),
        ("sample.interval", [0.9, 0.1], r"sample.interval = \(0.9, 0.1\) should be two levels, 0 <= low <= high <= 1"),
        ("sample.interval", [0.0, 1.5], r"sample.interval = \(0.0, 1.5\) should be two levels"),
        ("sample.interval", [0.5], r"sample.interval = \(0.5,\) should be 2 numbers"),
        ("sample.interval", ["0", "1"], r"sample.interval\[0\] = '0' is a str, and has to be float"),
        ("sample.channels", 2, "sample.channels = 2 should be at most 1, or 0 for all"),
        ("sample.channels", -1, "sample.channels = -1 should be at least 0"),
        ("sample", {"weak": "runs/small", "every": 5}, "sample.weak = 'runs/small': training draws with one network"),
    ],
)
def test_mistakes_in_how_to_sample_are_named(path, value, message):
    with pytest.raises(ConfigError, match=message):
        changed(path, value)


# Autoguidance.


def test_a_weak_run_guides_and_may_be_smaller(params, reference):
    small = changed("model.depth", 1).model
    how = dataclasses.replace(HOW, weak="runs/small")
    weak = small, scattered(small, 2)
    alone, spread = (gather(draw(RUN, params, mesh, how, weak))["image"] for mesh in (one_device(), make_mesh(fsdp=4)))
    np.testing.assert_allclose(spread, alone, atol=1e-5)
    assert np.abs(alone - reference["image"]).max() > 0.01


def test_a_run_guided_by_itself_is_not_guided(params):
    plain = gather(draw(RUN, params, one_device(), dataclasses.replace(HOW, guidance=1.0)))
    same = gather(draw(RUN, params, one_device(), HOW, (RUN.model, params)))
    np.testing.assert_allclose(same["image"], plain["image"], atol=1e-5)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("streams.image.shape", [4, 4, 1], r"streams.image: shape is \(4, 4, 1\) in the weak run, and \(8, 8, 1\)"),
        (
            "streams.image.process",
            "gaussian(prediction='v')",
            "streams.image: prediction is v in the weak run, and x in",
        ),
        ("streams.image.process", "ddpm()", "streams.image: process is DDPM in the weak run, and Gaussian in this run"),
        ("streams.label.classes", 7, "streams.label: vocabulary is 7 in the weak run, and 10 in this run"),
        ("streams", {"image": RUN.config["streams"]["image"]}, "the streams image, and this run has image, label"),
    ],
)
def test_a_weak_run_of_other_streams_is_named(path, value, message):
    weak = changed(path, value).model, {}
    with pytest.raises(ValueError, match=message):
        next(draw(RUN, {}, one_device(), HOW, weak))


def test_a_weak_run_that_is_missing_is_named():
    with pytest.raises(ValueError, match=r"sample.weak = 'runs/small' is not loaded"):
        next(draw(RUN, {}, one_device(), dataclasses.replace(HOW, weak="runs/small")))


# From one end to the other.

CLIP = dataclasses.replace(HOW, num=5, batch=8, given=("label=4,7",), solver="heun")


def clip(params, mesh, how, ends, run=RUN):
    return gather(draw(run, params, mesh, how, start=interpolation_noise(run, params, mesh, how, ends)))


@pytest.fixture(scope="module")
def seeds(params):
    return clip(params, one_device(), CLIP, "3,7")


def test_a_clip_begins_and_ends_with_sample_zero_of_its_seeds(params, seeds):
    """With what is given first, throughout."""
    np.testing.assert_array_equal(seeds["label"], np.full(5, 4))
    for seed, frame in ((3, 0), (7, -1)):
        alone = gather(draw(RUN, params, one_device(), dataclasses.replace(CLIP, num=1, seed=seed)))
        np.testing.assert_allclose(seeds["image"][frame], alone["image"][0], atol=1e-5)
    assert np.abs(np.diff(seeds["image"], axis=0)).max() > 0.01


@pytest.mark.parametrize(("mesh", "batch"), [(one_device, 2), (make_mesh, 8)])
def test_a_clip_ignores_batch_and_mesh(mesh, batch, params, seeds):
    found = clip(params, mesh(), dataclasses.replace(CLIP, batch=batch), "3,7")
    np.testing.assert_allclose(found["image"], seeds["image"], atol=1e-5)


@pytest.mark.parametrize("solver", ["ancestral", "sde_2m", "heun_churn", "euler_maruyama"])
def test_samples_of_one_start_share_the_noise_of_their_steps(solver, params):
    """So those that begin alike end alike, also under solvers that add noise."""
    how = dataclasses.replace(CLIP, num=3, steps=3, solver=solver)
    start = priors({"image": RUN.streams["image"]}, example_keys(jax.random.key(5), np.zeros(3, int)))
    image = gather(draw(RUN, params, one_device(), how, start=jax.device_get(start)))["image"]
    np.testing.assert_allclose(image, np.repeat(image[:1], 3, 0), atol=1e-5)


@pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "meanflow"])  # which takes a span
def test_a_solver_says_whether_where_a_sample_ends_depends_on_where_it_begins_alone(solver, params):
    """Samples of other rows that start from the same noise end alike, or else their steps added noise of their own."""
    begun = np.repeat(np.random.default_rng(0).normal(size=(1, 8, 8, 1)), 2, 0).astype(np.float32)
    levels = grids.level_rows(RUN.streams, {}, 3)
    keys = example_keys(jax.random.key(0), np.arange(2))
    predict = RUN.model.bind(params)
    sampler = jax.jit(
        lambda x: sample_rows(predict, RUN.streams, keys, {}, levels, SOLVERS[solver], None, {"image": x})
    )
    a, b = sampler(begun)["image"]
    assert (np.abs(a - b).max() > 1e-3) == SOLVERS[solver].is_stochastic


@pytest.mark.parametrize("solver", [name for name, solver in SOLVERS.items() if solver.is_stochastic])
def test_a_way_under_steps_that_add_noise_is_an_error_that_says_what_to_use(solver, params):
    how = dataclasses.replace(CLIP, solver=solver)
    with pytest.raises(ValueError, match=rf"takes a solver without noise: ddim, 2m, .*; not {solver}"):
        interpolation_noise(RUN, params, one_device(), how, "3,7")


def test_a_way_needs_noise_to_go_from(tmp_path):
    """Tokens have none, and neither has what is given."""
    words = {"text": dj.streams.text(4)}
    with pytest.raises(ValueError, match="nothing that is drawn has noise to go from and to; no stream of this run"):
        check_interpolation(words, CLIP, "3,7", [])
    streams = {**words, "image": RUN.streams["image"]}
    with pytest.raises(ValueError, match="has noise to go from and to; draw image, given no part of it"):
        check_interpolation(streams, CLIP, "3,7", ["image"])
    assert check_interpolation(streams, CLIP, "3,7", []).keys() == {"image"}


def picture(path, size=(16, 16), seed=0):
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(path)
    return path


def test_a_clip_between_files_begins_and_ends_with_them(params, tmp_path):
    """Guided alike on both ways. Of a network that nobody trained, the velocity in this clock makes a smooth flow."""
    run = changed("streams.image.process", "gaussian(prediction='velocity', clock='reversed_unit')")
    ends = f"{picture(tmp_path / 'a.png')},{picture(tmp_path / 'b.jpg', seed=1)}"
    found = clip(params, make_mesh(), dataclasses.replace(CLIP, steps=50), ends, run)["image"]
    wanted = run.streams["image"].view.read(ends)
    assert wanted.shape == (2, 8, 8, 1) and np.abs(wanted).max() <= 1
    np.testing.assert_allclose(found[[0, -1]], wanted, atol=0.01)
    assert np.abs(found[2] - wanted).max() > 0.1


def test_ends_may_be_of_any_size(params, tmp_path):
    """They are cropped and scaled as those that are trained on, which a file that is given is not."""
    run = changed("streams.image.process", "gaussian(prediction='velocity', clock='reversed_unit')")
    files = [picture(tmp_path / "wide.png", (9, 40)), picture(tmp_path / "tall.jpg", (31, 17), seed=1)]
    ends = ",".join(map(str, files))
    found = clip(params, make_mesh(), dataclasses.replace(CLIP, steps=50), ends, run)["image"]
    for sample, file in zip(found[[0, -1]], files, strict=True):
        with Image.open(file) as image:
            np.testing.assert_allclose(sample, fit(image, (8, 8, 1)), atol=0.01)
    with pytest.raises(ValueError, match="40 pixels wide and 9 high"):
        run.streams["image"].view.read(ends)


@pytest.mark.parametrize(
    ("ends", "how", "message"),
    [
        ("3", CLIP, "--interpolate=3 should be two seeds or two files"),
        ("3,4,5", CLIP, "--interpolate=3,4,5 should be two seeds or two files"),
        ("3,b.png", CLIP, "cannot read the image 3: No such file"),
        ("a.png,b.png", CLIP, "cannot read the image a.png: No such file"),
        (f"{__file__},{__file__}", CLIP, "cannot read the image .*test_draw.py: cannot identify"),
    ],
)
def test_ends_that_are_none_are_named(ends, how, message):
    with pytest.raises((ValueError, OSError), match=message):
        interpolation_noise(RUN, {}, one_device(), how, ends)


def test_files_need_a_stream_that_reads_them(tmp_path):
    """Latents do not; an image that is given is not drawn."""
    file = picture(tmp_path / "a.png")
    latents = changed("streams.image.shape", [8, 8, 4])
    for run, how in ((latents, CLIP), (RUN, dataclasses.replace(CLIP, given=(f"image={file}",)))):
        with pytest.raises(ValueError, match=r"one drawn stream should read files, not 0|nothing that is drawn"):
            interpolation_noise(run, {}, one_device(), how, f"{file},{file}")


@pytest.mark.parametrize("rows", [range(0, 8), range(8, 12), range(3, 6)])
def test_some_rows_are_those_of_all(rows, params, reference):
    """Bitwise where the batches are the same ones."""
    found = gather(draw(RUN, params, one_device(), dataclasses.replace(HOW, batch=4), rows=rows))
    np.testing.assert_array_equal(found["label"], np.arange(12)[rows.start : rows.stop] % 10)
    np.testing.assert_allclose(found["image"], reference["image"][rows.start : rows.stop], atol=1e-5)
    if rows.start % 4 == 0:
        whole = gather(draw(RUN, params, one_device(), dataclasses.replace(HOW, batch=4)))
        np.testing.assert_array_equal(found["image"], whole["image"][rows.start : rows.stop])


def test_no_label_draws_what_a_network_without_labels_draws_and_guidance_leaves_it(params, reference):
    """label=none is the unconditional prediction, alone and among others, at every scale."""
    alone = gather(draw(RUN, params, one_device(), dataclasses.replace(HOW, given=("label=none",), guidance=1.0)))
    sampler = lambda key: dj.sample(RUN.model.bind(params), RUN.streams, key, 12, steps=4, solver=SOLVERS[HOW.solver])
    wanted = jax.jit(sampler)(jax.random.key(0))
    np.testing.assert_allclose(alone["image"], wanted["image"], atol=1e-5)
    np.testing.assert_array_equal(alone["label"], np.full(12, 10))
    mixed = gather(draw(RUN, params, one_device(), dataclasses.replace(HOW, given=("label=none,1",))))
    np.testing.assert_allclose(mixed["image"][::2], wanted["image"][::2], atol=1e-5)
    np.testing.assert_allclose(mixed["image"][[1, 11]], reference["image"][[1, 11]], atol=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"image": [0, np.nan, 0, np.inf, np.nan, np.nan]},
            "sample 101, 103, 104 and 1 more: image is not finite; draw",
        ),
        ({"text": [0, 255, 256, 9, -1, 7]}, "sample 102, 104: text is not of tokens 0 ... 255; draw"),
    ],
)
def test_what_was_drawn_and_is_not_finite_or_no_token_is_named(values, message):
    """Of what was drawn only: a mask is what a condition that is absent holds."""
    streams = {"image": RUN.streams["image"], "text": dj.streams.text(2), "label": RUN.streams["label"]}
    good = {"image": np.zeros((6, 8, 8, 1)), "text": np.zeros((6, 2), int), "label": np.full(6, 10)}
    check_drawn(streams, good, ["image", "text"])
    for name, ones in values.items():
        good[name][:, -1] = np.reshape(ones, (6, *[1] * (good[name].ndim - 2)))
    with pytest.raises(ValueError, match=message):
        check_drawn(streams, good, ["image", "text"], first=100)


@pytest.mark.heavy
def test_a_rollout_is_as_long_as_it_is_asked_to_be_and_begins_as_a_sample():
    config = json.loads(json.dumps(RUN.config))
    config["streams"] = json.loads(video_digits.get_config().to_json())["streams"]
    run = build(config)
    params, mesh = scattered(run.model, 3), make_mesh()
    how = dataclasses.replace(HOW, num=8, batch=8, steps=2)
    clips = gather(draw(run, params, mesh, how))["clip"]
    longer = gather(draw(run, params, mesh, dataclasses.replace(how, rollout="clip=19:3")))["clip"]
    assert clips.shape == (8, 8, 16, 16, 1) and longer.shape == (8, 19, 16, 16, 1)
    np.testing.assert_allclose(longer[:, :8], clips, atol=1e-5)
    again = gather(draw(run, params, mesh, dataclasses.replace(how, rollout="clip=19:3", batch=3, num=4)))["clip"]
    np.testing.assert_allclose(again, longer[:4], atol=1e-4)


@pytest.mark.parametrize("rollout", ["clip", "clip=32", "clip=32:x", "=32:2", "clip=32:2,3"])
def test_a_rollout_that_cannot_be_read_is_named(rollout):
    with pytest.raises(ValueError, match=f"rollout = '{rollout}' should be STREAM=LENGTH:OVERLAP"):
        dataclasses.replace(HOW, rollout=rollout).longer()


@pytest.mark.parametrize(("rollout", "wrong"), [("clap=32:2", "is for one of image, label"), ("image=32:2", "groups")])
def test_a_rollout_of_what_is_not_there_or_has_no_frames_is_an_error(params, rollout, wrong):
    with pytest.raises(ValueError, match=wrong):
        next(draw(RUN, params, make_mesh(), dataclasses.replace(HOW, rollout=rollout)))


def test_a_scale_for_a_stream_that_is_not_given_is_an_error(params):
    with pytest.raises(ValueError, match="guidance = 'image=2' is for streams that are given: label"):
        next(draw(RUN, params, make_mesh(), dataclasses.replace(HOW, guidance="image=2")))


@pytest.mark.heavy
def test_tokens_are_revealed_by_the_rule_that_is_asked_for():
    config = {**RUN.config, "streams": json.loads(text_kjv.get_config().to_json())["streams"]}
    config["streams"]["text"]["length"] = 8
    run = build({**config, "sample": {"num": 8, "batch": 8, "steps": 12}})
    params, drawn = scattered(run.model, 4), []
    for name, rule in REVEALS.items():
        drawn.append(gather(draw(run, params, make_mesh(), dataclasses.replace(run.sample, reveal=name)))["text"])
        streams = revealing(run.streams, rule)
        sampler = jax.jit(lambda key, streams=streams: dj.sample(run.model.bind(params), streams, key, 8, steps=12))
        np.testing.assert_array_equal(drawn[-1], sampler(jax.random.key(run.sample.seed))["text"])
    assert len(np.unique(drawn, axis=0)) == len(REVEALS)


def test_any_subset_can_be_drawn_and_the_rest_is_as_if_it_had_never_been_asked_for():
    """Drawn alone, an image is what the levels of the other stream at t = 1 make of it, and the other is left out."""
    clip = json.loads(video_digits.get_config().to_json())["streams"]["clip"]
    config = {**RUN.config, "streams": {**RUN.config["streams"], "clip": clip}}
    run = build({**config, "sample": {"num": 4, "batch": 4, "steps": 3, "first": ("clip",)}})
    params, one = scattered(run.model, 5), dataclasses.replace(run.sample, drawn=("image",))
    alone = gather(draw(run, params, make_mesh(), one))
    assert alone.keys() == {"image", "label"}
    sampler = jax.jit(lambda key: dj.sample(run.model.bind(params), run.streams, key, 4, steps=3, drawn=["image"]))
    found = sampler(jax.random.key(0))
    np.testing.assert_allclose(alone["image"], found["image"], atol=1e-4)
    np.testing.assert_array_equal(
        found["clip"], priors(run.streams, example_keys(jax.random.key(0), np.arange(4)))["clip"]
    )
    assert np.max(np.abs(alone["image"] - gather(draw(run, params, make_mesh(), run.sample))["image"])) > 0.01
    with pytest.raises(ValueError, match="drawn = label should be some of: image, clip"):
        next(draw(run, params, make_mesh(), dataclasses.replace(one, drawn=("label",))))


def test_text_in_blocks_is_drawn_with_a_cache_and_the_same_without(monkeypatch):
    config = json.loads(json.dumps(RUN.config))
    config["streams"] = json.loads(text_kjv_blocks.get_config().to_json())["streams"]
    config["streams"]["text"] |= {"length": 8, "blocks": 4}
    run = build({**config, "sample": {"given": ("text=In*",), "num": 8, "batch": 8, "steps": 2}})
    params, mesh = scattered(run.model, 4), make_mesh()
    cached = gather(draw(run, params, mesh, run.sample))["text"]
    monkeypatch.setattr("dit_jax.sampling.draw.is_blockwise", lambda streams, rows: False)
    _sampler.cache_clear()
    np.testing.assert_array_equal(gather(draw(run, params, mesh, run.sample))["text"], cached)
    assert np.all(cached[:, :2] == [*b"In"]) and len(np.unique(cached, axis=0)) > 4
