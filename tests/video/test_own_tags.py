"""A file's own tags: kept where the container has a field for them, and named where it has none."""

import av
import numpy as np
import pytest

from flashvsr_cli.options import EncodeOptions
from flashvsr_cli.video.reader import open_source

FAST = EncodeOptions(preset="ultrafast")


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
    assert b"\xa9nam" in out.read_bytes()
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


@pytest.mark.parametrize(
    ("target", "lost"),
    [
        ("out.mkv", []),
        ("out.webm", []),
        ("out.flv", []),
        ("out.avi", ["MYTAG", "creation_time"]),
        ("out.ts", ["title", "album", "MYTAG", "creation_time"]),
    ],
)
def test_what_has_no_field_is_named(pass_through, tmp_path, target, lost):
    tags = {"title": "A walk", "album": "Walks", "MYTAG": "mine", "creation_time": CREATED}
    clip, out = tagged(tmp_path / "in.mkv", tags), tmp_path / target
    _, sink = pass_through(clip, out)
    with open_source(str(out)) as source:
        got = {name.lower(): value for name, value in source.info.metadata}
    assert {name: got.get(name.lower()) for name in tags} == {n: None if n in lost else v for n, v in tags.items()}
    named = [notice.lower().partition("no field for ")[2].partition(":")[0] for notice in sink.notices]
    assert [set(names.split(", ")) for names in named] == ([{name.lower() for name in lost}] if lost else [])
    assert all(".mkv output keeps them" in notice for notice in sink.notices)


def test_avi_to_avi_keeps_its_fields(pass_through, tmp_path):
    clip = tagged(tmp_path / "in.mkv", {"title": "A walk", "album": "Walks"})
    pass_through(clip, tmp_path / "once.avi")
    _, sink = pass_through(tmp_path / "once.avi", tmp_path / "twice.avi")
    assert sink.notices == []
    assert tags_of(tmp_path / "twice.avi") == tags_of(tmp_path / "once.avi")


@pytest.mark.parametrize("target", ["out.ts", "out.flv"])
def test_titles_of_tracks_are_named_where_they_are_lost(make_clip, pass_through, tmp_path, target):
    plain, clip = make_clip("plain.mkv", n_audio=1), tmp_path / "in.mkv"
    with av.open(str(plain)) as source, av.open(str(clip), "w") as out:
        streams = [out.add_stream_from_template(stream, opaque=True) for stream in source.streams]
        for stream, title in zip(streams, ("Front", "Commentary"), strict=True):
            stream.metadata["title"] = title
        for packet in source.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    _, sink = pass_through(clip, tmp_path / target, FAST)
    assert any("title of the pictures: left out" in notice for notice in sink.notices)
    assert any("title of audio track 1 (aac, Commentary)" in notice for notice in sink.notices)
