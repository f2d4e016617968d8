"""Pages that Orbax and TensorStore have to say of a failure, which they raise as well: not for people."""

import logging
import sys
import traceback
from pathlib import Path


def hush() -> None:
    """From now on no record of Orbax's is logged, and what its threads leave behind after a failure is not printed."""
    hook = sys.unraisablehook
    if _is_not_orbax not in logging.getLogger("absl").filters:
        for name in ("absl", "asyncio"):  # which complains of a second write that fails as the first one did
            logging.getLogger(name).addFilter(_is_not_orbax)
        sys.unraisablehook = lambda unraisable: None if _is_left_over(unraisable) else hook(unraisable)


def _is_not_orbax(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    frames = traceback.extract_tb(error.__traceback__) if error else []
    return not any("orbax" in Path(file).parts for file in (record.pathname, *(frame.filename for frame in frames)))


def _is_left_over(unraisable) -> bool:
    """A coroutine of Orbax's that is closed while it reads, and a write that ends when its event loop is gone."""
    code = getattr(unraisable.object, "cr_code", None)
    is_coroutine = code is not None and "orbax" in Path(code.co_filename).parts
    return is_coroutine or (
        isinstance(unraisable.exc_value, RuntimeError) and "Event loop is closed" in str(unraisable.exc_value)
    )
