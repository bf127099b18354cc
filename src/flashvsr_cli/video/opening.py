"""Opening containers: which stream is the video, which decoder reads it, what its header promises."""

from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import av
from av.error import EOFError as AvEOFError
from av.error import FFmpegError
from av.format import Flags, formats_available
from av.stream import Discard, Disposition

from flashvsr_cli.errors import InputError
from flashvsr_cli.options import InputOptions
from flashvsr_cli.video import truncation
from flashvsr_cli.video.faults import input_error
from flashvsr_cli.video.pipes import PipeInput
from flashvsr_cli.video.tracks import COPIED_KINDS, describe_track, is_cover

NOT_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails
ADVICE_NOT_MEDIA = "Give a video file, an image, a folder of images, or `-` for standard input."
# A playlist can name any file or address, and a live one is asked again for ever.
REFERRING_FORMATS = {"hls", "dash", "webm_dash_manifest", "concat", "imf", "sdp", "rtp", "rtsp", "sap"} | {
    *("image2", "image2pipe", "lavfi", "alsa", "oss", "fbdev", "kmsgrab", "x11grab", "video4linux2", "v4l2")
}
PLAYLISTS = ("hls", "dash", "concat")
NETWORK_PROTOCOLS = "http,https,httpproxy,tcp,tls"
# FFmpeg's own decoders of these read the picture and leave its transparency.
ALPHA_DECODERS = {"vp9": "libvpx-vp9", "vp8": "libvpx"}


def open_container(name: str, media: Path | PipeInput, options: InputOptions) -> av.container.InputContainer:
    """Opens without following playlists or references to the network, unless the options allow playlists.

    Raises:
        InputError: if it is no media.
    """
    limits = {"max_pixels": str(options.max_pixels)}
    allowed = {"protocol_whitelist": "file,crypto,data", "format_whitelist": _self_contained_formats()}
    if options.allow_playlists:
        allowed["protocol_whitelist"] += f",{NETWORK_PROTOCOLS}"
        allowed["format_whitelist"] += f",{','.join(PLAYLISTS)}"
    try:
        if isinstance(media, PipeInput):
            pipe_only = {**allowed, "protocol_whitelist": "data"}
            return av.open(media, "r", options=limits, container_options=pipe_only, metadata_errors="replace")
        return av.open(f"file:{media}", "r", options=limits, container_options=allowed, metadata_errors="replace")
    except (av.error.InvalidDataError, AvEOFError) as error:
        if isinstance(media, PipeInput):
            raise not_streamable(name) from error
        raise InputError(f"{name} is not a media file, or it is cut short.", ADVICE_NOT_MEDIA) from error
    except av.error.ArgumentError as error:
        raise InputError(
            f"{name} is a playlist or an otherwise unreadable kind of file.",
            "Give the file that holds the pictures, or --allow-playlists if you trust the list.",
        ) from error
    except (FFmpegError, OSError, ValueError) as error:
        raise input_error(name, error) from error


@lru_cache(maxsize=1)
def _self_contained_formats() -> str:
    """The demuxers allowed: those of files that hold their media, and do not name other places to look."""
    return ",".join(sorted(formats_available - REFERRING_FORMATS))


def not_streamable(name: str) -> InputError:
    """The error for a pipe that carries no streamable media."""
    return InputError(
        f"{name} is not media that can be read from a pipe, or it is cut short.",
        "Send a streamable container (Matroska, MPEG-TS, fragmented MP4), or save it to a file first.",
    )


def pick_stream(
    name: str, container: av.container.InputContainer, options: InputOptions, notices: list[str]
) -> av.VideoStream:
    """The video to upscale: the default one, else the first.

    Raises:
        InputError: if there is none, or none that can be decoded, or its pictures are larger than allowed.
    """
    videos = [s for s in container.streams.video if not s.disposition & NOT_PICTURES]
    if not videos:
        kinds = sorted({s.type for s in container.streams})
        raise InputError(f"{name} has no video track (it has: {', '.join(kinds) or 'nothing'}).", ADVICE_NOT_MEDIA)
    stream = next((s for s in videos if s.disposition & Disposition.default), videos[0])
    if stream.codec_context is None:
        raise InputError(f"No decoder for the video track of {name} is available.", "Convert it to H.264 first.")
    check_size(name, (stream.codec_context.height, stream.codec_context.width), options)
    if len(videos) > 1:
        notices.append(f"{name} has {len(videos)} video tracks; track {stream.index} is used.")
    stream.codec_context.options = {"max_pixels": str(options.max_pixels)}
    stream.thread_type = "AUTO"
    return stream


def check_size(name: str, size: tuple[int, int], options: InputOptions) -> None:
    """Refuses pictures that would fill the memory before one of them is decoded.

    Raises:
        InputError: if height times width is above the limit.
    """
    if size[0] * size[1] > options.max_pixels:
        raise InputError(
            f"{name} has pictures of {size[1]}x{size[0]}, more than the limit of {options.max_pixels:,} pixels.",
            "If that is meant, raise the limit with --max-pixels.",
        )


def pick_decoder(stream: av.VideoStream) -> Any:
    """What decodes a stream: its own context, or one that reads transparency too."""
    context: Any = stream.codec_context
    other = ALPHA_DECODERS.get(context.name)
    if other is None or stream.metadata.get("alpha_mode") != "1":
        return context
    decoder = av.CodecContext.create(other, "r")
    decoder.extradata = context.extradata
    decoder.options = context.options
    return decoder


def pick_tracks(
    name: str, container: av.container.InputContainer, video: av.VideoStream, notices: list[str]
) -> list[Any]:
    """The streams that travel beside the pictures; the others are not read."""
    tracks = []
    for stream in container.streams:
        if stream is video:
            continue
        if stream.type in COPIED_KINDS or is_cover(stream):
            tracks.append(stream)
            continue
        stream.discard = Discard.all
        if stream.type != "video" and not _is_written_anew(container, stream):
            notices.append(f"The {describe_track(stream).describe()} of {name} is left out.")
    return tracks


def _is_written_anew(container: av.container.InputContainer, stream: Any) -> bool:
    """Whether a track of QuickTime says what the output's container is told otherwise: timecode, chapter titles."""
    is_titles = bool(container.chapters()) and stream.name == "bin_data"
    return truncation.is_indexed(container.format.name) and ("timecode" in stream.metadata or is_titles)


def has_times(container: av.container.InputContainer) -> bool:
    """Whether the format states when pictures are shown; raw streams of H.264 and the like do not."""
    return not container.format.flags & cast(int, Flags.no_timestamps.value)


def stated_duration(stream: av.VideoStream, container: av.container.InputContainer) -> Fraction | None:
    """Seconds that the video is said to last."""
    if stream.duration is not None and stream.time_base is not None:
        return stream.duration * Fraction(stream.time_base)
    return None if container.duration is None else Fraction(container.duration, av.time_base)


def count_frames(
    stream: av.VideoStream,
    container: av.container.InputContainer,
    duration: Fraction | None,
    rate: Fraction | None,
) -> tuple[int | None, bool]:
    """How many frames the stream promises, and whether an index says so."""
    if truncation.is_indexed(container.format.name) and stream.frames and len(stream.index_entries):
        return sum(not entry.is_discard for entry in stream.index_entries), True
    if stream.frames:
        return stream.frames, False
    if duration and rate:
        return max(1, round(duration * rate)), False
    return None, False
