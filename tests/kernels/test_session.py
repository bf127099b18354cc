"""The script for a sitting at a GPU, dry: with a tiny network on the CPU, so that it cannot rot between sittings."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parents[2] / "kernels/bench"
sys.path.append(str(BENCH))

import session  # noqa: E402
import verdict  # noqa: E402

on_a_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="the parts would run on the GPU")


def run_dry(out, *arguments):
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path), OMP_NUM_THREADS="1")
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, str(BENCH / "session.py"), "--dry-run", "--out", str(out), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@on_a_cpu
def test_parts_leave_their_records_and_a_verdict(tmp_path):
    done = run_dry(tmp_path, "--only", "speed-768", "memory")
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "summary.md").read_text() in done.stdout
    record = json.loads((tmp_path / "record.json").read_text())
    assert set(record) == {"machine", "speed-768", "memory"}
    (speed,) = record["speed-768"].values()
    assert speed["n_frames"] == 30
    assert speed["file_fps"] > 0
    assert list(record["memory"]) == ["bf16, cache model, 30 frames", "bf16, cache model, 40 frames"]
    assert "| transformer, 30 blocks " in done.stdout
    assert "not measured" not in done.stdout


@on_a_cpu
def test_a_part_out_of_time_fails_the_call_and_is_recorded(tmp_path):
    done = run_dry(tmp_path, "--call", "1", "--limit", "2")
    assert done.returncode == 1
    assert "tests: exit code none, stopped at its limit, 2 s" in done.stdout
    assert "NO SPEED OF THIS CODE MAY BE QUOTED" in done.stdout
    assert (tmp_path / "log-1.txt").exists()


def test_calls_hold_every_part_and_fit_half_an_hour():
    assert sorted(part for _, parts in session.CALLS.values() for part in parts) == sorted(session.LIMITS)
    assert max(seconds for seconds, _ in session.CALLS.values()) <= 570
    assert sum(seconds for seconds, _ in session.CALLS.values()) <= 1700


def test_pieces_of_a_part_that_fails_are_kept(tmp_path):
    def pieces():
        yield "first", 1
        raise SystemExit("stopped")

    with pytest.raises(SystemExit):
        session.keep_record(pieces(), tmp_path / "part.json")
    assert json.loads((tmp_path / "part.json").read_text()) == {"first": 1}


def make_record(decoder_ms=29.0, peak=9 * 2**30):
    speed = {"stage_ms": {"transformer": 80, "projection": 9, "decoder": decoder_ms}, "fps": 70.0, "file_fps": 65.0}
    rows = [{"kernel": "dense SDPA", "ms": 2.5, "tflops": 690, "density": 1.0}]
    rows += [{"kernel": "ours", "ms": 2.6 * d, "tflops": 600, "density": d} for d in (0.1, 0.454, 0.75, 0.9)]
    clip = {"peak": peak, "estimated": int(0.95 * peak)}
    return {
        "tests": {"pytest exit code": 0},
        "speed-768": {"768 bf16, cache model": speed | {"peak_bytes": peak, "estimated_bytes": peak}},
        "memory": {f"bf16, cache model, {n} frames": clip for n in (100, 1000)},
        "agreement": {
            "plain bf16": {"plain fp32": [56.7, 54.6]},
            "fused bf16": {"plain fp32": [56.6, 54.6], "plain bf16": [59.4, 54.3]},
        },
        "kernels": {"attention.py": {"exit code": 0, "rows": rows}},
    }


def verdicts(record):
    return {line.what: line.row(record)[2:] for line in verdict.LINES}


def test_verdicts_say_met_not_met_or_not_measured():
    found = verdicts(make_record())
    assert found["tiny decoder"] == ("29 ms", "met")
    assert found["fused against plain, bf16"] == ("54.3 dB", "met")
    assert found["error of fused bf16 over plain bf16's"] == ("1.012 ", "met")
    assert found["attention over dense SDPA, worst density to 0.75"] == ("0.78 ", "met")
    assert found["file to file over steady"][1] == "met"
    assert found["estimate of `info` off by"] == ("5 %", "met")
    assert found["peak of 1000 frames less that of 100"] == ("0 MiB", "met")
    assert found["first frame, cold"] == ("", "not measured")
    assert verdicts(make_record(decoder_ms=31))["tiny decoder"] == ("31 ms", "NOT MET")
    assert verdicts(make_record(decoder_ms=float("nan")))["tiny decoder"][1] == "NOT MET"
    assert verdicts(make_record(peak=10 * 2**30))["peak, bf16"] == ("10 GiB", "NOT MET")


def test_the_end_of_all_calls_joins_their_records(tmp_path, capsys, monkeypatch):
    record = make_record()
    for name, part in (("a", "tests"), ("b", "speed-768")):
        (tmp_path / f"{name}.json").write_text(json.dumps({part: record[part], "machine": {part: ["a GPU"]}}))
    files = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    monkeypatch.setattr(sys, "argv", ["session.py", "--verdict", *files])
    assert session.main() == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 2 + len(verdict.LINES)
    assert session.join_records(map(Path, files))["machine"] == {"tests": ["a GPU"], "speed-768": ["a GPU"]}
    monkeypatch.setattr(sys, "argv", ["session.py", "--verdict", files[1]])
    assert session.main() == 1
