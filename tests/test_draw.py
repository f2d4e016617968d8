"""Sample i of a seed is the same however many are drawn, in batches of any size, on any number of devices."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from configs import digits
from dit_jax.config import build
from dit_jax.evaluation.draw import draw, gather
from dit_jax.parallel.mesh import AXES, make_mesh

CONFIG = json.loads(digits.get_config().to_json())
RUN = build({**CONFIG, "model": {"width": 48, "depth": 2, "heads": 2, "block": "modern"}})
HOW = dataclasses.replace(RUN.sample, num=12, batch=12, steps=4, given=("label=all",), guidance=1.5)


@pytest.fixture(scope="module")
def params():
    """Random everywhere: at initialisation every sample would be the same."""
    shapes = jax.eval_shape(RUN.model.init, jax.random.key(0))
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [0.1 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, drawn)


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


def test_the_sampler_compiles_once_however_many_batches(params):
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if name.endswith("backend_compile_duration") else None
    )
    batches = draw(RUN, params, one_device(), dataclasses.replace(HOW, batch=5))
    next(batches)
    after_first = len(compiled)
    assert after_first > 0 and len(list(batches)) == 2
    assert len(compiled) == after_first
