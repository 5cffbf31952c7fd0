"""What others than the user may ask of a writer: to hear of what is written, and to have a last word."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from fastlog.events.items import JOB, Item
from fastlog.writer.bad_values import BadValues


class Heard:
    """The part of a writer that watching and health see."""

    _lock: threading.RLock
    _listeners: list[Callable[[Sequence[Item]], None]]
    _closers: list[Callable[[], Sequence[Item]]]
    _queue: Any
    _sink: Any
    _bad_values: BadValues
    _write_to_disk: bool
    _get_file_writer: Callable[[], Any]

    def on_items(self, listener: Callable[[Sequence[Item]], None]) -> None:
        """``listener`` gets all that is written to the main file, on the worker. Must not raise."""
        with self._lock:
            self._listeners.append(listener)
            if self._queue is not None and self._sink is not None:
                self._queue.listen(self._sink, listener)

    def on_close(self, last_words: Callable[[], Sequence[Item]]) -> None:
        """What ``last_words`` makes on the worker is logged by ``close`` before anything is closed."""
        self._closers.append(last_words)

    def _put_job(self, run: Callable[[], Sequence[Item]], label: str) -> None:
        """Logs what ``run`` makes on the worker."""
        self._get_file_writer().put((JOB, run, 0, True, label), 0, True)

    @property
    def notices(self) -> BadValues:
        """Warnings that wait to be shown at the program's next call."""
        return self._bad_values

    @property
    def logs(self) -> bool:
        """Whether anything that is logged is written."""
        return bool(self._write_to_disk)
