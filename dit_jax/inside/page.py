"""Pictures of panels, and the page that they are on: one file of HTML, light or dark, that needs no other."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

HEAD = """<!doctype html>
<html lang=en>
<meta charset=utf-8>
<meta name=viewport content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere }
figure { display: inline-block; margin: 0 1rem 1rem 0; max-width: 100%; vertical-align: top }
img { max-width: 100%; background: white; border-radius: 6px }
figcaption { font-size: 0.85rem }
pre { white-space: pre-wrap }
</style>"""

Figures = dict[str, bytes | str]  # a PNG, or words, by its caption


def page(title: str, panels: Mapping[tuple[str, str], Figures]) -> str:
    """HTML of panels {(heading, what it shows): its figures}."""
    parts = [HEAD, "<title>{0}</title><h1>{0}</h1>".format(html.escape(title))]
    for (heading, about), figures in panels.items():
        parts.append(f"<h2>{html.escape(heading)}</h2><p>{html.escape(about)}</p>")
        for caption, shown in figures.items():
            name = html.escape(caption)
            if isinstance(shown, str):
                inner = f"<pre>{html.escape(shown)}</pre>"
            else:
                inner = f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(shown).decode()}">'
            parts.append(f"<figure>{inner}<figcaption>{name}</figcaption></figure>")
    return "\n".join(parts) + "\n"


def heat(values: Any, rows: Sequence[Any], columns: Sequence[Any], axes: tuple[str, str] = ("", "")) -> bytes:
    """A heat map of values [rows, columns], each with its number; axes: what columns and rows are."""
    values = np.asarray(values, np.float64)
    plot, most = _plot(0.62 * len(columns) + 1.8, 0.36 * len(rows) + 1.0), np.abs(values).max() or 1.0
    low, colours = (-most, "RdBu_r") if values.min() < 0 else (0.0, "Blues")
    plot.imshow(values, cmap=colours, vmin=low, vmax=most, aspect="auto")
    plot.set_xticks(range(len(columns)), columns)
    plot.set_yticks(range(len(rows)), rows)
    plot.set(xlabel=axes[0], ylabel=axes[1])
    for (row, column), value in np.ndenumerate(values):
        dark = abs(value) > 0.6 * most
        plot.text(column, row, f"{value:.2g}", ha="center", va="center", size=7, color="white" if dark else "black")
    return _png(plot)


def curves(x: Sequence[float], lines: Mapping[str, Any], axes: tuple[str, str], scale: str = "linear") -> bytes:
    """Curves {name: [len(x)]}; axes: what x and y are. scale: of y, linear or log."""
    plot = _plot(5.0, 3.2)
    for name, y in lines.items():
        plot.plot(x, y, marker=".", label=name)
    plot.set(xlabel=axes[0], ylabel=axes[1], yscale=scale)
    plot.legend(fontsize=8)
    return _png(plot)


def picture(image: Any) -> bytes:
    """An RGB picture [height, width, 3] in 0 ... 255."""
    file = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(file, "png")
    return file.getvalue()


def _plot(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise OSError("matplotlib, which draws, is not installed: pip install 'dit_jax[inspect]'") from None
    return Figure(figsize=(width, height), dpi=110, layout="constrained").subplots()


def _png(plot: Any) -> bytes:
    file = io.BytesIO()
    plot.figure.savefig(file, format="png")
    return file.getvalue()
