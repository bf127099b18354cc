"""The Y4M parser and writer."""

from fractions import Fraction

import av
import numpy as np
import pytest

from flashvsr_cli.errors import InputError, UsageError
from flashvsr_cli.options import EncodeOptions
from flashvsr_cli.video.pixel_format import describe_pixel_format
from flashvsr_cli.video.reader import open_source
from flashvsr_cli.video.y4m import CHROMA_FORMATS, Y4mHeader, parse_header


@pytest.mark.parametrize("chroma", sorted(set(CHROMA_FORMATS) - {"444alpha"}))
@pytest.mark.parametrize("size", [(24, 32), (17, 23)])
def test_every_chroma_format_returns_as_itself(tmp_path, chroma, size, pass_through, y4m_stream, split_y4m):
    data, frames = y4m_stream(chroma, size=size, n_frames=2)
    (tmp_path / "in.y4m").write_bytes(data)
    pass_through(tmp_path / "in.y4m", tmp_path / "out.y4m")
    header, returned = split_y4m((tmp_path / "out.y4m").read_bytes())
    assert header == Y4mHeader(size, Fraction(30000, 1001), chroma=chroma)
    step = 2 ** (describe_pixel_format(CHROMA_FORMATS[chroma]).bits - 8)
    for planes, got in zip(frames, returned, strict=True):
        luma = np.frombuffer(got, planes[0].dtype, planes[0].size).reshape(planes[0].shape)
        # Chroma that is resampled moves luma a little; without resampling it must be exact to a level.
        limit = 1 if chroma.startswith(("444", "mono")) else 3
        assert np.abs(luma.astype(int) - planes[0].astype(int)).max() <= limit * step


def test_alpha_stays_and_the_raw_stream_says_that_it_cannot(tmp_path, pass_through, y4m_stream, split_y4m):
    data, planes = y4m_stream("444alpha", n_frames=2)
    (tmp_path / "in.y4m").write_bytes(data)
    _, sink = pass_through(tmp_path / "in.y4m", tmp_path / "out.y4m")
    assert sink.notices == []
    header, frames = split_y4m((tmp_path / "out.y4m").read_bytes())
    assert (header.chroma, len(frames)) == ("444alpha", 2)
    assert [frame[-planes[0][3].nbytes :] for frame in frames] == [p[3].tobytes() for p in planes]


def test_header_tokens_are_kept(tmp_path, pass_through, y4m_stream, split_y4m):
    header = Y4mHeader((24, 32), Fraction(24000, 1001), "p", Fraction(10, 11), "422", 2)
    (tmp_path / "in.y4m").write_bytes(y4m_stream("422", header=header)[0])
    pass_through(tmp_path / "in.y4m", tmp_path / "out.y4m")
    assert split_y4m((tmp_path / "out.y4m").read_bytes())[0] == header


def test_ffmpeg_reads_what_is_written(tmp_path, pass_through, y4m_stream):
    (tmp_path / "in.y4m").write_bytes(y4m_stream("420p10")[0])
    pass_through(tmp_path / "in.y4m", tmp_path / "out.y4m", scale=2)
    with av.open(str(tmp_path / "out.y4m")) as out:
        stream = out.streams.video[0]
        assert (stream.average_rate, stream.pix_fmt, stream.height) == (Fraction(30000, 1001), "yuv420p10le", 48)
        assert sum(1 for _ in out.decode(video=0)) == 5


GOOD = b"YUV4MPEG2 W4 H2 F25:1 Ip A1:1 C444\n"


@pytest.mark.parametrize(
    ("line", "word"),
    [
        (b"YUV4MPEG2 W4 H2 F25:1 C999", "C999"),
        (b"YUV4MPEG2 W4 F25:1", "size"),
        (b"YUV4MPEG2 W-4 H2", "W-4"),
        (b"YUV4MPEG2 W99999 H2", "size"),
        (b"YUV4MPEG2 W4 H2 F25", "F25"),
        (b"YUV4MPEG2 W4 H2 F25:0", "F25:0"),
        (b"YUV4MPEG2 W4 H2 Iq", "Iq"),
        (b"YUV4MPEG2 W4 H2 Im", "mixes"),
        (b"YUV4MPEG2 W4 H2 Q1", "Q1"),
        (b"YUV4MPEG2 W4 H2 A\xff", "text"),
        (b"YUV4MPEG W4 H2", "header"),
    ],
)
def test_bad_headers_are_refused_by_name(line, word):
    with pytest.raises(InputError, match=word):
        parse_header(line)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (GOOD + b"FRAME\n" + bytes(24) + b"FRAME\n" + bytes(23), "middle of frame 1: 23 of 24"),
        (GOOD + b"FRAME\n" + bytes(24) + b"FRAMX\n" + bytes(24), "frame 1"),
        (GOOD + b"FRAME\n" + bytes(24) + b"FR", "frame 1"),
        (GOOD + b"FRAMES\n" + bytes(24), "frame 0"),
        (GOOD, "no frames"),
        (b"YUV4MPEG2 " + b"X" * 2000, "does not end"),
    ],
)
def test_bad_streams_are_refused(tmp_path, data, words):
    (tmp_path / "in.y4m").write_bytes(data)
    with pytest.raises(InputError, match=words), open_source(str(tmp_path / "in.y4m")) as source:
        list(source)


def test_frame_parameters_are_accepted(tmp_path):
    (tmp_path / "in.y4m").write_bytes(GOOD + b"FRAME Ip XABC\n" + bytes(24))
    with open_source(str(tmp_path / "in.y4m")) as source:
        assert len(list(source)) == 1


def test_encoder_options_for_uncompressed_output_are_refused(tmp_path, pass_through, y4m_stream):
    (tmp_path / "in.y4m").write_bytes(y4m_stream("444")[0])
    with pytest.raises(UsageError, match="uncompressed"):
        pass_through(tmp_path / "in.y4m", tmp_path / "out.y4m", EncodeOptions(crf=20))
