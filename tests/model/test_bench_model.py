"""The model benchmark on a model small enough for a CPU: what it reports, not how fast."""

import pytest

from flashvsr_cli import bench_model
from flashvsr_cli.bench_model import measure_model
from flashvsr_cli.model import full_size
from flashvsr_cli.model.config import DiTConfig, LowResProjectionConfig, TinyDecoderConfig
from flashvsr_cli.tables import print_speed


@pytest.fixture
def small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_size, "DIT", DiTConfig(128, 1, 1, 256, 32, 16, 16))
    monkeypatch.setattr(full_size, "PROJECTION", LowResProjectionConfig(768, 16, 16, 128, 1))
    monkeypatch.setattr(full_size, "TINY_DECODER", TinyDecoderConfig(784, (16, 8, 8, 8)))
    monkeypatch.setattr(full_size, "PROMPT_SHAPE", (1, 8, 16))
    monkeypatch.setattr(bench_model, "WARM_CHUNKS", 1)


@pytest.mark.usefixtures("small_model")
def test_reports_stages_rates_and_a_clip_from_file_to_file(capsys: pytest.CaptureFixture[str]) -> None:
    speed = measure_model((128, 128), device="cpu", n_chunks=1, n_frames=23)
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
def test_chart_is_a_picture(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    from flashvsr_cli.bench_chart import draw_chart

    speed = measure_model((128, 128), device="cpu", n_chunks=1)
    draw_chart(speed, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
