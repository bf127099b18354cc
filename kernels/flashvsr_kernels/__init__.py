"""Triton kernels for FlashVSR's locality-constrained sparse attention. Needs torch and triton, nothing else.

`reference` has the slow twins of ops, but for those that the product also computes without kernels. Importing this
package imports neither torch nor triton; `is_available` says whether the kernels can run on a device.
"""

import importlib.util
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MIN_CAPABILITY = (8, 0)  # bf16 tensor cores and asynchronous copies
FP8_CAPABILITY = (8, 9)  # e4m3 tensor cores


def is_available(device: "torch.device | str") -> bool:
    """Whether the kernels run on `device`: CUDA from Ampere on, or the CPU under Triton's interpreter."""
    import torch

    if importlib.util.find_spec("triton") is None:
        return False
    device = torch.device(device)
    if device.type == "cpu":
        return os.environ.get("TRITON_INTERPRET") == "1"
    if device.type != "cuda" or torch.version.hip is not None or not torch.cuda.is_available():
        return False
    return torch.cuda.get_device_capability(device) >= MIN_CAPABILITY


def supports_fp8(device: "torch.device | str") -> bool:
    """Whether the e4m3 kernels and scaled matrix products run on `device`: CUDA from Ada on."""
    import torch

    device = torch.device(device)
    return device.type == "cuda" and is_available(device) and torch.cuda.get_device_capability(device) >= FP8_CAPABILITY
