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


def tagged(path, tags):
    with av.open(str(path), "w", container_options={"movflags": "use_metadata_tags"}) as out:
        out.metadata.update(tags)
        stream = out.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), "rgb24")
        out.mux([*stream.encode(picture), *stream.encode(None)])
    return path


def tags_of(path):
    with av.open(str(path)) as opened:
        return dict(opened.metadata)


OF_A_CAMERA = {"com.apple.quicktime.make": "Äpple", "com.apple.quicktime.location.ISO6709": "+48+011/", "take": "7"}
CREATED = "2024-05-01T10:00:00.000000Z"


@pytest.mark.parametrize("target", ["out.mp4", "out.mov", "out.m4v", "out.mkv"])
def test_tags_without_a_field_are_kept(pass_through, tmp_path, target):
    clip = tagged(tmp_path / "in.mov", {**OF_A_CAMERA, "creation_time": CREATED})
    _, sink = pass_through(clip, tmp_path / target, FAST)
    assert sink.notices == []
    got = {name.lower(): value for name, value in tags_of(tmp_path / target).items()}
    assert {name: got.get(name.lower()) for name in OF_A_CAMERA} == OF_A_CAMERA
    assert got["creation_time"] == CREATED


@pytest.mark.parametrize("target", ["out.mp4", "out.mov"])
def test_tags_without_a_field_do_not_displace_the_title(pass_through, tmp_path, target):
    clip = tagged(tmp_path / "in.mov", {**OF_A_CAMERA, "title": "A walk", "artist": "Me"})
    out = tmp_path / target
    _, sink = pass_through(clip, out, FAST)
    assert (tags_of(out)["title"], tags_of(out)["artist"]) == ("A walk", "Me")
    assert b"\xa9nam" in {names[-1] for names, _ in boxes(out.read_bytes())}
    (notice,) = sink.notices
    assert "has no field for" in notice
    assert all(name in notice for name in OF_A_CAMERA)
    assert not OF_A_CAMERA.keys() & tags_of(out).keys()


def test_usual_tags_need_no_notice(pass_through, tmp_path):
    usual = {"title": "A", "artist": "B", "comment": "C", "date": "2024", "location": "+48.1000+011.5000/"}
    clip = tagged(tmp_path / "in.mp4", usual)
    _, sink = pass_through(clip, tmp_path / "out.mp4", FAST)
    _, again = pass_through(tmp_path / "out.mp4", tmp_path / "again.mp4", FAST)
    assert sink.notices == again.notices == []
    assert usual.items() <= tags_of(tmp_path / "again.mp4").items()
