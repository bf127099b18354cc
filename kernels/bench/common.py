"""What the benchmarks share: timing, error, the machine's name, the shape of a full-size chunk.

With BENCH_TOY=1 they run at tiny shapes, on a CPU (under TRITON_INTERPRET=1) if need be: that they run, not how fast.
With BENCH_ROWS=FILE each measured row is also appended to a file, as a line of JSON.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

IS_TOY = os.environ.get("BENCH_TOY") == "1"
DEVICE = "cuda" if torch.cuda.is_available() or not IS_TOY else "cpu"
ROWS, COLS, N_HEADS = (1, 2, 2) if IS_TOY else (6, 11, 12)
HEAD_DIM, N_KV_PAIRS = 128, 4  # 768 x 1408: 66 windows of tokens, 4 time pairs of keys
WINDOW_TOK = 128
MATMUL_SIDE = 256 if IS_TOY else 8192
_FLUSH_BYTES = 256 * 2**20  # several times any L2


def note(**row) -> None:
    """Keeps a measured row where BENCH_ROWS says."""
    if path := os.environ.get("BENCH_ROWS"):
        with Path(path).open("a") as file:
            file.write(json.dumps(row) + "\n")


def time_ms(call: Callable[[], object], n_timed: int = 30, n_warm: int = 3) -> float:
    """Median device time of a call in ms, with the L2 cache overwritten before each."""
    if DEVICE == "cpu":
        started = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - started)
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
    if DEVICE == "cpu":
        return time_ms(call)
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

    name = torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu, toy shapes: no measurement"
    print(f"{name}, torch {torch.__version__}, triton {triton.__version__}")


def matmul_ceiling_tflops() -> float:
    """bf16 8192^3 matrix product through torch on random data."""
    side = MATMUL_SIDE
    a, b = (torch.randn(side, side, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / time_ms(lambda: a @ b, 10) / 1e9
