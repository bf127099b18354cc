"""Closed captions lie within the pictures, and are lost with them: that is said."""

import av
import pytest

from flashvsr_cli.options import InputOptions
from flashvsr_cli.video.reader import open_source

# ATSC A/53, 6.2.3: one pair of CTA-608 bytes in the user data of a picture; as an SEI message of H.264.
CAPTION = bytes([0xB5, 0, 0x31]) + b"GA94" + bytes([3, 0x40 | 1, 0xFF, 0xFC, 0x94, 0x2C, 0xFF])
MESSAGE = bytes([6, 4, len(CAPTION)]) + CAPTION + b"\x80"


def with_captions(plain, target, first):
    """The clip with a caption in every packet from the n-th on."""
    with av.open(str(plain)) as source, av.open(str(target), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0], opaque=True)
        for i, packet in enumerate(p for p in source.demux(video=0) if p.size):
            extra = len(MESSAGE).to_bytes(4, "big") + MESSAGE if i >= first else b""
            changed = av.Packet(extra + bytes(packet))
            changed.pts, changed.dts, changed.duration = packet.pts, packet.dts, packet.duration
            changed.time_base, changed.is_keyframe, changed.stream = packet.time_base, packet.is_keyframe, stream
            out.mux(changed)
    return target


@pytest.mark.parametrize("first", [0, 7])
@pytest.mark.parametrize("deinterlace", ["off", "on"])
def test_captions_that_are_lost_are_named_once(make_clip, tmp_path, first, deinterlace):
    clip = with_captions(make_clip("plain.mp4"), tmp_path / "in.mp4", first)
    with open_source(str(clip), InputOptions(deinterlace=deinterlace)) as source:
        assert len(list(source)) == 12
    named = [notice for notice in source.notices if "ccextractor" in notice]
    assert named == [f"The captions in the pictures of {clip} are left out; ccextractor reads them."]


def test_none_are_named_where_none_are(make_clip, tmp_path):
    for clip, options in (
        (make_clip("plain.mp4"), InputOptions()),
        (with_captions(make_clip("plain.mp4"), tmp_path / "late.mp4", 7), InputOptions(max_frames=7)),
    ):
        with open_source(str(clip), options) as source:
            list(source)
        assert not any("ccextractor" in notice for notice in source.notices)
