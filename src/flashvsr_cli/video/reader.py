"""Where frames come from: one function from a location to a `Source`."""

import os
import stat
import sys
from pathlib import Path

from flashvsr_cli.errors import InputError
from flashvsr_cli.options import InputOptions
from flashvsr_cli.video.container_reader import ContainerSource
from flashvsr_cli.video.faults import input_error
from flashvsr_cli.video.image_reader import ImageSource, expand_pattern, is_pattern, list_folder
from flashvsr_cli.video.images import ANIMATION_SEARCH_BYTES, recognise_image
from flashvsr_cli.video.pipes import PipeInput
from flashvsr_cli.video.raw_reader import RawSource, Y4mSource
from flashvsr_cli.video.source import Source
from flashvsr_cli.video.y4m import MAGIC

STANDARD_INPUT = "-"
STANDARD_INPUT_NAME = "standard input"


def open_source(location: str, options: InputOptions | None = None) -> Source:
    """Opens an input; nothing but its header and first frame is read.

    Args:
        location: a video file, an image file, a folder of images, a printf or glob pattern of images, or a named pipe
            or "-" for standard input (Y4M, raw rgb24 if `options.raw_size` is given, or a container that can be
            streamed).
        options: what the input cannot say about itself.

    Raises:
        InputError: if it is missing, empty, unreadable, no media, without video, or cut short.
    """
    options = options or InputOptions()
    if location == STANDARD_INPUT:
        return _open_stream(STANDARD_INPUT_NAME, PipeInput(sys.stdin.fileno(), STANDARD_INPUT_NAME), options)
    path = Path(location)
    if is_pattern(location):
        return ImageSource(location, expand_pattern(location), options, "images")
    try:
        if path.is_dir():
            return ImageSource(location, list_folder(path), options, "images")
        return _open_file(location, path, options)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise InputError(f"{location} does not exist.", "Check the spelling of the input.") from error
        raise input_error(location, error) from error


def _open_file(name: str, path: Path, options: InputOptions) -> Source:
    if stat.S_ISFIFO(path.stat().st_mode):
        return _open_for_streaming(name, path, options)  # what is read from a pipe cannot be read again
    with path.open("rb") as file:
        head = file.read(ANIMATION_SEARCH_BYTES)
    if not head and path.is_file():
        raise InputError(f"{name} is empty.", "Get a complete copy of the file.")
    if options.raw_size is not None or head.startswith(MAGIC):
        return _open_for_streaming(name, path, options)
    if recognise_image(head) is not None:
        return ImageSource(name, [path], options, "image")
    return ContainerSource(name, path.absolute(), options)


def _open_for_streaming(name: str, path: Path, options: InputOptions) -> Source:
    stream = PipeInput(os.open(path, os.O_RDONLY), name, closes_fd=True)
    try:
        return _open_stream(name, stream, options)
    except BaseException:
        stream.close()
        raise


def _open_stream(name: str, stream: PipeInput, options: InputOptions) -> Source:
    if options.raw_size is not None:
        return RawSource(name, stream, options)
    head = stream.peek(len(MAGIC))
    if not head:
        raise InputError(f"{name} is empty.", "Check the program that sends the video.")
    if head == MAGIC:
        return Y4mSource(name, stream, options)
    return ContainerSource(name, stream, options)
