"""Block-sparse attention at the shape of a 768 x 1408 chunk, beside dense SDPA and FlexAttention.

python kernels/bench/attention.py [--densities 0.1 0.25 0.454 0.7 0.75 0.9] [--flex] [--variants]

Beside our densities stand those of PR #108, the open Hopper branch of the official repository, by the issue that set
the targets (H200, not measured here).
"""

import argparse
import functools
import math

import torch
from common import (
    COLS,
    DEVICE,
    HEAD_DIM,
    N_HEADS,
    N_KV_PAIRS,
    ROWS,
    WINDOW_TOK,
    check,
    matmul_ceiling_tflops,
    note,
    print_machine,
    relative_error,
    time_ms,
)
from torch.nn import functional as F
from verdict import PR108_TFLOPS

from flashvsr_kernels import block_sparse_attention as portable
from flashvsr_kernels import fp8_attention, reference
from flashvsr_kernels.block_map import BlockMap

M = ROWS * COLS
DIM = N_HEADS * HEAD_DIM
N_Q, N_K = M, M * N_KV_PAIRS
SCALE_LOG2 = portable.LOG2_E / math.sqrt(HEAD_DIM)


def make_inputs():
    generator = torch.Generator(DEVICE).manual_seed(7)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, device=DEVICE).bfloat16()

    return normal(N_Q * WINDOW_TOK, DIM), normal(6, M * WINDOW_TOK, DIM), normal(6, M * WINDOW_TOK, DIM)


def local_keep(density):
    """A joint top-k of random scores, as the model's maps are: rows differ in length."""
    generator = torch.Generator(DEVICE).manual_seed(11)
    scores = torch.randn(N_HEADS, N_Q, N_K, generator=generator, device=DEVICE)
    scores += 0.7 * torch.randn(N_HEADS, N_Q, 1, generator=generator, device=DEVICE)
    joint = scores.flatten(1)
    n_keep = int(joint.shape[1] * density)
    threshold = joint.sort(dim=1, descending=True).values[:, n_keep, None]
    return (joint > threshold).reshape(scores.shape)


def check_output(name, out, q, k, v, keep, i_heads=(0, N_HEADS - 1), limit=4e-3):
    """Two heads against the float32 twin."""
    for i_head in i_heads:
        part = slice(i_head * HEAD_DIM, (i_head + 1) * HEAD_DIM)
        exact = reference.block_sparse_attention(
            q[:, None, part], k[:, None, part], v[:, None, part], keep[i_head : i_head + 1]
        )
        check(f"{name}, head {i_head}", relative_error(out[:, part], exact[:, 0]), limit)


def tflops(keep, ms):
    return 4 * keep.sum().item() * WINDOW_TOK**2 * HEAD_DIM / ms / 1e9


def own_calls(q, k_pages, v_pages, out, block_map, with_variants):
    """Name and call of each of our kernels; every call fills `out`."""
    k, v = k_pages.flatten(0, 1), v_pages.flatten(0, 1)
    yield "ours", lambda: portable.block_sparse_attention(q, k_pages, v_pages, block_map, out=out)
    yield (
        "ours, portable kernel",
        lambda: portable._launch_portable(q, k, v, out, block_map, HEAD_DIM, SCALE_LOG2),
    )
    if not with_variants:
        return
    from flashvsr_kernels import hopper_attention

    for n_stages in (1, 3):
        launch = functools.partial(hopper_attention.launch, n_stages=n_stages)
        arguments = (q, k, v, out, block_map, HEAD_DIM, SCALE_LOG2)
        yield f"hopper, {n_stages} stages", functools.partial(launch, *arguments)


def fp8_call(q, k_pages, v_pages, page_table, block_map):
    """e4m3 attention on pools of its own; the call returns the output."""
    v8 = torch.full((6, M, N_HEADS, HEAD_DIM, WINDOW_TOK), 0x7F, dtype=torch.uint8, device=DEVICE)
    v8 = v8.view(torch.float8_e4m3fn)
    scales = torch.full((6, M, N_HEADS), torch.nan, device=DEVICE)
    v = v_pages[page_table.long()].flatten(0, 1)
    fp8_attention.write_v(v, v_pages=v8, v_log2_scales=scales, new_pages=page_table, n_heads=N_HEADS)
    q8, k8 = q.to(torch.float8_e4m3fn), k_pages.to(torch.float8_e4m3fn)
    return lambda: fp8_attention.block_sparse_attention_fp8(q8, k8, v8, scales, block_map)


def flex(q, k, v, keep):
    from torch.nn.attention.flex_attention import BlockMask, flex_attention

    dense = keep[None].to(torch.int32)
    count = dense.sum(-1, dtype=torch.int32)
    index = (~keep[None]).to(torch.uint8).argsort(dim=-1, stable=True).to(torch.int32)
    mask = BlockMask.from_kv_blocks(
        torch.zeros_like(count), torch.zeros_like(index), count, index, BLOCK_SIZE=WINDOW_TOK
    )
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda: compiled(q, k, v, block_mask=mask)


def report(name, keep, ms, beside=""):
    density = keep.float().mean().item()
    print(f"{density:8.3f} {name:28} {ms:8.3f} {tflops(keep, ms):8.0f} {beside}", flush=True)
    note(density=density, kernel=name, ms=ms, tflops=tflops(keep, ms))


def bench_density(density, q, k_pages, v_pages, page_table, by_head, arguments):
    keep = local_keep(density)
    k, v = (pool[page_table.long()].flatten(0, 1) for pool in (k_pages, v_pages))
    block_map = BlockMap.from_keep(keep, page_table, M)
    out = torch.empty_like(q)
    for name, call in own_calls(q, k_pages, v_pages, out, block_map, arguments.variants):
        out.fill_(torch.nan)
        call()
        check_output(name, out, q, k, v, keep)
        theirs = PR108_TFLOPS.get(round(density, 2)) if name == "ours" else None
        report(name, keep, time_ms(call), f"(PR #108: {theirs})" if theirs else "")
    call = fp8_call(q, k_pages, v_pages, page_table, block_map)
    check_output("fp8", call(), q, k, v, keep, limit=0.1)
    report("ours, e4m3", keep, time_ms(call))
    if arguments.flex:
        call = flex(*by_head, keep)
        check_output("FlexAttention", call()[0].transpose(0, 1).flatten(1), q, k, v, keep)
        report("FlexAttention", keep, time_ms(call))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--densities", type=float, nargs="+", default=[0.454, 0.1, 0.25, 0.7, 0.75, 0.9])
    parser.add_argument("--flex", action="store_true", help="also FlexAttention, whose compilation takes a minute")
    parser.add_argument("--variants", action="store_true", help="also the other settings of the Hopper kernel")
    arguments = parser.parse_args()
    if DEVICE == "cpu":
        # Neither Gluon nor torch.compile has an interpreter.
        arguments.flex = arguments.variants = False
        arguments.densities = arguments.densities[:1]
    print_machine()
    print(f"bf16 matrix product: {matmul_ceiling_tflops():.0f} TFLOP/s")
    q, k_pages, v_pages = make_inputs()
    pages = [4, 0, 5, 2]
    page_table = torch.tensor(pages, dtype=torch.int32, device=DEVICE)
    k, v = (pool[pages].flatten(0, 1) for pool in (k_pages, v_pages))
    by_head = [x.unflatten(1, (N_HEADS, HEAD_DIM)).transpose(0, 1)[None] for x in (q, k, v)]
    ms_dense = time_ms(lambda: F.scaled_dot_product_attention(*by_head))
    everything = torch.ones(N_HEADS, N_Q, N_K, dtype=torch.bool, device=DEVICE)
    print(f"{'density':>8} {'kernel':28} {'ms':>8} {'TFLOP/s':>8}")
    report("dense SDPA", everything, ms_dense)
    for density in arguments.densities:
        bench_density(density, q, k_pages, v_pages, page_table, by_head, arguments)


if __name__ == "__main__":
    main()
