"""kill -9 leaves a temporary: the next run of the same target removes it, and nothing else."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flashvsr_cli.video.targets import PartFile, PartFolder, is_temporary_name, temporary_beside

KILL = "9"
LONG = "a name of more than forty characters that another begins with, "


def leftovers(files: set[str]) -> list[str]:
    return sorted(name for name in files if is_temporary_name(name))


def dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def leave(target: Path, pid: int) -> Path:
    """What a writer of that number leaves when it is killed."""
    path = temporary_beside(target)
    path = path.with_name(path.name.replace(f"-{os.getpid()}-", f"-{pid}-"))
    path.write_bytes(b"half a video")
    return path


@pytest.mark.parametrize("target", ["out.mkv", "out/"])
def test_what_a_killed_run_left_is_removed(broken: Callable, target: str) -> None:
    stage = "encode" if target == "out.mkv" else "colour"
    ended = broken(stage, KILL, 12, "-o", target)
    assert ended.code == -int(KILL)
    assert len(leftovers({name.partition("/")[0] for name in ended.files})) == 1
    again = broken("finalise", "0", 9, "-o", target)
    assert again.code == 0, again.stderr
    assert not [name for name in again.files if ".part-" in name]


def test_what_a_killed_resumable_run_left_stays_until_it_is_resumed(broken: Callable) -> None:
    """Its journal says what can be kept; a run without --resume, or with other options, touches neither."""
    ended = broken("encode", KILL, 12, "-o", "out.mkv", "--resume", "--codec", "ffv1")
    assert ended.code == -int(KILL)
    (part,) = leftovers(ended.files)
    other = broken("finalise", "0", 9, "-o", "out.mkv", "--resume", "--codec", "ffv1", "--seed", "1")
    assert other.code == 1
    assert other.files == ended.files
    plain = broken("finalise", "0", 9, "-o", "out.mkv")
    assert plain.code == 0, plain.stderr
    assert plain.files == {*ended.files, "out.mkv"}
    resumed = broken("finalise", "0", 9, "-o", "out.mkv", "--resume", "--codec", "ffv1", "--overwrite")
    assert resumed.code == 0, resumed.stderr
    assert "Resumed behind" in resumed.stderr
    assert resumed.files == {"in.mp4", "out.mkv"}
    assert part not in resumed.files


def test_only_what_nobody_writes_and_is_of_this_target_goes(tmp_path: Path) -> None:
    target, pid = tmp_path / f"{LONG}1.mp4", dead_pid()
    gone = leave(target, pid)
    of_a_namesake = leave(tmp_path / f"{LONG}2.mp4", pid)
    of_another_kind = leave(target.with_suffix(".mkv"), pid)
    of_a_live_process = leave(target, os.getppid())
    mine = PartFile(target)
    second = PartFile(target)
    assert not gone.exists()
    assert all(path.exists() for path in (of_a_namesake, of_another_kind, of_a_live_process, mine.path, second.path))
    mine.abort()
    second.abort()


def test_a_lock_protects_where_the_number_does_not(tmp_path: Path) -> None:
    """As in containers, where every writer has number 1."""
    target = tmp_path / "out.mp4"
    writing = PartFile(target)
    moved = writing.path.with_name(writing.path.name.replace(f"-{os.getpid()}-", f"-{dead_pid()}-"))
    writing.path.rename(moved)
    PartFile(target).abort()
    assert moved.exists()
    os.close(writing._fd)
    PartFile(target).abort()
    assert not moved.exists()


def test_a_folder_half_written_goes_too(tmp_path: Path) -> None:
    target = tmp_path / "out"
    left = PartFolder(target)
    (left.path / "0001.png").write_bytes(b"picture")
    abandoned = left.path.rename(left.path.with_name(left.path.name.replace(f"-{os.getpid()}-", f"-{dead_pid()}-")))
    os.close(left._fd)
    again = PartFolder(target)
    assert not abandoned.exists()
    again.commit()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_link_in_its_place_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    path = leave(target, dead_pid())
    path.unlink()
    (tmp_path / "precious").mkdir()
    path.symlink_to(tmp_path / "precious")
    PartFile(target).abort()
    assert path.is_symlink()
    assert (tmp_path / "precious").is_dir()
