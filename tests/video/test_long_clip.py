"""Memory, times and sound of a long clip of variable rate; docs/fidelity.md has the figures of two hours."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "long_clip.py"
LONGEST_FRAME_S = 0.117


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_three_minutes_keep_every_time_and_take_no_more_memory_than_one(container: str) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--minutes", "3", "--container", container],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["frames_out"] == report["frames"] == 2656
    assert report["packets_of_sound_out"] == report["packets_of_sound"]
    assert (report["other_times"], report["wrong_pictures"], report["notices"]) == (0, 0, [])
    for source_end, end in (report["video_end_s"], report["sound_end_s"]):
        assert abs(end - source_end) < LONGEST_FRAME_S
    # The 2,100 frames between the two would take 18 MiB if they were kept.
    assert report["rss_mib"]["late"] - report["rss_mib"]["early"] < 8
