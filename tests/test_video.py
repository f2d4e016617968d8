"""Video: frames with levels of their own, clips longer than a window, and digits that move as physics has it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import dit_jax as dj
from dit_jax.data import pipeline, sources, video_digits
from dit_jax.data.video_digits import FRAMES, SPEEDS, WALL, render, trajectory
from dit_jax.diffusion import grids
from dit_jax.diffusion.gaussian import Gaussian
from dit_jax.diffusion.keys import example_keys, normal
from dit_jax.diffusion.levels import uniform
from dit_jax.diffusion.masked import Masked
from dit_jax.diffusion.rollout import rollout
from dit_jax.diffusion.sampler import sample_rows
from dit_jax.diffusion.schedules import align
from dit_jax.diffusion.solvers import SOLVERS
from dit_jax.diffusion.stream import Stream
from dit_jax.evaluation.judge import train_judges
from dit_jax.evaluation.physics import identity, motion
from dit_jax.network.layers import BLOCKS
from dit_jax.sampling.given import read_given
from dit_jax.streams import image, video
from dit_jax.streams.video import centres, features

KEY = jax.random.key(0)
exact = pytest.mark.usefixtures("exact")


# The stream ----------------------------------------------------------------------------------------------------------


def network(stream, seed=0, **options):
    """(a small model of this stream, parameters that are not as they begin)."""
    model, rng = dj.DiT({"x": stream}, width=16, depth=1, heads=1, **options), np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, KEY)
    return model, jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype), shapes)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_clip_of_one_frame_is_an_image(block):
    """The same parameters, by the same names, and to the last bit the same prediction."""
    still, params = network(image((8, 12, 3), patch=4), block=block)
    clip, same = network(video((1, 8, 12, 3), patch=(1, 4, 4)), block=block)
    jax.tree.map(np.testing.assert_array_equal, params, same)
    x, t = jax.random.normal(KEY, (2, 8, 12, 3)), {"x": jnp.array([0.3, 0.9])}
    wanted = jax.jit(still.apply)(params, {"x": x}, t)["x"]
    assert np.std(wanted) > 0.1
    np.testing.assert_array_equal(jax.jit(clip.apply)(params, {"x": x[:, None]}, t)["x"][:, 0], wanted)


def test_a_tubelet_has_a_place_in_time_and_space():
    stream = video((4, 4, 6, 1), patch=(2, 4, 3))
    np.testing.assert_array_equal(stream.positions, [(time, 0, column) for time in range(2) for column in range(2)])
    assert stream.groups == 2
    with pytest.raises(ValueError, match="does not divide"):
        video((4, 4, 6, 1), patch=(3, 4, 3))


def test_the_frames_of_a_tubelet_share_a_level_and_no_others_do():
    """Where attention is silenced, another level of the second group changes its two frames only."""
    model, params = network(video((4, 4, 4, 1), patch=(2, 4, 4)))
    silent = params["params"]["blocks"]["attention"]["out"]
    silent.update(jax.tree.map(jnp.zeros_like, silent))
    x, levels = jax.random.normal(KEY, (2, 4, 4, 4, 1)), jnp.array([[0.2, 0.7], [0.2, 0.4]])
    a, b = jax.jit(model.apply)(params, {"x": x.at[1].set(x[0])}, {"x": levels})["x"]
    np.testing.assert_array_equal(a[:2], b[:2])
    assert np.all(np.abs(a[2:] - b[2:]).max((1, 2, 3)) > 1e-3)


def bytes_in(shape, seed=0):
    return np.random.default_rng(seed).integers(256, size=shape).astype(np.float32) / 127.5 - 1


def test_what_is_saved_is_read_again(tmp_path):
    """Grey levels to the last bit, also where frames are alike, which a GIF stores as one."""
    stream, clip = video((6, 16, 16, 1)), bytes_in((6, 16, 16, 1))
    clip[3] = clip[2]
    file = stream.view.save(clip, tmp_path / "a.b")
    assert file == tmp_path / "a.b.gif"
    with Image.open(file) as written:
        assert written.size == (128, 128) and written.info["loop"] == 0
    np.testing.assert_array_equal(stream.view.read(str(file)), clip[None])
    other = stream.view.save(clip[::-1], tmp_path / "b")
    np.testing.assert_array_equal(stream.view.read(f"{file},{other}"), [clip, clip[::-1]])


def test_colours_are_saved_as_nearly_as_a_palette_can(tmp_path):
    stream = video((3, 4, 4, 3), patch=(1, 2, 2))
    clip = bytes_in((3, 4, 4, 3))  # 16 colours a frame
    file = stream.view.save(clip, tmp_path / "a")
    np.testing.assert_allclose(stream.view.read(str(file)), clip[None], atol=8 / 127.5)


def test_a_still_image_is_the_beginning_of_a_clip(tmp_path):
    stream, pixels = video((5, 4, 4, 1)), np.arange(16, dtype=np.uint8).reshape(4, 4) * 16
    Image.fromarray(pixels).save(tmp_path / "a.png")
    said = read_given({"clip": stream}, [f"clip={tmp_path}/a.png:prefix=1"])
    picture = pixels[..., None] / np.float32(127.5) - 1
    np.testing.assert_array_equal(said.given["clip"][:, 0], picture[None])
    assert said.prefix == {"clip": 1} and np.all(np.isfinite(said.given["clip"]))


def test_a_short_clip_is_a_beginning_or_an_error_that_says_how_long_it_is(tmp_path):
    clip, stream = bytes_in((3, 4, 4, 1)), video((6, 4, 4, 1), patch=(2, 2, 2))
    file, longer = video((3, 4, 4, 1), patch=(1, 2, 2)).view.save(clip, tmp_path / "a"), bytes_in((4, 4, 4, 1))
    longer = video((4, 4, 4, 1), patch=(1, 2, 2)).view.save(longer, tmp_path / "b")
    said = read_given({"clip": stream}, [f"clip={file}:prefix=1"])
    np.testing.assert_array_equal(said.given["clip"][0, :2], clip[:2])
    for ending in ("", f",{longer}", ":prefix=2", f",{longer}:prefix=2"):
        with pytest.raises(ValueError, match="there are 1 of 3 groups of clip: add :prefix=1"):
            read_given({"clip": stream}, [f"clip={file}{ending}"])
    with pytest.raises(ValueError, match="there are 2 of 3 groups of clip: add :prefix=2"):
        read_given({"clip": stream}, [f"clip={longer}"])


def test_what_cannot_be_read_is_an_error_that_names_it(tmp_path):
    file = video((5, 4, 4, 1)).view.save(bytes_in((5, 4, 4, 1)), tmp_path / "a")
    with pytest.raises(ValueError, match=r"a.gif has 5 frames, and a clip here has 4: cut"):
        video((4, 4, 4, 1)).view.read(str(file))
    (tmp_path / "b.gif").write_bytes(b"GIF89a")
    for name in ("b.gif", "none.gif"):
        with pytest.raises(OSError, match=name):
            video((4, 4, 4, 1)).view.read(str(tmp_path / name))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_strip_shows_the_frames_from_left_to_right(channels):
    clip = bytes_in((2, 3, 4, 5, channels))
    strip = video((3, 4, 5, channels), patch=(1, 1, 1)).view.show(clip)
    assert strip.shape == (2, 4, 15, channels) and strip.dtype == np.uint8
    for frame in range(3):
        np.testing.assert_array_equal(strip[:, :, 5 * frame : 5 * frame + 5], np.rint((clip[:, frame] + 1) * 127.5))


# The digits ----------------------------------------------------------------------------------------------------------


def stepped(start, velocity, frames):
    """Pixel by pixel: turn round at a wall."""
    place, way, places = start, np.sign(velocity), []
    for _ in range(frames):
        places.append(place)
        for _ in range(abs(velocity)):
            way = -way if not 0 <= place + way <= WALL else way
            place += way
    return places


@pytest.mark.parametrize("velocity", SPEEDS)
def test_the_closed_form_of_the_motion_is_what_happens_step_by_step(velocity):
    starts = np.arange(WALL + 1)
    wanted = np.transpose([stepped(start, velocity, 40) for start in starts])
    np.testing.assert_array_equal(trajectory(starts, np.full(WALL + 1, velocity), 40), wanted)


@functools.cache
def real_clips(count=600, frames=FRAMES):
    """(clips in [-1, 1], labels, positions, speeds) of real digits, those of the training split first."""
    from sklearn.datasets import load_digits

    digits, rng = load_digits(), np.random.default_rng(0)
    rows = np.r_[0 : len(digits.images) : 2, 1 : len(digits.images) : 2][:: len(digits.images) // count]
    velocities = rng.choice(SPEEDS, size=(len(rows), 2))
    paths = [trajectory(rng.integers(WALL + 1, size=2), velocity, frames) for velocity in velocities]
    pixels = np.rint(digits.images[rows] * (255 / 16)).astype(np.uint8)
    clips = np.stack([render(*pair) for pair in zip(pixels, paths, strict=True)]) / np.float32(127.5) - 1
    return clips, digits.target[rows], np.stack(paths), np.hypot(*velocities.T)


def test_a_digit_is_where_it_was_put_and_nothing_is_lost():
    clips, _, paths, _ = real_clips()
    for clip, path in zip(clips[:20], paths[:20], strict=True):
        corners = [frame[row : row + 8, column : column + 8] for frame, (row, column) in zip(clip, path, strict=True)]
        np.testing.assert_array_equal(corners, np.broadcast_to(corners[0], (FRAMES, 8, 8, 1)))
        np.testing.assert_allclose((clip + 1).sum((1, 2, 3)), (corners[0] + 1).sum(), rtol=1e-5)


def test_real_digits_are_found_exactly():
    """In every frame of every clip: what is seen moves by the pixels that the digit has moved."""
    clips, _, paths, _ = real_clips()
    seen = centres(clips) - paths
    assert np.max(np.abs(seen - seen[:, :1])) < 1e-6
    assert np.max(np.abs(seen - 3.5)) < 1.5  # in its box of 8 x 8


def test_a_faint_background_does_not_hide_a_digit():
    clips, _, paths, _ = real_clips()
    noised = clips + 0.05 * np.random.default_rng(0).normal(size=clips.shape)
    assert np.mean(np.abs(np.diff(centres(noised) - paths, axis=1))) < 0.05


def test_features_see_the_digit_and_not_where_it_is():
    clips, labels, *_ = real_clips()
    seen = features(clips)
    assert seen.shape == (len(clips), 256)
    for frame in range(FRAMES):
        np.testing.assert_allclose(features(clips[:, [frame]]), seen, atol=1e-6)
    judge = train_judges({"clip": video((FRAMES, 16, 16, 1))}, {"clip": clips[::2]}, labels[::2])["clip"]
    assert np.all(identity(judge, clips[1::2], labels[1::2]) > 0.9)
    assert np.all(identity(judge, clips[1::2], (labels[1::2] + 1) % 10) < 0.1)


@exact
def test_the_exact_denoiser_of_flights_draws_exact_flights():
    """By the sum over all courses of three digits, coarse steps lead to one of them: a sampler leaves nothing uneven,
    and a score finds nothing."""
    from sklearn.datasets import load_digits

    frames, digits = 4, np.rint(load_digits().images[:3] * (255 / 16)).astype(np.uint8)
    states = [(start, velocity) for start in range(WALL + 1) for velocity in SPEEDS]
    axis = np.stack([trajectory(np.array([s]), np.array([v]), frames)[:, 0] for s, v in states])
    paths = np.stack(np.broadcast_arrays(axis[:, None], axis[None]), -1).reshape(-1, frames, 2)
    courses = np.stack([render(digit, path) for digit in digits for path in paths]) / 127.5 - 1
    flat = jnp.asarray(courses.reshape(len(courses), -1))

    def predict(x, t):
        z, level = x["clip"].reshape(len(x["clip"]), -1), jnp.maximum(t["clip"], 1e-3)[:, None]
        log_p = ((1 - level) * z @ flat.T - (1 - level) ** 2 * jnp.sum(flat**2, 1)[None] / 2) / level**2
        return {"clip": (jax.nn.softmax(log_p) @ flat).reshape(x["clip"].shape)}

    streams = {"clip": video((frames, 16, 16, 1))}
    drawn = np.asarray(dj.sample(predict, streams, KEY, 16, steps=25, solver=SOLVERS["ancestral"])["clip"])
    gaps = np.abs(drawn.reshape(16, 1, -1) - courses.reshape(1, len(courses), -1)).max(-1).min(-1)
    assert gaps.max() < 1e-3
    assert motion(drawn)["displacement"].max() < 1e-3
    assert len(np.unique(np.rint(drawn), axis=0)) == 16


@pytest.mark.parametrize(("frames", "known"), [(8, None), (32, 16)])
def test_real_clips_obey_physics(frames, known):
    clips, *_ = real_clips(150, frames)
    found = motion(clips, known)
    assert max(found["position"].max(), found["displacement"].max()) < 1e-6


def test_the_data_set_is_every_digit_of_its_split_in_exact_motion(tmp_path, monkeypatch):
    from sklearn.datasets import load_digits

    monkeypatch.setattr(video_digits, "EACH", {"train": 1, "test": 1})
    video_digits.prepare(tmp_path)
    streams, digits = {"clip": video((FRAMES, 16, 16, 1)), "label": dj.streams.label(10)}, load_digits()
    for first, split in enumerate(("train", "test")):
        source = sources.load("video_digits", split, tmp_path, streams)
        clips = pipeline.batch(source, 0, len(source))
        assert motion(clips["clip"])["position"].max() < 1e-6
        light = lambda label, split: np.sort(split.sum((1, 2))[label])
        for label in range(10):
            wanted = light(digits.target[first::2] == label, digits.images[first::2] / 8 - 1)
            found = light(clips["label"] == label, clips["clip"][:, 0, :, :, 0]) + 16 * 16 - 8 * 8
            np.testing.assert_allclose(found, wanted, atol=0.13)  # 64 pixels, rounded to a byte


def test_a_digit_that_stops_is_as_wrong_as_it_should_have_moved():
    """From the frame where it stops on, a digit of speed s misses s pixels a frame, up to the walls' turns."""
    clips, _, paths, speeds = real_clips(150, 24)
    still = clips.copy()
    still[:, 16:] = clips[:, 15:16]
    found = motion(still, known=16)
    assert found["position"][:16].max() < 1e-6
    np.testing.assert_allclose(
        found["position"][16:], np.linalg.norm(paths[:, 16:] - paths[:, 15:16], axis=-1).mean(0), rtol=1e-6
    )
    moves = np.linalg.norm(np.diff(paths, axis=1), axis=-1)[:, 15:].mean(0)
    np.testing.assert_allclose(found["displacement"][15:], moves / speeds.mean(), rtol=1e-6)


# Groups and windows: frames of one pixel that are an AR(1) process, whose denoiser is a matrix -----------------------

RHO, STEPS = 0.8, 64
DOWN = np.linspace(1, 0, STEPS + 1)[:, None]


def covariance(frames):
    return RHO ** np.abs(np.subtract.outer(np.arange(frames), np.arange(frames)))


def series(tubelet=1):
    return {
        "x": Stream(shape=(4, 1), process=Gaussian(), levels=uniform(), embed=None, head=object, groups=4 // tubelet)
    }


def wiener(x, t):
    """E[x | z] = C A (A C A + S^2)^-1 z; levels are the same for all examples here, and those of frames their own."""
    sigma = jnp.broadcast_to(align(t["x"], x["x"]), x["x"].shape)[0, :, 0]
    alpha, c = 1 - sigma, covariance(4)
    gain = c * alpha[None] @ jnp.linalg.inv(alpha[:, None] * c * alpha[None] + jnp.diag(sigma**2))
    return {"x": jnp.einsum("fg,bgc->bfc", gain, x["x"])}


def matrices(rows, tubelet=1, given=False, solver="heun"):
    """What a sampler makes of its noise, and of what it is given: both ways are linear, so each is a matrix [4, 4]."""

    @jax.jit
    def run(noise, value):
        keys = example_keys(KEY, jnp.arange(4))
        given_here = {"x": value} if given else {}
        return sample_rows(wiener, series(tubelet), keys, given_here, {"x": rows}, SOLVERS[solver], start={"x": noise})[
            "x"
        ]

    basis = jnp.eye(4)[..., None]
    return run(basis, 0 * basis)[..., 0].T, run(0 * basis, basis)[..., 0].T


@exact
@pytest.mark.parametrize("tubelet", [1, 2])
def test_frames_at_one_level_have_the_covariance_of_the_data(tubelet):
    noise, _ = matrices(np.repeat(DOWN, 4 // tubelet, 1), tubelet)
    np.testing.assert_allclose(noise @ noise.T, covariance(4), atol=1e-3)


@exact
@pytest.mark.parametrize(("groups", "tubelet"), [(1, 1), (2, 1), (3, 1), (1, 2)])
def test_frames_after_a_given_beginning_are_what_follows_it(groups, tubelet):
    rows = grids.level_rows(series(tubelet), {"x"}, STEPS, prefix={"x": groups})["x"]
    noise, beginning = matrices(rows, tubelet, given=True)
    k, c = groups * tubelet, covariance(4)
    slope = c[k:, :k] @ np.linalg.inv(c[:k, :k])
    np.testing.assert_array_equal(beginning[:k], np.eye(4)[:k])
    np.testing.assert_array_equal(noise[:k], 0)
    np.testing.assert_allclose(beginning[k:], np.c_[slope, np.zeros((4 - k, 4 - k))], atol=1e-3)
    np.testing.assert_allclose((noise @ noise.T)[k:, k:], c[k:, k:] - slope @ c[:k, k:], atol=1e-3)


@exact
@pytest.mark.parametrize(("solver", "lag"), [("heun", 8), ("heun", STEPS), ("unipc", 8), ("unipc", STEPS)])
def test_frame_after_frame_is_a_schedule_too(solver, lag):
    """A staircase: every frame sets out `lag` steps after the one before, at last when that one is done."""
    steps = np.arange(STEPS + 3 * lag + 1)[:, None] - lag * np.arange(4)
    noise, _ = matrices(np.clip(1 - steps / STEPS, 0, 1), solver=solver)
    np.testing.assert_allclose(noise @ noise.T, covariance(4), atol=2e-3)


def drawing(streams):
    def draw(keys, given, prefix):
        rows = grids.level_rows(streams, given, STEPS, prefix=prefix)
        return sample_rows(wiener, streams, keys, given, rows, SOLVERS["heun"])

    return draw


@exact
@pytest.mark.parametrize(("tubelet", "overlap"), [(1, 1), (1, 3), (2, 1)])
def test_windows_follow_each_other_as_the_process_goes_on(tubelet, overlap):
    """An AR(1) process has no memory beyond one frame, so its covariances hold across every boundary of windows."""
    n, streams = 40_000, series(tubelet)
    roll = jax.jit(lambda keys: rollout(drawing(streams), streams, keys, "x", 10, overlap)["x"])
    found = roll(example_keys(KEY, jnp.arange(n)))[..., 0]
    assert found.shape == (n, 10)
    np.testing.assert_allclose(np.cov(found.T), covariance(10), atol=5 * np.sqrt(2 / n))


def test_a_rollout_begins_with_the_sample_and_belongs_to_its_keys():
    def draw(keys, given, prefix):
        x, known = normal(keys, (4, 1)), jnp.arange(4)[:, None] < prefix.get("x", 0)
        return {"x": jnp.where(known, given.get("x", x), x)}

    streams, keys = series(), example_keys(KEY, jnp.arange(6))
    roll = functools.partial(rollout, draw, streams)
    long = roll(keys, "x", 9, 2)["x"]
    assert long.shape == (6, 9, 1) and len(np.unique(long)) == 6 * 9
    np.testing.assert_array_equal(long[:, :4], draw(keys, {}, {})["x"])
    np.testing.assert_array_equal(roll(keys, "x", 3, 2)["x"], long[:, :3])
    np.testing.assert_array_equal(roll(keys[2:4], "x", 7, 2)["x"], long[2:4, :7])
    begun = roll(keys, "x", 9, 2, {"x": jnp.ones((6, 4, 1))}, {"x": 1})["x"]
    np.testing.assert_array_equal(begun == 1, np.broadcast_to(np.arange(9)[:, None] == 0, begun.shape))


def test_what_else_a_sample_is_stays_in_all_windows():
    """A drawn stream is given to later windows as it came out; an absent condition stays absent."""
    streams = series() | {
        "text": dataclasses.replace(series()["x"], shape=(3,), process=Masked(5), groups=1),
        "label": dataclasses.replace(series()["x"], shape=(), process=Masked(3), head=None, groups=1),
    }
    seen = []

    def draw(keys, given, prefix):
        seen.append((set(given), prefix))
        drawn = {
            "x": jnp.zeros((len(keys), 4, 1)),
            "text": jnp.zeros((len(keys), 3), int),
            "label": jnp.full(len(keys), 3),
        }
        return drawn | given

    sample = rollout(draw, streams, example_keys(KEY, jnp.arange(2)), "x", 6, 1)
    assert seen == [(set(), {}), ({"x", "text"}, {"x": 1})] and sample["x"].shape == (2, 6, 1)
    rollout(draw, streams, example_keys(KEY, jnp.arange(2)), "x", 6, 1, {"label": jnp.ones(2, int)})
    assert seen[2:] == [({"label"}, {}), ({"x", "text", "label"}, {"x": 1})]


@pytest.mark.parametrize("overlap", [0, 4])
def test_an_overlap_leaves_something_given_and_something_to_draw(overlap):
    with pytest.raises(ValueError, match=rf"overlap = {overlap} should be 1 \.\.\. 3 of the 4 groups of x"):
        rollout(None, series(), None, "x", 8, overlap)
