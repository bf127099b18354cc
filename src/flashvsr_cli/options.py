"""What a user can choose, as frozen dataclasses in the user's units, each checked once when it is made."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, get_args

from flashvsr_cli.errors import UsageError

Backend = Literal["auto", "torch", "triton"]
ColorFix = Literal["adain", "wavelet", "none"]
CachePrecision = Literal["model", "fp8"]
Decoder = Literal["tiny", "full"]
SceneCut = Literal["auto", "off"]
DtypeName = Literal["float32", "bfloat16", "float16"]
Version = Literal["v1", "v1.1"]
Deinterlace = Literal["auto", "on", "off"]
AudioChoice = Literal["copy", "none", "transcode"]
SubtitleChoice = Literal["copy", "none", "transcode"]
Purpose = Literal["archive", "share", "edit"]

MAX_INPUT_PIXELS, MAX_OUTPUT_PIXELS = 2**26, 2**28


def _require(condition: bool, message: str, next_step: str) -> None:
    if not condition:
        raise UsageError(message, next_step)


def _require_choice(what: str, value: str, choices: Any) -> None:
    known = get_args(choices)
    _require(value in known, f"{what} {value!r} is unknown.", f"Use one of {', '.join(known)}.")


@dataclass(frozen=True)
class Settings:
    """How the model computes; the same for every clip.

    Attributes:
        sparse_ratio: attention kept, relative to 768x1280 (2.0 stable, 1.5 faster).
        kv_ratio: pairs of latent frames remembered from earlier chunks.
        local_range: side of the square of windows a window may look at (11 smoother, 9 sharper).
        color_fix: how the output's colours are tied to the input's.
        kv_precision: how keys and values are remembered: as the model computes, or in e4m3 at half the memory.
        seed: seeds the noise of every chunk together with the chunk's index.
        strength: how much of the model is in the picture: 1 is all, 0 the plain enlargement.
        grain: how much of the source's own grain is laid over the picture, 1 being as strong as measured.
        scene_cut: "auto" starts the model anew at hard cuts, "off" treats the clip as one shot.
    """

    sparse_ratio: float = 2.0
    kv_ratio: float = 3.0
    local_range: int = 11
    color_fix: ColorFix = "adain"
    kv_precision: CachePrecision = "model"
    seed: int = 0
    strength: float = 1.0
    grain: float = 0.0
    scene_cut: SceneCut = "off"

    def __post_init__(self) -> None:
        fractions = ("sparse_ratio", "kv_ratio", "strength", "grain")
        for name, kind in (*((name, float) for name in fractions), ("local_range", int), ("seed", int)):
            value = getattr(self, name)
            is_number = isinstance(value, (int, kind)) and not isinstance(value, bool)
            _require(is_number, f"{name} {value!r} is not a number of type {kind.__name__}.", "See the defaults.")
        _require(
            math.isfinite(self.sparse_ratio) and self.sparse_ratio > 0,
            f"sparse ratio {self.sparse_ratio} is not a positive number.",
            "Use 2.0, or 1.5 for more speed.",
        )
        _require(
            math.isfinite(self.kv_ratio) and 0 <= self.kv_ratio <= 64,
            f"kv ratio {self.kv_ratio} is outside 0 to 64.",
            "Use 3.0, the value the model was trained with.",
        )
        _require(
            self.local_range >= 1,
            f"local range {self.local_range} is below 1.",
            "Use 11, or 9 for sharper detail.",
        )
        _require(
            self.color_fix in get_args(ColorFix),
            f"colour fix {self.color_fix!r} is unknown.",
            f"Use one of {', '.join(get_args(ColorFix))}.",
        )
        _require(
            self.kv_precision in get_args(CachePrecision),
            f"kv precision {self.kv_precision!r} is unknown.",
            f"Use one of {', '.join(get_args(CachePrecision))}.",
        )
        _require(
            0 <= self.seed < 2**63,
            f"seed {self.seed} is outside 0 to 2^63-1.",
            "Use a whole number such as 0.",
        )
        for name in ("strength", "grain"):
            _require(0 <= getattr(self, name) <= 1, f"{name} {getattr(self, name)} is outside 0 to 1.", "Use e.g. 0.5.")
        _require_choice("scene cut", self.scene_cut, SceneCut)


@dataclass(frozen=True)
class ModelOptions:
    """Which weights to load, and where.

    Attributes:
        model: "auto", a name in weights.toml, a folder in the released layout, or a .safetensors of this project.
        version: which cache rule the low-resolution projection follows; None takes what the model says.
        decoder: "tiny" or "full".
        device: "auto", "cpu", "cuda" or "cuda:1".
        dtype: None is bfloat16 on CUDA and float32 on the CPU.
        fp8: whether the transformer's products take e4m3 numbers (Ada, Hopper and newer).
        backend: what computes the transformer; "auto" is the fastest that runs.
    """

    model: str = "auto"
    version: Version | None = None
    decoder: Decoder = "tiny"
    device: str = "auto"
    dtype: DtypeName | None = None
    fp8: bool = False
    backend: Backend = "auto"


@dataclass(frozen=True)
class InputOptions:
    """What a stream cannot say about itself.

    Attributes:
        raw_size: (height, width) of raw rgb24 frames on stdin; None for inputs with a header.
        frame_rate: overrides or supplies that of inputs that have none (raw frames, raw streams, image sequences).
        deinterlace: "auto" turns pictures that are marked as two fields into one frame each; "on" all, "off" none.
        start, end: seconds after the first frame; frames shown in [start, end) are read. None is the clip's own.
        max_frames: frames to read at most.
        max_pixels: larger pictures are refused before they are decoded.
        allow_playlists: whether HLS, DASH and concat lists are followed, to other files and over the network.
    """

    raw_size: tuple[int, int] | None = None
    frame_rate: Fraction | None = None
    deinterlace: Deinterlace = "auto"
    start: Fraction | None = None
    end: Fraction | None = None
    max_frames: int | None = None
    max_pixels: int = MAX_INPUT_PIXELS
    allow_playlists: bool = False

    def __post_init__(self) -> None:
        if self.raw_size is not None:
            _require(min(self.raw_size) >= 1, f"input size {self.raw_size} is empty.", "Give it as WIDTHxHEIGHT.")
        if self.frame_rate is not None:
            _require(self.frame_rate > 0, f"frame rate {self.frame_rate} is not positive.", "Use e.g. 30000/1001.")
        _require_choice("deinterlacing", self.deinterlace, Deinterlace)
        start, end = self.start or Fraction(0), self.end
        _require(start >= 0, f"start {float(start):g} s is negative.", "Count from the first frame, which is at 0.")
        _require(
            end is None or end > start,
            f"end {float(end or 0):g} s is not after the start at {float(start):g} s.",
            "Give a later end.",
        )
        _require(self.max_frames is None or self.max_frames >= 1, "No frames are asked for.", "Ask for one at least.")


@dataclass(frozen=True)
class EncodeOptions:
    """How the output is encoded.

    Attributes:
        codec: name of an FFmpeg encoder; None chooses by the output's container.
        crf: constant quality, in the encoder's own scale; None leaves the default of this tool.
        preset: the encoder's speed preset; None leaves the default of this tool.
        pix_fmt: FFmpeg pixel format; None chooses by source depth, size and codec.
        pipe_format: what to write to stdout: "y4m", "rgb24" or "matroska"; None follows the input.
        purpose: chooses codec, quality and format together, where those are not given: "archive" is lossless,
            "share" plays everywhere, "edit" is made for editing programs.
        encoder_options: (name, value) of the encoder's own options; they win over everything else.
        audio: "copy" the tracks, leave out all ("none"), or "transcode" all to AAC or Opus.
        subtitles: "copy" the tracks, leave out all ("none"), or "transcode" the text the container cannot hold as is.
        max_pixels: larger pictures are refused before any is computed.
    """

    codec: str | None = None
    crf: float | None = None
    preset: str | None = None
    pix_fmt: str | None = None
    pipe_format: Literal["y4m", "rgb24", "matroska"] | None = None
    purpose: Purpose | None = None
    encoder_options: tuple[tuple[str, str], ...] = ()
    audio: AudioChoice = "copy"
    subtitles: SubtitleChoice = "copy"
    max_pixels: int = MAX_OUTPUT_PIXELS

    @property
    def has_encoder_options(self) -> bool:
        """Whether anything is said about the video encoder, which pictures and uncompressed streams have none of."""
        texts = (self.codec, self.preset, self.pix_fmt, self.purpose, self.encoder_options)
        return any(texts) or self.crf is not None

    def __post_init__(self) -> None:
        _require_choice("audio", self.audio, AudioChoice)
        _require_choice("subtitles", self.subtitles, SubtitleChoice)
        if self.purpose is not None:
            _require_choice("purpose", self.purpose, Purpose)
        for name, _ in self.encoder_options:
            _require(bool(name), "An encoder option has no name.", "Give it as NAME=VALUE.")
