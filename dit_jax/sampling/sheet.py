"""Contact sheets: many small pictures, with words above them, on one page, and a title that says what they are of."""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dit_jax.diffusion.stream import Axis, Streams, View
from dit_jax.run import SampleOptions

BORDER, GAP, MARGIN, LINE, TICK = 1, 4, 8, 15, 3  # pixels: around a picture, between two, between tiles; of text, ticks
GREY, LEAST, TICKS = 150, 360, 6  # the border, seen on white and on black; pixels of a title; ticks of an axis, at most
FONT, SMALL = ImageFont.load_default(12), ImageFont.load_default(10)


def sheet(
    streams: Streams, sample: dict[str, np.ndarray], title: str = "", columns: int = 0, size: int = 64
) -> np.ndarray | None:
    """A sample {name: [k, *shape]} -> an RGB picture [height, width, 3] in 0 ... 255, or None if nothing can be seen.

    One tile an example, pictures side by side and words above them; about as many pixels down as across, unless
    `columns` says how many tiles are in a row. Small pictures are enlarged by a whole factor to about `size`, so that
    their pixels stay what they are. Each has a border, and so has each frame; lower ones stand in the middle.
    """
    there = [(stream.view, sample[name]) for name, stream in streams.items() if name in sample]
    shown = [(view, view.show(examples)) for view, examples in there if view.show is not None]
    pictures = [_framed(view, part, size) for view, part in shown if isinstance(part, np.ndarray)]
    captions = [" ".join(words) for words in zip(*(part for _, part in shown if isinstance(part, list)), strict=True)]
    if not pictures:
        return None
    tiles = _side_by_side(pictures)
    k, height, width, _ = tiles.shape
    columns, above = columns or math.ceil(math.sqrt(k * height / width)), LINE if captions else 0
    wide, high = width + MARGIN, height + above + MARGIN
    across = max(wide * columns + MARGIN, LEAST if title else 0)
    lines = _wrapped(title, across - 2 * MARGIN)
    top = len(lines) * LINE + MARGIN
    page = Image.new("RGB", (across, top + high * -(-k // columns)), "white")
    pen = ImageDraw.Draw(page)
    for i, line in enumerate(lines):
        pen.text((MARGIN, MARGIN // 2 + i * LINE), line, "black", FONT)
    for i, tile in enumerate(tiles):
        x, y = i % columns * wide + MARGIN, i // columns * high + top
        page.paste(Image.fromarray(tile), (x, y + above))
        if captions:
            pen.text((x, y), _shortened(captions[i], width), "black", FONT)
    return np.asarray(page)


def title_of(workdir: str | Path, step: int | None, options: SampleOptions) -> str:
    """What a sheet is of: the run, the step of its checkpoint where one is known, and how samples were drawn."""
    words = [Path(workdir).resolve().name, *([] if step is None else [f"step {step:,}"])]
    words += [f"{options.solver} in {options.steps:,} steps", f"guidance {options.guidance}", f"seed {options.seed}"]
    return ", ".join(words)


def texts(streams: Streams, sample: dict[str, np.ndarray], names: Iterable[str]) -> list[str]:
    """What samples say in the streams of text among `names`, each after its number; nothing where there are none.
    Characters that would do something to a terminal have a mark in their place."""
    there = [(streams[name].view, sample[name]) for name in names if name in sample]
    said = [view.show(examples) for view, examples in there if view.show is not None and view.to_bytes is not None]
    return [f"{i}: {_printable(' | '.join(words))}" for i, words in enumerate(zip(*said, strict=True))]


def ticks(axis: Axis, count: int, apart: float) -> list[float]:
    """Round values, 1, 2 or 5 times a power of ten apart, of an axis of `count` columns; at least `apart` of them lie
    between two."""
    least = apart * axis.step
    power = 10.0 ** math.floor(math.log10(least))
    step = next(times * power for times in (1, 2, 5, 10) if times * power >= least)
    first, last = axis.start - axis.step / 2, axis.start + (count - 0.5) * axis.step
    return [i * step for i in range(math.ceil(first / step), math.floor(last / step) + 1)]


def _framed(view: View, pictures: np.ndarray, size: int) -> np.ndarray:
    """[k, height, width, 1 or 3] -> the same as RGB, a whole factor larger, with borders and axes."""
    factor, channels = max(1, size // pictures.shape[1]), pictures.shape[-1]
    large = pictures.repeat(factor, 1).repeat(factor, 2).repeat(3 // channels, 3)
    frames = np.split(large, pictures.shape[2] // view.frame if view.frame else 1, axis=2)
    edge = (BORDER, BORDER)
    framed = [np.pad(frame, ((0, 0), edge, edge, (0, 0)), constant_values=GREY) for frame in frames]
    whole = np.concatenate(framed, axis=2)
    return whole if view.axes is None else _with_axes(whole, view.axes, factor)


def _with_axes(pictures: np.ndarray, axes: tuple[Axis, Axis], factor: int) -> np.ndarray:
    """[k, height, width, 3], each value `factor` pixels and a border around all, with ticks and numbers below and on
    the left."""
    (k, height, width, _), (across, up) = pictures.shape, axes
    columns, rows = ((pixels - 2 * BORDER) // factor for pixels in (width, height))
    right = _labels(across, columns, max(1.5 * LINE, width / TICKS) / factor)
    upwards = _labels(up, rows, max(LINE, height / TICKS) / factor)
    left = TICK + 2 + math.ceil(max(map(SMALL.getlength, upwards.values()), default=0))
    page = Image.new("RGB", (left + width, height + TICK + LINE), "white")
    pen = ImageDraw.Draw(page)
    for at, label in upwards.items():
        y = height - 1 - BORDER - int(at * factor)
        pen.line((left - TICK, y, left - 1, y), "black")
        pen.text((left - TICK - 2, max(y, LINE // 2)), label, "black", SMALL, anchor="rm")
    for at, label in right.items():
        x, half = left + BORDER + int(at * factor), SMALL.getlength(label) / 2
        pen.line((x, height, x, height + TICK - 1), "black")
        pen.text((min(x, left + width - half), height + TICK), label, "black", SMALL, anchor="ma")
    tiles = np.tile(np.asarray(page), (k, 1, 1, 1))
    tiles[:, :height, left:] = pictures
    return tiles


def _labels(axis: Axis, count: int, apart: float) -> dict[float, str]:
    """{how many columns from the beginning: the number there}, the last with its unit."""
    values = ticks(axis, count, apart)
    words = [f"{value:g}" for value in values[:-1]] + [f"{value:g} {axis.unit}" for value in values[-1:]]
    return {(value - axis.start) / axis.step + 0.5: word for value, word in zip(values, words, strict=True)}


def _side_by_side(pictures: list[np.ndarray]) -> np.ndarray:
    """Several [k, h, w, 3] -> [k, height, width, 3] on white, each in the middle of the height."""
    height, parts = max(part.shape[1] for part in pictures), []
    for i, part in enumerate(pictures):
        above, rest = divmod(height - part.shape[1], 2)
        around = ((0, 0), (above, above + rest), (GAP if i else 0, 0), (0, 0))
        parts.append(np.pad(part, around, constant_values=255))
    return np.concatenate(parts, axis=2)


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of whole words, each at most `width` pixels long; a longer word is shortened."""
    lines: list[str] = []
    for word in text.split():
        if lines and FONT.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(_shortened(word, width))
    return lines


def _shortened(text: str, width: int) -> str:
    """As much of a text as fits, on one line."""
    text = _printable(" ".join(text.split()))
    if FONT.getlength(text) <= width:
        return text
    while text and FONT.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
