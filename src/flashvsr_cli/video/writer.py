"""Where frames go: one function from a location to a `Sink`."""

import sys
from pathlib import Path

from flashvsr_cli.errors import OutputError, UsageError
from flashvsr_cli.geometry import Size
from flashvsr_cli.options import EncodeOptions
from flashvsr_cli.video.container_writer import ContainerSink
from flashvsr_cli.video.encoding import find_muxer, plan_encoding
from flashvsr_cli.video.faults import output_faults
from flashvsr_cli.video.formats import IMAGE_SUFFIXES, Y4M_SUFFIX
from flashvsr_cli.video.image_reader import NUMBER_FIELD
from flashvsr_cli.video.image_writer import ImageFolderSink, ImageSink, pattern_names, picture_names
from flashvsr_cli.video.pipes import PipeOutput
from flashvsr_cli.video.raw_writer import RawSink, Y4mSink
from flashvsr_cli.video.sink import Sink
from flashvsr_cli.video.source import Source
from flashvsr_cli.video.targets import ByteTarget, PartFile, prepare_target
from flashvsr_cli.video.track_writer import TrackChoices

STANDARD_OUTPUT = "-"
STANDARD_OUTPUT_NAME = "standard output"
FOLDER_SUFFIX = ".png"


def open_sink(
    location: str, source: Source, size: Size, options: EncodeOptions | None = None, *, overwrite: bool = False
) -> Sink:
    """Opens an output for frames of a source; what cannot work fails here, before any frame is computed.

    Args:
        location: a video file, an image file, a folder (existing, or ending in "/") or printf pattern of images, or
            "-" for standard output.
        source: gives times, colours and tracks; its iteration has not begun.
        size: (height, width) of the frames to come.
        options: how to encode.
        overwrite: whether files may be replaced that appear before the output is complete, or pictures of a folder.

    Raises:
        OutputError: if the place, container or encoder cannot take the frames or an audio track.
        UsageError: if the options contradict the output.
    """
    sink = _open(location, source, size, options or EncodeOptions(), overwrite=overwrite)
    if source.info.profile and not isinstance(sink, ImageSink | ImageFolderSink):
        sink.notices.append(f"The colour profile of {source.info.name} is left out: only pictures can have one.")
    return sink


def _open(location: str, source: Source, size: Size, options: EncodeOptions, *, overwrite: bool) -> Sink:
    _check_size(location, size, options)
    if location == STANDARD_OUTPUT:
        return _open_pipe(source, size, options)
    if options.pipe_format is not None:
        raise UsageError(f"A pipe format has no meaning for {location}.", "Leave it out, or write to `-`.")
    path = Path(location)
    suffix = path.suffix.lower()
    is_folder = location.endswith("/") or path.is_dir() or (not suffix and source.info.kind == "images")
    if is_folder or suffix in IMAGE_SUFFIXES:
        refuse_encoder_options(f"{location} holds pictures", options)
    if is_folder:
        names = picture_names(source.info, FOLDER_SUFFIX)
        folder = _prepare_folder(location)
        return ImageFolderSink(location, folder, names, FOLDER_SUFFIX, source, size, overwrite=overwrite)
    if suffix in IMAGE_SUFFIXES:
        if NUMBER_FIELD.search(path.name):
            names = pattern_names(path.name, source.info.first_number if source.info.kind == "images" else None)
            folder = _prepare_folder(str(path.parent))
            return ImageFolderSink(location, folder, names, suffix, source, size, overwrite=overwrite)
        return ImageSink(location, prepare_target(location), source, size, overwrite=overwrite)
    if not suffix:
        raise OutputError(
            f"{location} has no extension that says what to write.", "Use for instance .mp4, .mkv or .png."
        )
    return _open_video(location, suffix, source, size, options, overwrite=overwrite)


def _open_video(
    location: str, suffix: str, source: Source, size: Size, options: EncodeOptions, *, overwrite: bool
) -> Sink:
    target = prepare_target(location)
    if suffix == Y4M_SUFFIX:
        refuse_encoder_options(f"{location} is uncompressed", options)
        with output_faults(location):
            file = PartFile(target, overwrite=overwrite)
        try:
            return Y4mSink(location, file, source, size)
        except BaseException:
            file.abort()
            raise
    muxer = find_muxer(location)
    encoding = plan_encoding(source.info, size, suffix.removeprefix("."), options)
    with output_faults(location):
        file = PartFile(target, overwrite=overwrite)
    return ContainerSink(location, file, muxer, source, size, encoding, TrackChoices.of(options))


def _open_pipe(source: Source, size: Size, options: EncodeOptions) -> Sink:
    followed = {"y4m": "y4m", "rgb24": "rgb24"}.get(source.info.kind, "matroska")
    target: ByteTarget = PipeOutput(sys.stdout.fileno(), STANDARD_OUTPUT_NAME)
    pipe_format = options.pipe_format or followed
    if pipe_format == "matroska":
        encoding = plan_encoding(source.info, size, "mkv", options)
        return ContainerSink(
            STANDARD_OUTPUT_NAME, target, pipe_format, source, size, encoding, TrackChoices.of(options)
        )
    refuse_encoder_options(f"{STANDARD_OUTPUT_NAME} is uncompressed", options)
    if pipe_format == "y4m":
        return Y4mSink(STANDARD_OUTPUT_NAME, target, source, size)
    return RawSink(STANDARD_OUTPUT_NAME, target, source, size)


def _check_size(location: str, size: Size, options: EncodeOptions) -> None:
    if size[0] * size[1] > options.max_pixels:
        raise OutputError(
            f"{location} would have pictures of {size[1]}x{size[0]}, more than the limit of "
            f"{options.max_pixels:,} pixels.",
            "Use a smaller --scale, or raise the limit with --max-pixels.",
        )


def refuse_encoder_options(fact: str, options: EncodeOptions) -> None:
    """Refuse what is said about an encoder where there is none; `fact` is why, for the message.

    Raises:
        UsageError: something is said.
    """
    if options.has_encoder_options:
        raise UsageError(
            f"{fact}: encoder options have no meaning there.", "Leave them out, or write a video such as Matroska."
        )


def _prepare_folder(location: str) -> Path:
    folder = Path(location).resolve()
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{location} exists and is not a folder.", "Choose another output.")
    if not folder.parent.is_dir():
        raise OutputError(f"The folder {folder.parent} does not exist.", "Create it, or choose another output.")
    return folder
