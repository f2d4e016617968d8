"""Every test runs on eight simulated CPU devices, so that one machine can check what many would do."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["NPROC"] = (
    "32"  # XLA's thread pool needs a thread a device, or their collectives wait for each other forever
)

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture
def quick():
    """Programs that run once are not worth optimising: compile in half the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def exact(quick):
    """The mathematics is checked in float64, and no array is broadcast against one of another rank."""
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        yield
