"""The threads that run jobs aside of the worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from fastlog.events.aside import ITEM, Aside
from fastlog.events.delivery import run_job
from fastlog.events.waiting import WorkerThread


class JobThreads:
    """Runs the jobs of one queue that are to run aside: one thread for each kind, while there are any.

    Args:
        lock: guards ``aside``.
        finished: called without the lock after each job.
        may_start: whether threads may be started (any more).
    """

    def __init__(
        self,
        lock: threading.RLock,
        aside: Aside,
        finished: Callable[[], object],
        may_start: Callable[[str], bool],
    ) -> None:
        self._lock = lock
        self._aside = aside
        self._finished = finished
        self._may_start = may_start
        self._threads: dict[str, WorkerThread] = {}
        self.cpu_seconds = self.wall_seconds = 0.0  # of work that is over, on these threads

    def computed(self) -> float:
        """Seconds that the threads which live have computed."""
        return sum([thread.cpu_seconds() for thread in list(self._threads.values())])

    def serve(self) -> bool:
        """Has all jobs run: on threads, or where none can be started, here and now. Returns True then."""
        with self._lock:
            missing = [aside for aside in self._aside.idle_threads() if not self._start(aside)]
        for aside in missing:
            while self._run_next(aside, self._threads.get(aside)):
                pass
        return bool(missing)

    def forget_all(self) -> None:
        """In a forked child, where only the thread lives on that forked, which may be one of these."""
        self._lock = threading.RLock()
        self._threads = {}

    def _start(self, aside: str) -> bool:
        if aside in self._threads:
            return True
        if not self._may_start(aside):
            return False
        thread = WorkerThread(target=self._run, args=(aside,), name=f"fastlog-{aside}", daemon=True)
        self._threads[aside] = thread
        try:
            thread.start()
        except RuntimeError:
            del self._threads[aside]
            return False
        return True

    def _run(self, aside: str) -> None:
        me = threading.current_thread()
        began = time.monotonic()
        try:
            while self._run_next(aside, me):
                self._finished()
        finally:
            with self._lock:
                self.cpu_seconds += time.thread_time()
                self.wall_seconds += time.monotonic() - began
                if self._threads.get(aside) is me:
                    del self._threads[aside]

    def _run_next(self, aside: str, owner: threading.Thread | None) -> bool:
        """False: there is no job, or it is no longer for ``owner`` to run them."""
        with self._lock:
            job = self._aside.begin(aside) if self._threads.get(aside) is owner else None
            if job is None:
                self._threads.pop(aside, None)
                return False
        done = run_job(job[ITEM], self._aside.tags_of(job))
        with self._lock:
            if self._threads.get(aside) is not owner:
                return False
            self._aside.finish(aside, done)
        return True
