"""How every command starts and ends."""

import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import app, flags, logging


def run_command(main: Callable[[], None], defaults: Sequence[str] = ()):
    """Parse the flags, with those in `defaults` that are not given, and run `main`.

    A mistake of the user's ends in one line and status 1. Mistakes are the ValueErrors and OSErrors that this package
    raises itself; one that comes from below it is a bug, and keeps its traceback.
    """
    try:
        app.run(lambda _: main(), flags_parser=lambda argv: _parse(argv, defaults))
    except (ValueError, OSError) as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if Path(__file__).parent not in raised_in.parents:
            raise
        sys.exit(f"error: {error}")


def _parse(argv: list[str], defaults: Sequence[str]) -> list[str]:
    """Absl's parser; ml_collections raises an AttributeError for a config key that does not exist."""
    logging.set_verbosity(logging.WARNING)
    said = {argument.partition("=")[0] for argument in argv}
    try:
        return flags.FLAGS([argv[0], *(flag for flag in defaults if flag.partition("=")[0] not in said), *argv[1:]])
    except flags.Error as error:
        sys.exit("error: " + str(error).strip().splitlines()[-1].strip())
    except AttributeError as error:
        raised_at = traceback.extract_tb(error.__traceback__)[-1]
        if "ml_collections" not in Path(raised_at.filename).parts:  # by a config file's own code
            sys.exit(f"error: {raised_at.filename}, line {raised_at.lineno}: {error}")
        words = str(error).encode().decode("unicode_escape").replace("'", "").split()
        sys.exit("error: --config has no key " + " ".join(words))
