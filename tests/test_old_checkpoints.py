"""A checkpoint of an earlier version draws what it drew there, and its run goes on as it would have gone on there."""

import dataclasses
import json
import runpy
import tarfile
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from dit_jax.config import build
from dit_jax.restore import restore_run
from dit_jax.sampling.draw import draw, gather
from dit_jax.training.checkpoint import newest_good
from dit_jax.training.loop import train

KEPT = Path(__file__).parent / "checkpoints"


@pytest.fixture
def old(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    with tarfile.open(KEPT / "f3ea25d.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def test_it_draws_what_it_drew(old):
    """Its four streams, two with weights of their own whose level offsets were not in the order of their names."""
    run, params, mesh = restore_run(str(old))
    sample = gather(draw(run, params, mesh, dataclasses.replace(run.sample, num=3)))
    expected = np.load(old / "expected.npz")
    np.testing.assert_array_equal(sample["text"], expected["text"])
    np.testing.assert_array_equal(sample["label"], expected["label"])
    np.testing.assert_allclose(sample["image"], expected["image"], atol=1e-5)


@pytest.mark.heavy
def test_it_goes_on_as_it_would_have_gone_on(old):
    """With the keys that it had, for good; a run that begins today has others."""
    config = runpy.run_path(str(KEPT / "f3ea25d.py"))["get_config"]()
    for steps in (3, 4):
        config.train.steps = steps
        train(build(config), old)
    expected = np.load(old / "expected.npz")
    params = ocp.StandardCheckpointer().restore(old / "checkpoints" / "4" / "params")
    names = [*json.loads(config.to_json())["streams"]]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        was = expected[f"params/{name}"]
        if name.endswith("level_offset"):
            tokens = [name for name in names if name != "label"]
            was = was[[tokens.index(name) for name in sorted(tokens)]]
            assert tokens != sorted(tokens) and np.abs(was).max() > 0
        np.testing.assert_allclose(leaf, was, rtol=1e-4, atol=1e-5, err_msg=name)
    kept = lambda workdir: newest_good(workdir, lambda checkpoint: checkpoint.meta["keys_apart"])
    assert not kept(old)
    config.train.steps = 3
    train(build(config), old / "new")
    assert kept(old / "new")
