"""A progress bar in the terminal, with the time that is left."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextlib.contextmanager
def progress(total: int, done: int, unit: str) -> Iterator[Callable[..., None]]:
    """A live bar with time left; yields show(done, **numbers). Without a terminal, one line every so often."""
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
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(unit, total=total, completed=done, numbers="")

        def show(done: int, **numbers: float):
            bar.update(task, completed=done)
            if not numbers:
                return
            text = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
            bar.update(task, numbers=text)
            if not console.is_terminal:
                print(f"{unit} {done}/{total}  {text}", flush=True)

        yield show
