"""What is kept on disk so that a run can be taken up after a crash: a journal of encoded pictures beside the target.

`.NAME.resume` is one file of records that is only ever appended to: what the run was asked for, then the time of
every picture given to the encoder and every packet that came out of it. Each record carries a checksum, so that after
a power cut whatever is damaged at the end is recognised and dropped. Packets, not a container: their times are exact,
every codec fits, and a file cut anywhere can be read.
"""

import fcntl
import hashlib
import json
import os
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashvsr_cli import __version__
from flashvsr_cli.errors import ResumeError
from flashvsr_cli.options import EncodeOptions, InputOptions, Settings
from flashvsr_cli.video.faults import input_error, output_faults
from flashvsr_cli.video.targets import journal_of, remove_abandoned, sync_folder

if TYPE_CHECKING:
    from flashvsr_cli.pipeline import Upscaler

FORMAT = "flashvsr journal 2"
# Kind, bytes of content, checksum of content and head.
_HEAD = struct.Struct("<cII")
_CHECKED_HEAD = struct.Struct("<cI")
_PACKET = struct.Struct("<qqqiiBI")
_NUMBER = struct.Struct("<q")
FACTS, SESSION, FRAME, PACKET, TEMPORARY = b"H", b"S", b"F", b"P", b"T"
NO_TIME = -(2**63)
SYNC_EVERY_S = 2.0
IDENTITY_BYTES = 2**20


@dataclass(frozen=True)
class KeptPacket:
    """One encoded picture; times in ticks of `time_base`; `alpha` is its transparency, which VP9 encodes beside it."""

    pts: int
    dts: int | None
    duration: int
    time_base: tuple[int, int]
    is_keyframe: bool
    data: bytes
    alpha: bytes = b""


@dataclass
class _Contents:
    """What a journal holds: the facts, times of pictures in display order, and where each packet lies."""

    facts: dict[str, Any] | None = None
    temporaries: list[str] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    packets: list[tuple[int, int, int]] = field(default_factory=list)  # pts, offset of the content, its length
    n_before_session: int = 0
    end: int = 0

    def count_whole(self) -> int:
        """The largest number of packets from the start that are exactly so many pictures from the start.

        Packets come in decoding order: such a beginning needs nothing that follows it.
        """
        place = {pts: i_frame for i_frame, pts in enumerate(self.frames)}
        n_whole, last = self.n_before_session, self.n_before_session - 1
        for n_packets, (pts, _, _) in enumerate(self.packets[self.n_before_session :], self.n_before_session + 1):
            if pts not in place:
                break
            last = max(last, place[pts])
            if last + 1 == n_packets:
                n_whole = n_packets
        return n_whole


class Journal:
    """The journal of one target, open and locked.

    Args:
        target: the final file.

    Raises:
        ResumeError: another process writes the same target.
        OSError: the file cannot be made or read.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self.path = journal_of(target)
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        self._is_open = True
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._fd)
            raise ResumeError(f"Another process is writing {target.name}.", "Wait until it is done.") from error
        self._contents = _read(self._fd)
        self._synced = time.monotonic()
        self.n_done = 0

    @property
    def is_new(self) -> bool:
        """Whether there was no earlier session."""
        return self._contents.facts is None

    @property
    def frames(self) -> list[int]:
        """The times of the pictures that are done, in order."""
        return self._contents.frames[: self.n_done]

    def check(self, facts: dict[str, Any]) -> None:
        """Refuse to go on with a run that was asked for something else, as far as `facts` say.

        Raises:
            ResumeError: a fact differs.
        """
        kept = self._contents.facts
        difference = None if kept is None else find_difference(kept, {"format": FORMAT, **_plain(facts)})
        if difference:
            raise ResumeError(
                f"The unfinished run cannot be resumed: {difference}.",
                f"Use the options of that run, or delete {self.path} to begin anew.",
            )

    def begin(self, facts: dict[str, Any], temporary: Path) -> None:
        """Begin a session: keep what is whole of earlier ones, or start a new journal.

        Args:
            facts: all that decides what the output is, as a JSON object.
            temporary: the file that this session fills; the next one removes it if this one cannot.

        Raises:
            ResumeError: an earlier session had other facts.
        """
        self.check(facts)
        contents = self._contents
        for name in contents.temporaries:
            self.path.with_name(Path(name).name).unlink(missing_ok=True)
        remove_abandoned(self._target)
        end = 0 if contents.facts is None else contents.end
        os.ftruncate(self._fd, end)
        os.lseek(self._fd, end, os.SEEK_SET)
        if contents.facts is None:
            self._append(FACTS, json.dumps({"format": FORMAT, **_plain(facts)}).encode())
        self.n_done = contents.count_whole()
        self._append(SESSION, _NUMBER.pack(self.n_done))
        self._append(TEMPORARY, temporary.name.encode())
        self.sync()
        sync_folder(self.path.parent)

    def packets(self) -> Iterator[KeptPacket]:
        """The packets that are done, in decoding order."""
        for _, offset, size in self._contents.packets[: self.n_done]:
            content = os.pread(self._fd, size, offset)
            pts, dts, duration, numerator, denominator, is_keyframe, n_alpha = _PACKET.unpack_from(content)
            end = len(content) - n_alpha
            yield KeptPacket(
                pts,
                None if dts == NO_TIME else dts,
                duration,
                (numerator, denominator),
                bool(is_keyframe),
                content[_PACKET.size : end],
                content[end:],
            )

    def add_frame(self, pts: int) -> None:
        """Note the time of a picture before it is encoded."""
        self._append(FRAME, _NUMBER.pack(pts))

    def add_packet(self, packet: KeptPacket) -> None:
        """Keep a packet; it is on the disk two seconds later."""
        dts = NO_TIME if packet.dts is None else packet.dts
        times = (packet.pts, dts, packet.duration, *packet.time_base)
        head = _PACKET.pack(*times, packet.is_keyframe, len(packet.alpha))
        self._append(PACKET, head + packet.data + packet.alpha)
        if time.monotonic() - self._synced > SYNC_EVERY_S:
            self.sync()

    def sync(self) -> None:
        """Bring what was added to the disk."""
        os.fsync(self._fd)
        self._synced = time.monotonic()

    def close(self) -> None:
        """Keep the journal for later if it says anything. Idempotent."""
        if self._is_open:
            if not os.fstat(self._fd).st_size:
                self.path.unlink(missing_ok=True)
            os.close(self._fd)
            self._is_open = False

    def remove(self) -> None:
        """Delete the journal: the output is complete."""
        self.path.unlink(missing_ok=True)
        self.close()

    def _append(self, kind: bytes, content: bytes) -> None:
        check = zlib.crc32(content, zlib.crc32(_CHECKED_HEAD.pack(kind, len(content))))
        view = memoryview(_HEAD.pack(kind, len(content), check) + content)
        while view:
            view = view[os.write(self._fd, view) :]


def _read(fd: int) -> _Contents:
    """What a file holds, up to the first record that is damaged or cut short."""
    contents = _Contents()
    while True:
        head = os.pread(fd, _HEAD.size, contents.end)
        if len(head) < _HEAD.size:
            return contents
        kind, size, check = _HEAD.unpack(head)
        offset = contents.end + _HEAD.size
        if offset + size > os.fstat(fd).st_size:
            return contents
        content = os.pread(fd, size, offset)
        if len(content) < size or zlib.crc32(content, zlib.crc32(_CHECKED_HEAD.pack(kind, size))) != check:
            return contents
        contents.end = offset + size
        if kind == FACTS:
            contents.facts = json.loads(content)
        elif kind == SESSION:
            (contents.n_before_session,) = _NUMBER.unpack(content)
            del contents.frames[contents.n_before_session :], contents.packets[contents.n_before_session :]
        elif kind == TEMPORARY:
            contents.temporaries.append(content.decode())
        elif kind == FRAME:
            contents.frames.append(*_NUMBER.unpack(content))
        elif kind == PACKET:
            contents.packets.append((_NUMBER.unpack_from(content)[0], offset, size))


def identify_source(path: Path) -> dict[str, Any]:
    """What tells one input file from another: size, time of change, and a hash of its first and last MiB.

    Raises:
        ResumeError: it is no regular file, which could not be read a second time.
        OSError: it cannot be read.
    """
    if not path.is_file():
        raise ResumeError(f"{path} is no file that could be read again.", "Leave --resume out.")
    facts = path.stat()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(IDENTITY_BYTES))
        file.seek(max(0, facts.st_size - IDENTITY_BYTES))
        digest.update(file.read(IDENTITY_BYTES))
    return {"bytes": facts.st_size, "changed_ns": facts.st_mtime_ns, "sha256": digest.hexdigest()}


def find_difference(kept: Any, facts: Any, where: str = "") -> str | None:
    """The first of the facts that differs from the one kept, in words; what only one side has is not compared."""
    if isinstance(kept, dict) and isinstance(facts, dict):
        for key in (key for key in facts if key in kept):
            difference = find_difference(kept[key], facts[key], f"{where} {key}".strip())
            if difference:
                return difference
        return None
    return None if kept == facts else f"{where.replace('_', ' ')} was {_spoken(kept)} and is {_spoken(facts)}"


def _spoken(fact: Any) -> str:
    if fact is None:
        return "not given"
    return f"{fact:g}" if isinstance(fact, float) else str(fact)


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives it back; fractions are texts."""
    plain: dict[str, Any] = json.loads(json.dumps(facts, default=str))
    return plain


def open_journal(name: str, target: Path) -> Journal:
    """`Journal`, with errors as `OutputError` about `name`."""
    with output_faults(name):
        return Journal(target)


def job_facts(source: str, scale: float, read: InputOptions, encode: EncodeOptions) -> dict[str, Any]:
    """What decides a run's output before the model is known.

    Raises:
        ResumeError: the source could not be read a second time.
        InputError: it cannot be read at all.
    """
    try:
        identity = identify_source(Path(source))
    except OSError as error:
        raise input_error(source, error) from error
    return {
        "flashvsr": __version__,
        "input file": identity,
        "scale": scale,
        "input": asdict(read),
        "encode": asdict(encode),
    }


def model_facts(upscaler: "Upscaler", settings: Settings) -> dict[str, Any]:
    """What decides the pictures beside the input."""
    network, checkpoint = upscaler.network, upscaler.checkpoint
    return {
        "settings": asdict(settings),
        "model": {
            "sha256": checkpoint.sha256(),
            "version": checkpoint.version,
            "decoder": type(network.decoder).__name__,
            "dtype": str(network.dtype),
            "backend": network.transformer.name,
        },
    }
