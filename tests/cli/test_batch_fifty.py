"""A batch that one can leave alone: fifty files of which five are bad, and one that is killed in the middle."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from flashvsr_cli.batch.record import RECORD_NAME, Record

N_CLIPS, N_PICTURES, SCALE = 35, 10, 2
CLIP_SIZE, PICTURE_SIZE = (24, 32), (20, 28)
BAD = {
    "in/bad/empty.mp4": "in/bad/empty.mp4 is empty.",
    "in/bad/half.mp4": "in/bad/half.mp4 is not a media file, or it is cut short.",
    "in/bad/sound.mp4": "in/bad/sound.mp4 has no video track (it has: audio).",
    "in/bad/text.mp4": "in/bad/text.mp4 is not a media file, or it is cut short.",
    "in/half.png": "in/half.png",
}


def write_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000, layout="mono")
        block = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), format="fltp", layout="mono")
        block.sample_rate = 48000
        container.mux(stream.encode(block))
        container.mux(stream.encode(None))


@pytest.fixture
def _fifty(tmp_path: Path, make_clip, make_pictures) -> None:
    for folder in ("in/bad", "in/clips/deep"):
        (tmp_path / folder).mkdir(parents=True)
    for i_clip in range(N_CLIPS):
        folder = "in/clips/deep" if i_clip % 3 else "in/clips"
        make_clip(f"{folder}/{i_clip}.mp4", 1 + i_clip % 4, CLIP_SIZE, has_audio=i_clip % 5 == 0)
    for path in make_pictures("drawn", N_PICTURES + 1, PICTURE_SIZE).iterdir():
        path.rename(tmp_path / "in" / path.name)
    (tmp_path / "drawn").rmdir()
    half_picture = max((tmp_path / "in").glob("*.png"))
    (tmp_path / "in/half.png").write_bytes(half_picture.read_bytes()[: half_picture.stat().st_size // 2])
    half_picture.unlink()
    (tmp_path / "in/bad/empty.mp4").write_bytes(b"")
    (tmp_path / "in/bad/text.mp4").write_text("This is no video.\n" * 100)
    write_sound(tmp_path / "in/bad/sound.mp4")
    half_clip = make_clip("in/bad/half.mp4", 40)
    half_clip.write_bytes(half_clip.read_bytes()[: half_clip.stat().st_size // 2])


def stamps(folder: Path) -> dict[Path, tuple[int, int]]:
    """Inode and time of change of every visible file."""
    files = [path for path in folder.rglob("[!.]*.*") if path.is_file()]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


@pytest.mark.usefixtures("_fifty")
def test_fifty_files_of_which_five_are_bad(flashvsr, look: Callable, tmp_path: Path):
    command = ("batch", "in", "-o", "out", "-r", "-s", SCALE, "--report", "r.json")
    done = flashvsr(*command)
    assert done.code == 1, done.stderr
    assert "45 done, 5 failed" in done.stderr
    files = {file["input"]: file for file in json.loads((tmp_path / "r.json").read_text())["files"]}
    assert len(files) == 50
    assert {name for name, file in files.items() if file["state"] == "failed"} == set(BAD)
    for name, reason in BAD.items():
        assert files[name]["error"].startswith(reason)
        assert files[name]["next_step"]
        assert files[name]["attempts"] == 1
        assert files[name]["error"] in done.stderr
        assert not (tmp_path / name.replace("in/", "out/", 1)).exists()

    made = stamps(tmp_path / "out")
    assert len(made) == 45
    for name in sorted(files.keys() - BAD.keys()):
        result = tmp_path / name.replace("in/", "out/", 1)
        assert result in made
        source, target = look(tmp_path / name), look(result)
        assert target.size == (source.size[0] * SCALE, source.size[1] * SCALE)
        if result.suffix == ".mp4":
            assert (target.times, target.audio) == (source.times, source.audio)

    again = flashvsr(*command)
    assert again.code == 1
    assert "45 skipped, 5 failed" in again.stderr
    assert stamps(tmp_path / "out") == made, "neither inodes nor times have changed"
    states = {file["input"]: file for file in json.loads((tmp_path / "r.json").read_text())["files"]}
    assert {name for name, file in states.items() if "attempts" in file} == set(BAD), "nothing else was tried"
    assert "loading" not in again.stderr, "the model was not even loaded"

    for name in BAD:
        (tmp_path / name).unlink()
    (tmp_path / "in/bad/text.mp4").write_bytes((tmp_path / "in/clips/0.mp4").read_bytes())
    mended = flashvsr(*command[:-2], "--only-failed")
    assert mended.code == 0, mended.stderr
    assert "1 done\n" in mended.stderr
    assert {path: stamp for path, stamp in stamps(tmp_path / "out").items() if path in made} == made
    assert look(tmp_path / "out/bad/text.mp4").n_frames == 1


def wait_until(condition: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("options", [(), ("--resume",)])
def test_a_batch_that_is_killed_goes_on(flashvsr, start, make_clip, look, tmp_path: Path, options: tuple[str, ...]):
    (tmp_path / "in").mkdir()
    for i_clip in range(4):
        make_clip(f"in/{i_clip}.mp4", 60, (32, 32))
    out = tmp_path / "out"
    command = ("batch", "in", "-o", "out", "-s", SCALE, *options)
    process = start(*command, stdout=subprocess.DEVNULL)
    wait_until(lambda: "1.mp4" in Record(out).made and list(out.glob(".2*")), process)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    before = stamps(out)
    assert before

    done = flashvsr(*command)
    assert done.code == 0, done.stderr
    assert {path.name for path in out.glob("[!.]*")} == {f"{i}.mp4" for i in range(4)}
    assert {path: stamp for path, stamp in stamps(out).items() if path in before} == before
    assert {look(out / f"{i}.mp4").n_frames for i in range(4)} == {60}
    assert [path.name for path in out.glob(".*")] == [RECORD_NAME], "what the dead process left is gone"
    assert set(Record(out).made) == {f"{i}.mp4" for i in range(4)}
