"""Damaged copies of synthetic clips through the real reader and writer, each in a process of its own.

    python tests/fuzz/run_mutants.py --count 1000 --seed 0

A mutant may end in a complete output or in a refusal with a sentence, and in nothing else: no hang, no traceback, no
crash, no network access, no memory above the cap, no output that differs from what was read, no file left behind.
Prints a summary; exits 1 if a mutant broke a rule, and keeps that mutant (`--keep FOLDER`).
"""

import argparse
import itertools
import json
import os
import random
import resource
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections import Counter
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from flashvsr_cli.errors import FlashVSRError
from flashvsr_cli.options import EncodeOptions, InputOptions
from flashvsr_cli.video.reader import open_source
from flashvsr_cli.video.threads import ReadAhead, WriteBehind
from flashvsr_cli.video.writer import open_sink

TIME_CAP_S = 30
MEMORY_CAP_BYTES = 2 << 30
COMPLETE, REFUSED, BROKEN = 0, 1, 3
INTERESTING = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
CLIPS = {
    "bframes.mp4": ("libx264", "yuv420p", {"preset": "medium", "g": "8"}, {}, "aac"),
    "fragmented.mp4": ("libx264", "yuv420p", {"g": "6"}, {"movflags": "+frag_keyframe+empty_moov"}, "aac"),
    "front.mov": ("mpeg4", "yuv420p", {}, {"movflags": "+faststart"}, None),
    "deep.mkv": ("libx264", "yuv420p10le", {"preset": "fast", "g": "8"}, {}, "flac"),
    "alpha.mkv": ("ffv1", "yuva444p", {}, {}, None),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {"deadline": "realtime", "b": "200k"}, {}, "libopus"),
    "mpeg4.avi": ("mpeg4", "yuv420p", {"bf": "2"}, {}, "mp2"),
    "h264.ts": ("libx264", "yuv420p", {"preset": "fast", "g": "6"}, {}, "aac"),
    "mpeg2.mpg": ("mpeg2video", "yuv420p", {}, {}, "mp2"),
    "hevc.mp4": ("libx265", "yuv420p", {"preset": "ultrafast", "x265-params": "log-level=none"}, {}, None),
    "av1.mkv": ("libsvtav1", "yuv420p", {"preset": "12"}, {}, None),
    "prores.mov": ("prores_ks", "yuv422p10le", {}, {}, None),
    "flash.flv": ("flv1", "yuv420p", {}, {}, None),
    "small.gif": ("gif", "rgb8", {}, {}, None),
}
PICTURES = {
    "a.png": ("png", "rgb24"),
    "a.jpg": ("mjpeg", "yuvj420p"),
    "a.tiff": ("tiff", "rgb24"),
    "a.bmp": ("bmp", "bgr24"),
    "a.webp": ("libwebp", "bgra"),
}


def write_clip(path: Path) -> None:
    codec, pix_fmt, options, container_options, sound = CLIPS[path.name]
    with av.open(str(path), "w", container_options=container_options) as out:
        stream = out.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 64, pix_fmt
        tracks = [out.add_stream(sound, rate=48000)] if sound else []
        packets = []
        for i in range(20):
            y, x = np.mgrid[0:64, 0:64]
            image = np.stack([128 + 90 * np.sin((x * a + y + 9 * i) / 7) for a in (1, 2, 3)], -1).astype(np.uint8)
            picture = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=pix_fmt)
            picture.pts, picture.time_base = i, Fraction(1, 25)
            packets += stream.encode(picture)
        packets += stream.encode(None)
        for track in tracks:
            resampler = av.AudioResampler(track.format.name, track.layout.name, 48000, track.codec_context.frame_size)
            samples = (np.sin(np.arange(40000) / 20) * 9000).astype(np.int16).repeat(2)[None]
            frame = av.AudioFrame.from_ndarray(samples, "s16", "stereo")
            frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
            track.codec_context.open()
            for part in (*resampler.resample(frame), *resampler.resample(None)):
                packets += track.encode(part)
            packets += track.encode(None)
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
            out.mux(packet)


def write_picture(path: Path) -> None:
    codec, pix_fmt = PICTURES[path.name]
    encoder = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 40, 30, pix_fmt, Fraction(1, 25)
    image = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    picture = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=pix_fmt)
    path.write_bytes(b"".join(bytes(p) for p in (*encoder.encode(picture), *encoder.encode(None))))


def write_corpus(folder: Path, port: int) -> list[Path]:
    """Clips, pictures, a Y4M stream, and playlists that point to a local server; made in a process of its own."""
    pid = os.fork()
    if pid == 0:
        os.environ["SVT_LOG"] = "1"
        for name in CLIPS:
            write_clip(folder / name)
        for name in PICTURES:
            write_picture(folder / name)
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        raise SystemExit("the corpus could not be made")
    rng = np.random.default_rng(1)
    frames = b"".join(b"FRAME\n" + rng.integers(0, 255, 32 * 24 * 3 // 2, np.uint8).tobytes() for _ in range(6))
    (folder / "raw.y4m").write_bytes(b"YUV4MPEG2 W32 H24 F25:1 Ip A1:1 C420 XCOLORRANGE=LIMITED\n" + frames)
    url = f"http://127.0.0.1:{port}/a.ts"
    (folder / "list.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n")
    (folder / "list.ffconcat").write_text(f"ffconcat version 1.0\nfile '{url}'\nfile '{folder / 'raw.y4m'}'\n")
    (folder / "list.mpd").write_text(
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" profiles="urn:mpeg:dash:profile'
        f':isoff-on-demand:2011"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1"><BaseURL>{url}'
        "</BaseURL></Representation></AdaptationSet></Period></MPD>"
    )
    return sorted(folder.iterdir())


def mutate(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one to four random damages; headers, where most of the structure is, are hit more often."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        span = min(len(out), rng.choice((64, 512, len(out))))
        if span < 8:
            break
        at = rng.randrange(span - 4) if rng.random() < 0.7 else len(out) - rng.randint(4, span)
        length = rng.randint(1, min(256, len(out) - at))
        kind = rng.randrange(7)
        if kind == 0:
            for _ in range(rng.randint(1, 32)):
                out[rng.randrange(len(out))] = rng.randrange(256)
        elif kind == 1:
            out[at : at + length] = rng.randbytes(length)
        elif kind == 2:
            out[at : at + length] = bytes(length)
        elif kind == 3:
            del out[at : at + length]
        elif kind == 4:
            out[at:at] = out[at : at + length] * rng.randint(1, 4)
        elif kind == 5:
            width = rng.choice((1, 2, 4))
            out[at : at + width] = (rng.choice(INTERESTING) % 256**width).to_bytes(width, rng.choice(("big", "little")))
        else:
            del out[max(8, rng.randrange(len(out))) :]
    return bytes(out)


def process(source_path: Path, target: str) -> dict[str, object]:
    """Reads and writes as `upscale` does, at scale 1; then reads the result back and compares."""
    times = []
    with open_source(str(source_path), InputOptions()) as source:
        sink = open_sink(target, source, source.info.size, EncodeOptions(audio=random.choice(("copy", "transcode"))))
        writer, reader = WriteBehind(sink), ReadAhead(source)
        try:
            for frame in reader:
                times.append(None if frame.pts is None else frame.pts * source.info.time_base)
                writer.write(frame)
            writer.commit()
        finally:
            writer.abort()
            reader.close()
    if target.endswith(".png"):
        return {"frames": len(times)}
    with av.open(target) as opened:
        stream = next(s for s in opened.streams.video if not s.disposition & av.stream.Disposition.attached_pic)
        tick = Fraction(stream.time_base)
        got = [f.pts * tick for f in opened.decode(stream)]
    assert len(got) == len(times), f"{len(times)} frames were read, {len(got)} are in the output"
    origin = got[0] - times[0]
    assert all(later > sooner for sooner, later in itertools.pairwise(got)), "times of the output do not rise"
    tolerance = max(2 * tick, Fraction(2, 1000))
    assert all(abs(a - b + origin) <= tolerance for a, b in zip(times, got, strict=True)), (
        "times of the output differ from those of the input"
    )
    return {"frames": len(times), "corrupt": source.counters.corrupt_packets + source.counters.corrupt_frames}


def child(source_path: Path, target: str, seed: int, report: int) -> None:
    """One mutant in a process with caps; never returns."""
    random.seed(seed)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    code = BROKEN
    try:
        text = json.dumps(process(source_path, target))
        code = COMPLETE
    except FlashVSRError as error:
        code, text = REFUSED, error.message
    except BaseException:  # noqa: BLE001 - whatever it is, the parent has to know
        text = traceback.format_exc()
    os.write(report, text.encode()[-60_000:])
    os._exit(code)


def run_one(source_path: Path, target: str, seed: int) -> tuple[str, str, int, float]:
    """(outcome, text, peak resident bytes, seconds) of one mutant."""
    readable, writable = os.pipe()
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(readable)
        child(source_path, target, seed, writable)
    os.close(writable)
    text, is_late = b"", False
    while True:
        left = started + TIME_CAP_S - time.monotonic()
        if left <= 0 or not select.select([readable], [], [], left)[0]:
            is_late = True
            os.kill(pid, signal.SIGKILL)
            break
        part = os.read(readable, 65536)
        if not part:
            break
        text += part
    os.close(readable)
    _, status, usage = os.wait4(pid, 0)
    seconds, peak = time.monotonic() - started, usage.ru_maxrss * 1024
    if is_late:
        return "hang", "", peak, seconds
    if os.WIFSIGNALED(status):
        return "crash", signal.Signals(os.WTERMSIG(status)).name, peak, seconds
    outcome = {COMPLETE: "complete", REFUSED: "refused"}.get(os.WEXITSTATUS(status), "broken")
    return ("memory" if peak > MEMORY_CAP_BYTES else outcome), text.decode(errors="replace"), peak, seconds


def was_asked(server: socket.socket) -> bool:
    """Whether anybody connected to the server since the last call."""
    try:
        server.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the mutants that broke a rule")
    arguments = parser.parse_args()
    av.logging.set_level(None)
    server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    outcomes: Counter[str] = Counter()
    by_input: dict[str, Counter[str]] = {}
    failures, peak, slowest = [], 0, 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "corpus").mkdir()
        corpus = write_corpus(folder / "corpus", server.getsockname()[1])
        rng = random.Random(arguments.seed)
        for i in range(arguments.count):
            origin = corpus[i % len(corpus)]
            mutant, place = folder / f"mutant{i}{origin.suffix}", folder / f"out{i}"
            # The first round is undamaged: whatever happens to mutants, the corpus itself has to work.
            mutant.write_bytes(origin.read_bytes() if i < len(corpus) else mutate(origin.read_bytes(), rng))
            place.mkdir()
            suffix = ".png" if origin.name in PICTURES else rng.choice((".mp4", ".mkv"))
            outcome, text, used, seconds = run_one(mutant, f"{place}/out{suffix}", i)
            peak, slowest = max(peak, used), max(slowest, seconds)
            left = sorted(p.name for p in place.iterdir())
            if was_asked(server):
                outcome = "network"
            elif left != ([f"out{suffix}"] if outcome == "complete" else []) and outcome in ("complete", "refused"):
                outcome, text = "litter", str(left)
            elif i < len(corpus) and outcome == "refused" and not origin.name.startswith("list."):
                outcome = "corpus"
            outcomes[outcome] += 1
            by_input.setdefault(origin.name, Counter())[outcome] += 1
            if outcome not in ("complete", "refused"):
                failures.append((i, origin.name, outcome, text))
                if arguments.keep:
                    arguments.keep.mkdir(exist_ok=True)
                    shutil.copy(mutant, arguments.keep / mutant.name)
            mutant.unlink()
            shutil.rmtree(place)
    for i, origin, outcome, text in failures:
        sys.stdout.write(f"mutant {i} of {origin}: {outcome}\n{text}\n")
    summary = {
        "mutants": arguments.count,
        "outcomes": dict(outcomes),
        "by_input": {k: dict(v) for k, v in sorted(by_input.items())},
        "peak_resident_mib": peak >> 20,
        "slowest_s": round(slowest, 2),
    }
    sys.stdout.write(json.dumps(summary, indent=1) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
