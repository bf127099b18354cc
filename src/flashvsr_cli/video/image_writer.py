"""Pictures as sinks: one file, a folder, or a numbered sequence."""

import unicodedata
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av

from flashvsr_cli.errors import OutputError
from flashvsr_cli.geometry import Size
from flashvsr_cli.video.alpha import AlphaEnlarger
from flashvsr_cli.video.faults import output_faults
from flashvsr_cli.video.frame import Frame
from flashvsr_cli.video.image_reader import number_into
from flashvsr_cli.video.images import BT601_FULL, IMAGE_FORMATS, open_image_encoder
from flashvsr_cli.video.info import SourceInfo
from flashvsr_cli.video.pixel_format import describe_pixel_format
from flashvsr_cli.video.pixels import FromRgb
from flashvsr_cli.video.profiles import FORMATS_WITH_PROFILE, add_profile
from flashvsr_cli.video.sink import SinkBase
from flashvsr_cli.video.source import Source
from flashvsr_cli.video.targets import PartFile, PartFolder

NUMBERED_NAME = "frame-{:06d}"
FIRST_NUMBER = 1


class _PictureEncoder:
    """Turns frames of one size into picture files' bytes; results come in order, some frames late."""

    def __init__(self, suffix: str, size: Size, *, is_deep: bool, has_alpha: bool, profile: bytes | None) -> None:
        image_format = IMAGE_FORMATS[suffix.lower()]
        self.codec = image_format.codec
        self._format = self.codec.removeprefix("lib")
        self._profile = profile
        shallow, deep = image_format.pix_fmt, image_format.deep_pix_fmt
        if has_alpha and image_format.alpha_pix_fmts:
            shallow, deep = image_format.alpha_pix_fmts
        self.pix_fmt = (deep if is_deep else None) or shallow
        self._enlarge_alpha = AlphaEnlarger(size)
        self._encoder = open_image_encoder(image_format, self.pix_fmt, size[1], size[0])
        self._from_rgb = FromRgb(self.pix_fmt, BT601_FULL)
        self._n_sent = 0

    @property
    def keeps_alpha(self) -> bool:
        """Whether the files have an alpha channel."""
        return describe_pixel_format(self.pix_fmt).has_alpha

    @property
    def keeps_profile(self) -> bool:
        """Whether the files can have an ICC profile."""
        return self._format in FORMATS_WITH_PROFILE

    def encode(self, frame: Frame | None) -> list[bytes]:
        """The files that are ready; with None, all that are left."""
        files = [bytes(packet) for packet in self._encode(frame)]
        if self._profile is None or not self.keeps_profile:
            return files
        return [add_profile(file, self._format, self._profile) for file in files]

    def _encode(self, frame: Frame | None) -> list[av.Packet]:
        if frame is None:
            return self._encoder.encode(None)
        picture = self._from_rgb(frame.image, self._enlarge_alpha(frame.alpha) if self.keeps_alpha else None)
        picture.pts = self._n_sent
        picture.time_base = self._encoder.time_base
        self._n_sent += 1
        return self._encoder.encode(picture)


class _PictureSink(SinkBase):
    """What both share: the encoder and its facts."""

    def __init__(self, name: str, suffix: str, source: Source, size: Size) -> None:
        is_deep = source.info.bit_depth > 8
        super().__init__(size, is_deep=is_deep)
        self._name = name
        self._n_bytes = 0
        with output_faults(name):
            self._encoder = _PictureEncoder(
                suffix, size, is_deep=is_deep, has_alpha=source.info.has_alpha, profile=source.info.profile
            )
        if source.info.has_alpha and not self._encoder.keeps_alpha:
            self.notices.append(f"{suffix} has no transparency: it is left out. PNG, TIFF and WebP keep it.")
        if source.info.profile and not self._encoder.keeps_profile:
            self.notices.append(f"{suffix} has no colour profile: it is left out. PNG, JPEG, TIFF and WebP keep it.")
        stored_bits = describe_pixel_format(self._encoder.pix_fmt).bits
        if is_deep and stored_bits <= 8:
            self.notices.append(
                f"{suffix} stores 8 bits; the source has {source.info.bit_depth}. PNG and TIFF keep 16."
            )
        if source.tracks.streams:
            self.notices.append(f"{name} holds pictures only: the other tracks are left out.")

    def facts(self) -> dict[str, Any]:
        """What was written."""
        return {
            "name": self._name,
            "codec": self._encoder.codec,
            "pix_fmt": self._encoder.pix_fmt,
            "frames": self.n_frames,
            "bytes": self._n_bytes,
        }


class ImageSink(_PictureSink):
    """Writes one picture.

    Raises:
        OutputError: if the source has more frames than one.
    """

    def __init__(self, name: str, target: Path, source: Source, size: Size, *, overwrite: bool = False) -> None:
        super().__init__(name, target.suffix, source, size)
        self._refuse_many(source.info.n_frames or 1)
        with output_faults(name):
            self._file = PartFile(target, overwrite=overwrite)

    def write(self, frame: Frame) -> None:
        """Writes the picture."""
        self._refuse_many(self.n_frames + 1)
        with output_faults(self._name):
            for file in (*self._encoder.encode(frame), *self._encoder.encode(None)):
                self._file.write(file)
        self.n_frames += 1

    def commit(self) -> None:
        """Gives the file its name."""
        if not self.n_frames:
            raise OutputError(f"{self._name} would have no picture.", "Check the input.")
        with output_faults(self._name):
            self._file.commit()
        self._n_bytes = self._file.n_bytes

    def abort(self) -> None:
        """Removes the temporary unless it was committed."""
        self._file.abort()

    def _refuse_many(self, n_frames: int) -> None:
        if n_frames > 1:
            raise OutputError(
                f"{self._name} is one picture, but the input has more frames.",
                "Give a folder (ending in /) or a pattern such as frame-%05d.png.",
            )


class ImageFolderSink(_PictureSink):
    """Writes a sequence of pictures; all of them appear when it is complete.

    Args:
        name: what messages call the output.
        folder: where they go; its parent exists.
        names: file names in order, each with the same suffix; only as many as needed are taken.
        overwrite: whether files of these names may be replaced.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        names: Iterator[str],
        suffix: str,
        source: Source,
        size: Size,
        *,
        overwrite: bool = False,
    ) -> None:
        super().__init__(name, suffix, source, size)
        self._names = names
        self._pending: deque[str] = deque()
        with output_faults(name):
            self._folder = PartFolder(folder, overwrite=overwrite)

    def write(self, frame: Frame) -> None:
        """Encodes a picture."""
        self._pending.append(next(self._names))
        with output_faults(self._name):
            self._store(self._encoder.encode(frame))
        self.n_frames += 1

    def commit(self) -> None:
        """Writes what the encoder still holds and gives all files their names."""
        if not self.n_frames:
            raise OutputError(f"{self._name} would have no pictures.", "Check the input.")
        with output_faults(self._name):
            self._store(self._encoder.encode(None))
            self._folder.commit()

    def abort(self) -> None:
        """Removes the temporary folder unless it was committed."""
        self._folder.abort()

    def _store(self, files: list[bytes]) -> None:
        for data in files:
            path = self._folder.path / self._pending.popleft()
            path.write_bytes(data)
            self._n_bytes += len(data)


def picture_names(info: SourceInfo, suffix: str) -> Iterator[str]:
    """File names for a folder: those of the input's pictures, then (or else) numbers.

    A picture whose name another had before gets a number that makes it unlike all of them. Names that differ in case
    or in how accents are stored count as one: for many file systems they are.
    """
    own = {_one_name(stem) for stem in info.frame_names}
    taken: set[str] = set()
    for stem in info.frame_names:
        name, number = stem, 1
        while _one_name(name) in taken or (number > 1 and _one_name(name) in own):
            number += 1
            name = f"{stem}-{number}"
        taken.add(_one_name(name))
        yield name + suffix
    number = FIRST_NUMBER + len(info.frame_names)
    while True:
        yield NUMBERED_NAME.format(number) + suffix
        number += 1


def _one_name(stem: str) -> str:
    return unicodedata.normalize("NFC", stem).casefold()


def pattern_names(pattern: str, first: int | None) -> Iterator[str]:
    """File names of a printf pattern, from the first number of the input sequence, or from 1."""
    number = FIRST_NUMBER if first is None else first
    while True:
        yield number_into(pattern, number)
        number += 1
