"""The picture of the architecture, docs/architecture.png: python docs/architecture.py

Its words are those of the code: streams, processes, solvers and all other tables are imported, and modules are named
by importing them, so that a name that changes breaks this script, and a row that is new is in the picture. Levels, and
the attention mask of a text in four blocks and its past, are drawn as the code makes them; what stands under "samples"
is a sketch. Needs matplotlib.
"""

import importlib
import io
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from dit_jax.config import STREAMS
from dit_jax.diffusion.ddpm import PROCESSES
from dit_jax.diffusion.gaussian import PREDICTIONS, Gaussian
from dit_jax.diffusion.grids import GRIDS, level_rows
from dit_jax.diffusion.guidance import COMBINE, autoguidance, classifier_free
from dit_jax.diffusion.joint_levels import JOINT_LEVELS
from dit_jax.diffusion.levels import LEVELS
from dit_jax.diffusion.masked import REVEALS, Masked
from dit_jax.diffusion.meanflow import Span
from dit_jax.diffusion.objective import OBJECTIVES
from dit_jax.diffusion.process import Process
from dit_jax.diffusion.solvers import SOLVERS
from dit_jax.network.dit import DiT, DiTBlock
from dit_jax.network.layers import MLP, Attention, LevelEmbed
from dit_jax.network.layout import attention_mask

# Where each part of the picture is to be found.
MODULES = {
    "streams": "dit_jax.streams",
    "processes": "dit_jax.diffusion.process",
    "levels": "dit_jax.diffusion.levels",
    "joint levels": "dit_jax.diffusion.joint_levels",
    "tokens": "dit_jax.network.tokens",
    "layout": "dit_jax.network.layout",
    "network": "dit_jax.network.dit",
    "layers": "dit_jax.network.layers",
    "objective": "dit_jax.diffusion.objective",
    "sampler": "dit_jax.diffusion.sampler",
    "solvers": "dit_jax.diffusion.solvers",
    "guidance": "dit_jax.diffusion.guidance",
    "rows": "dit_jax.diffusion.grids",
    "draw": "dit_jax.sampling.draw",
    "step": "dit_jax.training.step",
}
PICTURE = Path(__file__).with_suffix(".png")

# One of each, for the colour of its process.
IMAGE = STREAMS["image"](shape=(8, 8, 1), patch=2)
TEXT = STREAMS["text"](length=8, blocks=4)
SOUND = STREAMS["audio"](length=512, patch=64)
EXAMPLES = {
    "image": IMAGE,
    "video": STREAMS["video"](shape=(4, 8, 8, 1)),
    "audio": SOUND,
    "text": TEXT,
    "label": STREAMS["label"](classes=10),
    "past": STREAMS["past"](TEXT),
    "duration": STREAMS["duration"](SOUND, of="audio"),
    "span": STREAMS["span"](),
}
SAYS = {
    "image": "pixels, latents",
    "video": "frame after frame",
    "audio": "waveform",
    "text": "bytes, BPE tokens",
    "label": "class",
    "past": "clean context",
    "duration": "where it ends",
    "span": "length of a step",
}
assert EXAMPLES.keys() == STREAMS.keys() == SAYS.keys(), "a stream that is new has a row in EXAMPLES and in SAYS"

INK, GREY, LINE = "#1f2733", "#6b7686", "#c3cad4"
COLOURS: dict[type[Process], tuple[str, str]] = {
    Gaussian: ("#dfeafa", "#3b73c4"),
    Masked: ("#dff2e4", "#2f8f55"),
    Span: ("#fbead2", "#c57a14"),
}


def module(part: str) -> str:
    """'network/dit.py' of a part. Raises ImportError for a module that is not there."""
    file = importlib.import_module(MODULES[part]).__file__
    path = Path(str(file))
    inside = path.parent if path.name == "__init__.py" else path
    name = inside.relative_to(Path(str(importlib.import_module("dit_jax").__file__)).parent).as_posix()
    return f"{name}/" if inside.is_dir() else name


def colours(process: Process) -> tuple[str, str]:
    return next(pair for kind, pair in COLOURS.items() if isinstance(process, kind))


class Canvas:
    """A page of 900 x 772 pixels, y downwards."""

    def __init__(self, width: float = 900, height: float = 772):
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        self.words: list[str] = []  # all that is written on it
        self.figure = pyplot.figure(figsize=(width / 100, height / 100), facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        self.axes.axis("off")

    def box(self, x, y, w, h, fill="white", edge=LINE, radius=8.0, line=1.2, **options):
        from matplotlib.patches import FancyBboxPatch

        style = f"round,pad=0,rounding_size={radius}"
        self.axes.add_patch(
            FancyBboxPatch((x, y), w, h, boxstyle=style, facecolor=fill, edgecolor=edge, linewidth=line, **options)
        )

    def text(self, x, y, words, size=8.5, colour=INK, ha="left", va="center", **options):
        self.words.append(words)
        self.axes.text(x, y, words, fontsize=size, color=colour, ha=ha, va=va, **options)

    def panel(self, x, y, w, h, title, *parts, fill="#f7f9fb"):
        """A room: its title above, its modules below."""
        self.box(x, y, w, h, fill=fill)
        self.text(x + w / 2, y + 17, title, size=11, ha="center", fontweight="bold")
        for i, part in enumerate(reversed(parts)):
            self.code(x + w / 2, y + h - 11 - 13 * i, module(part))

    def code(self, x, y, words, ha="center"):
        self.text(x, y, words, size=7, colour=GREY, ha=ha, family="monospace")

    def pill(self, x, y, w, h, words, fill="white", edge=LINE, size=8.5, **options):
        self.box(x, y, w, h, fill=fill, edge=edge, radius=6)
        self.text(x + w / 2, y + h / 2 + 0.5, words, size=size, ha="center", **options)

    def arrow(self, *points, colour=INK, line=1.6):
        """Along straight lines from point to point, with a head at the last."""
        xs, ys = zip(*points, strict=True)
        self.axes.plot(xs[:-1], ys[:-1], color=colour, linewidth=line, solid_capstyle="round")
        self.axes.annotate(
            "",
            xy=points[-1],
            xytext=points[-2],
            arrowprops={
                "arrowstyle": "-|>,head_width=0.22,head_length=0.42",
                "color": colour,
                "linewidth": line,
                "shrinkA": 0,
                "shrinkB": 0,
            },
        )

    def list(self, x, y, words, width, size=8.0, pitch=14.0, **options):
        """Words one after another, in lines of at most so many characters; returns where the next line would be."""
        lines = [""]
        for word in words:
            longer = f"{lines[-1]}, {word}" if lines[-1] else word
            lines = [*lines[:-1], longer] if len(longer) <= width else [*lines, word]
        for i, line in enumerate(lines):
            comma = "," if i < len(lines) - 1 else ""
            self.text(x, y + pitch * i, line + comma, size=size, **options)
        return y + pitch * len(lines)


def streams(page: Canvas):
    page.panel(14, 14, 132, 418, "streams", "streams")
    for i, (name, stream) in enumerate(EXAMPLES.items()):
        fill, edge = colours(stream.process)
        y = 44 + min(44.5, 386 / len(EXAMPLES)) * i
        page.box(24, y, 112, 38, fill=fill, edge=edge, radius=6)
        page.text(80, y + 12, name, size=9, ha="center", fontweight="bold")
        page.text(80, y + 27, SAYS[name], size=7.5, colour=GREY, ha="center")


def noise(page: Canvas):
    page.panel(168, 14, 154, 418, "noise", "processes", "levels", "joint levels")
    rows = [
        (" · ".join(PROCESSES), r"$z = \alpha x + \sigma\,\epsilon$", Gaussian),
        (Masked.__name__, "hidden with probability t", Masked),
        (Span.__name__, "never noised", Span),
    ]
    for i, (name, words, kind) in enumerate(rows):
        y = 44 + 49 * i
        fill, edge = COLOURS[kind]
        page.box(178, y, 134, 42, fill=fill, edge=edge, radius=6)
        page.text(245, y + 13, name, size=9, ha="center", fontweight="bold")
        page.text(245, y + 29, words, size=7.4, ha="center")
    page.text(180, 206, "level t", size=9, fontweight="bold")
    page.text(180, 223, "0: data   1: noise, absent", size=7.5)
    page.text(180, 248, "its distribution", size=8, colour=GREY)
    y = page.list(180, 264, LEVELS, 24)
    page.text(180, y + 8, "of all streams together", size=8, colour=GREY)
    page.list(180, y + 24, [name for name in JOINT_LEVELS if name != "corners"], 18)


def tokens(page: Canvas):
    middle = 401
    page.panel(344, 14, 114, 418, "tokens", "tokens", "layout")
    page.text(middle, 47, "embed + position", size=7.8, colour=GREY, ha="center")
    side, gap, y = 13, 3, 68
    for name, columns, rows, axes in (
        ("video", 3, 2, "time, row, column"),
        ("image", 3, 2, "row, column"),
        ("audio", 5, 1, "time"),
        ("text", 5, 1, "time"),
    ):
        fill, edge = colours(EXAMPLES[name].process)
        layers = 3 if name == "video" else 1
        left = middle - (columns * (side + gap) - gap) / 2
        for layer in reversed(range(layers)):
            for row in range(rows):
                for column in range(columns):
                    x = left + column * (side + gap) + 5 * (layer - (layers - 1) / 2)
                    page.box(x, y + row * (side + gap) - 5 * (layer - (layers - 1)), side, side, fill, edge, 2.5, 0.9)
        y += rows * (side + gap) + 5 * (layers - 1) + 7
        page.text(middle, y, axes, size=7.5, ha="center")
        y += 16
    page.text(middle, y + 8, "no tokens, modulate", size=7.2, colour=GREY, ha="center")
    for i, name in enumerate(name for name, stream in EXAMPLES.items() if stream.positions is None):
        fill, edge = colours(EXAMPLES[name].process)
        page.pill(360, y + 20 + 22 * i, 82, 18, name, fill, edge, size=7.8)


def network(page: Canvas):
    x, w, violet, light = 480, 248, "#7d53b5", "#efe6fb"
    middle = x + w / 2
    page.panel(x, 14, w, 418, DiT.__name__, "network", fill="#fbf8ff")
    page.pill(x + 12, 40, w - 24, 42, "", light, violet)
    page.text(middle, 54, "timestep embedding + label, ...", size=8.5, ha="center", fontweight="bold")
    page.code(middle, 70, f"{LevelEmbed.__name__} · {module('layers')}")
    page.arrow((middle, 83), (middle, 96), colour=violet)

    page.box(x + 12, 97, w - 24, 253, fill="white", edge=violet)
    page.text(x + 24, 113, f"{DiTBlock.__name__} * depth", size=9, fontweight="bold")
    page.text(x + w - 24, 113, "adaLN-zero", size=8.3, ha="right", colour=violet)
    page.pill(x + 24, 127, w - 48, 22, "norm  ·  shift, scale", light, violet, size=8.3)
    page.box(x + 24, 156, w - 48, 92, fill="#f7f9fb", edge=LINE, radius=6)
    page.text(x + 34, 171, Attention.__name__, size=9, fontweight="bold")
    for i, words in enumerate(("RoPE on q and k", "KV cache", "attention mask")):
        page.text(x + 34, 190 + 16 * i, words, size=8)
    page.code(x + 34, 237, module("layout"), ha="left")
    mask = np.asarray(attention_mask({"text": TEXT, "past": EXAMPLES["past"]}, {}))
    side, left, top = 78 / len(mask), x + w - 110, 163
    for i, j in zip(*np.nonzero(mask), strict=True):
        page.box(left + j * side, top + i * side, side - 0.7, side - 0.7, "#2f8f55", "none", 0.6, 0)
    page.box(left - 1, top - 1, 80, 80, fill="none", edge=LINE, radius=2, line=0.8)
    page.text(middle, 259, "gate, residual", size=8.3, ha="center", colour=violet)
    page.pill(x + 24, 271, w - 48, 22, "norm  ·  shift, scale", light, violet, size=8.3)
    page.pill(x + 24, 301, w - 48, 24, MLP.__name__, "#f7f9fb", LINE, size=9, fontweight="bold")
    page.text(middle, 337, "gate, residual", size=8.3, ha="center", colour=violet)

    page.arrow((middle, 351), (middle, 365))
    page.pill(x + 12, 366, w - 24, 34, "", light, violet)
    page.text(middle, 383, "final layer, a head for each stream", size=7.8, ha="center", fontweight="bold")


def predictions(page: Canvas):
    middle = 818
    page.panel(750, 14, 136, 186, "training", "objective", "step")
    page.text(middle, 50, "loss", size=8, colour=GREY, ha="center")
    for i, name in enumerate(OBJECTIVES):
        page.text(middle, 68 + 17 * i, name, size=8.3, ha="center")
    page.text(middle, 128, "one update on", size=8, colour=GREY, ha="center")
    page.text(middle, 143, "a mesh of devices", size=8, colour=GREY, ha="center")

    page.panel(750, 230, 136, 202, "predictions")
    fill, edge = COLOURS[Gaussian]
    page.box(762, 260, 112, 104, fill=fill, edge=edge, radius=6)
    for i, name in enumerate(PREDICTIONS):
        page.text(middle, 274 + 19 * i, name, size=8.5, ha="center")
    fill, edge = COLOURS[Masked]
    page.pill(762, 372, 112, 24, "logits", fill, edge)
    page.text(middle, 414, "of each stream", size=8, colour=GREY, ha="center")


def sampler(page: Canvas):
    top = 470
    page.panel(168, top, 560, 288, "sampler", fill="#fffdf6")
    page.code(716, top + 17, module("sampler"), ha="right")
    page.code(180, top + 17, module("draw"), ha="left")

    page.box(480, top + 36, 236, 96, fill="white")
    page.text(492, top + 52, "guidance", size=9.5, fontweight="bold")
    page.text(704, top + 52, "predict → predict", size=8, ha="right", colour=GREY)
    y = page.list(492, top + 72, [classifier_free.__name__, autoguidance.__name__], 40)
    page.list(492, y + 3, COMBINE, 40)
    page.code(598, top + 120, module("guidance"))

    page.box(180, top + 36, 278, 96, fill="white")
    page.text(192, top + 52, "solver", size=9.5, fontweight="bold")
    page.text(446, top + 52, "from levels t to s", size=8, ha="right", colour=GREY)
    y = page.list(192, top + 72, SOLVERS, 48)
    page.text(192, y + 3, f"hidden tokens: {', '.join(REVEALS)}", size=8)
    page.code(319, top + 120, module("solvers"))

    page.box(180, top + 142, 536, 136, fill="white")
    page.text(192, top + 158, "rows", size=9.5, fontweight="bold")
    page.text(232, top + 158, "levels of each stream by step", size=7.8)
    page.text(704, top + 158, f"grid: {', '.join(GRIDS)}", size=7.5, ha="right", colour=GREY)
    page.code(448, top + 266, module("rows"))
    both = {"image": IMAGE, "text": STREAMS["text"](length=8)}
    blocks, clip = {"text": TEXT, "past": EXAMPLES["past"]}, {"clip": EXAMPLES["video"]}
    cases = [
        ("text → image", both, level_rows(both, ["text"], 12)),
        ("both at once", both, level_rows(both, [], 12)),
        ("image alone", both, level_rows(both, [], 12, drawn=["image"])),
        ("frame → clip", clip, level_rows(clip, ["clip"], 12, prefix={"clip": 1})),
        ("block after block", blocks, level_rows(blocks, [], 4)),
    ]
    for i, (title, shown, rows) in enumerate(cases):
        plot(page, 200 + 104 * i, top + 184, 86, 52, title, shown, rows)


def plot(page: Canvas, x, y, w, h, title, shown, rows):
    """Levels over steps: 1 above, 0 below."""
    page.axes.plot([x, x, x + w], [y - 3, y + h, y + h], color=LINE, linewidth=1)
    page.text(x - 5, y + 1, "1", size=6.5, colour=GREY, ha="center")
    page.text(x - 5, y + h - 1, "0", size=6.5, colour=GREY, ha="center")
    lift = 0.0
    for name, row in rows.items():
        if shown[name].past_of:
            continue
        edge = colours(shown[name].process)[1]
        for level in np.reshape(row, (len(row), -1)).T:
            at = np.linspace(x, x + w, len(level))
            page.axes.plot(at, y + h - level * h - lift, color=edge, linewidth=1.7, solid_capstyle="round")
        lift += 2.6
    page.text(x + w / 2, y + h + 12, title, size=8, ha="center")


def samples(page: Canvas):
    from sklearn.datasets import load_digits

    page.panel(14, 470, 132, 288, "samples")
    page.text(80, 507, "at t = 0", size=8, ha="center", colour=GREY)
    digit = load_digits().images[3]
    page.axes.imshow(digit, cmap="Blues", extent=(56, 104, 572, 524), aspect="auto", zorder=3)
    page.box(55, 523, 50, 50, fill="none", radius=2, line=0.8, zorder=4)
    page.text(80, 592, "“three”", size=11, ha="center", colour=COLOURS[Masked][1])
    t = np.linspace(0, 1, 240)
    wave = np.sin(60 * t) * np.exp(-5 * (t - 0.35) ** 2) * (0.6 + 0.4 * np.sin(9 * t))
    page.axes.plot(34 + 92 * t, 624 + 15 * wave, color=COLOURS[Gaussian][1], linewidth=1.1)
    for frame in range(4):
        clip = np.zeros((16, 16))
        clip[2 + 2 * frame :, 1 + 2 * frame :][:8, :8] = digit
        left = 27 + 27 * frame
        page.axes.imshow(clip, cmap="Blues", extent=(left, left + 25, 674, 649), aspect="auto", zorder=3)
        page.box(left - 0.5, 648.5, 26, 26, fill="none", radius=2, line=0.8, zorder=4)
    page.text(80, 708, "any of them, given", size=8, ha="center", colour=GREY)
    page.text(80, 724, "any of the others", size=8, ha="center", colour=GREY)


def arrows(page: Canvas):
    page.arrow((147, 223), (167, 223))
    page.arrow((323, 223), (343, 223))
    page.arrow((459, 138), (491, 138))
    page.arrow((717, 383), (749, 383))
    page.arrow((818, 229), (818, 201))
    page.arrow((818, 433), (818, 554), (717, 554))
    page.arrow((479, 554), (459, 554))
    page.arrow((179, 554), (147, 554))
    page.arrow((459, 61), (491, 61))
    page.arrow((401, 505), (401, 433))
    page.text(393, 452, "all streams at their next levels, and so on", size=8, ha="right", colour=GREY)
    page.arrow((319, 611), (319, 603))


def draw() -> Canvas:
    page = Canvas()
    for part in (streams, noise, tokens, network, predictions, sampler, samples, arrows):
        part(page)
    return page


def main() -> None:
    """Write the picture, with its words in it, by which a test sees that it is of today."""
    page, pixels, words = draw(), io.BytesIO(), PngImagePlugin.PngInfo()
    page.figure.savefig(pixels, dpi=200)
    words.add_text("words", "|".join(page.words), zip=True)
    Image.open(pixels).convert("RGB").quantize(256).save(PICTURE, pnginfo=words, optimize=True)
    print(PICTURE)


if __name__ == "__main__":
    main()
