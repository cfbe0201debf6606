"""The results as Markdown tables."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def _table(heads: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *("| " + " | ".join(row) + " |" for row in rows), ""]


def _times(rows: list[Row]) -> list[str]:
    heads = ["", "median ms", "p10 - p90", "p99", "CPU ms", "ratio", "CPU ratio"]
    cells = [
        [
            row["name"],
            f"{row['p50_ms']:.3f}",
            f"{row['p10_ms']:.3f} - {row['p90_ms']:.3f}",
            f"{row['p99_ms']:.3f}",
            f"{row['cpu_ms']:.3f}",
            f"{row['ratio']:.3f}",
            f"{row['cpu_ratio']:.3f}",
        ]
        for row in rows
    ]
    return _table(heads, cells)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _goals(goals: list[Row]) -> list[str]:
    return _table(
        ["goal", "by the clock", "by CPU time", "limit", ""],
        [
            [
                g["what"],
                _number(g.get("ratio")),
                _number(g.get("cpu_ratio")),
                f"{g['goal']:g}",
                "met" if g["met"] else "not met",
            ]
            for g in goals
        ],
    )


def _growth(section: Row) -> list[str]:
    lines = ["By batch:", "", *_times(section["by_batch"]), "By projected steps (text, audio, vision), batch 1:", ""]
    cells = []
    for row in section["by_length"]:
        steps, other = row["projected_steps"], row["student_openvino_ms"]
        shown = str(steps[0]) if len(set(steps)) == 1 else ", ".join(map(str, steps))
        openvino = "-" if other is None else f"{other:.2f}"
        cells.append(
            [
                shown,
                f"{row['naive_ms']:.2f}",
                f"{row['student_ms']:.2f}",
                f"{row['ratio']:.3f}",
                f"{row['cpu_ratio']:.3f}",
                openvino,
            ]
        )
    return lines + _table(["steps", "naive export ms", "student ms", "ratio", "CPU ratio", "student, OpenVINO ms"], cells)


def _footprint(section: Row) -> list[str]:
    rows = [[row["name"], f"{row['peak_mb']:.0f}", f"{row['open_ms']:.0f}"] for row in section["rows"]]
    starts = [[name, f"{seconds:.3f}"] for name, seconds in section["starts_cpu_s"].items()]
    return [
        *_table(["", "peak resident MB", "open ms"], rows),
        *_table(["", "CPU seconds"], starts),
        *_goals(section["goals"]),
    ]


def _profile(section: Row) -> list[str]:
    lines = []
    for name, found in section.items():
        lines += [f"{name}: {found['total_us']:.0f} us in {found['nodes']} kernels", ""]
        cells = [[o["op"], f"{o['share']:.1%}", f"{o['us']:.0f}", str(o["nodes"])] for o in found["ops"] if o["share"] > 0.01]
        lines += _table(["operator", "share", "us", "kernels"], cells)
    return lines


def _native(section: Row) -> list[str]:
    if "skipped" in section:
        return [f"Skipped: {section['skipped']}", ""]
    lines = [
        "Engines take turns, so each finds its weights where the others' turns left them: in the last cache at best.",
        "",
        f"{section['version']}, batch 1:",
        "",
        *_times(section["rows"]),
        *_goals(section["goals"]),
    ]
    heads = ["", "student in ONNX Runtime ms", "native fp32 ms", "CPU ratio", "native int8 ms", "CPU ratio"]
    cells = [
        [row["name"], f"{row['student_ms']:.3f}"]
        + [f"{row[f'native {form} {key}']:.3f}" for form in ("fp32", "int8") for key in ("p50_ms", "cpu_ratio")]
        for row in section["by_size"]
    ]
    lines += ["Sizes and batches, ratios to the student in ONNX Runtime:", "", *_table(heads, cells)]
    cells = [
        [row["name"], f"{row['p50_ms']:.3f}", _number(row["p99_to_p50"]), _number(row["cpu_p99_to_p50"])]
        for row in section["tail"]
    ]
    lines += ["Tail and cold caches:", "", *_table(["", "median ms", "p99 / p50", "of CPU time"], cells)]
    keys = ("one_ms", "two_ms", "ratio_p50", "ratio_p10")
    cells = [[row["name"], *(f"{row[key]:.3f}" for key in keys)] for row in section["threads"]]
    heads = ["", "one, ms", "two, ms", "ratio of medians", "of fastest tenths"]
    lines += ["Two threads inside a call:", "", *_table(heads, cells)]
    cells = [[row["name"], f"{row['cpu_ms']:.1f}"] for row in section["opening"]]
    lines += ["Packing at open:", "", *_table(["", "CPU ms"], cells)]
    forms = ("fp32", "int8")
    cells = [
        [
            row["isa"],
            *(f"{row[form]:.1f} of {row[f'{form}_peak']:.1f} ({row[form] / row[f'{form}_peak']:.0%})" for form in forms),
        ]
        for row in section["rates"]
    ]
    return [*lines, "Products, G multiply-adds a second of what registers alone do:", "", *_table(["", "fp32", "INT8"], cells)]


def markdown(result: Row) -> str:
    """All sections of a result."""
    machine, sections = result["machine"], result["sections"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores ({machine['architecture']}, {' '.join(machine['isa'])}), "
        f"load {machine['load']}, Python {machine['python']}; {versions}; threads {result['threads']}",
        "",
    ]
    if "headline" in sections:
        section = sections["headline"]
        nodes = ", ".join(f"{name} {count}" for name, count in section["nodes"].items())
        rounds = section["rows"][0]["rounds"]
        lines += [f"## Latency, batch 1 ({rounds} interleaved rounds; nodes: {nodes})", "", *_times(section["rows"])]
        lines += [*(f"Skipped: {name}: {reason}" for name, reason in section["skipped"].items()), ""]
        lines += _goals(section["goals"])
    if "overhead" in sections:
        section = sections["overhead"]
        lines += ["## Runtime overhead", "", *_times(section["rows"]), *_goals(section["goals"])]
    if "growth" in sections:
        lines += ["## Growth", "", *_growth(sections["growth"])]
    if "footprint" in sections:
        lines += ["## Memory and start", "", *_footprint(sections["footprint"])]
    if "profile" in sections:
        lines += ["## Where the time goes", "", *_profile(sections["profile"])]
    if "native" in sections:
        lines += ["## Native kernels", "", *_native(sections["native"])]
    return "\n".join(lines)
