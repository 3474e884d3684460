"""What the runner prints while it measures, and ``README.md``, written from the JSON alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.registry import DEVICES, Entry, Registry

README = Path(__file__).parent / "README.md"
DEVICE_TITLES = {"cpu": "CPU", "cuda": "GPU"}
COMMANDS = {"cpu": "make bench", "cuda": "make bench-gpu"}
UNMEASURED = "unmeasured"
INTRODUCTION = """\
# Benchmarks

`make bench` (CPU, 13 minutes) and `make bench-gpu` measure what this page shows and write it,
with the machine and the versions. A case first checks our result against the reference; a wrong one
is not timed. Ours and its peers then take turns in one process; of several peers the one with the
lowest median counts. A ratio is ours over the peer's, medians of time; its range is that of single
turns. Peak memory is that of a fresh process that does nothing else: on a CPU how far its resident
set grows beyond the imports, on a GPU what PyTorch's allocator hands out at most. On a CPU glibc is
told to give back what large tensors held (`MALLOC_MMAP_THRESHOLD_=131072` does the same): left to
itself it keeps holes between them, and peaks of one program differ by half.

Where time is measured, glibc keeps what is freed (`MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=-1` do
the same): left alone, it gives large tensors back to the system after every layer, and at 2049²
page faults take half of the time, of any network.

`make bench ARGS="--only NAME"` runs one case or file, `ARGS=--quick` everything at tiny sizes;
neither changes this page. All figures: `output/benchmarks/`. A new case: a function under `@case`
in the file of its topic.
"""


def ratio_text(ratio: float | None) -> str:
    """A ratio with two digits; below 1/2 as a fraction too."""
    if ratio is None:
        return UNMEASURED
    if ratio < 0.5:
        return f"{ratio:.3f} (1/{1 / ratio:.1f})"
    return f"{ratio:.2f}"


def threshold_text(threshold: float) -> str:
    if threshold < 0.6:
        whole = round(1 / threshold, 2)
        return f"≤ 1/{whole:g}"
    return f"≤ {threshold:.3g}"


def seconds_text(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def bytes_text(size: int | None) -> str:
    return "–" if size is None else f"{size / 2**20:.0f} MiB"


def case_lines(result: Mapping) -> list[str]:
    """What the console says about a case or a sweep."""
    lines = [f"{result['name']}: {result['title']}"]
    if result["status"] != "measured":
        return [*lines, f"  {result['status']}: {result['reason']}"]
    lines.append(f"  {result['shapes']}")
    lines.append(
        f"  checked against {result['checked_against']}: "
        f"error {result['error']:.1e}, allowed {result['tolerance']:.0e}"
    )
    lines += [f"  {note}" for note in result.get("notes", ())]
    for side in result.get("sides", ()):
        lines.append(f"  {side_text(side['name'], side)}")
    for point in result.get("points", ()):
        label = f"{point['series']}, {point['x']:g}"
        lines.append(f"  {side_text(label, point)}")
    if "ratio" in result:
        low, high = result["time_ratio_range"]
        lines.append(
            f"  over {result['peer']}: time {ratio_text(result['ratio']['time'])} "
            f"({low:.3g} … {high:.3g}), memory {ratio_text(result['ratio']['memory'])}"
        )
    for goal in result["goals"]:
        lines.append(
            f"  {goal['row'] or result['title']}: {ratio_text(goal['ratio'])}; resolved "
            f"{threshold_text(goal['resolved_at'])}, aim {threshold_text(goal['aim'])}: "
            f"{goal['verdict']}"
        )
    return lines


def side_text(label: str, side: Mapping) -> str:
    return (
        f"{label:48} {seconds_text(side['median_s']):>9}  ± {side['spread'] * 50:.0f} %  "
        f"peak {bytes_text(side['peak_bytes'])}"
    )


def environment_text(report: Mapping) -> str:
    machine, versions = report["machine"], report["versions"]
    parts = [machine["gpu"]] if "gpu" in machine else []
    parts.append(f"{machine['cpu']}, {machine['cores']} cores, {report['threads']} threads")
    parts.append(", ".join(f"{name} {version}" for name, version in versions.items()))
    return f"{'; '.join(parts)}; {report['date']}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def goal_rows(entry: Entry, device: str, result: Mapping | None) -> list[list[str]]:
    """A row of the table of goals for each goal of a case; unmeasured without a result."""
    goals: Sequence[Mapping] = () if result is None else result.get("goals", ())
    rows = []
    wanted = list(entry.goals[device]) + ([entry.growth.goal] if entry.growth else [])
    for index, goal in enumerate(wanted):
        measured = goals[index] if index < len(goals) else None
        ratio = UNMEASURED if measured is None else ratio_text(measured["ratio"])
        verdict = UNMEASURED if measured is None else measured["verdict"]
        if result is not None and result["status"] != "measured":
            ratio = verdict = result["status"]
        rows.append(
            [
                goal.row or entry.title,
                goal.quantity,
                ratio,
                threshold_text(goal.resolved_at),
                threshold_text(goal.aim),
                verdict,
            ]
        )
    return rows


def device_section(registry: Registry, device: str, report: Mapping | None) -> str:
    """The part of the page on one device, between two marks."""
    results = {} if report is None else {result["name"]: result for result in report["results"]}
    entries = [entry for entry in registry.entries() if device in entry.goals]
    lines = [f"## {DEVICE_TITLES[device]}"]
    if report is None:
        lines.append(f"Not measured yet: `{COMMANDS[device]}` on a machine that has one.")
    else:
        lines.append(environment_text(report))
    rows = [row for e in entries for row in goal_rows(e, device, results.get(e.name))]
    head = ["case", "quantity", "ratio", "resolved at", "aim", "met"]
    lines += ["", *table(head, rows)]
    for entry in entries:
        result = results.get(entry.name)
        if result is not None:
            lines += ["", *result_section(result, device)]
    return "\n".join(lines)


def result_section(result: Mapping, device: str) -> list[str]:
    lines = [f"### {result['title']}"]
    if result["status"] != "measured":
        return [*lines, f"{result['status'].capitalize()}: {result['reason']}"]
    notes = " ".join(result.get("notes", ()))
    lines += [
        f"{result['shapes']}. Checked against {result['checked_against']}: error "
        f"{result['error']:.1e}. {notes}".rstrip(),
        "",
    ]
    if "points" in result:
        head = ["series", result["x_label"], "time", "spread", "peak memory"]
        rows = [[p["series"], f"{p['x']:g}", *figures(p)] for p in result["points"]]
        picture = f"plots/{device}_{result['name']}.png"
        return [*lines, *table(head, rows), "", f"![{result['title']}]({picture})"]
    rows = [[side["name"], *figures(side)] for side in result["sides"]]
    lines += table(["", "time", "spread", "peak memory"], rows)
    low, high = result["time_ratio_range"]
    return [
        *lines,
        "",
        f"Over {result['peer']}: time {ratio_text(result['ratio']['time'])}, in single turns "
        f"{low:.3g} … {high:.3g}; memory {ratio_text(result['ratio']['memory'])}.",
    ]


def figures(side: Mapping) -> list[str]:
    return [
        seconds_text(side["median_s"]),
        f"± {side['spread'] * 50:.0f} %",
        bytes_text(side["peak_bytes"]),
    ]


def _marks(device: str) -> tuple[str, str]:
    return f"<!-- {device}: written by run.py -->", f"<!-- end of {device} -->"


def render(registry: Registry, page: str, reports: Mapping[str, Mapping]) -> str:
    """The page with these devices' parts anew, and the others' as they were.

    Args:
        page: the old one; empty if there is none.
        reports: device → report.
    """
    parts = [INTRODUCTION]
    for device in DEVICES:
        first, last = _marks(device)
        old = page.partition(first)[2].partition(last)[0].strip()
        if device in reports or not old:
            old = device_section(registry, device, reports.get(device))
        parts.append(f"{first}\n{old}\n{last}\n")
    return "\n".join(parts)


def update_readme(registry: Registry, report: Mapping, path: Path = README) -> None:
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    page = render(registry, page, {report["device"]: report})
    path.write_text(page, encoding="utf-8")
