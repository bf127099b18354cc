"""Everything that is measured on a GPU, part by part: correctness first, then speed and memory.

    PYTHONPATH=src:kernels python kernels/bench/session.py [--only PART ...] [--out FOLDER]

Every part runs in a process of its own with a time limit; one that fails is recorded and the next one starts. FOLDER
(default: gpu-record) gets all output as log.txt, all numbers as record.json, and the summary that is printed last as
summary.md, rewritten after every part. `--dry-run` uses a network of a few hundred thousand weights and tiny pictures,
on a CPU if need be (with TRITON_INTERPRET=1 through the kernels); what it prints are not measurements.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "kernels/bench"
# Seconds a part may take, from what its pieces took before; the order is the order of a full run.
LIMITS = {
    "tests": 480, "agreement": 240, "speed-768": 240, "speed-1152": 150, "speed-1536": 180, "fp8-768": 240,
    "fp8-1152": 150, "fp8-1536": 180, "memory": 300, "first-frame": 200, "profile": 150, "kernels": 420,
    "variants": 240,
}  # fmt: skip
SIZES = {"768": (768, 1408), "1152": (1152, 1920), "1536": (1536, 2688)}
MAX_CHARACTERS = 11_000  # of the summary: what comes back at once from some machines


class Setup:
    """What a part runs on: the released size on a GPU, or something tiny."""

    def __init__(self, is_dry):
        import torch

        import flashvsr_kernels

        self.is_dry = is_dry
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.backend = "triton" if flashvsr_kernels.is_available(self.device) else "torch"
        self.n_chunks = 1 if is_dry else 12
        self.n_warm = 1 if is_dry else 6
        if is_dry:
            shrink_released_size()

    def size(self, name="768"):
        return (128, 128) if self.is_dry else SIZES[name]

    def network(self, dtype=None, *, backend=None, fp8=False, rounded_to=None):
        """Random weights, the same for every dtype if they are rounded to one first."""
        import torch

        from flashvsr_cli.model.full_size import full_size_states, random_states
        from flashvsr_cli.model.network import build_network
        from flashvsr_cli.model.traits import Traits
        from flashvsr_cli.weights_registry import ROLES

        dtype = dtype or torch.bfloat16
        states = random_states(full_size_states("tiny"), device=self.device, dtype=rounded_to or dtype)
        for state in states.values():
            for key in state:
                state[key] = state[key].to(dtype)
        names = dict.fromkeys(ROLES, "random weights")
        return build_network(states, names, "v1.1", Traits(), backend or self.backend, fp8=fp8)

    def measure(self, name, *, fp8, kv_precision="model", n_frames=0):
        from flashvsr_cli.bench_model import measure_model

        speed = measure_model(
            self.size(name), model="v1.1", device=str(self.device), backend=self.backend, fp8=fp8,
            n_chunks=self.n_chunks, n_frames=n_frames,
            choose_settings=lambda defaults: replace(defaults, kv_precision=kv_precision),
        )  # fmt: skip
        return speed.to_json()


def shrink_released_size():
    """Makes `full_size` describe a tiny network of the same kind."""
    from flashvsr_cli.model import full_size

    full_size.DIT = replace(full_size.DIT, dim=128, n_heads=1, n_blocks=2, ffn_dim=256, freq_dim=64, text_dim=64)
    full_size.PROJECTION = replace(full_size.PROJECTION, hidden1=32, hidden2=32, dim=128)
    full_size.TINY_DECODER = replace(full_size.TINY_DECODER, channels=(32, 32, 16, 16))
    full_size.PROMPT_SHAPE = (1, 16, 64)


def part_tests(setup):
    """The kernels' tests and the golden ones, on this device."""
    folders = ["tests/kernels/test_pixel_conv.py"] if setup.is_dry else ["tests/kernels", "tests/golden"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=5", *folders]
    command += ["-m", "not slow"]  # those compile for other GPUs
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    return {"pytest exit code": code}


def compute_chunks(network, size, settings, n_chunks):
    """Latents and frames of a stream's first chunks, float32 on the host."""
    import torch

    from flashvsr_cli.enlarge import enlarge_frames
    from flashvsr_cli.geometry import plan_geometry
    from flashvsr_cli.model.stream import Stream, draw_noise
    from flashvsr_cli.schedule import plan_chunk

    generator = torch.Generator().manual_seed(1)
    geometry = plan_geometry((size[0] // 4, size[1] // 4), 4)
    n_frames = plan_chunk(n_chunks - 1).read.stop
    images = torch.randint(0, 256, (n_frames, *geometry.source, 3), generator=generator, dtype=torch.uint8)
    low_res = enlarge_frames(images.to(network.device), geometry)
    stream = Stream(network, geometry, settings)
    latents, frames = [], []
    for chunk in map(plan_chunk, range(n_chunks)):
        for group in chunk.split_read():
            stream.project(low_res[group.start : group.stop])
        noise = draw_noise(0, chunk.index, stream.noise_shape(chunk)).to(network.device)
        x = stream.denoise(chunk, stream.take_tokens(), noise)
        latents.append(x.float().cpu())
        frames += [group.float().cpu() for group in stream.decode(x, low_res[chunk.emit.start : chunk.emit.stop])]
    return torch.cat(latents, dim=2), torch.cat(frames)


def decibels(x, exact, peak):
    import math

    error = (x.double() - exact.double()).square().mean().item()
    return round(10 * math.log10(peak**2 / error), 2) if error > 0 else math.inf


def part_agreement(setup):
    """Every precision on the same weights (rounded to bfloat16): fused and plain, against float32 and each other."""
    import torch

    from flashvsr_cli.options import Settings

    bf16 = torch.bfloat16
    cases = {
        "plain fp32": {"dtype": torch.float32, "backend": "torch"},
        "plain bf16": {"dtype": bf16, "backend": "torch"},
        "plain fp16": {"dtype": torch.float16, "backend": "torch"},
        "fused fp32": {"dtype": torch.float32},
        "fused bf16": {"dtype": bf16},
        "fused fp16": {"dtype": torch.float16},
        "bf16, fp8 cache": {"dtype": bf16, "kv_precision": "fp8"},
        "fp8": {"dtype": bf16, "fp8": True},
        "fp8, fp8 cache": {"dtype": bf16, "fp8": True, "kv_precision": "fp8"},
    }
    outputs, record = {}, {}
    print("latents' dB at their range, frames' dB at 2; three chunks")
    for name, keywords in cases.items():
        settings = Settings(kv_precision=keywords.pop("kv_precision", "model"))
        try:
            network = setup.network(rounded_to=bf16, **keywords)
            outputs[name] = compute_chunks(network, setup.size(), settings, 3)
        except Exception as error:  # noqa: BLE001 - one precision that fails must not hide the others
            record[name] = f"{type(error).__name__}: {str(error)[:300]}"
            print(f"{name}: {record[name]}", flush=True)
            continue
        finally:
            network = None
        torch.cuda.empty_cache()
        record[name] = {}
        for other in ("plain fp32", "plain bf16", "plain fp16", "fused bf16"):
            if other in outputs and other != name:
                (latents, frames), (exact, exact_frames) = outputs[name], outputs[other]
                peak = (exact.max() - exact.min()).item()
                values = decibels(latents, exact, peak), decibels(frames, exact_frames, 2)
                record[name][other] = values
                print(f"{name:18} against {other:12} latents {values[0]:7} dB, frames {values[1]:7} dB", flush=True)
    return record


def print_speeds(speeds):
    for name, speed in speeds.items():
        stages = ", ".join(f"{stage} {ms:.1f}" for stage, ms in speed["stage_ms"].items())
        print(f"{name}: {speed['fps']:.1f} fps; ms: {stages}")
        print(
            f"  matmul {speed['matmul_tflops']:.0f} TFLOP/s; transformer {speed['stage_tflops']['transformer']:.0f}; "
            f"peak {speed['peak_bytes'] / 2**30:.2f} GiB, estimated {speed['estimated_bytes'] / 2**30:.2f}; "
            f"first frame {speed['first_frame_s']:.1f} s, next clip {speed['next_first_frame_s']:.2f} s"
        )
        if speed["n_frames"]:
            print(
                f"  {speed['n_frames']} frames: in memory {speed['clip_fps']:.1f} fps, file to file "
                f"{speed['file_fps']:.1f} fps, {speed['file_fps'] / speed['clip_fps']:.2f} of in memory, "
                f"{speed['file_fps'] / speed['fps']:.2f} of steady"
            )
    sys.stdout.flush()


def measure_sizes(setup, name, *, fp8):
    """What `flashvsr bench model` measures; at 1408x768 also a clip of 301 frames from file to file."""
    n_frames = (30 if setup.is_dry else 301) if name == "768" else 0
    speeds = {}
    for kv_precision in ("model", "fp8") if fp8 and setup.backend == "triton" else ("model",):
        key = f"{name} {'fp8' if fp8 else 'bf16'}, cache {kv_precision}"
        speeds[key] = setup.measure(name, fp8=fp8, kv_precision=kv_precision, n_frames=n_frames)
        print_speeds({key: speeds[key]})
    return speeds


def part_memory(setup):
    """Peak device memory of clips of 100 and 1000 frames, network included, and what the estimate says."""
    import itertools

    import numpy as np
    import torch

    from flashvsr_cli.geometry import plan_geometry
    from flashvsr_cli.model.full_size import full_size_states
    from flashvsr_cli.model.memory import estimate_memory
    from flashvsr_cli.options import Settings
    from flashvsr_cli.pipeline import Upscaler
    from flashvsr_cli.weights import Checkpoint

    size = setup.size()
    images = np.random.default_rng(0).integers(0, 256, (13, size[0] // 4, size[1] // 4, 3), np.uint8)
    geometry = plan_geometry((size[0] // 4, size[1] // 4), 4)
    is_cuda, record = setup.device.type == "cuda", {}
    for fp8, kv_precision in ((False, "model"), (False, "fp8"), (True, "fp8")) if is_cuda else ((False, "model"),):
        settings = Settings(kv_precision=kv_precision)
        if is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        network = setup.network(fp8=fp8)
        loading = torch.cuda.max_memory_allocated() if is_cuda else 0
        held = torch.cuda.memory_allocated() if is_cuda else 0
        upscaler = Upscaler(network, Checkpoint("random weights", "v1.1", {}))
        estimated = estimate_memory(full_size_states("tiny"), geometry, settings, 2).total
        for n_frames in (30, 40) if setup.is_dry else (100, 1000):
            if is_cuda:
                torch.cuda.reset_peak_memory_stats()
            started = time.perf_counter()
            n_out = sum(1 for _ in upscaler.upscale(itertools.islice(itertools.cycle(images), n_frames), 4, settings))
            seconds = time.perf_counter() - started
            peak = torch.cuda.max_memory_allocated() if is_cuda else 0
            reserved = torch.cuda.max_memory_reserved() if is_cuda else 0
            key = f"{'fp8' if fp8 else 'bf16'}, cache {kv_precision}, {n_frames} frames"
            record[key] = {
                "peak": peak, "reserved": reserved, "loading": loading, "weights": held, "estimated": estimated,
                "fps": n_out / seconds,
            }  # fmt: skip
            gib = {k: f"{v / 2**30:.2f}" for k, v in record[key].items() if k != "fps"}
            print(f"{key}: GiB {gib}, {n_out / seconds:.1f} fps with the first chunk", flush=True)
        del network, upscaler
    return record


def part_first_frame(setup):
    """From the start of a process to the first frames on the host, kernels compiled or fetched from their cache."""
    record = {}
    for fp8 in (False, True) if setup.device.type == "cuda" else (False,):
        with tempfile.TemporaryDirectory() as cache:
            for state in ("cold", "warm"):
                command = [sys.executable, __file__, "--first-frame", "--started", str(time.time())]
                command += ["--dry-run"] * setup.is_dry + ["--fp8"] * fp8
                environment = dict(os.environ, TRITON_CACHE_DIR=cache)
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise RuntimeError(done.stderr[-2000:])
                times = json.loads(done.stdout.splitlines()[-1])
                record[f"{'fp8' if fp8 else 'bf16'} {state}"] = times
                print(f"{'fp8' if fp8 else 'bf16'} {state}: {times}", flush=True)
    return record


def run_first_frame(setup, started, fp8):
    import numpy as np

    from flashvsr_cli.pipeline import Upscaler
    from flashvsr_cli.weights import Checkpoint

    imported = time.time() - started
    upscaler = Upscaler(setup.network(fp8=fp8), Checkpoint("random weights", "v1.1", {}))
    loaded = time.time() - started
    size = setup.size()
    images = np.random.default_rng(0).integers(0, 256, (60, size[0] // 4, size[1] // 4, 3), np.uint8)
    next(upscaler.upscale(iter(images), 4))
    times = {"imported": imported, "weights drawn": loaded, "first frame": time.time() - started}
    print(json.dumps({key: round(value, 2) for key, value in times.items()}))


def part_profile(setup):
    """Where a steady chunk's device time goes, kernel by kernel."""
    record = {}
    for fp8, kv_precision in ((False, "model"), (True, "fp8")) if setup.device.type == "cuda" else ((False, "model"),):
        name = f"{'fp8' if fp8 else 'bf16'}, cache {kv_precision}"
        record[name] = profile_chunks(setup, setup.network(fp8=fp8), kv_precision, name)
    return record


def make_runner(setup, network, kv_precision="model"):
    from flashvsr_cli.bench_model import ChunkRunner
    from flashvsr_cli.options import Settings

    return ChunkRunner(network, setup.size(), Settings(kv_precision=kv_precision))


def profile_chunks(setup, network, kv_precision, name, n_chunks=3):
    import torch
    from torch.profiler import ProfilerActivity

    is_cuda = setup.device.type == "cuda"
    runner = make_runner(setup, network, kv_precision)
    for _ in range(2 if setup.is_dry else 5):
        runner.step()
    torch.cuda.synchronize() if is_cuda else None
    with torch.profiler.profile(activities=[ProfilerActivity.CUDA if is_cuda else ProfilerActivity.CPU]) as profiler:
        started = time.perf_counter()
        for _ in range(n_chunks):
            runner.step()
        torch.cuda.synchronize() if is_cuda else None
        wall_ms = (time.perf_counter() - started) * 1e3 / n_chunks

    def own_ms(event):
        return (event.self_device_time_total if is_cuda else event.self_cpu_time_total) / 1e3 / n_chunks

    events = sorted(profiler.key_averages(), key=own_ms, reverse=True)
    busy_ms = sum(map(own_ms, events))
    print(f"{name}: {wall_ms:.1f} ms per chunk under the profiler, device busy {busy_ms:.1f} ms")
    table = [(event.key, event.count / n_chunks, own_ms(event)) for event in events]
    for key, count, ms in table[:18]:
        print(f"  {ms:8.3f} ms {count:7.1f}x  {key[:72]}", flush=True)
    return {"wall_ms": wall_ms, "busy_ms": busy_ms, "kernels": table[:60]}


def part_kernels(setup):
    """The scripts of this folder, each against its reference and beside plain torch."""
    if setup.device.type != "cuda":
        raise RuntimeError("the scripts need a GPU")
    record = {}
    for script in ("attention.py --flex --variants", "block_map.py", "elementwise.py", "linear.py", "pixel_conv.py"):
        command = [sys.executable, *script.split()]
        done = subprocess.run(command, cwd=BENCH, capture_output=True, text=True, check=False)
        record[script] = {"exit code": done.returncode, "output": done.stdout, "error": done.stderr[-1500:]}
        print(f"== {script}: exit code {done.returncode}\n{done.stdout}", end="", flush=True)
        if done.returncode:
            print(done.stderr[-800:], flush=True)
    return record


def part_variants(setup):
    """Our own last convolution in the decoder, and the steady chunk from a CUDA graph: the same numbers, faster?"""
    import torch
    import variants
    from variants import GraphedTransformer, use_pixel_conv

    from flashvsr_cli.options import Settings

    is_cuda = setup.device.type == "cuda"
    if not is_cuda:
        variants.N_EAGER = sys.maxsize
    network, record = setup.network(), {}
    expected = compute_chunks(network, setup.size(), Settings(), 2)
    record["as it is"] = time_stages(setup, network)
    use_pixel_conv(network.decoder)
    got = compute_chunks(network, setup.size(), Settings(), 2)
    decibel = decibels(got[1], expected[1], 2)
    record["own convolution"] = {"dB of frames": decibel, **time_stages(setup, network)}
    print(f"own convolution against cuDNN's: frames {decibel} dB", flush=True)
    for fp8, kv_precision in ((False, "model"), (True, "fp8")) if is_cuda else ((False, "model"),):
        name = f"graph, {'fp8' if fp8 else 'bf16'}, cache {kv_precision}"
        settings = Settings(kv_precision=kv_precision)
        network = setup.network(fp8=fp8)
        expected = compute_chunks(network, setup.size(), settings, setup.n_warm)
        record[name.replace("graph", "eager")] = time_stages(setup, network, kv_precision)
        network = replace(network, transformer=GraphedTransformer(network.transformer))
        got = compute_chunks(network, setup.size(), settings, setup.n_warm)
        peak = (expected[0].max() - expected[0].min()).item()
        decibel = decibels(got[0], expected[0], peak)
        torch.cuda.empty_cache()
        record[name] = {"dB of latents": decibel, **time_stages(setup, network, kv_precision)}
        print(f"{name}: latents {decibel} dB against eager", flush=True)
    return record


def time_stages(setup, network, kv_precision="model"):
    """Milliseconds per stage with the device synchronised, and frames per second without."""
    runner = make_runner(setup, network, kv_precision)
    for _ in range(setup.n_warm):
        runner.step()
    stages = {stage: round(ms, 2) for stage, ms in runner.measure_stages(setup.n_chunks).items()}
    fps = runner.measure_fps(setup.n_chunks)
    print(f"{fps:.1f} fps; ms: {stages}", flush=True)
    return {"fps": fps, "stage_ms": stages}


def run_part(name, setup):
    """What a part returns, for its JSON."""
    kind, _, size = name.partition("-")
    if kind == "speed":
        return measure_sizes(setup, size, fp8=False)
    if kind == "fp8":
        return measure_sizes(setup, size, fp8=setup.device.type == "cuda")
    parts = {
        "tests": part_tests, "agreement": part_agreement, "memory": part_memory, "first-frame": part_first_frame,
        "profile": part_profile, "kernels": part_kernels, "variants": part_variants,
    }  # fmt: skip
    return parts[name](setup)


def start_part(name, folder, is_dry):
    """Runs a part in its own process; its output, its record and how it ended go into a folder."""
    command = [sys.executable, "-u", __file__, "--part", name, "--out", str(folder)] + ["--dry-run"] * is_dry
    paths = [str(ROOT / "src"), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, paths)))
    started = time.perf_counter()
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=ROOT, start_new_session=True
        )
        try:
            code = process.wait(LIMITS[name])
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = f"none, stopped after {LIMITS[name]} s"
    ended = f"{name}: exit code {code}, {time.perf_counter() - started:.0f} s"
    (folder / f"{name}.end").write_text(ended + "\n")
    print(ended, flush=True)


def gather(folder, out):
    """Writes log.txt, record.json and summary.md of the parts so far; returns the summary."""
    logs, record = {}, {}
    for name in LIMITS:
        if (folder / f"{name}.end").exists():
            title = f"## {(folder / f'{name}.end').read_text().strip()}"
            logs[title] = (folder / f"{name}.log").read_text(errors="replace").splitlines()
        if (folder / f"{name}.json").exists():
            record[name] = json.loads((folder / f"{name}.json").read_text())
    (out / "log.txt").write_text("\n".join(line for title in logs for line in (title, *logs[title])) + "\n")
    (out / "record.json").write_text(json.dumps(record, indent=1) + "\n")
    for n_lines in (80, 60, 45, 30, 20, 12, 6):
        lines = []
        for title, log in logs.items():
            lines += [title, *(["..."] if len(log) > n_lines else []), *(line[:170] for line in log[-n_lines:])]
        summary = "\n".join(lines) + "\n"
        if len(summary) <= MAX_CHARACTERS:
            break
    (out / "summary.md").write_text(summary)
    return summary


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(LIMITS), default=list(LIMITS), metavar="PART")
    parser.add_argument("--out", type=Path, default=Path("gpu-record"))
    parser.add_argument("--dry-run", action="store_true")
    for hidden in ("--part", "--started"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    for hidden in ("--first-frame", "--fp8"):
        parser.add_argument(hidden, action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.first_frame:
        run_first_frame(Setup(arguments.dry_run), float(arguments.started), arguments.fp8)
        return
    out = arguments.out.resolve()
    if arguments.part:
        record = run_part(arguments.part, Setup(arguments.dry_run))
        (out / f"{arguments.part}.json").write_text(json.dumps(record, default=str))
        return
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only:
            start_part(name, Path(folder), arguments.dry_run)
            summary = gather(Path(folder), out)
    print(summary, flush=True)


if __name__ == "__main__":
    main()
