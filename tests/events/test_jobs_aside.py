"""Jobs that run aside: what may overtake them, what waits, and what becomes of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence

import pytest
from processes import exit_code, forked
from queue_doubles import ManualQueue, OpenableSink, make_queue, scalar, until
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from fastlog.common.notices import FastlogWarning
from fastlog.events import worker
from fastlog.events.aside import ITEM
from fastlog.events.backlog import Backlog
from fastlog.events.items import DEVICE, ENCODER, HISTOGRAM, JOB, RAW, Item
from fastlog.events.worker import Worker

ASIDES = pytest.mark.parametrize("aside", [ENCODER, DEVICE])


class Held:
    """A job that runs until it is let go."""

    def __init__(self, items: Sequence[Item], tags: object, aside: str = ENCODER, nbytes: int = 10) -> None:
        self.started, self.go = threading.Event(), threading.Event()
        self.thread: threading.Thread | None = None
        self.item = (JOB, self.run, nbytes, True, "add_video('v')", aside, tags)
        self._items = items

    def run(self) -> Sequence[Item]:
        self.thread = threading.current_thread()
        self.started.set()
        assert self.go.wait(60)
        return self._items


def labels(sink: OpenableSink) -> list[tuple[str, int]]:
    return [(item[1], item[3]) for item in sink.items if item[0] != RAW]


@ASIDES
def test_what_comes_behind_a_job_does_not_wait_for_it_but_under_its_tags_it_does(aside):
    sink, queue = OpenableSink(), make_queue()
    held = Held([scalar(1, "v"), scalar(1, "v/nan")], ["v", "v/nan"], aside)
    queue.put(sink, scalar(0, "v"), 10)
    queue.put(sink, held.item, 10, True)
    queue.put(sink, scalar(2), 10)
    queue.put(sink, scalar(2, "v"), 10)
    queue.put(sink, scalar(2, "v/nan"), 10)
    queue.put(sink, (HISTOGRAM, "h", b"", 2, 0.0), 10, True)
    until(lambda: ("h", 2) in labels(sink))
    assert held.started.wait(60)
    assert labels(sink) == [("v", 0), ("x", 2), ("h", 2)]
    held.go.set()
    queue.close()
    assert labels(sink)[3:] == [("v", 1), ("v/nan", 1), ("v", 2), ("v/nan", 2)]
    stats = queue.stats()
    assert (stats["accepted"], stats["written"], stats["depth"], stats["bytes"]) == (6, 6, 0, 0)


def test_a_killed_process_keeps_what_came_behind_a_job(tmp_path):
    from sink_files import steps_in

    from fastlog.events.sinks.event_files import EventFileSink

    sink, queue = EventFileSink(str(tmp_path)), make_queue()
    held = Held([], ["v"])
    queue.put(sink, held.item, 10, True)
    assert held.started.wait(60)
    for i in range(5000):
        queue.put(sink, scalar(i), 10)
    until(lambda: len(steps_in(tmp_path)) == 5000)  # what is in the file outlives the process
    held.go.set()
    queue.close()


def test_a_tag_that_ends_in_a_slash_stands_for_all_below_and_other_sinks_wait_for_nothing():
    sinks, queue = (OpenableSink(), OpenableSink()), make_queue()
    held = Held([], ["weights/"], DEVICE)
    asked = []
    queue.put(sinks[0], (*held.item[:6], lambda: asked.append(1) or ["weights/", "loss"]), 10, True)
    for sink in sinks:
        for tag in ("weights", "loss", "weights/a/b", "weight", "loss/a"):
            queue.put(sink, scalar(1, tag), 10)
    until(lambda: len(sinks[0].items) == 2 and len(sinks[1].items) == 5)
    assert [tag for tag, _ in labels(sinks[0])] == ["weight", "loss/a"]
    held.go.set()
    queue.close()
    assert len(sinks[0].items) == len(sinks[1].items) == 5
    assert asked == [1]


def raw(**fields: object) -> Item:
    return (RAW, Event(**fields).SerializeToString())


WITH_TAG = raw(summary=Summary(value=[Summary.Value(tag="v"), Summary.Value(tag="w")]))


@pytest.mark.parametrize(
    ("behind", "waits"),
    [
        (WITH_TAG, True),
        (raw(summary=Summary(value=[Summary.Value(tag="w")])), False),
        (raw(step=3, session_log=SessionLog(status=SessionLog.START)), True),
        (raw(file_version="brain.Event:2"), True),
        (raw(graph_def=b"graph"), False),
        ((RAW, b"no event"), True),
        ((JOB, lambda: [], 10, True, "a job without tags"), True),
        ((JOB, lambda: [], 10, True, "another job", None, ["w"]), False),
    ],
)
def test_what_a_serialized_event_or_a_job_may_touch_decides_whether_it_waits(behind, waits):
    sink, backlog = OpenableSink(), Backlog(9, 999)
    for item in (Held([], ["v"]).item, behind, scalar(9, "last")):
        backlog.append(sink, item, 10, 0.0, False)
    taken = []
    while chunk := backlog.take(9, 999):
        taken += [entry[ITEM] for entry in chunk]
        backlog.settle(chunk, [], [])
    # What may be anything holds up all that comes behind it.
    anything = waits and behind != WITH_TAG
    assert (behind in taken, scalar(9, "last") in taken) == (not waits, not anything)


def test_jobs_run_on_threads_of_their_kind_in_order_and_the_threads_go(monkeypatch):
    monkeypatch.setattr(worker, "_IDLE_SECS", 0.2)
    sink, queue = OpenableSink(), make_queue(flush_secs=0)
    jobs = [Held([scalar(i, "v")], ["v"], aside) for i, aside in enumerate((ENCODER, DEVICE, ENCODER))]
    for job in jobs:
        queue.put(sink, job.item, 10, True)
    assert jobs[0].started.wait(60)
    assert jobs[1].started.wait(60)
    assert not jobs[2].started.is_set()
    jobs[1].go.set()
    jobs[2].go.set()
    with pytest.raises(TimeoutError, match="3 of the events"):
        queue.flush(timeout=0.3)  # the second is done, but the first is older
    jobs[0].go.set()
    queue.flush()
    assert [step for _, step in labels(sink)] == [0, 1, 2]
    assert jobs[0].thread is jobs[2].thread is not jobs[1].thread
    assert {job.thread.name for job in jobs} == {"fastlog-encoder", "fastlog-device"}
    until(lambda: not any(job.thread.is_alive() for job in jobs))
    until(lambda: queue._worker.thread is None)
    queue.close()


def test_a_job_aside_that_raises_is_dropped_and_named():
    def run():
        raise ValueError("bad frames")

    sink, queue = OpenableSink(), make_queue()
    queue.put(sink, (JOB, run, 10, True, "add_video('v')", ENCODER, ["v"]), 10, True)
    queue.put(sink, scalar(1, "v"), 10)
    with pytest.warns(FastlogWarning) as caught:
        queue.close()
    texts = [str(warning.message) for warning in caught]
    assert "add_video('v'): ValueError: bad frames" in texts[0]
    assert "1 of 2 events were dropped: invalid 1" in texts[1]
    assert ("v", 1) in labels(sink)


@pytest.mark.filterwarnings("ignore::fastlog.FastlogWarning")
def test_drop_oldest_drops_jobs_that_wait_but_not_the_one_that_runs():
    sink, queue = OpenableSink(), make_queue(queue_events=3, overflow="drop_oldest")
    jobs = [Held([scalar(i, "v")], ["v"]) for i in range(6)]
    queue.put(sink, jobs[0].item, 10, True)
    assert jobs[0].started.wait(60)
    for job in jobs[1:]:
        queue.put(sink, job.item, 10, True)
    for job in jobs:
        job.go.set()
    queue.close()
    assert [step for tag, step in labels(sink) if tag == "v"] == [0, 4, 5]
    assert queue.stats()["dropped"] == {"overflow": 3}


def test_a_sink_in_trouble_gets_the_items_of_a_job_later_and_the_job_runs_once():
    sink, runs = OpenableSink(), []
    queue = ManualQueue(
        queue_events=9, queue_bytes=999, overflow="block", block_timeout=0, on_error="warn", flush_secs=9
    )
    items = [scalar(1, "v"), scalar(2, "v")]
    queue.put(sink, (JOB, lambda: runs.append(1) or items, 10, True, "a job", ENCODER, ["v"]), 10, True)
    queue.put(sink, scalar(3, "v"), 10)
    sink.error = OSError("down")
    for _ in range(3):
        queue.work()
    with pytest.warns(FastlogWarning, match="down"):
        queue.put(sink, scalar(4, "v"), 10)
    sink.error = None
    queue.work()
    assert [step for _, step in labels(sink)] == [1, 2, 3, 4]
    assert runs == [1]


def test_many_jobs_and_events_from_many_threads_keep_the_order_of_each_tag():
    sink, queue = OpenableSink(), make_queue(queue_events=200)

    def log(name: str) -> None:
        for i in range(400):
            if i % 7 == 3:
                aside = ENCODER if i % 2 else DEVICE
                queue.put(
                    sink, (JOB, lambda i=i: [scalar(i, name)], 10, True, "job", aside, [name]), 10, True
                )
            else:
                queue.put(sink, scalar(i, name), 10)

    threads = [threading.Thread(target=log, args=(name,)) for name in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    queue.close()
    for name in "abcdefgh":
        assert [step for tag, step in labels(sink) if tag == name] == list(range(400))
    assert queue.stats()["written"] == 3200


def test_without_threads_jobs_run_on_the_caller(monkeypatch):
    monkeypatch.setattr(Worker, "exiting", True)
    sink, queue = OpenableSink(), make_queue()
    held = Held([scalar(1, "v")], ["v"])
    held.go.set()
    queue.put(sink, held.item, 10, True)
    assert labels(sink) == [("v", 1)]
    assert held.thread is threading.current_thread()
    queue.close()


def test_at_the_end_of_the_process_a_job_that_runs_is_waited_for(monkeypatch):
    sink, queue = OpenableSink(), make_queue()
    held = Held([scalar(1, "v")], ["v"])
    queue.put(sink, held.item, 10, True)
    assert held.started.wait(60)
    until(lambda: queue._worker.thread is None)  # for lack of work
    monkeypatch.setattr(Worker, "exiting", True)
    closing = threading.Thread(target=queue.close, daemon=True)
    closing.start()
    until(lambda: queue._worker.changed._waiters)
    held.go.set()
    closing.join(30)
    assert labels(sink) == [("v", 1)]
    assert sink.closed


def while_a_job_runs(in_child: Callable[..., object]) -> int:
    """Forks while a job runs aside; the child's exit code."""
    sink, queue = OpenableSink(), make_queue()
    held = Held([scalar(1, "v")], ["v"])
    queue.put(sink, held.item, 10, True)
    assert held.started.wait(60)
    with forked(lambda: in_child(sink, queue)) as pid:
        code = exit_code(pid)
    held.go.set()
    queue.close()
    assert labels(sink) == [("v", 1)]
    return code


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_inherits_no_job():
    def child(sink, queue) -> None:
        assert queue.stats()["depth"] == 0
        queue.put(sink, scalar(2), 10)
        assert labels(sink) == [("x", 2)]
        queue.close()

    assert while_a_job_runs(child) == 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_job_aside_that_forks_is_not_counted_in_the_child(monkeypatch):
    monkeypatch.setattr(Worker, "exiting", True)  # so it runs on this thread, which outlives a fork
    sink, queue = OpenableSink(), make_queue()
    pids = []

    def run():
        pids.append(os.fork())
        return [scalar(1, "v")]

    queue.put(sink, (JOB, run, 10, True, "fork", ENCODER, ["v"]), 10, True)
    if pids == [0]:
        stats = queue.stats()
        os._exit(stats["accepted"] + stats["written"] + stats["depth"] + len(sink.items))
    queue.close()
    assert exit_code(pids[0]) == 0
    assert labels(sink) == [("v", 1)]
