"""What the benchmarks share: timing, error, the machine's name, the shape of a full-size chunk."""

import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

ROWS, COLS, N_HEADS, HEAD_DIM, N_KV_PAIRS = 6, 11, 12, 128, 4  # 768 x 1408: 66 windows, 4 time pairs of keys
WINDOW_TOK = 128
_FLUSH_BYTES = 256 * 2**20  # several times any L2


def time_ms(call: Callable[[], object], n_timed: int = 30, n_warm: int = 3) -> float:
    """Median device time of a call in ms, with the L2 cache overwritten before each."""
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device="cuda")
    for _ in range(n_warm):
        call()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(n_timed)]
    for start, end in events:
        flush.zero_()
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return median(start.elapsed_time(end) for start, end in events)


def time_graph_ms(call: Callable[[], object], n_timed: int = 30) -> float:
    """Like `time_ms`, through a CUDA graph: several small kernels without the gaps between their launches."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return time_ms(graph.replay, n_timed)


def relative_error(x: torch.Tensor, exact: torch.Tensor) -> float:
    """||x - exact|| / ||exact||; nan stays nan."""
    return ((x.float() - exact.float()).norm() / exact.float().norm()).item()


def check(name: str, error: float, limit: float) -> None:
    """Stops the benchmark unless error <= limit: a wrong kernel has no speed."""
    if not error <= limit:
        raise SystemExit(f"{name}: error {error:.3e} is above {limit:.3e}")


def print_machine() -> None:
    import triton

    name = torch.cuda.get_device_name()
    print(f"{name}, torch {torch.__version__}, triton {triton.__version__}")


def matmul_ceiling_tflops() -> float:
    """bf16 8192^3 matrix product through torch on random data."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / time_ms(lambda: a @ b, 10) / 1e9
