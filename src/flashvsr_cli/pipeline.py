"""The data path: enlarge -> project -> denoise -> decode -> colour -> crop, one chunk at a time.

`Upscaler.upscale` is the whole of it; `jobs.py` puts a file reader in front of it and a writer behind it.
"""

import math
from collections.abc import Iterable, Iterator
from itertools import chain, islice

import numpy as np
import torch
from torch import Tensor

from flashvsr_cli.blend import Grain
from flashvsr_cli.enlarge import SignedFrames, enlarge_levels
from flashvsr_cli.errors import InputError, UsageError
from flashvsr_cli.finish import finish_frames
from flashvsr_cli.geometry import Geometry, plan_geometry
from flashvsr_cli.model.network import choose_model, load_network
from flashvsr_cli.model.stream import Network, Stream
from flashvsr_cli.model.traits import Traits
from flashvsr_cli.options import Backend, Decoder, DtypeName, Settings, Version
from flashvsr_cli.resume_point import Counted, NoiseSource, ResumePoint, ShotNoise
from flashvsr_cli.scenes import split_shots
from flashvsr_cli.schedule import iter_chunks
from flashvsr_cli.transfer import Downloads, upload
from flashvsr_cli.video.frame import Image
from flashvsr_cli.weights import Checkpoint, resolve_checkpoint
from flashvsr_cli.weights_check import OnProgress


class Upscaler:
    """A loaded model. Holds no state between clips, so one instance serves any number of them."""

    def __init__(self, network: Network, checkpoint: Checkpoint) -> None:
        self.network = network
        self.checkpoint = checkpoint
        self.default_settings = Traits.of(checkpoint.metadata).settings

    @classmethod
    def load(
        cls,
        model: str = "auto",
        *,
        version: Version | None = None,
        decoder: Decoder = "tiny",
        device: str = "auto",
        dtype: DtypeName | None = None,
        backend: Backend = "auto",
        fp8: bool = False,
        on_progress: OnProgress | None = None,
    ) -> "Upscaler":
        """Find (if need be download) a checkpoint and load it.

        Args:
            model: a folder in the released layout, a *.safetensors of ours, a name in weights.toml, or "auto": the
                released model on a CUDA device, the packaged small one on a CPU.
            version: how the low-resolution projection caches; default: what weights.toml says, else v1.1.
            decoder: "tiny" (fast) or "full" (the Wan VAE).
            device: "auto" | "cpu" | "cuda" | "cuda:1"; auto takes CUDA when there is one.
            dtype: default bfloat16 on CUDA, float32 on the CPU.
            backend: "auto", "torch" or "triton": what computes the transformer.
            fp8: whether the transformer's products take e4m3 numbers (Ada, Hopper and newer).
            on_progress: told about downloads and hashing.

        Raises:
            WeightsError: the checkpoint is missing, damaged or mixed up.
            DeviceError: there is no such device.
        """
        name = choose_model(model, device)
        checkpoint = resolve_checkpoint(name, version=version, decoder=decoder, on_progress=on_progress)
        network = load_network(checkpoint, decoder=decoder, device=device, dtype=dtype, backend=backend, fp8=fp8)
        return cls(network, checkpoint)

    def upscale(
        self,
        frames: Iterable[Image],
        scale: float = 4,
        settings: Settings | None = None,
        noise: NoiseSource | None = None,
        *,
        n_done: int = 0,
    ) -> Iterator[Image]:
        """Enlarge a clip, lazily: one output frame per input frame, in order.

        Reads 25 frames before the first output and stays four frames ahead of the output after that (three more where
        scene cuts are looked for); on a CUDA device frames come out one chunk later, while it computes the next.

        Args:
            frames: (H, W, 3) uint8 or uint16 RGB arrays of one size.
            scale: output side over input side.
            settings: how the model computes.
            noise: `(i_chunk, shape) -> (1, C, F, H/8, W/8)` float; default: drawn from (seed, i_chunk), and for shots
                after the first one also from the shot's number. Chunks count from 0 in every shot.
            n_done: output frames that exist already. They are not given again; the model is warmed up on the input
                just before the first that is missing.

        Yields:
            (round(H * scale), round(W * scale), 3) arrays of the input's dtype.

        Raises:
            UsageError: the scale is not a positive number, or `noise` gives another shape than it was asked for.
            InputError: a frame is no RGB array, or has another size or type than the first.
        """
        if not (math.isfinite(scale) and scale > 0):
            raise UsageError(f"Scale {scale} is not a positive number.", "Use 4, or 2 and 3 for larger sources.")
        settings = settings or self.default_settings
        checked = _checked(frames)
        shots = split_shots(checked) if settings.scene_cut == "auto" else iter([checked])
        return self._upscale_shots(shots, scale, settings, noise, n_done)

    def _upscale_shots(
        self,
        shots: Iterator[Iterator[Image]],
        scale: float,
        settings: Settings,
        noise: NoiseSource | None,
        n_done: int,
    ) -> Iterator[Image]:
        n_before = 0
        for i_shot, frames in enumerate(shots):
            shot = Counted(frames)
            point = ResumePoint.of(max(0, n_done - n_before))
            source = point.skip(shot)
            if source is not None:
                noise_of_shot = ShotNoise(noise, settings.seed, i_shot, point)
                first_frame = n_before + point.first_frame
                grain = Grain(settings.grain, settings.seed, first_frame, self.network.device)
                yield from self._upscale_shot(source, scale, settings, noise_of_shot, grain, point.n_warm_up)
            n_before += shot.n_read

    def _upscale_shot(
        self,
        source: Iterator[Image],
        scale: float,
        settings: Settings,
        noise: ShotNoise,
        grain: Grain,
        n_warm_up: int,
    ) -> Iterator[Image]:
        """One shot, or what is left of it, through a fresh stream; the first `n_warm_up` frames are not given."""
        first = next(source, None)
        if first is None:
            return
        source = chain([first], source)
        geometry = plan_geometry(first.shape[:2], scale)
        stream = Stream(self.network, geometry, settings)
        crop = (..., slice(geometry.target[0]), slice(geometry.target[1]))
        low_res = self._enlarge(torch.from_numpy(first[None].copy()), geometry)[:0]
        downloads = Downloads(first.dtype)
        n_read = 0
        for chunk in iter_chunks():
            for group in chunk.split_read():
                images = list(islice(source, len(group)))
                n_read += len(images)
                if images:
                    frames = torch.from_numpy(np.stack(images))
                    grain.read(frames)
                    low_res = torch.cat((low_res, self._enlarge(frames, geometry)))
                if n_missing := len(group) - len(images):
                    low_res = torch.cat((low_res, _repeat_last(low_res, n_missing)))
                stream.project(SignedFrames(low_res[-len(group) :]))
            emit, low_res = low_res[: len(chunk.emit)], low_res[len(chunk.emit) :]
            chunk_noise = noise.draw(chunk, stream.noise_shape(chunk))

            n_emitted = chunk.emit.start
            for decoded in stream.push(chunk, SignedFrames(emit), upload(chunk_noise, self.network.device)):
                # Frames past the clip's end repeat its last one and are not wanted.
                n_new = min(len(decoded), n_read - n_emitted)
                begin = n_emitted - chunk.emit.start
                finished = finish_frames(
                    decoded[:n_new][crop],
                    emit[begin : begin + n_new][crop],
                    settings,
                    grain,
                    first.dtype,
                    has_kernels=self.network.has_kernels,
                )
                del decoded  # While the caller has the frames, their floats need not stay.
                n_unwanted = max(0, n_warm_up - n_emitted)
                n_emitted += n_new
                if n_unwanted < n_new:
                    yield from downloads.put(finished[n_unwanted:])
                del finished
                if n_emitted == n_read:
                    yield from downloads.flush()
                    return

    def _enlarge(self, frames: Tensor, geometry: Geometry) -> Tensor:
        """Enlarged frames as levels on the device."""
        images = upload(frames, self.network.device)
        return enlarge_levels(images, geometry, has_kernels=self.network.has_kernels)


def _repeat_last(low_res: Tensor, n_frames: int) -> Tensor:
    """The last frame so many times: what a clip continues with past its end."""
    return low_res[-1:].expand(n_frames, -1, -1, -1)


def _checked(frames: Iterable[Image]) -> Iterator[Image]:
    """Pass frames on as long as they are RGB arrays like the first."""
    first: Image | None = None
    for i_frame, image in enumerate(frames):
        first = image if first is None else first
        is_rgb = isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == 3 and min(image.shape) > 0
        if not is_rgb or image.dtype not in (np.uint8, np.uint16):
            raise InputError(
                f"frame {i_frame} is not an RGB picture of shape (height, width, 3) in uint8 or uint16.",
                "Convert the frames before they are upscaled.",
            )
        if image.shape != first.shape or image.dtype != first.dtype:
            raise InputError(
                f"frame {i_frame} is {image.shape[1]}x{image.shape[0]} {image.dtype}, the first frame was "
                f"{first.shape[1]}x{first.shape[0]} {first.dtype}.",
                "Split the clip where its size changes.",
            )
        yield image
