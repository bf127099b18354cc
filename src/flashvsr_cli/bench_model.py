"""How fast the model is on this machine, stage by stage, and how fast whole clips are.

A listed model that would have to be downloaded is measured with random weights of its size; one that is part of this
package, or a path, with its own. Speed does not depend on the weights' values.

A speed is measured over whole chunks with the device synchronised around each stage once, and over a run of chunks
without any synchronisation in between; the first tells where time goes, the second is the frames per second.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flashvsr_cli.bench_clip import measure_files, measure_in_memory
from flashvsr_cli.blend import Grain
from flashvsr_cli.enlarge import SignedFrames, enlarge_levels
from flashvsr_cli.finish import finish_frames
from flashvsr_cli.geometry import Size, plan_geometry
from flashvsr_cli.model.flops import count_flops
from flashvsr_cli.model.full_size import full_size_states, random_states
from flashvsr_cli.model.loading import load_state_dicts
from flashvsr_cli.model.memory import estimate_memory
from flashvsr_cli.model.network import build_network, choose_dtype, choose_model, resolve_device
from flashvsr_cli.model.stream import Network, Stream, draw_noise
from flashvsr_cli.model.traits import Traits
from flashvsr_cli.options import Backend, DtypeName, Settings
from flashvsr_cli.pipeline import Upscaler
from flashvsr_cli.schedule import NEXT_CHUNK_EMITS, iter_chunks
from flashvsr_cli.transfer import Downloads, upload
from flashvsr_cli.weights import Checkpoint, resolve_checkpoint
from flashvsr_cli.weights_registry import ROLES, needed_roles, read_registry

BYTES = np.dtype(np.uint8)
MATMUL_SIDE = 8192
WARM_CHUNKS = 3
MEMORY_FRAMES = 37
"""Length of the clip for the peak of memory where no longer one is measured: the first chunk and two steady ones."""


@dataclass
class ModelSpeed:
    """What was measured.

    Attributes:
        model, device, dtype, backend: what ran.
        size: (height, width) of the output.
        stage_ms: median milliseconds per steady chunk of 8 frames.
        stage_tflops: achieved 10^12 operations per second, counted as `flops.count_flops` does.
        matmul_tflops: the same for one large matrix product on this device, the ceiling.
        fps: frames per second over a run of steady chunks.
        clip_fps, file_fps: over a whole clip of `n_frames` with its first chunk: from frames in memory to frames in
            memory, and from an H.264 file to an H.264 file; 0 if that was not measured. The clip is drawn with
            textures, edges and motion; with random weights the file gets its plain enlargement, because encoders take
            the noise that such weights make far slower than pictures (`bench_clip`).
        load_s: building the network.
        first_frame_s, next_first_frame_s: from there to the first chunk's frames on the host, the first time in this
            process (kernels are compiled or fetched from their cache) and for a second clip.
        peak_bytes, estimated_bytes: device memory while a clip goes from memory to memory, the network included, and
            what `flashvsr info` says; the first is 0 on a CPU.
    """

    model: str
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

    def rate_text(self, stage: str) -> str:
        """10^12 operations per second of a stage; empty where they are not counted."""
        rate = self.stage_tflops.get(stage)
        return "" if rate is None else format_rate(rate)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def format_rate(tflops: float) -> str:
    """Whole numbers for a GPU, two digits for what is slower."""
    return f"{tflops:.0f}" if tflops >= 10 else f"{tflops:.2g}"


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        network: on its device.
        checkpoint: where it is from.
        shapes: of every role's tensors, on the meta device.
        is_random: whether the weights are.
    """

    network: Network
    checkpoint: Checkpoint
    shapes: Mapping[str, Mapping[str, Tensor]]
    is_random: bool


def load_subject(
    model: str, device: torch.device, dtype: torch.dtype, backend: Backend = "auto", *, fp8: bool = False
) -> Subject:
    """A network to measure; nothing is downloaded.

    Args:
        model: a name of weights.toml, or the path of a checkpoint.
        device, dtype: where and as what.
        backend, fp8: as for `choose_transformer`.

    Raises:
        WeightsError: there is no such model, or its file is damaged.
        DeviceError: the backend does not run there.
    """
    known = read_registry().models.get(model)
    is_random = known is not None and not any(file.is_packaged for file in known.files)
    states: Any
    if known is not None and is_random:
        checkpoint = Checkpoint(f"{model} with random weights", known.version, {})
        shapes = full_size_states("tiny")
        states, names = random_states(shapes, device=device, dtype=dtype), dict.fromkeys(ROLES, "random weights")
    else:
        checkpoint = resolve_checkpoint(model)
        states = load_state_dicts(checkpoint, needed_roles("tiny"), dtype=dtype, device=device)
        shapes = {role: {key: x.to("meta") for key, x in state.items()} for role, state in states.items()}
        names = {role: path.name for role, path in checkpoint.files.items()}
    traits = Traits.of(checkpoint.metadata)
    network = build_network(states, names, checkpoint.version, traits, backend, fp8=fp8)
    return Subject(network, checkpoint, shapes, is_random)


def measure_model(
    size: Size,
    *,
    model: str = "auto",
    device: str = "auto",
    dtype: DtypeName | None = None,
    backend: Backend = "auto",
    fp8: bool = False,
    n_chunks: int = 10,
    n_frames: int = 0,
    choose_settings: Callable[[Settings], Settings] = lambda defaults: defaults,
) -> ModelSpeed:
    """Measure a model at 4x.

    Args:
        size: (height, width) of the output.
        model: as for `load_subject`, or "auto" as for `Upscaler.load`.
        device, dtype, backend, fp8: as for `Upscaler.load`.
        n_chunks: steady chunks measured, each way.
        n_frames: length of the clip for `clip_fps` and `file_fps`; 0 leaves them out.
        choose_settings: from the model's settings to those that are measured.

    Raises:
        WeightsError: there is no such model.
        DeviceError: there is no such device.
    """
    target = resolve_device(device)
    precision = choose_dtype(dtype, target)
    started = time.perf_counter()
    subject = load_subject(choose_model(model, device), target, precision, backend, fp8=fp8)
    _synchronize(target)
    load_s = time.perf_counter() - started
    upscaler = Upscaler(subject.network, subject.checkpoint)
    settings = choose_settings(upscaler.default_settings)
    name = torch.cuda.get_device_name(target) if target.type == "cuda" else "cpu"
    numbers = "fp8" if fp8 else str(precision).removeprefix("torch.")
    speed = ModelSpeed(subject.checkpoint.name, name, numbers, subject.network.transformer.name, size)
    speed.load_s = load_s
    # Measured one after the other and let go of: two streams at once would not fit where one does.
    speed.first_frame_s = _measure_first_chunk(subject.network, size, settings)
    speed.next_first_frame_s = _measure_first_chunk(subject.network, size, settings)
    _measure_chunks(speed, subject.network, settings, n_chunks)
    _measure_clip(speed, upscaler, settings, n_frames, shows_model=not subject.is_random)

    geometry = plan_geometry((size[0] // 4, size[1] // 4), 4)
    speed.estimated_bytes = estimate_memory(subject.shapes, geometry, settings, precision.itemsize, fp8=fp8).total
    flops = count_flops(subject.shapes, geometry, settings)
    speed.stage_tflops = {stage: count / speed.stage_ms[stage] / 1e9 for stage, count in flops.items()}
    speed.matmul_tflops = measure_matmul(target, precision)
    return speed


def _measure_first_chunk(network: Network, size: Size, settings: Settings) -> float:
    """Seconds from a new stream to its first frames on the host."""
    started = time.perf_counter()
    runner = ChunkRunner(network, size, settings)
    runner.step()
    runner.flush()
    return time.perf_counter() - started


def _measure_chunks(speed: ModelSpeed, network: Network, settings: Settings, n_chunks: int) -> None:
    runner = ChunkRunner(network, speed.size, settings)
    for _ in range(1 + WARM_CHUNKS):
        runner.step()
    speed.stage_ms = runner.measure_stages(n_chunks)
    speed.fps = runner.measure_fps(n_chunks)


def _measure_clip(
    speed: ModelSpeed, upscaler: Upscaler, settings: Settings, n_frames: int, *, shows_model: bool
) -> None:
    device, size = upscaler.network.device, (speed.size[0] // 4, speed.size[1] // 4)
    if not n_frames and device.type != "cuda":
        return
    _reset_peak(device)
    clip_fps = measure_in_memory(upscaler, size, settings, n_frames or MEMORY_FRAMES)
    # Read here: a job begins to count anew.
    speed.peak_bytes = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    if n_frames:
        speed.clip_fps = clip_fps
        speed.n_frames, speed.file_fps = measure_files(upscaler, size, settings, n_frames, shows_model=shows_model)


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


class StageClock:
    """Seconds per stage, measured while `synchronizes` is on: the device is waited for around each stage."""

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


class ChunkRunner:
    """A stream fed with random frames, one chunk per step: what `Upscaler.upscale` does, with a clock."""

    def __init__(self, network: Network, size: Size, settings: Settings) -> None:
        height, width = size
        self._geometry = plan_geometry((height // 4, width // 4), 4)
        self._network = network
        self._settings = settings
        self._clock = StageClock(network.device)
        self._stream = Stream(network, self._geometry, settings)
        self._chunks = iter_chunks()
        self._images = np.random.default_rng(0).integers(0, 256, (32, height // 4, width // 4, 3), np.uint8)
        self._waiting: Tensor | None = None
        self._downloads = Downloads(BYTES)
        self._grain = Grain(0, 0, 0, network.device)

    def measure_stages(self, n_chunks: int) -> dict[str, float]:
        """Median milliseconds per stage over the next chunks, the device synchronised around each."""
        self._clock.seconds.clear()
        self._clock.synchronizes = True
        for _ in range(n_chunks):
            self.step()
        self._clock.synchronizes = False
        return {stage: 1e3 * statistics.median(times) for stage, times in self._clock.seconds.items()}

    def measure_fps(self, n_chunks: int) -> float:
        """Frames per second over the next chunks, nothing synchronised in between."""
        _synchronize(self._network.device)
        started = time.perf_counter()
        for _ in range(n_chunks):
            self.step()
        _synchronize(self._network.device)
        return n_chunks * NEXT_CHUNK_EMITS / (time.perf_counter() - started)

    def step(self) -> None:
        """One chunk from frames on the host to frames on their way to the host."""
        run, stream, chunk = self._clock.run, self._stream, next(self._chunks)

        def read() -> list[Tensor]:
            images = upload(torch.from_numpy(self._images[: len(chunk.read)]), self._network.device)
            levels = enlarge_levels(images, self._geometry, has_kernels=self._network.has_kernels)
            waiting = levels if self._waiting is None else torch.cat((self._waiting, levels))
            self._waiting = waiting[len(chunk.emit) :]
            groups = [levels[r.start - chunk.read.start : r.stop - chunk.read.start] for r in chunk.split_read()]
            return [waiting[: len(chunk.emit)], *groups]

        emit, *groups = run("enlarge", read)
        run("projection", lambda: [stream.project(SignedFrames(group)) for group in groups])
        shape = stream.noise_shape(chunk)
        noise = run("noise", lambda: upload(draw_noise(0, chunk.index, shape), self._network.device))
        latents = run("transformer", lambda: stream.denoise(chunk, stream.take_features(), noise))
        frames = run("decoder", lambda: list(stream.decode(latents, SignedFrames(emit))))
        run("colour and download", lambda: self._finish(frames, emit))

    def _finish(self, frames: list[Tensor], emit: Tensor) -> None:
        crop = (..., slice(self._geometry.target[0]), slice(self._geometry.target[1]))
        n_done = 0
        for group in frames:
            reference = emit[n_done : n_done + len(group)][crop]
            finished = finish_frames(
                group[crop], reference, self._settings, self._grain, BYTES, has_kernels=self._network.has_kernels
            )
            list(self._downloads.put(finished))
            n_done += len(group)

    def flush(self) -> None:
        """Wait until every frame is on the host."""
        list(self._downloads.flush())


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
