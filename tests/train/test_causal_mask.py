"""Training sees whole clips at once what streaming inference computes chunk by chunk."""

import dataclasses

import pytest
import torch

from flashvsr_cli.geometry import plan_geometry
from flashvsr_cli.model.stream import Stream
from flashvsr_cli.options import Settings
from flashvsr_cli.schedule import iter_chunks
from flashvsr_cli.train.attend import CausalSparsity, full_attention, visible_chunks
from flashvsr_cli.train.forward import decode_clips, predict_velocity, project_clips
from flashvsr_cli.train.parts import Parts, network_of, role_states

HEIGHT, WIDTH, N_CHUNKS = 256, 128, 4
LIMIT = 1e-4


@pytest.fixture
def clips() -> tuple[torch.Tensor, torch.Tensor]:
    """Two clips: low-resolution frames (2, 49, 3, H, W) and noise (2, 16, 12, H/8, W/8)."""
    generator = torch.Generator().manual_seed(2)
    n_latents = 6 + 2 * (N_CHUNKS - 1)
    low_res = torch.rand((2, 4 * n_latents + 1, 3, HEIGHT // 32, WIDTH // 32), generator=generator) * 2 - 1
    low_res = torch.nn.functional.interpolate(low_res, (3, HEIGHT, WIDTH))
    return low_res, torch.randn((2, 16, n_latents, HEIGHT // 8, WIDTH // 8), generator=generator)


def stream_clip(
    parts: Parts, settings: Settings, low_res: torch.Tensor, noise: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    network = network_of(role_states(parts.state_dict(), 1.0), parts.traits, torch.device("cpu"))
    stream = Stream(network, plan_geometry((HEIGHT, WIDTH), 1), settings)
    latents, frames = [], []
    for chunk in iter_chunks(low_res.shape[0] - 4):
        stream.project(low_res[chunk.read.start : chunk.read.stop])
        x0 = stream.denoise(chunk, stream.take_features(), noise[None, :, chunk.latents.start : chunk.latents.stop])
        latents.append(x0)
        frames.extend(stream.decode(x0, low_res[chunk.emit.start : chunk.emit.stop]))
    return torch.cat(latents, dim=2)[0], torch.cat(frames)


@pytest.mark.parametrize("kv_ratio", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("path", ["masked", "flex"])
def test_one_pass_equals_streaming(
    toy_parts: Parts, clips: tuple[torch.Tensor, torch.Tensor], kv_ratio: float, path: str
) -> None:
    low_res, noise = clips
    settings = dataclasses.replace(toy_parts.traits.settings, kv_ratio=kv_ratio)
    attend = CausalSparsity((HEIGHT // 128, WIDTH // 128), noise.shape[2], 2, settings, path)
    with torch.no_grad():
        tokens = project_clips(toy_parts.generator.projection, low_res)
        one = torch.ones(())
        velocity = predict_velocity(toy_parts.generator.dit, toy_parts.prompt, list(noise), one, tokens, attend)
        x0 = noise - torch.stack(velocity)
        frames = decode_clips(toy_parts.decoder, x0, low_res[:, :-4])
    for i_clip in range(2):
        expected_x0, expected_frames = stream_clip(toy_parts, settings, low_res[i_clip], noise[i_clip])
        assert (x0[i_clip] - expected_x0).abs().max() < LIMIT
        assert (frames[i_clip] - expected_frames).abs().max() < LIMIT
        assert expected_x0.std() > 0.1


def test_the_mask_is_sparse_causal_and_leaves_rows_empty(
    toy_parts: Parts, clips: tuple[torch.Tensor, torch.Tensor]
) -> None:
    _, noise = clips
    attend = CausalSparsity((2, 1), noise.shape[2], 2, toy_parts.traits.settings)
    generator = torch.Generator().manual_seed(3)
    q, k = (torch.randn((2 * 6 * 2 * 128, 32), generator=generator) for _ in range(2))
    keep = attend.block_map(q, k, n_clips=2).reshape(2, 2, 6, 2, 6, 2)
    assert not keep[:, :, :3, :, 3:].any()
    assert not keep[:, :, 5, :, :2].any()
    assert not keep[..., 0, :, 1].any(), "local_range 1 keeps windows to themselves"
    assert keep.any()
    assert (~keep.flatten(4).any(-1)).any()


def test_visible_pairs_follow_the_cache() -> None:
    chunks = visible_chunks(12, kv_ratio=3.0)
    assert [(list(c.queries), list(c.keys)) for c in chunks] == [
        ([0, 1, 2], [0, 1, 2]),
        ([3], [0, 1, 2, 3]),
        ([4], [1, 2, 3, 4]),
        ([5], [2, 3, 4, 5]),
    ]


def test_segments_do_not_see_each_other() -> None:
    generator = torch.Generator().manual_seed(4)
    q, k, v = (torch.randn((7 * 128, 32), generator=generator) for _ in range(3))
    together = full_attention([256, 256, 384], 2)(0, q, k, v)
    alone = [full_attention([stop - start], 2)(0, q[start:stop], k[start:stop], v[start:stop])
             for start, stop in ((0, 256), (256, 512), (512, 896))]  # fmt: skip
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention has gradients on CUDA only")
def test_gradients_of_both_paths_agree(toy_parts: Parts) -> None:
    generator = torch.Generator().manual_seed(5)
    gradients = []
    inputs = [torch.randn((3 * 2 * 128, 32), generator=generator).cuda() for _ in range(3)]
    for path in ("masked", "flex"):
        q, k, v = (x.clone().requires_grad_(True) for x in inputs)
        CausalSparsity((2, 1), 6, 2, toy_parts.traits.settings, path)(0, q, k, v).square().sum().backward()
        gradients.append((q.grad, k.grad, v.grad))
    for masked, flex in zip(*gradients, strict=True):
        torch.testing.assert_close(masked, flex, rtol=1e-2, atol=1e-2)
