"""An update that is not finite changes nothing and is counted; a run that diverges ends with its last good state."""

import contextlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import dit_jax as dj
from dit_jax.config import build
from dit_jax.configs import digits
from dit_jax.data import pipeline, sources
from dit_jax.diffusion.objective import OBJECTIVES, losses_at
from dit_jax.diffusion.stream import in_data
from dit_jax.parallel.mesh import make_mesh
from dit_jax.parallel.modes import MODES
from dit_jax.training.loop import Diverged, train
from dit_jax.training.step import WARM_UP, make_init, make_step

STREAMS = {"image": dj.streams.image((4, 4, 1), patch=2), "label": dj.streams.label(10)}
MODEL = dj.DiT(STREAMS, width=24, depth=1, heads=1)
BATCH = {"image": np.ones((8, 4, 4, 1), np.float32), "label": np.arange(8, dtype=np.int32)}


@jax.custom_jvp
def without_gradient(loss, is_bad):
    return loss


@without_gradient.defjvp
def _(primals, tangents):
    (loss, is_bad), (change, _) = primals, tangents
    return loss, change * jnp.where(is_bad, jnp.nan, 1.0)


def poisoned(predict, streams, keys, batch, t):
    """The loss, which is infinite where an image begins with 7, and whose gradient alone is none where with 8."""
    losses, first = losses_at(predict, streams, keys, batch, t), batch["image"][:, 0, 0, 0]
    return {"image": without_gradient(jnp.where(first == 7, jnp.inf, losses["image"]), first == 8)}


def updates(mode: str = "jit", spike: float = 0.0, objective=poisoned, **options):
    """update(state, batch) -> (state, metrics), and the first state; in the plain form."""
    of = MODES[mode](make_mesh())
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
    root = jax.random.key(1)
    step = of.compile(
        make_step(
            MODEL.apply,
            STREAMS,
            optimizer,
            root=root,
            batch_size=8,
            ema=0.9,
            objective=objective,
            spike=spike,
            axis=of.axis,
            **options,
        )
    )
    rows = of.put({"rows": np.arange(8)})["rows"]

    def update(state, batch):
        state, metrics = step(of.adopt(jax.tree.map(jnp.copy, state)), of.put(batch), rows)
        return of.plain(state), metrics

    return update, of.create(make_init(MODEL, optimizer, spike), jax.random.key(0))


def with_first(value: float) -> dict:
    image = BATCH["image"].copy()
    image[3, 0, 0, 0] = value
    return {**BATCH, "image": image}


@pytest.mark.parametrize("mode", ["jit", "pmap"])
@pytest.mark.parametrize("value", [7, 8, np.nan])
def test_an_update_that_is_not_finite_changes_nothing_but_the_count(mode, value):
    """Wherever it is broken: in the loss, in the gradient alone, or in the data."""
    update, state = updates(mode)
    for _ in range(2):
        state, metrics = update(state, BATCH)
        assert not metrics["skipped"]
    after, metrics = update(state, with_first(value))
    assert metrics["skipped"] and int(after.step) == int(state.step) + 1
    jax.tree.map(np.testing.assert_array_equal, after[1:], state[1:])
    assert all(np.all(np.isfinite(part)) for part in jax.tree.leaves(metrics["by_level"]))
    again, metrics = update(after, BATCH)
    assert not metrics["skipped"] and np.isfinite(metrics["loss"])
    assert any(np.any(new != old) for new, old in zip(*map(jax.tree.leaves, (again.params, after.params)), strict=True))


def test_one_bad_piece_of_an_accumulated_batch_is_a_bad_batch():
    update, state = updates("jit", accumulation=1)
    after, metrics = update(state, with_first(7))
    assert metrics["skipped"]
    jax.tree.map(np.testing.assert_array_equal, after[1:], state[1:])


@pytest.mark.heavy
def test_a_gradient_far_beyond_its_spread_is_skipped_where_that_is_asked_for_and_poisons_nothing():
    def scaled(predict, streams, keys, batch, t):
        return {"image": losses_at(predict, streams, keys, batch, t)["image"] * batch["image"][0, 0, 0, 0]}

    update, state = updates(spike=6.0, objective=scaled)
    plain, other = updates(objective=scaled)
    ordinary, spike = BATCH, {**BATCH, "image": BATCH["image"] * 1.0}
    spike["image"][0, 0, 0, 0] = 1000.0
    assert not update(state, spike)[1]["skipped"]  # nothing is known yet of what is usual
    for _ in range(WARM_UP + 5):
        state, metrics = update(state, ordinary)
        assert not metrics["skipped"]
    for _ in range(30):  # however many: what is skipped is not counted among the usual
        after, metrics = update(state, spike)
        assert metrics["skipped"]
        jax.tree.map(np.testing.assert_array_equal, after[1:], state[1:])
        state = after
    assert not update(state, ordinary)[1]["skipped"]
    assert not plain(other, spike)[1]["skipped"]


# Runs ----------------------------------------------------------------------------------------------------------------

SMALL = {
    "model": {"width": 24, "depth": 1, "heads": 1},
    "data": {"name": "synthetic", "batch_size": 4, "threads": 0},
    "optimizer": {"decay": "constant", "learning_rate": 0.01},
    "train": {"steps": 12, "log_every": 2, "patience": 3},
    "checkpoint": {"every": 4, "keep": 2},
    "sample": {"every": 0},
}


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)


def run_of(**train):
    config = json.loads(digits.get_config().to_json())
    sections = {name: {**entries, **SMALL.get(name, {})} for name, entries in config.items()}
    sections["train"] |= train
    return build(sections)


@contextlib.contextmanager
def broken(*positions: int):
    """Batches at these positions of the data have an infinite loss."""
    run = run_of()
    source = sources.load("synthetic", "train", "", in_data(run.streams))
    examples = pipeline.examples(source, 0)
    marks = [float(pipeline.batch(examples, position, 4)["image"][0, 0, 0, 0]) for position in positions]

    def objective(predict, streams, keys, batch, t):
        losses = losses_at(predict, streams, keys, batch, t)
        is_bad = jnp.any(batch["image"][:, 0, 0, 0][:, None] == jnp.asarray(marks))
        return {**losses, "image": jnp.where(is_bad, jnp.inf, losses["image"])}

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OBJECTIVES, "denoise", objective)
        yield


def arrays(workdir: Path, step: int) -> dict:
    folder = workdir / "checkpoints" / str(step)
    return {item: ocp.StandardCheckpointer().restore(folder / item) for item in ("params", "ema", "opt")}


def lines(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_one_bad_batch_is_named_counted_and_forgotten(tmp_path, capsys):
    with broken(5):
        train(run_of(), tmp_path)
    said = capsys.readouterr().out
    assert "skipped step 6, whose loss or gradient is not finite" in said and "finished at step 12" in said
    assert [line["skipped"] for line in lines(tmp_path)] == [0, 0, 1, 0, 0, 0]
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(arrays(tmp_path, 12)["params"]))


@pytest.mark.heavy
def test_a_run_that_diverges_ends_with_one_sentence_and_its_last_good_checkpoint(tmp_path):
    with (
        broken(*range(5, 100)),
        pytest.raises(
            Diverged, match=r"the last 3 steps up to 8 .* newest good checkpoint in .* is step 4; set a lower"
        ),
    ):
        train(run_of(), tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["4"]
    train(run_of(), tmp_path)  # and the same command goes on from there
    assert {line["step"] for line in lines(tmp_path)} == {2, 4, 6, 8, 10, 12}


@pytest.mark.heavy
def test_none_made_since_the_last_checkpoint_is_enough(tmp_path):
    with broken(*range(4, 100)), pytest.raises(Diverged, match="the last 4 steps up to 8"):
        train(run_of(patience=1000), tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["4"]


@pytest.mark.heavy
def test_a_rollback_goes_on_past_the_batches_that_broke_it(tmp_path, capsys):
    """Step 5 is then made with batch 8; and to stop and go on after it changes nothing."""
    with broken(5, 6, 7):
        train(run_of(rollback=1), tmp_path / "straight")
        train(run_of(rollback=1, steps=8), tmp_path / "stopped")
        train(run_of(rollback=0), tmp_path / "stopped")
    assert "goes on from step 4, past the batches before 8" in capsys.readouterr().out
    straight, stopped = (arrays(tmp_path / name, 12) for name in ("straight", "stopped"))
    jax.tree.map(np.testing.assert_array_equal, straight, stopped)
    assert [line["step"] for line in lines(tmp_path / "straight")] == [2, 4, 6, 8, 10, 12]
    assert [line["examples"] for line in lines(tmp_path / "straight")] == [8, 16, 40, 48, 56, 64]


@pytest.mark.heavy
def test_rollbacks_are_counted(tmp_path):
    with broken(*range(5, 100)), pytest.raises(Diverged, match=r"newest good checkpoint in .* is step 4"):
        train(run_of(rollback=2), tmp_path)


def test_a_learning_rate_that_is_reported_is_that_of_the_updates_that_were_made(tmp_path):
    """A warm-up of 12 updates, of which one is skipped."""
    config = json.loads(json.dumps(run_of().config))
    config["optimizer"] |= {"warmup": 12, "learning_rate": 1.2}
    with broken(5):
        train(build(config), tmp_path)
    assert [line["learning_rate"] for line in lines(tmp_path)] == pytest.approx([0.2, 0.4, 0.5, 0.7, 0.9, 1.1])
