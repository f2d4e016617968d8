"""Stopping a run from outside: signals, also while it computes, a closed terminal, and a watchdog for one that hangs.

A thread watches, because a signal's own handler waits until Python code runs again, which takes minutes in a compiler
or a reader of data. The training thread is asked first; where it does not answer in time, the watcher saves by itself.
"""

import contextlib
import faulthandler
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PATIENCE = 3.0  # seconds for the training thread to end its update and save
TOGETHER = 60.0  # seconds for all processes of a job to come to the step that they stop at
GRACE = 10.0  # seconds for all of them to say where they hang, before the first of them ends the others
ECHO = 0.25  # seconds within which the same signal again is no second one: timeout(1) sends it to process and group
LAST_RESORT = 4.0  # seconds more for it to let go of the state
# The watchdog's limit: until the first step, and while a checkpoint is written; at least; in slowest steps so far.
LONGEST, LEAST, TIMES = 3600.0, 300.0, 50.0
LEFT = "the newest checkpoint is whole, and the same command goes on from it"


class Watcher:
    """What watches a run. `asked` says whether it should stop; `updating` guards the state while it is replaced, and
    `saving()` while it is written.

    save: () -> the sentence that a run ends with; it saves what there is. unchanged: () -> the sentence that it ends
    with where nothing is new since the newest checkpoint, and nothing where something is. watchdog: seconds without a
    step after which the process ends; -1: a limit of its own, which the slowest step so far decides; 0: none. status:
    of a process that the watcher has stopped. is_alone: one of several processes cannot save by itself, and waits for
    the step that all of them stop at.
    """

    def __init__(
        self,
        save: Callable[[], str],
        watchdog: float = -1,
        unchanged: Callable[[], str] = lambda: "",
        status: int = 0,
        is_alone: bool = True,
    ):
        self.asked = False
        self._status, self._is_alone = status, is_alone
        self.updating = threading.Lock()
        self._save, self._unchanged, self._watchdog = save, unchanged, watchdog
        self._last, self._slowest, self._steps = time.monotonic(), 0.0, 0
        self._heard: tuple[int, float] | None = None  # the first signal, and when it came
        self._deadline, self._is_saving = float("inf"), False
        self._over = threading.Event()

    def step(self) -> None:
        """Training goes on: called after every step."""
        now = time.monotonic()
        if self._steps:  # the first one compiles
            self._slowest = max(self._slowest, now - self._last)
        self._last, self._steps = now, self._steps + 1

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """The training thread saves in here, which takes as long as it takes: nobody else begins to."""
        with self.updating:
            self._is_saving, self._last = True, time.monotonic()
            try:
                yield
            finally:
                self._is_saving, self._last = False, time.monotonic()

    def stop(self) -> None:
        """Ask the training thread to stop; where it does not, the watcher saves and ends the process."""
        self.asked = True
        self._deadline = min(self._deadline, time.monotonic() + (PATIENCE if self._is_alone else TOGETHER))

    @property
    def limit(self) -> float:
        """Seconds without a step that are too many."""
        if self._watchdog >= 0:
            return self._watchdog or float("inf")
        return LONGEST if self._steps < 2 or self._is_saving else max(LEAST, TIMES * self._slowest)

    def watch(self, signals: int) -> None:
        """What the thread does: read signals from a pipe, and look at the clock, until training is over."""
        while not self._over.is_set():
            ready, _, _ = select.select([signals], [], [], 0.2)
            for number in os.read(signals, 64) if ready else b"":
                self._hear(number)
            now = time.monotonic()
            if now > self._deadline and not self._is_saving:
                self._rescue()
            if now - self._last > self.limit:
                self._give_up()

    def _hear(self, number: int) -> None:
        """The first signal asks; a second one leaves at once."""
        now = time.monotonic()
        if self._heard is None:
            self._heard = number, now
            self.stop()
        elif number != self._heard[0] or now > self._heard[1] + ECHO:
            os._exit(128 + number)

    def _rescue(self) -> None:
        """Save and end the process, unless the training thread does: it is waiting for data, compiling or drawing."""
        if not self._is_alone:
            self._leave(1, f"error: stopped, and the other processes have not come to a step to stop at; {LEFT}")
        if not self.updating.acquire(timeout=LAST_RESORT):
            if self._is_saving:
                return
            if sentence := self._unchanged():
                self._leave(self._status, sentence)
            self._leave(1, f"error: stopped in the middle of a step that does not end; {LEFT}")
        try:
            if not self._over.is_set():
                self._leave(self._status, self._save())
        finally:
            self.updating.release()

    def _give_up(self) -> None:
        faulthandler.dump_traceback(all_threads=True)
        seconds = time.monotonic() - self._last
        self._leave(
            1,
            f"error: no step in {seconds:.0f} s, more than train.watchdog = {self.limit:.0f} allows; where each thread "
            f"hangs stands above; {LEFT}",
            grace=0.0 if self._is_alone else GRACE,
        )

    def _leave(self, status: int, sentence: str, grace: float = 0.0) -> None:
        with contextlib.suppress(OSError, ValueError):
            print(sentence, file=sys.stderr if sentence.startswith("error: ") else sys.stdout, flush=True)
        time.sleep(grace)
        os._exit(status)

    def end(self) -> None:
        """Training is over, and nothing is watched any more."""
        self._over.set()


@contextlib.contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Signals ask the watcher to stop the run in here; the second one ends the process at once."""
    receiver, sender = os.pipe()
    os.set_blocking(sender, False)
    before = {number: signal.signal(number, lambda number, frame: watcher.stop()) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    thread = threading.Thread(target=watcher.watch, args=(receiver,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        watcher.end()
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        thread.join()
        os.close(receiver)
        os.close(sender)


def silence() -> None:
    """Write to nobody from here on: whoever read the standard output is gone."""
    nobody = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nobody, 1)
    os.close(nobody)
