"""What a job did, as one line and as JSON."""

import json
import resource
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashvsr_cli import __version__
from flashvsr_cli.geometry import Size
from flashvsr_cli.options import EncodeOptions, Settings
from flashvsr_cli.preflight import PIPE, check_report_file
from flashvsr_cli.video.faults import output_faults
from flashvsr_cli.video.source import SourceCounters
from flashvsr_cli.video.targets import PartFile

if TYPE_CHECKING:
    from torch import device

    from flashvsr_cli.pipeline import Upscaler


@dataclass(frozen=True)
class Report:
    """What a job did; `to_json` is the `--report` file.

    Attributes:
        source, target: facts about input and output, as JSON objects.
        size: (height, width) of the output.
        frames_in, frames_out: read and written.
        frames_resumed: of those written, how many an earlier run had computed.
        damage: what was passed over or repaired while reading; see `SourceCounters`.
        seconds: per stage; "read", "model" and "write" overlap, "total" is from opening the input to the finished
            output, without loading the model.
        notices: what the user was told.
        peak_device_bytes: the most device memory held while computing; None on the CPU.
    """

    upscaler: "Upscaler"
    settings: Settings
    scale: float
    encode: EncodeOptions
    source: dict[str, Any]
    target: dict[str, Any]
    size: Size
    frames_in: int
    frames_out: int
    frames_resumed: int
    seconds: dict[str, float]
    notices: list[str]
    damage: SourceCounters = field(default_factory=SourceCounters)
    peak_device_bytes: int | None = None

    @property
    def fps(self) -> float:
        """Frames per second from opening the input to the finished output, those of an earlier run left out."""
        return (self.frames_out - self.frames_resumed) / self.seconds["total"]

    @property
    def counted_frames(self) -> str:
        """How many frames, as people say it."""
        frames = "1 frame" if self.frames_out == 1 else f"{self.frames_out} frames"
        return f"{frames} ({self.frames_resumed} of an earlier run)" if self.frames_resumed else frames

    def summary(self) -> str:
        """The job in one line."""
        height, width = self.size
        took = f"{self.seconds['total']:.1f} s ({self.fps:.2f} fps)"
        return f"{self.counted_frames} at {width}x{height} in {took}: {self.target['name']}"

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object; bytes, seconds and [height, width] throughout."""
        import torch

        network, checkpoint = self.upscaler.network, self.upscaler.checkpoint
        on_cuda = network.device.type == "cuda"
        return {
            "flashvsr": __version__,
            "input": self.source,
            "output": {**self.target, "size": list(self.size)},
            "frames_in": self.frames_in,
            "frames_out": self.frames_out,
            "frames_resumed": self.frames_resumed,
            "damage": {name: count for name, count in asdict(self.damage).items() if name != "frames"},
            "fps": self.fps,
            "seconds": self.seconds,
            "peak_host_bytes": peak_host_bytes(),
            "peak_device_bytes": self.peak_device_bytes,
            "device": torch.cuda.get_device_name(network.device) if on_cuda else "cpu",
            "backend": network.transformer.name,
            "dtype": str(network.dtype).removeprefix("torch."),
            "model": {"name": checkpoint.name, "version": checkpoint.version, "sha256": checkpoint.sha256()},
            "scale": self.scale,
            "settings": asdict(self.settings),
            "encode": asdict(self.encode),
            "notices": self.notices,
        }


def write_report(report: dict[str, Any], path: Path, *, overwrite: bool) -> None:
    """Write a report as JSON, whole or not at all.

    Args:
        report: a JSON object whose first key is "flashvsr", by which an earlier report is known.
        path: the file; "-" is stdout.
        overwrite: whether it may replace what is no report.

    Raises:
        OutputError: the file cannot be written, or `check_report_file` refuses it.
    """
    text = json.dumps(report, indent=2) + "\n"
    if str(path) == PIPE:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    check_report_file(path, overwrite=overwrite)
    with output_faults(f"The report {path}"):
        file = PartFile(path.resolve(), overwrite=overwrite)
        try:
            file.write(text.encode())
            file.commit()
        finally:
            file.abort()


def reset_peak_device_bytes(where: "device") -> None:
    """Begin a new peak, so that a report of a batch speaks of its own clip."""
    import torch

    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)


def peak_device_bytes(where: "device") -> int | None:
    """The most device memory held since `reset_peak_device_bytes`; None on the CPU."""
    import torch

    return torch.cuda.max_memory_allocated(where) if where.type == "cuda" else None


def peak_host_bytes() -> int:
    """The most host memory this process has held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
