"""Commands that compute nothing: help, info, doctor, bench io."""

import io
import json
import subprocess
import sys
from pathlib import Path

import av
import pytest
import typer

from flashvsr_cli.cli.app import app

LOOK_AT_MODULES = """
import sys
from flashvsr_cli.cli.app import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
assert not {"torch", "av", "numpy", "huggingface_hub"} & set(sys.modules), sorted(sys.modules)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["upscale", "--help"],
        ["batch", "-h"],
        ["info", "-h"],
        ["doctor", "-h"],
        ["bench", "-h"],
    ],
    ids=" ".join,
)
def test_help_loads_nothing_heavy(arguments: list[str], environment):
    command = [sys.executable, "-c", LOOK_AT_MODULES, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "flashvsr" in done.stdout


@pytest.mark.parametrize("name", ["--model", "--device", "--precision", "--backend", "--kv-precision", "--scale"])
def test_an_option_means_the_same_wherever_it_is_taken(name: str):
    commands = typer.main.get_command(app).commands
    takers = [*(commands[command] for command in ("upscale", "batch", "info")), *commands["bench"].commands.values()]
    found = [option for taker in takers for option in taker.params if name in option.opts]
    facts = [(option.opts, option.help, option.envvar, option.default, option.metavar) for option in found]
    assert len(facts) == 4
    assert all(fact == facts[0] for fact in facts)


def test_the_package_loads_nothing_heavy_until_it_is_used():
    code = "import sys, flashvsr_cli; assert not {'torch', 'av', 'numpy', 'typer'} & set(sys.modules)"
    code += "; flashvsr_cli.Settings(); assert 'torch' not in sys.modules"
    code += "; flashvsr_cli.Upscaler; assert 'torch' in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_without_arguments_the_help_is_shown(flashvsr):
    done = flashvsr()
    assert "Usage: flashvsr" in done.stdout.decode() + done.stderr


def test_a_wrong_input_is_refused_before_torch_is_loaded(environment, tmp_path: Path):
    code = "import sys; sys.argv = ['flashvsr', 'upscale', 'nowhere.mp4', '-o', 'out.mp4']\n"
    code += "from flashvsr_cli.cli.app import main\ntry: main()\n"
    code += "except SystemExit as end: assert end.code == 1\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "nowhere.mp4 does not exist" in done.stderr


def test_info(flashvsr, make_clip, files_in):
    make_clip("in.mp4", 30, (36, 50), has_audio=True)
    done = flashvsr("info", "in.mp4", "--scale", 3, "--json")
    assert done.code == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["input"]["size"] == [36, 50]
    assert plan["input"]["frames"] == 30
    assert plan["output_size"] == [108, 150]
    assert plan["padded_size"] == [128, 256]
    assert plan["chunks"] == 3, "21 frames, and then eight each"
    assert plan["lookahead_frames"] == 28
    assert json.loads(flashvsr("info", "in.mp4", "--scene-cut", "off", "--json").stdout)["lookahead_frames"] == 25
    assert plan["device"] == "cpu"
    memory = plan["memory_bytes"]
    assert memory["total"] == sum(n_bytes for name, n_bytes in memory.items() if name != "total")
    table = flashvsr("info", "in.mp4", "--scale", 3).stdout.decode()
    for part in ("50x36, 30 frames at 30000/1001 fps", "150x108", "256x128 (20 rows and 106 columns", "audio track 1"):
        assert part in table
    assert files_in() == {"in.mp4"}


def test_info_of_a_model_that_has_not_been_downloaded(flashvsr, make_clip):
    make_clip("in.mp4", 1)
    done = flashvsr("info", "in.mp4", "--model", "v1.1", "--json")
    assert done.code == 0, done.stderr
    # 1.4 thousand million parameters of the transformer and 0.3 of the projection, four bytes each on the CPU.
    assert json.loads(done.stdout)["memory_bytes"]["weights"] > 6e9


def test_info_of_the_packaged_model(flashvsr, make_clip):
    make_clip("in.mp4", 1)
    done = flashvsr("info", "in.mp4", "--model", "auto", "--json")
    assert done.code == 0, done.stderr
    assert json.loads(done.stdout)["memory_bytes"]["weights"] < 50e6


def opens(encoder: str) -> bool:
    """Whether ten pictures can be encoded by it."""
    try:
        with av.open(io.BytesIO(), "w", format="matroska") as out:
            stream = out.add_stream(encoder, rate=25)
            stream.width, stream.height, stream.pix_fmt = 256, 256, "yuv420p"
            pictures = (av.VideoFrame(256, 256, "yuv420p") for _ in range(10))
            return any([packet for picture in pictures for packet in stream.encode(picture)] + stream.encode(None))
    except (ValueError, av.FFmpegError):
        return False


def test_doctor(flashvsr):
    done = flashvsr("doctor", "--json")
    assert done.code == 0, done.stderr
    findings = {finding["subject"]: finding for finding in json.loads(done.stdout)}
    for subject in (
        "flashvsr-cli",
        "Python",
        "torch",
        "av",
        "CPU",
        "FFmpeg",
        "libx264",
        "Hub cache",
        "model v1.1",
        "model nano",
    ):
        assert subject in findings
        assert findings[subject]["detail"]
    assert findings["model nano"]["state"] == "ok"
    assert findings["model v1.1"]["state"] == "note"
    assert "flashvsr weights download v1.1" in findings["model v1.1"]["next_step"]
    # What a card can do is tried, not read off the list of what FFmpeg was built with.
    for name in ("h264_nvenc", "hevc_nvenc", "av1_nvenc"):
        assert findings[name]["state"] == ("ok" if opens(name) else "note"), findings[name]
    assert "decoded on the CPU" in findings["NVDEC"]["detail"]
    table = flashvsr("doctor").stdout.decode()
    assert all(subject in table for subject in findings)
    assert max(map(len, table.splitlines())) < 160


def test_bench_io(flashvsr, make_clip):
    make_clip("in.mp4", 20)
    done = flashvsr("bench", "io", "in.mp4", "-s", 2, "--json")
    assert done.code == 0, done.stderr
    speed = json.loads(done.stdout)
    assert (speed["n_frames"], speed["target"]) == (20, [48, 64])
    assert speed["ratio"] == pytest.approx(speed["fps"] / speed["loop_fps"])
    sentence = flashvsr("bench", "io", "in.mp4", "-s", 2).stdout.decode()
    assert sentence.startswith("32x24 to 64x48, 20 frames, libx264: ")
