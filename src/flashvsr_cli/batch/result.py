"""What became of a batch's files, who is told, and which failures are worth another try."""

import errno
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from av.error import FFmpegError

from flashvsr_cli.errors import DeviceError, FlashVSRError, InputError
from flashvsr_cli.jobs import Job
from flashvsr_cli.listener import Listener
from flashvsr_cli.report import Report
from flashvsr_cli.video.info import SourceInfo

State = Literal["done", "skipped", "failed"]
# What the operating system says of a disk, network or machine that may be well again, never of a file that is bad.
PASSING = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "ENOSPC", "EDQUOT", "ENOMEM", "EMFILE", "ENFILE", "EAGAIN", "EBUSY", "ENOLCK", "ESTALE", "ETIMEDOUT"),
        *("ENETDOWN", "ENETUNREACH", "ECONNRESET", "ECONNABORTED", "EHOSTDOWN", "EHOSTUNREACH"),
    )
    if hasattr(errno, name)
)


@dataclass(frozen=True)
class Failure:
    """Why a file failed, without the exception: its traceback would keep the frames and tensors of the run alive."""

    message: str
    next_step: str | None = None

    @classmethod
    def of(cls, error: FlashVSRError) -> "Failure":
        """The sentences of an error."""
        return cls(error.message, error.next_step)

    def text(self, n_attempts: int) -> str:
        """All of it in one line."""
        tried = f"(tried {n_attempts} times)" if n_attempts > 1 else None
        return " ".join(part for part in (self.message, tried, self.next_step) if part)


@dataclass(frozen=True)
class BatchResult:
    """What became of one file.

    Attributes:
        source: the input.
        target: its result.
        state: "done", "skipped" (the result was there already) or "failed".
        report: of a file that is done.
        failure: why one failed.
        reason: why one was skipped or made again, if that is not plain.
        n_attempts: how often it was tried.
    """

    source: str
    target: str | None
    state: State
    report: Report | None = None
    failure: Failure | None = None
    reason: str | None = None
    n_attempts: int = 0

    def to_json(self) -> dict[str, Any]:
        """For the `--report` file."""
        facts: dict[str, Any] = {"input": self.source, "output": self.target, "state": self.state}
        if self.n_attempts:
            facts["attempts"] = self.n_attempts
        if self.reason:
            facts["reason"] = self.reason
        if self.report:
            facts["report"] = self.report.to_json()
        if self.failure:
            facts |= {"error": self.failure.message, "next_step": self.failure.next_step}
        return facts


class BatchListener(Protocol):
    """Whoever shows the user how far a batch is. Called from several threads."""

    def file(self, job: Job) -> Listener:
        """Who is told how far one file is."""
        ...

    def opened(self, job: Job, info: SourceInfo) -> None:
        """A file is open."""
        ...

    def ended(self, job: Job, result: BatchResult) -> None:
        """A file is done or has failed."""
        ...

    def retried(self, job: Job, failure: Failure) -> None:
        """A file has failed and will be tried again."""
        ...

    def notice(self, text: str) -> None:
        """Something the user should know."""
        ...

    def shown(self) -> AbstractContextManager[object]:
        """While the model works."""
        ...


def can_pass(error: BaseException) -> bool:
    """Whether it is worth to try again: the device failed or was full, or the operating system was in trouble.

    Never what is wrong with the input or the options. FFmpeg reports a bad file as an input/output error too, so
    what it says of an input does not count.
    """
    is_about_input = isinstance(error, InputError)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DeviceError | MemoryError):
            return True
        is_bad_file = is_about_input and isinstance(cause, FFmpegError)
        if isinstance(cause, OSError | FFmpegError) and cause.errno in PASSING and not is_bad_file:
            return True
        cause = cause.__cause__
    return False
