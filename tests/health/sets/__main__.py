"""Trains all runs of the sets and writes docs/health/evidence.md: ``python -m sets``, in tests/health."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from sets import ALL
from sets.bench import CASES, RESULTS, result_of
from sets.page import page

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "health" / "evidence.md"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="repetitions of each run (%(default)s)")
    parser.add_argument("--only", nargs="*", default=[], help="parts of names of runs, or of sets; no page")
    parser.add_argument("--rejudge", action="store_true", help="judge the logs of the last trainings again")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--logs", type=Path, default=ROOT / "build" / "health-sets")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    chosen = [
        case
        for case in CASES.values()
        if not args.only or any(part in case.name or part in case.set for part in args.only)
    ]
    results = []
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as pool:
        waiting = [
            pool.submit(result_of, case.name, seed, args.logs / case.name / str(seed), args.rejudge)
            for case in chosen
            for seed in range(args.seeds)
        ]
        for future in waiting:
            results.append(future.result())
            print(describe(results[-1]), flush=True)
    wrong = sum(bool(result["missing"] or result["false_alarms"]) for result in results)
    print(f"{len(results)} runs, {wrong} of them judged wrongly")
    if not args.only:
        args.logs.mkdir(parents=True, exist_ok=True)
        (args.logs / RESULTS).write_text(json.dumps(results, indent=1))
        PAGE.write_text(page(results))
        print(f"written: {PAGE}")
    return 0


def describe(result: dict[str, Any]) -> str:
    """One line of the console; more where it is wrong."""
    wrong = [f"missing: {result['missing']}"] if result["missing"] else []
    wrong += [f"false alarm: {said}" for said in result["false_alarms"]]
    head = f"{'--' if wrong else 'ok'} {result['set']} {result['name']} {result['seed']}"
    return "\n     ".join([head, *wrong, *(result["said"] if result["missing"] else ())])


if __name__ == "__main__":
    assert ALL
    sys.exit(main())
