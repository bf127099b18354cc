"""Everything that is measured on a GPU, part by part: correctness first, then speed and memory, then the verdict.

    PYTHONPATH=src:kernels python kernels/bench/session.py --call N [--out FOLDER]      (N from 1 to 5)
    PYTHONPATH=src:kernels python kernels/bench/session.py [--only PART ...] [--out FOLDER]
    python kernels/bench/session.py --verdict RECORD.json ...

All of it takes longer than some machines lend at once, so it comes in five calls of at most 10 minutes (CALLS says
which parts and how many seconds; together they stay below half an hour). Every part runs in a process of its own with a
time limit, and is stopped when its call's time is over; what it had measured until then is kept. A part that fails is
recorded and the next one starts; the exit code is 1 if any failed, and where the tests failed the end says so loudly:
no speed may be quoted then.

FOLDER (default: gpu-record) gets all output as log-N.txt, all numbers as record-N.json, and as summary-N.md the summary
that is printed last, rewritten after every part. The summary ends with the verdict: target, what was measured, met or
not. `--verdict` joins the records of several calls into one such table, with all targets.

A machine image with torch and triton may lack PyAV (`av`), which reading and writing files needs: carry its wheel for
that machine's Python (cp312, say), install it with `pip install --no-index --target FOLDER`, and add FOLDER to
PYTHONPATH. The tests also need hypothesis and pytest-timeout; pytest-xdist is used where it is there, and matplotlib.

`--dry-run` uses a network of a few hundred thousand weights and tiny pictures, on a CPU if need be (with
TRITON_INTERPRET=1 through the kernels); what it prints are not measurements.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from verdict import table, tests_passed

ROOT = Path(__file__).resolve().parents[2]
# Seconds a part may take; the order is the order of a full run.
LIMITS = {
    "tests": 240, "agreement": 200, "speed-768": 200, "speed-1152": 100, "speed-1536": 120, "command": 120,
    "memory": 180, "fp8-768": 150, "fp8-1152": 100, "fp8-1536": 120, "first-frame": 220, "profile": 100, "large": 80,
    "second-gpu": 60, "kernels": 360,
}  # fmt: skip
CALLS = {
    1: (400, ["tests", "agreement"]),
    2: (320, ["speed-768", "speed-1152", "speed-1536", "command"]),
    3: (330, ["memory", "fp8-768", "fp8-1152", "fp8-1536"]),
    4: (220, ["first-frame", "profile", "large", "second-gpu"]),
    5: (220, ["kernels"]),
}
"""Seconds and parts of each call, the most important part first."""
MAX_CHARACTERS = 11_000  # of the summary: what comes back at once from some machines
MACHINE = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,temperature.gpu"
SECONDS_BETWEEN_LOOKS = 5


def run_part(name, setup):
    """What a part measures, piece by piece."""
    import correctness
    import speed

    kind, _, size = name.partition("-")
    if size in ("768", "1152", "1536"):
        return speed.part_speed(setup, size, wants_fp8=kind == "fp8")
    parts = {
        "tests": correctness.part_tests, "agreement": correctness.part_agreement, "large": correctness.part_large,
        "second-gpu": correctness.part_second_gpu, "command": speed.part_command, "memory": speed.part_memory,
        "first-frame": speed.part_first_frame, "profile": speed.part_profile,
        "kernels": speed.part_kernels,
    }  # fmt: skip
    return parts[name](setup)


def keep_record(pieces, path):
    """Writes the file anew after every piece, so that a part that is stopped leaves what it had."""
    record = {}
    for key, value in pieces:
        record[key] = value
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(record, default=str))
        temporary.replace(path)
    return record


def look_at_machine():
    """A line of name, clocks and power per GPU; empty where there is no nvidia-smi."""
    command = ["nvidia-smi", f"--query-gpu={MACHINE}", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def start_part(name, folder, out, limit_s, is_dry):
    """Runs a part in its own process; its output, its record and how it ended go into a folder."""
    command = [sys.executable, "-u", __file__, "--part", name, "--out", str(folder)] + ["--dry-run"] * is_dry
    paths = [str(ROOT / "src"), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, paths)), SESSION_OUT=str(out))
    started = time.perf_counter()
    looks = [f"# {MACHINE}"]
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=ROOT, start_new_session=True
        )
        try:
            code = wait_and_look(process, started + limit_s, looks)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    (folder / f"{name}.machine").write_text("\n".join(looks) + "\n")
    ended = f"{name}: exit code {code}, {time.perf_counter() - started:.0f} s"
    (folder / f"{name}.end").write_text(ended + "\n")
    print(ended, flush=True)
    return code == 0


def wait_and_look(process, deadline, looks):
    """A process's exit code, or that it was stopped; appends what the machine says of itself every few seconds."""
    while True:
        remaining_s = deadline - time.perf_counter()
        try:
            return process.wait(max(0, min(SECONDS_BETWEEN_LOOKS, remaining_s)))
        except subprocess.TimeoutExpired:
            if remaining_s <= 0:
                return "none, stopped at its limit"
            looks.append(look_at_machine())


def gather(folder, out, suffix):
    """Writes log, record and summary of the parts so far; returns record and summary."""
    logs, record = {}, {}
    for name in LIMITS:
        if (folder / f"{name}.end").exists():
            title = f"## {(folder / f'{name}.end').read_text().strip()}"
            looks = (folder / f"{name}.machine").read_text().split("\n")
            logs[title] = (folder / f"{name}.log").read_text(errors="replace").splitlines() + looks[-2:-1]
            record.setdefault("machine", {})[name] = looks
        if (folder / f"{name}.json").exists():
            record[name] = json.loads((folder / f"{name}.json").read_text())
    (out / f"log{suffix}.txt").write_text("\n".join(line for title in logs for line in (title, *logs[title])) + "\n")
    (out / f"record{suffix}.json").write_text(json.dumps(record, indent=1) + "\n")
    end = f"\n{table(record, is_whole=False)}\n"
    for n_lines in (80, 60, 45, 30, 20, 12, 6):
        lines = []
        for title, log in logs.items():
            lines += [title, *(["..."] if len(log) > n_lines else []), *(line[:170] for line in log[-n_lines:])]
        summary = "\n".join(lines) + end
        if len(summary) <= MAX_CHARACTERS:
            break
    (out / f"summary{suffix}.md").write_text(summary)
    return record, summary


def run_parts(names, out, suffix, limit_s, is_dry):
    """Part after part until the time is over; whether all of them ended well."""
    deadline, are_well = time.perf_counter() + limit_s, True
    print(look_at_machine() or "there is no nvidia-smi here", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            remaining_s = deadline - time.perf_counter()
            if remaining_s < 1:
                print(f"{name}: not begun, the time is over", flush=True)
                are_well = False
                continue
            are_well &= start_part(name, Path(folder), out, min(LIMITS[name], remaining_s), is_dry)
            record, summary = gather(Path(folder), out, suffix)
    print(summary, flush=True)
    if is_dry:
        print("A dry run: nothing here is a measurement.")
    if "tests" in names and not tests_passed(record):
        print("!! THE TESTS DID NOT PASS: NO SPEED OF THIS CODE MAY BE QUOTED !!", flush=True)
    return are_well


def join_records(paths):
    """One record of several; later ones win."""
    record = {}
    for path in paths:
        read = json.loads(path.read_text())
        record |= read | {"machine": record.get("machine", {}) | read.get("machine", {})}
    return record


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--call", type=int, choices=list(CALLS))
    what.add_argument("--only", nargs="+", choices=list(LIMITS), default=list(LIMITS), metavar="PART")
    what.add_argument("--verdict", nargs="+", type=Path, metavar="RECORD.json")
    what.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("gpu-record"))
    parser.add_argument("--limit", type=int, metavar="SECONDS", help="of all parts together; default: the call's")
    parser.add_argument("--dry-run", action="store_true")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    out = arguments.out.resolve()
    if arguments.verdict:
        record = join_records(arguments.verdict)
        print(table(record))
        return 0 if tests_passed(record) else 1
    if arguments.part:
        from subject import Setup

        keep_record(run_part(arguments.part, Setup(arguments.dry_run)), out / f"{arguments.part}.json")
        return 0
    seconds, names = CALLS.get(arguments.call, (sum(LIMITS.values()), arguments.only))
    suffix = f"-{arguments.call}" if arguments.call else ""
    is_well = run_parts(names, out, suffix, arguments.limit or seconds, arguments.dry_run)
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
