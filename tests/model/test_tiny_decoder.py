"""The tiny decoder: any split of the latents gives the same frames, and they are those of the obvious loop."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flashvsr_cli.model.config import TinyDecoderConfig
from flashvsr_cli.model.tiny_decoder import LAST_UPSAMPLE, MemBlock, TinyDecoder, unshuffle_detail

N_LATENTS = 6
HEIGHT, WIDTH = 16, 24
CONFIG = TinyDecoderConfig(784, (12, 10, 8, 6))


@pytest.fixture(scope="module")
def decoder(make_random: Callable[..., TinyDecoder]) -> TinyDecoder:
    return make_random(TinyDecoder(CONFIG))


@pytest.fixture(scope="module")
def latents() -> torch.Tensor:
    shape = (1, 16, N_LATENTS, HEIGHT // 8, WIDTH // 8)
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def low_res() -> torch.Tensor:
    shape = (4 * N_LATENTS - 3, 3, HEIGHT, WIDTH)
    return torch.rand(shape, generator=torch.Generator().manual_seed(2)) * 2 - 1


def decode_step_by_step(latents: torch.Tensor, low_res: torch.Tensor, w: dict[str, torch.Tensor]) -> torch.Tensor:
    """Time step after time step, depth first, each memory block holding its input of the step before."""
    memory: dict[int, torch.Tensor] = {}

    def conv(x: torch.Tensor, name: str, padding: int = 1) -> torch.Tensor:
        return F.conv2d(x, w[f"{name}.weight"], w.get(f"{name}.bias"), padding=padding)

    def mem_block(x: torch.Tensor, layer: int) -> torch.Tensor:
        past = memory.get(layer, torch.zeros_like(x))
        memory[layer] = x
        y = conv(torch.cat((x, past), dim=1), f"decoder.{layer}.conv.0").relu()
        y = conv(y, f"decoder.{layer}.conv.2").relu()
        return (conv(y, f"decoder.{layer}.conv.4") + x).relu()

    def stage(x: torch.Tensor, i_stage: int) -> list[torch.Tensor]:
        if i_stage == 3:
            return [conv(conv(x.relu(), "decoder.24").relu(), "decoder.26")]
        first = 5 + 6 * i_stage
        for layer in range(first, first + 3):
            x = mem_block(x, layer)
        x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        steps = conv(x, f"decoder.{first + 4}.conv", padding=0).split(x.shape[1], dim=1)
        return [frame for step in steps for frame in stage(conv(step, f"decoder.{first + 5}"), i_stage + 1)]

    condition = torch.cat((low_res[:1], low_res[:1], low_res[:1], low_res))
    frames = []
    for i in range(latents.shape[2]):
        group = condition[4 * i : 4 * i + 4].reshape(4, 3, HEIGHT // 8, 8, WIDTH // 8, 8)
        channels = group.permute(1, 0, 3, 5, 2, 4).reshape(1, 768, HEIGHT // 8, WIDTH // 8)
        x = 3 * torch.tanh(torch.cat((channels, latents[:, :, i]), dim=1) / 3)
        frames += stage(conv(conv(x, "decoder.1").relu(), "decoder.3").relu(), 0)
    return torch.cat(frames[3:]) * 2 - 1


def decode_in_parts(
    decoder: TinyDecoder, latents: torch.Tensor, low_res: torch.Tensor, sizes: list[int]
) -> torch.Tensor:
    state: dict[int, torch.Tensor] = {}
    frames, i_latent, i_frame = [], 0, 0
    for size in sizes:
        n_frames = 4 * size - (3 if i_latent == 0 else 0)
        part = latents[:, :, i_latent : i_latent + size]
        frames += decoder.decode(part, low_res[i_frame : i_frame + n_frames], state)
        i_latent, i_frame = i_latent + size, i_frame + n_frames
    return torch.cat(frames)


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels take tensors of a CPU in the interpreter only")
def test_kernels_compute_the_same(
    make_random: Callable[..., TinyDecoder], latents: torch.Tensor, low_res: torch.Tensor
) -> None:
    decoder = make_random(TinyDecoder(CONFIG))
    decoder.fold_constants()
    expected = decode_in_parts(decoder, latents[:, :, :2], low_res[:5], [1, 1])
    decoder.use_kernels()
    frames = decode_in_parts(decoder, latents[:, :, :2], low_res[:5], [1, 1])
    torch.testing.assert_close(frames, expected, rtol=1e-5, atol=1e-5)
    # A GPU hands over several steps at once.
    block = next(layer for layer in decoder.decoder if isinstance(layer, MemBlock))
    steps = torch.randn(4, 12, 3, 5, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(block(steps, steps[:1])[0], block.combine(steps, steps[[0, 0, 1, 2]]))


def test_decoder_is_the_obvious_loop(decoder: TinyDecoder, latents: torch.Tensor, low_res: torch.Tensor) -> None:
    frames = torch.cat(list(decoder.decode(latents, low_res, {})))
    assert frames.shape == low_res.shape
    torch.testing.assert_close(
        frames, decode_step_by_step(latents, low_res, decoder.state_dict()), rtol=1e-4, atol=1e-5
    )


@given(st.sets(st.integers(1, N_LATENTS - 1)))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_split_gives_the_same_frames(
    decoder: TinyDecoder, latents: torch.Tensor, low_res: torch.Tensor, cuts: set[int]
) -> None:
    edges = [0, *sorted(cuts), N_LATENTS]
    sizes = [b - a for a, b in pairwise(edges)]
    whole = decode_in_parts(decoder, latents, low_res, [N_LATENTS])
    torch.testing.assert_close(decode_in_parts(decoder, latents, low_res, sizes), whole, rtol=1e-5, atol=1e-5)


def test_first_group_is_one_frame_and_others_four(
    decoder: TinyDecoder, latents: torch.Tensor, low_res: torch.Tensor
) -> None:
    assert [len(group) for group in decoder.decode(latents, low_res, {})] == [1, 4, 4, 4, 4, 4]


def test_past_matters(decoder: TinyDecoder, latents: torch.Tensor, low_res: torch.Tensor) -> None:
    *_, with_past = decoder.decode(latents, low_res, {})
    *_, alone = decoder.decode(latents[:, :, -1:], low_res[-4:], {})
    assert not torch.allclose(with_past, alone, atol=1e-2)


def test_a_decoder_fed_the_wrong_number_of_frames_refuses(
    decoder: TinyDecoder, latents: torch.Tensor, low_res: torch.Tensor
) -> None:
    with pytest.raises(ValueError, match="do not go with"):
        list(decoder.decode(latents, low_res[:-4], {}))


DETAILED = TinyDecoderConfig(784, (12, 10, 8, 6), grow=(4, 1, 1), blocks=(1, 2, 0), has_detail=True)


@pytest.fixture(scope="module")
def detailed(make_random: Callable[..., TinyDecoder]) -> TinyDecoder:
    return make_random(TinyDecoder(DETAILED))


def test_sizes_are_read_off_the_tensors(decoder: TinyDecoder, detailed: TinyDecoder) -> None:
    assert TinyDecoderConfig.of(decoder.state_dict()) == CONFIG
    assert TinyDecoderConfig.of(detailed.state_dict()) == DETAILED


def test_a_decoder_with_detail_streams(detailed: TinyDecoder, latents: torch.Tensor, low_res: torch.Tensor) -> None:
    whole = decode_in_parts(detailed, latents, low_res, [N_LATENTS])
    assert whole.shape == low_res.shape
    for sizes in ([1] * N_LATENTS, [2, 3, 1]):
        parts = decode_in_parts(detailed, latents, low_res, sizes)
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


def test_a_cpu_gives_frame_after_frame_where_each_is_by_itself(
    detailed: TinyDecoder, latents: torch.Tensor, low_res: torch.Tensor
) -> None:
    assert [len(group) for group in detailed.decode(latents, low_res, {})] == [1] * len(low_res)


@pytest.mark.parametrize("config", [CONFIG, DETAILED], ids=["released", "detailed"])
@pytest.mark.parametrize("n_skipped", [1, 2, 3])
def test_frames_that_are_skipped_change_no_others(
    make_random: Callable[..., TinyDecoder], config: TinyDecoderConfig, n_skipped: int
) -> None:
    """All steps together, as on a GPU; one after the other is what every stream here does."""
    decoder = make_random(TinyDecoder(config))
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(config.grow[0], config.channels[1], 8, 12, generator=generator)
    memory: list[torch.Tensor] = []

    def remember(_index: int, block: MemBlock, x: torch.Tensor) -> torch.Tensor:
        y, last = block(x, None)
        memory.append(last)
        return y

    with torch.inference_mode():
        whole = decoder.run_from_second_stage(x, remember)
        seen, memory = memory, []
        # Not bit by bit: a convolution may add up in another order for another number of pictures.
        torch.testing.assert_close(decoder.run_from_second_stage(x, remember, n_skipped), whole[n_skipped:])
        torch.testing.assert_close(memory, seen)
        assert decoder.run_from_second_stage(x, remember, len(whole)).shape == (0, *whole.shape[1:])


def test_detail_is_unshuffled_in_the_released_order(low_res: torch.Tensor) -> None:
    assert torch.equal(unshuffle_detail(low_res), F.pixel_unshuffle(low_res, 4))


def test_detail_is_of_each_frame_by_itself(detailed: TinyDecoder, latents: torch.Tensor, low_res: torch.Tensor) -> None:
    """A change in the last frame of a group reaches earlier ones through the first stage alone, and others not."""
    changed = low_res.clone()
    changed[-1] += 0.5
    before, after = (decode_in_parts(detailed, latents, x, [N_LATENTS]) for x in (low_res, changed))
    assert (before[-1] - after[-1]).square().mean() > 4 * (before[-2] - after[-2]).square().mean()
    torch.testing.assert_close(before[:-4], after[:-4])


@pytest.mark.parametrize("config", [CONFIG, DETAILED], ids=["released", "detailed"])
def test_pictures_finished_one_by_one_are_the_same_bits(
    make_random: Callable[..., TinyDecoder], config: TinyDecoderConfig
) -> None:
    """What a GPU does to save memory; here on a CPU, where nothing but the order differs."""
    decoder = make_random(TinyDecoder(config))
    decoder.fold_constants()
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(4 // config.grow[2], config.channels[2], 16, 24, generator=generator)
    with torch.inference_mode():
        steps = [decoder._finish_step(step) for step in decoder._upsample(LAST_UPSAMPLE, x)]
        together = torch.stack(steps, dim=1).flatten(0, 1)
        assert torch.equal(decoder._finish_pictures(x), together)


def test_detail_needs_a_second_stage_of_whole_frames() -> None:
    with pytest.raises(RuntimeError, match="detail"):
        TinyDecoder(TinyDecoderConfig(784, (12, 10, 8, 6), has_detail=True))


@pytest.mark.parametrize("config", [CONFIG, DETAILED], ids=["released", "detailed"])
def test_bands_of_rows_leave_no_border(make_random: Callable[..., TinyDecoder], config: TinyDecoderConfig) -> None:
    decoder = make_random(TinyDecoder(config))
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(1, 16, 1, 22, 2, generator=generator)
    low_res = torch.rand(1, 3, 176, 16, generator=generator) * 2 - 1
    (whole,) = decoder.decode(latents, low_res, {})
    with torch.no_grad():
        (banded,) = decoder.decode(latents, low_res, {})
    torch.testing.assert_close(banded, whole, rtol=1e-4, atol=1e-5)
