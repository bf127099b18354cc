"""How long the first frames of a stretch far into a clip take, with and without jumping there; as JSON.

python tests/video/seek_gain.py --minutes 60
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

from long_clip import plan_times, write_clip

from flashvsr_cli.options import InputOptions
from flashvsr_cli.video import container_reader
from flashvsr_cli.video.reader import open_source
from flashvsr_cli.video.seeking import find_entry

CONTAINERS = ("mp4", "mkv", "ts")
ROUNDS = 3


def seconds_to_read(path: Path, options: InputOptions, *, jumps: bool) -> float:
    """For all frames of the stretch."""
    container_reader.find_entry = find_entry if jumps else lambda *_: None
    started = time.perf_counter()
    with open_source(str(path), options) as source:
        n_frames = sum(1 for _ in source)
    if n_frames != options.max_frames:
        raise RuntimeError(f"{n_frames} frames")
    return time.perf_counter() - started


def main() -> None:
    """Parse the arguments, measure in turn, report medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=60)
    arguments = parser.parse_args()
    options = InputOptions(start=Fraction(60 * arguments.minutes - 60), max_frames=25)
    report = {}
    with tempfile.TemporaryDirectory() as folder:
        for container in CONTAINERS:
            clip = Path(folder) / f"in.{container}"
            write_clip(clip, plan_times(60 * arguments.minutes))
            jumping, decoding = [], []
            for _ in range(ROUNDS):
                jumping.append(seconds_to_read(clip, options, jumps=True))
                decoding.append(seconds_to_read(clip, options, jumps=False))
            medians = statistics.median(jumping), statistics.median(decoding)
            report[container] = {"s": medians[0], "s_without": medians[1], "ratio": medians[1] / medians[0]}
    sys.stdout.write(json.dumps({"minutes": arguments.minutes, **report}, indent=1) + "\n")


if __name__ == "__main__":
    main()
