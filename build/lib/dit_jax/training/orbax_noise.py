"""Pages that Orbax and TensorStore have to say of a failure, which they raise as well: not for people."""

import logging
import sys
from pathlib import Path


def hush() -> None:
    """From now on no record of Orbax's is logged, and what its threads leave behind after a failure is not printed."""
    absl, hook = logging.getLogger("absl"), sys.unraisablehook
    if _is_not_orbax not in absl.filters:
        absl.addFilter(_is_not_orbax)
        sys.unraisablehook = lambda unraisable: None if _is_left_over(unraisable) else hook(unraisable)


def _is_not_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in Path(record.pathname).parts


def _is_left_over(unraisable) -> bool:
    """A coroutine of Orbax's that is closed while it reads, and a write that ends when its event loop is gone."""
    code = getattr(unraisable.object, "cr_code", None)
    is_coroutine = code is not None and "orbax" in Path(code.co_filename).parts
    return is_coroutine or (
        isinstance(unraisable.exc_value, RuntimeError) and "Event loop is closed" in str(unraisable.exc_value)
    )
