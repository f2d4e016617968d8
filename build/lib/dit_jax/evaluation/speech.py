"""An independent judge of spoken words: a recogniser that has heard none of the data."""

from collections.abc import Sequence

import numpy as np

from dit_jax.media.sound import resample


def word_accuracy(clips: np.ndarray, rate: int, words: Sequence[str]) -> float:
    """The share of clips [n, length] at `rate` Hz in which pocketsphinx hears its word of `words` [n], and no other.

    It knows English at 16 kHz. At lower rates some consonants are lost, such as the s of six at 8 kHz, so compare with
    what it hears in real clips. Raises ValueError if pocketsphinx is missing.
    """
    try:
        from pocketsphinx import Decoder
    except ImportError:
        raise ValueError("word_accuracy needs pocketsphinx: pip install pocketsphinx==5.1.1") from None
    decoder = Decoder(samprate=16000, loglevel="FATAL", lm=None)
    decoder.add_jsgf_string("words", f"#JSGF V1.0; grammar words; public <word> = {' | '.join(sorted(set(words)))};")
    decoder.activate_search("words")
    hiss = np.random.default_rng(0)  # perfect silence is nothing that it knows

    def hear(clip: np.ndarray) -> str:
        sound = np.pad(resample(clip / max(np.abs(clip).max(), 1e-9), rate, 16000), 3200)
        bits = np.rint(10_000 * sound + 30 * hiss.standard_normal(len(sound))).clip(-(2**15), 2**15 - 1)
        decoder.start_utt()
        decoder.process_raw(bits.astype(np.int16).tobytes(), full_utt=True)
        decoder.end_utt()
        return decoder.hyp().hypstr if decoder.hyp() else ""

    return float(np.mean([hear(clip) == word for clip, word in zip(clips, words, strict=True)]))
