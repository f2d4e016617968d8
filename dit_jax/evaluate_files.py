"""Score anybody's samples: python -m dit_jax.evaluate --samples=FILE.npz --reference=FILE.npz

Either is an .npz file as ADM's evaluator reads it, with uint8 pictures [n, height, width, 3] in arr_0, which is what
dit_jax.sample writes too, or a folder of image files; a reference folder is fitted to the size of the samples. Nothing
in a file is unpickled. Scores are Frechet distance, KID, precision, recall, density, coverage and Vendi, of raw pixels
up to 32 x 32, of EfficientNet-Lite0 where it is installed, and with --inception=FILE of InceptionV3, whose published
weights make FID, sFID and IS of them. Each has its 95 % interval, and the score of as many real pictures beside it.

Writes OUT/NAME.json, which is added and never overwritten, with the protocol of each score.
--compare=A.json,B.json,... makes a table of several; files of different protocols are ranked with --across_protocols.
"""

import glob
import math
from pathlib import Path
from typing import Annotated, Any

from dit_jax.evaluation import report
from dit_jax.evaluation.features import Network, features, networks
from dit_jax.evaluation.pictures import Pictures, alike, open_pictures
from dit_jax.evaluation.protocol import line_of, protocol_of
from dit_jax.evaluation.scores import FEWEST, scored, warnings
from dit_jax.progress import progress
from dit_jax.schema import Local, Range, checks


@checks
def main(
    samples: Annotated[Local, "an .npz file, or a folder of images, to score"] = "",
    reference: Annotated[Local, "an .npz file, or a folder of images, of real ones"] = "",
    inception: Annotated[Local, "weights of FID's InceptionV3, pt_inception-2015-12-05-6726825d.pth"] = "",
    rounds: Annotated[int, Range(at_least=0, at_most=10_000), "halves for the interval; 0 for none"] = 20,
    batch: Annotated[int, Range(at_least=1, at_most=2**20), "pictures that a network looks at at once"] = 64,
    out: Annotated[Local, "where NAME.json goes"] = "evaluations",
) -> None:
    """Score pictures against others; see the module."""
    if not (samples and reference):
        raise ValueError("--samples=FILE.npz takes --reference=FILE.npz, or a folder, of real pictures")
    drawn = open_pictures(samples)
    real = open_pictures(reference, drawn.shape[:2])
    drawn, real = alike(drawn, real)
    for pictures in (drawn, real):
        if pictures.number < FEWEST:
            raise ValueError(f"{pictures.path} has {pictures.number} pictures, and scores take at least {FEWEST}")
    rows = [row(network, drawn, real, rounds, batch) for network in networks(drawn.shape, inception)]
    evaluation = {"samples": described(drawn), "reference": described(real), "rows": rows}
    print(report.table(evaluation))
    print(f"\n{report.add(Path(out), name_of(Path(samples)), evaluation)}")


@checks
def compare(
    compare: Annotated[tuple, "evaluations to compare: A.json,B.json, or a pattern such as 'evaluations/*.json'"] = (),
    across_protocols: Annotated[bool, "rank those of different protocols as well"] = False,
) -> None:
    """A table of several evaluations."""
    files = [file for word in compare for file in (sorted(glob.glob(word)) if "*" in word else [word])]
    if len(files) < 2:
        raise ValueError(f"--compare={','.join(compare)} is {len(files)} files; a comparison takes two: A.json,B.json")
    print(report.comparison({file: report.read(Path(file)) for file in files}, across_protocols))


def row(network: Network, samples: Pictures, reference: Pictures, rounds: int, batch: int) -> report.Row:
    """The scores of what a network sees, and their protocol."""
    seen = []
    for pictures, what in ((samples, "samples"), (reference, "reference")):
        with progress(pictures.number, 0, f"{network.name}, {what}") as show:
            seen.append(features(network, pictures, batch, show))
    found: dict[str, dict[str, Any]] = {}
    for kind, vectors in seen[0].items():
        statistics = reference.statistics.get(kind) if network.is_published else None
        for name, score in scored(vectors, seen[1][kind], kind, rounds, statistics).items():
            found[network.names.get(name, name)] = {
                key: None if math.isnan(value) else value for key, value in score.items()
            }
    protocol = protocol_of(samples, reference, network, rounds)
    return {
        "features": network.name,
        "protocol": protocol,
        "line": line_of(protocol, Path(reference.path).name),
        "scores": found,
        "warnings": warnings(samples.number, seen[0]["features"].shape[1]),
    }


def described(pictures: Pictures) -> dict[str, Any]:
    """Which pictures they are, for the file."""
    return {"path": pictures.path, "sha256": pictures.sha256, "number": pictures.number, "drawn": pictures.drawn}


def name_of(path: Path) -> str:
    """What an evaluation is called: as its samples, or, where these are a samples.npz, as their folder."""
    whole = path.expanduser().resolve()
    return whole.parent.name if whole.name == "samples.npz" else whole.name.removesuffix(".npz")
