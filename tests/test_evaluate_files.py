"""Anybody's samples: which files are read and which are refused, what is written, and what is ranked."""

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dit_jax import evaluate, evaluate_files
from dit_jax.command import parse
from dit_jax.evaluation import features, frechet, pictures, protocol, report, scores

ROOT = Path(__file__).parent.parent
RNG = np.random.default_rng


def pixels(count: int = 30, size: int = 6, channels: int = 3, seed: int = 0) -> np.ndarray:
    return RNG(seed).integers(0, 256, (count, size, size, channels)).astype(np.uint8)


def saved(path: Path, x: np.ndarray, **others) -> str:
    np.savez(path, arr_0=x, **others)
    return str(path)


def read(found: pictures.Pictures, size: int = 7) -> np.ndarray:
    batches = [*found.batches(size)]
    assert all(len(batch) == size for batch in batches[:-1])
    return np.concatenate(batches)


@pytest.fixture
def plain(monkeypatch):
    """Raw pixels are all that there is to see with."""
    monkeypatch.setattr(features, "missing", lambda modules: "it")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_is_read_as_it_was_written(save, tmp_path):
    x = pixels()
    save(tmp_path / "x.npz", arr_0=x, label=np.arange(30), protocol=json.dumps({"solver": "2m"}))
    found = pictures.open_pictures(str(tmp_path / "x.npz"))
    np.testing.assert_array_equal(read(found), x)
    assert (found.shape, found.number, found.is_grey, found.drawn) == ((6, 6, 3), 30, False, {"solver": "2m"})
    assert found.statistics == {}


@pytest.mark.parametrize(
    ("make", "channels"),
    [
        (lambda x: x, 3),
        (lambda x: np.float32(x) / 127.5 - 1, 3),  # as this package draws
        (lambda x: np.float64(x) / 127.5 - 1, 3),
        (lambda x: x[..., :1], 1),
        (lambda x: x[..., 0], 1),
    ],
)
def test_pictures_are_bytes_whatever_they_were_saved_as(make, channels, tmp_path):
    x = pixels()
    found = pictures.open_pictures(saved(tmp_path / "x.npz", make(x)))
    assert found.shape == (6, 6, channels) and found.is_grey == (channels == 1)
    np.testing.assert_array_equal(read(found), x[..., :channels])


def test_floats_a_little_outside_are_clipped_as_they_are_for_people(tmp_path):
    x = np.array([-1.2, -1, 0.5, 1.3], np.float32).reshape(1, 2, 2, 1).repeat(12, 0)
    found = read(pictures.open_pictures(saved(tmp_path / "x.npz", x)))
    assert found[0].ravel().tolist() == [0, 0, 191, 255]


def test_a_hash_is_of_the_pictures_and_of_nothing_else(tmp_path):
    x = pixels()
    of = lambda name, *a, **b: pictures.open_pictures(saved(tmp_path / name, *a, **b)).sha256
    right = of("a.npz", x)
    assert of("b.npz", x, more=np.ones(3)) == right == of("c.npz", np.float32(x) / 127.5 - 1)
    assert len({right, of("d.npz", x[::-1]), of("e.npz", x[:-1]), of("f.npz", x.reshape(30, 4, 9, 3))}) == 4


def refused(tmp_path: Path, x, **others) -> str:
    with pytest.raises((ValueError, OSError)) as error:
        pictures.open_pictures(saved(tmp_path / "x.npz", x, **others))
    said = str(error.value)
    assert "x.npz" in said and "\n" not in said and len(said) < 300, said
    return said


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: np.where(x == x[0, 0, 0, 0], np.nan, x / 127.5 - 1), "not finite"),
        (
            lambda x: np.float32(x / 127.5 - 1) * np.where(np.arange(30) == 29, np.inf, 1)[:, None, None, None],
            "not finite",
        ),
        (lambda x: np.float32(x), r"float32 from 0 to 255.* in \[-1, 1\]: save pixels in 0 ... 255 as uint8"),
        (lambda x: x / 255, r"float64 from 0 to 1, .* in \[-1, 1\]: save np\.uint8\(np\.round\(255 \* x\)\)"),
        (lambda x: x / 25.0 - 5, "float64 from -5 to 5.2"),
        (lambda x: x.astype(np.int64), "arr_0 of int64, and not uint8"),
        (lambda x: x > 100, "arr_0 of bool, and not uint8"),
        (lambda x: x[:0], r"has no pictures: arr_0 is of shape \[0, 6, 6, 3\]"),
        (lambda x: x[:, :0], "has no pictures"),
        (lambda x: x.transpose(0, 3, 1, 2), "channels first"),
        (lambda x: np.concatenate([x, x[..., :1]], -1), r"arr_0 of shape \[30, 6, 6, 4\]"),
        (lambda x: x[0, 0], r"arr_0 of shape \[6, 3\]"),
        (lambda x: x[None], r"arr_0 of shape \[1, 30, 6, 6, 3\]"),
        (lambda x: np.asfortranarray(x), "Fortran"),
        (lambda x: np.array([{"a": 1}, None]), "Python objects in arr_0, which are pickled and not read"),
    ],
)
def test_what_are_no_pictures_is_one_sentence(make, message, tmp_path):
    assert re.search(message, refused(tmp_path, make(pixels())))


def test_nothing_is_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "went off",))

    bomb = np.array([Bomb()], object)
    refused(tmp_path, bomb)
    assert "mu that is no plain array" in refused(tmp_path, pixels(), mu=bomb, sigma=bomb)
    assert pictures.open_pictures(saved(tmp_path / "x.npz", pixels(), protocol=bomb)).drawn is None
    (tmp_path / "x.npz").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=r"x\.npz is not a whole \.npz file"):
        pictures.open_pictures(str(tmp_path / "x.npz"))
    assert not (tmp_path / "went off").exists()


def test_a_file_that_is_none_or_is_cut_off_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file or folder .*nowhere\.npz"):
        pictures.open_pictures(str(tmp_path / "nowhere.npz"))
    np.savez(tmp_path / "other.npz", mu=np.ones(3), sigma=np.eye(3))
    with pytest.raises(ValueError, match=r"other\.npz has the arrays mu, sigma, and no pictures called arr_0"):
        pictures.open_pictures(str(tmp_path / "other.npz"))
    whole = Path(saved(tmp_path / "x.npz", pixels())).read_bytes()
    broken = [whole[:10], whole[: len(whole) // 2], whole.replace(b"(30, 6, 6, 3)", b"(90, 6, 6, 3)"), b""]
    broken += [whole.replace(pixels()[3].tobytes(), bytes(6 * 6 * 3))]  # a wrong CRC
    for content in broken:
        (tmp_path / "x.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.npz (is not a whole \.npz file|ends after 30 of 90)") as error:
            pictures.open_pictures(str(tmp_path / "x.npz"))
        assert "\n" not in str(error.value)


def written(folder: Path, x: np.ndarray) -> str:
    """One PNG a picture, in two subfolders, with what is no picture beside them."""
    for i, picture in enumerate(x):
        file = folder / str(i % 2) / f"{i:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(file)
    (folder / "readme.txt").write_text("no picture")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x.png").write_text("no picture")
    return str(folder)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_is_all_images_below_it(channels, tmp_path):
    x = pixels(channels=channels)
    found = pictures.open_pictures(written(tmp_path / "x", x))
    in_order = np.concatenate([x[::2], x[1::2]]).repeat(3 // channels, -1)
    np.testing.assert_array_equal(read(found), in_order)
    assert found.is_grey == (channels == 1)
    assert found.sha256 == pictures.open_pictures(saved(tmp_path / "x.npz", in_order)).sha256
    fitted = pictures.open_pictures(str(tmp_path / "x"), (3, 3))
    assert fitted.shape == (3, 3, 3) and fitted.number == 30
    boxes = in_order.astype(float).reshape(30, 3, 2, 3, 2, 3).mean((2, 4))
    np.testing.assert_allclose(read(fitted), boxes, atol=1)  # PIL rounds twice


def test_samples_in_a_folder_have_one_size(tmp_path):
    folder = Path(written(tmp_path / "x", pixels()))
    Image.fromarray(pixels(1, 9)[0]).save(folder / "1" / "zzz.png")
    with pytest.raises(ValueError, match=r"zzz\.png is 9 x 9 pixels, and 000\.png 6 x 6: samples have to be of one"):
        pictures.open_pictures(str(folder))
    assert pictures.open_pictures(str(folder), (6, 6)).number == 31
    (folder / "1" / "zzz.png").write_bytes(b"broken")
    with pytest.raises(OSError, match=r"cannot read the image .*zzz\.png"):
        pictures.open_pictures(str(folder))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no images in"):
        pictures.open_pictures(str(tmp_path / "empty"))


def test_grey_is_grey_in_one_channel_or_three_and_is_no_colour(tmp_path):
    x, colour = pixels(channels=1), pictures.open_pictures(saved(tmp_path / "colour.npz", pixels()))
    one = pictures.open_pictures(saved(tmp_path / "one.npz", x))
    three = pictures.open_pictures(saved(tmp_path / "three.npz", x.repeat(3, -1)))
    for a, b in ((one, three), (three, one), (one, one), (three, three)):
        for found in pictures.alike(a, b):
            assert found.shape == (6, 6, 1)
            np.testing.assert_array_equal(read(found), x)
    for a, b in ((one, colour), (colour, one)):
        with pytest.raises(ValueError, match=r"one\.npz is grey and .*colour\.npz has colours: make both grey"):
            pictures.alike(a, b)
    for found in pictures.alike(three, colour):  # which a model of colour may draw
        assert found.shape == (6, 6, 3) and read(found).shape == (30, 6, 6, 3)
    small = pictures.open_pictures(saved(tmp_path / "small.npz", pixels(size=4)))
    with pytest.raises(ValueError, match=r"colour\.npz has pictures of 6 x 6 pixels, and .*small\.npz of 4 x 4"):
        pictures.alike(colour, small)


def test_statistics_of_a_reference_batch_are_read(tmp_path):
    mean, covariance = RNG(0).normal(size=4), np.cov(RNG(1).normal(size=(9, 4)), rowvar=False)
    file = saved(tmp_path / "x.npz", pixels(), mu=mean, sigma=covariance, mu_s=mean[:2], sigma_s=covariance[:2, :2])
    found = pictures.open_pictures(file).statistics
    assert found.keys() == {"features", "spatial"} and found["spatial"].mean.shape == (2,)
    np.testing.assert_allclose(found["features"].root.T @ found["features"].root, covariance, atol=1e-12)
    assert pictures.open_pictures(saved(tmp_path / "y.npz", pixels(), mu=mean)).statistics == {}


def test_files_are_scored_and_the_file_is_added(plain, tmp_path, capsys):
    x, y = pixels(40), pixels(50, seed=1)
    a, b = saved(tmp_path / "a.npz", x), saved(tmp_path / "b.npz", y)
    for _ in range(2):
        evaluate_files.main(a, b, rounds=3, batch=7, out=str(tmp_path / "out"))
    first, second = (json.loads((tmp_path / "out" / name).read_text()) for name in ("a.json", "a-2.json"))
    assert first == second and len([*(tmp_path / "out").iterdir()]) == 2
    (row,) = first["rows"]
    flat = lambda z: z.reshape(len(z), -1) / 127.5 - 1
    assert row["features"] == "raw pixels"
    assert row["scores"]["frechet"]["value"] == pytest.approx(frechet.frechet_distance(flat(x), flat(y)), rel=1e-5)
    right = scores.scored(flat(x), flat(y), rounds=3)
    assert row["scores"] == {
        name: {key: pytest.approx(value, rel=1e-3, abs=1e-5) for key, value in score.items()}
        for name, score in right.items()
    }
    assert first["samples"] == {"path": a, "sha256": pictures.open_pictures(a).sha256, "number": 40, "drawn": None}
    assert "singular" in row["warnings"][0]
    said = capsys.readouterr().out
    assert row["line"] in said and "warning: 40 samples are few for 108 features" in said and "a-2.json" in said
    assert f"{row['scores']['kid']['value']:.4g}" in said and "real data" in said


def test_a_protocol_says_all_that_decides_a_score(plain, tmp_path):
    a, b = saved(tmp_path / "a.npz", pixels(40)), saved(tmp_path / "b.npz", pixels(50, seed=1))
    evaluate_files.main(a, b, rounds=0, out=str(tmp_path))
    (row,) = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert row["scores"]["frechet"]["within"] is None
    found = row["protocol"]
    assert (found["number"], found["picture"], found["reference_number"]) == (40, "6x6x3", 50)
    assert found["reference"] == pictures.open_pictures(b).sha256 and found["weights"] == "none"
    assert {"resize", "precision", "features", "kid", "neighbours", "interval", *protocol.LIBRARIES} <= found.keys()
    for word in ("40 samples of 6x6x3", "against 50 of b.npz", found["reference"][:8], "raw pixels", found["jax"]):
        assert word in row["line"]
    assert "\n" not in row["line"]


def test_a_published_network_has_published_names_and_takes_published_statistics(monkeypatch, tmp_path):
    """Of the batch's statistics, not of its pictures; other networks take the pictures."""

    def look(weights, x):
        flat = x.reshape(len(x), -1) / 255.0
        classes = flat[:, :4] + 0.1
        return {"features": flat[:, :3], "spatial": flat[:, 3:5], "classes": classes / classes.sum(1, keepdims=True)}

    names = {"frechet": "FID", "spatial_frechet": "sFID", "class_score": "IS"}
    made = [features.Network("a", look, sha256="0" * 64, names=names), features.Network("b", look)]
    monkeypatch.setattr(evaluate_files, "networks", lambda shape, weights: made if weights == "w" else [])
    x, mean = pixels(40), np.full(3, 0.25)
    statistics = {"mu": mean, "sigma": np.eye(3), "mu_s": mean[:2], "sigma_s": np.eye(2)}
    a, b = saved(tmp_path / "a.npz", x), saved(tmp_path / "b.npz", pixels(50, seed=1), **statistics)
    evaluate_files.main(a, b, inception="w", rounds=0, out=str(tmp_path))
    published, other = json.loads((tmp_path / "a.json").read_text())["rows"]
    moments = frechet.moments(x.reshape(40, -1)[:, :3] / 255)
    right = frechet.frechet(moments, frechet.moments_of(mean, np.eye(3))).value
    assert published["scores"]["FID"]["value"] == pytest.approx(right, rel=1e-5)
    assert {"FID", "sFID", "IS", "kid", "precision"} <= published["scores"].keys()
    assert {"frechet", "spatial_frechet", "class_score"} <= other["scores"].keys()
    assert not {"FID", "sFID", "IS"} & other["scores"].keys()
    assert other["scores"]["frechet"]["value"] != pytest.approx(right, rel=0.1)
    assert published["protocol"]["reference_statistics"] == "of its file"
    assert other["protocol"]["reference_statistics"] == "of its pictures"


@pytest.mark.parametrize(
    ("count", "real", "message"),
    [(11, 40, r"a\.npz has 11 pictures, and scores take at least 12"), (40, 5, r"b\.npz has 5 pictures")],
)
def test_too_few_pictures_are_an_error_before_anything_is_seen(count, real, message, plain, tmp_path):
    a, b = saved(tmp_path / "a.npz", pixels(count)), saved(tmp_path / "b.npz", pixels(real))
    with pytest.raises(ValueError, match=message):
        evaluate_files.main(a, b, out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_one_without_the_other_is_an_error(tmp_path):
    for some in ({"samples": "a.npz"}, {"reference": "a.npz"}, {}):
        with pytest.raises(ValueError, match=r"--samples=FILE\.npz takes --reference=FILE\.npz"):
            evaluate_files.main(**some)


def test_an_evaluation_is_called_as_its_samples_or_their_folder(tmp_path):
    names = {"runs/a/50k/samples.npz": "50k", "mine.npz": "mine", "pictures/": "pictures", "x.y.npz": "x.y"}
    for path, name in names.items():
        assert evaluate_files.name_of(tmp_path / path) == name


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/out cannot be written to: .*; choose another --out"):
        report.add(tmp_path / "file" / "out", "a", {})


def evaluation(frechet: float, network: str = "lite", within: float | None = 0.5, **fields) -> dict:
    score = {"value": frechet, "within": within, "real": 0.0}
    about = {"number": 100, "reference": "a" * 64, **fields}
    return {"rows": [{"features": network, "protocol": about, "scores": {"frechet": score}, "warnings": []}]}


def test_evaluations_of_one_protocol_are_ranked_by_their_distance():
    lines = report.comparison({"b": evaluation(2.0), "a": evaluation(11.0), "c": evaluation(1.5)}).splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["1.", "c"], ["2.", "b"], ["3.", "a"]]
    assert lines[0].split() == ["lite", "frechet"] and "1.5 +- 0.5" in lines[1] and len(lines) == 4


def test_evaluations_of_different_protocols_are_not_ranked_and_the_fields_are_named():
    of = {"a": evaluation(3.0), "b": evaluation(2.0, number=200, reference="c" * 64), "c": evaluation(1.0)}
    lines = report.comparison(of).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["a", "b", "c"]
    assert lines[4].strip() == "a and b differ in number (100, 200), reference (aaaaaaaa, cccccccc)"
    assert "not ranked; --across_protocols" in lines[5] and len(lines) == 6
    told = report.comparison(of, across=True).splitlines()
    assert [line.split()[:2] for line in told[1:4]] == [["1.", "c"], ["2.", "b"], ["3.", "a"]]
    assert "differ in number" in told[4] and len(told) == 5


def test_networks_are_compared_apart():
    one, two = evaluation(1.0), evaluation(9.0, "pixels", None)
    both = {"rows": one["rows"] + two["rows"]}
    blocks = report.comparison({"a": both, "b": evaluation(2.0, "pixels"), "c": evaluation(0.5)}).split("\n\n")
    assert [block.split()[0] for block in blocks] == ["lite", "pixels"]
    assert [line.split()[1] for line in blocks[0].splitlines()[1:]] == ["c", "a"]
    assert [line.split()[1] for line in blocks[1].splitlines()[1:]] == ["b", "a"]


def test_files_are_compared_by_name_or_by_pattern(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, value in (("a", 3.0), ("b", 2.0)):
        report.add(tmp_path / "evaluations", name, evaluation(value))
    for words in (("evaluations/a.json", "evaluations/b.json"), ("evaluations/*.json",)):
        evaluate_files.compare(words)
        assert "1. evaluations/b.json" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"--compare=evaluations/a\.json is 1 files; a comparison takes two"):
        evaluate_files.compare(("evaluations/a.json",))
    with pytest.raises(OSError, match=r"nowhere\.json cannot be read: No such file"):
        evaluate_files.compare(("evaluations/a.json", "nowhere.json"))
    for content in ("{", "[]", '{"rows": []}', '{"rows": [{"features": "x", "protocol": {}, "scores": {"a": 1}}]}'):
        Path("other.json").write_text(content)
        with pytest.raises(ValueError, match=r"other\.json is no evaluation that"):
            evaluate_files.compare(("evaluations/a.json", "other.json"))


def test_what_is_scored_is_up_to_the_flags():
    assert evaluate.mode(["--samples=a.npz", "--reference=b.npz"]) is evaluate_files.main
    assert evaluate.mode(["--compare", "a.json,b.json"]) is evaluate_files.compare
    assert evaluate.mode(["--workdir=runs/samples"]) is evaluate.main is evaluate.mode([])
    with pytest.raises(ValueError, match="--num does not exist"):  # which would say nothing
        parse(evaluate_files.main, ["--samples=a.npz", "--num=3"])
    assert parse(evaluate_files.compare, ["--compare=a,b"]) == {"compare": ("a", "b"), "across_protocols": False}


def test_the_command_scores_and_complains_in_one_line(tmp_path):
    a, b = saved(tmp_path / "a.npz", pixels(20)), saved(tmp_path / "b.npz", pixels(30, seed=1))

    def run(*flags):
        command = [sys.executable, "-m", "dit_jax.evaluate", *flags]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)

    done = run(f"--samples={a}", f"--reference={b}", "--rounds=2", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "raw pixels" in done.stdout and done.stdout.splitlines()[-1] == f"{tmp_path}/a.json"
    wrong = run(f"--samples={a}", f"--reference={tmp_path}/nowhere.npz")
    assert wrong.returncode == 1 and wrong.stdout == ""
    assert wrong.stderr == f"error: there is no file or folder {tmp_path}/nowhere.npz\n"
    said = run("--samples=", "--help").stdout
    assert "--inception: weights of FID's InceptionV3" in said and "--guidance" not in said
