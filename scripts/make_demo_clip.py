"""Encode the demo's clip: two seconds of a camera gliding past a house before mountains, with a sound.

Everything is drawn here, four times as large as the clip is, in layers that move past each other: textures are noise
whose power falls with frequency, as in photographs, and edges are as sharp as the larger size allows.
"""

import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

HEIGHT, WIDTH = 180, 320
SUPERSAMPLING = 4
RATE = Fraction(30000, 1001)
N_FRAMES = 48
SAMPLE_RATE = 48000

Array = np.ndarray
ROWS, COLUMNS = HEIGHT * SUPERSAMPLING, (WIDTH + 60) * SUPERSAMPLING
"""Of a drawn layer; the camera sees `WIDTH * SUPERSAMPLING` of its columns."""
SIGN = """
##### #     ##### ##### #   # #   # ##### ####
#     #     #   # #     #   # #   # #     #   #
####  #     ##### ##### ##### #   # ##### ####
#     #     #   #     # #   #  # #      # #  #
#     ##### #   # ##### #   #   #   ##### #   #
"""


def noise(rng: np.random.Generator, slope: float, stretch: tuple[float, float] = (1, 1)) -> Array:
    """(ROWS, COLUMNS) of deviation 1; amplitude falls as frequency^-slope; `stretch` lengthens it (down, across)."""
    row = np.fft.fftfreq(ROWS)[:, None] * stretch[0]
    column = np.fft.rfftfreq(COLUMNS)[None] * stretch[1]
    spectrum = np.fft.rfft2(rng.standard_normal((ROWS, COLUMNS))) / np.hypot(np.hypot(row, column), 1 / 400) ** slope
    made = np.fft.irfft2(spectrum, s=(ROWS, COLUMNS))
    return (made - made.mean()) / made.std()


def paint(picture: Array, mask: Array, color: Array | tuple[float, ...]) -> None:
    """Lay a colour over a picture of 3 or 4 channels where the mask in 0..1 says so; the fourth is what is covered."""
    weight = np.clip(mask, 0, 1)[..., None]
    picture[..., :3] += weight * (np.asarray(color, dtype=float) - picture[..., :3])
    if picture.shape[-1] == 4:
        picture[..., 3:] += weight * (1 - picture[..., 3:])


def tint(texture: Array, dark: tuple[float, ...], light: tuple[float, ...]) -> Array:
    """A texture of deviation 1 as colours between two."""
    share = np.clip(0.5 + 0.22 * texture, 0, 1)[..., None]
    return np.asarray(dark) * (1 - share) + np.asarray(light) * share


def draw_far(rng: np.random.Generator, y: Array, x: Array) -> Array:
    """Sky, clouds and mountains."""
    picture = np.empty((ROWS, COLUMNS, 3))
    picture[:] = np.stack((96 + 0.16 * y, 146 + 0.13 * y, 214 + 0.04 * y), -1)
    paint(picture, (noise(rng, 1.7, (1, 2.2)) - 0.5) * (1 - y / 420), (250, 248, 244))
    rocks = noise(rng, 1.5)
    ridge = 250 + 90 * np.sin(x / 310 + 1) + 45 * np.sin(x / 97) + 16 * np.sin(x / 31 + 2) + 7 * noise(rng, 1.2)[:1]
    slope = np.gradient(noise(rng, 1.9), axis=1) * 30 + 0.6 * rocks
    paint(picture, y - ridge, tint(slope, (52, 54, 70), (148, 142, 146)))
    snow = (ridge + 70 + 22 * noise(rng, 1.4) - y) / 6
    paint(picture, np.minimum(y - ridge, snow), tint(slope, (150, 162, 190), (252, 252, 255)))
    return picture


def draw_middle(rng: np.random.Generator, y: Array, x: Array) -> Array:
    """Forest, meadow and the house, with what is covered as a fourth channel."""
    layer = np.zeros((ROWS, COLUMNS, 4))
    leaves = noise(rng, 0.7)
    for left in np.sort(rng.uniform(-40, COLUMNS, 90)):
        top, half = rng.uniform(330, 400), rng.uniform(16, 30)
        reach = half * (y - top) / 130 * (0.75 + 0.25 * np.sin(y / 4.2 + left)) + 2 * leaves
        paint(layer, np.minimum(reach - abs(x - left), y - top) / 2, tint(leaves, (14, 36, 24), (66, 96, 56)))
    meadow = 440 + 12 * np.sin(x / 170) + 2 * leaves
    blades = noise(rng, 0.55, (0.6, 1.2))
    paint(layer, y - meadow, tint(blades + 0.4 * leaves, (52, 84, 28), (164, 176, 84)))
    draw_house(layer, rng, y, x)
    return layer


def box(y: Array, x: Array, top: float, left: float, height: float, width: float) -> Array:
    """A mask: 1 within, a pixel of slope around."""
    return 0.5 + np.minimum(height / 2 - abs(y - top - height / 2), width / 2 - abs(x - left - width / 2))


def draw_house(layer: Array, rng: np.random.Generator, y: Array, x: Array) -> None:
    """Bricks, a tiled roof, windows, a door and a sign."""
    top, left, height, width = 360, 610, 190, 420
    course = (y - top) // 13
    place = x - left + 14 * (course % 2)
    shades = rng.normal(0, 1, (200, 200))[course.astype(int) % 200, (place // 28).astype(int) % 200]
    bricks = tint(shades + 0.5 * noise(rng, 0.8), (112, 52, 40), (190, 108, 84))
    joints = np.maximum(abs((y - top) % 13 - 6.5) - 5.2, abs(place % 28 - 14) - 12.7)
    wall = box(y, x, top, left, height, width)
    paint(layer, wall, bricks)
    paint(layer, np.minimum(wall, joints), (198, 190, 178))
    slant = (y - top + 110) * 0.9
    roof = np.minimum(np.minimum(slant + 0 * x, x - left + 60 + slant * 0.55 - 60), left + width + slant * 0.55 - x)
    tiles = tint(2 * np.sin((x + 10 * ((y // 11) % 2)) / 3.2) + (y % 11) / 3 - 1.6, (52, 40, 44), (128, 96, 88))
    paint(layer, np.minimum(roof, np.minimum(y - top + 110, top + 8 - y)), tiles)
    glass = noise(rng, 1.6)
    for i_window in range(3):
        at = left + 36 + 92 * i_window
        paint(layer, box(y, x, top + 40, at, 74, 56), (240, 236, 226))
        for row in range(2):
            for column in range(2):
                pane = box(y, x, top + 45 + 33 * row, at + 5 + 24 * column, 30, 21)
                paint(layer, pane, tint(glass + (x - y - at + 300) / 30, (40, 54, 72), (150, 178, 204)))
    paint(layer, box(y, x, top + 74, left + 330, 116, 56), (46, 74, 66))
    paint(layer, box(y, x, top + 82, left + 338, 46, 40), tint(glass, (40, 54, 72), (120, 150, 180)))
    paint(layer, box(y, x, top + 126, left + 342, 7, 7), (226, 200, 110))
    paint(layer, box(y, x, top + 8, left + 44, 27, 200), (246, 240, 220))
    lines = SIGN.strip("\n").splitlines()
    dots = np.array([[mark == "#" for mark in line.ljust(max(map(len, lines)))] for line in lines])
    letters = np.kron(dots, np.ones((3, 4)))
    begin, at = top + 14, left + 50
    paint(layer[begin : begin + letters.shape[0], at : at + letters.shape[1]], letters, (34, 36, 48))


def draw_near(rng: np.random.Generator, y: Array, x: Array) -> Array:
    """A picket fence in the grass, with what is covered as a fourth channel."""
    layer = np.zeros((ROWS, COLUMNS, 4))
    wood = tint(noise(rng, 0.9, (4, 0.5)), (196, 190, 178), (250, 248, 242))
    for rail in (590, 652):
        paint(layer, box(y, x, rail, -10, 12, COLUMNS + 20), wood * 0.86)
    across = x % 34 - 17
    paint(layer, np.minimum(11 - abs(across), y - 560 - abs(across) * 1.1), wood)
    grass = 676 + 16 * noise(rng, 0.5, (2.2, 0.2))
    paint(layer, (y - grass) / 2, tint(noise(rng, 0.5, (1.8, 0.3)), (38, 66, 22), (140, 160, 70)))
    return layer


def seen(layer: Array, offset: float) -> Array:
    """What the camera sees of a layer, `offset` columns further to the right."""
    begin, share = int(offset), offset % 1
    left, right = (layer[:, start : start + WIDTH * SUPERSAMPLING] for start in (begin, begin + 1))
    return left * (1 - share) + right * share


def main(path: Path) -> None:
    """Write the clip."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:ROWS, 0:COLUMNS].astype(float)
    far, middle, near = draw_far(rng, y, x), draw_middle(rng, y, x), draw_near(rng, y, x)
    with av.open(path, "w") as container:
        video = container.add_stream("libx264", rate=RATE, options={"crf": "18"})
        video.height, video.width, video.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for i_frame in range(N_FRAMES):
            picture = seen(far, 0.7 * i_frame)
            for layer, speed in ((middle, 2.3), (near, 4.6)):
                front = seen(layer, speed * i_frame)
                picture += front[..., 3:] * (front[..., :3] - picture)
            blocks = picture.reshape(HEIGHT, SUPERSAMPLING, WIDTH, SUPERSAMPLING, 3)
            small = blocks.mean(axis=(1, 3)).clip(0, 255).round().astype(np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(small, format="rgb24")))
        time = np.arange(int(N_FRAMES / RATE * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE
        tone = 0.1 * np.sin(2 * np.pi * 220 * time * (1 + 0.25 * time))
        sound = av.AudioFrame.from_ndarray(tone[None].astype(np.float32), format="fltp", layout="mono")
        sound.sample_rate = SAMPLE_RATE
        container.mux(audio.encode(sound))
        for stream in (video, audio):
            container.mux(stream.encode(None))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
