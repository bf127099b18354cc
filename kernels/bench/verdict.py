"""Targets beside what was measured: one line each, from the record of a sitting or of several joined."""

from collections.abc import Callable
from dataclasses import dataclass

GIB, MIB = 2**30, 2**20
MAP_SHAPE, SDPA_LIMIT = "6 x 11, range 11", 0.76
PR108_TFLOPS = {0.1: 328, 0.25: 362, 0.45: 405, 0.7: 427, 0.9: 424}
"""The open Hopper branch of the official repository (PR #108) on an H200, by the issue that set the targets."""


@dataclass(frozen=True)
class Line:
    """One target: `find` takes the number out of a record and raises LookupError where it was not measured."""

    what: str
    limit: float
    unit: str
    find: Callable[[dict], float]
    is_at_most: bool = True

    def row(self, record):
        """what, target, measured, verdict."""
        target = f"{'at most' if self.is_at_most else 'at least'} {self.limit:g} {self.unit}"
        try:
            value = self.find(record)
        except (LookupError, TypeError, ValueError):
            return self.what, target, "", "not measured"
        # Not a number is not met.
        is_met = value <= self.limit if self.is_at_most else value >= self.limit
        return self.what, target, f"{value:.4g} {self.unit}", "met" if is_met else "NOT MET"


def at_least(what, limit, unit, find):
    return Line(what, limit, unit, find, is_at_most=False)


def rows_of(record, script, **wanted):
    rows = record["kernels"][script]["rows"]
    found = [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]
    if not found:
        raise LookupError(f"{script} has no {wanted}")
    return found


def attention(record, density):
    rows = rows_of(record, "attention.py", kernel="ours")
    row = min(rows, key=lambda row: abs(row["density"] - density))
    if abs(row["density"] - density) > 0.02:
        raise LookupError(f"density {density} was not measured")
    return row


def worst_against_sdpa(record):
    (dense,) = rows_of(record, "attention.py", kernel="dense SDPA")
    rows = [row for row in rows_of(record, "attention.py", kernel="ours") if row["density"] <= SDPA_LIMIT]
    if not any(row["density"] > 0.74 for row in rows):
        raise LookupError("density 0.75 was not measured")
    return max(row["ms"] for row in rows) / dense["ms"]


def speed(record, size):
    return record[f"speed-{size}"][f"{size} bf16, cache model"]


def fastest_fp8(record):
    return max(found["fps"] for found in record["fp8-768"].values())


def peak_gib(record, numbers):
    return record["memory"][f"{numbers}, 1000 frames"]["peak"] / GIB


def peak_growth_mib(record):
    peaks = record["memory"]
    long = {key: value["peak"] for key, value in peaks.items() if key.endswith(", 1000 frames")}
    return max(peak - peaks[key.replace(" 1000 ", " 100 ")]["peak"] for key, peak in long.items()) / MIB


def worst_estimate_percent(record):
    """Over every clip whose peak was measured."""
    pairs = [(value["estimated"], value["peak"]) for value in record["memory"].values()]
    pairs += [(value["estimated"], value["peak"]) for value in record.get("large", {}).values()]
    for part, found in record.items():
        if part.startswith(("speed-", "fp8-")):
            pairs += [(value["estimated_bytes"], value["peak_bytes"]) for value in found.values()]
    if not all(peak for _, peak in pairs):
        raise LookupError("a CPU has no peak")
    return max(abs(estimated / peak - 1) for estimated, peak in pairs) * 100


def decibel(record, case, reference):
    """Of latents or frames, whichever is worse."""
    return min(record["agreement"][case][reference])


def error_ratio(record):
    """Error of fused bf16 over that of plain bf16, both against float32; latents or frames, whichever is worse."""
    fused, plain = (record["agreement"][f"{kind} bf16"]["plain fp32"] for kind in ("fused", "plain"))
    return max(10 ** ((p - f) / 20) for f, p in zip(fused, plain, strict=True))


LINES = [
    Line("exit code of the tests", 0, "", lambda r: r["tests"]["pytest exit code"]),
    Line("attention at density 0.454", 1.45, "ms", lambda r: attention(r, 0.454)["ms"]),
    at_least("attention at density 0.454", 550, "TFLOP/s", lambda r: attention(r, 0.454)["tflops"]),
    Line("attention over dense SDPA, worst density to 0.75", 1, "", worst_against_sdpa),
    Line("block map", 0.15, "ms", lambda r: rows_of(r, "block_map.py", shape=MAP_SHAPE)[0]["graph_ms"]),
    Line("transformer, 30 blocks", 85, "ms", lambda r: speed(r, "768")["stage_ms"]["transformer"]),
    Line("low-resolution projection", 10, "ms", lambda r: speed(r, "768")["stage_ms"]["projection"]),
    Line("tiny decoder", 30, "ms", lambda r: speed(r, "768")["stage_ms"]["decoder"]),
    at_least("768x1408 bf16", 62, "fps", lambda r: speed(r, "768")["fps"]),
    at_least("1152x1920 bf16", 30, "fps", lambda r: speed(r, "1152")["fps"]),
    at_least("1536x2688 bf16", 16, "fps", lambda r: speed(r, "1536")["fps"]),
    at_least("768x1408 fp8", 80, "fps", fastest_fp8),
    at_least("file to file over steady", 0.9, "", lambda r: speed(r, "768")["file_fps"] / speed(r, "768")["fps"]),
    Line("peak, bf16", 9.5, "GiB", lambda r: peak_gib(r, "bf16, cache model")),
    Line("peak, bf16 with fp8 cache", 7.5, "GiB", lambda r: peak_gib(r, "bf16, cache fp8")),
    Line("peak of 1000 frames less that of 100", 1, "MiB", peak_growth_mib),
    Line("estimate of `info` off by", 10, "%", worst_estimate_percent),
    Line("first frame, warm kernel cache", 20, "s", lambda r: r["first-frame"]["bf16 warm"]["first frame"]),
    Line("first frame, cold", 60, "s", lambda r: r["first-frame"]["bf16 cold"]["first frame"]),
    Line("error of fused bf16 over plain bf16's", 2, "", error_ratio),
    at_least("fused against plain, bf16", 50, "dB", lambda r: decibel(r, "fused bf16", "plain bf16")),
    at_least("fp8 against bf16, random", 40, "dB", lambda r: decibel(r, "fp8", "fused bf16")),
    at_least("fp8 with fp8 cache, random", 40, "dB", lambda r: decibel(r, "fp8, fp8 cache", "fused bf16")),
    at_least("fp8 against bf16, nano", 45, "dB", lambda r: decibel(r, "nano, fp8", "fused bf16")),
    at_least("fp8 with fp8 cache, nano", 45, "dB", lambda r: decibel(r, "nano, fp8, fp8 cache", "fused bf16")),
]


def table(record, *, is_whole=True):
    """The verdict on every line, as Markdown; without `is_whole` only on what was measured."""
    rows = [line.row(record) for line in LINES]
    rows = [row for row in rows if is_whole or row[2]]
    if not rows:
        return ""
    rows.insert(0, ("what", "target", "measured", ""))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join([*lines, *beside_pr108(record)])


def beside_pr108(record):
    """Our attention beside figures that others measured."""
    lines = []
    for density, theirs in PR108_TFLOPS.items():
        try:
            ours = f"{attention(record, density)['tflops']:.0f}"
        except LookupError:
            continue
        lines.append(f"attention at density {density}: ours {ours}, PR #108 by its issue {theirs} TFLOP/s")
    return lines


def tests_passed(record):
    """False where tests ran and failed, or did not come to their end."""
    return record.get("tests", {"pytest exit code": None})["pytest exit code"] == 0
