"""Every kernel compiles for every GPU generation. The interpreter accepts much that the compiler does not.

Needs no GPU: Triton cross-compiles with the assembler in its wheel. In a process of its own, because the other
tests of this folder set TRITON_INTERPRET, which replaces the compiler.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "compile_kernels.py"


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["80", "90", "120"])
def test_kernels_compile(capability, tmp_path):
    environment = dict(os.environ, TRITON_CACHE_DIR=str(tmp_path), PYTHONPATH=os.pathsep.join(sys.path))
    environment["TRITON_DUMP_PTXAS_LOG"] = "1"
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), capability], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "_block_sparse_attention_kernel" in done.stdout
    assert ("_block_sparse_attention_hopper_kernel" in done.stdout) == (capability == "90")
    # ptxas says so where it makes warpgroup products wait for each other: right, and twice as slow.
    slow = [line for line in done.stdout.splitlines() if "are serialized" in line and "hopper" in line]
    assert not slow
