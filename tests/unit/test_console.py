"""What people are told about speed."""

from rich.console import Console
from rich.progress import Progress

from flashvsr_cli import console
from flashvsr_cli.console import BarReporter, LineReporter


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_lines_do_not_count_frames_of_an_earlier_run(monkeypatch):
    clock, lines = Clock(), []
    monkeypatch.setattr(console, "time", clock)
    monkeypatch.setattr(console, "print_line", lines.append)
    reporter = LineReporter()
    reporter.start("in.mp4", 400)
    clock.now += 1
    reporter.skip(300)
    for _ in range(4):
        clock.now += 5
        reporter.advance(10)
    assert lines == ["frame 320/400, 2.00 fps, 40 s left", "frame 340/400, 2.00 fps, 30 s left"]


def test_the_bar_does_not_count_them_either():
    clock = Clock()
    with Progress(
        console._FpsColumn(), console=Console(quiet=True), get_time=clock.monotonic, auto_refresh=False
    ) as bars:
        reporter = BarReporter(bars)
        reporter.start("in.mp4", 400)
        for _ in range(300):
            reporter.skip(1)
        for _ in range(4):
            clock.now += 5
            reporter.advance(10)
        (task,) = bars.tasks
        assert (task.completed, task.total) == (340, 400)
        assert console._FpsColumn().render(task).plain == "2.00 fps"
        assert task.time_remaining == 30
