"""The README cannot rot: its commands are run, its options exist, and no option is missing from it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from flashvsr_cli.cli.app import app

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
RUN_HERE = "<!-- run by the tests -->"
BLOCK = re.compile(rf"{RUN_HERE}\n```(\w+)\n(.*?)```", re.DOTALL)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]+")
DOCUMENTED_COMMANDS = ("upscale", "batch", "info", "doctor")
RELEASED = '"v1.1", device="cuda"'
OPTIONS_OF_OTHERS = {"--editable", "--nproc-per-node"}


def options_of(command) -> set[str]:
    own = {
        name
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
        if name.startswith("--")
    }
    return own.union(*(options_of(child) for child in getattr(command, "commands", {}).values()))


def test_every_option_is_described():
    commands = typer.main.get_command(app).commands
    missing = set().union(*(options_of(commands[name]) for name in DOCUMENTED_COMMANDS)) - set(OPTION.findall(README))
    assert missing == set()


def test_every_option_that_is_described_exists():
    known = options_of(typer.main.get_command(app)) | {"--help"} | OPTIONS_OF_OTHERS
    assert set(OPTION.findall(README)) - known == set()


def blocks(language: str) -> list[str]:
    return [code for found, code in BLOCK.findall(README) if found == language]


@pytest.fixture
def folder(tmp_path: Path, make_clip, make_pictures, make_y4m) -> Path:
    """What the README's commands find: the files they name, and `flashvsr` on the path."""
    make_clip("input.mp4", 9, has_audio=True)
    (tmp_path / "clips").mkdir()
    make_clip("clips/one.mp4", 3)
    make_clip("clips/two.mkv", 3)
    shots = make_pictures("frames", 4)
    for number, path in enumerate(sorted(shots.iterdir()), 1):
        path.rename(shots / f"{number:05d}.png")
    (tmp_path / "photo.png").write_bytes((shots / "00001.png").read_bytes())
    (tmp_path / "input.y4m").write_bytes(make_y4m(5))
    (tmp_path / "input.rgb").write_bytes(bytes(2 * 160 * 120 * 3))
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "flashvsr"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m flashvsr_cli "$@"\n')
    program.chmod(0o755)
    return tmp_path


def test_there_is_something_to_run():
    assert len(blocks("sh")) == 3
    assert len(blocks("python")) == 1


@pytest.mark.parametrize("i_block", range(len(blocks("sh"))))
def test_commands(i_block: int, folder: Path, environment: dict[str, str]):
    """Each line by itself; `environment` makes the small random checkpoint the model."""
    path = {"PATH": f"{folder / 'bin'}:{environment['PATH']}"}
    for line in blocks("sh")[i_block].replace("\\\n", "").splitlines():
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            cwd=folder,
            env=environment | path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (line, done.stderr)


def test_python_example(folder: Path, environment: dict[str, str], mini_folder: Path):
    (code,) = blocks("python")
    assert RELEASED in code
    code = code.replace(RELEASED, f'"{mini_folder}", device="cpu"')
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["(96, 128, 3) uint8"] * 9
