"""Coverage-guided fuzzing of the Y4M and raw parsers: needs the extra `fuzz`; not part of the test suite.

    python tests/fuzz/fuzz_raw_streams.py -max_total_time=300

It begins with the corpus in raw_streams.txt, which test_raw_streams.py replays. `--write-corpus FOLDER` puts a folder
that libFuzzer has filled into that file.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["flashvsr_cli.video.y4m", "flashvsr_cli.video.raw_reader"]):
    from raw_streams import CORPUS, load_corpus, run_one_input

MAX_BYTES = 400


def write_corpus(folder: Path) -> None:
    """The folder's files, shortest first."""
    inputs = sorted({path.read_bytes() for path in folder.iterdir()}, key=lambda data: (len(data), data))
    CORPUS.write_text("".join(data.hex() + "\n" for data in inputs if data))


def main() -> None:
    """Fuzz, or write the corpus."""
    if sys.argv[1:2] == ["--write-corpus"]:
        write_corpus(Path(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory() as folder:
        for i, data in enumerate(load_corpus()):
            (Path(folder) / f"{i}").write_bytes(data)
        atheris.Setup([*sys.argv, f"-max_len={MAX_BYTES}", folder], lambda data: run_one_input(data) and None)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
