"""docs/health/evidence.md from the results of all runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from fastlog.health.rules import RULES

Results = list[dict[str, Any]]

_TEMPLATE = Path(__file__).with_name("evidence.md.in")


def page(results: Results) -> str:
    """All of it."""
    return _TEMPLATE.read_text().format(
        torch=torch.__version__.partition("+")[0],
        rates=_rates(results),
        by_rule=_by_rule(results),
        by_run=_by_run(results),
    )


def _table(head: str, rows: Iterable[Iterable[object]]) -> str:
    columns = head.split(" | ")
    lines = [head, " | ".join("---:" if column.startswith("#") else "---" for column in columns)]
    lines += [" | ".join(map(str, row)) for row in rows]
    return "\n".join(f"| {line.replace('| #', '| ')} |" for line in lines)


def _rates(results: Results) -> str:
    rows = []
    for held_out in ("", "held out, ", "held out again, "):
        for kind in ("planted", "healthy"):
            mine = [r for r in results if r["set"] == held_out + kind]
            if not mine:
                continue
            found = sum(not r["missing"] for r in mine) if kind == "planted" else ""
            names = len({r["name"] for r in mine})
            alarms = sum(bool(r["false_alarms"]) for r in mine)
            where = f"{held_out}since mended" if held_out else "in sample"
            rows.append((f"{kind}, {where}", names, len(mine), found, alarms))
    head = "set | #runs | #runs × seeds | #found | #with a false alarm"
    return _table(head, rows)


def _by_rule(results: Results) -> str:
    rows = []
    healthy = [r for r in results if not r["rule"]]
    for rule in RULES:
        planted = [r for r in results if r["rule"] == rule.id]
        said = [r["findings"].get(rule.id) for r in healthy]
        elsewhere = sum(
            any(alarm.startswith(f"{rule.id} (") for alarm in r["false_alarms"]) for r in results if r["rule"]
        )
        found = (
            f"{sum(not r['missing'] for r in planted)} of {len(planted)}" if planted else "not in the sets"
        )
        alarms = sum(one in ("warning", "error") for one in said)
        rows.append(
            (f"[{rule.id}]({rule.id}.md)", found, alarms, elsewhere, said.count("info"), rule.calibrated)
        )
    return _table(
        "rule | #found | #alarms, healthy | #alarms, planted | #info, healthy | numbers chosen on", rows
    )


def _by_run(results: Results) -> str:
    parts = []
    for name in dict.fromkeys(r["set"] for r in results):
        rows = []
        mine = [r for r in results if r["set"] == name]
        for run in dict.fromkeys(r["name"] for r in mine):
            seeds = [r for r in mine if r["name"] == run]
            said = Counter(f"{rule} ({severity})" for r in seeds for rule, severity in r["findings"].items())
            planted = seeds[0]["rule"]
            besides = [
                f"{what} × {n}" for what, n in said.items() if not planted or what.split(" (")[0] != planted
            ]
            missing = "; ".join(dict.fromkeys(r["missing"] for r in seeds if r["missing"]))
            found = f"{sum(not r['missing'] for r in seeds)} of {len(seeds)}" + (
                f": {missing}" if missing else ""
            )
            cells = [run.replace("_", " "), *([planted, found] if planted else [])]
            rows.append([*cells, ", ".join(besides)])
        head = "run | planted | found | besides" if mine[0]["rule"] else "run | said"
        parts.append(f"### {name.capitalize()}\n\n{_table(head, rows)}")
    return "\n\n".join(parts)
