"""InceptionV3 against layers of torch, and features against batches, devices and files."""

import hashlib
import itertools

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from dit_jax.data.packages import missing
from dit_jax.evaluation import efficientnet, features, inception
from dit_jax.evaluation.pictures import Pictures


class Unit(nn.Module):
    def __init__(self, inside, outside, kernel, stride=1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outside, eps=0.001)

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))


def average(x):
    return nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class A(nn.Module):
    def __init__(self, inside, pooled):
        super().__init__()
        self.branch1x1 = Unit(inside, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = Unit(inside, 48, 1), Unit(48, 64, 5, padding=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Unit(inside, 64, 1), Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, padding=1)
        self.branch_pool = Unit(inside, pooled, 1)

    def forward(self, x):
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(average(x))], 1)


class B(nn.Module):
    def __init__(self, inside):
        super().__init__()
        self.branch3x3 = Unit(inside, 384, 3, 2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Unit(inside, 64, 1), Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, 2)

    def forward(self, x):
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), three, nn.functional.max_pool2d(x, 3, 2)], 1)


class C(nn.Module):
    def __init__(self, c):
        super().__init__()
        wide, tall = {"kernel": (1, 7), "padding": (0, 3)}, {"kernel": (7, 1), "padding": (3, 0)}
        self.branch1x1, self.branch_pool = Unit(768, 192, 1), Unit(768, 192, 1)
        self.branch7x7_1, self.branch7x7_2, self.branch7x7_3 = Unit(768, c, 1), Unit(c, c, **wide), Unit(c, 192, **tall)
        self.branch7x7dbl_1, self.branch7x7dbl_2 = Unit(768, c, 1), Unit(c, c, **tall)
        self.branch7x7dbl_3, self.branch7x7dbl_4 = Unit(c, c, **wide), Unit(c, c, **tall)
        self.branch7x7dbl_5 = Unit(c, 192, **wide)

    def forward(self, x):
        one = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        two = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        two = self.branch7x7dbl_5(self.branch7x7dbl_4(two))
        return torch.cat([self.branch1x1(x), one, two, self.branch_pool(average(x))], 1)


class D(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = Unit(768, 192, 1), Unit(192, 320, 3, 2)
        self.branch7x7x3_1, self.branch7x7x3_2 = Unit(768, 192, 1), Unit(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3, self.branch7x7x3_4 = Unit(192, 192, (7, 1), padding=(3, 0)), Unit(192, 192, 3, 2)

    def forward(self, x):
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, nn.functional.max_pool2d(x, 3, 2)], 1)


class E(nn.Module):
    def __init__(self, inside, pool):
        super().__init__()
        wide, tall = {"kernel": (1, 3), "padding": (0, 1)}, {"kernel": (3, 1), "padding": (1, 0)}
        self.pool, self.branch1x1, self.branch_pool = pool, Unit(inside, 320, 1), Unit(inside, 192, 1)
        self.branch3x3_1 = Unit(inside, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = Unit(384, 384, **wide), Unit(384, 384, **tall)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Unit(inside, 448, 1), Unit(448, 384, 3, padding=1)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = Unit(384, 384, **wide), Unit(384, 384, **tall)

    def forward(self, x):
        one, two = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        one = torch.cat([self.branch3x3_2a(one), self.branch3x3_2b(one)], 1)
        two = torch.cat([self.branch3x3dbl_3a(two), self.branch3x3dbl_3b(two)], 1)
        return torch.cat([self.branch1x1(x), one, two, self.branch_pool(self.pool(x))], 1)


class Inception(nn.Module):
    """FID's network: its average pools do not count padding, and the last block pools maxima."""

    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3, self.Conv2d_2a_3x3 = Unit(3, 32, 3, 2), Unit(32, 32, 3)
        self.Conv2d_2b_3x3 = Unit(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = Unit(64, 80, 1), Unit(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d, self.Mixed_6a = A(192, 32), A(256, 64), A(288, 64), B(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = C(128), C(160), C(160), C(192)
        largest = nn.MaxPool2d(3, 1, 1)
        self.Mixed_7a, self.Mixed_7b, self.Mixed_7c = D(), E(1280, average), E(2048, largest)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x):
        pool = nn.MaxPool2d(3, 2)
        x = pool(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = pool(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))))
        spatial = self.Mixed_6d.branch1x1(x)[:, :7]
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(self.Mixed_6e(self.Mixed_6d(x))))).mean((2, 3))
        classes = torch.softmax(x @ self.fc.weight.T, 1)
        return {"features": x, "spatial": spatial.permute(0, 2, 3, 1).flatten(1), "classes": classes}


def stepping(picture: np.ndarray, size: int) -> np.ndarray:
    """[height, width, C] -> [size, size, C] as TensorFlow 1 does it, pixel by pixel."""
    height, width, _ = picture.shape
    found = np.zeros((size, size, picture.shape[-1]))
    for i, j in itertools.product(range(size), repeat=2):
        y, x = i * height / size, j * width / size
        (top, left), (down, right) = (int(y), int(x)), (y - int(y), x - int(x))
        bottom, far = min(top + 1, height - 1), min(left + 1, width - 1)
        above = picture[top, left] * (1 - right) + picture[top, far] * right
        below = picture[bottom, left] * (1 - right) + picture[bottom, far] * right
        found[i, j] = above * (1 - down) + below * down
    return found


@pytest.fixture(scope="module")
def network() -> Inception:
    """Of random weights, whose activations neither vanish nor explode."""
    torch.manual_seed(0)
    model = Inception().eval()
    with torch.no_grad():
        for unit in model.modules():
            if isinstance(unit, Unit):
                nn.init.kaiming_normal_(unit.conv.weight)
                unit.bn.weight.uniform_(0.5, 1.5), unit.bn.bias.normal_(0, 0.1)
                unit.bn.running_mean.normal_(0, 0.1), unit.bn.running_var.uniform_(0.5, 1.5)
    return model


@pytest.fixture(scope="module")
def file(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=False)  # as the published one was
    return path


def test_outputs_are_those_of_torchs_layers(network, file):
    """Of a picture that is made smaller and one that is made larger, at once and apart."""
    weights, sha256 = inception.load(file)
    assert sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    for shape in ((40, 30, 3), (310, 333, 3)):
        picture = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        found = inception.look(weights, picture[None])
        x = torch.from_numpy((stepping(picture.astype(np.float64), 299) - 128) / 128).float()
        with torch.no_grad():
            right = network(x.permute(2, 0, 1)[None])
        assert {name: values.shape for name, values in found.items()} == {
            "features": (1, 2048),
            "spatial": (1, 17 * 17 * 7),
            "classes": (1, 1008),
        }
        for name, values in right.items():
            scale = float(values.abs().max())
            np.testing.assert_allclose(found[name], values.numpy(), rtol=1e-4, atol=1e-4 * scale, err_msg=name)
            assert float(values.std()) > 0.01 * scale  # which says something


@pytest.mark.parametrize(("height", "width", "size"), [(5, 8, 13), (20, 7, 9), (6, 6, 6), (1, 3, 4)])
def test_pictures_are_resized_as_tensorflow_1_does(height, width, size):
    picture = np.random.default_rng(0).uniform(0, 255, (height, width, 2)).astype(np.float32)
    np.testing.assert_allclose(inception.resized(picture[None], size)[0], stepping(picture, size), rtol=1e-5, atol=1e-3)


def test_weights_may_be_in_any_file_and_are_those_of_one_network(network, file, tmp_path):
    torch.save(network.state_dict(), tmp_path / "new.pth")
    state = {key: np.ascontiguousarray(tensor.numpy()) for key, tensor in network.state_dict().items()}
    save_file(state, tmp_path / "a.safetensors")
    right, _ = inception.load(file)
    for name in ("new.pth", "a.safetensors"):
        found, _ = inception.load(tmp_path / name)
        jax.tree.map(np.testing.assert_array_equal, found, right)


NARROW = {"Mixed_5b.branch1x1.conv.weight": np.zeros((64, 100, 1, 1), np.float32)}
FEWER = {"fc.weight": np.zeros((1000, 2048), np.float32)}
GONE = "Mixed_6c.branch7x7_2.bn.running_var"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop(GONE), f"has no '{GONE}'"),
        (lambda state: state.update(NARROW), "other shapes"),
        (lambda state: state.update(FEWER), "outputs of .*'classes': 1000"),
        (lambda state: state.clear(), "has no 'Conv2d_1a_3x3.conv.weight'"),
    ],
)
def test_weights_of_another_network_are_an_error_that_names_the_file(change, message, network, tmp_path):
    state = {key: np.ascontiguousarray(tensor.numpy()) for key, tensor in network.state_dict().items()}
    change(state)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=rf"other\.safetensors .*{message}.*give pytorch-fid's"):
        inception.load(tmp_path / "other.safetensors")


def test_a_file_that_is_not_there_is_an_error():
    with pytest.raises(FileNotFoundError, match=r"there is no file nowhere\.pth; give pytorch-fid's"):
        inception.load("nowhere.pth")


def test_scores_are_called_fid_of_the_published_weights_only(network, file, monkeypatch):
    other = features.inception_v3(str(file))
    assert not other.is_published and "other weights" in other.name and not other.names
    monkeypatch.setattr(inception, "SHA256", other.sha256[:8])
    published = features.inception_v3(str(file))
    assert published.is_published and published.name == "InceptionV3" and published.sha256 == other.sha256
    assert published.names == {"frechet": "FID", "spatial_frechet": "sFID", "class_score": "IS"}


def made(count: int, shape: tuple[int, int, int]) -> Pictures:
    pixels = np.random.default_rng(0).integers(0, 256, (count, *shape)).astype(np.uint8)
    batches = lambda size: (pixels[i : i + size] for i in range(0, count, size))
    return Pictures("made", shape, count, batches)


def networks_of(file) -> list[features.Network]:
    found = [features.PIXELS] + ([] if missing(features.PACKAGES) else [features.lite()])
    return [*found, features.inception_v3(str(file))]


@pytest.mark.parametrize("which", [0, 1, pytest.param(2, marks=pytest.mark.heavy)])
def test_features_do_not_depend_on_batches_or_devices(which, file, monkeypatch):
    """The last batch is filled up; a batch that the devices do not divide is made larger."""
    network, pictures = networks_of(file)[which], made(11, (9, 7, 3))
    right, done = features.features(network, pictures, 8), []
    many = features.features(network, pictures, 11, done.append)  # which eight devices make 16
    monkeypatch.setattr(jax, "devices", lambda: jax.local_devices()[:1])
    alone = features.features(network, pictures, 5, done.append)
    assert done == [11, 5, 10, 11]
    for found in (many, alone):
        assert found.keys() == right.keys()
        for kind, values in found.items():
            assert len(values) == 11 and values.dtype == np.float32
            largest = max(np.abs(right[kind]).max(), 1)
            np.testing.assert_allclose(values, right[kind], rtol=0, atol=2e-6 * largest, err_msg=kind)


def test_raw_pixels_are_those_of_the_pictures():
    pictures = made(3, (4, 5, 1))
    found = features.features(features.PIXELS, pictures)["features"]
    np.testing.assert_allclose(found, next(pictures.batches(3)).reshape(3, 20) / 127.5 - 1, atol=1e-6)


def test_lite_is_the_network_that_judges_captions(file):
    if absent := missing(features.PACKAGES):
        pytest.skip(f"not installed: {absent}")
    pixels = next(made(2, (20, 20, 1)).batches(2))
    right = efficientnet.look(efficientnet.load(), np.repeat(pixels, 3, -1) / np.float32(127.5) - 1)[0]
    network = features.lite()
    np.testing.assert_allclose(network.look(network.weights, pixels)["features"], right, atol=1e-5)
    assert network.sha256 == hashlib.sha256(efficientnet.file().read_bytes()).hexdigest()


def test_pictures_are_seen_by_what_suits_them(file, monkeypatch):
    names = lambda *of: [network.name for network in features.networks(*of)]
    monkeypatch.setattr(features, "missing", lambda modules: "it")
    assert names((32, 32, 3)) == ["raw pixels"] and names((8, 33, 3), str(file))[0].startswith("InceptionV3")
    with pytest.raises(ValueError, match="nothing scores pictures of 8 x 33 pixels: give --inception=FILE, or install"):
        names((8, 33, 3))
    monkeypatch.setattr(features, "missing", lambda modules: "")
    monkeypatch.setattr(features, "lite", lambda: features.Network("lite", None))
    assert names((32, 32, 1)) == ["raw pixels", "lite"] and names((64, 64, 1)) == ["lite"]
