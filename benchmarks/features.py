"""Feature extraction of InceptionV3 against torch's layers, the same weights and batch, in the same run.

    pip install torch && python benchmarks/features.py

Weights are random. Each repetition runs both sides in turn; the result is the ratio of the medians, theirs over ours:
above 1, this project is faster. Leave the machine alone meanwhile: torch's threads wait by spinning, so a busy machine
(the load is printed) flatters us.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch wants memory of the same GPU

import jax
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from dit_jax.evaluation import inception
from tests.test_inception import Inception

GPU = jax.default_backend() == "gpu"
BATCH, REPETITIONS = (128, 15) if GPU else (16, 7)
DEVICE = "cuda" if GPU else "cpu"


def main():
    network = Inception().eval()
    with tempfile.TemporaryDirectory() as folder:
        torch.save(network.state_dict(), f"{folder}/weights.pth")
        weights = jax.device_put(inception.load(f"{folder}/weights.pth")[0])
    pictures = np.random.default_rng(0).integers(0, 256, (BATCH, 299, 299, 3)).astype(np.uint8)
    network.to(DEVICE)

    def ours() -> np.ndarray:
        return np.asarray(inception.look(weights, pictures)["features"])

    def theirs() -> np.ndarray:
        with torch.inference_mode():
            x = torch.from_numpy(pictures).to(DEVICE).permute(0, 3, 1, 2).float()
            return network((x - 128) / 128)["features"].cpu().numpy()

    print(f"{jax.devices()[0].device_kind}, load {os.getloadavg()[0]:.1f}, batches of {BATCH}")
    difference = np.abs(ours() - theirs()).max() / np.abs(theirs()).max()
    print(f"features differ by {difference:.1e} of the largest")
    times = {ours: [], theirs: []}
    for _ in range(REPETITIONS):
        for side, taken in times.items():
            start = time.perf_counter()
            side()
            taken.append(time.perf_counter() - start)
    ours_s, theirs_s = (statistics.median(taken) for taken in times.values())
    print(f"ours {BATCH / ours_s:.1f} pictures a second, torch {BATCH / theirs_s:.1f}: {theirs_s / ours_s:.2f}")


if __name__ == "__main__":
    main()
