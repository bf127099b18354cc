"""Times of the pictures and of the sound beside them."""

import itertools
from fractions import Fraction
from pathlib import Path

import av
import pytest

from flashvsr_cli.options import EncodeOptions
from flashvsr_cli.video.mp4 import movie_duration
from flashvsr_cli.video.reader import open_source

CONTAINERS = ("mp4", "mov", "mkv", "webm", "ts")
B_FRAMES = (("preset", "medium"), ("bf", "3"), ("crf", "10"))
VFR = ((0, 40, 45, 160, 200, 400, 433, 600), (40, 5, 115, 40, 200, 33, 167, 50))
CFR = (tuple(range(0, 320, 40)), (40,) * 8)
CLIPS = [
    f"{rate} rate, {start}{order}{hidden}"
    for rate, start, order, hidden in itertools.product(
        ("constant", "variable"), ("at 0", "at 1.48 s"), ("", ", B-frames"), ("", ", edit list")
    )
    if not (hidden and (start != "at 0" or not order))
] + [
    f"constant rate, {start}, B-frames{hidden}, with AAC"
    for start, hidden in (("at 0", ""), ("at 0", ", edit list"), ("at 1.48 s", ""))
]
TIME_CELLS = list(itertools.product(["Times"], CLIPS, CONTAINERS))


@pytest.mark.parametrize("cell", TIME_CELLS, ids="-".join)
def test_times(make_clip, pass_through, packets, note, tmp_path, cell):
    pts, durations = VFR if cell[1].startswith("variable") else CFR
    has_sound = cell[1].endswith("AAC")
    offset = 1480 if "1.48" in cell[1] else 0
    clip = make_clip(
        "in.mp4",
        pts=tuple(p + offset for p in pts),
        durations=durations,
        time_base=Fraction(1, 1000),
        options=B_FRAMES if "B-frames" in cell[1] else (("preset", "ultrafast"), ("crf", "10")),
        n_audio=int(has_sound),
    )
    if "edit list" in cell[1]:
        clip = hide_start(clip, tmp_path / "edited.mp4")
    with open_source(str(clip)) as source:
        frames = list(source)
        base = source.info.time_base
        expected = [f.pts * base for f in frames]
        end = (frames[-1].pts + (frames[-1].duration or 0)) * base
    out = tmp_path / f"out.{cell[2]}"
    is_webm = cell[2] == "webm"
    audio = "transcode" if is_webm else "copy"
    pass_through(clip, out, EncodeOptions(preset=None if is_webm else "fast", audio=audio))
    got = sorted(p for p, *_ in packets(out, "video"))
    assert len(got) == len(expected)
    # MPEG-TS starts where its muxer likes; only distances mean anything there.
    lag = got[0] - expected[0] if cell[2] == "ts" else Fraction(0)
    worst = max(abs(a - b - lag) for a, b in zip(got, expected, strict=True))
    with av.open(str(out)) as opened:
        tick = opened.streams.video[0].time_base
    assert worst <= tick
    if has_sound and not is_webm:
        n_header = 7 if cell[2] == "ts" else 0  # MPEG-TS puts a header in front of every packet of AAC
        heard = {content: time for time, *_, content in packets(clip, "audio")}
        lags = [time - lag - heard[content[n_header:]] for time, *_, content in packets(out, "audio")]
        # The packet across the start begins there where a container cannot hide its first part.
        assert all(abs(late) <= tick for late in lags[1:])
        assert abs(lags[0]) <= Fraction(512, 48000) + tick
        assert len(heard) - len(lags) <= (6 if "edit list" in cell[1] else 1)
    if cell[2] in ("mp4", "mov") and not has_sound:
        assert abs(movie_duration(out)[0] - end) <= tick
    note("exact" if worst == 0 else f"to one tick (1/{tick.denominator} s)")


def hide_start(clip: Path, target: Path) -> Path:
    """Copied from the middle of a group: MP4 holds what is in front of the start, and its edit list hides it."""
    with av.open(str(clip)) as opened, av.open(str(target), "w") as out:
        streams = {s.index: out.add_stream_from_template(s, opaque=True) for s in opened.streams}
        for packet in opened.demux():
            if packet.dts is not None:
                ticks = round(Fraction(1, 10) / packet.time_base)
                packet.pts, packet.dts = packet.pts - ticks, packet.dts - ticks
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    return target
