"""Every failure a user can cause or meet, with its exit code and a next step.

`flashvsr_cli.cli.app.main` is the one place that turns these into a sentence on stderr.
"""

MAX_QUOTED_CHARS = 300


class FlashVSRError(Exception):
    """A failure with a sentence for the user.

    Args:
        message: one sentence: what is wrong, with the file's or option's name.
        next_step: one sentence: what to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, next_step: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step


class UsageError(FlashVSRError):
    """Options that contradict each other or have no meaning (exit code 2)."""

    exit_code = 2


class InputError(FlashVSRError):
    """The input cannot be read: missing, empty, damaged, or without a video stream."""


class OutputError(FlashVSRError):
    """The output cannot be written: no space, no encoder, no permission, a closed pipe."""


class ResumeError(FlashVSRError):
    """An unfinished run cannot be taken up: its input, settings, model or encoder was another, or it still runs."""


class WeightsError(FlashVSRError):
    """A checkpoint is missing, damaged, mixed up, or cannot be downloaded."""


class DeviceError(FlashVSRError):
    """The device asked for does not exist, or failed."""


class DeviceMemoryError(DeviceError):
    """The device or host ran out of memory."""


class InterruptError(BaseException):
    """The user or the system asked the process to stop.

    The exit code is 130 for SIGINT, 143 for SIGTERM, and 129 for SIGHUP.

    No `Exception`, as `KeyboardInterrupt` is none: nobody's `except Exception` may swallow it.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__("Interrupted; no unfinished output was left behind.")
        self.number = signal_number
        self.exit_code = 128 + signal_number


def as_known_error(error: Exception) -> FlashVSRError:
    """The error itself if it has a sentence for the user, else one around it."""
    if isinstance(error, FlashVSRError):
        return error
    text = " ".join(str(error).split())[:MAX_QUOTED_CHARS]
    return FlashVSRError(
        f"Something unforeseen happened ({type(error).__name__}: {text}).",
        "Run `flashvsr --debug ...` to see where, and report it.",
    )
