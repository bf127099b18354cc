"""A quick round of damaged inputs; the long one is `python tests/fuzz/run_mutants.py --count 1000`."""

import json
import os
import subprocess
import sys
from pathlib import Path


def test_damaged_inputs_end_in_a_result_or_a_sentence():
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("run_mutants.py")), "--count", "92", "--seed", "7"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads(done.stdout)["outcomes"]
    assert set(outcomes) == {"complete", "refused"}
    assert min(outcomes.values()) >= 20
