"""Outputs appear whole or not at all, whatever happens on the way."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from flashvsr_cli.errors import OutputError, UsageError
from flashvsr_cli.options import EncodeOptions
from flashvsr_cli.video.frame import Frame
from flashvsr_cli.video.reader import open_source
from flashvsr_cli.video.targets import PartFile, is_temporary_name, temporary_beside
from flashvsr_cli.video.writer import open_sink

TARGETS = ["out.mp4", "out.mkv", "out.mov", "out.y4m", "out.png", "frames/"]


def open_for(clip, target):
    source = open_source(str(clip))
    return source, open_sink(str(target), source, source.info.size)


def clip_for(make_clip, target):
    return make_clip("in.mp4", pts=(0,) if str(target).endswith(".png") else tuple(range(12)), n_audio=1)


def target_in(folder, target):
    return f"{folder}/{target}"


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_has_the_final_name_before_commit(make_clip, tmp_path, target):
    clip = clip_for(make_clip, target)
    source, sink = open_for(clip, target_in(tmp_path, target))
    with source:
        for frame in source:
            sink.write(frame)
        assert not Path(target_in(tmp_path, target)).exists()
        others = [p for p in tmp_path.iterdir() if p != clip]
        assert len(others) == 1
        assert others[0].name.startswith(".")
        assert ".part" in others[0].name
        assert target.endswith("/") or others[0].suffix == Path(target).suffix
        assert is_temporary_name(others[0].name)
        sink.commit()
        sink.abort()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["in.mp4", target.rstrip("/")])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("n_frames", [0, 1])
def test_abort_leaves_nothing(make_clip, tmp_path, target, n_frames):
    clip = clip_for(make_clip, target)
    source, sink = open_for(clip, target_in(tmp_path, target))
    with source:
        for _, frame in zip(range(n_frames), source, strict=False):
            sink.write(frame)
        sink.abort()
        sink.abort()
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


@pytest.mark.parametrize("target", TARGETS)
def test_no_frames_is_no_output(make_clip, tmp_path, target):
    source, sink = open_for(clip_for(make_clip, target), target_in(tmp_path, target))
    with source, pytest.raises(OutputError, match=r"no (frames|picture)"):
        sink.commit()
    sink.abort()
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_existing_target_stays_until_commit(make_clip, tmp_path):
    clip = make_clip("in.mp4")
    target = tmp_path / "out.mp4"
    target.write_bytes(b"old")
    source, sink = open_for(clip, target)
    with source:
        for frame in source:
            sink.write(frame)
        assert target.read_bytes() == b"old"
        sink.commit()
    assert target.stat().st_size > 1000


@pytest.mark.parametrize("has_links", [True, False])
@pytest.mark.parametrize("target", TARGETS)
def test_what_appears_meanwhile_is_not_replaced(make_clip, tmp_path, monkeypatch, target, has_links):
    """Nor where the file system knows no hard links."""
    if not has_links:
        monkeypatch.setattr(os, "link", refuse_link)
    place = Path(target_in(tmp_path, target))
    precious = place / "frame-000003.png" if target.endswith("/") else place
    source, sink = open_for(clip_for(make_clip, target), target_in(tmp_path, target))
    with source:
        for frame in source:
            sink.write(frame)
        precious.parent.mkdir(exist_ok=True)
        precious.write_bytes(b"precious")
        with pytest.raises(OutputError, match="cannot be written: file exists") as caught:
            sink.commit()
        sink.abort()
    assert "--overwrite" in caught.value.next_step
    assert precious.read_bytes() == b"precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["in.mp4", place.name])
    assert target != "frames/" or [p.name for p in place.iterdir()] == [precious.name]


def refuse_link(*_):
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("has_links", [True, False])
@pytest.mark.parametrize("target", TARGETS)
def test_what_appears_meanwhile_is_replaced_if_that_is_wanted(make_clip, tmp_path, monkeypatch, target, has_links):
    if not has_links:
        monkeypatch.setattr(os, "link", refuse_link)
    place = Path(target_in(tmp_path, target))
    replaced = place / "frame-000003.png" if target.endswith("/") else place
    source = open_source(str(clip_for(make_clip, target)))
    sink = open_sink(target_in(tmp_path, target), source, source.info.size, overwrite=True)
    with source:
        for frame in source:
            sink.write(frame)
        replaced.parent.mkdir(exist_ok=True)
        replaced.write_bytes(b"old")
        sink.commit()
    assert replaced.stat().st_size > 100
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["in.mp4", place.name])


@pytest.mark.parametrize("target", TARGETS)
def test_without_hard_links_a_file_is_renamed(make_clip, tmp_path, monkeypatch, target):
    monkeypatch.setattr(os, "link", refuse_link)
    test_nothing_has_the_final_name_before_commit(make_clip, tmp_path, target)


def test_input_may_be_replaced_by_its_own_output(make_clip, pass_through, packets):
    clip = make_clip("in.mp4", n_audio=1)
    before = packets(clip, "audio")
    pass_through(clip, clip)
    assert packets(clip, "audio") == before


def test_link_is_followed(make_clip, pass_through, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.mp4").symlink_to(tmp_path / "real" / "out.mp4")
    pass_through(make_clip("in.mp4"), tmp_path / "link.mp4")
    assert (tmp_path / "link.mp4").is_symlink()
    assert (tmp_path / "real" / "out.mp4").stat().st_size > 1000


def test_two_temporaries_never_share_a_name(tmp_path):
    first, second = temporary_beside(tmp_path / "a.mp4"), temporary_beside(tmp_path / "a.mp4")
    assert first != second
    long_name = temporary_beside(tmp_path / ("ü" * 120 + ".mp4"))
    PartFile(long_name).abort()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("none/out.mp4", "does not exist"),
        ("out.xyz", "no video container"),
        ("out", "no extension"),
        ("none/frames/", "does not exist"),
    ],
)
def test_impossible_places_are_refused_at_opening(make_clip, tmp_path, target, words):
    clip = make_clip("in.mp4")
    with open_source(str(clip)) as source, pytest.raises(OutputError, match=words) as caught:
        open_sink(target_in(tmp_path, target), source, source.info.size)
    assert caught.value.next_step


def test_pipe_format_for_a_file_is_refused(make_clip, tmp_path):
    with open_source(str(make_clip("in.mp4"))) as source, pytest.raises(UsageError):
        open_sink(str(tmp_path / "o.mp4"), source, source.info.size, EncodeOptions(pipe_format="y4m"))


PROGRAM = """
import sys, time
from flashvsr_cli.errors import FlashVSRError
from flashvsr_cli.video.frame import Frame
from flashvsr_cli.video.reader import open_source
from flashvsr_cli.video.threads import ReadAhead, WriteBehind
from flashvsr_cli.video.writer import open_sink

clip, target, pause = sys.argv[1], sys.argv[2], float(sys.argv[3])
try:
    with open_source(clip) as source:
        height, width = source.info.size
        sink = open_sink(target, source, (height * 4, width * 4))
        reader, writer = ReadAhead(source), WriteBehind(sink)
        try:
            for i, frame in enumerate(reader):
                writer.write(Frame(frame.image.repeat(4, 0).repeat(4, 1), frame.pts, frame.duration))
                if i == 20:
                    print("running", flush=True)
                time.sleep(pause)
            writer.commit()
        finally:
            writer.abort()
            reader.close()
except FlashVSRError as error:
    print(error.message, "|", error.next_step, file=sys.stderr)
    sys.exit(error.exit_code)
except KeyboardInterrupt:
    sys.exit(130)
"""


def start(clip, target, pause=0.0, limit=None):
    def set_limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(clip), str(target), str(pause)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=set_limit if limit else None,
    )


@pytest.fixture
def noisy_clip(make_clip):
    return make_clip("in.mkv", codec="ffv1", options=(), pts=tuple(range(60)), size=(96, 128))


@pytest.mark.parametrize("target", ["out.mp4", "out.mkv", "out.y4m", "frames/"])
def test_file_size_limit_is_reported_and_leaves_nothing(noisy_clip, tmp_path, target):
    limit = 20_000 if target == "frames/" else 60_000
    process = start(noisy_clip, target_in(tmp_path, target), limit=limit)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 1, messages
    assert b"cannot be written: file too large" in messages
    assert b"Traceback" not in messages
    assert [p.name for p in tmp_path.iterdir()] == ["in.mkv"]


@pytest.fixture
def tiny_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("mounting a small tmpfs is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("target", ["out.mp4", "out.mkv", "out.y4m", "frames/"])
def test_full_disk_is_reported_and_leaves_nothing(noisy_clip, tiny_disk, target):
    process = start(noisy_clip, target_in(tiny_disk, target))
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 1, messages
    assert b"no space left" in messages
    assert b"Free some space" in messages
    assert list(tiny_disk.iterdir()) == []


@pytest.mark.parametrize("target", ["out.mp4", "out.y4m", "frames/"])
def test_kill_leaves_no_final_file(noisy_clip, tmp_path, target):
    process = start(noisy_clip, target_in(tmp_path, target), pause=0.05)
    assert process.stdout.readline() == b"running\n"
    process.kill()
    process.communicate(timeout=60)
    assert all(p == noisy_clip or is_temporary_name(p.name) for p in tmp_path.iterdir())


@pytest.mark.parametrize("target", ["out.mp4", "out.y4m", "frames/"])
def test_interrupt_ends_soon_and_leaves_nothing(noisy_clip, tmp_path, target):
    process = start(noisy_clip, target_in(tmp_path, target), pause=0.05)
    assert process.stdout.readline() == b"running\n"
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, messages = process.communicate(timeout=60)
    assert time.monotonic() - started < 2
    assert process.returncode == 130, messages
    assert [p.name for p in tmp_path.iterdir()] == ["in.mkv"]


def test_output_folder_removed_on_the_way(make_clip, tmp_path):
    import shutil

    folder = tmp_path / "gone"
    folder.mkdir()
    source, sink = open_for(make_clip("in.mp4"), folder / "out.mp4")
    with source:
        for frame in source:
            sink.write(frame)
        shutil.rmtree(folder)
        with pytest.raises(OutputError, match="cannot be written"):
            sink.commit()
        sink.abort()


def test_frames_of_a_single_picture_sink_are_limited(tmp_path, make_clip):
    source, sink = open_for(make_clip("in.mp4", pts=(0,)), tmp_path / "o.png")
    with source:
        frame = next(iter(source))
        sink.write(frame)
        with pytest.raises(OutputError, match="one picture"):
            sink.write(Frame(np.zeros_like(frame.image)))
    sink.abort()


@pytest.mark.parametrize(
    ("options", "other"),
    [
        (EncodeOptions(crf=30, purpose="archive"), "qp=0, which --preset-for archive sets"),
        (EncodeOptions(crf=10, encoder_options=(("crf", "20"),)), "crf=20"),
        (EncodeOptions(crf=10, codec="libx265", encoder_options=(("qp", "3"),)), "qp=3"),
    ],
)
def test_two_qualities_are_refused(make_clip, pass_through, tmp_path, options, other):
    with pytest.raises(UsageError, match=f"--crf {options.crf:g} contradicts the encoder.s {other}"):
        pass_through(make_clip("in.mp4"), tmp_path / "out.mp4", options)
    assert not list(tmp_path.glob("out*"))
