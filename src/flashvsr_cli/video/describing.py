"""What a container says of its video, and what its first picture shows."""

from fractions import Fraction

import av

from flashvsr_cli.options import InputOptions
from flashvsr_cli.video.cut import count_within, is_cut
from flashvsr_cli.video.hdr import read_hdr
from flashvsr_cli.video.info import SourceInfo
from flashvsr_cli.video.opening import count_frames, has_times, stated_duration
from flashvsr_cli.video.orientation import Orientation
from flashvsr_cli.video.pixel_format import describe_pixel_format
from flashvsr_cli.video.pixels import read_color
from flashvsr_cli.video.tags import read_tags
from flashvsr_cli.video.tracks import describe_track, read_metadata


def describe_video(
    name: str,
    container: av.container.InputContainer,
    stream: av.VideoStream,
    picture: av.VideoFrame,
    orientation: Orientation,
    time_base: Fraction,
    options: InputOptions,
) -> SourceInfo:
    """The facts about a video.

    Args:
        name: what messages call it.
        container, stream: the file and its video.
        picture: its first one.
        orientation: how pictures are turned.
        time_base: seconds per tick of the frames' times.
        options: supply the frame rate where the container has no times, and may cut the clip.
    """
    described = describe_pixel_format(picture.format.name)
    given = None if has_times(container) else options.frame_rate
    rate = given or stream.average_rate or stream.guessed_rate or options.frame_rate
    duration = stated_duration(stream, container)
    n_frames, is_exact = count_frames(stream, container, duration, rate)
    if is_cut(options):
        n_frames, _ = count_within(options, n_frames, rate)
        is_exact, duration = False, None
    ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or None
    if ratio is not None and orientation.swaps_sides:
        ratio = 1 / ratio
    return SourceInfo(
        name=name,
        kind="video",
        size=orientation.apply_to_size((picture.height, picture.width)),
        time_base=time_base,
        pix_fmt=picture.format.name,
        bit_depth=described.bits,
        codec=stream.codec_context.name,
        container=container.format.name,
        n_frames=n_frames,
        n_frames_is_exact=is_exact,
        frame_rate=Fraction(rate) if rate else None,
        steady_rate=Fraction(rate) if rate and rate in (given, stream.base_rate) else None,
        duration=duration,
        color=read_color(picture),
        hdr=read_hdr(picture),
        sample_aspect_ratio=Fraction(ratio) if ratio else None,
        rotation=90 * orientation.quarter_turns,
        is_mirrored=orientation.is_mirrored,
        is_interlaced=picture.interlaced_frame,
        has_alpha=described.has_alpha,
        tracks=tuple(describe_track(s) for s in container.streams if s is not stream),
        metadata=tuple(read_tags(container).items()),
        video_metadata=tuple(read_metadata(stream).items()),
    )
