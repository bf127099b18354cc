"""Which files are media, by the suffixes people give them."""

from flashvsr_cli.video.images import IMAGE_FORMATS

IMAGE_SUFFIXES = frozenset(IMAGE_FORMATS)
Y4M_SUFFIX = ".y4m"
UNENCODED_SUFFIXES = IMAGE_SUFFIXES | {Y4M_SUFFIX}
"""Of outputs that no video encoder makes."""
VIDEO_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "m2ts", "mts", "vob"),
        *("wmv", "flv", "ogv", "3gp", "mxf", "gif", "y4m"),
        *("asf", "3g2", "f4v", "divx", "dv", "m2v", "ogm", "trp"),
    )
)
