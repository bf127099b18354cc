"""The model benchmark on a model small enough for a CPU: what it reports, not how fast."""

import json
import weakref
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from flashvsr_cli import bench_model
from flashvsr_cli.bench_clip import draw_clip, measure_files, write_clip
from flashvsr_cli.bench_model import load_subject, measure_model
from flashvsr_cli.cli.bench import app
from flashvsr_cli.errors import DeviceError
from flashvsr_cli.model import full_size
from flashvsr_cli.model.config import DiTConfig, LowResProjectionConfig, TinyDecoderConfig
from flashvsr_cli.model.kv_cache import PagedKVCache
from flashvsr_cli.model.traits import Traits
from flashvsr_cli.options import Settings
from flashvsr_cli.pipeline import Upscaler
from flashvsr_cli.tables import print_speed
from flashvsr_cli.weights import resolve_checkpoint


@pytest.fixture
def small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_size, "DIT", DiTConfig(128, 1, 1, 256, 32, 16, 16))
    monkeypatch.setattr(full_size, "PROJECTION", LowResProjectionConfig(768, 16, 16, 128, 1))
    monkeypatch.setattr(full_size, "TINY_DECODER", TinyDecoderConfig(784, (16, 8, 8, 8)))
    monkeypatch.setattr(full_size, "PROMPT_SHAPE", (1, 8, 16))
    monkeypatch.setattr(bench_model, "WARM_CHUNKS", 1)


@pytest.mark.usefixtures("small_model")
def test_reports_stages_rates_and_a_clip_from_file_to_file(capsys: pytest.CaptureFixture[str]) -> None:
    speed = measure_model((128, 128), model="v1", device="cpu", n_chunks=1, n_frames=23)
    assert speed.model == "v1 with random weights"
    assert set(speed.stage_tflops) == {"projection", "transformer", "decoder"}
    assert set(speed.stage_ms) > set(speed.stage_tflops)
    assert speed.n_frames == 23
    rates = (speed.fps, speed.clip_fps, speed.file_fps, speed.matmul_tflops, *speed.stage_tflops.values())
    assert min(rates) > 0
    print_speed(speed)
    printed = capsys.readouterr().out
    assert "128x128" in printed
    assert "from file to file" in printed


@pytest.mark.usefixtures("small_model")
def test_never_two_streams_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peak of memory is that of one clip; and where one clip fits, the measurement does."""
    live: weakref.WeakSet[PagedKVCache] = weakref.WeakSet()
    n_live = []
    build = PagedKVCache.__init__

    def build_and_count(cache: PagedKVCache, *args: Any, **keywords: Any) -> None:
        build(cache, *args, **keywords)
        live.add(cache)
        n_live.append(len(live))

    monkeypatch.setattr(PagedKVCache, "__init__", build_and_count)
    measure_model((128, 128), model="v1.1", device="cpu", n_chunks=1, n_frames=2)
    assert len(n_live) == 5
    assert set(n_live) == {1}


def test_the_packaged_model_is_measured_with_its_own_weights_and_settings() -> None:
    subject = load_subject("nano", torch.device("cpu"), torch.float32)
    traits = Traits.of(resolve_checkpoint("nano").metadata)
    assert not subject.is_random
    assert subject.network.dit.config.head_dim == traits.head_dim == 64
    assert Upscaler(subject.network, subject.checkpoint).default_settings == traits.settings


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["--model", "nano", "--device", "cpu"], {"FLASHVSR_MODEL": "v1.1"}),
        ([], {"FLASHVSR_MODEL": "nano", "FLASHVSR_DEVICE": "cpu"}),
    ],
    ids=["options", "variables"],
)
def test_the_command_takes_the_packaged_model_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], environment: dict[str, str]
) -> None:
    monkeypatch.setattr(bench_model, "WARM_CHUNKS", 1)
    arguments = ["model", "--size", "128x128", "--chunks", "1", "--frames", "0", *arguments]
    done = CliRunner().invoke(app, [*arguments, "--json"], env=environment, catch_exceptions=False)
    measured = json.loads(done.stdout)
    assert measured["model"] == "nano"
    assert measured["fps"] > 0
    assert measured["peak_bytes"] == 0 < measured["estimated_bytes"]


def test_the_command_measures_the_size_that_its_help_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def note_size(size: tuple[int, int], **_: Any) -> None:
        asked.append(size)
        raise DeviceError("Nothing is measured.", "Look at what was asked.")

    monkeypatch.setattr(bench_model, "measure_model", note_size)
    assert "1408x768" in CliRunner().invoke(app, ["model", "--help"]).stdout
    CliRunner().invoke(app, ["model"])
    CliRunner().invoke(app, ["model", "--size", "320x180"])
    assert asked == [(768, 1408), (180, 320)]


def test_the_clip_moves_and_has_edges() -> None:
    frames = np.stack(list(draw_clip((48, 64), 100))).astype(float)
    assert frames.shape == (100, 48, 64, 3)
    steps = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
    assert 0.5 < steps.min() <= steps.max() < 40
    assert np.abs(np.diff(frames, axis=2)).mean() > 2
    assert np.array_equal(frames, np.stack(list(draw_clip((48, 64), 100))))


@pytest.mark.parametrize("size", [(45, 80), (25, 63)])
def test_the_clip_may_have_odd_sides(tmp_path: Path, size: tuple[int, int]) -> None:
    """A quarter of 320x180 has."""
    write_clip(tmp_path / "clip.mp4", size, 3)
    with av.open(tmp_path / "clip.mp4") as container:
        assert [(frame.height, frame.width) for frame in container.decode(video=0)] == [size] * 3


@pytest.mark.usefixtures("small_model")
@pytest.mark.parametrize("shows_model", [False, True])
def test_noise_of_random_weights_is_not_what_is_encoded(shows_model: bool) -> None:
    seen: list[Settings] = []

    class Watched(Upscaler):
        def upscale(self, frames: Any, scale: float = 4, settings: Any = None, *args: Any, **keywords: Any) -> Any:
            seen.append(settings)
            return super().upscale(frames, scale, settings, *args, **keywords)

    subject = load_subject("v1.1", torch.device("cpu"), torch.float32)
    upscaler = Watched(subject.network, subject.checkpoint)
    n_frames, fps = measure_files(upscaler, (32, 32), Settings(), 3, shows_model=shows_model)
    assert n_frames == 3
    assert fps > 0
    assert [settings.strength for settings in seen] == [float(shows_model)]


@pytest.mark.usefixtures("small_model")
def test_chart_is_a_picture(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    from flashvsr_cli.bench_chart import draw_chart

    speed = measure_model((128, 128), model="v1.1", device="cpu", n_chunks=1)
    draw_chart(speed, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
