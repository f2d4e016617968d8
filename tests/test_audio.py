"""Sound: files and clips, spectra that keep their energy, and words and drums whose voices and kits stay on their side
of the split."""

import functools
import itertools
import re
import struct
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.io import wavfile

import dit_jax as dj
from dit_jax.data import audio_drums, packages, pipeline, sources
from dit_jax.diffusion.gaussian import Gaussian, noise
from dit_jax.evaluation.judge import train_judge
from dit_jax.media.sound import onset, read_sound, read_wav, resample, standardised
from dit_jax.media.spectrum import BASES, mel, spectrogram
from dit_jax.network.tokens import patchify
from dit_jax.streams.audio import audio, features, read, save, show

RATE = 8000


def sines(*frequencies, length=4096, rate=RATE):
    """Clips [k, length, 1] of one tone each, of variance 1."""
    return np.sqrt(2) * np.sin(2 * np.pi * np.asarray(frequencies)[:, None] * np.arange(length) / rate)[..., None]


def clips(k=3, length=1000, seed=0):
    return np.stack([standardised(x, length) for x in np.random.default_rng(seed).normal(size=(k, length))])


# The stream ----------------------------------------------------------------------------------------------------------


def test_a_token_is_a_patch_of_time():
    stream = audio(24, patch=6, rate=RATE)
    np.testing.assert_array_equal(stream.positions, [(time, 0, 0) for time in range(4)])
    np.testing.assert_array_equal(patchify(jnp.arange(24.0).reshape(1, 24, 1), (6,))[0], np.arange(24).reshape(4, 6))
    with pytest.raises(ValueError, match=r"patch \(5,\) does not divide the shape \(24,\)"):
        audio(24, patch=5)


def test_a_head_gives_as_many_values_as_the_process_asks_for():
    stream = audio(24, patch=6, process=Gaussian(prediction=noise, outputs=2))
    out, _ = stream.head(16, jnp.float32, "head").init_with_output(jax.random.key(0), jnp.ones((2, 4, 16)))
    assert out.shape == (2, 24, 2)


def test_the_mdct_is_orthonormal_and_its_atoms_overlap():
    """Parseval, perfect reconstruction, and the definition: windowed cosines of 2 N samples, by a matrix of its own."""
    length, patch = 24, 6
    matrix = np.zeros((length, length))
    for frame in range(length // patch):
        for k in range(patch):
            for n in range(2 * patch):
                phase = np.pi / patch * (n + 0.5 + patch / 2) * (k + 0.5)
                window = np.sin(np.pi / (2 * patch) * (n + 0.5))
                matrix[frame * patch + k, (frame * patch + n) % length] = np.sqrt(2 / patch) * window * np.cos(phase)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(length), atol=1e-12)
    x = np.random.default_rng(0).normal(size=(2, length, 3))
    with jax.enable_x64(True):
        there, back = (turn(jnp.asarray(x), patch) for turn in BASES["mdct"])
    np.testing.assert_allclose(there, np.einsum("ij,bjc->bic", matrix, x), atol=1e-12)
    np.testing.assert_allclose(back, np.einsum("ji,bjc->bic", matrix, x), atol=1e-12)


def test_a_network_in_another_basis_is_the_same_network_of_turned_sound():
    """Embedding the MDCT of a sound is embedding that sound in the MDCT basis, and its head answers in samples."""
    plain, turned = (audio(24, patch=6, basis=basis) for basis in BASES)
    x = jax.random.normal(jax.random.key(0), (2, 24, 1))
    there, back = (functools.partial(turn, patch=6) for turn in BASES["mdct"])
    params = plain.embed(8, jnp.float32, "in").init(jax.random.key(1), x)
    found = turned.embed(8, jnp.float32, "in").apply(params, x)
    np.testing.assert_allclose(found, plain.embed(8, jnp.float32, "in").apply(params, there(x)), atol=1e-5)
    tokens = jax.random.normal(jax.random.key(2), (2, 4, 8))
    params = jax.tree.map(lambda p: p + 1.0, plain.head(8, jnp.float32, "out").init(jax.random.key(1), tokens))
    said = turned.head(8, jnp.float32, "out").apply(params, tokens)
    np.testing.assert_allclose(said, back(plain.head(8, jnp.float32, "out").apply(params, tokens)), atol=1e-5)
    with pytest.raises(ValueError, match="basis = 'mel' does not exist; known are mdct, samples"):
        audio(24, patch=6, basis="mel")


# Files ---------------------------------------------------------------------------------------------------------------


def test_a_clip_comes_back_from_its_file_up_to_rounding(tmp_path):
    stream, x = audio(1000, patch=100, rate=RATE), clips(2)
    files = [stream.view.save(clip, tmp_path / f"take.{i}") for i, clip in enumerate(x)]
    assert [file.name for file in files] == ["take.0.wav", "take.1.wav"]
    back = stream.view.read(",".join(map(str, files)))
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, x, atol=np.abs(x).max() / 2**15 * 1.1)


def test_a_file_is_as_loud_as_it_can_be_without_clipping(tmp_path):
    for scale in (1e-3, 1.0, 1e3):
        rate, samples = wavfile.read(save(scale * clips(1)[0], tmp_path / "clip", RATE))
        assert rate == RATE and samples.dtype == np.int16 and np.abs(samples).max() == 2**15 - 1


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_every_kind_of_wav_holds_the_same_sound(tmp_path, dtype):
    """Two channels that differ by what averages out, in each kind's own range."""
    tone = 0.5 * sines(440, length=800)[0, :, 0] / np.sqrt(2)
    both = np.stack([tone + 0.25, tone - 0.25], 1)
    ranges = {np.uint8: (128, 127), np.int16: (0, 2**15 - 1), np.int32: (0, 2**31 - 1), np.float32: (0, 1)}
    offset, scale = ranges[dtype]
    wavfile.write(tmp_path / "a.wav", RATE, (offset + scale * both).astype(dtype))
    found = read_wav(tmp_path / "a.wav", RATE)
    np.testing.assert_allclose(found / np.abs(found).max(), tone / np.abs(tone).max(), atol=0.02)


@pytest.mark.parametrize("rate", [4000, 11025, 22050, 48000])
def test_resampling_keeps_a_tones_frequency_and_strength(rate):
    there = resample(sines(600, length=rate, rate=rate)[0, :, 0], rate, RATE)
    inside = slice(RATE // 8, -RATE // 8)  # away from the ends, where a filter sees silence
    assert len(there) == RATE
    np.testing.assert_allclose(there[inside], sines(600, length=RATE)[0, inside, 0], atol=0.01)


def test_resampling_lets_no_alias_in():
    above = resample(sines(5000, length=22050, rate=22050)[0, :, 0], 22050, RATE)
    assert np.std(above[1000:-1000]) < 0.01


def test_what_is_read_is_standardised_and_followed_by_silence(tmp_path):
    tone = 3000 * sines(500, length=400)[0, :, 0]
    wavfile.write(tmp_path / "a.wav", RATE, tone.astype(np.int16))
    (clip,) = read(str(tmp_path / "a.wav"), 1000, RATE)
    assert clip.shape == (1000, 1)
    assert clip.mean() == pytest.approx(0, abs=1e-6) and clip.std() == pytest.approx(1, abs=1e-5)
    assert np.ptp(clip[400:]) == 0 and np.ptp(clip[:400]) > 1


def test_what_cannot_be_a_clip_is_an_error_that_names_it(tmp_path):
    wavfile.write(tmp_path / "long.wav", RATE, np.ones(2001, np.int16))
    wavfile.write(tmp_path / "silent.wav", RATE, np.zeros(10, np.int16))
    wavfile.write(tmp_path / "fast.wav", 2 * RATE, np.ones(10, np.int16))
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "cut.wav").write_bytes((tmp_path / "long.wav").read_bytes()[:30])
    for name, kind, says in [
        ("long", ValueError, r"lasts 0.25 s, a clip 0.12 s: sox IN OUT trim 0 0.12"),
        ("fast", ValueError, f"has {2 * RATE} samples a second, and should have {RATE}: sox IN -r {RATE} OUT"),
        ("silent", ValueError, "silent"),
        ("text", OSError, "cannot read the WAV file"),
        ("cut", OSError, "cannot read the WAV file"),
        ("missing", OSError, "No such file"),
    ]:
        with pytest.raises(kind, match=says) as caught:
            read(str(tmp_path / f"{name}.wav"), 1000, RATE)
        assert f"{name}.wav" in str(caught.value)


def riff(layout, samples, size=None, before=b"", after=b"", order="<", whole=None):
    """A WAV file by hand: its fmt chunk, the bytes of its samples, the size that it says they have, and chunks around
    them; whole: the size that it says it has itself."""
    size = len(samples) if size is None else size
    body = b"WAVE" + before + b"fmt " + struct.pack(f"{order}I", len(layout)) + layout
    body += b"data" + struct.pack(f"{order}I", size) + samples + after
    kind = {"<": b"RIFF", ">": b"RIFX"}[order]
    return kind + struct.pack(f"{order}I", len(body) if whole is None else whole) + body


def layout(kind, bits, channels=1, rate=RATE, order="<"):
    """A fmt chunk: 1 is PCM, 3 floats, 7 mu-law."""
    each = channels * bits // 8
    return struct.pack(f"{order}HHIIHH", kind, channels, rate, rate * each, each, bits)


def pcm(x, bits):
    """Samples in [-1, 1] as little-endian integers of so many bits."""
    return b"".join(struct.pack("<q", round(float(v) * (2 ** (bits - 1) - 1)))[: bits // 8] for v in x)


TONE = 0.5 * np.sin(2 * np.pi * 440 * np.arange(1000) / RATE)
GUID = b"\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"
EXTENSIBLE = layout(0xFFFE, 24) + struct.pack("<HHI", 22, 24, 4) + b"\1\0" + GUID
LIST = b"LIST" + struct.pack("<I", 5) + b"INFOx\0"  # of an odd length, and so padded
SOUNDS = {
    "8 bits": riff(layout(1, 8), (TONE * 127 + 128).round().astype(np.uint8).tobytes()),
    "16 bits": riff(layout(1, 16), pcm(TONE, 16)),
    "24 bits": riff(layout(1, 24), pcm(TONE, 24)),
    "24 bits, extensible": riff(EXTENSIBLE, pcm(TONE, 24)),
    "32 bits": riff(layout(1, 32), pcm(TONE, 32)),
    "floats": riff(layout(3, 32), TONE.astype(np.float32).tobytes()),
    "double floats": riff(layout(3, 64), TONE.tobytes()),
    "floats as large as integers": riff(layout(3, 32), (32767 * TONE).astype(np.float32).tobytes()),
    "big-endian": riff(layout(1, 16, order=">"), (TONE * 32767).astype(">i2").tobytes(), order=">"),
    "two channels": riff(layout(1, 16, 2), pcm(np.stack([TONE, TONE / 2], 1).ravel(), 16)),
    "one channel silent": riff(layout(1, 24, 2), pcm(np.stack([TONE, 0 * TONE], 1).ravel(), 24)),
    "tags before and after": riff(layout(1, 16), pcm(TONE, 16), before=LIST, after=LIST),
    "rubbish after": riff(layout(1, 16), pcm(TONE, 16), after=b"junk"),
    "by ffmpeg to a pipe": riff(layout(1, 16), pcm(TONE, 16), 0xFFFFFFFF, whole=0xFFFFFFFF),
    "by sox to a pipe": riff(layout(1, 16), pcm(TONE, 16), 0x7FFFF000, whole=0x7FFFF024),
    "24 bits to a pipe, cut inside a sample": riff(layout(1, 24), pcm(TONE, 24) + b"\7", 0xFFFFFFFF),
    "without a size of the file": riff(layout(1, 16), pcm(TONE, 16), whole=0),
}


@pytest.mark.parametrize("kind", SOUNDS)
def test_every_kind_of_wav_that_people_have_is_the_same_clip(kind, tmp_path):
    (tmp_path / "a.wav").write_bytes(SOUNDS[kind])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is printed of a file that is good
        (found,) = read(str(tmp_path / "a.wav"), 1200, RATE)
    np.testing.assert_allclose(found, standardised(TONE, 1200), atol=0.03 if kind == "8 bits" else 1e-3)


def with_sample(value, at=100, dtype=np.float32):
    samples = TONE.astype(dtype)
    samples[at] = value
    return riff(layout(3, 8 * samples.itemsize), samples.tobytes())


WRONG = {
    "nothing in it": (riff(layout(1, 16), b""), r"a\.wav: it has no sound: its samples are 0, and should be 2"),
    "one sample": (riff(layout(1, 16), pcm([0.5], 16)), r"a\.wav: it has no sound: its samples are 1, and should be 2"),
    "not a number": (with_sample(np.nan), r"a\.wav: sample 100 is not a number: cut it out, or set it to 0"),
    "infinite": (with_sample(-np.inf, 7), r"a\.wav: sample 7 is infinite"),
    "corrupt": (with_sample(1e29), r"a\.wav: sample 100 is 1e\+29, far above the rest, 0\.5: set it to 0"),
    "corrupt and negative": (with_sample(-1e6, 0), r"a\.wav: sample 0 is 1e\+06, far above the rest, 0\.5"),
    "corrupt double": (with_sample(1e300, 999, np.float64), r"a\.wav: sample 999 is 1e\+300, far above the rest, 0\.5"),
    "silent": (riff(layout(1, 16), bytes(400)), r"a\.wav: it is silent"),
    "silent bytes": (riff(layout(1, 8), b"\x80" * 400), r"a\.wav: it is silent"),
    "constant": (riff(layout(3, 32), np.full(1200, 0.1, np.float32).tobytes()), r"a\.wav: it is silent: all of its"),
    "constant and short": (riff(layout(1, 16), pcm(np.full(99, 0.1), 16)), r"a\.wav: it is silent: all of its"),
    "channels that cancel": (
        riff(layout(1, 16, 2), pcm(np.stack([TONE, -TONE], 1).ravel(), 16)),
        r"a\.wav: its channels cancel, so that their mean is silent: take one of them, sox IN OUT remix 1",
    ),
    "too long": (
        riff(layout(1, 16), pcm(np.tile(TONE, 2), 16)),
        r"a\.wav lasts 0\.25 s, a clip 0\.15 s: sox IN OUT trim",
    ),
    "fast": (
        riff(layout(1, 16, rate=44100), pcm(TONE, 16)),
        r"a\.wav has 44100 samples a second, and should have 8000",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_samples_that_are_no_sound_are_an_error_that_names_the_file_and_the_sample(kind, tmp_path):
    data, says = WRONG[kind]
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(ValueError, match=says):
        read(str(tmp_path / "a.wav"), 1200, RATE)


@pytest.mark.parametrize("loud", [[0, 1, 0, 0], [0, 0.9, 0, 0, 1e-6], [30000, 3, -3, 1, 2]])
def test_a_click_that_the_range_allows_is_a_sound(loud, tmp_path):
    """An impulse, and integers, however quiet the rest is: only floats can be far beyond their range."""
    dtype = np.int16 if max(loud) > 1 else np.float32
    wavfile.write(tmp_path / "a.wav", RATE, np.array(loud, dtype))
    np.testing.assert_allclose(read_wav(tmp_path / "a.wav", RATE), loud, rtol=1e-6)


BROKEN = {
    "cut short": (SOUNDS["16 bits"][:1044], r"it ends after 0\.06 s of 0\.12 s"),
    "cut inside a sample": (SOUNDS["24 bits"][:1600], r"it ends after 0\.06 s of 0\.12 s"),
    "cut inside a frame of floats": (SOUNDS["floats"][:-1], r"it ends after 0\.12 s of 0\.12 s"),
    "cut before its samples": (SOUNDS["16 bits"][:36], "it has no samples"),
    "cut inside its layout": (SOUNDS["16 bits"][:30], "it has no samples"),
    "mu-law": (riff(layout(7, 8), bytes(400)), "MULAW"),
    "MP3": (
        b"ID3\4\0\0\0\0\0\x0f" + bytes(15) + b"\xff\xfb\x90\x64" + bytes(413),
        r"it begins with b'ID3.*no WAV file",
    ),
    "a page": (b"<!DOCTYPE html><html>429</html>", r"it begins with b'<!DOCTYPE ht', as no WAV file does"),
    "an animation": (b"RIFF" + struct.pack("<I", 99) + b"WEBPVP8 " + bytes(91), "as no WAV file does"),
    "nothing": (b"", "it begins with b''"),
    "no channels": (riff(layout(1, 16)[:2] + b"\0\0" + layout(1, 16)[4:], pcm(TONE, 16)), ""),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_is_no_whole_wav_is_one_sentence_with_a_fix(kind, tmp_path):
    data, says = BROKEN[kind]
    (tmp_path / "a.wav").write_bytes(data)
    fix = r"; ffmpeg -i IN -c:a pcm_s16le OUT\.wav makes a WAV file of any sound"
    with pytest.raises(OSError, match=rf"cannot read the WAV file .*a\.wav: .*{says}.*{fix}"):
        read(str(tmp_path / "a.wav"), 1200, RATE)


def test_a_sound_begins_10_ms_before_it_can_be_heard():
    """Whatever its loudness, and with a whisper before it; or at once, where there are no 10 ms."""
    samples = np.concatenate([np.full(500, 0.01), np.ones(100)])
    for scale in (1e-3, -1e3):
        assert onset(scale * samples, RATE) == 500 - RATE // 100
        assert onset(scale * samples[450:], RATE) == 0


# Spectra -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "window"), [(1000, 128), (1024, 128), (777, 50)])
def test_a_spectrogram_keeps_the_energy(length, window):
    """Parseval's theorem in every frame, and windows whose squares sum to 1 across them."""
    x = np.random.default_rng(0).normal(size=(3, length, 1))
    np.testing.assert_allclose(spectrogram(x, window).sum((1, 2)), np.sum(x**2, (1, 2)), rtol=1e-10)


@pytest.mark.parametrize(("bins", "rate", "bands"), [(270, 8000, 24), (33, 8000, 24), (9, 16000, 32)])
def test_mel_bands_share_out_all_energy_and_grow_as_hearing_does(bins, rate, bands):
    share = mel(bins, rate, bands)
    np.testing.assert_allclose(share.sum(0), 1, rtol=1e-12)
    widths = share.sum(1) * rate / 2 / bins
    np.testing.assert_allclose(widths[1:] / widths[:-1], (1 + rate / 1400) ** (1 / bands), rtol=1e-9)


def test_features_hear_a_higher_tone_in_a_higher_band_whatever_its_loudness():
    x = sines(*np.geomspace(40, 3900, 30))
    found = features(x, RATE).reshape(30, 20, 24)
    band = found.sum(1).argmax(1)
    assert np.all(np.diff(band) >= 0) and band[0] == 0 and band[-1] == 23
    np.testing.assert_allclose(features(7 * x, RATE), features(x, RATE), rtol=1e-9)


def test_features_know_when():
    x = np.where((np.arange(4096) // 1024 == 2)[:, None], clips(1, 4096), 0)
    energy = features(x, RATE).reshape(20, 24).sum(1)
    assert 2 / 4 <= np.argmax(energy) / 20 <= 3 / 4


def test_a_picture_of_a_tone_is_a_line_in_its_row():
    """64 rows of 62.5 Hz, the lowest at the bottom; white is the loudest."""
    rows = np.array([5, 20, 60])
    pictures = show(sines(*(RATE / 128 * rows)))
    assert pictures.shape == (3, 64, 65, 1) and pictures.dtype == np.uint8
    np.testing.assert_array_equal(pictures[:, ::-1, 2:-2, 0].argmax(1), np.repeat(rows[:, None] - 1, 61, 1))
    assert pictures.max() == 255
    np.testing.assert_array_equal(show(np.zeros((1, 256, 1))), 0)


# Words ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def digits():
    pytest.importorskip("espeakng_loader", reason="the voices are in the wheel espeakng-loader")
    from dit_jax.data import audio_digits

    return audio_digits


def test_no_voice_is_on_both_sides_and_each_exists(digits):
    """espeak-ng takes its own voice where it does not know a name, so that two wrong names would be one voice."""
    import espeakng_loader

    everyone = " ".join(digits.VOICES.values()).split()
    assert len(everyone) == len(set(everyone)) == 50
    assert set(everyone) <= {file.name for file in Path(espeakng_loader.get_data_path(), "voices", "!v").iterdir()}


def test_words_are_said_the_same_again(digits):
    """f3 breathes, which takes random numbers."""
    once, again = (list(digits.spoken("m3 f3")) for _ in range(2))
    assert [label for label, _ in once] == list(range(10)) * (len(once) // 10)
    for (_, a), (_, b) in zip(once, again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_voice_that_does_not_exist_is_an_error(digits):
    with pytest.raises(ValueError, match=r"no voice 'nowhere\+m3'"):
        digits.speaker()("one", "nowhere+m3", 160, 50)


def test_a_word_begins_where_it_can_be_heard(digits):
    word = np.random.default_rng(0).normal(size=digits.LENGTH)
    late = digits.clip(np.concatenate([np.zeros(500), word]))
    assert np.ptp(late[: RATE // 100]) == 0
    np.testing.assert_allclose(late[RATE // 100 :], standardised(word[: -RATE // 100], digits.LENGTH - 80), atol=0.05)
    np.testing.assert_array_equal(digits.clip(word), standardised(word, digits.LENGTH))


def test_an_independent_judge_hears_which_word_it_is(digits):
    """Chance is one in four. At 16 kHz, which it was made for, it hears nearly all."""
    pytest.importorskip("pocketsphinx", reason="the judge is pocketsphinx")
    from dit_jax.evaluation.speech import word_accuracy

    speak = digits.speaker()
    words = ["zero", "one", "three", "four"]
    said = [speak(word, f"en-us+{voice}", 160, 50) for voice in ("m3", "f2", "m7") for word in words]
    x = np.stack([digits.clip(samples)[:, 0] for samples in said])
    assert word_accuracy(x, RATE, words * 3) >= 10 / 12
    assert word_accuracy(x, RATE, (words[1:] + words[:1]) * 3) <= 2 / 12


def test_a_missing_package_is_an_error_that_names_it(monkeypatch):
    from dit_jax.data import audio_digits
    from dit_jax.evaluation.speech import word_accuracy

    monkeypatch.setattr(packages.importlib.metadata, "version", lambda name: "0.1")
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(ValueError, match=r"espeakng-loader is 0\.1, .*pip install espeakng-loader==0\.2\.4"):
        audio_digits.speaker()
    with pytest.raises(ValueError, match=r"pip install pocketsphinx==5\.1\.1"):
        word_accuracy(np.ones((1, 10)), RATE, ["one"])


def test_a_further_split_is_judged_as_well(digits, tmp_path, monkeypatch):
    """Recordings that are the held-out clips themselves are known to the judge, word by word."""
    from dit_jax import evaluate
    from dit_jax.config import build, default, stream

    monkeypatch.setattr(digits, "VOICES", {"train": "m3", "test": "f2"})
    monkeypatch.setattr(digits, "TAKES", 1)
    monkeypatch.setattr(digits, "debian", lambda package, folder: tmp_path)
    (tmp_path / digits.RECORDED).mkdir(parents=True)
    for label, samples in itertools.islice(digits.spoken("f2"), 10):
        save(samples[:, None], tmp_path / digits.RECORDED / f"{label}", digits.RATE)
    sources.prepare("audio_digits", tmp_path)
    config = default()
    config.streams = {"speech": stream("audio", length=digits.LENGTH), "label": stream("label", classes=10)}
    config.data.name, config.data.dir = "audio_digits", str(tmp_path)
    run = build(config)
    train, recorded = itertools.islice(evaluate.classes(run, None, None, run.sample), 2)
    assert train["what"] == "real data, train split" and recorded["what"] == "real data, recorded split"
    assert recorded["scores"]["speech/agreement"] == 1
    assert train["scores"].keys() == recorded["scores"].keys()


# Drums ---------------------------------------------------------------------------------------------------------------

HIT = {"sound": audio(audio_drums.LENGTH, rate=audio_drums.RATE), "label": dj.streams.label(len(audio_drums.CLASSES))}


@pytest.fixture
def kits(tmp_path, monkeypatch):
    """Two kits, one of them held out: a kick in two strengths, a tom under two names, and something else."""
    soundfile = pytest.importorskip("soundfile", reason="kits are FLAC, AIFF and WAV")
    monkeypatch.setattr(audio_drums, "debian", lambda package, folder: tmp_path)
    drumkits = tmp_path / audio_drums.KITS
    instruments = {
        "Kick": ["a.flac", "b.aiff"],
        "Tom Hi": ["c.wav"],
        "tomhi2": ["c.wav"],
        "Whistle": ["d.wav"],
        "9": [],
    }
    tones = {"a.flac": 50, "b.aiff": 60, "c.wav": 200, "d.wav": 900}
    for number, kit in enumerate(["A Kit", "Millo-Drums"]):
        (folder := drumkits / kit).mkdir(parents=True)
        namespace = ["", ' xmlns="http://www.hydrogen-music.org/drumkit"'][number]
        listed = ""
        for name, files in instruments.items():
            layers = "".join(f"<layer><filename>{file}</filename></layer>" for file in files)
            listed += f"<instrument><name>{name}</name>{layers}</instrument>"
        (folder / "drumkit.xml").write_text(f"<drumkit_info{namespace}>{listed}</drumkit_info>")
        for file, frequency in tones.items():
            tone = 0.5 * sines(frequency + number, length=22050, rate=44100)[0]
            soundfile.write(folder / file, np.hstack([tone, tone + 0.1]), 44100)
    return drumkits


def hits(split, data_dir):
    source = sources.load("audio_drums", split, data_dir, HIT)
    return pipeline.picked(source, range(len(source)))


@pytest.mark.parametrize(
    ("label", "instruments"),
    {
        "kick": ["Kick Lite 1", "BassDrum", "c3 - bass drum 1"],
        "snare": ["Snare1", "Snare 2 Rimshot (Pearl Free Floating Maple 14x3.5)", "VariBreaks Snare 3"],
        "tom": ["tomhi2", "Pearl Tom Floor", "d4 - high tom"],
        "hat": ["Closed HH 4", "Hi Hat Closed", "VariBreaks Hat 2 Cl", 'Hi-Hat Closed (Paiste Alpha Metal edge 14")'],
        "cymbal": ["crash16inch", "Crash/Ride Bow", 'Ride (Custom, Zagrebin 22")', "e4 - cymbal 2", "China", "Splash"],
        "clap": ["Hand Clap", "d#3 - clap", "Clap 2"],
        None: ["Open HH", "Hat Low", "Ride Bell", "ride-cup", "Snare Roll", "Zildjian Splash Choke", "Stick", "17", ""],
    }.items(),
)
def test_an_instruments_class_is_in_its_name(label, instruments):
    assert {audio_drums.class_of(name) for name in instruments} == {label}


def test_a_split_is_the_hits_of_its_kits_once_each(kits, tmp_path):
    audio_drums.prepare(tmp_path)
    for split, kit in (("train", "A Kit"), ("test", "Millo-Drums")):
        found, files = hits(split, tmp_path), [kits / kit / name for name in ("a.flac", "b.aiff", "c.wav")]
        assert audio_drums.hits(kits, split) == dict(zip(files, ["kick", "kick", "tom"], strict=True))
        wanted = [audio_drums.clip(read_sound(file, audio_drums.RATE)) for file in files]
        assert sorted(map(bytes, found["sound"])) == sorted(map(bytes, wanted))
        assert sorted(found["label"]) == [0, 0, 2]


def test_drums_are_built_the_same_again(kits, tmp_path):
    once, again = tmp_path / "once", tmp_path / "again"
    for folder in (once, again):
        audio_drums.prepare(folder)
    for split in ("train", "test"):
        jax.tree.map(np.testing.assert_array_equal, hits(split, once), hits(split, again))


def test_what_rings_for_longer_than_a_clip_fades_out():
    """A tone goes on to the fade and then becomes ever softer; what fits is followed by silence."""
    length, fade = audio_drums.LENGTH, audio_drums.FADE
    tone = sines(1000, length=2 * length, rate=audio_drums.RATE)[0, :, 0]
    clip = audio_drums.clip(tone)[:, 0]
    loudness = np.square(clip).reshape(-1, fade // 8).mean(1)
    np.testing.assert_allclose(loudness[:-8], loudness[0], rtol=1e-3)
    assert np.all(np.diff(loudness[-9:]) < 0) and loudness[-1] < 0.001 * loudness[0]
    assert np.ptp(audio_drums.clip(tone[:1000])[1000:]) == 0


def test_without_what_reads_flac_there_is_a_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ValueError, match=r"pip install soundfile==0\.14\.0"):
        read_sound(tmp_path / "a.flac", RATE)


@pytest.fixture(scope="module")
def debian_kits(tmp_path_factory):
    try:
        return packages.debian(audio_drums.PACKAGE, tmp_path_factory.mktemp("kits")) / audio_drums.KITS
    except FileNotFoundError as error:
        pytest.skip(f"Debian's drum kits cannot be fetched: {error}")


def test_real_hits_are_in_one_class_each_and_no_kit_is_on_both_sides(debian_kits):
    """A name that two classes claim would be a mistake in one of them."""
    kits = {split: {file.parent.name for file in audio_drums.hits(debian_kits, split)} for split in ("train", "test")}
    assert len(kits["train"]) == 7 and len(kits["test"]) == 6 and not kits["train"] & kits["test"]
    for xml in debian_kits.glob("*/drumkit.xml"):
        for name in map(str.lower, re.findall("<name>(.*)</name>", xml.read_text())):
            assert sum(bool(re.search(called, name)) for called in audio_drums.CLASSES.values()) <= 1, name


def test_real_hits_are_standardised_and_a_judge_tells_them_apart(debian_kits, tmp_path, monkeypatch):
    monkeypatch.setattr(audio_drums, "debian", lambda *_: debian_kits.parents[4])
    pytest.importorskip("soundfile", reason="kits are FLAC, AIFF and WAV")
    audio_drums.prepare(tmp_path)
    train, test = hits("train", tmp_path), hits("test", tmp_path)
    assert np.bincount(train["label"]).tolist() == [31, 44, 36, 23, 58, 10]
    assert np.bincount(test["label"]).tolist() == [23, 39, 42, 20, 42, 7]
    for real in (train, test):
        np.testing.assert_allclose(real["sound"].mean(1), 0, atol=1e-6)
        np.testing.assert_allclose(real["sound"].std(1), 1, atol=1e-5)
    judge = train_judge(features(test["sound"], audio_drums.RATE), test["label"])
    assert np.mean(judge(features(train["sound"], audio_drums.RATE)) == train["label"]) >= 0.95
