"""Ctrl-C at places all over the command; `signal_sweep.py` alone takes every one of them."""

import subprocess
import sys
from pathlib import Path

import pytest

SWEEP = Path(__file__).resolve().parent / "signal_sweep.py"


@pytest.mark.parametrize(("scenario", "every"), [("video", 41), ("pipe", 29)])
def test_ctrl_c_anywhere(scenario: str, every: int) -> None:
    command = [sys.executable, str(SWEEP), scenario, "--every", str(every)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 wrong" in done.stdout
