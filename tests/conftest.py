"""Every test runs on eight simulated CPU devices, so that one machine can check what many would do."""

import os
import pathlib
import subprocess
import sys
import tempfile
import textwrap

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["NPROC"] = (
    "32"  # XLA's thread pool needs a thread a device, or their collectives wait for each other forever
)
# What is compiled once, in this process or in a command that a test starts, is not compiled again.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # as it is where mutants are tried
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
# Programs that run once are not worth optimising: they compile in half the time.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"  # nor is knowing which line of which file an operation is of

import jax
import pytest

ROOT = pathlib.Path(__file__).parent.parent

jax.config.update("jax_num_cpu_devices", 8)


def pytest_collection_modifyitems(items):
    """The file that takes longest comes first, so that no worker is left alone with it."""
    items.sort(key=lambda item: item.path.name != "test_wiring.py")


@pytest.fixture(scope="module", autouse=True)
def nothing_left():
    """What is compiled for a file is let go after it: a process that holds thousands of programs compiles slower."""
    yield
    jax.clear_caches()


@pytest.fixture
def exact():
    """The mathematics is checked in float64, and no array is broadcast against one of another rank."""
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def tpu():
    """run(program) -> what it prints: Python in a process of its own, with TPU's compiler and `topology(name)`."""
    compiler = ROOT / ".venv" / "tpu"
    if not compiler.exists():
        pytest.skip("the TPU compiler is not installed: make .venv/installed-tpu")
    names = {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-8", "TPU_WORKER_HOSTNAMES": "localhost"}
    names |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "PYTHONPATH": f"{ROOT}:{compiler}"}
    described = (
        "from jax.experimental import topologies\ntopology = lambda name: topologies.get_topology_desc(name, 'tpu')\n"
    )

    def run(program: str, *arguments: str) -> str:
        command = [sys.executable, "-c", described + textwrap.dedent(program), *arguments]
        environment = {**os.environ, **names}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout

    return run
