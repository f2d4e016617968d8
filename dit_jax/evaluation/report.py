"""Evaluations as files that are added and never overwritten, and as tables: of one of them, and of several."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

from dit_jax.evaluation.protocol import differences

Row = dict[str, Any]  # features, protocol, line, scores, warnings
Evaluation = dict[str, Any]  # samples, reference, rows

LOWER_IS_BETTER = ("FID", "frechet")  # what rows are ranked by: the first of these that they have


def add(folder: Path, name: str, evaluation: Evaluation) -> Path:
    """Write an evaluation as FOLDER/NAME.json, or NAME-2.json, NAME-3.json ... where there is one, and return where."""
    text = json.dumps(evaluation, indent=2, allow_nan=False) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            path = folder / f"{name}{f'-{number}' * (number > 1)}.json"
            try:
                with path.open("x") as file:
                    file.write(text)
                return path
            except FileExistsError:
                continue
    except OSError as error:
        raise OSError(f"{folder} cannot be written to: {error.strerror or error}; choose another --out") from None
    raise AssertionError("numbers do not end")


def read(path: Path) -> Evaluation:
    """One that `add` has written. Raises OSError if it cannot be read, ValueError if it is none; both name it."""
    try:
        found = json.loads(path.read_text())
        rows = [(row["features"], row["protocol"].keys(), row["scores"].items()) for row in found["rows"]]
        if not rows or not all(isinstance(score["value"], float) for row in rows for _, score in row[2]):
            raise ValueError("it has no scores")
    except OSError as error:
        raise OSError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no evaluation that dit_jax.evaluate --samples has written: {error}") from None
    return found


def table(evaluation: Evaluation) -> str:
    """What is printed of an evaluation: for each network its scores, with their interval and real data's, the protocol
    in one line, and warnings."""
    blocks = []
    for row in evaluation["rows"]:
        lines = [["", "samples", "95 %", "real data"]]
        for name, score in row["scores"].items():
            within = "" if score["within"] is None else f"+- {_number(score['within'])}"
            exact = f", residual {score['residual']:.0e}" if "residual" in score else ""
            lines.append([f"{name}{exact}", _number(score["value"]), within, _number(score["real"])])
        lines[0][0] = row["features"]
        warnings = [f"  warning: {text}" for text in row["warnings"]]
        blocks.append("\n".join([*_columns(lines), f"  {row['line']}", *warnings]))
    return "\n\n".join(blocks)


def comparison(evaluations: dict[str, Evaluation], across: bool = False) -> str:
    """A table of several evaluations, {name: evaluation}, for each network that more than one of them has: the best
    Frechet distance first, with ranks, if all have the same protocol, or if `across` says that it does not matter. If
    not, they stay in their order, and the fields that differ are named."""
    by_network: dict[str, dict[str, Row]] = {}
    for name, evaluation in evaluations.items():
        for row in evaluation["rows"]:
            by_network.setdefault(row["features"], {})[name] = row
    return "\n\n".join(_compared(network, rows, across) for network, rows in by_network.items())


def _compared(network: str, rows: dict[str, Row], across: bool) -> str:
    (first, one), *others = rows.items()
    apart = [(name, differences(one["protocol"], row["protocol"])) for name, row in others]
    notes = [f"  {first} and {name} differ in {', '.join(fields)}" for name, fields in apart if fields]
    is_ranked = not notes or across
    if notes and not across:
        notes.append("  so they are not ranked; --across_protocols does it all the same")
    if is_ranked:
        rows = dict(sorted(rows.items(), key=lambda item: _rank_by(item[1])))
    names = [*dict.fromkeys(name for row in rows.values() for name in row["scores"])]
    lines = [[network, *names]]
    for rank, (name, row) in enumerate(rows.items(), 1):
        values = [_with_interval(row["scores"].get(score)) for score in names]
        lines.append([f"{rank}. {name}" if is_ranked and len(rows) > 1 else name, *values])
    return "\n".join([*_columns(lines), *notes])


def _rank_by(row: Row) -> float:
    return next((row["scores"][name]["value"] for name in LOWER_IS_BETTER if name in row["scores"]), math.inf)


def _with_interval(score: dict[str, Any] | None) -> str:
    if score is None:
        return ""
    within = "" if score["within"] is None else f" +- {_number(score['within'])}"
    return f"{_number(score['value'])}{within}"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _columns(lines: list[list[str]]) -> list[str]:
    """Cells as lines of text, the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines]
