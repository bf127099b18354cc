"""The parts of a sitting that measure speed and memory."""

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from subject import (
    BF16,
    BF16_LOW_CACHE,
    FP8,
    Setup,
    estimated_bytes,
    name_of,
    save_random_checkpoint,
)

BENCH = Path(__file__).resolve().parent
SCRIPTS = ("attention.py --flex --variants", "block_map.py", "elementwise.py", "linear.py", "pixel_conv.py")
N_CLIP_FRAMES = 1001


def part_speed(setup, size, *, wants_fp8):
    """What `flashvsr bench model` measures; at 1408x768 also a long clip from file to file."""
    formats = setup.formats((True, "model"), FP8) if wants_fp8 else [BF16]
    if not formats:
        print("e4m3 does not run here")
    for fp8, kv_precision in formats:
        key = f"{size} {name_of(fp8, kv_precision)}"
        speed = measure(setup, size, fp8, kv_precision)
        print_speed(key, speed)
        yield key, speed


def measure(setup: Setup, size, fp8, kv_precision):
    from flashvsr_cli.bench_model import measure_model

    n_frames = 0 if size != "768" or (fp8 and kv_precision != "model") else N_CLIP_FRAMES
    return measure_model(
        setup.size(size), model="v1.1", device=str(setup.device), dtype="bfloat16", backend=setup.backend, fp8=fp8,
        n_chunks=setup.n_chunks, n_frames=min(n_frames, 30) if setup.is_dry else n_frames,
        choose_settings=lambda defaults: replace(defaults, kv_precision=kv_precision),
    ).to_json()  # fmt: skip


def print_speed(name, speed):
    stages = ", ".join(f"{stage} {ms:.1f}" for stage, ms in speed["stage_ms"].items())
    rates = ", ".join(f"{stage} {rate:.0f}" for stage, rate in speed["stage_tflops"].items())
    print(f"{name}: {speed['fps']:.1f} fps; ms: {stages}")
    print(
        f"  TFLOP/s: matrix product {speed['matmul_tflops']:.0f}, {rates}; peak {speed['peak_bytes'] / 2**30:.2f} GiB, "
        f"estimated {speed['estimated_bytes'] / 2**30:.2f}; first chunk {speed['first_frame_s']:.1f} s, of the next "
        f"clip {speed['next_first_frame_s']:.2f} s"
    )
    if speed["n_frames"]:
        print(
            f"  {speed['n_frames']} frames: in memory {speed['clip_fps']:.1f} fps, file to file "
            f"{speed['file_fps']:.1f} fps, {speed['file_fps'] / speed['fps']:.2f} of steady"
        )
    sys.stdout.flush()


def part_command(setup):
    """`flashvsr bench model` as a user runs it, with JSON and a chart; and the packaged model beside it."""
    from importlib.util import find_spec

    out = Path(os.environ["SESSION_OUT"])
    chart = ["--chart", str(out / "chart.png")] if find_spec("matplotlib") else []
    commands = {"nano": ["--model", "nano", "--size", "128x128" if setup.is_dry else "1408x768"]}
    if not setup.is_dry:
        commands["v1.1"] = ["--model", "v1.1", "--size", "1408x768", *chart]
    for name, arguments in commands.items():
        command = [sys.executable, "-m", "flashvsr_cli", "bench", "model", *arguments, "--json", "--frames", "0"]
        command += ["--chunks", str(setup.n_chunks)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        print(f"{' '.join(command[1:])}\n{done.stdout}{done.stderr[-1500:]}", flush=True)
        if done.returncode:
            raise SystemExit(f"exit code {done.returncode}")
        yield name, json.loads(done.stdout)


def part_memory(setup):
    """Peak device memory of clips of 100 and 1000 frames, network included, and what the estimate says."""
    import numpy as np
    import torch

    from flashvsr_cli.options import Settings
    from flashvsr_cli.pipeline import Upscaler
    from flashvsr_cli.weights import Checkpoint

    size = setup.size()
    images = np.random.default_rng(0).integers(0, 256, (13, size[0] // 4, size[1] // 4, 3), np.uint8)
    for fp8, kv_precision in setup.formats(BF16, BF16_LOW_CACHE, FP8):
        setup.begin_to_count()
        network = setup.network(fp8=fp8)
        loading = setup.peak_bytes()
        upscaler = Upscaler(network, Checkpoint("random weights", "v1.1", {}))
        for n_frames in (30, 40) if setup.is_dry else (100, 1000):
            setup.begin_to_count()
            started = time.perf_counter()
            clip = itertools.islice(itertools.cycle(images), n_frames)
            n_out = sum(1 for _ in upscaler.upscale(clip, 4, Settings(kv_precision=kv_precision)))
            record = {
                "peak": setup.peak_bytes(), "loading": loading, "estimated": estimated_bytes(size, fp8, kv_precision),
                "reserved": torch.cuda.max_memory_reserved() if setup.is_cuda else 0,
            }  # fmt: skip
            gib = {key: f"{n_bytes / 2**30:.3f}" for key, n_bytes in record.items()}
            fps = n_out / (time.perf_counter() - started)
            print(f"{name_of(fp8, kv_precision)}, {n_frames} frames: GiB {gib}, {fps:.1f} fps", flush=True)
            yield f"{name_of(fp8, kv_precision)}, {n_frames} frames", record | {"fps": fps}
        del network, upscaler


def part_first_frame(setup):
    """The command line from its start to its first frame on a pipe: a checkpoint file, an H.264 file, kernels compiled
    or fetched from their cache. The checkpoint has just been written, so that it is read from memory."""
    from flashvsr_cli.bench_clip import write_clip

    height, width = setup.size()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, source = Path(folder) / "random.safetensors", Path(folder) / "in.mp4"
        save_random_checkpoint(setup, checkpoint)
        write_clip(source, (height // 4, width // 4), 60)
        for fp8, _ in setup.formats(BF16, FP8):
            cache = Path(folder) / f"cache-{fp8}"
            command = [sys.executable, "-m", "flashvsr_cli", "upscale", str(source), "-o", "-"]
            command += [
                "--output-format",
                "rgb24",
                "--model",
                str(checkpoint),
                "--quiet",
                "--device",
                str(setup.device),
            ]
            command += ["--precision", "fp8"] * fp8
            for state in ("cold", "warm"):
                seconds = time_first_bytes(command, height * width * 3, cache)
                name = f"{'fp8' if fp8 else 'bf16'} {state}"
                print(f"{name} kernel cache: first frame after {seconds:.1f} s", flush=True)
                yield name, {"first frame": seconds}


def time_first_bytes(command, n_bytes, cache):
    """Seconds from a command's start until it has written so many bytes; it is stopped then."""
    environment = dict(os.environ, TRITON_CACHE_DIR=str(cache / "triton"), CUDA_CACHE_PATH=str(cache / "cuda"))
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=sys.stderr)
    try:
        n_read = len(process.stdout.read(n_bytes))
        seconds = time.perf_counter() - started
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    if n_read < n_bytes:
        raise SystemExit(f"{' '.join(command)} ended before its first frame")
    return seconds


def part_profile(setup):
    """Where a steady chunk's device time goes, kernel by kernel."""
    for fp8, kv_precision in setup.formats(BF16, FP8):
        name = name_of(fp8, kv_precision)
        yield name, profile_chunks(setup, setup.network(fp8=fp8), kv_precision, name)


def profile_chunks(setup, network, kv_precision, name, n_chunks=3):
    import torch
    from torch.profiler import ProfilerActivity

    runner = setup.runner(network, kv_precision)
    for _ in range(2 if setup.is_dry else 5):
        runner.step()
    activity = ProfilerActivity.CUDA if setup.is_cuda else ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity]) as profiler:
        wall_ms = 8e3 / runner.measure_fps(n_chunks)

    def own_ms(event):
        return (event.self_device_time_total if setup.is_cuda else event.self_cpu_time_total) / 1e3 / n_chunks

    events = sorted(profiler.key_averages(), key=own_ms, reverse=True)
    busy_ms = sum(map(own_ms, events))
    print(f"{name}: {wall_ms:.1f} ms per chunk under the profiler, device busy {busy_ms:.1f} ms")
    table = [(event.key, event.count / n_chunks, own_ms(event)) for event in events]
    for key, count, ms in table[:18]:
        print(f"  {ms:8.3f} ms {count:7.1f}x  {key[:72]}", flush=True)
    return {"wall_ms": wall_ms, "busy_ms": busy_ms, "kernels": table[:60]}


def part_kernels(setup):
    """The scripts of this folder, each against its reference and beside plain torch."""
    failed, toy = [], {}
    if setup.is_dry:
        toy = {"BENCH_TOY": "1"} if setup.is_cuda else {"BENCH_TOY": "1", "TRITON_INTERPRET": "1"}
    for script in SCRIPTS:
        with tempfile.NamedTemporaryFile("r") as rows:
            environment = dict(os.environ, BENCH_ROWS=rows.name) | toy
            command = [sys.executable, *script.split()]
            done = subprocess.run(command, cwd=BENCH, env=environment, capture_output=True, text=True, check=False)
            measured = [json.loads(line) for line in rows.read().splitlines()]
        print(f"== {script}: exit code {done.returncode}\n{done.stdout}", end="", flush=True)
        if done.returncode:
            failed.append(script)
            print(done.stderr[-800:], flush=True)
        yield script.split()[0], {"exit code": done.returncode, "rows": measured}
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")
