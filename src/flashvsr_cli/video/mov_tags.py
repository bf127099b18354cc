"""What MP4 and MOV keep of a file's own tags.

They have fields for the usual ones (title, artist, comment and the like). The others fit only in a list of keys that
FFmpeg writes in place of these fields, where few players look for a title.
"""

from collections.abc import Mapping
from io import BytesIO

import av

KEYS_FLAG = "+use_metadata_tags"
"""Makes FFmpeg write the list of keys."""
ALWAYS_KEPT = ("creation_time", "location")
MOST_NAMES = 5


def plan_tags(muxer: str, tags: Mapping[str, str], *, has_cover: bool) -> tuple[str, list[str]]:
    """(What to add to `movflags`, names of the tags that are lost) for a file with these tags.

    The list of keys is taken where no usual field would be lost by it, nor a cover, which lies beside these fields.
    """
    fields = _without_field(muxer, tags)
    is_free = all(name in fields for name in tags if name not in ALWAYS_KEPT)
    return (KEYS_FLAG, []) if fields and is_free and not has_cover else ("", fields)


def _without_field(muxer: str, tags: Mapping[str, str]) -> list[str]:
    """Names of the tags for which FFmpeg's muxer has no field: those that a file without content does not give back.

    A name with a language is given beside the plain one, and says the same.
    """
    if not tags:
        return []
    file = BytesIO()
    with av.open(file, "w", format=muxer) as trial:
        trial.metadata.update(tags)
        trial.add_stream("aac", rate=48000)
        trial.start_encoding()
    file.seek(0)
    with av.open(file, "r") as trial:
        found = {name.lower() for name in trial.metadata}
    known = {*found, *ALWAYS_KEPT, *(name for name in tags if tags.get(name.rpartition("-")[0]) == tags[name])}
    return [name for name in tags if name.lower() not in known and name not in known]


def describe_tags(names: list[str]) -> str:
    """Names for a message, as many as one wants to read."""
    more = [f"{len(names) - MOST_NAMES} more"] if len(names) > MOST_NAMES else []
    return ", ".join([*names[:MOST_NAMES], *more])
