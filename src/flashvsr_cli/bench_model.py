"""How fast the model is on this machine: random weights of the released size, stage by stage, without any file.

A speed is measured over whole chunks with the device synchronised around each stage once, and over a run of chunks
without any synchronisation in between; the first tells where time goes, the second is the frames per second.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from flashvsr_cli.color import fix_color
from flashvsr_cli.console import QuietReporter
from flashvsr_cli.enlarge import enlarge_levels, to_integers, to_signed
from flashvsr_cli.geometry import Size, plan_geometry
from flashvsr_cli.jobs import Job, OpenJob
from flashvsr_cli.model.flops import count_flops
from flashvsr_cli.model.full_size import full_size_states, random_states
from flashvsr_cli.model.memory import estimate_memory
from flashvsr_cli.model.network import build_network, choose_dtype, resolve_device
from flashvsr_cli.model.stream import Network, Stream, draw_noise
from flashvsr_cli.model.traits import Traits
from flashvsr_cli.options import Backend, DtypeName, Settings
from flashvsr_cli.pipeline import Upscaler
from flashvsr_cli.schedule import NEXT_CHUNK_EMITS, iter_chunks
from flashvsr_cli.transfer import Downloads, upload
from flashvsr_cli.weights import Checkpoint
from flashvsr_cli.weights_registry import ROLES

MATMUL_SIDE = 8192
WARM_CHUNKS = 3


@dataclass
class ModelSpeed:
    """What was measured.

    Attributes:
        device, dtype, backend: what ran.
        size: (height, width) of the output.
        stage_ms: median milliseconds per steady chunk of 8 frames.
        stage_tflops: achieved 10^12 operations per second, counted as `flops.count_flops` does.
        matmul_tflops: the same for one large matrix product on this device, the ceiling.
        fps: frames per second over a run of steady chunks.
        clip_fps, file_fps: over a whole clip of `n_frames` with its first chunk: from frames in memory to frames in
            memory, and from an H.264 file to an H.264 file; 0 if that was not measured.
        load_s: building the network.
        first_frame_s, next_first_frame_s: from there to the first chunk's frames on the host, the first time in this
            process (kernels are compiled or fetched from their cache) and for a second clip.
        peak_bytes, estimated_bytes: device memory measured, and what `flashvsr info` says.
    """

    device: str
    dtype: str
    backend: str
    size: Size
    stage_ms: dict[str, float] = field(default_factory=dict)
    stage_tflops: dict[str, float] = field(default_factory=dict)
    matmul_tflops: float = 0.0
    fps: float = 0.0
    n_frames: int = 0
    clip_fps: float = 0.0
    file_fps: float = 0.0
    next_first_frame_s: float = 0.0
    load_s: float = 0.0
    first_frame_s: float = 0.0
    peak_bytes: int = 0
    estimated_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def random_network(device: torch.device, dtype: torch.dtype, backend: Backend, *, fp8: bool = False) -> Network:
    """A network of the released size with random weights."""
    states = random_states(full_size_states("tiny"), device=device, dtype=dtype)
    names = dict.fromkeys(ROLES, "random weights")
    return build_network(states, names, "v1.1", Traits(), backend, fp8=fp8)  # type: ignore[arg-type]


def measure_model(
    size: Size,
    *,
    device: str = "auto",
    dtype: DtypeName | None = None,
    backend: Backend = "auto",
    fp8: bool = False,
    n_chunks: int = 10,
    n_frames: int = 0,
    settings: Settings | None = None,
) -> ModelSpeed:
    """Measure the model of the released size with random weights, at 4x.

    Args:
        size: (height, width) of the output.
        device, dtype, backend, fp8: as for `Upscaler.load`.
        n_chunks: steady chunks measured, each way.
        n_frames: length of the clip for `clip_fps` and `file_fps`; 0 leaves them out.
        settings: how the model computes.

    Raises:
        DeviceError: there is no such device.
    """
    settings = settings or Settings()
    target = resolve_device(device)
    precision = choose_dtype(dtype, target)
    _reset_peak(target)
    started = time.perf_counter()
    network = random_network(target, precision, backend, fp8=fp8)
    _synchronize(target)
    name = torch.cuda.get_device_name(target) if target.type == "cuda" else "cpu"
    numbers = "fp8" if fp8 else str(precision).removeprefix("torch.")
    speed = ModelSpeed(name, numbers, network.transformer.name, size)
    speed.load_s = time.perf_counter() - started

    clock = _Clock(target)
    runner = _Runner(network, size, settings, clock)
    started = time.perf_counter()
    runner.step()
    speed.first_frame_s = time.perf_counter() - started
    runner = _Runner(network, size, settings, clock)
    started = time.perf_counter()
    runner.step()
    speed.next_first_frame_s = time.perf_counter() - started
    for _ in range(WARM_CHUNKS):
        runner.step()
    clock.seconds.clear()
    clock.synchronizes = True
    for _ in range(n_chunks):
        runner.step()
    speed.stage_ms = {stage: 1e3 * statistics.median(times) for stage, times in clock.seconds.items()}
    clock.synchronizes = False
    _synchronize(target)
    started = time.perf_counter()
    for _ in range(n_chunks):
        runner.step()
    _synchronize(target)
    speed.fps = n_chunks * NEXT_CHUNK_EMITS / (time.perf_counter() - started)
    _measure_clip(speed, network, settings, n_frames)
    speed.peak_bytes = torch.cuda.max_memory_allocated(target) if target.type == "cuda" else 0

    states = full_size_states("tiny")
    geometry = runner.geometry
    speed.estimated_bytes = estimate_memory(states, geometry, settings, precision.itemsize).total
    flops = count_flops(states, geometry, settings)
    speed.stage_tflops = {stage: count / speed.stage_ms[stage] / 1e9 for stage, count in flops.items()}
    speed.matmul_tflops = measure_matmul(target, precision)
    return speed


def _measure_clip(speed: ModelSpeed, network: Network, settings: Settings, n_frames: int) -> None:
    if n_frames < 1:
        return
    height, width = speed.size[0] // 4, speed.size[1] // 4
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 90 * np.sin((x + 3 * i) / 9) * np.cos((y - i) / 7) for i in range(n_frames)]
    frames = [np.repeat(wave[..., None], 3, axis=2).astype(np.uint8) for wave in waves]
    upscaler = Upscaler(network, Checkpoint("random weights", "v1.1", {}))
    started = time.perf_counter()
    n_out = sum(1 for _ in upscaler.upscale(frames, 4, settings))
    speed.n_frames, speed.clip_fps = n_out, n_out / (time.perf_counter() - started)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.mp4", Path(folder) / "out.mp4"
        with av.open(source, "w") as container:
            stream = container.add_stream("libx264", rate=30)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
        with OpenJob(Job(str(source), str(target))) as job:
            speed.file_fps = job.run(upscaler, settings, QuietReporter()).fps


def measure_matmul(device: torch.device, dtype: torch.dtype) -> float:
    """10^12 operations per second of one large matrix product on random data; smaller on a CPU, to end in time."""
    side = MATMUL_SIDE if device.type == "cuda" else MATMUL_SIDE // 8
    a, b = (torch.randn(side, side, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    times = []
    for _ in range(8):
        _synchronize(device)
        started = time.perf_counter()
        for _ in range(10):
            a @ b
        _synchronize(device)
        times.append((time.perf_counter() - started) / 10)
    return 2 * side**3 / statistics.median(times[2:]) / 1e12


class _Clock:
    """Seconds per stage; only meaningful where the device is synchronised around them."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.synchronizes = False
        self.seconds: dict[str, list[float]] = {}

    def run(self, stage: str, work: Callable[[], Any]) -> Any:
        """Do some work, timed if wanted."""
        if not self.synchronizes:
            return work()
        _synchronize(self._device)
        started = time.perf_counter()
        result = work()
        _synchronize(self._device)
        self.seconds.setdefault(stage, []).append(time.perf_counter() - started)
        return result


class _Runner:
    """A stream fed with random frames, one chunk per step: what `Upscaler.upscale` does, with a clock."""

    def __init__(self, network: Network, size: Size, settings: Settings, clock: _Clock) -> None:
        height, width = size
        self.geometry = plan_geometry((height // 4, width // 4), 4)
        self._network = network
        self._settings = settings
        self._clock = clock
        self._stream = Stream(network, self.geometry, settings)
        self._chunks = iter_chunks()
        self._images = np.random.default_rng(0).integers(0, 256, (32, height // 4, width // 4, 3), np.uint8)
        self._waiting: Tensor | None = None
        self._downloads = Downloads(np.dtype(np.uint8))

    def step(self) -> None:
        """One chunk from frames on the host to frames on the host."""
        clock, stream, chunk = self._clock, self._stream, next(self._chunks)
        crop = (..., slice(self.geometry.target[0]), slice(self.geometry.target[1]))

        def read() -> list[Tensor]:
            images = upload(torch.from_numpy(self._images[: len(chunk.read)]), self._network.device)
            levels = enlarge_levels(images, self.geometry)
            waiting = levels if self._waiting is None else torch.cat((self._waiting, levels))
            self._waiting = waiting[len(chunk.emit) :]
            groups = [levels[r.start - chunk.read.start : r.stop - chunk.read.start] for r in chunk.split_read()]
            return [waiting[: len(chunk.emit)], *(to_signed(group) for group in groups)]

        emit, *groups = clock.run("enlarge", read)
        clock.run("projection", lambda: [stream.project(group) for group in groups])
        shape = stream.noise_shape(chunk)
        noise = clock.run("noise", lambda: upload(draw_noise(0, chunk.index, shape), self._network.device))
        latents = clock.run("transformer", lambda: stream.denoise(chunk, stream.take_tokens(), noise))
        condition = clock.run("condition", lambda: to_signed(emit).to(self._network.dtype))
        frames = clock.run("decoder", lambda: list(stream.decode(latents, condition)))

        def finish() -> None:
            n_done = 0
            for group in frames:
                reference = to_signed(emit[n_done : n_done + len(group)][crop])
                fixed = fix_color(self._settings.color_fix, group[crop].float(), reference)
                list(self._downloads.put(to_integers(fixed, np.dtype(np.uint8))))
                n_done += len(group)

        clock.run("colour and download", finish)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
