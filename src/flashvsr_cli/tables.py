"""Results as tables. What a command was asked for goes to stdout, what it did besides to stderr."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import typer
from rich.table import Table
from rich.text import Text

from flashvsr_cli.console import print_line, print_table, visible

if TYPE_CHECKING:
    from flashvsr_cli.batch.result import BatchResult
    from flashvsr_cli.bench_model import ModelSpeed
    from flashvsr_cli.compare.clips import Comparison
    from flashvsr_cli.diagnosis import Finding
    from flashvsr_cli.inspection import Plan
    from flashvsr_cli.weights_status import FileStatus

MIB = 1 << 20
STATE_STYLES = {"done": "green", "ok": "green", "skipped": "dim", "note": "yellow", "failed": "red", "missing": "red"}


def _size_text(size: tuple[int, int]) -> str:
    """(height, width) as everybody writes it."""
    return f"{size[1]}x{size[0]}"


def print_batch(results: Sequence["BatchResult"], *, n_left: int = 0, quiet: bool = False) -> None:
    """One row per file that was made, failed, or was left alone for a reason, and how many there are of each.

    Args:
        results: what became of the files; those that were plainly skipped are counted only.
        n_left: how many files were not reached.
        quiet: nothing but failures.
    """
    told = [result for result in results if result.state == "failed" or not quiet]
    if not told:
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("state")
    table.add_column("frames", justify="right")
    table.add_column("fps", justify="right")
    table.add_column("file", overflow="fold")
    for result in told:
        if result.state == "skipped" and not result.reason:
            continue
        report, failure = result.report, result.failure
        file = Text(visible(result.source))
        if result.reason:
            file.append(f"\n{visible(result.reason)}", style="dim")
        if failure:
            file.append(f"\n{visible(failure.text(result.n_attempts))}", style="red")
        table.add_row(
            Text(result.state, style=STATE_STYLES[result.state]),
            str(report.frames_out) if report else "",
            f"{report.fps:.2f}" if report else "",
            file,
        )
    if table.row_count:
        print_table(table, to_stderr=True)
    counts = {state: sum(result.state == state for result in results) for state in ("done", "skipped", "failed")}
    print_line(", ".join(f"{n} {state}" for state, n in {**counts, "not reached": n_left}.items() if n))


def print_plan(plan: "Plan") -> None:
    """What would be done with an input."""
    source, geometry, memory = plan.source, plan.geometry, plan.memory
    frames = "unknown number of" if source.n_frames is None else str(source.n_frames)
    about = "" if source.n_frames is None or source.n_frames_is_exact else "about "
    plural = "" if source.n_frames == 1 else "s"
    rate = f" at {source.frame_rate} fps" if source.frame_rate and source.kind != "image" else ""
    bottom, right = geometry.padding
    padding = f" ({bottom} rows and {right} columns of padding, cut off again)" if bottom or right else ""
    parts = {"weights": memory.weights, "cache": memory.cache, "frames": memory.frames, "work": memory.work}
    if memory.workspace:
        parts["workspace"] = memory.workspace
    rows = {
        "input": source.name,
        "": f"{_size_text(source.size)}, {about}{frames} frame{plural}{rate}, {source.codec} {source.pix_fmt}",
        "tracks kept": ", ".join(track.describe() for track in source.tracks) or "none",
        "output": _size_text(geometry.target),
        "computed at": _size_text(geometry.padded) + padding,
        "chunks": str(plan.n_chunks or "unknown"),
        "first frame": f"after {plan.lookahead} input frames, or at the input's end",
        "device": plan.device,
        "memory": f"about {memory.total / MIB:,.0f} MiB "
        f"({', '.join(f'{name} {n_bytes / MIB:,.0f}' for name, n_bytes in parts.items())})",
    }
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, text in rows.items():
        table.add_row(name, Text(text))
    for text in plan.notices:
        table.add_row("note", Text(text))
    print_table(table)


def print_findings(findings: Sequence["Finding"]) -> None:
    """What the doctor found, each with how to get what is missing on a line of its own."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        detail = Text(finding.detail)
        if finding.next_step:
            detail.append(f"\n{finding.next_step}", style="bold")
        table.add_row(Text(finding.state, style=STATE_STYLES[finding.state]), finding.subject, detail)
    print_table(table)


def print_speed(speed: "ModelSpeed") -> None:
    """What `bench model` measured."""
    from flashvsr_cli.bench_model import format_rate  # loads torch, which other tables do without

    title = f"{speed.model}, {_size_text(speed.size)}, {speed.dtype}, {speed.backend} backend, {speed.device}"
    table = Table(title=title, title_justify="left")
    for heading in ("stage", "ms per chunk", "TFLOP/s", "of a matrix product"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for stage, milliseconds in speed.stage_ms.items():
        rate = speed.stage_tflops.get(stage)
        share = f"{rate / speed.matmul_tflops:.0%}" if rate else ""
        table.add_row(stage, f"{milliseconds:.2f}", speed.rate_text(stage), share)
    print_table(table)
    rows = {
        "steady state": f"{speed.fps:.1f} fps",
        "matrix product": f"{format_rate(speed.matmul_tflops)} TFLOP/s",
        "first frames": f"{speed.first_frame_s:.1f} s, of a second clip {speed.next_first_frame_s:.1f} s",
    }
    if speed.n_frames:
        rows[f"clip of {speed.n_frames} frames"] = (
            f"{speed.clip_fps:.1f} fps in memory, {speed.file_fps:.1f} fps from file to file"
        )
    if speed.peak_bytes:
        rows["device memory"] = (
            f"{speed.peak_bytes / MIB:,.0f} MiB at the peak, {speed.estimated_bytes / MIB:,.0f} MiB estimated"
        )
    for name, text in rows.items():
        typer.echo(f"{name}: {text}")


def print_comparison(locations: Mapping[str, str], found: "Comparison") -> None:
    """What `compare` measured of clips at these locations."""
    table = Table(title=f"{found.n_frames} frames at {_size_text(found.size)}", title_justify="left")
    for heading in ("clip", "PSNR-Y", "SSIM-Y", "warped difference", "flicker", "mean RGB"):
        table.add_column(heading, justify="left" if heading == "clip" else "right")
    for name, figures in found.clips.items():
        note = " (enlarged)" if name in found.resized else ""
        table.add_row(
            Text(f"{name}: {locations[name]}{note}"),
            _figure_text(figures.psnr_y, "{:.2f} dB"),
            _figure_text(figures.ssim_y, "{:.4f}"),
            _figure_text(figures.warped_difference, "{:.2f}"),
            _figure_text(figures.flicker, "{:.2f}x"),
            " ".join(f"{value:.1f}" for value in figures.mean_color),
        )
    print_table(table)


def _figure_text(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def print_model_files(title: str, files: Sequence["FileStatus"]) -> None:
    """A model's files and which of them are here."""
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False)
    for heading in ("for", "file", "versions", "size", "state"):
        table.add_column(heading, justify="right" if heading == "size" else "left", overflow="fold")
    for file in files:
        table.add_row(
            file.role or "all",
            Text(file.file_name),
            " ".join(file.known.versions) if file.known else "",
            _file_size_text(file),
            Text(f"{file.state}: {file.detail}" if file.detail else file.state),
        )
    print_table(table)


def _file_size_text(file: "FileStatus") -> str:
    if file.path is not None:
        return f"{file.path.stat().st_size / 1e6:,.1f} MB"
    return f"{file.known.n_bytes / 1e6:,.1f} MB" if file.known else ""
