"""Samples on disk: a process that is killed anywhere repeats none and loses none, and what is there is never mixed."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import tracemalloc
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import dit_jax as dj
from dit_jax import sample_cli
from dit_jax.config import build
from dit_jax.configs import digits
from dit_jax.sampling.files import write_pictures, write_samples
from dit_jax.sampling.protocol import check_writable, claim, digest
from dit_jax.sampling.shards import first_samples, merge, missing, shards_in, write_shard, written_whole
from dit_jax.sampling.sheet import BORDER, MARGIN
from dit_jax.training.loop import train

ROOT = Path(__file__).parent.parent
STREAMS = {"image": dj.streams.image((4, 4, 1)), "name": dj.streams.text(4)}
ABOUT = {"seed": 3, "protocol": "{}"}


def made(rows: range) -> dict[str, np.ndarray]:
    """Samples that say which they are: pictures of a value, and three letters."""
    i = np.asarray(rows)
    letters = np.stack([97 + i // 100 % 10, 97 + i // 10 % 10, 97 + i % 10, 0 * i], 1)
    pixels = np.ones((1, 4, 4, 1), np.float32) * (i / 1000).astype(np.float32)[:, None, None, None]
    return {"image": pixels, "name": letters.astype(np.int32)}


def assert_all_there(out: Path, num: int):
    """Each sample once, in order, in every form, and nothing else."""
    with np.load(out / "samples.npz") as arrays:
        assert {*arrays} == {"image", "name", "arr_0", "seed", "protocol"} and arrays["seed"] == 3
        for name, wanted in made(range(num)).items():
            np.testing.assert_array_equal(arrays[name], wanted)
        wanted = np.rint((np.arange(num, dtype=np.float32) / 1000 + 1) * 127.5)
        assert arrays["arr_0"].dtype == np.uint8 and arrays["arr_0"].shape == (num, 4, 4, 3)
        assert np.abs(arrays["arr_0"][:, 0, 0, 0] - wanted).max() <= 1
    names = {file.stem: file.read_text() for file in (out / "name").iterdir()}
    assert names == {str(i): "".join(chr(97 + int(d)) for d in f"{i:03d}") for i in range(num)}
    assert {path.name for path in out.iterdir()} <= {"samples.npz", "samples.png", "name", "protocol.json"}


# Files alone. -------------------------------------------------------------------------------------------------------


def test_shards_of_any_length_become_one_file_in_order(tmp_path):
    for rows in (range(5, 9), range(0, 2), range(9, 10), range(2, 5)):
        write_samples(tmp_path, STREAMS, made(rows), rows.start)
    assert merge(tmp_path, 10, ABOUT) == tmp_path / "samples.npz"
    assert_all_there(tmp_path, 10)


def test_what_is_missing_is_known_by_the_names_of_whole_shards(tmp_path):
    assert missing(tmp_path, range(0, 9)) == [range(0, 9)]
    for rows in (range(2, 4), range(6, 7)):
        write_shard(tmp_path, rows.start, made(rows))
    (tmp_path / "shards" / "unfinished-00000000-00000001.npz").write_bytes(b"half")
    assert missing(tmp_path, range(0, 9)) == [range(0, 2), range(4, 6), range(7, 9)]
    assert missing(tmp_path, range(3, 7)) == [range(4, 6)] and missing(tmp_path, range(2, 4)) == []
    with pytest.raises(ValueError, match="does not have sample 0, and cannot be merged"):
        merge(tmp_path, 9, ABOUT)


def test_shards_that_overlap_give_each_sample_once(tmp_path):
    """As two batch sizes may leave them; and what is beyond the number is left out."""
    for rows in (range(0, 4), range(0, 6), range(3, 8), range(7, 12)):
        write_samples(tmp_path, STREAMS, made(rows), rows.start)
    for i in (10, 11):
        (tmp_path / "name" / f"{i}.txt").unlink()
    merge(tmp_path, 10, ABOUT)
    assert_all_there(tmp_path, 10)


def test_more_samples_join_those_of_a_finished_file(tmp_path):
    write_samples(tmp_path, STREAMS, made(range(0, 5)))
    before = merge(tmp_path, 5, ABOUT).stat().st_ino
    assert missing(tmp_path, range(0, 8)) == [range(5, 8)]
    assert merge(tmp_path, 5, ABOUT).stat().st_ino == before  # finished already, and left alone
    write_samples(tmp_path, STREAMS, made(range(5, 8)), 5)
    merge(tmp_path, 8, ABOUT)
    assert_all_there(tmp_path, 8)


def test_the_merge_takes_no_more_memory_for_more_samples(tmp_path):
    def peak(num: int) -> int:
        """Bytes, of files of any size."""
        out, big = tmp_path / str(num), np.zeros((8, 32, 32, 1), np.float32)
        for start in range(0, num, 8):
            write_shard(out, start, {"image": big + start})
        merge(out, num - 8, ABOUT)
        write_shard(out, num - 8, {"image": big + num - 8})
        tracemalloc.start()
        merge(out, num, ABOUT)  # of a large file and a shard
        found = first_samples(out / "samples.npz", 3)["image"]
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found.shape == (3, 32, 32, 1)
        with np.load(out / "samples.npz") as arrays:
            np.testing.assert_array_equal(arrays["image"][:, 0, 0, 0], np.arange(num) // 8 * 8)
        return most

    few, many = peak(512), peak(4096)  # 2 and 16 MiB
    assert many < few + 2**20


@pytest.mark.parametrize("broken", ["byte", "end", "empty"])
def test_a_shard_that_is_damaged_is_named_and_drawn_anew_once_it_is_gone(broken, tmp_path):
    for start in (0, 2, 4):
        write_samples(tmp_path, STREAMS, made(range(start, start + 2)), start)
    shard = tmp_path / "shards" / "00000002-00000003.npz"
    data = bytearray(shard.read_bytes())
    data[data.index(np.float32(0.003).tobytes())] ^= 1
    shard.write_bytes({"byte": data, "end": data[:-100], "empty": b""}[broken])
    with pytest.raises(ValueError, match=r"00000002-00000003.npz is damaged: .*; remove it, and the same command"):
        merge(tmp_path, 6, ABOUT)
    assert not (tmp_path / "samples.npz").exists() and len(list((tmp_path / "shards").iterdir())) == 3
    (tmp_path / "shards" / "00000004-00000005.npz").unlink()
    with pytest.raises(ValueError, match=r"00000002-00000003.npz is damaged"):
        merge(tmp_path, 3, ABOUT)  # which takes a part of it
    shard.unlink()
    assert missing(tmp_path, range(6)) == [range(2, 6)]


def test_a_large_shard_of_which_a_part_is_taken_is_checked_to_its_end(tmp_path):
    """A checksum is that of the whole."""
    write_shard(tmp_path, 0, {"image": np.arange(8 * 32 * 32, dtype=np.float32).reshape(8, 32, 32, 1)})
    shard = tmp_path / "shards" / "00000000-00000007.npz"
    data = bytearray(shard.read_bytes())
    data[data.index(np.float32(1500).tobytes())] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=r"00000000-00000007.npz is damaged"):
        merge(tmp_path, 4, ABOUT)


def test_a_shard_that_holds_less_than_its_name_says_is_damaged(tmp_path):
    write_shard(tmp_path, 0, made(range(3)))
    (tmp_path / "shards" / "00000000-00000002.npz").rename(tmp_path / "shards" / "00000000-00000004.npz")
    with pytest.raises(ValueError, match=r"00000000-00000004.npz is damaged: it ends too early"):
        merge(tmp_path, 5, ABOUT)


class Payload:
    """What touches a file where it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize("name", ["samples.npz", "shards/00000000-00000003.npz"])
def test_code_in_a_shard_is_not_run(name, tmp_path):
    (tmp_path / "shards").mkdir()
    np.savez(tmp_path / name, image=np.array([Payload(tmp_path / "touched")] * 4))
    for read in (shards_in, lambda out: merge(out, 3, ABOUT), lambda out: first_samples(out / name, 2)):
        try:
            read(tmp_path)
        except ValueError as error:
            assert f"{name} is damaged: image.npy holds Python objects, which are never read" in str(error)
        else:
            assert read is shards_in and name != "samples.npz"  # which looks at names of shards alone
    assert not (tmp_path / "touched").exists() and (tmp_path / name).exists()


def test_a_file_in_a_shard_that_is_no_array_is_damage(tmp_path):
    with zipfile.ZipFile(tmp_path / "samples.npz", "w") as file:
        file.writestr("image.npy", b"no array, and long enough to be one")
    with pytest.raises(ValueError, match=r"samples\.npz is damaged: image\.npy is no array"):
        shards_in(tmp_path)


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old")
    for wrong, message in (
        (OSError(28, "No space left"), "a.txt cannot be written: No space left; the"),
        (KeyError("x"), "x"),
    ):
        with pytest.raises((OSError, KeyError), match=message), written_whole(file) as part:
            part.write_text("new")
            raise wrong
        assert file.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    with written_whole(file) as part:
        part.write_text("new")
        assert part.parent == tmp_path and file.read_text() == "old"
    assert file.read_text() == "new" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("num", "columns"), [(9, 3), (100, 10), (130, 10)])
def test_a_contact_sheet_shows_a_hundred_at_most(num, columns, tmp_path):
    write_shard(tmp_path, 0, {"image": made(range(num))["image"]})
    with Image.open(write_pictures(merge(tmp_path, num, ABOUT), STREAMS)) as sheet:
        each = 64 + 2 * BORDER + MARGIN
        assert sheet.width == MARGIN + columns * each
        assert sheet.height == MARGIN + -(-min(num, 100) // columns) * each


# A process that is killed. ------------------------------------------------------------------------------------------

PROGRAM = """
    import os, random, resource, signal, sys, time
    from pathlib import Path
    sys.path.insert(0, os.getcwd())
    from tests.test_shards import ABOUT, STREAMS, made
    from dit_jax.sampling.files import write_pictures, write_samples
    from dit_jax.sampling.protocol import claim
    from dit_jax.sampling.shards import merge, missing

    NUM, BATCH = 11, 3

    def work(out, batch=BATCH):
        claim(out, {"a": 1}, STREAMS, NUM)
        for rows in missing(out, range(NUM)):
            for start in range(rows.start, rows.stop, batch):
                some = range(start, min(start + batch, rows.stop))
                write_samples(out, STREAMS, made(some), start)
        write_pictures(merge(out, NUM, ABOUT), STREAMS)

    def child(out, prepare=lambda: None, meanwhile=lambda pid: None, batch=BATCH):
        # The exit status of a process that does it all; 99 says why it could not.
        pid = os.fork()
        if pid == 0:
            try:
                prepare()
                work(out, batch)
                os._exit(0)
            except (OSError, ValueError) as error:
                print(error, flush=True)
                os._exit(99)
        meanwhile(pid)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def dies_at(number):
        left = [number]
        def hook(event, arguments):
            if event in ("os.rename", "shutil.rmtree"):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        return lambda: sys.addaudithook(hook)

    work(Path(sys.argv[1]) / "warm")
"""


def scenario(tmp_path: Path, program: str) -> list[str]:
    """What a program prints that starts and kills processes, after PROGRAM; no device is in use where it forks."""
    code = textwrap.dedent(PROGRAM) + textwrap.dedent(program)
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_killed_at_any_rename_it_goes_on_and_ends_the_same(tmp_path):
    """Nothing is cleared, protocol.json, four shards, samples.npz; the shards go, and samples.png."""
    lines = scenario(
        tmp_path,
        """
        for number in range(1, 20):
            out = Path(sys.argv[1]) / str(number)
            status = child(out, dies_at(number))
            print(number, status, child(out, batch=3 + number % 2))
            if status == 0:
                break
        """,
    )
    assert lines == [*(f"{number} {-signal.SIGKILL} 0" for number in range(1, 10)), "10 0 0"]
    for number in range(1, 11):
        assert_all_there(tmp_path / str(number), 11)


@pytest.mark.heavy
def test_killed_at_any_time_again_and_again_it_ends_the_same(tmp_path):
    """Kills at random within the time that a whole run takes here, until 30 have struck one that was under way."""
    lines = scenario(
        tmp_path,
        """
        random.seed(0)
        start = time.perf_counter()
        child(Path(sys.argv[1]) / "timed")
        whole = time.perf_counter() - start
        def soon(pid):
            time.sleep(random.random() * whole)
            os.kill(pid, signal.SIGKILL)
        kills = number = 0
        while kills < 30:
            out = Path(sys.argv[1]) / str(number)
            if child(out, meanwhile=soon) != 0:
                kills += 1
            else:
                number += 1
        print(number, child(out))
        """,
    )
    number, status = map(int, lines[0].split())
    assert status == 0
    for i in range(number):
        assert_all_there(tmp_path / str(i), 11)


def test_a_full_disk_is_one_sentence_and_the_same_command_goes_on(tmp_path):
    """Files of at most 600 bytes are too small for a shard, of 2,500 for the whole."""
    lines = scenario(
        tmp_path,
        """
        for most in (600, 2500):
            out = Path(sys.argv[1]) / str(most)
            limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            print(child(out, limit), sorted(p.name for p in out.iterdir()), len(missing(out, range(NUM))), child(out))
        """,
    )
    first, one, second, two = lines
    assert "shards/00000000-00000002.npz cannot be written: File too large; the same command goes on" in first
    assert one == "99 ['name', 'protocol.json', 'shards'] 1 0"
    assert "samples.npz cannot be written: File too large; the same command goes on" in second
    assert two == "99 ['name', 'protocol.json', 'shards'] 0 0"
    for most in (600, 2500):
        assert_all_there(tmp_path / str(most), 11)


# Protocols. ---------------------------------------------------------------------------------------------------------


def test_another_protocol_is_refused_by_what_differs_and_replaced_if_told_to(tmp_path):
    old, new = {"solver": "2m", "seed": 0, "given": ["label=1"]}, {"solver": "heun", "seed": 0, "given": ["label=2"]}
    claim(tmp_path, old, STREAMS, 4)
    claim(tmp_path, {"seed": 9}, STREAMS, 4)  # no sample is there yet
    claim(tmp_path, old, STREAMS, 4)
    write_samples(tmp_path, STREAMS, made(range(4)))
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "name" / "mine.txt").write_text("mine")
    for finished in (False, True):
        if finished:
            write_pictures(merge(tmp_path, 4, ABOUT), STREAMS)
        claim(tmp_path, old, STREAMS, 4)
        wanted = (
            r'another protocol, solver: 2m -> heun, given: \["label=1"\] -> \["label=2"\]; choose another --out, or'
        )
        with pytest.raises(ValueError, match=wanted):
            claim(tmp_path, new, STREAMS, 4)
        assert json.loads((tmp_path / "protocol.json").read_text()) == old and shards_in(tmp_path)[-1].stop == 4
    claim(tmp_path, old, STREAMS, 9, overwrite=True)  # which is no other protocol: nothing goes
    assert missing(tmp_path, range(9)) == [range(4, 9)]
    claim(tmp_path, new, STREAMS, 4, overwrite=True)
    assert missing(tmp_path, range(4)) == [range(4)] and json.loads((tmp_path / "protocol.json").read_text()) == new
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "name", "protocol.json"}
    assert [path.name for path in (tmp_path / "name").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("old", [{"seed": 0}, {"seed": 0, "step": None}, {"seed": 0, "step": 5}])
def test_a_protocol_says_the_step_of_a_run_and_goes_on_where_it_says_none_or_another(old, tmp_path):
    """The weights decide, whose checksum is there; folders of older versions have no step."""
    claim(tmp_path, old, STREAMS, 4)
    write_samples(tmp_path, STREAMS, made(range(4)))
    for overwrite in (False, True):
        claim(tmp_path, {"seed": 0, "step": 7}, STREAMS, 9, overwrite)
        assert missing(tmp_path, range(9)) == [range(4, 9)]
        claim(tmp_path, {"seed": 0, "step": 7}, STREAMS, 9, overwrite, index=1)  # which does not wait for another step
    with pytest.raises(ValueError, match="another protocol, seed: 0 -> 1; choose"):
        claim(tmp_path, {"seed": 1, "step": 7}, STREAMS, 9)


def test_fewer_samples_than_there_are_is_refused(tmp_path):
    claim(tmp_path, {}, STREAMS, 4)
    write_samples(tmp_path, STREAMS, made(range(4)))
    for num in (4, 5):
        claim(tmp_path, {}, STREAMS, num)
    with pytest.raises(ValueError, match="has samples up to 3, which are more than --num=3; choose another --out, or"):
        claim(tmp_path, {}, STREAMS, 3)
    claim(tmp_path, {}, STREAMS, 3, overwrite=True)
    assert missing(tmp_path, range(3)) == [range(3)]


def test_samples_without_a_protocol_and_one_that_cannot_be_read_are_named(tmp_path):
    write_samples(tmp_path, STREAMS, made(range(4)))
    with pytest.raises(ValueError, match=r"has samples, and no protocol.json that says of what; choose another --out"):
        claim(tmp_path, {}, STREAMS, 4)
    (tmp_path / "protocol.json").write_text("{")
    with pytest.raises(ValueError, match=r"protocol.json cannot be read: .*; remove it, or choose another --out"):
        claim(tmp_path, {}, STREAMS, 4)


def test_a_checksum_of_arrays_sees_every_bit_and_their_order():
    arrays = [np.arange(6, dtype=np.float32), {"b": np.ones(3, np.int32)}]
    assert digest(arrays) == digest(jax.tree.map(jax.numpy.asarray, arrays))
    flipped = [arrays[0].view(np.uint32) ^ np.array([0, 0, 0, 1, 0, 0], np.uint32), arrays[1]]
    assert len({digest(arrays), digest(flipped), digest(arrays[::-1]), digest(())}) == 4


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("file", "--out=.*file: .*file is a file, and should be a directory; choose another --out"),
        ("file/deeper/still", "deeper/still: .*file is a file, and should be a directory"),
        ("/proc/nowhere", "--out=/proc/nowhere: /proc cannot be written to: .*; choose another --out"),
    ],
)
def test_a_folder_that_cannot_be_written_is_known_before_anything_is_read(path, message, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=message):
        sample_cli.main(workdir=str(tmp_path / "no run"), out=str(tmp_path / path))


def test_a_folder_that_can_be_written_is_left_as_it_was(tmp_path, monkeypatch):
    check_writable(tmp_path / "a" / "b")
    monkeypatch.chdir(tmp_path)
    check_writable(Path("samples"))
    assert list(tmp_path.iterdir()) == []


# The command. -------------------------------------------------------------------------------------------------------

NUM, BATCH = 20, 8  # eight devices: a batch is a multiple of them
HOW = {"num": NUM, "batch": BATCH, "steps": 2, "solver": "2m", "given": ("label=1,2,3",)}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> str:
    config = json.loads(digits.get_config().to_json())
    config |= {"model": {"width": 24, "depth": 1, "heads": 2, "block": "modern"}}
    config["data"] |= {"name": "synthetic", "batch_size": 8, "threads": 0}
    config["train"] |= {"steps": 3}
    config["sample"] |= {"every": 0}
    config["optimizer"] |= {"learning_rate": 0.05}
    path = tmp_path_factory.mktemp("run")
    train(build(config), path)
    return str(path)


def sampled(workdir: str, out: Path, **options) -> dict[str, np.ndarray]:
    command = {name: options.pop(name) for name in ("overwrite", "part", "interpolate") if name in options}
    sample_cli.main(workdir=workdir, out=str(out), **command, options={**HOW, **options})
    with np.load(out / "samples.npz") as arrays:
        return {name: arrays[name] for name in arrays if name not in ("seed", "protocol")}


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]):
    assert found.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name])


@pytest.fixture(scope="module")
def reference(workdir, tmp_path_factory) -> dict[str, np.ndarray]:
    found = sampled(workdir, tmp_path_factory.mktemp("reference"))
    assert np.ptp(found["image"], axis=0).max() > 0.1 and found["label"].tolist() == (np.arange(NUM) % 3 + 1).tolist()
    return found


@pytest.fixture
def stops(monkeypatch):
    """stops(error, after): drawing ends by this after so many batches, once. Which were drawn is in the list."""
    drawn, draw = [], sample_cli.draw

    def make(error, after: int):
        left = [after]

        def stopping(*arguments, rows: range, **named):
            for batch in draw(*arguments, rows=rows, **named):
                left[0] -= 1
                if left[0] < 0 and error is not None:
                    raise error
                drawn.append(len(batch["image"]))
                yield batch

        monkeypatch.setattr(sample_cli, "draw", stopping)
        return drawn

    return make


def test_ctrl_c_says_how_many_are_there_and_the_same_command_draws_the_rest(
    workdir, reference, tmp_path, stops, capsys
):
    stops(KeyboardInterrupt(), 1)
    with pytest.raises(SystemExit) as end:
        sampled(workdir, tmp_path)
    assert end.value.code == 130
    assert f"stopped: {tmp_path} has 8 of 20 samples, and the same command goes on" in capsys.readouterr().err
    drawn = stops(None, 0)
    drawn.clear()
    assert_same(sampled(workdir, tmp_path), reference)
    assert drawn == [8, 4] and "20 samples, 12 of them in" in capsys.readouterr().out
    assert_same(sampled(workdir, tmp_path), reference)
    assert drawn == [8, 4] and {p.name for p in tmp_path.iterdir()} == {"protocol.json", "samples.npz", "samples.png"}


def test_another_batch_goes_on_where_the_first_one_ended(workdir, reference, tmp_path, stops):
    """What is there stays to the last bit, and the rest differs by the rounding of another batch."""
    stops(KeyboardInterrupt(), 1)
    with pytest.raises(SystemExit):
        sampled(workdir, tmp_path)
    drawn = stops(None, 0)
    found = sampled(workdir, tmp_path, batch=16)
    assert drawn == [8, 12]
    np.testing.assert_array_equal(found["image"][:8], reference["image"][:8])
    np.testing.assert_allclose(found["image"], reference["image"], atol=1e-5)
    np.testing.assert_array_equal(found["label"], reference["label"])


def test_a_larger_number_goes_on_from_a_finished_one(workdir, reference, tmp_path):
    assert len(sampled(workdir, tmp_path, num=8)["image"]) == 8
    assert_same(sampled(workdir, tmp_path), reference)
    with np.load(tmp_path / "samples.npz") as arrays:
        assert json.loads(str(arrays["protocol"]))["num"] == NUM and arrays["seed"] == 0
    with pytest.raises(ValueError, match="has samples up to 19, which are more than --num=8"):
        sampled(workdir, tmp_path, num=8)


def test_several_processes_draw_a_part_each_and_the_first_one_merges(workdir, reference, tmp_path, monkeypatch):
    """Process 1 begins when process 0 is waiting for it; where nothing of the other's is there it draws none of it."""
    waits = sample_cli.wait_for

    def other(folder, num):
        assert missing(folder, range(num)) == [range(10, 20)]
        (tmp_path / "shards").rename(tmp_path / "aside")
        sample_cli.main(workdir=workdir, out=str(tmp_path), part="1,2", options={**HOW, "batch": 10})
        assert missing(folder, range(num)) == [range(0, 10)] and not (tmp_path / "samples.npz").exists()
        for file in (tmp_path / "aside").iterdir():
            file.rename(tmp_path / "shards" / file.name)
        waits(folder, num)

    monkeypatch.setattr(sample_cli, "wait_for", other)
    found = sampled(workdir, tmp_path, part="0,2")
    np.testing.assert_allclose(found["image"], reference["image"], atol=1e-5)
    np.testing.assert_array_equal(found["label"], reference["label"])


@pytest.mark.parametrize("part", ["", "1", "2,2", "0,0", "-1,2", "0,2,4", "a,b"])
def test_a_part_that_is_none_is_one_sentence(part):
    with pytest.raises(ValueError, match=f"--part={part} should be INDEX,COUNT with INDEX = 0 ... COUNT - 1"):
        sample_cli.process_of(part)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"guidance": 2.0}, r"another protocol, guidance: 1.0 -> 2.0; choose"),
        ({"given": ("label=4",)}, r'given: \["label=1,2,3"\] -> \["label=4"\], values: \w{8} -> \w{8}; choose'),
        ({"interpolate": "3,7"}, "interpolate: null -> 3,7, num: null -> 20; choose"),
    ],
)
def test_other_options_in_the_same_folder_are_refused_before_anything_is_drawn(
    change, message, workdir, tmp_path, stops
):
    """And so is another number of samples on the way from one to another, each of which it moves."""
    sampled(workdir, tmp_path, num=8)
    drawn = stops(None, 0)
    with pytest.raises(ValueError, match=message):
        sampled(workdir, tmp_path, **change)
    assert drawn == [] and len(first_samples(tmp_path / "samples.npz", 99)["image"]) == 8
    sampled(workdir, tmp_path, overwrite=True, **change)
    assert sum(drawn) == NUM


def test_other_weights_in_the_same_folder_are_refused(workdir, tmp_path, monkeypatch):
    sampled(workdir, tmp_path, num=8)
    restore = sample_cli.restore_run

    def trained_on(*arguments, **named):
        run, params, *rest = restore(*arguments, **named)
        return run, jax.tree.map(lambda x: x * 1.001, params), *rest

    monkeypatch.setattr(sample_cli, "restore_run", trained_on)
    with pytest.raises(ValueError, match=r"another protocol, weights: \w{8} -> \w{8}; choose"):
        sampled(workdir, tmp_path, num=8)


def test_samples_that_are_not_finite_are_named_and_none_of_their_batch_is_written(workdir, tmp_path, monkeypatch):
    draw = sample_cli.draw

    def broken(*arguments, **named):
        for number, batch in enumerate(draw(*arguments, **named)):
            if number == 1:
                batch["image"] = np.where(np.arange(8)[:, None, None, None] == 3, np.nan, batch["image"])
            yield batch

    monkeypatch.setattr(sample_cli, "draw", broken)
    with pytest.raises(ValueError, match=r"sample 11: image is not finite; draw with less guidance.* metrics.jsonl"):
        sampled(workdir, tmp_path)
    assert missing(tmp_path, range(NUM)) == [range(8, 20)] and not (tmp_path / "samples.npz").exists()


def test_a_way_is_drawn_whole_and_goes_on(workdir, tmp_path, stops):
    wanted = sampled(workdir, tmp_path / "a", interpolate="3,7")
    stops(KeyboardInterrupt(), 2)
    with pytest.raises(SystemExit):
        sampled(workdir, tmp_path / "b", interpolate="3,7")
    stops(None, 0)
    assert_same(sampled(workdir, tmp_path / "b", interpolate="3,7"), wanted)
    with Image.open(tmp_path / "b" / "interpolation.gif") as clip:
        assert clip.n_frames == 2 * NUM - 2


@pytest.mark.heavy
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_from_outside_loses_nothing(number, workdir, tmp_path):
    """As a user stops it, after the first shard; and with what was drawn when it was not stopped."""
    flags = [f"--workdir={workdir}", "--num=96", "--batch=4", "--steps=3", "--given=label=1,2"]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}

    def start(out: Path) -> subprocess.Popen:
        command = [sys.executable, "sample.py", *flags, f"--out={out}"]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)

    process, begun = start(tmp_path / "a"), time.monotonic()
    while not list((tmp_path / "a" / "shards").glob("0*")):
        assert process.poll() is None and time.monotonic() < begun + 120
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert process.returncode == 130 and "of 96 samples, and the same command goes on" in output, output
        assert "Traceback" not in output
    assert not (tmp_path / "a" / "samples.npz").exists()
    for out in (tmp_path / "a", tmp_path / "b"):
        output, _ = start(out).communicate(timeout=120)
        assert "96 samples" in output and "Traceback" not in output, output
    with np.load(tmp_path / "a" / "samples.npz") as a, np.load(tmp_path / "b" / "samples.npz") as b:
        assert_same(dict(a), dict(b))


def test_options_that_decide_nothing_are_the_only_ones_left_out_of_the_protocol(workdir, tmp_path):
    sampled(workdir, tmp_path, num=8)
    protocol = json.loads((tmp_path / "protocol.json").read_text())
    fields = {field.name for field in dataclasses.fields(build(json.loads(digits.get_config().to_json())).sample)}
    assert fields - protocol.keys() == {"every", "num", "batch"}
    assert protocol.keys() - fields == {"workdir", "step", "vae", "interpolate", "weights", "values"}
    assert protocol["step"] == 3
    with np.load(tmp_path / "samples.npz") as arrays:
        assert json.loads(str(arrays["protocol"]))["step"] == 3


def test_a_folder_of_a_version_that_did_not_say_the_step_goes_on(workdir, reference, tmp_path):
    sampled(workdir, tmp_path, num=8)
    protocol = json.loads((tmp_path / "protocol.json").read_text())
    del protocol["step"]
    (tmp_path / "protocol.json").write_text(json.dumps(protocol))
    assert_same(sampled(workdir, tmp_path), reference)
