"""What MP4 and MOV files say in their boxes, which players other than FFmpeg go by."""

from fractions import Fraction

import av
import numpy as np
import pytest

from flashvsr_cli.options import EncodeOptions
from flashvsr_cli.video.reader import open_source

FAST = EncodeOptions(preset="ultrafast")
PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"udta", b"meta", b"ilst")


def boxes(data, start=0, end=None, path=()):
    """(path of names, contents) of all boxes."""
    at, end = start, len(data) if end is None else end
    while at + 8 <= end:
        size, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        assert size >= 8
        yield (*path, name), data[at + 8 : at + size]
        if name in PARENTS:
            yield from boxes(data, at + (12 if name == b"meta" else 8), at + size, (*path, name))
        at += size
    assert at == end


def stored(path):
    """Contents of all boxes of a file, by name."""
    found = {}
    for names, contents in boxes(path.read_bytes()):
        found.setdefault(names[-1], []).append(contents)
    return found


def with_cover(plain, target):
    picture = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 9, np.uint8), "rgb24")
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 16, 16, "rgb24", Fraction(1)
    cover = b"".join(bytes(p) for p in (*encoder.encode(picture), *encoder.encode(None)))
    with av.open(str(plain)) as source, av.open(str(target), "w") as out:
        streams = {s.index: out.add_stream_from_template(s, opaque=True) for s in source.streams}
        out.add_attachment("cover.png", "image/png", cover)
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    return cover


def test_a_cover_is_no_track_of_its_own(make_clip, pass_through, packets, tmp_path):
    plain, clip, out = make_clip("plain.mp4", n_audio=1), tmp_path / "in.mkv", tmp_path / "out.mp4"
    cover = with_cover(plain, clip)
    _, sink = pass_through(clip, out, FAST)
    assert sink.notices == []
    with av.open(str(out)) as opened:
        kinds = [(s.type, bool(s.disposition & av.stream.Disposition.attached_pic)) for s in opened.streams]
    assert kinds == [("video", False), ("audio", False), ("video", True)]
    found = stored(out)
    assert len(found[b"trak"]) == 2
    assert found[b"covr"][0].endswith(cover)
    assert [sizes[8:12] for sizes in found[b"stsz"]] == [
        (12).to_bytes(4, "big"),
        len(packets(out, "audio")).to_bytes(4, "big"),
    ]
    with open_source(str(out)) as source:
        assert len(list(source)) == 12
        assert not any("video tracks" in notice for notice in source.notices)


@pytest.mark.parametrize("target", ["out.mp4", "out.mov"])
def test_hevc_has_the_name_that_apples_players_know(make_clip, pass_through, decode, tmp_path, target):
    out = tmp_path / target
    pass_through(make_clip("in.mp4"), out, EncodeOptions(preset="ultrafast", codec="libx265"))
    (described,) = stored(out)[b"stsd"]
    assert described[12:16] == b"hvc1"
    assert len(decode(out)) == 12
