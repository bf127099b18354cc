"""For all tests: without a GPU, kernels run under Triton's interpreter; it is chosen before triton is imported."""

import os
import signal

import hypothesis
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A busy machine must not fail a test: how long an example takes is no property of the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# A runner that was started in the background ignores SIGINT, and its children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
