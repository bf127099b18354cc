"""Building training shards from folders of videos and photos: measure, filter, copy, show.

What has been measured is kept in examined.jsonl, line by line, so that an interrupted build goes on where it was and
a change of limits measures nothing again.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from flashvsr_cli.compare.pictures import Picture, arrange, write_png
from flashvsr_cli.dataset.filters import STEPS, VIDEO_SUFFIXES, FilterConfig, Measures, failed_step, measure_file
from flashvsr_cli.dataset.sources import INDEX, PHOTO_SUFFIXES
from flashvsr_cli.errors import InputError, OutputError
from flashvsr_cli.video.faults import output_faults

EXAMINED = "examined.jsonl"
SHEET = "sheet.png"
THUMBNAIL = (108, 192)
SHEET_COLUMNS, SHEET_LIMIT = 8, 64


@dataclass(frozen=True)
class BuildResult:
    """What a build did.

    Attributes:
        counts: files left after each step, in order, beginning with "found".
        n_measured: files measured now; the others were known from before.
    """

    counts: dict[str, int]
    n_measured: int


def build_shards(
    sources: Sequence[Path],
    output: Path,
    config: FilterConfig,
    *,
    files_per_shard: int = 500,
    on_file: Callable[[str, int, int], None] = lambda *_: None,
) -> BuildResult:
    """Measure, filter and copy.

    Args:
        sources: folders, searched with everything below them.
        output: folder of the shards; made if it is not there.
        config: limits.
        files_per_shard: files in one shard's folder.
        on_file: told about every file: its name, its number, how many there are.

    Raises:
        InputError: a folder does not exist or holds nothing to look at.
        OutputError: the output is no folder, or cannot be made.
    """
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} exists and is not a folder.", "Choose another output.")
    files = list(_find(sources))
    if not files:
        raise InputError("There are no videos or photos in the given folders.", "Check the paths.")
    with output_faults(str(output)):
        output.mkdir(parents=True, exist_ok=True)
    known = _read_examined(output / EXAMINED)
    records, n_measured = [], 0
    with (output / EXAMINED).open("a", encoding="utf-8") as log:
        for i_file, (path, kind) in enumerate(files):
            on_file(path.name, i_file, len(files))
            record = known.get(_identity(path))
            if record is None:
                record = _examine(path, kind, output)
                log.write(json.dumps(record) + "\n")
                log.flush()
                n_measured += 1
            records.append(record)
    left = Counter({"found": len(records)})
    kept = []
    for record in records:
        failed = "readable" if record["measures"] is None else failed_step(Measures(**record["measures"]), config)
        for step in STEPS[: STEPS.index(failed) if failed else len(STEPS)]:
            left[step] += 1
        if failed is None:
            kept.append(record)
    _copy(kept, output, files_per_shard)
    _draw_sheet(kept, output)
    return BuildResult({step: left[step] for step in ("found", *STEPS)}, n_measured)


def _find(sources: Sequence[Path]) -> Iterable[tuple[Path, str]]:
    for folder in sources:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder.", "Give folders of videos and photos.")
        for path in sorted(folder.rglob("*")):
            suffix = path.suffix.lower()
            if suffix in VIDEO_SUFFIXES:
                yield path, "video"
            elif suffix in PHOTO_SUFFIXES:
                yield path, "photo"


def _identity(path: Path) -> str:
    facts = path.stat()
    return f"{path.resolve()}:{facts.st_size}:{facts.st_mtime_ns}"


def _read_examined(path: Path) -> dict[str, dict[str, Any]]:
    """Records by identity; a last line that was cut off is measured again."""
    known = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        known[record["identity"]] = record
    return known


def _examine(path: Path, kind: str, output: Path) -> dict[str, Any]:
    found = measure_file(path, kind)
    record: dict[str, Any] = {"identity": _identity(path), "path": str(path), "measures": None, "thumbnail": None}
    if found is not None:
        measures, picture = found
        folder = output / "thumbnails"
        folder.mkdir(exist_ok=True)
        name = f"{abs(hash_text(record['identity'])):016x}.npy"
        np.save(folder / name, _thumbnail(picture))
        record |= {"measures": asdict(measures), "thumbnail": name}
    return record


def hash_text(text: str) -> int:
    """A number that is the same in every run."""
    import hashlib

    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _thumbnail(picture: Picture) -> Picture:
    x = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float()
    x = F.interpolate(x, THUMBNAIL, mode="bilinear", antialias=True).round()
    return x[0].permute(1, 2, 0).to(torch.uint8).numpy()


def _copy(kept: list[dict[str, Any]], output: Path, files_per_shard: int) -> None:
    """Copy what is not there yet, and write the index under a temporary name first."""
    lines = []
    for i_file, record in enumerate(kept):
        path = Path(record["path"])
        shard = f"shard-{i_file // files_per_shard:05d}"
        name = f"{shard}/{hash_text(record['identity']):016x}{path.suffix.lower()}"
        target = output / name
        if not target.is_file() or target.stat().st_size != path.stat().st_size:
            target.parent.mkdir(exist_ok=True)
            part = target.with_suffix(".part")
            shutil.copyfile(path, part)
            part.replace(target)
        lines.append(json.dumps({"file": name, "source": path.name, **record["measures"]}))
    temporary = output / f".{INDEX}.tmp"
    temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    temporary.replace(output / INDEX)


def _draw_sheet(kept: list[dict[str, Any]], output: Path) -> None:
    """A contact sheet of what was kept, evenly chosen if there is much."""
    chosen = kept[:: max(1, -(-len(kept) // SHEET_LIMIT))]
    pictures = [np.load(output / "thumbnails" / record["thumbnail"]) for record in chosen]
    if pictures:
        rows = [pictures[i : i + SHEET_COLUMNS] for i in range(0, len(pictures), SHEET_COLUMNS)]
        write_png(output / SHEET, arrange(rows))
