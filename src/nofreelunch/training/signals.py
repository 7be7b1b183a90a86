"""Ctrl-C and SIGTERM, answered between two steps."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_ANSWERED = (signal.SIGINT, signal.SIGTERM)


class NotedSignals:
    """Within its block the first Ctrl-C or SIGTERM is only noted; a second one acts at once, as before the block.

    What was noted and not delivered acts when the block ends. Outside the main thread nothing is noted: signals arrive
    elsewhere.

    Attributes:
        signum: number of the signal that has arrived, 0 for none.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "NotedSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _ANSWERED}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
        if kind is None and self.signum:
            self.deliver(self.signum)

    def deliver(self, signum: int) -> None:
        """Hand a signal to whoever answered it before: by default `KeyboardInterrupt`, or the end of the process."""
        self._restore()
        self.signum = 0
        signal.raise_signal(signum)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
