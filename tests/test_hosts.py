"""One job of several processes is begun as its flag or its environment says, and as nothing else."""

import jax
import numpy as np
import pytest

from dit_jax.parallel import hosts

SLURM = {
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "n[1-4]",
}
MPI = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1",
}
TIMES = {"initialization_timeout": 300, "heartbeat_timeout_seconds": 30, "shutdown_timeout_seconds": 10}


@pytest.fixture
def asked(monkeypatch) -> list:
    calls: list = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **by: calls.append(by))
    yield calls
    jax.config.update("jax_enable_preemption_service", True)


@pytest.mark.parametrize(
    ("environment", "starter"), [({}, "the TPU pod"), (SLURM, "Slurm"), (MPI, "Open MPI"), (SLURM | MPI, "Open MPI")]
)
def test_auto_leaves_it_to_what_started_the_job_and_says_what_that_is(environment, starter, asked, capsys):
    hosts.join("auto", environment)
    assert asked == [TIMES] and f"process 0 of 1 by {starter}, on " in capsys.readouterr().out


@pytest.mark.parametrize(("index", "listens"), [(0, {"coordinator_bind_address": "host:99"}), (1, {})])
def test_only_the_first_process_listens_and_only_where_it_is_told(index, listens, asked):
    hosts.join(f"host:99,2,{index}", {})
    assert asked == [{"coordinator_address": "host:99", "num_processes": 2, "process_id": index, **listens, **TIMES}]


@pytest.mark.parametrize("spec", ["host,2,0", "host:99,2,2", "host:99,2", "host:99,2,-1", "host:99,two,0"])
def test_anything_else_is_one_sentence_and_begins_nothing(spec, asked):
    with pytest.raises(ValueError, match=f"--distributed={spec} should be auto, off, or HOST:PORT,COUNT,INDEX"):
        hosts.join(spec, {})
    assert asked == []


@pytest.mark.parametrize("whole", [SLURM, MPI])
def test_half_an_environment_is_refused_and_what_is_absent_is_named(whole, asked):
    """As a shell inside a job has it (JAX would start with half of it, or wait for ever)."""
    for absent in whole:
        half = {name: value for name, value in whole.items() if name != absent}
        with pytest.raises(ValueError, match=rf"--distributed=auto: \w+ is set and {absent} is not, .* or off$"):
            hosts.join("auto", half)
    assert asked == []


def test_one_of_several_that_does_not_say_so_is_told_to(asked):
    with pytest.raises(ValueError, match=r"one of several processes that Slurm started: say --distributed=auto .*=off"):
        hosts.join("", SLURM)
    hosts.join("off", SLURM)
    hosts.join("", SLURM | {"SLURM_NTASKS": "1"})
    hosts.join("", {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"})  # a shell in a job
    hosts.join("", {})
    assert asked == []


@pytest.fixture
def told(monkeypatch) -> list:
    """What two processes hold, the first of which is here."""
    every: list = [None, None]
    monkeypatch.setattr(hosts, "_everybody", lambda value: every)
    return every


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"config": {"train": {"seed": 2}}, "data": 1}, "process 1 has config.train.seed = 2, and process 0 has 1"),
        ({"config": {"train": {}}, "data": 1}, "process 1 has config.train.seed = None, and process 0 has 1"),
        ({"config": {"train": {"seed": 1}, "x": 0}, "data": 1}, "process 1 has config.x = 0, and process 0 has None"),
    ],
)
def test_what_differs_is_named_with_both_values(other, said, told):
    told[:] = [{"config": {"train": {"seed": 1}}, "data": 1}] * 2
    hosts.check_agreement({})
    told[1] = other
    with pytest.raises(ValueError, match=said):
        hosts.check_agreement({})


def test_one_process_agrees_with_itself_and_waits_for_nobody():
    hosts.check_agreement({"a": 1})
    hosts.barrier("here")
    with hosts.together("there"):
        assert hosts.is_first()
    wishes = iter([False, True])
    answer = hosts.agreed(lambda: next(wishes))
    assert not answer() and answer()
    assert hosts.from_first([[1, 2]]) == [[1, 2]]
    np.testing.assert_array_equal(hosts.on_host({"x": jax.numpy.arange(3)})["x"], [0, 1, 2])


def test_the_code_is_known_by_every_file_of_it(tmp_path, monkeypatch):
    for name in ("parallel/hosts.py", "a.py", "b/c.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(hosts, "__file__", str(tmp_path / "parallel" / "hosts.py"))
    before = hosts.code_digest()
    (tmp_path / "notes.txt").write_text("no code")
    assert hosts.code_digest() == before
    (tmp_path / "b" / "c.py").write_text("another")
    assert hosts.code_digest() != before
