"""The stages of a measured chunk as a picture. Needs matplotlib, which only this needs."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from flashvsr_cli.errors import UsageError
from flashvsr_cli.video.faults import output_faults

if TYPE_CHECKING:
    from flashvsr_cli.bench_model import ModelSpeed


def require_matplotlib() -> None:
    """Say so before anything is measured if the chart could not be drawn.

    Raises:
        UsageError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise UsageError("A chart needs matplotlib, which is not installed.", "pip install 'flashvsr-cli[bench]'")


def draw_chart(speed: "ModelSpeed", path: Path) -> None:
    """Milliseconds per stage of a steady chunk as horizontal bars, with the rate of those whose operations count."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    stages = list(speed.stage_ms)
    figure = Figure(figsize=(8, 0.5 * len(stages) + 1.6), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(stages, [speed.stage_ms[stage] for stage in stages], color="#4878a8")
    rates = (speed.rate_text(stage) for stage in stages)
    axes.bar_label(bars, [f"{rate} TFLOP/s" if rate else "" for rate in rates], padding=4)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set_xlabel("ms per chunk of 8 frames")
    height, width = speed.size
    axes.set_title(f"{speed.model}, {width}x{height}, {speed.dtype}, {speed.device}: {speed.fps:.1f} fps")
    with output_faults(str(path)):
        FigureCanvasAgg(figure).print_png(path)
