"""`Upscaler.upscale`: any length, any size, lazily, and the same frames every time."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np
import pytest
import torch

from flashvsr_cli import Settings, Upscaler
from flashvsr_cli.errors import InputError
from flashvsr_cli.model.stream import draw_noise
from flashvsr_cli.schedule import iter_chunks

Clip = Callable[..., Iterator[np.ndarray]]
Load = Callable[..., Upscaler]
SMALL = (32, 30)


class Counted:
    """An iterator that knows how much has been taken from it."""

    def __init__(self, frames: Iterable[np.ndarray]) -> None:
        self.frames, self.n_read = iter(frames), 0

    def __iter__(self) -> "Counted":
        return self

    def __next__(self) -> np.ndarray:
        frame = next(self.frames)
        self.n_read += 1
        return frame


def run(upscaler: Upscaler, frames: Iterable[np.ndarray], scale: float = 4, **settings: object) -> np.ndarray:
    return np.stack(list(upscaler.upscale(iter(frames), scale=scale, settings=Settings(**settings))))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    peak = np.iinfo(a.dtype).max
    error = ((a.astype(np.float64) - b.astype(np.float64)) ** 2).mean()
    return 10 * np.log10(peak**2 / error) if error else float("inf")


@pytest.mark.parametrize("n_frames", [1, 2, 20, 21, 22, 25, 26, 29, 30, 100])
def test_one_frame_out_per_frame_in(load_micro: Load, make_clip: Clip, n_frames: int) -> None:
    source = Counted(make_clip(n_frames, SMALL))
    out = list(load_micro().upscale(source, scale=4))
    assert len(out) == source.n_read == n_frames
    assert {(frame.shape, str(frame.dtype)) for frame in out} == {((128, 120, 3), "uint8")}


@pytest.mark.parametrize("n_frames", [1, 22])
def test_the_golden_checkpoint_takes_any_length(mini_folder: Path, make_clip: Clip, n_frames: int) -> None:
    upscaler = Upscaler.load(str(mini_folder), device="cpu")
    out = list(upscaler.upscale(make_clip(n_frames, (17, 23)), scale=4))
    assert [frame.shape for frame in out] == [(68, 92, 3)] * n_frames


def test_no_frames_in_none_out(load_micro: Load) -> None:
    assert list(load_micro().upscale([])) == []


@pytest.mark.parametrize(
    ("size", "scale", "target"),
    [
        ((17, 23), 1.5, (26, 34)),
        ((17, 23), 2, (34, 46)),
        ((17, 23), 3, (51, 69)),
        ((23, 17), 4, (92, 68)),
        ((1, 1), 4, (4, 4)),
        ((129, 3), 1, (129, 3)),
        ((32, 64), 4, (128, 256)),
        pytest.param((180, 320), 1.5, (270, 480), marks=pytest.mark.slow),
        pytest.param((180, 320), 4, (720, 1280), marks=pytest.mark.slow),
        pytest.param((480, 853), 1.5, (720, 1280), marks=pytest.mark.slow),
        pytest.param((480, 853), 2, (960, 1706), marks=pytest.mark.slow),
        pytest.param((480, 853), 3, (1440, 2559), marks=pytest.mark.slow),
        pytest.param((480, 853), 4, (1920, 3412), marks=pytest.mark.slow),
    ],
)
def test_sizes_are_exact(
    load_micro: Load, make_clip: Clip, size: tuple[int, int], scale: float, target: tuple[int, int]
) -> None:
    # Two frames go through the same arithmetic as any number: a chunk always has 25.
    out = list(load_micro().upscale(make_clip(2, size), scale=scale))
    assert [frame.shape for frame in out] == [(*target, 3)] * 2


def test_the_full_decoder_gives_the_same_counts(load_micro: Load, make_clip: Clip) -> None:
    out = run(load_micro(decoder="full"), make_clip(23, SMALL))
    assert out.shape == (23, 128, 120, 3)


def test_reads_no_more_than_the_schedule_needs(load_micro: Load, make_clip: Clip) -> None:
    source = Counted(make_clip(61, SMALL))
    out = load_micro().upscale(source, scale=4)
    assert source.n_read == 0
    for chunk in iter_chunks(61):
        for i_frame in chunk.emit:
            if i_frame == 61:
                break
            next(out)
            # 25 before the first output; after that the chunk that the frame is in, and four ahead of its end.
            assert source.n_read == min(chunk.read.stop, 61)
            assert source.n_read <= chunk.emit.stop + 4
    assert next(out, None) is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_clip_twice_gives_the_same_frames(load_micro: Load, make_clip: Clip, dtype: str) -> None:
    upscaler = load_micro(dtype=dtype)
    first, second = (run(upscaler, make_clip(40, SMALL)) for _ in range(2))
    assert np.array_equal(first, second)


def test_views_and_read_only_frames_are_frames(load_micro: Load, make_clip: Clip) -> None:
    frames = list(make_clip(2, SMALL))
    views = [frame[:, ::-1] for frame in frames]  # negative strides
    copies = [view.copy() for view in views]
    assert np.array_equal(run(load_micro(), views), run(load_micro(), copies))
    for frame in frames:
        frame.flags.writeable = False
    assert np.array_equal(run(load_micro(), frames), run(load_micro(), [frame.copy() for frame in frames]))


def test_landscape_then_portrait_equal_fresh_models(load_micro: Load, micro_folder: Path, make_clip: Clip) -> None:
    clips = [((32, 96), 1), ((96, 32), 2), ((32, 96), 3)]
    settings = {"local_range": 2, "sparse_ratio": 0.05}

    def play(upscaler: Upscaler, size: tuple[int, int], seed: int) -> np.ndarray:
        return run(upscaler, make_clip(30, size, seed=seed), **settings)

    used = [play(load_micro(), *clip) for clip in clips]
    fresh = [play(Upscaler.load(str(micro_folder), device="cpu", dtype="float32"), *clip) for clip in clips]
    for one, other in zip(used, fresh, strict=True):
        assert np.array_equal(one, other)


def test_interleaved_clips_do_not_touch_each_other(load_micro: Load, make_clip: Clip) -> None:
    upscaler = load_micro()
    clips = [list(make_clip(35, SMALL, seed=1)), list(make_clip(30, (30, 32), seed=2))]
    alone = [run(upscaler, clip) for clip in clips]
    both = list(zip_longest(*(upscaler.upscale(clip, scale=4) for clip in clips)))
    for i_clip in range(2):
        frames = [pair[i_clip] for pair in both if pair[i_clip] is not None]
        assert np.array_equal(np.stack(frames), alone[i_clip])


def test_an_abandoned_clip_leaves_nothing_behind(load_micro: Load, make_clip: Clip) -> None:
    upscaler = load_micro()
    expected = run(upscaler, make_clip(24, SMALL))
    for n_taken in (1, 3, 22):
        generator = upscaler.upscale(make_clip(60, SMALL, seed=5), scale=4)
        assert len(list(islice(generator, n_taken))) == n_taken
        generator.close()
        assert not torch.is_inference_mode_enabled()
        assert np.array_equal(run(upscaler, make_clip(24, SMALL)), expected)


def test_between_frames_the_caller_is_not_in_inference_mode(load_micro: Load, make_clip: Clip) -> None:
    for _ in load_micro().upscale(make_clip(3, SMALL), scale=4):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()


@pytest.mark.parametrize(("dtype", "limit"), [("bfloat16", 32), ("float16", 45)])
@pytest.mark.parametrize("decoder", ["tiny", "full"])
def test_half_precision_stays_near_float32(
    load_micro: Load, make_clip: Clip, dtype: str, decoder: str, limit: float
) -> None:
    exact, rough = (run(load_micro(decoder=decoder, dtype=name), make_clip(30, SMALL)) for name in ("float32", dtype))
    assert psnr(exact, rough) > limit


def test_sixteen_bits_in_sixteen_bits_out(load_micro: Load, make_clip: Clip) -> None:
    eight = list(make_clip(30, SMALL))
    deep = [frame.astype(np.uint16) * 257 for frame in eight]
    out_eight, out_deep = run(load_micro(), eight), run(load_micro(), deep)
    assert out_deep.dtype == np.uint16
    # The enlargement of deep frames is not rounded to bytes, so the two agree to about half a byte level.
    assert psnr(out_eight.astype(np.uint16) * 257, out_deep) > 45
    assert (out_deep % 257 != 0).mean() > 0.9


def test_deep_black_and_white_stay_what_they_are(load_micro: Load) -> None:
    for value in (0, 65535):
        (out,) = run(load_micro(), [np.full((*SMALL, 3), value, np.uint16)])
        # adain's epsilon leaves every channel a deviation of 0.3% of the range, 104 levels.
        assert np.abs(out.astype(int) - value).mean() < 104


def test_noise_comes_chunk_by_chunk_in_the_models_shape(load_micro: Load, make_clip: Clip) -> None:
    asked: list[tuple[int, tuple[int, ...]]] = []

    def noise(i_chunk: int, shape: tuple[int, ...]) -> torch.Tensor:
        asked.append((i_chunk, tuple(shape)))
        return draw_noise(7, i_chunk, shape)

    frames = list(make_clip(31, (32, 60)))
    out = np.stack(list(load_micro().upscale(frames, scale=4, noise=noise)))
    assert asked == [(0, (1, 16, 6, 16, 32)), (1, (1, 16, 2, 16, 32)), (2, (1, 16, 2, 16, 32))]
    assert np.array_equal(out, run(load_micro(), frames, seed=7))
    assert not np.array_equal(out, run(load_micro(), frames, seed=8))


def test_the_beginning_does_not_depend_on_what_follows_the_lookahead(load_micro: Load, make_clip: Clip) -> None:
    frames, others = list(make_clip(60, SMALL)), list(make_clip(60, SMALL, seed=9))
    whole = run(load_micro(), frames)
    for n_read, n_sure in ((25, 21), (33, 29), (41, 37)):
        cut = run(load_micro(), frames[:n_read])
        assert np.array_equal(cut[:n_sure], whole[:n_sure])
        changed = run(load_micro(), frames[:n_read] + others[n_read:])
        assert np.array_equal(changed[:n_sure], whole[:n_sure])
        assert not np.array_equal(changed[n_sure : n_sure + 8], whole[n_sure : n_sure + 8])


def test_a_clip_ends_as_if_its_last_frame_were_repeated(load_micro: Load, make_clip: Clip) -> None:
    frames = list(make_clip(27, SMALL))
    assert np.array_equal(run(load_micro(), frames), run(load_micro(), frames + frames[-1:] * 6)[:27])


@pytest.mark.parametrize("decoder", ["tiny", "full"])
def test_versions_differ(load_micro: Load, make_clip: Clip, decoder: str) -> None:
    first, second = (run(load_micro(version, decoder), make_clip(30, SMALL)) for version in ("v1", "v1.1"))
    assert not np.array_equal(first, second)
    assert psnr(first, second) < 50


@pytest.mark.parametrize(
    ("changed", "name"),
    [({"color_fix": "none"}, "none"), ({"color_fix": "wavelet"}, "wavelet"), ({"kv_ratio": 0}, "kv")],
)
def test_settings_reach_the_model(load_micro: Load, make_clip: Clip, changed: dict, name: str) -> None:
    frames = list(make_clip(45, SMALL))
    assert not np.array_equal(run(load_micro(), frames), run(load_micro(), frames, **changed)), name


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda frame: frame[:, :-1], "frame 3 is 29x32"),
        (lambda frame: frame.astype(np.uint16), "uint16"),
        (lambda frame: frame.astype(np.float32), "not an RGB picture"),
        (lambda frame: frame[..., :2], "not an RGB picture"),
        (lambda frame: frame[..., 0], "not an RGB picture"),
        (lambda frame: frame.tolist(), "not an RGB picture"),
        (lambda frame: frame[:0], "not an RGB picture"),
    ],
)
def test_a_frame_unlike_the_first_is_refused(
    load_micro: Load, make_clip: Clip, spoil: Callable[[np.ndarray], object], message: str
) -> None:
    frames = list(make_clip(5, SMALL))
    frames[3] = spoil(frames[3])
    with pytest.raises(InputError, match=message) as caught:
        list(load_micro().upscale(frames, scale=4))
    assert caught.value.next_step
