"""Files put together from sessions of several encoders: every frame once, at its time, with the sound where it was."""

import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from flashvsr_cli.errors import ResumeError
from flashvsr_cli.options import EncodeOptions
from flashvsr_cli.resume_sink import ResumableSink, open_resumable_sink
from flashvsr_cli.video.reader import open_source
from flashvsr_cli.video.writer import open_sink

SIZE = (32, 32)
N_FRAMES = 90
CODECS = [
    ("out.mp4", EncodeOptions(codec="libx264", preset="veryfast", crf=8, pix_fmt="yuv444p")),
    ("out.mkv", EncodeOptions(codec="libx265", preset="ultrafast", crf=8, pix_fmt="yuv444p")),
    ("out.mkv", EncodeOptions(codec="ffv1")),
    ("out.mov", EncodeOptions(codec="prores_ks")),
    ("out.webm", EncodeOptions(codec="libvpx-vp9", crf=10, audio="none")),
    ("out.mp4", EncodeOptions(codec="libsvtav1", preset="10", crf=20)),
]
IDS = [f"{options.codec}-{name}" for name, options in CODECS]


def write(source: Path, target: Path, options: EncodeOptions, n_frames: int | None) -> ResumableSink:
    """A session that stops after so many frames without another word, or ends the file."""
    with open_source(str(source)) as opened:
        sink = open_resumable_sink(str(target), opened, SIZE, options)
        sink.begin({})
        for i_frame, frame in enumerate(opened):
            if i_frame == n_frames:
                return sink
            sink.write(frame)
        if n_frames is None:
            sink.commit()
    return sink


def die(sink: ResumableSink) -> None:
    """As after kill -9: nothing is flushed, descriptors are closed by the system."""
    sink._journal.close()
    sink._target.abort()


@pytest.fixture
def fidelity(paint: Callable[..., np.ndarray]) -> Callable[[np.ndarray], float]:
    """PSNR in dB of the worst picture against what was filmed: a picture out of place shows at once."""

    def measure(pictures: np.ndarray) -> float:
        errors = [((picture.astype(float) - paint(i, SIZE)) ** 2).mean() for i, picture in enumerate(pictures)]
        return 10 * np.log10(255**2 / max(errors))

    return measure


@pytest.fixture
def whole(make_clip: Callable[..., Path], tmp_path: Path) -> Callable[[str, EncodeOptions], Path]:
    """The file that a single plain session makes, in `tmp_path/whole`."""
    make_clip("in.mp4", N_FRAMES, SIZE, is_vfr=True)
    (tmp_path / "whole").mkdir()

    def make(name: str, options: EncodeOptions) -> Path:
        target = tmp_path / "whole" / name
        with open_source(str(tmp_path / "in.mp4")) as opened:
            sink = open_sink(str(target), opened, SIZE, options)
            for frame in opened:
                sink.write(frame)
            sink.commit()
        return target

    return make


@pytest.mark.parametrize(("name", "options"), CODECS, ids=IDS)
def test_without_an_interruption_it_is_the_same_file(
    whole: Callable[..., Path],
    look: Callable[[Path], Any],
    tmp_path: Path,
    fidelity: Callable[[np.ndarray], float],
    name: str,
    options: EncodeOptions,
) -> None:
    plain = look(whole(name, options))
    write(tmp_path / "in.mp4", tmp_path / name, options, None)
    kept = look(tmp_path / name)
    assert kept.video == plain.video
    assert kept.audio == plain.audio
    if options.codec == "ffv1":  # lossy encoders with threads differ a little from run to run
        assert np.array_equal(kept.pictures, plain.pictures)
    assert fidelity(kept.pictures) > fidelity(plain.pictures) - 1
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(("name", "options"), CODECS, ids=IDS)
@pytest.mark.parametrize("stops", [(30,), (1, 2, 60), (7, 45, 46, 80, 89, 90)], ids=str)
def test_sessions_make_one_file(
    whole: Callable[..., Path],
    look: Callable[[Path], Any],
    tmp_path: Path,
    fidelity: Callable[[np.ndarray], float],
    name: str,
    options: EncodeOptions,
    stops: tuple[int, ...],
) -> None:
    plain = look(whole(name, options))
    target = tmp_path / name
    for stop in stops:
        die(write(tmp_path / "in.mp4", target, options, stop))
        assert not target.exists()
    last = write(tmp_path / "in.mp4", target, options, None)
    assert last.n_frames == N_FRAMES
    joined = look(target)
    assert joined.times == plain.times
    assert sorted(p for p, _, _ in joined.video) == sorted(p for p, _, _ in plain.video)
    timed = [(pts, dts) for pts, dts, _ in joined.video if dts is not None]
    assert all(a[1] < b[1] for a, b in pairwise(timed))
    assert all(dts <= pts for pts, dts in timed)
    assert joined.audio == plain.audio
    assert fidelity(joined.pictures) > fidelity(plain.pictures) - 3
    assert {p.name for p in tmp_path.iterdir()} == {"in.mp4", "whole", name}


def test_an_orderly_end_keeps_what_the_encoder_held(make_clip: Callable[..., Path], tmp_path: Path) -> None:
    source = make_clip("in.mp4", N_FRAMES, SIZE)
    target, (_, options) = tmp_path / "out.mp4", CODECS[0]
    write(source, target, options, 40).abort()
    assert {p.name for p in tmp_path.iterdir()} == {"in.mp4", ".out.mp4.resume"}
    with open_source(str(source)) as opened:
        sink = open_resumable_sink(str(target), opened, SIZE, options)
        sink.begin({})
        assert sink.n_done == 40
        sink.abort()


def test_cut_at_any_byte_the_journal_makes_a_whole_file(
    make_clip: Callable[..., Path], look: Callable[[Path], Any], tmp_path: Path
) -> None:
    source = make_clip("in.mp4", 40, SIZE)
    target, (_, options) = tmp_path / "out.mp4", CODECS[0]
    write(source, target, options, 40).abort()
    journal = tmp_path / ".out.mp4.resume"
    data = journal.read_bytes()
    times = None
    for length in random.Random(1).sample(range(len(data)), 12):
        journal.write_bytes(data[:length])
        write(source, target, options, None)
        contents = look(target)
        assert len(contents.times) == 40
        times = times or contents.times
        assert contents.times == times
        target.unlink()


def test_another_encoder_setting_is_refused(make_clip: Callable[..., Path], tmp_path: Path) -> None:
    source = make_clip("in.mp4", 20, SIZE)
    target, (_, options) = tmp_path / "out.mp4", CODECS[0]
    write(source, target, options, 10).abort()
    with pytest.raises(ResumeError, match="encoding options crf was 8 and is 20"):
        write(source, target, EncodeOptions(codec="libx264", preset="veryfast", crf=20, pix_fmt="yuv444p"), None)


def write_ramp(path: Path, n_frames: int) -> np.ndarray:
    """A clip that is more opaque to the right, and less from frame to frame: (frames, height, width)."""
    alphas = np.stack([np.tile(np.arange(32) * 7 - 2 * i + 30, (32, 1)) for i in range(n_frames)]).astype(np.uint8)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuva420p"
        for i, alpha in enumerate(alphas):
            image = np.dstack([np.full((32, 32, 3), 120, np.uint8), alpha])
            picture = av.VideoFrame.from_ndarray(image, "rgba").reformat(format="yuva420p")
            picture.pts = i
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    return alphas


@pytest.mark.parametrize("name", ["out.webm", "out.mkv"])
@pytest.mark.parametrize("stops", [(), (9,)], ids=str)
def test_transparency_is_kept(tmp_path: Path, name: str, stops: tuple[int, ...]) -> None:
    """VP9 encodes it as a second picture beside the first."""
    alphas = write_ramp(tmp_path / "in.mkv", 20)
    options = EncodeOptions(codec="libvpx-vp9", crf=4)
    for stop in stops:
        write(tmp_path / "in.mkv", tmp_path / name, options, stop).abort()
    last = write(tmp_path / "in.mkv", tmp_path / name, options, None)
    assert last.n_done == sum(stops)
    with open_source(str(tmp_path / name)) as source:
        kept = [frame.alpha for frame in source]
    assert all(alpha is not None for alpha in kept)
    assert np.abs(np.stack(kept).astype(int) - alphas).max() <= 8
