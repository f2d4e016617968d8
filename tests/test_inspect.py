"""The page of a run: which panels apply to which streams, and that it is one file that needs no other."""

import html.parser
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dit_jax import inspect
from dit_jax.config import build, load
from dit_jax.diffusion.stream import drawable
from dit_jax.inside.page import curves, heat, page, picture

SMALL = {"width": 24, "depth": 2, "heads": 2, "unroll": 1}
EVERY = {"lens", "ablation", "optimum", "massive_activations", "attention", "basis", "label"}
PANELS = {
    "digits": EVERY,
    "joint_digits": EVERY - {"optimum", "label"},  # a name has no flow, and nothing has a label
    "text_kjv": EVERY - {"optimum", "basis", "label"},
    "text_kjv_blocks": EVERY - {"optimum", "basis", "label"},
    "audio_digits": EVERY - {"basis"},
    "audio_digits_lengths": EVERY - {"basis", "optimum"},  # no two clips are as long
    "video_digits": EVERY - {"optimum", "basis"},  # each frame knows those before it
}


def tiny(name):
    """A run of this config with little to compute, on data that need no download; parameters that are not zero."""
    config = json.loads(load(name).to_json())
    config["model"] |= SMALL
    config["sample"] |= {"steps": 2}
    config["data"]["name"] = "digits" if name == "digits" else "synthetic"
    lengths = {"text": 32, "audio": 640}
    for entries in config["streams"].values():
        entries |= {"length": lengths[entries["kind"]]} if entries["kind"] in lengths else {}
    run = build(config)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(run.model.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.asarray(0.2 * rng.normal(size=leaf.shape), leaf.dtype), shapes)
    return run, params, None


class Tags(html.parser.HTMLParser):
    """What a page has, and what it asks for."""

    def __init__(self, text):
        super().__init__()
        self.found, self.links, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]


@pytest.mark.parametrize("name", [n if n == "digits" else pytest.param(n, marks=pytest.mark.heavy) for n in PANELS])
def test_a_page_has_the_panels_that_apply(name, tmp_path, monkeypatch, capsys):
    run, params, mesh = tiny(name)
    monkeypatch.setattr(inspect, "restore_run", lambda workdir, step: (run, params, mesh))
    monkeypatch.setattr(inspect, "MOST", 60)
    inspect.main("somewhere", str(tmp_path / "page"), num=12, levels=("0.2", "0.8"))
    files = sorted(path.name for path in (tmp_path / "page").iterdir())
    assert {panel for panel in EVERY if any(file.startswith(panel) for file in files)} == PANELS[name]
    text = (tmp_path / "page" / "index.html").read_text()
    tags = Tags(text)
    assert tags.found.count("h2") == len(PANELS[name])
    assert tags.found.count("img") == len(files) - 1
    assert all(link.startswith("data:image/png;base64,") for link in tags.links)
    assert len(text) < 5 * 2**20 and "nan" not in re.sub(r'"data:[^"]*"', "", text)
    assert str(tmp_path / "page" / "index.html") in capsys.readouterr().out
    assert ("pre" in tags.found) == name.startswith("text")
    for stream in drawable(run.streams):
        assert f"{stream}: loss" in text


def test_a_page_says_what_it_is_given():
    text = page(
        "Inside <runs>", {("One & all", "What it is."): {"a<b": "3 < 4", "seen": picture(np.zeros((2, 2, 3), "u1"))}}
    )
    for words in ("Inside &lt;runs&gt;", "One &amp; all", "What it is.", "a&lt;b", "3 &lt; 4", 'alt="seen"'):
        assert words in text
    assert "width=device-width" in text and "color-scheme: light dark" in text


def test_pictures_are_pngs_whatever_the_sign():
    for values in ([[0.0, 0.0]], [[-1.0, 2.0], [0.5, 1e-9]]):
        assert heat(values, ["a", "b"][: len(values)], [0.1, 0.2]).startswith(b"\x89PNG")
    assert curves([0.1, 0.9], {"one": [1, 2], "two": jnp.ones(2)}, ("t", "loss"), "log").startswith(b"\x89PNG")


def test_without_matplotlib_an_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(OSError, match=r"pip install 'dit_jax\[inspect\]'"):
        heat([[1.0]], ["a"], ["b"])


@pytest.mark.parametrize(("levels", "num"), [(("0",), 4), (("1.5",), 4), (("nan",), 4), (("0.5",), 0)])
def test_levels_and_numbers_that_mean_nothing_are_mistakes(levels, num, monkeypatch):
    run, params, mesh = tiny("digits")
    monkeypatch.setattr(inspect, "restore_run", lambda workdir, step: (run, params, mesh))
    with pytest.raises(ValueError, match=r"--(levels|num)"):
        inspect.main("somewhere", "nowhere", num=num, levels=levels)
