"""The script for a sitting at a GPU, dry: with a tiny network on the CPU, so that it cannot rot between sittings."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "kernels/bench/session.py"


@pytest.mark.skipif(torch.cuda.is_available(), reason="the parts would run on the GPU")
def test_a_part_that_fails_does_not_stop_the_next(tmp_path):
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path), OMP_NUM_THREADS="1")
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--dry-run", "--out", str(tmp_path), "--only", "kernels", "speed-768", "memory"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "kernels: exit code 1" in done.stdout
    assert "the scripts need a GPU" in done.stdout
    assert (tmp_path / "summary.md").read_text() in done.stdout
    record = json.loads((tmp_path / "record.json").read_text())
    assert list(record) == ["speed-768", "memory"]
    (speed,) = record["speed-768"].values()
    assert speed["n_frames"] == 30
    assert speed["file_fps"] > 0
    assert list(record["memory"]) == ["bf16, cache model, 30 frames", "bf16, cache model, 40 frames"]
