"""What results/*.json say, as rows of a table: one function a subject, one row a promise."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from plot import Curve, Panel, drawn

__all__ = [
    "ROWS",
    "SCRIPTS",
    "Row",
    "growth_plot",
    "growth_table",
    "page",
    "stages_table",
    "table",
    "torch_table",
]

#: The script that measures each subject.
SCRIPTS = {
    "first_frame": "open",
    "run_folder": "open",
    "open": "open",
    "stages": "stages",
    "forms": "stages",
    "growth": "open",
    "screen": "screen",
    "deep_check": "reading",
    "readers": "readers",
    "load_plan": "ranks",
    "stats": "reading",
    "diff": "reading",
    "export": "export",
    "remote": "reading",
    "verify_load": "ranks",
    "event_flood": "screen",
    "faults": "faults",
    "server_faults": "server_faults",
    "fuzz": "faults",
    "against": "against",
}


@dataclass(frozen=True)
class Row:
    """One measured promise.

    Attributes:
        what: What was done.
        subject: What of `SCRIPTS` measured it.
        beside: What it is compared with; empty if with nothing.
        result: The figures, in words.
        spread: Least and most of the main figure, in words.
        aim: What was aimed at, in words; empty if nothing was.
        holds: Whether the aim was met; None without one.
    """

    what: str
    subject: str
    beside: str
    result: str
    spread: str = ""
    aim: str = ""
    holds: bool | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def as_line(self) -> str:
        met = "" if self.holds is None else ": met" if self.holds else ": NOT MET"
        aim = f" (aim {self.aim}{met})" if self.aim else ""
        return f"{self.what} | {self.beside} | {self.result} | {self.spread}{aim}"


def table(rows: Iterable[Row]) -> str:
    """The table of docs/figures.md."""
    lines = ["| what | beside | result |", "|---|---|---|"]
    for row in rows:
        script = f"[{SCRIPTS[row.subject]}.py](../benchmarks/{SCRIPTS[row.subject]}.py)"
        missed = f"; **aim missed** ({row.aim})" if row.holds is False else ""
        lines.append(f"| {row.what} ({script}) | {row.beside} | {row.result}{missed} |")
    return "\n".join(lines)


def page(rows: Iterable[Row], machine: dict[str, Any], loads: dict[str, float]) -> str:
    """results/README.md."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    size = f"{machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB"
    lines = [
        "# Results",
        "",
        "Written by `python benchmarks/all.py`; do not edit. All figures are of one machine:",
        f"{size}, {machine['system']}, Python {machine['python']}, {versions}.",
        "",
        "| what | beside | result | spread | aim | met |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        met = "" if row.holds is None else "yes" if row.holds else "**no**"
        what = f"{row.what} ([{row.subject}](../{SCRIPTS[row.subject]}.py))"
        lines.append(f"| {what} | {row.beside} | {row.result} | {row.spread} | {row.aim} | {met} |")
    of_each = ", ".join(f"{name} {load:.1f}" for name, load in loads.items())
    lines += ["", f"Load average at the end of each (its own work is in it): {of_each}."]
    return "\n".join(lines) + "\n"


def _range(low: float, high: float, unit: str, digits: int = 2) -> str:
    return f"{low:.{digits}f} to {high:.{digits}f} {unit}"


def _first_frame(found: dict[str, Any]) -> list[Row]:
    ours, empty = found["hsdp-inspect"], found["empty Textual app"]
    return [
        Row(
            "first frame with content on a sample",
            "first_frame",
            "an empty Textual app",
            f"{found['ratio']:.2f}x ({ours * 1e3:.0f} ms against {empty * 1e3:.0f} ms)",
            _range(*found["spread"]["hsdp-inspect"], "s"),
        )
    ]


_OPENINGS = {
    "uncached": "first time, without the cache,",
    "first": "first time, with what the cache takes (the file is hashed),",
    "second": "second time,",
}


def _open(found: dict[str, Any]) -> list[Row]:
    rows = []
    target = found["target"]
    cpu_aim, peak_aim = target["cpu"], target["peak_mb_ratio"]
    for shape, figures in found["shapes"].items():
        torch = figures["torch"]
        for name, words in _OPENINGS.items():
            ours, wall_aim = figures[name], target["second_wall" if name == "second" else "wall"]
            cpu, wall, memory = (ours[f"{key}_ratio"] for key in ("cpu_s", "process_s", "peak_mb"))
            rows.append(
                Row(
                    f"opening {shape} tensors x ranks ({figures['metadata_bytes'] / 1e6:.0f} MB of "
                    f"metadata), {words} until the summary",
                    "open",
                    "torch's process for `read_metadata()`",
                    f"CPU 1/{1 / cpu:.1f} ({ours['cpu_s']['median']:.2f} s against "
                    f"{torch['cpu_s']['median']:.1f} s), wall 1/{1 / wall:.1f} "
                    f"({ours['process_s']['median']:.2f} s against "
                    f"{torch['process_s']['median']:.1f} s); {memory:.2f}x the memory of the "
                    f"whole process tree, front end {ours['front_mb']['median']:.0f} MB",
                    f"{_range(*ours['process_s']['spread'], 's')}, torch "
                    f"{_range(*torch['process_s']['spread'], 's', 1)}",
                    f"at most 1/{1 / cpu_aim:.0f} of the CPU time, 1/{1 / wall_aim:.0f} of the "
                    f"wall time, {peak_aim}x the memory, front end under {target['front_mb']} MB",
                    cpu <= cpu_aim
                    and wall <= wall_aim
                    and memory <= peak_aim
                    and ours["front_mb"]["median"] < target["front_mb"],
                )
            )
    return rows


def _forms(found: dict[str, Any]) -> list[Row]:
    def ratio(form: dict[str, Any], key: str) -> float:
        ours: float = form["ours"][key]["median"]
        return ours / form["torch"][key]["median"]

    most = found["target"]["to_usual"]
    usual = ratio(found["forms"]["usual"], "cpu_s")
    rows = []
    for name, form in found["forms"].items():
        cpu, wall = ratio(form, "cpu_s"), ratio(form, "wall_s")
        rows.append(
            Row(
                f"opening {found['chunks']:,} chunks, {form['what']}",
                "forms",
                "torch's process for `read_metadata()`",
                f"CPU 1/{1 / cpu:.1f} ({form['ours']['cpu_s']['median']:.2f} s against "
                f"{form['torch']['cpu_s']['median']:.1f} s), wall 1/{1 / wall:.1f}; "
                f"{form['ours']['peak_mb']['median']:.0f} MB against "
                f"{form['torch']['peak_mb']['median']:.0f} MB",
                _range(*form["ours"]["cpu_s"]["spread"], "s of CPU"),
                "" if name == "usual" else f"at most {most}x the usual form's part of torch's CPU",
                None if name == "usual" else cpu <= most * usual,
            )
        )
    return rows


def _stages(found: dict[str, Any]) -> list[Row]:
    rows = []
    for shape, figures in found["shapes"].items():
        command, limit = figures["command"], figures["limit"]
        read, hashed = (limit[name]["cpu"]["median"] for name in ("read", "hash"))
        rows.append(
            Row(
                f"opening {shape} tensors x ranks, without the cache, in CPU time",
                "stages",
                "reading the same file once",
                f"{command['cpu_s']['median'] / read:.0f}x ({command['cpu_s']['median']:.2f} s "
                f"against {read * 1e3:.0f} ms; hashing it takes {hashed * 1e3:.0f} ms)",
                _range(*command["cpu_s"]["spread"], "s"),
            )
        )
    return rows


def stages_table(found: dict[str, Any]) -> str:
    """Where the time of opening goes, in Markdown: CPU milliseconds of each stage."""
    shapes = found["shapes"]
    columns: list[dict[str, float]] = []
    for figures in shapes.values():
        child = {name: value["median"] for name, value in figures["child"].items()}
        whole, front = figures["command"]["cpu_s"]["median"], figures["front"]
        in_all = child.pop("in all")
        named = {f"child: {name}": value for name, value in child.items()}
        named["child: what is between these"] = in_all - sum(child.values())
        named["front end: start and imports"] = front["imports"]["median"]
        named["front end: taking the columns in"] = front["columns"]["median"]
        rest = whole - in_all - sum(value["median"] for value in front.values())
        named["sending, and the summary (the rest)"] = rest
        named["**in all**"] = whole
        for name, words in (("read", "reading the file"), ("hash", "hashing it (SHA-256)")):
            named[f"*limit: {words}*"] = figures["limit"][name]["cpu"]["median"]
        columns.append(named)
    lines = [
        f"| CPU time, ms | {' | '.join(shapes)} |",
        f"|---|{'---|' * len(shapes)}",
    ]
    for name in columns[0]:
        cells = [f"{1e3 * column.get(name, 0.0):,.0f}" for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    walls = ", ".join(f"{f['command']['wall_s']['median']:.2f} s" for f in shapes.values())
    reads = ", ".join(f"{f['limit']['read']['wall']['median']:.2f} s" for f in shapes.values())
    lines += [
        "",
        (
            f"Opening without the cache, until the summary, of {' and '.join(shapes)} tensors x "
            f"ranks; medians of {found['rounds']}. The stages are timed in runs of their own, with "
            "a clock around each, so their sum is not that of one run. Without the cache nothing "
            f"is hashed. Wall time of the whole: {walls}; of reading the file alone: {reads}."
        ),
    ]
    return "\n".join(lines)


#: Chunks from which on the start of the processes no longer counts.
_MANY_CHUNKS = 1_000_000


def _growth(found: dict[str, Any]) -> list[Row]:
    sizes = [size for size in found["sizes"] if size["num_chunks"] >= _MANY_CHUNKS]
    if len(sizes) < 2:
        return []
    of_each = [1e6 * size["ours"]["cpu_s"]["median"] / size["num_chunks"] for size in sizes]
    fronts = [(size["shape"], size["ours"]["front_mb"]["median"]) for size in sizes]
    bounds, most = found["target"]["front_mb"], found["target"]["time_a_chunk"]
    apart = max(of_each) / min(of_each)
    chunks = [f"{size['num_chunks'] / 1e6:.1f}" for size in sizes]
    front = ", ".join(f"{mb:.0f}" for _, mb in fronts)
    return [
        Row(
            f"first opening without a cache, {', '.join(chunks)} million chunks",
            "growth",
            "the same of each other",
            f"{', '.join(f'{us:.2f}' for us in of_each)} \u00b5s of CPU a chunk ({apart:.2f}x at "
            f"most apart); front end {front} MB",
            "",
            f"at most {most}x; front end under {', '.join(map(str, bounds.values()))} MB for the "
            "larger two",
            apart <= most and all(mb < bounds.get(shape, mb + 1) for shape, mb in fronts),
        )
    ]


def growth_table(found: dict[str, Any]) -> str:
    """The table of how opening grows, and its plot, in Markdown."""
    lines = [
        (
            "| chunks | metadata | ours: CPU, wall | torch: CPU, wall | CPU | "
            "ours: whole tree, front end | torch | memory |"
        ),
        "|---|---|---|---|---|---|---|---|",
    ]
    for size in found["sizes"]:
        ours, torch = size["ours"], size.get("torch")
        cpu, wall, peak, front = (
            ours[key]["median"] for key in ("cpu_s", "wall_s", "peak_mb", "front_mb")
        )
        theirs = [f"not measured: {size.get('torch_not_measured', '')}", "", "", ""]
        if torch is not None:
            theirs = [
                f"{torch['cpu_s']['median']:.1f} s, {torch['wall_s']['median']:.1f} s",
                f"1/{torch['cpu_s']['median'] / cpu:.1f}",
                f"{torch['peak_mb']['median']:,.0f} MB",
                f"{peak / torch['peak_mb']['median']:.2f}x",
            ]
        lines.append(
            f"| {size['num_chunks']:,} | {size['metadata_bytes'] / 1e6:,.1f} MB | {cpu:.2f} s, "
            f"{wall:.2f} s | {theirs[0]} | {theirs[1]} | {peak:,.0f} MB, {front:,.0f} MB | "
            f"{theirs[2]} | {theirs[3]} |"
        )
    load = found["machine"]["load_average"][0]
    lines += [
        "",
        (
            f"Tensors over 1,024 ranks, first opening until the summary, no cache; medians of "
            f"{found['rounds']} of ours and {found['torch_rounds']} of torch (load average "
            f"{load:.0f} on {found['machine']['cores']} cores, their own work in it)."
        ),
        "",
        "![CPU time and memory over the number of chunks](growth.svg)",
    ]
    return "\n".join(lines)


def growth_plot(found: dict[str, Any]) -> str:
    """The same as a picture (SVG)."""

    def curve(name: str, of: str, key: str) -> Curve:
        rows = [size for size in found["sizes"] if of in size]
        return Curve(name, [(row["num_chunks"], row[of][key]["median"]) for row in rows])

    panels = [
        Panel(
            "CPU time of opening, seconds",
            "chunks",
            [curve("hsdp-inspect show", "ours", "cpu_s"), curve("torch", "torch", "cpu_s")],
        ),
        Panel(
            "peak memory, MB",
            "chunks",
            [
                curve("hsdp-inspect, all processes", "ours", "peak_mb"),
                curve("torch", "torch", "peak_mb"),
                curve("hsdp-inspect, front end", "ours", "front_mb"),
            ],
        ),
    ]
    return drawn([Panel(p.title, p.across, [c for c in p.curves if c.points]) for p in panels])


def _run_folder(found: dict[str, Any]) -> list[Row]:
    cpu, parts = found["cpu"], found["parts"]
    show, python = cpu["show"]["median"], cpu["python"]["median"]
    return [
        Row(
            f"`check` of a run of {found['steps']} steps of {parts // found['steps']} small parts",
            "run_folder",
            "`check` of one of them",
            f"{found['ms_a_part']:.1f} ms of CPU for each further part, "
            f"{cpu['check']['median']:.2f} s for one alone",
            _range(*cpu["run"]["spread"], "s of CPU in all"),
            "at most 25 ms a part",
            found["ms_a_part"] <= 25,
        ),
        Row(
            "`show` of a small checkpoint",
            "run_folder",
            "`python -c pass`",
            f"{show:.2f} s of CPU against {python:.2f} s",
            _range(*cpu["show"]["spread"], "s"),
            "at most 0.20 s",
            show <= 0.20,
        ),
        Row(
            "decoding the names of 100,000 tensors, which holds the interpreter",
            "run_folder",
            "",
            f"{cpu['header_ms']['median']:.0f} ms of CPU",
            _range(*cpu["header_ms"]["spread"], "ms", 0),
        ),
    ]


def _first_names(figures: dict[str, Any]) -> str:
    """When the first names stood there; results of before names came early do not say."""
    first = figures.get("first_rows_s")
    return "" if first is None else f"first names {first:.2f} s after the start, "


def _screen(found: dict[str, Any]) -> list[Row]:
    rows = []
    limit = found["limit_ms"]
    for shape, figures in found["shapes"].items():
        keys, waits = figures["keys_ms"], figures["keys_while_loading"]
        later = figures["keys_while_loading_from_first_second"]
        latest_ms = later["largest_ms"] or 0.0
        slowest = max(keys, key=keys.__getitem__)
        rows.append(
            Row(
                f"the screen on {shape} tensors x ranks, from a key until its effect is drawn",
                "screen",
                "",
                f"{_first_names(figures)}the table {figures['first_paint_ms']:.0f} ms after "
                f"reading ended ({figures['first_table_s']:.1f} s after the start); page down "
                f"{keys['page down']:.0f} ms, a letter of the filter "
                f"{keys['filter: first letter']:.0f} ms, sort "
                f"{keys['sort by the next column']:.0f} ms; slowest of {len(keys)} keys: "
                f"{keys[slowest]:.0f} ms ({slowest}); with the tensor under the cursor, until "
                f"the last byte, at most {max(figures['settled_ms'].values()):.0f} ms; front end "
                f"{figures['resident_after_opening_mb']:.0f} MB",
                f"largest of a single press {max(figures['keys_largest_ms'].values()):.0f} ms, "
                f"of a first paint {figures['first_paint_largest_ms']:.0f} ms",
                f"no key and no first paint above {limit} ms",
                max(keys[slowest], figures["first_paint_ms"]) <= limit,
            )
        )
        if waits["pressed"]:
            rows.append(
                Row(
                    f"the same while it loads: the help, asked for {waits['pressed']} times",
                    "screen",
                    "",
                    f"median {waits['median_ms']:.0f} ms, largest {waits['largest_ms']:.0f} ms; of "
                    f"{later['pressed']} from the first second on {latest_ms:.0f} ms",
                    "",
                    f"none above {limit} ms from the first second on",
                    latest_ms <= limit,
                )
            )
    return rows


#: Of a plain read: in the page cache, and faster than one plain reader where it is not.
_DEEP_AIMS = {"cold": 1.0, "warm": 1.25}


def _deep_check(found: dict[str, Any]) -> list[Row]:
    rows = []
    for state, where in (("cold", "files not in the page cache"), ("warm", "files in it")):
        runs = found[state]
        whole, read, deep = runs["command"], runs["read"], runs["deep"]
        cpu = f", {whole['cpu_ratio']:.2f}x the CPU time" if "cpu_ratio" in whole else ""
        rows.append(
            Row(
                f"`check --deep` of {found['bytes'] / 1e9:.1f} GB, the whole command, {where}",
                "deep_check",
                "a process that reads the same files once, 8 MiB at a time",
                f"{whole['process_ratio']:.2f}x ({whole['median_process_s']:.2f} s against "
                f"{read['median_process_s']:.2f} s){cpu}, {whole['peak_mb']:.0f} MB; of it, "
                f"reading and checking the payloads {deep['ratio_to_read']:.2f}x of reading them",
                f"least {whole['least_s']:.2f} s",
                f"at most {_DEEP_AIMS[state]}x, under 300 MB",
                whole["process_ratio"] <= _DEEP_AIMS[state] and whole["peak_mb"] < 300,
            )
        )
    return rows


def _readers(found: dict[str, Any]) -> list[Row]:
    median = {name: value["median_s"] for name, value in found["runs"].items()}
    disk, alone = found["two_plain_to_one"], found["check_to_plain"]
    target = found["target"]
    # One process reads with two threads: it may be at what the disk gives by itself.
    allowed = max(disk, alone) >= target * alone
    gained = found["ranks_to_one_without_start"]
    return [
        Row(
            f"`check --deep --nproc-per-node 2` of {found['bytes'] / 1e9:.1f} GB, files not in the "
            "page cache",
            "readers",
            "`check --deep` by one process, and plain readers",
            f"{found['ranks_to_one']:.2f} times as fast ({median['ranks']:.1f} s against "
            f"{median['check']:.1f} s), {gained:.2f} times without what torchrun takes to start "
            f"({median['start']:.1f} s). The disk gives two plain readers {disk:.2f} times what it "
            f"gives one, and our one process {alone:.2f} times",
            _range(*(found["runs"]["ranks"][key] for key in ("least_s", "most_s")), "s"),
            f"{target} times where the disk allows it"
            + ("" if allowed else "; this one does not: one process has what it gives"),
            gained >= target if allowed else None,
        )
    ]


def _export(found: dict[str, Any]) -> list[Row]:
    cases = {
        "8": "8 files",
        "1024": "1,024 files",
        "1024_columns": "1,024 files, each with columns of every tensor",
    }
    rows = []
    for name, where in cases.items():
        runs = found[name]
        mine, torch = runs["export"], runs["torch"]
        rows.append(
            Row(
                f"`export --format torch` of {runs['bytes'] / 1e9:.1f} GB from {where}",
                "export",
                "torch's dcp_to_torch_save, and fsync",
                f"{mine['ratio']:.2f}x ({mine['median_s']:.1f} s against {torch['median_s']:.1f} "
                f"s), {mine['peak_mb']:.0f} MB against {torch['peak_mb']:.0f} MB",
                f"least {mine['least_s']:.1f} s; to safetensors "
                f"{runs['safetensors']['median_s']:.1f} s",
                "at most 0.6x, under 300 MB",
                mine["ratio"] <= 0.6 and mine["peak_mb"] < 300,
            )
        )
    return rows


def _under(row: dict[str, Any]) -> str:
    mesh = row.get("mesh", "")
    return f" under {mesh}" if "," in mesh else ""


def _load_plan(found: dict[str, Any]) -> list[Row]:
    return [
        Row(
            f"the load plan of all {row['ranks']:,} ranks{_under(row)}, {found['tensors']:,} "
            f"tensors of {found['chunks'] // found['tensors']:,} chunks",
            "load_plan",
            "torch's planner, a few ranks timed, times the ranks",
            f"{row['ratio_plan']:,.0f} times as fast ({row['prepare_and_plan_s']:.2f} s against "
            f"{row['torch_all_ranks_s']:,.0f} s); with every read listed "
            f"{row['ratio_with_every_read']:.0f} times; one rank of torch alone takes "
            f"{row['torch_one_rank_s']:.2f} s",
            _range(*row["plan_spread_s"], "s"),
            "50 times",
            row["ratio_plan"] >= 50,
        )
        for row in found["rows"]
    ]


#: Of torch's time, for what reads values.
_LEAST_OF_TORCH = 0.10


def _stats(found: dict[str, Any]) -> list[Row]:
    rows = []
    for dtype in ("float32", "bfloat16"):
        runs, ratios = found[dtype]["runs"], found[dtype]["ratios"]["torch"]
        narrow = found[dtype]["ratios"]["torch32"]
        time, memory = ratios["process"], ratios["peak"]
        cpu = f", {ratios['cpu']['median']:.2f}x the CPU time" if "cpu" in ratios else ""
        rows.append(
            Row(
                f"`stats` of {found[dtype]['bytes'] / 1e9:.1f} GB of {dtype}",
                "stats",
                "`dcp.load` into full tensors and torch's reductions in float64",
                f"{time['median']:.2f}x the time ({runs['command']['median_process_s']:.2f} s "
                f"against {runs['torch']['median_process_s']:.2f} s){cpu}, {memory['median']:.3f}x "
                f"the memory ({runs['command']['peak_mb']:.0f} MB); "
                f"{narrow['process']['median']:.2f}x the time of the same in the tensors' own type "
                "and without a histogram",
                _range(time["least"], time["most"], "x"),
                f"at most {_LEAST_OF_TORCH:.2f}x the time, under 400 MB",
                time["median"] <= _LEAST_OF_TORCH and runs["command"]["peak_mb"] < 400,
            )
        )
    return rows


def _diff(found: dict[str, Any]) -> list[Row]:
    rows = []
    for case in found["diff"].values():
        ratio = case["ratio"]
        cpu = f", {ratio['cpu']:.2f}x the CPU time" if "cpu" in ratio else ""
        rows.append(
            Row(
                f"`diff --values` of two checkpoints of {found['bytes_a_side'] / 1e9:.1f} GB: "
                f"{case['what']}",
                "diff",
                "`dcp.load` of both into full tensors, and torch's comparison",
                f"{ratio['time']:.2f}x the time ({case['ours']['median_s']:.2f} s against "
                f"{case['torch']['median_s']:.2f} s){cpu}, {ratio['peak_memory']:.3f}x the memory "
                f"({case['ours']['peak_mb']:.0f} MB)",
                _range(ratio["time_least"], ratio["time_most"], "x"),
                f"at most {_LEAST_OF_TORCH:.2f}x the time",
                ratio["time"] <= _LEAST_OF_TORCH,
            )
        )
    seal = found["seal"]
    rows.append(
        Row(
            "`seal` of the same: SHA-256 of every tensor",
            "diff",
            "`dcp.load` and `hashlib.sha256` of each tensor",
            f"{seal['ratio']['time']:.2f}x the time ({seal['gb_per_s']:.2f} GB/s), "
            f"{seal['ratio']['peak_memory']:.3f}x the memory; "
            f"{seal['ratio_to_sha256sum']['time']:.2f}x of hashing the files in one thread",
            _range(seal["ratio"]["time_least"], seal["ratio"]["time_most"], "x"),
        )
    )
    return rows


def _remote(found: dict[str, Any]) -> list[Row]:
    rows = []
    for name in ("show", "check", "check --deep", "stats of a tensor"):
        row = found["commands"][name]
        rival = found["commands"][row["rival"]]
        rows.append(
            Row(
                f"`{name}` on `s3://`, {found['checkpoint_bytes'] / 1e6:.0f} MB, "
                f"{found['latency_ms']:.0f} ms a request",
                "remote",
                f"{row['rival']} through FsspecReader",
                f"{row['requests']} requests (least possible {row['least_requests']}), "
                f"{row['bytes'] / 1e6:.2f} MB (least {row['least_bytes'] / 1e6:.2f}); "
                f"{row['ratio']:.2f}x the time ({row['median_s']:.2f} s; its {rival['requests']} "
                f"requests and {rival['bytes'] / 1e6:.2f} MB take {rival['median_s']:.2f} s)",
                _range(*row["spread_s"], "s"),
            )
        )
    deep, plain = found["commands"]["check --deep"], found["commands"].get("plain")
    if plain is not None:  # Results of before lack it.
        rows.append(
            Row(
                "the same `check --deep` beside plain range reads",
                "remote",
                "16 threads that ask for 8 MiB at a time and drop them",
                f"{deep['of_plain_rate']:.2f} of their rate ({plain['median_s']:.2f} s)",
                _range(*plain["spread_s"], "s"),
                f"at least {deep['least_of_plain_rate']} of their rate",
                deep["of_plain_rate"] >= deep["least_of_plain_rate"],
            )
        )
    return rows


def _verify_load(found: dict[str, Any]) -> list[Row]:
    target, rows = found["target"], []
    for mesh in found["meshes"]:
        is_trip, ratio, runs = "->" in mesh["mesh"], mesh["ratio"], mesh["runs"]
        what = "load, compare, copies, save, reload, compare" if is_trip else "load and compare"
        wall = ratio["median_s"]
        # Results of before were aimed at one ratio for all, and lack the CPU time.
        most = target["ratio"][mesh["mesh"]] if "ratio" in target else target["wall_ratio"]
        cpu = f"{ratio['median_cpu_s']:.2f}x CPU time, " if "median_cpu_s" in ratio else ""
        rows.append(
            Row(
                f"`verify`'s {what} under {mesh['mesh']}, {found['bytes'] / 1e9:.1f} GB",
                "verify_load",
                f"plain torchrun and `dcp.load`{', `dcp.save`, `dcp.load`' * is_trip}",
                f"{wall:.2f}x wall ({runs['verify']['median_s']:.1f} s against "
                f"{runs['plain']['median_s']:.1f} s), {cpu}"
                f"{ratio['peak_rss_mb']:.2f}x memory per rank",
                f"least {runs['verify']['least_s']:.1f} s against {runs['plain']['least_s']:.1f} s",
                f"{most}x wall, {target['peak_ratio']}x memory",
                wall <= most and ratio["peak_rss_mb"] <= target["peak_ratio"],
            )
        )
    return rows


def _event_flood(found: dict[str, Any]) -> list[Row]:
    flood = found["flood"]
    late = flood["late_ms"]
    how = ", real-time priority" if found["real_time_priority"] else ""
    return [
        Row(
            f"{flood['events_per_s_asked']:,} events a second on the live view{how}",
            "event_flood",
            "",
            f"{flood['events_per_s_taken']:,} taken; the loop is late by {late['median']:.1f} ms "
            f"(median), {late['p99']:.0f} ms (99 %)",
            f"largest {late['max']:.0f} ms",
        )
    ]


def _faults(found: dict[str, Any]) -> list[Row]:
    summary = found["summary"]
    silent = summary["torch_is_silent"]
    deep = silent["deep"]
    return [
        Row(
            f"{summary['faults']} planted faults",
            "faults",
            "`dcp.load`",
            f"torch loads {silent['faults']} of them silently and wrong; of these `check --deep` "
            f"fails {deep['fails']}, warns of {deep['warns']}, and cannot see {deep['passes']}",
        )
    ]


def _fuzz(found: dict[str, Any]) -> list[Row]:
    return [
        Row(
            f"{found['mutations']:,} damaged checkpoints judged",
            "fuzz",
            "",
            f"{len(found['failures'])} failed (no verdict, wrong exit code, or sound where torch "
            f"does not load it as it was); median {found['median_s']:.2f} s, "
            f"slowest {found['slowest'][0]['s']:.1f} s, largest memory "
            f"{max(found['largest_memory_mb'].values()):.0f} MB",
            "",
            "a verdict that torch bears out, for each",
            not found["failures"],
        )
    ]


def _server_faults(found: dict[str, Any]) -> list[Row]:
    runs = found["runs"]
    wrong = sum(bool(run["wrong"]) for run in runs)
    # What torch takes by itself in verify's processes is not ours.
    mebibytes = max(run["mib"] for run in runs if run["command"] != "verify")
    return [
        Row(
            f"{len(runs):,} commands under {len({run['fault'] for run in runs}) - 1} faults of a "
            "server",
            "server_faults",
            "",
            f"{wrong} ended otherwise than they must; slowest {max(run['s'] for run in runs):.0f} "
            f"s, largest memory of a tree of processes {mebibytes} MiB",
            "",
            "the right exit code, within 60 s and 300 MiB",
            not wrong,
        )
    ]


def _against(found: dict[str, Any]) -> list[Row]:
    return [
        Row(
            f"`{case['command']}` of {case['of']}",
            "against",
            f"the same at {found['revision']}",
            f"wall {case['wall_s']['ratio']:.2f}x ({case['wall_s']['new']:.2f} s against "
            f"{case['wall_s']['old']:.2f} s), CPU {case['cpu_s']['ratio']:.2f}x, memory "
            f"{case['peak_mb']['ratio']:.2f}x",
            f"{found['rounds']} rounds",
        )
        for case in found["cases"]
    ]


#: The rows of each subject's results.
ROWS: dict[str, Callable[[dict[str, Any]], list[Row]]] = {
    "first_frame": _first_frame,
    "run_folder": _run_folder,
    "open": _open,
    "stages": _stages,
    "forms": _forms,
    "growth": _growth,
    "screen": _screen,
    "deep_check": _deep_check,
    "readers": _readers,
    "load_plan": _load_plan,
    "stats": _stats,
    "diff": _diff,
    "export": _export,
    "remote": _remote,
    "verify_load": _verify_load,
    "event_flood": _event_flood,
    "faults": _faults,
    "server_faults": _server_faults,
    "fuzz": _fuzz,
    "against": _against,
}


def torch_table(found: dict[str, Any]) -> str:
    """What plain `dcp.load` does in each torch, and what a job of its ranks says: in Markdown."""
    lines = ["| torch | checkpoints | `dcp.load` loads them | it raises | `verify` agrees |"]
    lines.append("|---|---|---|---|---|")
    raised: dict[str, list[str]] = {}
    for row in found["table"]:
        cells, torch = row["cells"], row["torch"].partition("+")[0]
        loads = [cell["dcp.load"] == "loads" for cell in cells.values()]
        agree = sum(cell["agrees"] for cell in cells.values())
        lines.append(
            f"| {torch} | {len(cells)} | {sum(loads)} | {len(loads) - sum(loads)} "
            f"| {agree} of {len(cells)} |"
        )
        for name, cell in cells.items():
            if cell["dcp.load"] != "loads":
                short = name.replace("tests/data/golden/", "torch ").replace("sample_ckpts/", "")
                raised.setdefault(short, []).append(f"{torch} (`{cell['verify']}`)")
    lines += ["", "| raises | in (what `verify` says there) |", "|---|---|"]
    lines += [f"| {name} | {', '.join(where)} |" for name, where in raised.items()]
    return "\n".join(lines)
