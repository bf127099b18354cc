"""What the package says about itself without being imported in full."""

import os
import subprocess
import sys

import flashvsr_kernels


def test_importing_the_package_is_cheap():
    script = "import sys, flashvsr_kernels; sys.exit('torch' in sys.modules or 'triton' in sys.modules)"
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


def test_the_cpu_needs_the_interpreter(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert flashvsr_kernels.is_available("cpu")
    monkeypatch.delenv("TRITON_INTERPRET")
    assert not flashvsr_kernels.is_available("cpu")
    assert not flashvsr_kernels.supports_fp8("cpu")


def test_devices_without_kernels_are_refused():
    assert not flashvsr_kernels.is_available("meta")
