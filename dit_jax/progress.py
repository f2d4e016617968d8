"""What a command is doing and how long it will take: a bar in a terminal, lines where there is none."""

import contextlib
import datetime
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SILENCE = 30.0  # seconds after which a line is printed although there are no numbers
WINDOW = 3600.0  # seconds over which the rate is a mean, of a thousand steps at most


@contextlib.contextmanager
def progress(total: int, done: int, unit: str) -> Iterator[Callable[..., None]]:
    """A progress bar with the time left; yields show(done, doing="", **numbers).

    doing: what goes on until the next call, such as "compiling". Without a terminal that is a line of its own, and so
    are numbers, with the time spent, the rate and the time left: `training 50/1500  0:00:12  4.2/s  eta 0:05:45  loss
    0.43`. The rate leaves out the first call's step, which has compiled.
    """
    console = Console()
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}"),
    )
    is_piped, now = not console.is_terminal, time.monotonic
    with Progress(*columns, console=console, disable=is_piped, get_time=now, speed_estimate_period=WINDOW) as bar:
        task, printed = bar.add_task(unit, total=total, completed=done, numbers=""), now()

        def show(done: int, doing: str = "", **numbers: float) -> None:
            nonlocal printed
            words = [f"{name} {value:.4g}" for name, value in numbers.items()]
            bar.update(task, completed=done, description=doing or unit)
            if words:
                bar.update(task, numbers="  ".join(words))
            if is_piped and (doing or words or now() > printed + SILENCE):
                print(doing or "  ".join([f"{unit} {done}/{total}", *_times(bar.tasks[0]), *words]), flush=True)
                printed = now()

        yield show


@contextlib.contextmanager
def announced(doing: str, after: float = 2.0) -> Iterator[None]:
    """A line that says what is done in here, if it takes longer than a moment."""
    timer = threading.Timer(after, print, [doing], {"flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _times(task: Task) -> list[str]:
    """The time spent, and where they are known the rate and the time left."""
    speed, left = task.speed, task.time_remaining
    known = [f"{speed:.4g}/s", f"eta {_clock(left)}"] if speed and left is not None else []
    return [_clock(task.elapsed or 0), *known]


def _clock(seconds: float) -> str:
    """Hours:minutes:seconds."""
    return str(datetime.timedelta(seconds=int(seconds)))
