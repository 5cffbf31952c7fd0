"""Makes ``docs/benchmarks.md``, its plots and README's table from the JSON that pytest-benchmark saves.

python benchmarks/report/pages.py build/benchmarks.json build/benchmarks-plain-sort.json
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import plots

ROOT = Path(__file__).parents[2]
OURS = "fastlog"
IN_README = (OURS, "tensorboardX", "torch.utils.tensorboard")
MATRIX = "one tensor: dtypes and sizes"
CONTENTS = "one tensor: contents"
PLOTS = {
    "one tensor: everyone": plots.everyone,
    "training step": plots.training_step,
    "growth: number of values": plots.number_of_values,
    "growth: number of tensors": plots.number_of_tensors,
    "growth: dtype": plots.dtype,
}
TITLES = {  # in the order of the page
    "training step": "A whole training step",
    "watching a model": "Watching a model: a logged step",
    "watching a model: steps between": "Watching a model: a step that is not logged",
    "watching a model: a budget": "Watching a model: a budget",
    "add_histogram": "`add_histogram`, on the calling thread",
    "add_scalar": "`add_scalar`, on the calling thread",
    "worker": "The worker",
    "a model in one call": "A model's tensors in one call",
    "one tensor: everyone": "One tensor: everyone",
    "one tensor: contents, beside the others": "One tensor: contents, beside the others",
    CONTENTS: "One tensor: contents",
    MATRIX: "One tensor: dtypes and sizes",
    "out of cache": "Out of cache",
    "growth: number of values": "Growth with the number of values",
    "growth: number of tensors": "Growth with the number of tensors",
    "growth: dtype": "Growth with the dtype",
    "memory": "Memory",
}
NOTES = {
    MATRIX: "Gaussian values; M values/s.",
    CONTENTS: "M values/s.",
    "one tensor: everyone": "Float32, into TensorBoard's 1548 bins, compared in float32 where a library does"
    " so. Those marked *equal bins* cannot do these bins: they count as many equal ones, an easier task, "
    "over a range that they are told.",
    "a model in one call": "The weights of a pretrained BERT.",
    "training step": "A pretrained BERT on movie reviews, batch 32; `flush()` is part of the time.",
    "watching a model": "One training step with AdamW, all weights and gradients logged, all written at its"
    " end. What logging adds to the step without, as the median over the rounds, and its time.",
    "watching a model: steps between": "The hooks alone, for as many tensors as the two models above have.",
    "watching a model: a budget": "Time of one step. A model that is small in work and large in values.",
    "worker": "Time per event until all is in the file and synced; for the Python loop, time of one step.",
    "growth: number of tensors": "The same values in one `summarize` call, in ever more tensors.",
    "growth: dtype": "All in one call of the default thread count.",
}

Benchmark = dict[str, Any]


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def seconds(value: float) -> str:
    """Three digits and a unit: 0.0123 is "12.3 ms"."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{_three_digits(value / size)} {unit}"
    return f"{_three_digits(value / 1e-9)} ns"


def _three_digits(value: float) -> str:
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f}"


def reached(target: dict[str, Any]) -> bool:
    if target["at_least"] is not None:
        return bool(target["value"] >= target["at_least"])
    return bool(target["value"] <= target["at_most"])


def targets_table(targets: Sequence[dict[str, Any]]) -> str:
    """A line per case; where several benchmarks share one, the worst of them."""
    by_case: dict[str, list[dict[str, Any]]] = {}
    for target in targets:
        by_case.setdefault(target["case"], []).append(target)
    rows = []
    for case, same in by_case.items():
        sign, bound, worst = (
            ("≥", "at_least", min) if same[0]["at_least"] is not None else ("≤", "at_most", max)
        )
        target = worst(same, key=lambda target: target["value"])
        limit = f"{sign} {target[bound]:g}" + (f" (goal {target['goal']:g})" if target["goal"] else "")
        beside = [target["beside"]] if target["beside"] else []
        if len(same) > 1:
            beside.append(f"the worst of {len(same)}: {target['benchmark']}")
        value = f"{_three_digits(target['value'])} {target['unit']}"
        rows.append([case, limit, value, "yes" if reached(target) else "**no**", "; ".join(beside)])
    return markdown_table(["case", "to reach", "measured", "reached", "beside it"], rows)


def race_table(benchmarks: Sequence[Benchmark]) -> str:
    """Medians, and how many times longer each took than fastlog; the longer side goes down."""
    races = {b["extra_info"].get("case", b["name"]): b["extra_info"] for b in benchmarks}
    names = list(dict.fromkeys(name for info in races.values() for name in info["median_seconds"]))

    def cell(info: dict[str, Any], name: str) -> str:
        if name not in info["median_seconds"]:
            return ""
        ratio = info["ratio_to_fastlog"].get(name)
        return seconds(info["median_seconds"][name]) + (
            f" ({_three_digits(ratio)} x)" if ratio is not None else ""
        )

    if len(names) > len(races):
        rows = [[name, *(cell(info, name) for info in races.values())] for name in names]
        return markdown_table(["", *races], rows)
    return markdown_table(
        ["", *names], ([case, *(cell(info, n) for n in names)] for case, info in races.items())
    )


def overhead_table(benchmarks: Sequence[Benchmark]) -> str:
    """What each adds to a step, by the case."""
    infos = {b["extra_info"]["case"]: b["extra_info"] for b in benchmarks}
    plain = {case: (set(i["median_seconds"]) - set(i["overheads"])).pop() for case, i in infos.items()}
    names = list(dict.fromkeys(name for info in infos.values() for name in info["median_seconds"]))

    def cell(case: str, name: str) -> str:
        info = infos[case]
        if name not in info["median_seconds"]:
            return ""
        time = seconds(info["median_seconds"][name])
        return time if name == plain[case] else f"{100 * info['overheads'][name]:+.1f} % ({time})"

    return markdown_table(["", *infos], [[name, *(cell(case, name) for case in infos)] for name in names])


def rate_table(benchmarks: Sequence[Benchmark], column: str) -> str:
    """M values/s: dtype and thread count down, ``column`` across."""
    rates: dict[tuple[str, int], dict[str, str]] = {}
    for info in (benchmark["extra_info"] for benchmark in benchmarks):
        rate = info["values"] / info["median_seconds"][OURS] / 1e6
        heading = f"{info[column]:,}" if isinstance(info[column], int) else info[column]
        rates.setdefault((info["dtype"], info["threads"]), {})[heading] = f"{rate:,.0f}"
    columns = list(dict.fromkeys(heading for row in rates.values() for heading in row))
    rows = (
        [f"{dtype}, {n} thread{'s' * (n > 1)}", *(row.get(c, "") for c in columns)]
        for (dtype, n), row in rates.items()
    )
    return markdown_table(["", *columns], rows)


def machine_text(data: dict[str, Any]) -> str:
    info = data["machine_info"]
    packages = ", ".join(f"{name} {version}" for name, version in info["packages"].items() if version)
    cores = f"{info['cores']} core{'s' * (info['cores'] > 1)}"
    return (
        f"{info['cpu'].get('brand_raw', info['processor'] or info['machine'])}, {cores}, "
        f"{info['memory_bytes'] / 2**30:.0f} GB, {info['system']} {info['release']}, "
        f"Python {info['python_version']}; fastlog's CPU path: {info['cpu_path']}; load average at the start "
        f"{info['load']:.1f}. {packages}."
    )


def plain_sort_text(plain_sort: dict[str, Any]) -> str:
    return (
        "## Where NumPy sorts without SIMD\n\n"
        "tensorboardX counts with `np.histogram`, which sorts. NumPy does that with AVX-512 or AVX2 on the "
        "CPUs and in the versions that have it, about twenty times faster than elsewhere. The same machine "
        "with that switched off (`make bench-plain-sort`):\n\n" + race_table(plain_sort["benchmarks"]) + "\n"
    )


def readme_table(data: dict[str, Any], plain_sort: dict[str, Any]) -> str:
    """What README shows: a whole step, and single calls."""

    def row(group: str, case: str, title: str, source: dict[str, Any] = data) -> list[str]:
        found = [b["extra_info"] for b in source["benchmarks"] if b["group"] == group]
        (info,) = [info for info in found if info["case"] == case]
        return [title, *(seconds(info["median_seconds"][name]) for name in IN_README)]

    steps = [b["extra_info"].get("overheads") for b in data["benchmarks"] if b["group"] == "training step"]
    (overheads,) = filter(None, steps)
    million = "4,194,304 float32, 2 threads"
    rows = [
        ["a training step of the example, all weights and gradients"]
        + [f"{100 * overheads[name]:+.1f} %" for name in IN_README],
        row("add_scalar", "float", "`add_scalar`"),
        row("add_histogram", "768 float32", "`add_histogram`, 768 values"),
        row("add_histogram", million, "`add_histogram`, 4 M values"),
        row("add_histogram", million, "the same where NumPy has no SIMD sort", plain_sort),
    ]
    return markdown_table(["", *IN_README], rows)


def put_into_readme(table: str) -> None:
    path = ROOT / "README.md"
    begin, end = "<!-- benchmarks/report/pages.py -->\n", "\n<!-- end -->"
    before, rest = path.read_text(encoding="utf-8").split(begin)
    path.write_text(before + begin + table + end + rest.split(end, 1)[1], encoding="utf-8")


def page(data: dict[str, Any], plain_sort: dict[str, Any], images: dict[str, str]) -> str:
    """The page; ``images``: path of each group's plot."""
    groups: dict[str, list[Benchmark]] = {group: [] for group in TITLES}
    for benchmark in data["benchmarks"]:
        groups[benchmark["group"]].append(benchmark)
    in_order = itertools.chain.from_iterable(groups.values())
    targets = [target for benchmark in in_order for target in benchmark["extra_info"].get("targets", [])]
    quick = "\n**A quick run: small tensors, few rounds. The targets below are not what they say.**\n"
    parts = [
        "# Benchmarks\n\n<!-- Made by benchmarks/report/pages.py; do not edit. -->\n",
        f"{data['datetime'][:10]} (UTC), {machine_text(data)}\n",
        quick if data["machine_info"]["quick"] else "",
        "All times of one case were measured side by side: in each round everyone runs once, in an order "
        "that rotates. They are medians over the rounds; (n x) is how many times longer it took than fastlog."
        " Each benchmark also asserts its answer, counts against `np.histogram` in float64. Repeat it with "
        "`make bench`; `python -m fastlog bench` is the short version.\n",
        "## Targets\n",
        targets_table(targets) + "\n",
    ]
    for group, benchmarks in groups.items():
        if not benchmarks:
            continue
        parts.append(f"## {TITLES[group]}\n")
        if group in NOTES:
            parts.append(NOTES[group] + "\n")
        if group in images:
            parts.append(f"![{TITLES[group]}]({images[group]})\n")
        columns = {MATRIX: "values", CONTENTS: "content"}
        if group in columns:
            table = rate_table(benchmarks, columns[group])
        elif "overheads" in benchmarks[0]["extra_info"]:
            table = overhead_table(benchmarks)
        else:
            table = race_table(benchmarks)
        parts.append(table + "\n")
    return "\n".join([*parts, plain_sort_text(plain_sort)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path, help="what `make bench` has saved")
    parser.add_argument("plain_sort", type=Path, help="what `make bench-plain-sort` has saved")
    args = parser.parse_args()
    data, plain_sort = json.loads(args.json.read_text()), json.loads(args.plain_sort.read_text())
    docs = ROOT / "docs"
    (docs / "images").mkdir(parents=True, exist_ok=True)
    images = {}
    for group, plot in PLOTS.items():
        infos = [benchmark["extra_info"] for benchmark in data["benchmarks"] if benchmark["group"] == group]
        if infos:
            images[group] = f"images/benchmark_{plot.__name__}.svg"
            plot(infos, docs / images[group])
    (docs / "benchmarks.md").write_text(page(data, plain_sort, images), encoding="utf-8")
    put_into_readme(readme_table(data, plain_sort))


if __name__ == "__main__":
    main()
