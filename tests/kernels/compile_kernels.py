"""Compiles the kernels for one compute capability and prints their names: `compile_kernels.py 90`.

Exits with an error if a kernel does not compile, or if the Hopper kernels lose their warpgroup MMA.
"""

import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource

from flashvsr_kernels import (
    block_map,
    block_sparse_attention,
    color_match,
    configs,
    fp8_attention,
    fp8_linear,
    hopper_attention,
    hopper_attention_fp8,
    hopper_ring,
    norm,
    pixel_conv,
    qk_rope,
    resample,
    time_taps,
)

FLOAT_ARGUMENTS = {"scale", "scale_log2", "eps"}
FLOAT_POINTERS = {
    "q_means_ptr", "k_means_ptr", "scores_ptr", "probs_ptr", "cos_ptr", "sin_ptr", "sums_ptr", "gate_ptr",
    "scale_ptr", "v_log2_scale_ptr", "v_log2_scales_ptr",
}  # fmt: skip
INT_POINTERS = {
    "page_table_ptr", "counts_ptr", "next_counts_ptr", "state_ptr", "next_state_ptr", "index_ptr", "count_ptr",
    "order_ptr", "new_pages_ptr",
}  # fmt: skip
PAGE_POINTERS = {"page_table_ptr", "new_pages_ptr"}  # into rows of a few numbers, at any multiple of 4 bytes
WHOLE_INTEGERS = {
    "n_tok",
    "dim",
    "page_tok",
    "step_values",
    "height",
    "width",
}  # and strides: multiples of 16


def type_of(name, element):
    if name in FLOAT_POINTERS:
        return "*fp32"
    if name in INT_POINTERS:
        return "*i32"
    if name.endswith("_ptr"):
        return f"*{element}"
    return "fp32" if name in FLOAT_ARGUMENTS else "i32"


def compile_kernel(kernel, capability, n_warps, constants, element="bf16", special=None):
    names = kernel.arg_names
    special = special or {}
    signature = {n: "constexpr" if n in constants else special.get(n, type_of(n, element)) for n in names}
    divisible = [
        n not in constants and (signature[n][0] == "*" or n.startswith("stride_") or n in WHOLE_INTEGERS) for n in names
    ]
    for parameter in kernel.params:
        if parameter.name in PAGE_POINTERS:
            if not parameter.do_not_specialize_on_alignment:
                raise SystemExit(f"{kernel.__name__} is compiled again for another alignment of {parameter.name}")
            divisible[parameter.num] = False
    aligned = {(i,): [["tt.divisibility", 16]] for i, is_divisible in enumerate(divisible) if is_divisible}
    source = ASTSource(kernel, signature, {(names.index(n),): v for n, v in constants.items()}, aligned)
    triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": n_warps})
    sys.stdout.write(f"{kernel.__name__}\n")


def compile_portable(capability):
    map_tile = {"BLOCK_Q": 8, "BLOCK_K": 512}
    score_tile = {"BLOCK_Q": 16, "BLOCK_K": 64, "HEAD_DIM": 128, "BLOCK_D": 32}
    compile_kernel(block_map._scores_kernel, capability, 4, score_tile)
    for kernel in (block_map._softmax_kernel, block_map._next_digit_kernel, block_map._index_lists_kernel):
        compile_kernel(kernel, capability, 8, map_tile)
    compile_kernel(block_map._order_kernel, capability, 4, {"BLOCK": 16, "BLOCK_OTHER": 256})
    rows = {"ROWS": norm.ROWS_PER_PROGRAM, "BLOCK_D": 2048}
    flags = {"HAS_DELTA": True, "HAS_GATE": True, "HAS_EXTRA": True, "QUANTIZE": False, "scale_ptr": None}
    compile_kernel(norm._residual_layer_norm_kernel, capability, 8, rows | flags)
    compile_kernel(norm._rms_norm_kernel, capability, 8, rows)
    compile_kernel(norm._add_gated_kernel, capability, 8, rows | {"HAS_GATE": True})
    constants = {
        "DIM": 1536, "HEAD_DIM": 128, "BLOCK_D": 2048, "ROWS": qk_rope.ROWS_PER_PROGRAM,
        "ROWS_AT_ONCE": qk_rope.ROWS_AT_ONCE, "IS_FP8": False,
    }  # fmt: skip
    compile_kernel(qk_rope._write_qk_kernel, capability, 8, constants)
    compile_kernel(qk_rope._finish_means_kernel, capability, 4, {"PARTS": 8, "WINDOW": 128, "BLOCK_D": 512})
    constants = {"CHANNELS": 128, "BLOCK_C": 128, "ROWS": pixel_conv.ROWS, "BLOCK_X": pixel_conv.BLOCK_X, "N_STAGES": 3}
    compile_kernel(pixel_conv._sum_rows_kernel, capability, 4, constants)
    compile_kernel(pixel_conv._add_columns_kernel, capability, 4, {"BLOCK_X": 512})
    memory_block = {"CHANNELS": 128, "TAPS": 2, "STRIDE": 1, "BORDER": 0, "NEWEST_FIRST": True}
    projection = {"CHANNELS": 768, "TAPS": 4, "STRIDE": 2, "BORDER": 1, "NEWEST_FIRST": False}
    for how, block_c in ((memory_block, 128), (projection, 512)):
        tile = {"BLOCK_P": time_taps.BLOCK_VALUES // block_c, "BLOCK_C": block_c}
        compile_kernel(time_taps._stack_time_kernel, capability, 4, how | tile)
    byte_pointers = {"x_ptr": "*u8", "out_ptr": "*u8", "first_ptr": "*i32", "weights_ptr": "*i32"}
    tile = {"TAPS": 5, "BLOCK_X": resample.BLOCK_X}
    compile_kernel(resample._across_kernel, capability, 4, tile, special=byte_pointers)
    compile_kernel(resample._down_kernel, capability, 4, tile | {"BLOCK_Y": resample.BLOCK_Y}, special=byte_pointers)
    pointers = {"reference_ptr": "*u8", "out_ptr": "*fp32"}
    compile_kernel(
        color_match._statistics_kernel,
        capability,
        8,
        {"BLOCK": color_match.BLOCK, "stride_x_column": 1},
        special=pointers,
    )
    pointers = {"parts_ptr": "*fp32", "shift_ptr": "*fp32"}
    tile = {"BLOCK": color_match.BLOCK, "BLOCK_N": 512}
    compile_kernel(color_match._scale_kernel, capability, 4, tile, special=pointers)
    pointers = {"out_ptr": "*u8", "shift_ptr": "*fp32"}
    for stride in ("stride_x_column", "stride_x_color"):  # pixels beside each other, or their colours
        tile = {"BLOCK": color_match.BLOCK_PIXELS, stride: 1}
        compile_kernel(color_match._apply_kernel, capability, 4, tile, special=pointers)
    version = (capability // 10, capability % 10)
    for head_dim in (64, 128):
        for element, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)):
            config = configs.attention_config(version, head_dim, dtype)
            tile = {"BLOCK": 128, "BLOCK_M": config.block_m, "BLOCK_N": config.block_n, "N_STAGES": config.n_stages}
            kernel = block_sparse_attention._block_sparse_attention_kernel
            compile_kernel(kernel, capability, config.n_warps, tile | {"HEAD_DIM": head_dim}, element)


def compile_portable_fp8(capability):
    low = "*fp8e4nv"
    rows = {"ROWS": norm.ROWS_PER_PROGRAM, "BLOCK_D": 2048}
    compile_kernel(
        fp8_attention._write_v_kernel, capability, 4, {"N_HEADS": 12, "HEAD_DIM": 128, "WINDOW": 128},
        special={"v_pages_ptr": low},
    )  # fmt: skip
    compile_kernel(
        fp8_attention._block_sparse_attention_fp8_kernel, capability, 8,
        {"N_HEADS": 12, "HEAD_DIM": 128, "BLOCK": 128, "BLOCK_N": 64, "N_STAGES": 2},
        special={"q_ptr": low, "k_ptr": low, "v_ptr": low},
    )  # fmt: skip
    compile_kernel(
        norm._residual_layer_norm_kernel, capability, 8,
        rows | {"HAS_DELTA": True, "HAS_GATE": True, "HAS_EXTRA": True, "QUANTIZE": True},
        special={"out_ptr": low},
    )  # fmt: skip
    constants = {
        "DIM": 1536, "HEAD_DIM": 128, "BLOCK_D": 2048, "ROWS": qk_rope.ROWS_PER_PROGRAM,
        "ROWS_AT_ONCE": qk_rope.ROWS_AT_ONCE, "IS_FP8": True,
    }  # fmt: skip
    compile_kernel(qk_rope._write_qk_kernel, capability, 8, constants, special={"q_out_ptr": low, "k_pages_ptr": low})
    for gelu in (False, True):
        constants = {"GELU": gelu, "BLOCK_D": 8192, "BLOCK_REST": 1024}
        compile_kernel(fp8_linear._quantize_rows_kernel, capability, 8, constants, special={"out_ptr": low})


def compile_hopper(kernel, blocks, n_stages):
    """`blocks` gives block shape and Gluon dtype of each descriptor."""
    names = kernel.arg_names
    constants = {"BLOCK": 128, "HEAD_DIM": blocks["q_desc"][0][1], "N_STAGES": n_stages}
    signature = {n: "constexpr" if n in constants else type_of(n, "bf16") for n in names}
    for name, (shape, dtype) in blocks.items():
        layout = gl.NVMMASharedLayout.get_default_for(shape, dtype)
        signature[name] = f"tensordesc<{dtype.name}{shape},{layout!r}>"
    source = GluonASTSource(kernel, signature, {(names.index(n),): v for n, v in constants.items()})
    options = {"num_warps": 4, "maxnreg": hopper_ring.MAX_REGISTERS}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    if "wgmma.mma_async" not in compiled.asm["ptx"]:
        raise SystemExit(f"{kernel.__name__} has lost its warpgroup MMA")
    sys.stdout.write(f"{kernel.__name__}\n")


def main():
    capability = int(sys.argv[1])
    compile_portable(capability)
    if capability >= 89:
        compile_portable_fp8(capability)
    if capability != 90:
        return
    for head_dim in (64, 128):
        half, block, turned = [64, head_dim], [128, head_dim], [head_dim, 128]
        for dtype in (gl.bfloat16, gl.float16):
            blocks = {"q_desc": (half, dtype), "k_desc": (block, dtype), "v_desc": (block, dtype)}
            compile_hopper(
                hopper_attention._block_sparse_attention_hopper_kernel,
                blocks | {"out_desc": (half, dtype)}, hopper_attention.N_STAGES,
            )  # fmt: skip
        low = gl.float8e4nv
        blocks = {"q_desc": (half, low), "k_desc": (block, low), "v_desc": (turned, low)}
        compile_hopper(
            hopper_attention_fp8._block_sparse_attention_hopper_fp8_kernel,
            blocks | {"out_desc": (half, gl.bfloat16)}, hopper_attention_fp8.N_STAGES,
        )  # fmt: skip


if __name__ == "__main__":
    main()
