"""docs/fidelity.md says what the other tests of this folder measured. After a change that is meant:

FLASHVSR_WRITE_FIDELITY=1 pytest tests/video/fidelity
"""

import os
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[3] / "docs" / "fidelity.md"
NOTES = "\n## Notes\n"
SECTIONS = (
    "Depth, range, matrix, transfer",
    "Colours, by what can be stated",
    "Pixel formats",
    "HDR10 metadata",
    "Times",
    "Sound, copied",
    "Sound, --audio transcode",
    "Subtitles, copied",
    "Subtitles, --subs transcode",
    "Everything else",
    "Shape",
)
INTRODUCTION = (
    "Written by `FLASHVSR_WRITE_FIDELITY=1 pytest tests/video/fidelity`; the same tests compare it with"
    " what they measure, so it cannot rot. Every cell is a clip made on the spot, read and written as `upscale`"
    ' does, and read back. "(said)" means that a notice or the error message names it and what to do.'
)


def render(measured: dict[tuple[str, str, str], str]) -> str:
    parts = ["# What is kept on the way from file to file", INTRODUCTION]
    for section in SECTIONS:
        cells = [(name, column) for of, name, column in measured if of == section]
        names, columns = (list(dict.fromkeys(labels)) for labels in zip(*cells, strict=True))
        lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
        lines += [
            f"| {name} | " + " | ".join(measured.get((section, name, column), "-") for column in columns) + " |"
            for name in names
        ]
        parts += [f"## {section}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def test_document_says_what_was_measured(collected, measured):
    if set(measured) != collected or {section for section, *_ in measured} != set(SECTIONS):
        pytest.skip("only a part of the table was measured in this run")
    document = DOCUMENT.read_text() if DOCUMENT.exists() else ""
    measured_part, mark, notes = document.partition(NOTES)
    if os.environ.get("FLASHVSR_WRITE_FIDELITY"):
        measured_part = render(measured)
        DOCUMENT.write_text(measured_part + mark + notes)
    assert measured_part == render(measured)
