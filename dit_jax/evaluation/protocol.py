"""The protocol of a score: all that decides it beside the samples themselves, in full and in one line."""

import importlib.metadata
from typing import Any

from dit_jax.evaluation.features import Network
from dit_jax.evaluation.neighbours import BALL, MANIFOLD
from dit_jax.evaluation.pictures import Pictures

LIBRARIES = ("dit_jax", "jax", "numpy", "scipy")


def protocol_of(samples: Pictures, reference: Pictures, network: Network, rounds: int) -> dict[str, Any]:
    """A flat dict, of which two scores can be compared if they have the same."""
    return {
        "number": samples.number,
        "picture": "x".join(map(str, samples.shape)),
        "reference": reference.sha256,
        "reference_number": reference.number,
        "reference_statistics": "of its file" if network.is_published and reference.statistics else "of its pictures",
        "features": network.name,
        "weights": network.sha256 or "none",
        "resize": network.resize,
        "precision": "float32 features, float64 scores",
        "kid": "(x y / d + 1)^3, unbiased, all pairs",
        "neighbours": f"precision and recall {MANIFOLD}, density and coverage {BALL}",
        "interval": f"{rounds} halves of the samples, seed 0",
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def line_of(protocol: dict[str, Any], reference: str) -> str:
    """The protocol in one line, to paste beside a number. reference: its name."""
    libraries = " ".join(f"{name} {protocol[name]}" for name in LIBRARIES)
    return (
        f"{protocol['number']} samples of {protocol['picture']} against {protocol['reference_number']} of {reference} "
        f"(sha256 {protocol['reference'][:8]}, statistics {protocol['reference_statistics']}); {protocol['features']} "
        f"(weights {protocol['weights'][:8]}), resize {protocol['resize']}; {protocol['precision']}; {libraries}"
    )


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The fields in which two protocols differ, each with both values."""
    return [
        f"{name} ({_short(one.get(name))}, {_short(other.get(name))})"
        for name in one | other
        if one.get(name) != other.get(name)
    ]


def _short(value: Any) -> str:
    return value[:8] if isinstance(value, str) and len(value) == 64 else str(value)
