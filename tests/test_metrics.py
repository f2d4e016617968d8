"""What a run says of itself: means over exactly the updates since the last word, rates of exactly their time, and files
that can be read back."""

import io
import json
import struct
import sys
import types

import jax
import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from dit_jax.training import metrics
from dit_jax.training.metrics import Meter, Writer, without

BINS = 10
LEVEL = {"image": (np.ones(BINS), np.ones(BINS))}


def update(loss: float = 1.0, grad_norm: float = 1.0, by_level=LEVEL, skipped: bool = False) -> dict:
    values = {"loss": np.float32(loss), "grad_norm": np.float32(grad_norm)}
    return values | {"by_level": by_level, "skipped": np.bool_(skipped)}


class Clock:
    """A time that passes when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(metrics.time, "monotonic", lambda: self.now)


def test_means_are_of_the_updates_since_the_last_ones():
    meter = Meter(4, 100, None)
    for loss, grad_norm in ((1, 10), (2, 30), (6, 80)):
        meter.add(update(loss, grad_norm))
    values = meter.means()
    assert values["loss"] == 3 and values["grad_norm"] == 40
    for loss, grad_norm in ((7, 5), (8, 6)):
        meter.add(update(loss, grad_norm))
    values = meter.means()
    assert values["loss"] == 7.5 and values["grad_norm"] == 5.5


def test_rates_are_updates_over_their_time_and_windows_do_not_overlap(monkeypatch):
    clock, meter = Clock(monkeypatch), Meter(batch_size=6, flops=100, peak=1000.0)
    meter.add(update())
    for seconds in (1, 3):
        clock.now += seconds
        meter.add(update())
    values = meter.means()  # the first update began the time, and two took 4 seconds
    rates = {"steps_per_second": 0.5, "examples_per_second": 3.0, "flops_per_second": 50.0, "mfu": 0.05}
    assert {name: values[name] for name in rates} == rates
    for _ in range(3):
        clock.now += 0.5
        meter.add(update())
    clock.now += 0.5
    values = meter.means()  # three in the 2 seconds since, none of which was in the window before
    rates = {"steps_per_second": 1.5, "examples_per_second": 9.0, "flops_per_second": 150.0, "mfu": 0.15}
    assert {name: values[name] for name in rates} == pytest.approx(rates)


def test_the_update_that_compiles_belongs_to_no_rate(monkeypatch):
    """However long it takes until its metrics are there."""
    clock, meter = Clock(monkeypatch), Meter(6, 100, 1000.0)

    def compiled(x):
        clock.now += 60
        return x

    monkeypatch.setattr(jax, "block_until_ready", compiled)
    meter.add(update())
    first = meter.means()
    assert first["loss"] == 1 and not {name for name in first if "per_second" in name or name == "mfu"}
    clock.now += 2
    meter.add(update())
    assert meter.means()["steps_per_second"] == 0.5

    meter = Meter(6, 100, None)
    meter.add(update())
    clock.now += 4
    meter.add(update())
    assert meter.means()["steps_per_second"] == 0.25


def test_a_pause_belongs_to_no_rate_and_the_updates_that_it_waits_for_do(monkeypatch):
    clock, meter = Clock(monkeypatch), Meter(batch_size=6, flops=100, peak=None)
    meter.add(update())
    meter.add(update())

    def computed(x):
        clock.now += 4
        return x

    monkeypatch.setattr(jax, "block_until_ready", computed)
    for seconds in (60, 600):
        with meter.paused("drawing"):
            clock.now += seconds
    assert meter.means()["steps_per_second"] == 1 / 8
    clock.now += 2
    meter.add(update())
    assert meter.means()["steps_per_second"] == 1 / 2


def test_a_pause_before_the_first_update_begins_no_time(monkeypatch):
    """As where samples are drawn before it: the first update compiles all the same."""
    clock, meter = Clock(monkeypatch), Meter(batch_size=6, flops=100, peak=None)
    with meter.paused("drawing"):
        clock.now += 3600
    meter.add(update())
    clock.now += 2
    meter.add(update())
    values = meter.means()
    assert (values["seconds"], values["steps_per_second"]) == (2, 0.5)


def test_what_keeps_devices_from_training_is_told_by_its_seconds_and_as_a_share_of_all_time(monkeypatch):
    clock, meter = Clock(monkeypatch), Meter(batch_size=6, flops=100, peak=None)
    with meter.waiting("reading"):
        clock.now += 2
    clock.now += 38  # it compiles
    meter.add(update())
    for _ in range(2):
        with meter.waiting("reading"):
            clock.now += 1
        clock.now += 9
        meter.add(update())
    with meter.paused("drawing"):
        clock.now += 20
    values = meter.means()
    told = {name: value for name, value in values.items() if name.startswith("seconds_")}
    assert told == {"seconds_reading": 4, "seconds_compiling": 38, "seconds_drawing": 20}
    assert values["goodput"] == pytest.approx(18 / 80) and values["steps_per_second"] == 2 / 20
    clock.now += 20
    meter.add(update())
    values = meter.means()
    assert values["goodput"] == pytest.approx(38 / 100) and not any(name.startswith("seconds_") for name in values)


def test_memory_is_told_where_a_device_tells_it(monkeypatch):
    device = types.SimpleNamespace(memory_stats=lambda: {"bytes_in_use": 2**30, "peak_bytes_in_use": 3 * 2**29})
    for stats, told in ((device, {"memory_gib": 1, "memory_peak_gib": 1.5}), (jax.devices()[0], {})):
        monkeypatch.setattr(jax, "local_devices", lambda stats=stats: [stats])
        assert metrics.memory() == told


def test_a_share_of_the_peak_is_told_only_where_the_peak_is_known(monkeypatch):
    clock = Clock(monkeypatch)
    told = {}
    for peak in (None, 400.0):
        meter = Meter(6, 100, peak)
        meter.add(update())
        clock.now += 1
        meter.add(update())
        told[peak] = meter.means()
    assert "mfu" not in told[None] and told[None]["flops_per_second"] == 100
    assert told[400.0]["mfu"] == 0.25


def test_losses_by_level_are_sums_over_counts_of_all_updates_and_empty_bins_are_left_out():
    """Not the mean of each update's mean: one update has three examples in the bin, another one."""
    at = lambda **bins: np.array([bins.get(f"b{i}", 0.0) for i in range(BINS)])
    meter = Meter(4, 100, None)
    meter.add(update(by_level={"image": (at(b3=6.0, b9=1.0), at(b3=3, b9=1)), "text": (at(b0=2.0), at(b0=4))}))
    meter.add(update(by_level={"image": (at(b3=4.0, b4=5.0), at(b3=1, b4=2)), "text": (at(b0=4.0), at(b0=4))}))
    found = {name: value for name, value in meter.means().items() if "/" in name}
    assert found == {
        "loss/image/t0.3-0.4": 2.5,
        "loss/image/t0.4-0.5": 2.5,
        "loss/image/t0.9-1.0": 1.0,
        "loss/text/t0.0-0.1": 0.75,
    }
    meter.add(update(by_level={"image": (at(b5=1.0), at(b5=1))}))
    assert {name for name in meter.means() if "/" in name} == {"loss/image/t0.5-0.6"}


def events(workdir) -> list[Event]:
    """All that TensorBoard would read: records of a length, its checksum, the event, its checksum."""
    found = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        rest = path.read_bytes()
        while rest:
            (size,) = struct.unpack("<Q", rest[:8])
            found.append(Event.FromString(rest[12 : 12 + size]))
            rest = rest[16 + size :]
    return found


def test_scalars_are_lines_and_events_and_a_later_run_appends(tmp_path, monkeypatch):
    rows = {2: {"loss": 0.5, "mfu": 0.25}, 4: {"loss": 0.125}, 6: {"loss": 2.0}}
    for start, steps in ((2e9, (2, 4)), (2e9 + 1, (6,))):
        monkeypatch.setattr(metrics.time, "time", lambda start=start: start)  # files are named by the second
        with Writer(tmp_path, min(steps) - 1) as writer:
            for step in steps:
                writer.scalars(step, rows[step])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": step, **values} for step, values in rows.items()]
    seen = {(e.step, v.tag, v.simple_value) for e in events(tmp_path) for v in e.summary.value}
    assert seen == {(step, name, value) for step, values in rows.items() for name, value in values.items()}


@pytest.mark.parametrize(
    ("torn", "step"),
    [
        ('{"step": 6, "lo', 4),  # by a kill
        ('{"step": 6, "loss": 1}\n{"step": 8, "loss": 1}\n', 4),  # beyond the checkpoint
        ('{"step": 6, "loss": 1}', 6),  # whole, but for its end
        ('{"loss": 1}\n[]\n', 4),  # no line of ours
        ("", 4),
    ],
)
def test_a_run_that_goes_on_leaves_no_torn_line_and_no_step_twice(torn, step, tmp_path):
    whole = '{"step": 2, "loss": 2}\n{"step": 4, "loss": 1}\n'
    (tmp_path / "metrics.jsonl").write_text(whole + torn)
    with Writer(tmp_path, step) as writer:
        assert (tmp_path / "metrics.jsonl").read_text() == whole
        writer.scalars(6, {"loss": 0.5})
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [2, 4, 6]


def test_a_number_that_is_not_finite_is_null(tmp_path):
    with Writer(tmp_path) as writer:
        writer.scalars(1, {"loss": float("nan"), "grad_norm": float("inf"), "skipped": 1.0})
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=pytest.fail) == {"step": 1, "loss": None, "grad_norm": None, "skipped": 1.0}


def test_skipped_updates_are_counted_named_and_left_out_of_the_means():
    meter = Meter(4, 100, None)
    for step, (loss, skipped) in enumerate([(1.0, False), (float("nan"), True), (3.0, False), (9.0, True)], start=5):
        meter.add(update(loss, skipped=skipped), step)
    values = meter.means()
    assert (values["loss"], values["skipped"]) == (2.0, 2.0) and meter.skipped == [6, 8] and meter.in_a_row == 1
    meter.add(update(float("nan"), skipped=True), 9)
    meter.fetch()
    assert meter.in_a_row == 2 and meter.skipped == [6, 8, 9]
    assert np.isnan(meter.means()["loss"])  # there is no other
    meter.add(update(5.0), 10)
    assert meter.means()["loss"] == 5.0 and meter.in_a_row == 0


def test_a_picture_comes_back_as_it_was_and_nothing_is_no_picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    with Writer(tmp_path) as writer:
        writer.picture(12, "samples", pixels)
        writer.picture(13, "samples", None)
    assert [path.name for path in tmp_path.glob("*.png")] == ["samples_0000012.png"]
    ((step, tag, seen),) = [(e.step, v.tag, v.image) for e in events(tmp_path) for v in e.summary.value]
    assert (step, tag, seen.height, seen.width) == (12, "samples", 5, 7)
    for file in (tmp_path / "samples_0000012.png", io.BytesIO(seen.encoded_image_string)):
        np.testing.assert_array_equal(np.asarray(Image.open(file)), pixels)


def test_a_text_comes_back_as_it_was(tmp_path):
    text = "0: In the *beginning*\n    1: g\u00f6tt\ufffd"
    with Writer(tmp_path) as writer:
        writer.text(12, "samples", text)
    assert [path.name for path in tmp_path.glob("*.txt")] == ["samples_0000012.txt"]
    assert (tmp_path / "samples_0000012.txt").read_text(encoding="utf-8") == text + "\n"
    ((step, said),) = [(e.step, v.tensor.string_val[0].decode()) for e in events(tmp_path) for v in e.summary.value]
    assert step == 12 and said == f"```\n{text}\n```"  # which Markdown leaves as it is


def test_what_is_done_without_a_module_does_not_find_it_and_what_comes_after_does(tmp_path, monkeypatch):
    (tmp_path / "found_only_outside.py").write_text("answer = 42\n")
    monkeypatch.syspath_prepend(tmp_path)

    def answer():
        import found_only_outside

        return found_only_outside.answer

    with pytest.raises(ImportError), without("found_only_outside"):
        answer()
    assert "found_only_outside" not in sys.modules and answer() == 42
    with without("found_only_outside"):  # it has been imported: too late to hide
        assert answer() == 42
    assert answer() == 42
