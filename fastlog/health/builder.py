"""From observations, as they come, to the arrays of a history, in bounded memory."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fastlog.health.history import History, Inventory, Kind, Table
from fastlog.health.record import Names, Observation
from fastlog.summaries.packed import HEAD

MAX_BYTES = 256 * 2**20
_FEWEST = 128  # observations that are kept whatever they take
_FIRST = 16
MOST_SCALARS = 16_384  # of one tag


class Rows:
    """One value a name and observation: an array [T, names] that grows in both directions."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self.index: dict[str, int] = {}
        self.values = np.zeros((_FIRST, 0), dtype)
        self.present = np.zeros((_FIRST, 0), bool)
        self._last: Names = ()
        self._columns: Any = slice(0, 0)

    def put(self, at: int, names: Names, values: npt.NDArray[Any]) -> None:
        """Sets the values of observation ``at``."""
        if names is not self._last:
            for name in names:
                self.index.setdefault(name, len(self.index))
            columns = np.array([self.index[name] for name in names], np.int64)
            whole = len(columns) == len(self.index) and bool((columns == np.arange(len(columns))).all())
            self._columns = slice(None) if whole else columns
            self._last = names
        length, width = self.values.shape
        if at >= length or width < len(self.index):
            self._grow(max(length, 2 * at if at >= length else 0), len(self.index))
        self.values[at, self._columns] = values
        self.present[at, self._columns] = True

    def _grow(self, length: int, width: int) -> None:
        for name in ("values", "present"):
            old = getattr(self, name)
            new = np.zeros((length, width), old.dtype)
            new[: old.shape[0], : old.shape[1]] = old
            setattr(self, name, new)

    def keep(self, kept: npt.NDArray[np.int64]) -> None:
        """Forgets all observations but these."""
        for array in (self.values, self.present):
            array[: len(kept)] = array[kept]
            array[len(kept) :] = np.zeros((), array.dtype)

    def until(self, count: int) -> tuple[Names, npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Names, and values and presence [names, count]: views, which the next observations change."""
        if len(self.values) < count:
            self._grow(count, self.values.shape[1])
        return tuple(self.index), self.values[:count].T, self.present[:count].T


class HistoryBuilder:
    """Collects observations.

    Where they take more than ``max_bytes``, every second one of the older half is forgotten: the newest stay
    close together, the oldest become ever sparser.

    Args:
        run: name of the run.
        max_bytes: of memory, roughly.
    """

    def __init__(self, run: str, max_bytes: int = MAX_BYTES) -> None:
        self.run = run
        self.source: Literal["fastlog", "other"] = "fastlog"
        self.loss_tag: str | None = None
        self.count = 0
        self.scalars: dict[str, tuple[list[int], list[float]]] = {}
        self._max_bytes = max_bytes
        self._kinds: dict[str, Rows] = {}
        self._measures: dict[str, Rows] = {}
        self._inventories: list[Inventory] = []
        self._plain: list[tuple[int, float, tuple[float, ...], float | None, float | None]] = []
        self._starts = [0]

    def begin(self) -> None:
        """What comes next is from another process: training was resumed."""
        if self.count and self._starts[-1] != self.count:
            self._starts.append(self.count)

    def add(self, seen: Observation) -> None:
        """Appends an observation. A step that is not after the last one takes the place of all from it on."""
        while self._plain and self._plain[-1][0] >= seen.step:
            self._plain.pop()
        if len(self._plain) < self.count:
            self.count = len(self._plain)
            kept = np.arange(self.count)
            for rows in (*self._kinds.values(), *self._measures.values()):
                rows.keep(kept[: len(rows.values)])
            self._starts = [start for start in self._starts if start < self.count] or [0]
            self.begin()
        for kind, (names, heads) in seen.kinds.items():
            self._kinds.setdefault(kind, Rows(HEAD)).put(self.count, names, heads)
        for measure, (names, values) in seen.measures.items():
            self._measures.setdefault(measure, Rows(np.float64)).put(self.count, names, values)
        if seen.inventory is not None and (not self._inventories or self._inventories[-1] != seen.inventory):
            self._inventories.append(seen.inventory)
        self._plain.append((seen.step, seen.wall_time, seen.lr, seen.loss_scale, seen.optimizer_steps))
        self.count += 1
        self._thin()

    def scalar(self, tag: str, step: int, value: float) -> None:
        """A number that was logged beside the observations."""
        steps, values = self.scalars.setdefault(tag, ([], []))
        steps.append(step)
        values.append(value)
        if len(steps) >= MOST_SCALARS:  # as of the observations: the oldest become sparser
            half = len(steps) // 2
            del steps[:half:2], values[:half:2]

    def _thin(self) -> None:
        width = sum(len(rows.index) * HEAD.itemsize for rows in self._kinds.values())
        most = max(_FEWEST, self._max_bytes // max(width, 1))
        if self.count < most:
            return
        half = self.count // 2
        kept = np.concatenate([np.arange(0, half, 2), np.arange(half, self.count)])
        for rows in (*self._kinds.values(), *self._measures.values()):
            rows.until(self.count)
            rows.keep(kept)
        self._plain = [self._plain[i] for i in kept]
        self._starts = sorted({int(np.searchsorted(kept, start)) for start in self._starts})
        self.count = len(kept)

    def history(self) -> History:
        """All that has been collected; arrays are views, which the next observations change."""
        steps, wall_times, lrs, scales, taken = zip(*self._plain, strict=True) if self._plain else ((),) * 5
        groups = max(map(len, lrs), default=0)
        kinds = {kind: Kind(*rows.until(self.count)) for kind, rows in self._kinds.items()}
        measures = {}
        for name, rows in self._measures.items():
            names, values, present = rows.until(self.count)
            measures[name] = Table(names, np.where(present, values, np.nan))
        return History(
            self.run,
            np.array(steps, np.int64),
            np.array(wall_times, np.float64),
            kinds,
            tuple(self._inventories),
            np.array([[*lr, *[np.nan] * (groups - len(lr))] for lr in lrs], np.float64)
            .reshape(len(lrs), groups)
            .T,
            np.array(scales, np.float64),  # None becomes NaN
            np.array(taken, np.float64),
            measures,
            {tag: (np.array(s, np.int64), np.array(v, np.float64)) for tag, (s, v) in self.scalars.items()},
            loss_tag=self.loss_tag,
            starts=tuple(self._starts),
            source=self.source,
        )
