"""Contact sheets: many small pictures, with words above them, on one."""

import numpy as np
from PIL import Image, ImageDraw

from dit_jax.diffusion.stream import Streams


def sheet(streams: Streams, sample: dict[str, np.ndarray], columns: int = 0, size: int = 48) -> np.ndarray | None:
    """A sample {name: [k, *shape]} -> an RGB picture [height, width, 3] in 0 ... 255, or None if nothing can be seen.

    One tile an example, pictures side by side and words above them. Small pictures are enlarged by a whole factor to
    about `size`, so that their pixels stay what they are, and lower ones stand in the middle.
    """
    there = {name: stream for name, stream in streams.items() if name in sample}
    shown = [stream.view.show(sample[name]) for name, stream in there.items() if stream.view.show is not None]
    pictures = [_enlarged(part, size) for part in shown if isinstance(part, np.ndarray)]
    captions = [" ".join(words) for words in zip(*(part for part in shown if isinstance(part, list)), strict=True)]
    if not pictures:
        return None
    tallest = max(part.shape[1] for part in pictures)
    tiles = np.concatenate([_centred(part, tallest) for part in pictures], axis=2)
    k, height, width, _ = tiles.shape
    columns, top = columns or int(np.ceil(np.sqrt(k))), 12 if captions else 0
    page = Image.new("RGB", ((width + 2) * columns, (height + top + 2) * -(-k // columns)), "white")
    pen = ImageDraw.Draw(page)
    for i, tile in enumerate(tiles):
        x, y = i % columns * (width + 2) + 1, i // columns * (height + top + 2) + 1
        page.paste(Image.fromarray(tile), (x, y + top))
        if captions:
            pen.text((x + 1, y), captions[i], fill="black")
    return np.asarray(page)


def _centred(pictures: np.ndarray, height: int) -> np.ndarray:
    """[k, h, width, 3] -> [k, height, width, 3], white above and below."""
    above, rest = divmod(height - pictures.shape[1], 2)
    return np.pad(pictures, ((0, 0), (above, above + rest), (0, 0), (0, 0)), constant_values=255)


def _enlarged(pictures: np.ndarray, size: int) -> np.ndarray:
    """[k, height, width, 1 or 3] -> the same as RGB, a whole factor larger."""
    factor, channels = max(1, size // pictures.shape[1]), pictures.shape[-1]
    return pictures.repeat(factor, 1).repeat(factor, 2).repeat(3 // channels, 3)
