"""One job of several processes is begun as its flag says, and as nothing else."""

import jax
import pytest

from dit_jax.parallel.hosts import initialize


@pytest.fixture
def asked(monkeypatch) -> list:
    calls: list = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *of, **by: calls.append((of, by)))
    return calls


def test_auto_leaves_it_to_what_started_the_job(asked):
    initialize("auto")
    assert asked == [((), {})]


@pytest.mark.parametrize(("index", "listens"), [(0, "host:99"), (1, None)])
def test_only_the_first_process_listens_and_only_where_it_is_told(asked, index, listens):
    initialize(f"host:99,2,{index}")
    assert asked == [(("host:99", 2, index), {"coordinator_bind_address": listens})]


@pytest.mark.parametrize("spec", ["", "host,2,0", "host:99,2,2", "host:99,2", "host:99,2,-1", "host:99,two,0"])
def test_anything_else_is_one_sentence_and_begins_nothing(asked, spec):
    with pytest.raises(ValueError, match=f"--distributed={spec} should be auto, or HOST:PORT,COUNT,INDEX"):
        initialize(spec)
    assert asked == []
