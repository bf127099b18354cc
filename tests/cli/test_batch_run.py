"""How the files of a batch overlap, fail, are tried again and are stopped: real files and encoders, a plain model."""

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from flashvsr_cli.batch.choice import Choice
from flashvsr_cli.batch.console import QuietBatch
from flashvsr_cli.batch.plan import BatchItem
from flashvsr_cli.batch.record import RECORD_NAME, Record
from flashvsr_cli.batch.result import BatchResult, can_pass
from flashvsr_cli.batch.run import BatchOptions, BatchRun
from flashvsr_cli.errors import (
    DeviceError,
    DeviceMemoryError,
    FlashVSRError,
    InputError,
    InterruptError,
    OutputError,
    UsageError,
    WeightsError,
)
from flashvsr_cli.jobs import Job
from flashvsr_cli.options import EncodeOptions, Settings
from flashvsr_cli.video.faults import input_error, output_error

SOON_S = 30


class Enlarger:
    """Stands where the model does and repeats pixels; `before(n_clips)` is called as each clip begins."""

    def __init__(self, before: Callable[[int], None] = lambda _: None) -> None:
        self.network = SimpleNamespace(device=torch.device("cpu"))
        self.n_clips = 0
        self._before = before
        self.threads: set[int] = set()

    def upscale(self, frames: Iterator[np.ndarray], scale: float, *_: Any, **__: Any) -> Iterator[np.ndarray]:
        self.n_clips += 1
        self.threads.add(threading.get_ident())
        self._before(self.n_clips)
        for frame in frames:
            yield frame.repeat(int(scale), 0).repeat(int(scale), 1)


class Told(QuietBatch):
    """What a batch says."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.n_open = 0
        self.changed = threading.Condition()

    def opened(self, job: Job, _: Any) -> None:
        with self.changed:
            self.n_open += 1
            self.changed.notify_all()
        self.lines.append(f"opened {Path(job.source).name}")

    def ended(self, job: Job, result: BatchResult) -> None:
        self.lines.append(f"{result.state} {Path(job.source).name}")

    def retried(self, job: Job, _: Any) -> None:
        self.lines.append(f"retried {Path(job.source).name}")

    def notice(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(autouse=True)
def _without_a_pause(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("flashvsr_cli.batch.run.RETRY_AFTER_S", 0.0)


@pytest.fixture
def batch(tmp_path: Path, make_clip) -> Callable[..., BatchRun]:
    """`batch(upscaler, n_jobs, names)`: a batch of clips; those whose name begins with "bad" are none."""

    def prepare(
        upscaler: Enlarger,
        n_jobs: int = 2,
        names: tuple[str, ...] = ("a.mp4", "b.mp4", "c.mp4"),
        target: str = "out",
        **options: Any,
    ) -> tuple[BatchRun, list[Choice]]:
        (tmp_path / "in").mkdir(exist_ok=True)
        out, choices = tmp_path / target, []
        out.mkdir(exist_ok=True)
        for i, name in enumerate(names):
            path = tmp_path / "in" / name
            if name.startswith("bad"):
                path.write_bytes(b"no media")
            elif not path.exists():
                make_clip(f"in/{name}", 4 + i, has_audio=True)
            # x264's slower presets do not make the same bytes of such small pictures every time.
            job = Job(str(path), str(out / name), scale=2, encode=EncodeOptions(preset="ultrafast"))
            choices.append(Choice(BatchItem(path, out / name), job))
        options = BatchOptions(out, n_jobs, **options)
        model = (upscaler, Settings())
        return BatchRun(lambda: model, options, Told(), Record(out), lambda job: {"s": job.scale}), choices

    return prepare


def names_of(run: BatchRun) -> dict[str, str]:
    return {Path(result.source).name: result.state for result in run.results}


def hidden(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name.startswith(".")}


@pytest.mark.parametrize("n_jobs", [1, 2, 5])
def test_however_many_are_open_the_bytes_are_the_same(batch, tmp_path: Path, n_jobs: int):
    alone, choices = batch(Enlarger(), 1, target="alone")
    alone.run(choices)
    upscaler = Enlarger()
    run, choices = batch(upscaler, n_jobs)
    run.run(choices)
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert names_of(run) == dict.fromkeys(("a.mp4", "b.mp4", "c.mp4"), "done")
    assert upscaler.threads == {threading.get_ident()}, "the model stays on one thread"


def test_the_next_file_is_opened_while_the_model_works_and_one_after_another_if_asked(batch):
    def until_open(n_files: int) -> Callable[[int], None]:
        def wait(n_clips: int) -> None:
            told = run.listener
            if n_clips == 1:
                with told.changed:
                    assert told.changed.wait_for(lambda: told.n_open >= n_files, SOON_S)

        return wait

    run, choices = batch(Enlarger(until_open(3)), 3)
    run.run(choices)
    assert len(run.results) == 3

    run, choices = batch(Enlarger(), 1, target="one-by-one")
    run.run(choices)
    assert run.listener.lines == [
        line for name in ("a.mp4", "b.mp4", "c.mp4") for line in (f"opened {name}", f"done {name}")
    ]


def test_a_file_is_finished_while_the_model_works_on_the_next(batch, tmp_path: Path):
    def wait(n_clips: int) -> None:
        if n_clips == 2:
            while not (tmp_path / "out" / "a.mp4").exists():
                os.sched_yield()

    run, choices = batch(Enlarger(wait))
    run.run(choices)
    assert next(Path(result.source).name for result in run.results) == "a.mp4"


def test_each_failure_is_that_of_its_file(batch, tmp_path: Path):
    names = ("a.mp4", "bad-1.mp4", "b.mp4", "bad-2.mp4", "c.mp4")
    run, choices = batch(Enlarger(), 3, names)
    run.run(choices)
    assert names_of(run) == {name: "failed" if "bad" in name else "done" for name in names}
    for result in run.results:
        if result.failure:
            assert Path(result.source).name in result.failure.message
            assert result.n_attempts == 1, "a bad file is tried once"
    assert hidden(tmp_path / "out") == {RECORD_NAME}
    record = Record(tmp_path / "out")
    assert {name: entry.state for name, entry in record.last.items()} == names_of(run)
    assert record.last["bad-1.mp4"].error == next(
        result.failure.message for result in run.results if result.source.endswith("bad-1.mp4")
    )


def test_no_model_is_loaded_for_files_that_cannot_be_opened(batch):
    run, choices = batch(Enlarger(), 2, ("bad-1.mp4", "bad-2.mp4"))
    run.load = lambda: pytest.fail("nobody needs it")
    run.run(choices)
    assert names_of(run) == dict.fromkeys(("bad-1.mp4", "bad-2.mp4"), "failed")


def test_a_model_that_cannot_be_loaded_leaves_nothing_behind(batch, tmp_path: Path):
    def load() -> None:
        raise WeightsError("There is none.", "Get one.")

    run, choices = batch(Enlarger(), 2, ("bad.mp4", "a.mp4", "b.mp4"))
    run.load = load
    with pytest.raises(WeightsError):
        run.run(choices)
    assert names_of(run) == {"bad.mp4": "failed"}
    assert hidden(tmp_path / "out") == {RECORD_NAME}


def raise_at(numbers: set[int], error: Callable[[], BaseException]) -> Callable[[int], None]:
    def before(n_clips: int) -> None:
        if n_clips in numbers:
            raise error()

    return before


def lost_device() -> Exception:
    return torch.AcceleratorError("CUDA error: unspecified launch failure")


def test_a_device_that_fails_once_is_tried_again_at_once(batch):
    run, choices = batch(Enlarger(raise_at({2}, lost_device)), 1)
    run.run(choices)
    assert names_of(run) == dict.fromkeys(("a.mp4", "b.mp4", "c.mp4"), "done")
    assert [result.n_attempts for result in run.results] == [1, 2, 1]
    assert [line for line in run.listener.lines if "opened" not in line] == [
        "done a.mp4",
        "retried b.mp4",
        "done b.mp4",
        "done c.mp4",
    ]


def test_a_device_that_does_not_come_back_ends_the_batch(batch, tmp_path: Path):
    run, choices = batch(Enlarger(raise_at({2, 3, 4, 5, 6, 7}, lost_device)))
    run.run(choices)
    assert names_of(run)["a.mp4"] == "done"
    assert names_of(run)["b.mp4"] == "failed"
    assert "The device does not come back: the files that are left are not tried." in run.listener.lines
    assert hidden(tmp_path / "out") == {RECORD_NAME}


@pytest.mark.parametrize(
    ("error", "n_attempts"),
    [
        (lambda: torch.OutOfMemoryError("CUDA out of memory."), 3),
        (lambda: OSError(errno.EIO, os.strerror(errno.EIO)), 3),
        (lambda: InputError("It is bad.", "Mend it."), 1),
        (lambda: ValueError("a mistake of ours"), 1),
    ],
)
def test_what_can_pass_is_tried_again_after_the_others(batch, error, n_attempts: int):
    run, choices = batch(Enlarger(raise_at({1, 4, 5}, error)), 1, n_retries=2)
    run.run(choices)
    assert names_of(run) == {"a.mp4": "failed", "b.mp4": "done", "c.mp4": "done"}
    result = next(result for result in run.results if result.state == "failed")
    assert result.n_attempts == n_attempts
    assert result.to_json()["attempts"] == n_attempts
    if n_attempts > 1:
        assert run.results[-1] is result, "the others came first"
        assert f"(tried {n_attempts} times)" in result.failure.text(result.n_attempts)


def test_nothing_is_tried_again_if_so_asked(batch):
    run, choices = batch(Enlarger(raise_at({1}, lambda: OSError(errno.EIO, "x"))), n_retries=0)
    run.run(choices)
    assert names_of(run)["a.mp4"] == "failed"


def test_a_mistake_of_ours_says_how_to_see_where(batch):
    run, choices = batch(Enlarger(raise_at({1}, ZeroDivisionError)), names=("it's a.mp4",))
    run.run(choices)
    (result,) = run.results
    assert "ZeroDivisionError" in result.failure.message
    assert "flashvsr --debug upscale '" in result.failure.next_step


def caused(error: FlashVSRError, cause: BaseException) -> FlashVSRError:
    error.__cause__ = cause
    return error


def test_which_errors_can_pass():
    import av

    def of_os(number: int) -> OSError:
        return OSError(number, os.strerror(number))

    eio = of_os(errno.EIO)
    media_eio = av.error.OSError(errno.EIO, "Input/output error")
    assert can_pass(DeviceError("x"))
    assert can_pass(DeviceMemoryError("x"))
    assert can_pass(MemoryError())
    assert can_pass(caused(input_error("a", eio), eio))
    assert can_pass(caused(output_error("a", of_os(errno.ENOSPC)), of_os(errno.ENOSPC)))
    assert can_pass(caused(OutputError("a"), media_eio))
    assert not can_pass(caused(InputError("a"), media_eio)), "to FFmpeg a bad file is an input/output error"
    assert not can_pass(caused(InputError("a"), of_os(errno.EACCES)))
    assert not can_pass(caused(OutputError("a"), of_os(errno.EFBIG)))
    assert not can_pass(InputError("a"))
    assert not can_pass(UsageError("a"))
    assert not can_pass(KeyError("a"))


@pytest.mark.parametrize("n_jobs", [1, 3])
@pytest.mark.parametrize("i_clip", [1, 2, 3])
def test_an_interrupt_leaves_only_what_is_complete(batch, tmp_path: Path, look, n_jobs: int, i_clip: int):
    run, choices = batch(Enlarger(raise_at({i_clip}, lambda: InterruptError(signal.SIGINT))), n_jobs)
    with pytest.raises(InterruptError):
        run.run(choices)
    out = tmp_path / "out"
    complete = {path.name for path in out.glob("*.mp4")}
    assert complete == {name for name, state in names_of(run).items() if state == "done"}
    assert complete <= {"a.mp4", "b.mp4"}
    if n_jobs == 1:
        assert len(complete) == i_clip - 1
    assert hidden(out) <= {RECORD_NAME}
    assert set(Record(out).made) == complete
    for name in complete:
        assert look(out / name).n_frames == 4 + "ab".index(name[0])
    assert not [thread for thread in threading.enumerate() if "flashvsr" in thread.name], "no thread is left"


def test_a_mistake_in_the_program_ends_the_batch_and_does_not_hang_it(batch, tmp_path: Path):
    class Broken(Told):
        def ended(self, *_: Any) -> None:
            raise ZeroDivisionError

    run, choices = batch(Enlarger())
    run.listener = Broken()
    with pytest.raises(ZeroDivisionError):
        run.run(choices)
    assert not list((tmp_path / "out").glob(".*part*"))


def test_a_record_that_cannot_be_written_is_said_once_and_stops_nothing(batch, tmp_path: Path):
    run, choices = batch(Enlarger())
    (tmp_path / "out" / RECORD_NAME).mkdir()
    run.run(choices)
    assert names_of(run) == dict.fromkeys(("a.mp4", "b.mp4", "c.mp4"), "done")
    assert sum("What is not recorded is left alone" in line for line in run.listener.lines) == 1


def test_an_input_that_changes_while_it_is_read_is_another_one_next_time(batch, tmp_path: Path):
    source = tmp_path / "in" / "a.mp4"

    def touch(_: int) -> None:
        os.utime(source, ns=(0, source.stat().st_mtime_ns + 10**9))

    run, choices = batch(Enlarger(touch), 1, ("a.mp4",))
    run.run(choices)
    made = Record(tmp_path / "out").made["a.mp4"]
    assert made.sha256 is None
    assert made.source.changed_ns != source.stat().st_mtime_ns


def test_a_result_never_leaves_the_output_folder(batch, tmp_path: Path):
    run, choices = batch(Enlarger(), names=("a.mp4",))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "away").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "out" / "link.mp4").symlink_to(tmp_path / "elsewhere" / "b.mp4")
    for place in ("away/b.mp4", "away/deep/b.mp4", "link.mp4"):
        item = BatchItem(tmp_path / "in" / "a.mp4", tmp_path / "out" / place)
        choices.append(Choice(item, Job(str(item.source), str(item.target), scale=2, overwrite=True)))
    run.run(choices)
    assert sorted(result.state for result in run.results) == ["done", "failed", "failed", "failed"]
    assert list((tmp_path / "elsewhere").iterdir()) == []
