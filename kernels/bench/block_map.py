"""The block map at the shape of a 768 x 1408 chunk, beside plain torch.

python kernels/bench/block_map.py
"""

import torch
from common import (
    DEVICE,
    HEAD_DIM,
    IS_TOY,
    N_HEADS,
    N_KV_PAIRS,
    note,
    print_machine,
    time_graph_ms,
    time_ms,
)

from flashvsr_kernels import block_map as bm
from flashvsr_kernels import reference


def to_keep(block_map, page_table, n_windows, n_k):
    position = torch.full((int(page_table.max() + 1) * n_windows,), -1, device=DEVICE)
    ids = page_table.long()[:, None] * n_windows + torch.arange(n_windows, device=DEVICE)
    position[ids.flatten()] = torch.arange(n_k, device=DEVICE)
    n_heads, n_q, capacity = block_map.index.shape
    valid = torch.arange(capacity, device=DEVICE) < block_map.count[..., None]
    columns = position[torch.where(valid, block_map.index, ids[0, 0].int()).long()]
    keep = torch.zeros(n_heads, n_q, n_k + 1, dtype=torch.bool, device=DEVICE)
    return keep.scatter_(2, torch.where(valid, columns, n_k), True)[..., :n_k]


def run(rows, cols, local_range, sparse_ratio):
    n_windows = rows * cols
    generator = torch.Generator(DEVICE).manual_seed(3)
    # Means over 128 tokens of a spread that gives row maxima like a trained model's: 0.05 to 0.5.
    q_means = torch.randn(n_windows, N_HEADS, HEAD_DIM, generator=generator, device=DEVICE)
    k_means = torch.randn(6, n_windows, N_HEADS, HEAD_DIM, generator=generator, device=DEVICE)
    page_table = torch.tensor([5, 1, 0, 3][:N_KV_PAIRS], dtype=torch.int32, device=DEVICE)
    n_k = n_windows * N_KV_PAIRS
    rank = min(n_windows * n_k - 1, int(60 * sparse_ratio * n_windows) - 1)

    def ours():
        return bm.build_block_map(
            q_means, k_means, page_table, rows=rows, cols=cols, local_range=local_range, rank=rank
        )

    def plain():
        local = reference.local_window_mask(rows, cols, local_range, DEVICE)
        return reference.keep_mask(q_means, k_means[page_table.long()].flatten(0, 1), local, rank)

    got, expected = to_keep(ours(), page_table, n_windows, n_k), plain()
    n_different = (got != expected).sum().item()
    # Two ways to add the same products differ in the last bit, which may swap neighbours at the threshold.
    if n_different > 4 * N_HEADS:
        raise SystemExit(f"{n_different} blocks differ from the reference")
    graph_ms, launched_ms, plain_ms = time_graph_ms(ours), time_ms(ours), time_ms(plain)
    shape = f"{rows} x {cols}, range {local_range}"
    print(
        f"{shape}, {expected.float().mean():.3f} kept, {n_different} of {expected.numel()} blocks differ: "
        f"ours {graph_ms:.4f} ms in a graph, {launched_ms:.4f} ms launched; plain torch {plain_ms:.3f} ms"
    )
    note(shape=shape, graph_ms=graph_ms, launched_ms=launched_ms, plain_ms=plain_ms, n_different=n_different)
    return ours


def profile(call):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for _ in range(10):
            call()
        torch.cuda.synchronize()
    for row in profiler.key_averages():
        print(f"  {row.key[:60]:60} {row.device_time_total / row.count:8.1f} us")


def main():
    print_machine()
    if IS_TOY:
        run(2, 2, 3, 0.02)
        return
    profile(run(6, 11, 11, 2.0))
    run(6, 11, 9, 1.5)
    run(9, 15, 11, 2.0)
    profile(run(12, 21, 11, 2.0))


if __name__ == "__main__":
    main()
