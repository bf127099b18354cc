"""What a batch shows while it runs: frames, speed and time left, in a table on a terminal and in lines elsewhere."""

import io
import os
import pty
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from rich.console import Console

from flashvsr_cli.batch import console as batch_console
from flashvsr_cli.batch.console import BatchReporter, LiveReporter
from flashvsr_cli.batch.estimate import Estimate, TimeLeft, probe, probing
from flashvsr_cli.batch.result import BatchResult, Failure
from flashvsr_cli.console import visible
from flashvsr_cli.jobs import Job
from flashvsr_cli.options import InputOptions


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`clock(s)` lets so many seconds pass."""
    now = [1000.0]
    monkeypatch.setattr("flashvsr_cli.batch.estimate.time.monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_nothing_is_known_at_first(clock):
    estimate = Estimate(["a", "b"])
    assert (estimate.n_left, estimate.n_frames, estimate.fps) == (2, 0, None)
    assert str(estimate.time_left()) == "?"
    estimate.learn("a", 21, (10, 10))
    assert str(estimate.time_left()) == "?"
    estimate.begin("a")
    clock(1)
    assert str(estimate.time_left()) == "?", "no frame has come yet"


def test_time_left_counts_chunks_and_pixels(clock):
    """21 frames are one chunk, each 8 more another; a picture costs a chunk, too."""
    estimate = Estimate(["a", "b", "c"])
    estimate.learn("a", 21, (10, 10))
    estimate.learn("b", 29, (10, 10))
    estimate.learn("c", 1, (20, 10))
    estimate.begin("a")
    clock(7)
    estimate.advance("a", 21)
    clock(3)
    assert estimate.time_left() == TimeLeft(40.0, is_least=False)
    assert estimate.fps == pytest.approx(2.1)
    estimate.end("a")
    estimate.begin("b")
    assert estimate.time_left() == TimeLeft(40.0, is_least=False)
    clock(10)
    estimate.advance("b", 29)
    assert str(estimate.time_left()) == "0:00:13", "20 s for 3 chunks, 2 are left"
    estimate.end("b")
    assert (estimate.n_left, estimate.n_frames) == (1, 50)


def test_what_is_not_known_stays_so(clock):
    estimate = Estimate(["a", "b"])
    estimate.learn("a", 42, (10, 10))
    estimate.begin("a")
    clock(3600)
    estimate.advance("a", 21)
    assert str(estimate.time_left()) == "over 1:00:00"
    estimate.end("a")
    assert str(estimate.time_left()) == "?"
    estimate.learn("b", None, (10, 10))
    assert str(estimate.time_left()) == "?"


def test_a_file_that_fails_is_no_longer_waited_for_and_one_that_begins_again_begins_at_nothing(clock):
    estimate = Estimate(["a", "b"])
    for name in ("a", "b"):
        estimate.learn(name, 21, (10, 10))
    estimate.begin("a")
    clock(10)
    estimate.advance("a", 20)
    estimate.begin("a")
    assert estimate.n_frames == 0
    estimate.advance("a", 21)
    estimate.end("b")
    assert estimate.time_left() == TimeLeft(0.0, is_least=False)


def test_probing_reads_headers_only(make_clip, make_pictures, tmp_path: Path):
    options = InputOptions()
    assert probe(str(make_clip("a.mp4", 9)), options) == (9, (24, 32))
    assert probe(str(make_clip("a.mkv", 9)), options) == (9, (24, 32))
    assert probe(str(make_clip("b.mp4", 9)), InputOptions(max_frames=4)) == (4, (24, 32))
    assert probe(str(make_clip("c.mp4", 30)), InputOptions(start=15 * Fraction(1001, 30000))) == (15, (24, 32))
    assert probe(str(make_pictures("p", 1) / "shot_001.png"), options) == (1, (24, 32))
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    (tmp_path / "empty.png").write_bytes(b"")
    assert probe(str(tmp_path / "bad.mp4"), options) is None
    assert probe(str(tmp_path / "empty.png"), options) is None
    assert probe(str(tmp_path / "gone.mp4"), options) is None
    assert probe("/dev/null", options) is None


def test_probing_tells_the_estimate(make_clip, clock):
    names = [str(make_clip(f"{i}.mp4", 21)) for i in range(2)]
    jobs = [Job(name, f"{name}.out") for name in names]
    estimate = Estimate([job.target for job in jobs])
    with probing(jobs, estimate):
        pass  # what has begun is ended
    for job in jobs:
        estimate.learn(job.target, *probe(job.source, job.input))
    estimate.begin(jobs[0].target)
    clock(5)
    estimate.advance(jobs[0].target, 21)
    assert str(estimate.time_left()) == "0:00:05"


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    console = Console(file=text, width=80, force_terminal=False)
    monkeypatch.setattr("flashvsr_cli.console.stderr", console)
    monkeypatch.setattr(batch_console, "stderr", console)
    return text


def report(kind: type[BatchReporter]) -> BatchReporter:
    """One of four files is done, one failed, one runs."""
    jobs = [Job(f"in/{name}.mp4", f"out/{name}.mp4") for name in "abcd"]
    estimate = Estimate([job.target for job in jobs])
    reporter = kind(estimate, estimate.n_left)
    for job in jobs[:3]:
        estimate.learn(job.target, 42, (10, 10))
    file = reporter.file(jobs[0])
    file.start(jobs[0].source, 42)
    file.stage("upscaling")
    file.advance(42)
    file.notice("Its colours are odd.")
    file.stage("finishing")
    reporter.ended(jobs[0], BatchResult("in/a.mp4", "out/a.mp4", "done"))
    reporter.retried(jobs[1], Failure("in/b.mp4 cannot be read."))
    reporter.ended(jobs[1], BatchResult("in/b.mp4", "out/b.mp4", "failed", failure=Failure("in/b.mp4 is bad.", "x")))
    file = reporter.file(jobs[2])
    file.start(jobs[2].source, 42)
    file.stage("upscaling")
    file.advance(12)
    return reporter


def test_lines(shown: io.StringIO):
    report(BatchReporter)
    lines = shown.getvalue().splitlines()
    assert lines[0] == "upscaling in/a.mp4"
    assert lines[1] == "note: in/a.mp4: Its colours are odd."
    assert lines[2] == "finishing in/a.mp4"
    assert lines[3].startswith("1/4 done: in/a.mp4")
    assert lines[4] == "note: in/b.mp4 cannot be read. It will be tried again."
    assert lines[5].startswith("2/4 failed: in/b.mp4 is bad (2 left, over 0:00:0")
    assert lines[6:] == ["upscaling in/c.mp4"]


def test_the_table(shown: io.StringIO):
    reporter = report(LiveReporter)
    assert "failed: in/b.mp4 is bad." in shown.getvalue()
    shown.truncate(0)
    batch_console.stderr.print(reporter.render())
    headings, numbers, running = shown.getvalue().strip("\0").splitlines()
    assert headings.split() == ["done", "running", "failed", "left", "frames", "fps", "time", "left"]
    assert numbers.split()[:5] == ["1", "1", "1", "1", "54"]
    assert "over 0:00:0" in numbers
    assert running.split()[:2] == ["upscaling", "in/c.mp4"]
    assert "12/42" in running


def test_a_terminal_gets_the_table_and_then_the_summary(start, make_clip, tmp_path: Path):
    (tmp_path / "in").mkdir()
    make_clip("in/a.mp4", 30)
    (tmp_path / "in/b.mp4").write_bytes(b"no video")
    ours, theirs = pty.openpty()
    process = start("batch", "in", "-o", "out", "-s", 2, stderr=theirs)
    os.close(theirs)
    text = b""
    while True:
        try:
            text += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"time left" in text
    assert b"in/b.mp4 is not a media file" in text
    assert text.rstrip().endswith(b"1 done, 1 failed")


def test_only_visible_characters_are_shown():
    assert visible("clip ü 映画 💥.mp4") == "clip ü 映画 💥.mp4"
    assert visible("a\x1b[2J\r\nb\x07\u202e\x9b\udcff") == r"a\x1b[2J\r\nb\x07\u202e\x9b\xff"
