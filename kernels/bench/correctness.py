"""The parts of a sitting that say whether the numbers are right."""

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from subject import Setup, compare, compute_chunks

ROOT = Path(__file__).resolve().parents[2]
REFERENCES = ("plain fp32", "plain bf16", "plain fp16", "fused bf16")


def part_tests(setup):
    """The kernels' tests and the golden ones that go through them, on this device."""
    folders = (
        ["tests/kernels/test_pixel_conv.py"] if setup.is_dry else ["tests/kernels", "tests/golden/test_mini_triton.py"]
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=5", *folders]
    command += ["-m", "not slow"]  # those compile for other GPUs
    if setup.is_cuda and importlib.util.find_spec("xdist"):
        command += ["-n", "6"]  # most of the time goes into compiling
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    yield "pytest exit code", code
    if code:
        raise SystemExit("the tests failed")


def part_agreement(setup):
    """Every precision on the same weights (rounded to bfloat16): fused and plain, against float32 and each other."""
    import torch

    from flashvsr_cli.options import Settings

    bf16 = torch.bfloat16
    cases = {
        "plain fp32": {"dtype": torch.float32, "backend": "torch"},
        "plain bf16": {"backend": "torch"},
        "plain fp16": {"dtype": torch.float16, "backend": "torch"},
        "fused fp32": {"dtype": torch.float32},
        "fused bf16": {},
        "fused fp16": {"dtype": torch.float16},
        "bf16, fp8 cache": {"kv_precision": "fp8"},
        "fp8": {"fp8": True},
        "fp8, fp8 cache": {"fp8": True, "kv_precision": "fp8"},
    }

    def compute(kv_precision="model", **keywords):
        network = setup.network(rounded_to=bf16, **keywords)
        return compute_chunks(network, setup.size(), Settings(kv_precision=kv_precision), 3)

    yield from compare_cases(cases, compute)
    # The packaged model, on pictures that move: its heads have 64 channels.
    nano_cases = {name: case for name, case in cases.items() if "fp16" not in name}
    yield from compare_cases(nano_cases, lambda **keywords: compute_nano(setup, **keywords), prefix="nano, ")


def compute_nano(setup: Setup, dtype=None, backend=None, fp8=False, kv_precision="model"):
    import numpy as np
    import torch

    from flashvsr_cli.bench_clip import draw_clip
    from flashvsr_cli.model.network import load_network
    from flashvsr_cli.model.traits import Traits
    from flashvsr_cli.weights import resolve_checkpoint

    checkpoint = resolve_checkpoint("nano")
    network = load_network(
        checkpoint, decoder="tiny", device=str(setup.device), dtype="float32" if dtype else "bfloat16",
        backend=backend or setup.backend, fp8=fp8,
    )  # fmt: skip
    settings = replace(Traits.of(checkpoint.metadata).settings, kv_precision=kv_precision)

    def draw_images(size, n_frames):
        return torch.from_numpy(np.stack(list(draw_clip((size[0] // 4, size[1] // 4), n_frames))))

    return compute_chunks(network, setup.size(), settings, 3, draw_images)


def compare_cases(cases, compute, prefix=""):
    """Yields, per case, decibels of latents and frames against each reference before it."""
    import torch

    outputs = {}
    print(f"{prefix}latents' dB at their range, frames' dB at 2; three chunks")
    for name, keywords in cases.items():
        try:
            outputs[name] = compute(**keywords)
        except Exception as error:  # noqa: BLE001 - one precision that fails must not hide the others
            text = f"{type(error).__name__}: {str(error)[:300]}"
            print(f"{prefix}{name}: {text}", flush=True)
            yield prefix + name, text
            continue
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        against = [other for other in REFERENCES if other in outputs and other != name]
        values = {other: compare(outputs[name], outputs[other]) for other in against}
        for other, (latents, frames) in values.items():
            print(f"{prefix}{name:16} against {other:10} latents {latents:7} dB, frames {frames:7} dB", flush=True)
        yield prefix + name, values


def part_second_gpu(setup):
    """The kernels on a device that is not the current one: the full-size model, and nano from frames to frames."""
    import numpy as np
    import torch

    from flashvsr_cli import Upscaler
    from flashvsr_cli.options import Settings

    if torch.cuda.device_count() < 2:
        print("there is one GPU at most")
        yield "second GPU", "none"
        return
    first, second = (
        compute_chunks(setup.network(device=torch.device(f"cuda:{index}")), setup.size(), Settings(), 2)
        for index in (0, 1)
    )
    yield "second GPU", compare(second, first)
    print(f"cuda:1 against cuda:0: {compare(second, first)} dB of latents and frames")
    images = np.random.default_rng(0).integers(0, 256, (19, 48, 70, 3), np.uint8)
    first, second = (
        np.stack(list(Upscaler.load("nano", device=f"cuda:{index}").upscale(iter(images)))).astype(int)
        for index in (0, 1)
    )
    yield "second GPU, finished frames", int(np.abs(first - second).max())
    print(f"finished frames {first.shape}: at most {np.abs(first - second).max()} levels apart")


def part_large(setup):
    """One chunk beyond 4K, where tensors come near 2^31 values: finite, and within the estimated memory."""
    import torch
    from subject import estimated_bytes

    from flashvsr_cli.options import Settings

    setup.begin_to_count()
    latents, frames = compute_chunks(setup.network(), setup.size("2176"), Settings(), 1)
    is_finite = bool(torch.isfinite(latents).all() and torch.isfinite(frames).all())
    record = {
        "is_finite": is_finite, "deviation": frames.std().item(), "peak": setup.peak_bytes(),
        "estimated": estimated_bytes(setup.size("2176"), False, "model"),
    }  # fmt: skip
    print(f"{setup.size('2176')}: {record}")
    yield "2176", record
