"""Encode the demo's clip: two seconds of a camera gliding over a drawn landscape, with a sound."""

import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

HEIGHT, WIDTH = 96, 160
RATE = Fraction(30000, 1001)
N_FRAMES = 48
SAMPLE_RATE = 48000
SUPERSAMPLING = 4


def draw(i_frame: int) -> np.ndarray:
    """One picture, (HEIGHT, WIDTH, 3) uint8, averaged down from a larger drawing so that edges are natural."""
    y, x = np.mgrid[0 : HEIGHT * SUPERSAMPLING, 0 : WIDTH * SUPERSAMPLING] / SUPERSAMPLING
    x = x + 0.7 * i_frame
    sky = np.stack((90 + 0.6 * y, 140 + 0.5 * y, 220 - 0.2 * y), -1)
    far = 44 + 8 * np.sin(x / 19) + 4 * np.sin(x / 7.3 + 1)
    near = 66 + 7 * np.sin(1.6 * x / 23 + 2) + 2.5 * np.sin(1.6 * x / 5.1)
    rock = 20 * np.sin(x / 2.3 + y / 3.1) * np.sin(x / 5.7 - y / 2.2)
    grass = 25 * np.sin(1.6 * x * 1.9) * np.sin(y * 1.3 + 3 * np.sin(1.6 * x / 9))
    picture = np.where((y > far)[..., None], np.stack((95 + rock, 90 + rock, 110 + rock), -1), sky)
    picture = np.where((y > near)[..., None], np.stack((50 + grass, 120 + grass, 45 + grass), -1), picture)
    sun = (x - 0.7 * i_frame - 120) ** 2 + (y - 18) ** 2 < 81
    picture = np.where(sun[..., None], (255, 235, 170), picture)
    blocks = picture.reshape(HEIGHT, SUPERSAMPLING, WIDTH, SUPERSAMPLING, 3)
    return blocks.mean(axis=(1, 3)).clip(0, 255).round().astype(np.uint8)


def main(path: Path) -> None:
    """Write the clip."""
    with av.open(path, "w") as container:
        video = container.add_stream("libx264", rate=RATE, options={"crf": "18"})
        video.height, video.width, video.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for i_frame in range(N_FRAMES):
            container.mux(video.encode(av.VideoFrame.from_ndarray(draw(i_frame), format="rgb24")))
        n_samples = int(N_FRAMES / RATE * SAMPLE_RATE)
        time = np.arange(n_samples, dtype=np.float32) / SAMPLE_RATE
        tone = 0.1 * np.sin(2 * np.pi * 220 * time * (1 + 0.25 * time))
        sound = av.AudioFrame.from_ndarray(tone[None].astype(np.float32), format="fltp", layout="mono")
        sound.sample_rate = SAMPLE_RATE
        container.mux(audio.encode(sound))
        for stream in (video, audio):
            container.mux(stream.encode(None))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
