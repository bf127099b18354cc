"""What a machine has for upscaling, finding by finding."""

import platform
import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from flashvsr_cli import __version__, weights_status

PACKAGES = ("torch", "triton", "av", "numpy", "huggingface-hub", "safetensors", "typer", "rich")
ENCODERS = {
    "libx264": "H.264",
    "libx265": "H.265",
    "libsvtav1": "AV1",
    "libvpx-vp9": "VP9",
    "ffv1": "lossless",
    "prores_ks": "ProRes",
}
CARD_ENCODERS = {"h264_nvenc": "H.264", "hevc_nvenc": "H.265", "av1_nvenc": "AV1"}
GIB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        subject: what.
        state: "ok", "note" (works without it) or "missing" (something will fail).
        detail: what was found.
        next_step: how to get what is missing.
    """

    subject: str
    state: Literal["ok", "note", "missing"]
    detail: str
    next_step: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def examine() -> list[Finding]:
    """Look at everything; needs no network."""
    return [*_versions(), *_devices(), *_codecs(), *_weights()]


def _versions() -> list[Finding]:
    findings = [
        Finding("flashvsr-cli", "ok", __version__),
        Finding("Python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
    ]
    for name in PACKAGES:
        try:
            findings.append(Finding(name, "ok", version(name)))
        except PackageNotFoundError:
            state: Literal["note", "missing"] = "note" if name == "triton" else "missing"
            findings.append(Finding(name, state, "not installed", f"pip install {name}"))
    return findings


def _devices() -> list[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        return [_broken("torch", error)]
    findings = [Finding("CPU", "ok", f"{torch.get_num_threads()} threads")]
    if not torch.cuda.is_available():
        built = torch.version.cuda
        advice = "Check the driver with nvidia-smi." if built else "Install a CUDA build of torch to use an NVIDIA GPU."
        detail = f"no device found (torch is {'built for CUDA ' + built if built else 'a CPU build'})"
        return [*findings, Finding("CUDA", "note", detail, advice)]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        detail = (
            f"{properties.name}, compute {properties.major}.{properties.minor}, "
            f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
        )
        findings.append(Finding(f"cuda:{index}", "ok", detail))
    return findings


def _codecs() -> list[Finding]:
    try:
        import av
        from av.codec import Codec
    except (ImportError, OSError) as error:
        return [_broken("av", error)]
    findings = [Finding("FFmpeg", "ok", f"{av.ffmpeg_version_info}, inside PyAV")]
    for name, what in ENCODERS.items():
        try:
            Codec(name, "w")
        except ValueError:
            advice = "Install PyAV's binary wheel: pip install --upgrade av"
            findings.append(Finding(name, "note", f"{what}: not in this FFmpeg", advice))
        else:
            findings.append(Finding(name, "ok", what))
    return [*findings, *(_card_encoder(name, what) for name, what in CARD_ENCODERS.items()), _card_decoder()]


def _card_encoder(name: str, what: str) -> Finding:
    """Whether an encoder of the graphics card opens here; that FFmpeg was built with it says nothing about the card."""
    from flashvsr_cli.video.card_encoders import ON_THE_CPU, why_not

    cause = why_not(name)
    if cause is not None:
        return Finding(name, "note", f"{what} on an NVIDIA GPU: {cause}; {ON_THE_CPU[name]} encodes in its place")
    return Finding(name, "ok", f"{what} on an NVIDIA GPU, with --codec {name}")


def _card_decoder() -> Finding:
    """Whether the graphics card's decoder could be used. Nothing uses it yet, so a card without it loses nothing."""
    import av
    from av.codec.hwaccel import HWAccel, hwdevices_available
    from av.error import FFmpegError

    if "cuda" not in hwdevices_available():
        return Finding("NVDEC", "note", "not in this FFmpeg; inputs are decoded on the CPU")
    try:
        av.CodecContext.create("h264", "r", hwaccel=HWAccel("cuda"))
    except (FFmpegError, OSError, RuntimeError, ValueError):
        return Finding("NVDEC", "note", "does not open on this machine; inputs are decoded on the CPU")
    return Finding("NVDEC", "note", "opens on this machine, and is not used: inputs are decoded on the CPU")


def _broken(package: str, error: Exception) -> Finding:
    """A package that is installed and cannot be imported."""
    return Finding(
        f"import {package}", "missing", " ".join(str(error).split()), f"pip install --force-reinstall {package}"
    )


def _weights() -> list[Finding]:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    nearest = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(nearest).free
    findings = [Finding("Hub cache", "ok", f"{cache}, {free / GIB:.1f} GiB free")]
    for status in weights_status.list_models():
        name = f"model {status.model.name}"
        n_here = sum(file.state != "missing" for file in status.files)
        if n_here == len(status.files):
            findings.append(Finding(name, "ok", f"all files here ({n_here})"))
        else:
            advice = f"upscale downloads what it needs; to do it now: flashvsr weights download {status.model.name}"
            findings.append(Finding(name, "note", f"{n_here} of {len(status.files)} files here", advice))
    return findings
