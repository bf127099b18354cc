"""Neither memory nor time per chunk grows with the length of a clip."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "long_run.py"
MEBIBYTE = 2**20


@pytest.mark.slow
def test_two_thousand_frames_take_no_more_memory_than_the_first_few_hundred(micro_folder: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--frames", "2000", "--model", str(micro_folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=500)
    report = json.loads(done.stdout)
    early, late = report["early"], report["late"]
    assert report["chunks"] == 249
    assert 0 < late["tensor_bytes"] == early["tensor_bytes"]
    # The 1,600 frames between the two would take 75 MiB if each were kept, even as bytes.
    assert late["rss_bytes"] - early["rss_bytes"] < 16 * MEBIBYTE
    # Processor time, because other processes share the machine; a cost that grew with the length would be a multiple.
    assert late["processor_seconds"] < 1.5 * early["processor_seconds"]
