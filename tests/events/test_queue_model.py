"""The queue against a model that is a list: every policy, with a sink that fails in every way that it may."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from queue_doubles import ManualQueue

from fastlog.events.items import ENCODER, HISTOGRAM, JOB, SCALAR, Item
from fastlog.events.sinks.memory import MemorySink
from fastlog.events.sinks.sink import InvalidItems, PartialWrite

MAX_EVENTS, MAX_BYTES = 6, 100

# What the next calls of a sink's write do: None is success.
mishaps = st.lists(
    st.none()
    | st.just("fails")
    | st.tuples(st.just("stops after"), st.integers(0, 3))
    | st.tuples(st.just("refuses"), st.sets(st.integers(0, 3), min_size=1)),
    max_size=4,
)


@dataclass
class Entry:
    """``runs``: an item needs nothing; a job runs on the worker, or aside, and needs nothing then."""

    number: int
    sink: int
    nbytes: int
    first_to_go: bool
    tag: str
    runs: str | None = None


class ScriptedSink(MemorySink):
    def __init__(self) -> None:
        super().__init__()
        self.script: list[Any] = []
        self.drops_said = 0.0

    def write(self, items: Sequence[Item]) -> None:
        if items[0][1] == "fastlog/dropped":
            assert items[0][2] > self.drops_said
            self.drops_said = items[0][2]
            return
        mishap = self.script.pop(0) if self.script else None
        if mishap == "fails":
            raise OSError("disk on fire")
        if mishap is not None and mishap[0] == "stops after" and mishap[1] < len(items):
            super().write(items[: mishap[1]])
            raise PartialWrite(mishap[1], OSError(28, "full"))
        if mishap is not None and mishap[0] == "refuses" and min(mishap[1]) < len(items):
            raise InvalidItems(sorted(i for i in mishap[1] if i < len(items)), ValueError("odd"))
        super().write(items)


class QueueAgainstList(RuleBasedStateMachine):
    overflow = "block"

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Entry] = []
        self.written: list[list[int]] = [[], []]
        self.dropped: Counter[str] = Counter()
        self.accepted = 0
        self.scripts: list[list[Any]] = [[], []]

    @initialize()
    def make(self) -> None:
        self.sinks = [ScriptedSink(), ScriptedSink()]
        self.queue = ManualQueue(
            queue_events=MAX_EVENTS,
            queue_bytes=MAX_BYTES,
            overflow=self.overflow,
            block_timeout=1e9,
            on_error="warn",
            flush_secs=1e9,
            on_wait=self.model_round,
        )

    # ---- the model

    def fits(self, nbytes: int) -> bool:
        if len(self.waiting) == MAX_EVENTS:
            return False
        if nbytes > MAX_BYTES:
            return all(e.nbytes <= MAX_BYTES for e in self.waiting)
        return sum(e.nbytes for e in self.waiting if e.nbytes <= MAX_BYTES) + nbytes <= MAX_BYTES

    def model_put(self, entry: Entry) -> None:
        while not self.fits(entry.nbytes):
            if entry.nbytes > MAX_BYTES and max(e.nbytes for e in self.waiting) > MAX_BYTES:
                self.dropped["overflow"] += 1
                return
            softs = [e for e in self.waiting if e.first_to_go]
            others = [e for e in self.waiting if not e.first_to_go]
            if self.overflow == "drop_oldest":
                victim = (softs or ([] if entry.first_to_go else others) or [None])[0]
            else:
                victim = softs[-1] if softs and not entry.first_to_go else None
            self.dropped["overflow"] += 1
            if victim is None:
                return
            self.waiting.remove(victim)
        self.waiting.append(entry)

    def model_round(self) -> None:
        over = False
        while not over:
            chunk, aside = self.model_chunk()
            for one in chunk:
                self.waiting.remove(one)
                one.runs = None
            left: list[Entry] = []
            for sink in dict.fromkeys(e.sink for e in chunk):
                left += self.model_write(sink, [e for e in chunk if e.sink == sink])
            if left:
                self.waiting = sorted([*left, *self.waiting], key=lambda e: e.number)
                return
            for one in aside:
                one.runs = None
            over = not chunk and not aside

    def model_chunk(self) -> tuple[list[Entry], list[Entry]]:
        """What is written next, and the jobs that run aside, behind which all of the same tag waits."""
        chunk: list[Entry] = []
        aside: list[Entry] = []
        claimed = set()
        for one in self.waiting:
            if one.runs == "aside" or (one.sink, one.tag) in claimed:
                claimed.add((one.sink, one.tag))
                aside += [one] if one.runs == "aside" else []
                continue
            if one.runs == "worker" and chunk:
                break
            chunk.append(one)
            if one.runs == "worker":
                break
        return chunk, aside

    def model_write(self, sink: int, entries: list[Entry]) -> list[Entry]:
        script = self.scripts[sink]
        while entries:
            mishap = script.pop(0) if script else None
            if mishap == "fails":
                return entries
            if mishap is not None and mishap[0] == "stops after" and mishap[1] < len(entries):
                self.written[sink] += [e.number for e in entries[: mishap[1]]]
                return entries[mishap[1] :]
            if mishap is not None and mishap[0] == "refuses" and min(mishap[1]) < len(entries):
                kept = [e for i, e in enumerate(entries) if i not in mishap[1]]
                self.dropped["invalid"] += len(entries) - len(kept)
                entries = kept
                continue
            self.written[sink] += [e.number for e in entries]
            return []
        return []

    # ---- what happens to both

    @rule(
        sink=st.integers(0, 1),
        nbytes=st.integers(0, 60) | st.just(101),
        first_to_go=st.booleans(),
        tag=st.sampled_from("abc"),
    )
    def put(self, sink: int, nbytes: int, first_to_go: bool, tag: str) -> None:
        number = self.accepted + 1
        item = (HISTOGRAM if first_to_go else SCALAR, tag, b"", number, 0.0)
        self.put_both(Entry(number, sink, nbytes, first_to_go, tag), item)

    @rule(
        sink=st.integers(0, 1),
        nbytes=st.integers(0, 60),
        first_to_go=st.booleans(),
        tag=st.sampled_from("abc"),
        aside=st.booleans(),
    )
    def put_job(self, sink: int, nbytes: int, first_to_go: bool, tag: str, aside: bool) -> None:
        number = self.accepted + 1
        item = (SCALAR, tag, 0.0, number, 0.0)
        job = (JOB, lambda: [item], nbytes, first_to_go, "a job", ENCODER if aside else None, [tag])
        self.put_both(Entry(number, sink, nbytes, first_to_go, tag, "aside" if aside else "worker"), job)

    def put_both(self, entry: Entry, item: Item) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.queue.put(self.sinks[entry.sink], item, entry.nbytes, entry.first_to_go)
        # Under "block" the model's rounds have run in on_wait by now.
        self.accepted += 1
        self.model_put(entry)

    @rule()
    def work(self) -> None:
        self.model_round()
        self.queue.work()

    @rule(script=mishaps, sink=st.integers(0, 1))
    def break_sink(self, script: list[Any], sink: int) -> None:
        self.sinks[sink].script += script
        self.scripts[sink] += script

    @rule()
    def break_both(self) -> None:
        self.break_sink(["fails"], 0)
        self.break_sink(["fails"], 1)

    @rule()
    def flush(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.queue.flush()
        if not self.waiting:
            assert all(sink.flushed == len(sink.items) for sink in self.sinks)

    @rule(seconds=st.floats(0, 3))
    def time_passes(self, seconds: float) -> None:
        self.queue._clock.now += seconds

    @invariant()
    def same_as_the_model(self) -> None:
        if not hasattr(self, "queue"):
            return
        stats = self.queue.stats()
        assert stats["accepted"] == self.accepted
        assert stats["depth"] == len(self.waiting) <= MAX_EVENTS
        assert stats["bytes"] == sum(e.nbytes for e in self.waiting) <= 101 + MAX_BYTES
        assert stats["dropped"] == dict(self.dropped)
        assert [[item[3] for item in sink.items] for sink in self.sinks] == self.written
        for sink in self.sinks:
            of_tag = defaultdict(list)
            for item in sink.items:
                of_tag[item[1]].append(item[3])
            assert all(steps == sorted(steps) for steps in of_tag.values())
        assert stats["written"] == sum(map(len, self.written))
        assert stats["accepted"] == stats["written"] + sum(stats["dropped"].values()) + stats["depth"]
        assert stats["max_depth"] <= MAX_EVENTS
        assert stats["max_bytes"] <= 101 + MAX_BYTES


def run_against_list(overflow: str, examples: int) -> None:
    machine = type("Machine", (QueueAgainstList,), {"overflow": overflow})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=examples, stateful_step_count=40, deadline=None)
    )


@pytest.mark.parametrize("overflow", ["block", "drop_oldest", "drop_newest"])
def test_the_queue_is_the_list(overflow):
    run_against_list(overflow, examples=80)
