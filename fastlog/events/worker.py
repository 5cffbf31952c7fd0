"""The worker's side of the queue: when it wakes, what a round of work is, what a sink in trouble gets."""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Literal

from fastlog.common.notices import Notices
from fastlog.events.backlog import Backlog
from fastlog.events.delivery import DROPPED_TAG, Delivery, DropSeries, Outcome
from fastlog.events.items import DEVICE
from fastlog.events.job_threads import JobThreads
from fastlog.events.requests import Requests
from fastlog.events.waiting import ProgressTimeout, WorkerThread

_BATCH_SECS = 0.05  # an event waits this long, so that others go to the file with it ...
_CROWD_EVENTS, _CROWD_BYTES = 8192, 16 << 20  # ... unless so much, or half of what the queue may hold, waits
_LINGER_SECS = 0.1  # a worker without work looks again by itself, before a put has to wake it
_IDLE_SECS = 5.0  # and ends after this long
_CHUNK_EVENTS, _CHUNK_BYTES = 1024, 1 << 20  # taken and written at a time
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0  # before a sink in trouble is tried again
_CLOSE_PAUSE = 0.25  # the same while close() waits
_LONGEST_WAIT = 3600.0  # threading refuses infinity
_DROPPED_SECS = 1.0  # at most one point of the series of drops in this time


@dataclass(frozen=True)
class QueueOptions:
    """The arguments of :class:`fastlog.events.queue.AsyncQueue`, checked.

    Raises:
        ValueError: a limit is not positive, a time is negative, one is no number, or a name is unknown.
    """

    queue_events: int
    queue_bytes: int
    overflow: Literal["block", "drop_oldest", "drop_newest"]
    block_timeout: float | None
    on_error: Literal["warn", "raise"]
    flush_secs: float

    def __post_init__(self) -> None:
        least = {"queue_events": 1, "queue_bytes": 1, "block_timeout": 0, "flush_secs": 0}
        for name, limit in least.items():
            given = getattr(self, name)
            if name == "block_timeout" and given is None:
                continue
            if not (isinstance(given, Real) and float(given) >= limit):
                raise ValueError(f"{name} must be a number of at least {limit}, not {given!r}")
        if self.overflow not in ("block", "drop_oldest", "drop_newest"):
            raise ValueError(f"overflow must be block, drop_oldest or drop_newest, not {self.overflow!r}")
        if self.on_error not in ("warn", "raise"):
            raise ValueError(f"on_error must be warn or raise, not {self.on_error!r}")


class Worker:
    """A backlog, the sinks, and the thread that brings one to the other while there is something to do.

    A round: all that waits when it begins, but for what has to wait for jobs that run aside, is written,
    chunk by chunk, and callers who wait for a flush or close are answered as soon as what they cover is
    written. Where a sink fails it ends, and the next one comes after a pause.

    Attributes:
        lock: guards all that follows.
        changed: notified when room was made, a round is over, or the sinks were closed.
        through: callers write by themselves what they put; no thread is started.
        stalled: a caller has waited as long as it may, and nothing was written since.
        thread: at work, or asleep; None: nobody.
        hurry: somebody wants a try now, whatever the pause.
        asked: what callers wait for.
        rounds, failed_round: how many have begun, and the last one that failed.
        cpu_seconds, wall_seconds: of rounds that are over.
    """

    exiting = False  # the process ends: no more threads

    def __init__(self, options: QueueOptions, clock: Callable[[], float]) -> None:
        self.options = options
        self.clock = clock
        self._crowd_events = min(_CROWD_EVENTS, max(1, options.queue_events // 2))
        self._crowd_bytes = min(_CROWD_BYTES, options.queue_bytes // 2)
        self.through = False
        self.begin()

    def begin(self) -> None:
        """The state of a queue to which nothing has come yet; in a forked child, once more."""
        # Reentrant: a signal handler may flush while the thread it interrupts is inside put.
        self.lock = threading.RLock()
        self._work_to_do = threading.Condition(self.lock)
        self.changed = threading.Condition(self.lock)
        self.backlog = Backlog(self.options.queue_events, self.options.queue_bytes)
        self.jobs = JobThreads(self.lock, self.backlog.aside, self._job_finished, self._may_start)
        self.delivery = Delivery()
        self._drop_series = DropSeries(self.delivery, self.clock)
        self.notices = Notices(self.options.on_error)
        self.stalled = False
        self.thread: threading.Thread | None = None
        self._waiting: Literal["no", "nap", "sleep"] = "no"  # asleep, only a notify wakes it in time
        self.hurry = False
        self.asked = Requests()
        self.rounds = self.failed_round = 0
        self._finished = 0  # writes, jobs, fsyncs
        # A sink in trouble.
        self._pause = 0.0
        self._retry_at = -math.inf
        self._sync_first = False
        self._sync_due = math.inf
        self.cpu_seconds = self.wall_seconds = 0.0

    def become_child(self) -> None:
        """After a fork, in the child: nothing waits, no thread lives, and callers write what they put."""
        self.jobs.forget_all()
        self.begin()
        self.through = True

    # ---- waking, under the lock

    def call(self) -> bool:
        """Starts or wakes the worker where it has to act; False if no thread can be started (any more)."""
        if self.through:
            return False
        if self.thread is None:
            if not self._may_start():
                return False
            worker = WorkerThread(target=self._run, name="fastlog", daemon=True)
            try:
                worker.start()
            except RuntimeError:
                return False
            # Not before start(), which may be interrupted. If a handler has started one meanwhile, ours ends.
            self.thread = self.thread or worker
        elif self._waiting == "sleep" or (self._waiting == "nap" and (self.hurry or self._crowded())):
            self._waiting = "no"
            self._work_to_do.notify()
        self._set_marks()
        return True

    def _may_start(self, aside: str | None = None) -> bool:
        """Whether a thread may be started: the worker, or one for jobs that run aside."""
        return not Worker.exiting and (not self.through or aside == DEVICE)

    def timeout(self, seconds: float | None) -> ProgressTimeout:
        """Waits for ``seconds`` in which nothing gets on; None: as long as it takes."""
        return ProgressTimeout(seconds, self.progress, self.clock)

    def progress(self) -> tuple[int, float]:
        """How many things have been finished, and how many seconds were computed for others."""
        worker = self.thread
        computed = worker.cpu_seconds() if isinstance(worker, WorkerThread) else 0.0
        return self._finished, computed + self.jobs.computed()

    def _crowded(self) -> bool:
        events, nbytes = self.backlog.arrived
        return not self._pause and (events >= self._crowd_events or nbytes >= self._crowd_bytes)

    def _set_marks(self) -> None:
        backlog = self.backlog
        backlog.event_mark, backlog.byte_mark = backlog.max_events, backlog.max_bytes
        if self.thread is None or self._waiting == "sleep" or self.notices.pending:
            backlog.event_mark = backlog.byte_mark = 0
        elif self._waiting == "nap" and not self._pause:
            events, nbytes = backlog.arrived
            backlog.event_mark = min(backlog.event_mark, self._crowd_events + backlog.depth - events)
            backlog.byte_mark = min(backlog.byte_mark, self._crowd_bytes + backlog.bytes - nbytes)

    def wait(self, condition: threading.Condition, seconds: float) -> None:
        """Waits for a condition, of this worker's lock."""
        condition.wait(min(max(seconds, 0.0), _LONGEST_WAIT))

    # ---- the thread

    def _run(self) -> None:
        me = threading.current_thread()
        try:
            while self._await_work(me):
                self._work(me)
        finally:
            with self.lock:
                if self.thread is me:  # out of memory in our own code: the next put starts another
                    self.thread = None
                    self._set_marks()
                    self.changed.notify_all()

    def _await_work(self, me: threading.Thread) -> bool:
        """Waits until there is something to do; False when this thread's time is over."""
        with self.lock:
            idle_since = self.clock()
            while self.thread is me:
                now = self.clock()
                due = self._due(now)
                if due <= now:
                    break
                if due == math.inf and (now >= idle_since + _IDLE_SECS or not self.delivery.is_open):
                    self.thread = None
                    break
                waits = self._pause or self.backlog.due_since() < math.inf
                nap_to = due if waits else min(due, idle_since + _LINGER_SECS)
                sleep_to = min(due, now + _IDLE_SECS)
                self._waiting = "nap" if nap_to > now else "sleep"
                self._set_marks()
                self.wait(self._work_to_do, (nap_to if nap_to > now else sleep_to) - now)
            self._waiting = "no"
            self._set_marks()
            return self.thread is me

    def _due(self, now: float) -> float:
        """When there is something to do next; infinity: nothing is left to do."""
        if self.hurry or self._crowded():
            return now
        if self._pause:
            return self._retry_at
        return min(self._sync_due, self.backlog.due_since() + _BATCH_SECS)

    def work_here(self) -> bool:
        """A round on the calling thread, where no worker can be started. Tries each thing once.

        False: another thread is at it.
        """
        me = threading.current_thread()
        with self.lock:
            if self.thread is not None:
                return False
            self.thread = me
            self.asked.close_by = -math.inf
        try:
            self._work(me)
        finally:
            with self.lock:
                if self.thread is me:
                    self.thread = None
                self._set_marks()
                self.changed.notify_all()
        return True

    def _work(self, me: threading.Thread) -> None:
        cpu, wall = time.thread_time(), self.clock()
        with self.lock:
            self.rounds += 1
            self.hurry = False
        try:
            self._round(me)
        except BaseException as error:
            self._in_trouble(me, error)
            if isinstance(error, KeyboardInterrupt):
                raise  # out of a caller that works here: workers get none
        finally:
            with self.lock:
                self.cpu_seconds += time.thread_time() - cpu
                self.wall_seconds += self.clock() - wall
                self.changed.notify_all()

    def _round(self, me: threading.Thread) -> None:
        with self.lock:
            last = sys.maxsize if self.through else self.backlog.accepted
        if self._sync_first:
            self._sync(self.asked.flushed_to)
        over = False
        while not over:
            with self.lock:
                if self.thread is not me:
                    return
                chunk = self.backlog.take(_CHUNK_EVENTS, _CHUNK_BYTES, last)
                # Later events wait for more: else a caller that puts all the time gets many small chunks.
                over = not chunk and self.backlog.first_arrived() > last
            if chunk:
                outcome = self.delivery.write(chunk)
                if not self._account(me, outcome):
                    return
                if outcome.error is not None:
                    raise outcome.error
            over &= not self.jobs.serve()
            self._report_drops(_DROPPED_SECS)
            self._answer()
        with self.lock:
            self._pause = 0.0

    def _account(self, me: threading.Thread, outcome: Outcome) -> bool:
        """Books what became of a chunk; False in the child of a job that forked, where it does not count."""
        with self.lock:
            if self.thread is not me:
                return False
            self.backlog.settle(outcome.written, outcome.invalid, outcome.left)
            for why in outcome.why_invalid:
                self.notices.error("an event cannot be written", why, "It is dropped.")
            if outcome.written:
                self._finished += 1
                self._pause = 0.0
                self.stalled = False
                if self._sync_due == math.inf:
                    self._sync_due = self.clock() + self.options.flush_secs
            self._set_marks()
            self.changed.notify_all()
            return True

    def _job_finished(self) -> None:
        """After each job that ran on a thread aside."""
        with self.lock:
            self._finished += 1
            self.hurry |= self.asked.any_left
            has_worker = self.call()
            self.changed.notify_all()
        if not has_worker:
            self.work_here()

    def _answer(self) -> None:
        """fsyncs and closes where that is due, or asked for by callers whose events are all written."""
        with self.lock:
            first = self.backlog.first_number()
            close = self.asked.newest_close
            closing, flushing = self.asked.is_close_due(first), self.asked.is_flush_due(first)
            due = self.clock() >= self._sync_due
        if closing:
            self._report_drops(0)
        if closing or flushing or due:
            self._sync(first - 1)
        if closing:
            self._close_sinks(close)

    def _sync(self, number: int) -> None:
        """Makes durable what was written: all events up to ``number``."""
        self._sync_first = True  # until it succeeds: a remote store keeps in memory what it could not send
        self.delivery.sync()
        with self.lock:
            self._sync_first = False
            self._sync_due = math.inf
            self.asked.answer_flush(number)
            self._finished += 1
            self.changed.notify_all()

    def _close_sinks(self, close: int) -> None:
        """Closes them; see ``Requests.answer_close``."""
        errors = self.delivery.close()
        with self.lock:
            for error in errors:
                self.notices.error("a file cannot be closed", error, "Its last events may be missing.")
            self.asked.answer_close(close)
            self._pause = 0.0
            self._sync_first = False
            self._sync_due = math.inf
            self._finished += 1
            self.tell_total()

    # ---- trouble

    def _in_trouble(self, me: threading.Thread, error: BaseException) -> None:
        with self.lock:
            if self.thread is not me:
                return
            self.backlog.put_back()
            now = self.clock()
            close_to, close = self.asked.close_to, self.asked.newest_close
            self.failed_round = self.rounds
            self._pause = min(max(2 * self._pause, _FIRST_PAUSE), _LONGEST_PAUSE)
            self._retry_at = now + (min(self._pause, _CLOSE_PAUSE) if close_to is not None else self._pause)
            failure = (
                "what was written cannot be made durable" if self._sync_first else "events cannot be written"
            )
            self.notices.error(
                failure, error, "Events wait, within the queue's limits, for the next try; training goes on."
            )
            if close_to is None or now < self.asked.close_by:
                self._set_marks()
                return
            self.backlog.drop_to(close_to, "close")
        with contextlib.suppress(BaseException):
            self._report_drops(0)
        self._close_sinks(close)

    def _report_drops(self, every: float) -> None:
        with self.lock:
            total = self.backlog.total_dropped
        self._drop_series.report(total, every)

    def tell_drop(self, cause: str, message: str) -> None:
        """Warns, once per cause, that something was dropped."""
        self.notices.tell(cause, f"fastlog: {message} stats() and the series {DROPPED_TAG} count the drops.")
        self._set_marks()

    def tell_total(self) -> None:
        """Warns of how many were dropped, where it is more than at the last time."""
        dropped = dict(self.backlog.dropped)
        if dropped:
            total = sum(dropped.values())
            by_reason = ", ".join(f"{reason} {count:,}" for reason, count in dropped.items())
            message = f"fastlog: {total:,} of {self.backlog.accepted:,} events were dropped: {by_reason}"
            self.notices.tell(f"total {total}", message)
        self._set_marks()
