"""Plan: python -m dit_jax.plan --config=imagenet256:dit_xl2 --topology=v5e:16x16 --config.parallel.fsdp=16

Says what a run needs of each chip before anything is queued: memory, operations, what chips send each other, and the
time that an update takes at least, by the chip's data sheet. For TPUs the real update is compiled by the real compiler,
on any machine: pip install 'dit_jax[plan]'. For GPUs (--topology=h100:8) the same is counted without compiling. No time
is measured: a roofline is a bound.

--what=sample plans the sampler instead. --sweep ranks meshes, remat policies and batches, by what can be counted
without compiling, and plans the first. --parallel.fsdp=16 is short for --config.parallel.fsdp=16.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import jax

from dit_jax.command import run_command
from dit_jax.config import build, config_first, define_flag
from dit_jax.network.dit import REMAT, parameter_shapes
from dit_jax.parallel.mesh import AnyMesh
from dit_jax.planning import program
from dit_jax.planning.chips import EXAMPLES, GIB, Topology, parse_topology
from dit_jax.planning.estimate import abstract_mesh, estimate
from dit_jax.planning.roofline import Bound, Work, bound, mfu
from dit_jax.run import Run
from dit_jax.schema import Range, checked
from dit_jax.training.placement import checked_mesh

SHOWN = 10  # rows of a sweep


class Plan(NamedTuple):
    """A run on a mesh of chips: what each has to do, the bytes that it holds at most, and its roofline."""

    run: Run
    mesh: AnyMesh
    chips: Topology
    work: Work
    peak: float
    bound: Bound

    @property
    def fits(self) -> bool:
        return self.peak <= self.chips.chip.memory


def main(
    config: Annotated[Any, define_flag],
    topology: Annotated[str, f"the chips: {EXAMPLES}"] = "v5e:4x4",
    what: Annotated[Literal["train", "sample"], "what is planned: train or sample"] = "train",
    sweep: Annotated[bool, "rank meshes, remat policies and batches, and plan the best"] = False,
    price: Annotated[float, "of a chip for an hour, in any currency; 0 for none"] = 0.0,
) -> None:
    """Print the plan of a run for chips that need not be here."""
    jax.config.update("jax_platforms", "cpu")  # nothing is computed, so no accelerator is waited for
    run, chips = build(config), parse_topology(topology)
    checked(price, Annotated[float, Range(at_least=0)], "--price")
    if what == "sample" and (sweep or not chips.is_tpu):
        raise ValueError("--what=sample is for TPUs, without --sweep: a sampler is compiled, and not counted")
    if sweep:
        plans = ranked(run, chips)
        print(*table(plans), sep="\n", flush=True)
        run = plans[0].run
    mesh = suiting_mesh(run, chips)
    print(heading(run, mesh, chips), flush=True)
    try:
        plan = compiled(run, chips, what) if chips.is_tpu else counted(run, chips)
        print(*lines(plan, what, price, "compiled" if chips.is_tpu else "counted, not compiled"), sep="\n")
    except program.TooLargeError as error:
        print(f"does not fit: {error}")
        print(*advice(run, chips), sep="\n")


def suiting_mesh(run: Run, chips: Topology) -> AnyMesh:
    """The mesh of a run on these chips, as sizes alone. Raises ValueError if it does not suit the run."""
    mesh = abstract_mesh(run, chips.number)
    checked_mesh(run, mesh)
    return mesh


def counted(run: Run, chips: Topology) -> Plan:
    """A plan without compiling. Raises ValueError for a mesh that does not suit the run."""
    mesh = suiting_mesh(run, chips)
    work = estimate(run, mesh)
    return Plan(run, mesh, chips, work, work.state + work.temporaries, bound(work, chips, mesh.shape))


def compiled(run: Run, chips: Topology, what: str) -> Plan:
    """A plan of the compiled update, or sampler, on TPUs."""
    mesh = program.described_mesh(run, chips)
    found = (program.training if what == "train" else program.sampling)(run, mesh)
    return Plan(run, mesh, chips, found.work, found.peak, bound(found.work, chips, mesh.shape))


# What is said of a plan ---------------------------------------------------------------------------------------------


def heading(run: Run, mesh: AnyMesh, chips: Topology) -> str:
    """What is planned, and where."""
    parameters = sum(leaf.size for leaf in jax.tree.leaves(parameter_shapes(run.model)))
    batch = run.data.batch_size
    return (
        f"{parameters:,} parameters on {chips.number} x {chips.kind}, {axes_of(mesh)}; "
        f"{batch:,} examples an update, {batch / mesh.size:g} a chip"
    )


def lines(plan: Plan, what: str, price: float, how: str) -> Iterator[str]:
    """The plan, a line for each thing, with the ways in which it was found out."""
    work, limit, left = plan.work, plan.chips.chip.memory, plan.chips.chip.memory - plan.peak
    yield (
        f"memory a chip ({how}): {work.state / GIB:.2f} GiB of state, {work.temporaries / GIB:.2f} of temporaries, "
        f"{plan.peak / GIB:.2f} at most, of {limit / GIB:.2f}: "
        + (f"fits, {left / GIB:.2f} are left" if plan.fits else f"does not fit, by {-left / GIB:.2f}")
    )
    if not plan.fits:
        yield from advice(plan.run, plan.chips)
    operations, model = work.operations / 1e12, work.model / 1e12
    yield f"operations a chip: {operations:.3f} T in matrix products, {model:.3f} T of the model"
    yield f"bytes to and from memory: {work.traffic / 1e9:.1f} GB"
    for sent in sorted(work.sent, key=lambda sent: -sent.bytes):
        yield f"sent: {sent.kind} over {' and '.join(sent.axes)}, {sent.bytes / 1e9:.3f} GB"
    parts, times = plan.bound.parts, (plan.bound.overlapped, plan.bound.serial)
    yield (
        f"at least {', '.join(f'{1e3 * time:.1f} ms of {part}' for part, time in parts.items())}: "
        f"{1e3 * times[0]:.1f} ms, or {1e3 * times[1]:.1f} if sending hides behind nothing; {plan.bound.binds} binds"
    )
    if what == "sample":
        rate = plan.run.sample.batch / plan.bound.overlapped
        yield f"at most {rate:,.1f} samples a second, in batches of {plan.run.sample.batch}"
        return
    yield f"MFU at most {mfu(work, plan.chips, times[0]):.2f}, or {mfu(work, plan.chips, times[1]):.2f}"
    yield from cost(plan, price)


def cost(plan: Plan, price: float) -> Iterator[str]:
    """Rates, and what the whole run takes, between both bounds."""
    run, times = plan.run, (plan.bound.overlapped, plan.bound.serial)
    tokens = sum(len(s.positions) for s in run.streams.values() if s.positions is not None)
    rates = [run.data.batch_size / time for time in times]
    yield f"at most {rates[0]:,.0f} examples a second, or {rates[1]:,.0f}; of {tokens:,} tokens each"
    hours = [run.train.steps * time / 3600 for time in times]
    spent = [plan.chips.number * each for each in hours]
    money = f", for {price * spent[0]:,.0f} to {price * spent[1]:,.0f} at {price:g} an hour" if price else ""
    yield (
        f"{run.train.steps:,} updates: at least {hours[0]:,.1f} to {hours[1]:,.1f} hours, {spent[0]:,.0f} to "
        f"{spent[1]:,.0f} chip-hours{money}"
    )


def advice(run: Run, chips: Topology) -> Iterator[str]:
    """What would fit, by what can be counted without compiling."""
    fitting = [plan for plan in candidates(run, chips, batches=(run.data.batch_size,)) if plan.fits]
    if not fitting:
        yield "no mesh and remat policy of this batch fits, as far as can be counted: more chips, or a smaller batch"
        return
    best = min(fitting, key=lambda plan: plan.bound.serial)
    yield f"try {flags(best)}: {best.peak / GIB:.2f} GiB a chip, as far as can be counted without compiling"


# Which plan is best -------------------------------------------------------------------------------------------------


def ranked(run: Run, chips: Topology) -> list[Plan]:
    """Plans of meshes, remat policies and batches, those that fit first and the fastest of these first."""
    batch = run.data.batch_size
    plans = candidates(run, chips, batches=(batch // 2, batch, 2 * batch, 4 * batch))
    return sorted(plans, key=lambda plan: (not plan.fits, plan.bound.serial / plan.run.data.batch_size))


def candidates(run: Run, chips: Topology, batches: Sequence[int]) -> list[Plan]:
    """Every mesh of data and fsdp, remat policy and batch that suits the run and these chips."""
    found = []
    sizes = [fsdp for fsdp in range(1, chips.number + 1) if chips.number % fsdp == 0]
    for fsdp, remat, batch in itertools.product(sizes, REMAT, batches):
        parallel = dataclasses.replace(run.parallel, data=-1, fsdp=fsdp, context=1, tensor=1)
        data = dataclasses.replace(run.data, batch_size=batch)
        other = dataclasses.replace(run, model=run.model.clone(remat=remat), parallel=parallel, data=data)
        try:
            found.append(counted(other, chips))
        except ValueError:  # of an axis that divides neither the batch nor the width
            continue
    if not found:
        raise ValueError(f"no mesh of data and fsdp on {chips.number} chips suits {batches[0]:,} examples an update")
    return found


def table(plans: Sequence[Plan]) -> Iterator[str]:
    """The first plans, one a line."""
    yield f"{'mesh':24} {'remat':6} {'batch':>7} {'GiB a chip':>11} {'fits':>5} {'examples/s':>11}  binds"
    for plan in plans[:SHOWN]:
        run = plan.run
        rate, memory = run.data.batch_size / plan.bound.serial, plan.peak / GIB
        fits = "yes" if plan.fits else "no"
        yield (
            f"{axes_of(plan.mesh):24} {run.model.remat:6} {run.data.batch_size:7,} {memory:11.2f} {fits:>5} "
            f"{rate:11,.0f}  {plan.bound.binds}"
        )
    yield f"by counts without compiling; with nothing hidden behind sending. The first: {flags(plans[0])}"


def flags(plan: Plan) -> str:
    """What to say to have a plan."""
    run = plan.run
    return (
        f"--config.parallel.fsdp={run.parallel.fsdp} --config.model.remat={run.model.remat} "
        f"--config.data.batch_size={run.data.batch_size}"
    )


def axes_of(mesh: AnyMesh) -> str:
    """'data 16 x fsdp 16'."""
    return " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1) or "one chip"


def rewritten(words: Sequence[str]) -> list[str]:
    """The words of a command line, with short ones written out."""
    long = [f"--config.{word[2:]}" if word.startswith("--parallel.") else word for word in words]
    return config_first(long)


if __name__ == "__main__":
    run_command(main, defaults=["--config=digits"], rewrite=rewritten)
