"""One input to one output: reader thread -> `Upscaler.upscale` -> writer thread, and a report of what happened.

Loads no torch before a model has been loaded: a wrong input or output is refused at once.
"""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

from flashvsr_cli.errors import DeviceError, DeviceMemoryError, InterruptError
from flashvsr_cli.geometry import plan_geometry
from flashvsr_cli.listener import Listener
from flashvsr_cli.options import EncodeOptions, InputOptions, Settings
from flashvsr_cli.preflight import check_target
from flashvsr_cli.report import Report, peak_device_bytes, reset_peak_device_bytes
from flashvsr_cli.resume import job_facts, model_facts
from flashvsr_cli.resume_sink import ResumableSink, open_resumable_sink
from flashvsr_cli.video.frame import Frame, Image
from flashvsr_cli.video.info import SourceInfo
from flashvsr_cli.video.reader import open_source
from flashvsr_cli.video.sink import Sink
from flashvsr_cli.video.threads import ReadAhead, WriteBehind
from flashvsr_cli.video.writer import open_sink

if TYPE_CHECKING:
    from flashvsr_cli.pipeline import Upscaler

# PyTorch reports a host that is out of memory as a RuntimeError of this text.
HOST_MEMORY_TEXT = "can't allocate memory"


@dataclass(frozen=True)
class Job:
    """One input and what to make of it.

    Attributes:
        source: a path, a pattern, or "-".
        target: a path, a pattern, or "-".
        scale: output side over input side.
        input: what the input cannot say about itself.
        encode: how the output is encoded.
        overwrite: whether a file of the target's name may be replaced.
        resume: whether an unfinished run is taken up, and what this one does is kept if it ends too early.
    """

    source: str
    target: str
    scale: float = 4.0
    input: InputOptions = field(default_factory=InputOptions)
    encode: EncodeOptions = field(default_factory=EncodeOptions)
    overwrite: bool = False
    resume: bool = False


class OpenJob:
    """A job whose input and output are open, so that what cannot work fails before a model is fetched and loaded.

    Leaving the context without `run` having succeeded removes the unfinished output.

    Raises:
        InputError: the input cannot be read.
        OutputError: the output cannot be written, or exists and `job.overwrite` is off.
        UsageError: options contradict each other.
    """

    def __init__(self, job: Job) -> None:
        started = time.perf_counter()
        check_target(job.source, job.target, overwrite=job.overwrite)
        self.job = job
        self._source = open_source(job.source, job.input)
        try:
            self._geometry = plan_geometry(self._source.info.size, job.scale)
            self._sink = self._open_sink()
        except BaseException:
            self._source.close()
            raise
        self._reader, self._writer = ReadAhead(self._source), WriteBehind(self._sink)
        self.notices = [*self._source.notices, *self._sink.notices]
        self._n_frames, self._n_resumed, self._model_s, self._compute_s = 0, 0, 0.0, 0.0
        self._peak_device_bytes: int | None = None
        self._open_s = time.perf_counter() - started

    def _open_sink(self) -> Sink:
        job = self.job
        check_target(job.source, job.target, overwrite=job.overwrite)  # an input on a pipe may be long in coming
        if not job.resume:
            return open_sink(job.target, self._source, self._geometry.target, job.encode, overwrite=job.overwrite)
        sink = open_resumable_sink(job.target, self._source, self._geometry.target, job.encode, overwrite=job.overwrite)
        try:
            sink.check(job_facts(job.source, job.scale, job.input, job.encode))
        except BaseException:
            sink.abort()
            raise
        return sink

    def _begin(self, upscaler: "Upscaler", settings: Settings) -> int:
        """How many frames are done already."""
        job, sink = self.job, self._sink
        if not isinstance(sink, ResumableSink):
            return 0
        sink.begin(job_facts(job.source, job.scale, job.input, job.encode) | model_facts(upscaler, settings))
        if sink.n_done:
            self.notices.append(f"Resumed behind {sink.n_done} finished frames.")
        return sink.n_done

    @property
    def info(self) -> SourceInfo:
        """What is known about the input."""
        return self._source.info

    def run(self, upscaler: "Upscaler", settings: Settings, listener: Listener, *, label: str | None = None) -> Report:
        """Upscale; the output appears under its name only when it is complete.

        Args:
            upscaler: the model.
            settings: how it computes.
            listener: told how far it is.
            label: what the listener calls the job; by default the input's name.

        Raises:
            InputError: the input cannot be read to its end.
            OutputError: the output cannot be written.
            DeviceMemoryError: device or host are too small for the picture.
            ResumeError: the unfinished run that is to be resumed was asked for something else.
        """
        self.compute(upscaler, settings, listener, label=label)
        return self.finish(upscaler, settings, listener)

    def read_ahead(self) -> None:
        """Begin to decode, as far as the queue goes, before the model is free."""
        self._reader.start()

    def interrupt(self) -> None:
        """Make a `finish` on another thread give up before the output gets its name, if that is still to come."""
        self._writer.interrupt()

    def compute(
        self, upscaler: "Upscaler", settings: Settings, listener: Listener, *, label: str | None = None
    ) -> None:
        """The part of `run` that needs the model: every frame has been computed and handed to the writer."""
        started = time.perf_counter()
        n_done = self._n_resumed = self._begin(upscaler, settings)
        source, geometry = self._source, self._geometry
        reset_peak_device_bytes(upscaler.network.device)
        for text in self.notices:
            listener.notice(text)
        listener.start(label or source.info.name, source.info.n_frames)
        listener.stage("upscaling")
        try:
            self._n_frames, self._model_s = _pump(
                upscaler, self.job.scale, settings, self._reader, self._writer, listener, n_done=n_done
            )
        except (MemoryError, RuntimeError) as error:
            if _is_device_failure(error):
                raise DeviceError(
                    f"{upscaler.network.device} failed: {str(error).splitlines()[0].rstrip('.')}.",
                    "Run again; with --resume from the start, a run goes on where it was cut short.",
                ) from error
            if not _is_out_of_memory(error):
                raise
            raise DeviceMemoryError(
                f"{upscaler.network.device} ran out of memory at {geometry.target[1]}x{geometry.target[0]}.",
                "Use a smaller --scale or --kv-ratio; `flashvsr info` says what a size needs.",
            ) from error
        self._peak_device_bytes = peak_device_bytes(upscaler.network.device)
        self._compute_s = time.perf_counter() - started

    def finish(self, upscaler: "Upscaler", settings: Settings, listener: Listener) -> Report:
        """The rest of `run`: the encoder is emptied and the output gets its name. Any thread will do, no model is used.

        Raises:
            OutputError: the output cannot be written.
        """
        started = time.perf_counter()
        source, sink = self._source, self._sink
        listener.stage("finishing")
        self._writer.commit()
        late = [text for text in (*source.notices, *sink.notices) if text not in self.notices]
        for text in late:
            listener.notice(text)
        total_s = self._open_s + self._compute_s + time.perf_counter() - started
        return Report(
            upscaler=upscaler,
            settings=settings,
            scale=self.job.scale,
            encode=self.job.encode,
            source=source.info.facts(),
            target=sink.facts(),
            size=self._geometry.target,
            frames_in=source.counters.frames,
            frames_out=self._n_frames,
            frames_resumed=self._n_resumed,
            seconds={
                "open": self._open_s,
                "read": self._reader.busy_s,
                "model": self._model_s,
                "write": self._writer.busy_s,
                "total": total_s,
            },
            notices=[*self.notices, *late],
            damage=source.counters,
            peak_device_bytes=self._peak_device_bytes,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After a commit `abort` does nothing; before it, it removes the unfinished output.
        self._writer.abort()
        self._reader.close()
        if self.job.resume and isinstance(error, InterruptError):
            error.args = ("Interrupted; what is finished is kept, and the same command goes on from there.",)


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or HOST_MEMORY_TEXT in str(error)


def _is_device_failure(error: Exception) -> bool:
    import torch

    is_memory = isinstance(error, torch.OutOfMemoryError)
    return isinstance(error, torch.AcceleratorError) and not is_memory


def _pump(
    upscaler: "Upscaler",
    scale: float,
    settings: Settings,
    reader: ReadAhead,
    writer: WriteBehind,
    listener: Listener,
    *,
    n_done: int,
) -> tuple[int, float]:
    """Frames from reader to writer through the model; every output frame gets the time of its input frame.

    The first `n_done` frames exist: the writer is told their times, and the model warms up on the last of them.

    Returns:
        How many frames came out, and the seconds in which neither reader nor writer was waited for.
    """
    in_flight: deque[Frame] = deque()
    waited_s, n_frames = 0.0, 0

    def images() -> Iterator[Image]:
        nonlocal waited_s
        frames = iter(reader)
        while True:
            asked = time.perf_counter()
            frame = next(frames, None)
            waited_s += time.perf_counter() - asked
            if frame is None:
                return
            if n_frames < n_done:
                hand_over(frame)
                listener.skip(1)
            else:
                in_flight.append(frame)
            yield frame.image

    def hand_over(frame: Frame) -> None:
        nonlocal waited_s, n_frames
        handed = time.perf_counter()
        writer.write(frame)
        waited_s += time.perf_counter() - handed
        n_frames += 1

    started = time.perf_counter()
    for image in upscaler.upscale(images(), scale, settings, n_done=n_done):
        hand_over(replace(in_flight.popleft(), image=image))
        listener.advance(1)
    return n_frames, time.perf_counter() - started - waited_s
