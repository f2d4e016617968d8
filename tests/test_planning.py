"""A plan is true where it counts: operations and bytes against closed forms, and against TPU's own compiler."""

import dataclasses
import json
import re

import jax
import pytest

from dit_jax import plan
from dit_jax.command import parse
from dit_jax.config import build
from dit_jax.configs import digits
from dit_jax.names import ConfigError
from dit_jax.parallel.mesh import make_mesh
from dit_jax.parallel.modes import jit_mode
from dit_jax.planning import hlo
from dit_jax.planning.chips import CHIPS, parse_topology
from dit_jax.planning.estimate import abstract_batch, abstract_mesh, abstract_state, estimate, on_chip
from dit_jax.planning.program import axes_of, described_devices
from dit_jax.planning.roofline import Sent, Work, bound, mfu, seconds
from dit_jax.training.flops import matmul_flops
from dit_jax.training.step import make_init
from dit_jax.training.update import make_update

CONFIG = json.loads(digits.get_config().to_json())


def run(**changes):
    return build({name: {**entries, **changes.get(name, {})} for name, entries in CONFIG.items()})


# Chips and rooflines ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v9:4", "the chip = 'v9' does not exist"),
        ("v5e", "should be CHIP:SHAPE, such as v5e:16x16"),
        ("v5e:16", "a shape of v5e has 2 sizes"),
        ("v5p:4x4", "a shape of v5p has 3 sizes"),
        ("h100:2x4", "a shape of h100 has 1 sizes"),
        ("v5e:0x4", "should be CHIP:SHAPE"),
    ],
)
def test_a_topology_that_is_none_is_named(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_topology(text)


def test_a_topology_has_so_many_chips():
    assert [parse_topology(text).number for text in ("v5e:16x16", "v5p:8x8x8", "h100:8")] == [256, 512, 8]


def test_a_ring_has_two_ways_round_and_a_row_has_one():
    """A collective uses the links of the dimensions that its chips lie along."""
    link = CHIPS["v5e"].link
    whole, part = parse_topology("v5e:16x16"), parse_topology("v5e:4x4")
    assert [whole.bandwidth(count) / link for count in (16, 256)] == [2, 4]
    assert [part.bandwidth(count) / link for count in (4, 16)] == [1, 2]
    assert parse_topology("h100:8").bandwidth(8) == parse_topology("h100:8").bandwidth(2) == CHIPS["h100"].link


def test_a_roofline_is_the_slowest_part_or_the_sum_with_what_is_sent():
    topology, sizes = parse_topology("v5e:16x16"), {"data": 16, "fsdp": 16}
    chip = topology.chip
    sent = Sent("all-gather", ("fsdp",), 2 * chip.link * 16 / 15)  # a second
    work = Work(chip.peak * 3, chip.peak * 2, 0, 0, chip.bandwidth * 2, [sent])
    found = bound(work, topology, sizes)
    assert found.parts == pytest.approx({"matrix units": 3, "memory": 2, "links": 1})
    assert (found.overlapped, found.serial, found.binds) == (pytest.approx(3), pytest.approx(4), "matrix units")
    assert mfu(work, topology, found.overlapped) == pytest.approx(2 / 3)
    assert seconds(sent._replace(kind="all-reduce"), topology, sizes) == pytest.approx(2)
    assert seconds(sent._replace(kind="reduce-scatter"), topology, sizes) == pytest.approx(1)


# Counts of a program's text -----------------------------------------------------------------------------------------

PROGRAM = """HloModule step

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (carry: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %carry = (s32[], f32[8,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%carry), index=0
  %x = f32[8,16]{1,0} get-tuple-element(%carry), index=1
  %two = s32[] constant(2)
  %next = s32[] add(%i, %two)
  %w = f32[16,16]{1,0:S(1)} constant({...})
  %y = f32[8,16]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %z = f32[8,16]{1,0} all-reduce(%y), channel_id=7, replica_groups=[2,4]<=[4,2]T(1,0), to_apply=%add
  %again = f32[8,16]{1,0} all-reduce(%y), channel_id=7, replica_groups=[2,4]<=[4,2]T(1,0), to_apply=%add
  ROOT %out = (s32[], f32[8,16]{1,0}) tuple(%next, %z)
}

%condition (carry: (s32[], f32[8,16])) -> pred[] {
  %carry.1 = (s32[], f32[8,16]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%carry.1), index=0
  %limit = s32[] constant(10)
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}

ENTRY %main (p: f32[8,16]) -> f32[8,16] {
  %p = f32[8,16]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %begin = (s32[], f32[8,16]{1,0}) tuple(%zero, %p)
  %loop = (s32[], f32[8,16]{1,0}) while(%begin), condition=%condition, body=%body
  ROOT %end = f32[8,16]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_loops_count_every_turn_and_what_is_written_twice_counts_once():
    """Five turns of 2 x 8 x 16 x 16 operations and an all-reduce of 512 bytes; kernels in VMEM are no traffic."""
    found = hlo.count(PROGRAM, 8)
    assert found.flops == 5 * 2 * 8 * 16 * 16
    (moved,) = found.moved
    assert moved == ("all-reduce", (0, 2, 4, 6), 5 * 512, 5)
    x = 8 * 16 * 4
    # A product, two sums across chips, the counter, and what it is compared with.
    assert found.memory == 5 * (2 * x + 2 * 2 * x + 3 * 4 + 9)


@pytest.mark.parametrize(
    ("attributes", "group"),
    [
        ("replica_groups={{0,1},{2,3}}", (0, 1)),
        ("replica_groups=[2,4]<=[8]", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,2,2]T(1,2,0)", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", (0, 1, 2, 3)),
        ("source_target_pairs={{0,2},{2,0}}", (0, 2)),
        ("", tuple(range(8))),
    ],
)
def test_groups_are_read_in_every_way_that_they_are_written(attributes, group):
    assert hlo._group(attributes, 8) == group


def test_a_matrix_product_may_be_written_as_a_convolution():
    """As TPU's compiler does: [8, 16] times [16, 32], and a batch of three of them as a window that is spread out."""
    line = hlo._line("y", 'f32[8,32]{1,0} convolution(%a, %b), dim_labels=bf_io->bf, op="x"', False)
    assert hlo._flops(line, {"a": "f32[8,16]{1,0}", "b": "f32[16,32]{1,0}"}) == 2 * 8 * 16 * 32
    window = "window={size=3 stride=2 pad=0_0 lhs_dilate=3}, dim_labels=0bf_0io->0bf"
    line = hlo._line("y", f"f32[3,8,32] convolution(%a, %b), {window}", False)
    assert hlo._flops(line, {"a": "f32[3,8,16]", "b": "f32[3,16,32]"}) == 2 * 3 * 8 * 16 * 32


def test_of_a_fusions_operand_only_slices_are_read():
    text = """HloModule step

%inside (stack: f32[9,4], i: s32[]) -> f32[1,4] {
  %stack = f32[9,4]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %row = f32[1,4]{1,0} dynamic-slice(%stack, %i), dynamic_slice_sizes={1,4}
}

ENTRY %main (s: f32[9,4], n: s32[]) -> f32[1,4] {
  %s = f32[9,4]{1,0} parameter(0)
  %n = s32[] parameter(1)
  ROOT %out = f32[1,4]{1,0} fusion(%s, %n), kind=kLoop, calls=%inside
}
"""
    assert hlo.count(text, 1).memory == 16 + 16 + 4


# Counts without compiling -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("remat", ["none", "full"])
def test_operations_are_those_of_the_traced_update(remat, optimizer, accumulation):
    one = run(model={"remat": remat}, optimizer={"name": optimizer}, train={"accumulation": accumulation})
    mesh = abstract_mesh(one, 8)
    state, (batch, rows) = abstract_state(one, mesh), abstract_batch(one, mesh)
    traced = matmul_flops(make_update(one, jax.random.key(0), jit_mode(mesh)), state, batch, rows)
    assert estimate(one, mesh).operations * 8 == pytest.approx(traced, rel=0.01)


@pytest.mark.parametrize("fsdp", [1, 2, 8])
def test_the_state_takes_the_bytes_that_a_device_then_holds(fsdp):
    one = run(parallel={"fsdp": fsdp})
    state = jit_mode(make_mesh(**one.parallel.axes())).create(make_init(one.model, one.optimizer), jax.random.key(0))
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    assert on_chip(abstract_state(one, abstract_mesh(one, 8))) == held


def test_what_is_kept_for_the_backward_pass_grows_with_the_batch_and_shrinks_with_remat():
    kept = {
        remat: [
            estimate(run(model={"remat": remat}, data={"batch_size": n}), abstract_mesh(run(), 1)).temporaries
            for n in (64, 128, 192)
        ]
        for remat in ("none", "dots", "full")
    }
    assert kept["full"][0] < kept["dots"][0] < kept["none"][0]
    for small, middle, large in kept.values():
        assert large - middle == pytest.approx(middle - small) and middle > small


def test_what_is_sent_is_what_each_kind_of_parallelism_sends():
    """bfloat16 kernels twice forward and backward, and their gradients; a quarter of them where four share them."""
    total = lambda work: {(sent.kind, sent.axes): sent.bytes for sent in work.sent}
    one = run(model={"dtype": "bfloat16"})
    params = abstract_state(one, abstract_mesh(one, 1)).params
    kernels = sum(2 * leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim > 1)
    rest = sum(4 * leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim <= 1)
    assert total(estimate(one, abstract_mesh(one, 1))) == {}
    assert sum(total(estimate(one, abstract_mesh(one, 8))).values()) == kernels + rest
    shared = dataclasses.replace(one, parallel=dataclasses.replace(one.parallel, fsdp=4))
    found = total(estimate(shared, abstract_mesh(shared, 8)))
    split = found["reduce-scatter", ("fsdp",)]
    assert 0.8 * kernels < split <= kernels + rest and found["all-gather", ("fsdp",)] == 2 * split
    assert found["all-reduce", ("data",)] == split / 4


def test_axes_are_those_along_which_a_group_differs():
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    assert [axes_of(group, mesh) for group in ([0, 1], [0, 2], [0, 4], [0, 2, 4, 6], [3])] == [
        ("tensor",),
        ("fsdp",),
        ("data",),
        ("data", "fsdp"),
        (),
    ]


# The command --------------------------------------------------------------------------------------------------------


def said(capsys, *words: str) -> list[str]:
    plan.main(**parse(plan.main, list(words), ["--config=digits"], plan.rewritten))
    return capsys.readouterr().out.splitlines()


def test_a_plan_without_compiling_says_all_that_is_asked(capsys):
    lines = said(capsys, "--topology=h100:8", "--parallel.fsdp=8", "--price=2")
    text = "\n".join(lines)
    assert lines[0].endswith("on 8 x h100, fsdp 8; 64 examples an update, 8 a chip")
    for words in (
        "counted, not compiled",
        "fits",
        "operations a chip",
        "sent: all-gather over fsdp",
        "binds",
        "MFU at",
    ):
        assert words in text
    assert re.search(r"1,500 updates: at least .* chip-hours, for \S+ to \S+ at 2 an hour", text)


def test_what_does_not_fit_says_what_would(capsys, monkeypatch):
    monkeypatch.setitem(CHIPS, "h100", CHIPS["h100"]._replace(memory=4e6))
    lines = said(capsys, "--topology=h100:8", "--config.model.remat=none")
    assert any("does not fit, by" in line for line in lines)
    (advice,) = [line for line in lines if line.startswith("try --config.parallel.fsdp=")]
    tried = said(capsys, "--topology=h100:8", *re.findall(r"--\S+=\w+", advice))
    assert any("fits" in line and "does not" not in line for line in tried)
    monkeypatch.setitem(CHIPS, "h100", CHIPS["h100"]._replace(memory=1e3))
    assert any("more chips, or a smaller batch" in line for line in said(capsys, "--topology=h100:8"))


def test_a_sweep_ranks_by_rate_what_fits_before_what_does_not(monkeypatch, capsys):
    monkeypatch.setitem(CHIPS, "h100", CHIPS["h100"]._replace(memory=10e6))
    plans = plan.ranked(run(), parse_topology("h100:8"))
    rates = [(p.fits, p.run.data.batch_size / p.bound.serial) for p in plans]
    assert rates == sorted(rates, key=lambda pair: (not pair[0], -pair[1])) and {fits for fits, _ in rates} == {
        True,
        False,
    }
    assert {p.run.parallel.fsdp for p in plans} >= {1, 2, 4, 8}
    assert {p.run.model.remat for p in plans} == {"none", "dots", "full"}
    lines = said(capsys, "--topology=h100:8", "--sweep")
    assert "by counts without compiling" in lines[11] and " on 8 x h100" in lines[12]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--topology=v7:4"], "--topology: the chip = 'v7' does not exist"),
        (["--topology=h100:8", "--parallel.fsdp=3"], "does not fit 8 devices"),
        (["--topology=h100:8", "--what=sample"], "a sampler is compiled, and not counted"),
        (["--topology=h100:8", "--price=-1"], "--price = -1"),
    ],
)
def test_mistakes_are_one_sentence(words, message, capsys):
    with pytest.raises(ValueError, match=message):
        said(capsys, *words)


# TPU's own compiler -------------------------------------------------------------------------------------------------


@pytest.mark.heavy
def test_a_program_of_the_tpu_compiler_does_what_is_counted(tpu):
    """Operations to 2 %, the state to the byte, weights gathered and gradients scattered over fsdp."""
    said = tpu(
        """
        import json, re
        import jax
        from dit_jax.config import build, load
        from dit_jax.planning import program
        from dit_jax.planning.chips import parse_topology
        from dit_jax.planning.estimate import estimate
        config = load("imagenet256:dit_s2")
        config.model.update(width=192, depth=2, heads=3, unroll=1)
        config.streams.label.classes = 10  # blocks are most of the parameters, as they are of networks for pods
        config.data.batch_size, config.parallel.fsdp = 64, 2
        run, chips = build(config), parse_topology("v5e:2x4")
        mesh = program.described_mesh(run, chips)
        compiled, counted = program.training(run, mesh), estimate(run, mesh)
        drawn = program.sampling(build(config), mesh)
        print(json.dumps([
            compiled.work.operations / counted.operations,
            compiled.peak - compiled.work.temporaries - counted.state,
            [(sent.kind, sent.axes, sent.bytes) for sent in compiled.work.sent],
            [(sent.kind, sent.axes, sent.bytes) for sent in counted.sent],
            drawn.work.operations / drawn.work.model,
        ]))
        """
    )
    operations, beside, compiled, counted, drawn = json.loads(said.splitlines()[-1])
    assert operations == pytest.approx(1, abs=0.02) and drawn == pytest.approx(1, abs=0.02)
    assert 0 <= beside < 2e6  # the batch, and what lies beside the state
    sent = lambda moved, kind: sum(size for name, axes, size in moved if name == kind and axes == ["fsdp"])
    for kind in ("all-gather", "reduce-scatter"):
        assert sent(compiled, kind) == pytest.approx(sent(counted, kind), rel=0.15)


@pytest.mark.heavy
def test_chips_of_three_dimensions_are_split_in_any_way(tpu):
    """Where whole dimensions only may be an axis, 512 chips are no mesh of 32 x 16."""
    said = tpu(
        """
        from dit_jax.parallel.mesh import mesh_of
        from dit_jax.planning.chips import parse_topology
        from dit_jax.planning.program import described_devices
        devices = described_devices(parse_topology("v5p:8x8x8"))
        print([dict(mesh_of(devices, fsdp=fsdp).shape)["data"] for fsdp in (4, 16, 32, 512)])
        """
    )
    assert said.splitlines()[-1] == "[128, 32, 16, 1]"


def test_without_the_compiler_it_says_how_to_install_it():
    with pytest.raises(ValueError, match=r"v5e:2x4 cannot be described .*pip install libtpu"):
        described_devices(parse_topology("v5e:2x4"))
