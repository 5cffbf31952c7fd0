"""The long runs of the queue: many kills, many threads, minutes at full rate, a thousand lives.

FASTLOG_SOAK_MINUTES (10) is how long the full-rate run takes.
"""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import test_disk_faults
import test_queue_model
import torch
from processes import resident_bytes
from queue_doubles import OpenableSink, make_queue
from sink_files import events_in, files_in

import fastlog
from fastlog import _core
from fastlog.events.items import HISTOGRAM, SCALAR
from fastlog.events.sinks.event_files import EventFileSink
from fastlog.summaries.summary import EDGES, SUMMARY_DTYPE

pytestmark = [
    pytest.mark.soak,
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

MINUTES = float(os.environ.get("FASTLOG_SOAK_MINUTES", "10"))


def packed_gaussian(seed: int) -> bytes:
    values = np.random.default_rng(seed).normal(size=10_000)
    record = np.zeros((), SUMMARY_DTYPE)
    record["counts"] = np.histogram(values, EDGES)[0]
    record["num"] = record["num_finite"] = values.size
    record["min"], record["max"] = values.min(), values.max()
    record["sum"], record["sum_squares"] = values.sum(), values.dot(values)
    return _core.pack(record.tobytes())


@pytest.mark.parametrize("seed", range(1000, 1200))
def test_kill_9(tmp_path, seed):
    test_disk_faults.test_kill_9_loses_half_a_second_at_most(tmp_path, seed)


@pytest.mark.parametrize("seed", range(50))
def test_kill_9_after_flush(tmp_path, seed):
    test_disk_faults.test_kill_9_after_flush_loses_nothing_of_before(tmp_path, seed)


@pytest.mark.parametrize("overflow", ["block", "drop_oldest", "drop_newest"])
def test_the_model_at_length(overflow):
    test_queue_model.run_against_list(overflow, examples=2000)


def test_32_threads_of_50_000_events(tmp_path):
    sink = EventFileSink(str(tmp_path))
    queue = make_queue(queue_events=10_000, queue_bytes=1 << 28)

    def log(name: int) -> None:
        for i in range(50_000):
            queue.put(sink, (SCALAR, str(name), 0.0, i, 0.0), 200)

    threads = [threading.Thread(target=log, args=(name,)) for name in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    queue.close()
    assert queue.stats()["dropped"] == {}
    following = [0] * 32
    (path,) = files_in(tmp_path)
    for event in events_in(path)[1:]:
        name = int(event.summary.value[0].tag)
        assert event.step == following[name]
        following[name] += 1
    assert following == [50_000] * 32


@pytest.mark.parametrize("kind", [SCALAR, HISTOGRAM])
def test_sustained_rate_through_to_the_file(tmp_path, kind, record_property):
    sink = EventFileSink(str(tmp_path))
    queue = make_queue(queue_events=65_536, queue_bytes=256 << 20)
    value = 1.5 if kind == SCALAR else packed_gaussian(0)
    count = 1_000_000 if kind == SCALAR else 100_000
    began, cpu = time.perf_counter(), time.process_time()
    for i in range(count):
        queue.put(sink, (kind, "a/tag", value, i, time.time()), 700, kind == HISTOGRAM)
    queue.flush()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    stats = queue.stats()
    queue.close()
    assert (stats["written"], stats["dropped"]) == (count, {})
    figures = {
        "events a second": round(count / seconds),
        "events a CPU second": round(count / cpu),
        "caller us": round(1e6 * stats["caller_seconds"] / count, 2),
        "worker cpu us": round(1e6 * stats["worker_cpu_seconds"] / count, 2),
    }
    print(figures)
    for name, figure in figures.items():
        record_property(name, figure)
    # By the CPU's time: other programs on the machine do not count.
    assert count / cpu >= (200_000 if kind == SCALAR else 15_000)


@pytest.mark.filterwarnings("ignore::fastlog.FastlogWarning")
@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
def test_a_slow_sink_does_not_slow_the_caller(overflow):
    class Slow(OpenableSink):
        def write(self, items):
            time.sleep(0.02)
            super().write(items)

    sink = Slow()
    queue = make_queue(queue_events=500, overflow=overflow)
    took = []
    for i in range(200_000):
        first_to_go = i % 4 == 0
        kind = HISTOGRAM if first_to_go else SCALAR
        began = time.perf_counter()
        queue.put(sink, (kind, "x", 0.0, i, 0.0), 10, first_to_go)
        took.append(time.perf_counter() - began)
    queue.close()
    stats = queue.stats()
    assert stats["dropped"]["overflow"] > 0
    assert stats["accepted"] == 200_000 == stats["written"] + sum(stats["dropped"].values())
    median, slow, slowest = (1e6 * np.quantile(took, q) for q in (0.5, 0.999, 1))
    print({"median us": float(median), "p99.9 us": float(slow), "max us": float(slowest)})
    assert slow < 1000


def test_memory_stays_flat_at_full_rate(tmp_path):
    tensors = [torch.randn(10_000) for _ in range(20)]
    writer = fastlog.SummaryWriter(str(tmp_path), queue_events=8192, block_timeout=None)
    file = Path(writer.file_writer.event_writer._ev_writer._file_name)
    began = time.monotonic()
    minutes, megabytes = [], []
    step = 0
    while (now := time.monotonic() - began) < 60 * MINUTES:
        for i in range(1000):
            writer.add_scalar(f"scalar/{i}", 0.5, step)
        for i, tensor in enumerate(tensors):
            writer.add_histogram(f"histogram/{i}", tensor, step)
        step += 1
        if step % 100 == 0:
            # the file would fill the disk: what counts is memory
            writer.flush()
            os.truncate(file, 0)
            minutes.append(now / 60)
            megabytes.append(resident_bytes() / 2**20)
    writer.close()
    stats = writer.stats()
    warm = len(minutes) // 5
    slope = float(np.polyfit(minutes[warm:], megabytes[warm:], 1)[0])
    each_minute = [round(megabytes[at], 1) for at in np.searchsorted(minutes, np.arange(MINUTES))]
    print({"events": stats["written"], "MB a minute": round(slope, 3), "MB each minute": each_minute})
    assert slope < 1
    assert stats["dropped"] == {}


def test_a_thousand_lives_leave_no_threads_and_no_descriptors(tmp_path):
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    sink = EventFileSink(str(tmp_path))
    queue = make_queue()
    before = descriptors(), threading.active_count()
    for i in range(1000):
        queue.put(sink, (SCALAR, "x", 0.0, i, 0.0), 10)
        queue.close()
        other_sink, other = EventFileSink(str(tmp_path / "other")), make_queue()
        other.put(other_sink, (SCALAR, "x", 0.0, i, 0.0), 10)
        if random.random() < 0.9:
            other.close()
        else:
            other.flush()
    del other, other_sink
    give_up = time.monotonic() + 30
    while (descriptors(), threading.active_count()) > before and time.monotonic() < give_up:
        time.sleep(0.1)
    assert descriptors() <= before[0]
    assert threading.active_count() <= before[1]
    assert len(files_in(tmp_path)) == 1000
    assert len(files_in(Path(tmp_path) / "other")) == 1000
