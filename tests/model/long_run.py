"""Stream a long clip through a small model and report time per chunk and memory, early and late, as JSON.

    python tests/model/long_run.py --frames 10000

pytest runs it from test_long_run.py with fewer frames. It runs in a process of its own, so that the resident size is
that of the stream and of nothing else.
"""

import argparse
import gc
import itertools
import json
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from flashvsr_cli import Upscaler
from flashvsr_cli.schedule import count_chunks, iter_chunks

MINI = Path(__file__).parents[1] / "golden" / "mini"
N_DIFFERENT = 13
"""Frames repeat after this many: making them costs nothing, and no chunk is like the one before."""


@dataclass(frozen=True)
class Sample:
    """State after one chunk."""

    i_chunk: int
    seconds: float
    processor_seconds: float
    rss_bytes: int
    tensor_bytes: int
    device_bytes: int


def resident_bytes() -> int:
    """Resident size of this process now; where the system does not tell, its peak."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def tensor_bytes() -> int:
    """Bytes behind all tensors that Python holds, each storage counted once."""
    gc.collect()
    storages = {}
    for item in gc.get_objects():
        # By type: isinstance asks objects for their __class__, and lazy ones answer with a warning.
        if issubclass(type(item), torch.Tensor):
            storage = item.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def make_frames(n_frames: int, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Noise, (H, W, 3) uint8."""
    generator = np.random.default_rng(0)
    frames = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(N_DIFFERENT)]
    return itertools.islice(itertools.cycle(frames), n_frames)


def sample_chunks(upscaler: Upscaler, n_frames: int, size: tuple[int, int], scale: float) -> Iterator[Sample]:
    """One sample per chunk.

    Raises:
        RuntimeError: if not every frame came out.
    """
    out = upscaler.upscale(make_frames(n_frames, size), scale=scale)
    n_out = 0
    every = max(1, count_chunks(n_frames) // 20)
    for chunk in iter_chunks(n_frames):
        start, processor_start = time.perf_counter(), time.process_time()
        n_out += sum(1 for _ in itertools.islice(out, len(chunk.emit)))
        seconds, processor_seconds = time.perf_counter() - start, time.process_time() - processor_start
        on_device = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
        # Looking through all objects takes longer than a chunk: not after each.
        held = tensor_bytes() if chunk.index % every == 0 else 0
        yield Sample(chunk.index, seconds, processor_seconds, resident_bytes(), held, on_device)
    if n_out != n_frames or next(out, None) is not None:
        raise RuntimeError(f"{n_frames} frames in, {n_out} or more out")


def summarise(samples: list[Sample]) -> dict[str, object]:
    """Medians over a tenth of the chunks, after the first tenth and at the end."""
    tenth = max(1, len(samples) // 10)
    report: dict[str, object] = {"chunks": len(samples), "first_chunk_seconds": samples[0].seconds}
    for name, part in (("early", samples[tenth : 2 * tenth]), ("late", samples[-tenth:])):
        keys = ("seconds", "processor_seconds", "device_bytes")
        medians = {key: statistics.median(asdict(sample)[key] for sample in part) for key in keys}
        medians["rss_bytes"] = max(sample.rss_bytes for sample in part)
        medians["tensor_bytes"] = max(sample.tensor_bytes for sample in part)
        report[name] = medians
    return report


def main() -> None:
    """Parse the arguments, run, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--model", default=str(MINI))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--height", type=int, default=32)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--scale", type=float, default=4)
    arguments = parser.parse_args()
    upscaler = Upscaler.load(arguments.model, device=arguments.device)
    size = (arguments.height, arguments.width)
    report = summarise(list(sample_chunks(upscaler, arguments.frames, size, arguments.scale)))
    json.dump({"frames": arguments.frames, "torch": torch.__version__, **report}, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
