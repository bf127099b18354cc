"""`flashvsr train measure`: the table of a model that adds nothing to bicubic says so."""

import re
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from flashvsr_cli.cli.train import app
from flashvsr_cli.options import Settings
from flashvsr_cli.train.config import ModelConfig
from flashvsr_cli.train.parts import build_random, export, role_states
from flashvsr_cli.train.validate import BORDERS, measure, measure_borders

CONFIG = Path(__file__).parents[2] / "configs" / "nano" / "4-onestep.toml"
SMALL = ["validation.photos=[]", "validation.n_clips=1", "validation.size=128", "validation.n_frames=3"]


@pytest.fixture
def plain_model(tmp_path: Path, toy_model: ModelConfig) -> Path:
    parts = build_random(toy_model, Settings(0.02, 3.0, 1, "none"), seed=0)
    torch.nn.init.zeros_(parts.decoder.decoder[26].weight)
    path = tmp_path / "plain.safetensors"
    export(path, role_states(parts.state_dict(), 1.0), parts.traits, torch.float16, {})
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "some.clip.mkv"
    picture = np.random.default_rng(0).integers(0, 256, (100, 92, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=24)
        stream.width, stream.height, stream.pix_fmt = 92, 100, "bgr0"
        for shift in range(4):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, shift, axis=1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_a_model_that_adds_nothing_gains_nothing(tmp_path: Path, plain_model: Path, clip: Path) -> None:
    arguments = ["measure", str(CONFIG), str(plain_model), "--video", str(clip), "--strip", str(tmp_path / "strip.png")]
    for setting in SMALL:
        arguments += ["--set", setting]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    header, rule, *rows = done.stdout.strip().splitlines()
    assert header.count("|") == rule.count("|") == 9
    assert [row.split("|")[1].strip() for row in rows] == ["procedural", "some.clip", "mean of all clips"]
    for row in rows:
        gains = re.findall(r"\(([+-][\d.]+)\)", row)
        assert len(gains) == 4
        # Two forms of the same bicubic kernel differ by rounding.
        assert [float(gain) for gain in gains] == pytest.approx([0] * 4, abs=0.011), row
        assert row.split("|")[7].strip() == "0.00", "colours as in the input"
    assert (tmp_path / "strip.png").stat().st_size > 0


def test_a_video_that_is_none_is_refused(tmp_path: Path, plain_model: Path) -> None:
    path = tmp_path / "words.mp4"
    path.write_text("no video")
    arguments = [
        "measure",
        str(CONFIG),
        str(plain_model),
        "--video",
        str(path),
        "--set",
        "validation.n_clips=0",
        "--set",
        "validation.photos=[]",
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert "holds no video" in str(done.exception)


@pytest.mark.parametrize("side", BORDERS)
def test_borders_are_told_by_their_size(side: int) -> None:
    """An error that jumps by as much again at every border of one size, beside noise everywhere."""
    generator = torch.Generator().manual_seed(9)
    error = 0.1 * torch.randn(3, 256, 256, generator=generator)
    smooth = measure_borders(error)
    blocks = torch.randn(3, 256 // side, 256 // side, generator=generator)
    found = measure_borders(error + blocks.repeat_interleave(side, 1).repeat_interleave(side, 2))
    for one, before, after in zip(BORDERS, smooth, found, strict=True):
        assert before == pytest.approx(1, abs=0.1)
        assert (after > 2) == (one == side)


def test_borders_of_clips_are_measured_on_their_lumas() -> None:
    generator = np.random.default_rng(2)
    wanted = generator.integers(40, 200, (2, 64, 64, 3), dtype=np.uint8)
    blocks = generator.integers(0, 40, (2, 8, 8, 3), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    noise = generator.integers(-20, 20, wanted.shape, dtype=np.int8).view(np.uint8)
    figures = measure({"plain": wanted + noise, "blocks": wanted + noise + blocks}, wanted, wanted + noise)
    assert figures["plain"].borders == (1, 1, 1)
    assert figures["blocks"].borders[0] > 1.3
    assert figures["blocks"].borders[1] == pytest.approx(1, abs=0.2)


def test_pictures_without_borders_of_a_size_have_none() -> None:
    assert measure_borders(torch.randn(2, 100, 90))[-1] == 1
    assert measure_borders(torch.zeros(2, 256, 256)) == (1, 1, 1)
