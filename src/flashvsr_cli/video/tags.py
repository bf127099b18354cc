"""A file's own tags, such as its title: how they are called, and which of them an output container has a field for.

Matroska and FLV hold any. MP4 and MOV have fields for the usual ones (title, artist, comment and the like); the others
fit only in a list of keys that FFmpeg writes in place of these fields, where few players look for a title. AVI has
fewer fields, and MPEG-TS none.
"""

from collections.abc import Mapping
from io import BytesIO

import av

from flashvsr_cli.video.mp4 import MOV_MUXERS

KEYS_FLAG = "+use_metadata_tags"
"""Makes FFmpeg write the list of keys of MP4 and MOV."""
MUXERS_OF_ALL = ("matroska", "webm")
MOV_FIELDS = ("creation_time", "location")
TS_FIELDS = ("service_name", "service_provider")
MUXERS_WITHOUT_TRACK_TITLES = ("ipod", "mpegts", "flv")
AVI_NAMES = {"product": "album", "software": "encoder"}
"""What FFmpeg calls two fields of AVI when it reads them, and what when it writes them."""
MOST_NAMES = 5


def read_tags(container: av.container.InputContainer) -> dict[str, str]:
    """The tags of an input, by the names that FFmpeg writes them by."""
    names = AVI_NAMES if container.format.name == "avi" else {}
    return {names.get(name, name): value for name, value in container.metadata.items()}


def plan_tags(muxer: str, tags: Mapping[str, str], *, has_cover: bool) -> tuple[str, list[str]]:
    """(What to add to `movflags`, names of the tags that are lost) for a file with these tags.

    The list of keys is taken where no usual field would be lost by it, nor a cover, which lies beside these fields.
    """
    lost = _without_field(muxer, tags)
    if muxer not in MOV_MUXERS:
        return "", lost
    is_free = all(name in lost for name in tags if name not in MOV_FIELDS)
    return (KEYS_FLAG, []) if lost and is_free and not has_cover else ("", lost)


def _without_field(muxer: str, tags: Mapping[str, str]) -> list[str]:
    """Names of the tags for which FFmpeg's muxer has no field: those that a file without content does not give back.

    A name with a language is given beside the plain one, and says the same.
    """
    if not tags or muxer in MUXERS_OF_ALL:
        return []
    found = set(TS_FIELDS) if muxer == "mpegts" else _try_tags(muxer, tags)
    found |= set(MOV_FIELDS) if muxer in MOV_MUXERS else set()
    known = {*found, *(name for name in tags if tags.get(name.rpartition("-")[0]) == tags[name])}
    return [name for name in tags if name.lower() not in known and name not in known]


def _try_tags(muxer: str, tags: Mapping[str, str]) -> set[str]:
    """The names in lower case that a file with these tags gives back."""
    file = BytesIO()
    with av.open(file, "w", format=muxer) as trial:
        trial.metadata.update(tags)
        trial.add_stream("aac", rate=48000)
        trial.start_encoding()
    file.seek(0)
    with av.open(file, "r") as trial:
        return {name.lower() for name in read_tags(trial)}


def describe_tags(names: list[str]) -> str:
    """Names for a message, as many as one wants to read."""
    more = [f"{len(names) - MOST_NAMES} more"] if len(names) > MOST_NAMES else []
    return ", ".join([*names[:MOST_NAMES], *more])
