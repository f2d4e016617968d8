"""What a compiled program does on each chip, counted in its optimized HLO: operations of matrix products, bytes to and
from memory, and bytes that chips send each other; loops count every turn.

The compiler's own `cost_analysis` counts the body of a loop once. What is here reads the text that TPU's compiler
prints: matrix products are convolutions there, collectives may be written once in each fusion that carries a part of
them, and layouts say which arrays never leave the chip's fast memory (S(1), VMEM).
"""

import collections
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
BYTES |= {"s64": 8, "u64": 8, "f64": 8, "f8e4m3fn": 1, "f8e5m2": 1}
COLLECTIVES = ("all-gather", "reduce-scatter", "all-reduce", "collective-permute", "all-to-all", "ragged-all-to-all")
# What moves nothing: names of arrays that are there, or the end of what another line has begun.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"}
FREE |= {"partition-id", "opt-barrier", "iota", "async-start"}
KERNEL = "tpu_custom_call"  # of the calls that the compiler adds, the others name buffers


class Shape(NamedTuple):
    """An array: its type, its sizes, and whether it lies in the chip's main memory, and not in VMEM."""

    dtype: str
    sizes: tuple[int, ...]
    in_memory: bool

    @property
    def bytes(self) -> int:
        return BYTES[self.dtype] * math.prod(self.sizes)


class Line(NamedTuple):
    """One instruction: NAME = TYPE OP(OPERANDS), ATTRIBUTES. literal: what stands in the brackets."""

    name: str
    type: str
    op: str
    operands: list[str]
    literal: str
    attributes: str
    is_root: bool


Computations = dict[str, list[Line]]


class Moved(NamedTuple):
    """A kind of collective among groups of so many chips: the first group's chips, bytes a chip, and times."""

    kind: str
    group: tuple[int, ...]
    bytes: float
    times: int


class Counts(NamedTuple):
    """Of one chip: operations in matrix products, bytes of memory read and written, and collectives."""

    flops: float
    memory: float
    moved: list[Moved]


def count(text: str, chips: int) -> Counts:
    """Counts of optimized HLO for so many chips."""
    computations, entry = parse(text)
    times, fused = _times(computations, entry)
    flops = memory = 0.0
    moved: dict[tuple, list[float]] = collections.defaultdict(lambda: [0.0, 0])
    seen: set[str] = set()
    for name, turns in times.items():
        lines = computations[name]
        types = {line.name: line.type for line in lines}
        for line in lines:
            flops += turns * _flops(line, types)
            if not fused[name]:
                memory += turns * _traffic(line, types, computations)
            if found := _collective(line, types, name, chips, seen):
                kind, group, size = found
                moved[kind, group][0] += turns * size
                moved[kind, group][1] += turns
    every = [Moved(kind, group, size, int(turns)) for (kind, group), (size, turns) in moved.items()]
    return Counts(flops, memory, every)


# Text -> instructions -----------------------------------------------------------------------------------------------


def parse(text: str) -> tuple[Computations, str]:
    """({name: its instructions} of every computation, the name of the one that is run)."""
    computations: Computations = {}
    entry, lines = "", None
    for row in text.splitlines():
        if header := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$", row):
            lines = computations[header[2]] = []
            entry = header[2] if header[1] else entry
        elif row.rstrip() == "}":
            lines = None
        elif lines is not None and (parts := re.match(r"\s+(ROOT )?%?([\w.\-]+) = (.*)", row)):
            lines.append(_line(parts[2], parts[3], bool(parts[1])))
    return computations, entry


def _line(name: str, rest: str, is_root: bool) -> Line:
    end = _closing(rest) if rest.startswith("(") else rest.index(" ") - 1
    kind, rest = rest[: end + 1], rest[end + 2 :]
    op, _, _ = rest.partition("(")
    end = _closing(rest[len(op) :]) + len(op)
    literal = rest[len(op) + 1 : end]
    return Line(name, kind, op, re.findall(r"%([\w.\-]+)", literal), literal, rest[end + 1 :], is_root)


def _closing(text: str) -> int:
    """Where the bracket closes that a text begins with."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return i
    return len(text) - 1


def shapes(kind: str) -> list[Shape]:
    """The arrays of a type such as 'bf16[16,1152]{1,0:T(8,128)S(1)}', or of a tuple of them."""
    found = re.findall(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?", kind)
    return [
        Shape(dtype, tuple(int(size) for size in sizes.split(",") if size), not re.search(r"S\([1-9]\)", layout))
        for dtype, sizes, layout in found
        if dtype in BYTES
    ]


def size_of(kind: str, in_memory: bool = False) -> int:
    """Bytes of a type; in_memory: of those arrays that lie in the chip's main memory."""
    return sum(shape.bytes for shape in shapes(kind) if shape.in_memory or not in_memory)


# How often each runs ------------------------------------------------------------------------------------------------


def _times(computations: Computations, entry: str) -> tuple[dict[str, int], dict[str, bool]]:
    """({name: how often it runs}, {name: whether it is a part of a fusion}) of all computations that are run."""
    times: dict[str, int] = collections.Counter()
    fused: dict[str, bool] = {}

    def visit(name: str, turns: int, inside: bool) -> None:
        times[name] += turns
        fused[name] = fused.get(name, True) and inside
        for line in computations[name]:
            for role, inner in _called(line):
                again = _turns(line, computations) if line.op == "while" and role != "branch" else 1
                visit(inner, turns * again, inside or line.op == "fusion")

    visit(entry, 1, False)
    return times, fused


def _called(line: Line) -> Iterator[tuple[str, str]]:
    """The computations that an instruction runs; not those that reductions apply to pairs of numbers."""
    for role in ("calls", "body", "condition", "to_apply"):
        if role != "to_apply" or line.op == "call":
            yield from ((role, name) for name in re.findall(rf"\b{role}=%?([\w.\-]+)", line.attributes))
    for group in re.findall(r"branch_computations=\{([^}]*)\}", line.attributes):
        yield from (("branch", name.strip().lstrip("%")) for name in group.split(","))


def _turns(loop: Line, computations: Computations) -> int:
    """Turns of a loop: what its counter is compared with, over what is added to the counter in a turn."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(known[1])
    parts = dict(_called(loop))
    condition, body = computations[parts["condition"]], computations[parts["body"]]
    limits = [int(line.literal) for line in condition if line.op == "constant" and line.literal.isdigit()]
    return max(1, max(limits, default=1) // _stride(condition, body))


def _stride(condition: list[Line], body: list[Line]) -> int:
    """What is added in a turn to the number that the condition looks at."""
    by_name, root = {line.name: line for line in body}, next(line for line in body if line.is_root)
    looked = {line.name: line for line in condition}
    comparison = next((line for line in condition if line.op == "compare"), None)
    for name in comparison.operands if comparison else []:
        index = re.search(r"index=(\d+)", looked[name].attributes) if name in looked else None
        if index is None or looked[name].op != "get-tuple-element" or root.op != "tuple":
            continue
        added, line = 0, by_name.get(root.operands[int(index[1])])
        while line is not None and line.op in ("add", "copy", "bitcast"):
            operands = [by_name[operand] for operand in line.operands if operand in by_name]
            added += sum(int(o.literal) for o in operands if o.op == "constant" and o.literal.isdigit())
            line = next((operand for operand in operands if operand.op != "constant"), None)
        return max(added, 1)
    return 1


# Operations ---------------------------------------------------------------------------------------------------------


def _flops(line: Line, types: dict[str, str]) -> float:
    """2 for each multiply-add of a matrix product."""
    if line.op not in ("dot", "convolution"):
        return 0
    out, left, right = (shapes(kind)[0].sizes for kind in (line.type, *(types[name] for name in line.operands[:2])))
    if line.op == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line.attributes)
        axes = [int(axis) for axis in contracted[1].split(",") if axis] if contracted else []
        return 2 * math.prod(out) * math.prod(left[axis] for axis in axes)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", line.attributes)
    assert labels is not None
    places = 1.0
    for axis in range(len(out) - 2):
        sizes = (of[word.index(str(axis))] for of, word in zip((left, right, out), labels.groups(), strict=True))
        places *= _overlap(line.attributes, axis, *sizes)
    return 2 * math.prod(out) * right[labels[2].index("i")] * places


def _overlap(attributes: str, axis: int, inputs: int, taps: int, outputs: int) -> float:
    """Of one spatial axis of a convolution: the mean number of products for each value of its output."""
    window = re.search(r"window=\{([^}]*)\}", attributes)
    options = dict(part.split("=") for part in window[1].split()) if window else {}
    option = lambda name, default: options[name].split("x")[axis] if name in options else default
    stride, dilation, spread = (int(option(name, "1")) for name in ("stride", "rhs_dilate", "lhs_dilate"))
    before = int(option("pad", "0_0").split("_")[0])
    at = (o * stride + k * dilation - before for o in range(outputs) for k in range(taps))
    return sum(place >= 0 and place % spread == 0 and place // spread < inputs for place in at) / outputs


# Memory -------------------------------------------------------------------------------------------------------------


def _traffic(line: Line, types: dict[str, str], computations: Computations) -> float:
    """Bytes that an instruction reads from and writes to memory."""
    op, operands = line.op, [types.get(name, "") for name in line.operands]
    if op in FREE or op.endswith(("-done", "-update")) or (op == "custom-call" and KERNEL not in line.attributes):
        return 0
    if op == "slice-start":
        return sum(shape.bytes for shape in shapes(line.type)[1:2])
    if op.endswith("-start"):
        return sum(shape.bytes for shape in shapes(line.type)[:2] if shape.in_memory)
    if op == "dynamic-slice":
        return 2 * size_of(line.type, True)
    if op == "dynamic-update-slice":
        return 2 * size_of(operands[1], True)
    written: float = size_of(line.type, True)
    read: list[float] = [size_of(operand, True) for operand in operands]
    if op == "fusion":
        inner = computations[dict(_called(line))["calls"]]
        for i, whole in enumerate(read):
            if whole and (part := _part_of_operand(inner, i, computations)) is not None:
                in_slices, in_place = part
                written += in_place - whole if in_place else 0
                read[i] = min(whole, in_slices)
    return max(written, 0) + sum(read)


def _part_of_operand(lines: list[Line], index: int, computations: Computations) -> tuple[float, float] | None:
    """(bytes read, bytes written in place) of a fusion's operand of which only slices are used; None if all of it
    is."""
    types = {line.name: line.type for line in lines}
    first = next((x.name for x in lines if x.op == "parameter" and x.literal == str(index)), None)
    if first is None:
        return None
    read = written = 0.0
    names = [first]
    for name in names:  # which grows: other names of the same array
        for line in lines:
            for position in (i for i, operand in enumerate(line.operands) if operand == name):
                if line.op in ("bitcast", "reshape"):
                    names += [line.name] * (line.name not in names)
                elif line.op in ("dynamic-slice", "slice"):
                    read += size_of(line.type)
                elif line.op == "dynamic-update-slice" and position == 0:
                    written += size_of(types.get(line.operands[1], ""))
                elif line.op == "fusion":
                    inner = computations[dict(_called(line))["calls"]]
                    if (part := _part_of_operand(inner, position, computations)) is None:
                        return None
                    read, written = read + part[0], written + part[1]
                elif line.op != "tuple":
                    return None
    return read, written


# Collectives --------------------------------------------------------------------------------------------------------


def _collective(
    line: Line, types: dict[str, str], computation: str, chips: int, seen: set[str]
) -> tuple[str, tuple[int, ...], float] | None:
    """(kind, chips of the first group, bytes of the whole array on a chip); None for anything else, and where it has
    been counted, by its channel."""
    kind = line.op.removesuffix("-start")
    if kind not in COLLECTIVES:
        return None
    if channel := re.search(r"channel_id=(\d+)", line.attributes):
        if channel[1] in seen:
            return None
        seen.add(channel[1])
    size: float = sum(size_of(types.get(name, "")) for name in line.operands)
    group = _group(line.attributes, chips)
    if kind == "all-gather":
        size *= len(group)
    if kind == "all-reduce" and "reduce-scatter" in computation:
        kind = "reduce-scatter"
    return kind, group, size


def _group(attributes: str, chips: int) -> tuple[int, ...]:
    """The chips of a collective's first group, in any of the ways in which HLO writes groups."""
    if listed := re.search(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}", attributes):
        return tuple(map(int, listed[1].split(",")))
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
        sizes = [int(size) for size in iota[3].split(",")]
        order = [int(axis) for axis in iota[4].split(",")] if iota[4] else list(range(len(sizes)))
        return tuple(_ids(sizes, order)[: int(iota[2])])
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", attributes):
        axes = {name: int(size) for name, size in re.findall(r"'([^'=]+)'=(\d+)", named[1])}
        over = [name for name in re.findall(r"'([^']+)'", named[2])]
        sizes, names = list(axes.values()), list(axes)
        order = [i for i, name in enumerate(names) if name not in over] + [names.index(name) for name in over]
        return tuple(_ids(sizes, order)[: math.prod(axes[name] for name in over)])
    return tuple(range(chips))


def _ids(sizes: list[int], order: list[int]) -> list[int]:
    """0 ... n - 1 of an array of these sizes, read with its axes in another order."""
    strides = [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
    found = [0]
    for axis in order:
        found = [base + i * strides[axis] for base in found for i in range(sizes[axis])]
    return found
