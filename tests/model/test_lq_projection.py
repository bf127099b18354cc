"""The low-resolution projection against a clip-by-clip conv3d that keeps its caches by the letter of the rule."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from flashvsr_cli.model.config import LowResProjectionConfig
from flashvsr_cli.model.lq_projection import LowResProjection, ProjectionState
from flashvsr_cli.model.windows import to_window_order

CONFIG = LowResProjectionConfig(in_channels=768, hidden1=8, hidden2=12, dim=16, n_layers=3)
N_FRAMES = 41
in_the_interpreter = pytest.mark.skipif(torch.cuda.is_available(), reason="kernels take tensors of a CPU there only")


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    return torch.rand(N_FRAMES, 3, 128, 256, generator=torch.Generator().manual_seed(3)) * 2 - 1


@pytest.fixture(params=["v1", "v1.1"])
def version(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def projection(make_random: Callable[..., LowResProjection], version: str) -> LowResProjection:
    return make_random(LowResProjection(CONFIG, version))


def unshuffle(clip: torch.Tensor) -> torch.Tensor:
    """(4, 3, H, W) -> (1, 768, 4, h, w), channels ordered (colour, row, column)."""
    t, c, height, width = clip.shape
    blocks = clip.reshape(t, c, height // 16, 16, width // 16, 16)
    return blocks.permute(1, 3, 5, 0, 2, 4).reshape(1, c * 256, t, height // 16, width // 16)


def norm_silu(x: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    norm = x.pow(2).sum(dim=1, keepdim=True).sqrt().clamp_min(1e-12)
    y = x / norm * x.shape[1] ** 0.5 * gamma[None]
    return y * torch.sigmoid(y)


def convolve(x: torch.Tensor, in_front: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    slices = torch.cat((in_front, x), dim=2)
    slices = F.pad(slices, (1, 1, 1, 1, 0, 0), mode="replicate")
    return F.conv3d(slices, weight, bias, stride=(2, 1, 1))


def project_clip_by_clip(
    frames: torch.Tensor, weights: dict[str, torch.Tensor], version: str
) -> list[list[torch.Tensor]]:
    """Per linear layer, per latent frame, tokens (h*w, D) row-major."""
    clips = [frames[:1].expand(4, -1, -1, -1), *frames[1:].split(4)]
    caches: dict[str, torch.Tensor] = {}

    def cached_conv(name: str, x: torch.Tensor) -> torch.Tensor:
        if version == "v1":
            caches[name] = x[:, :, -2:]
        in_front = caches.get(name, x[:, :, :1].expand(-1, -1, 2, -1, -1))
        y = convolve(x, in_front, weights[f"{name}.weight"], weights[f"{name}.bias"])
        caches[name] = x[:, :, -2:]
        return y

    out: list[list[torch.Tensor]] = [[] for _ in range(CONFIG.n_layers)]
    for i_clip, clip in enumerate(clips):
        x = norm_silu(cached_conv("conv1", unshuffle(clip)), weights["norm1.gamma"])
        if i_clip == 0:
            caches["conv2"] = x
            continue
        x = norm_silu(cached_conv("conv2", x), weights["norm2.gamma"])
        tokens = x[0, :, 0].flatten(1).T
        for layer in range(CONFIG.n_layers):
            out[layer].append(
                F.linear(tokens, weights[f"linear_layers.{layer}.weight"], weights[f"linear_layers.{layer}.bias"])
            )
    return out


def test_projection_is_the_clip_by_clip_convolution(
    projection: LowResProjection, version: str, frames: torch.Tensor
) -> None:
    actual = projection(frames, ProjectionState())
    expected = project_clip_by_clip(frames, projection.state_dict(), version)
    assert len(actual) == CONFIG.n_layers
    for tokens, latents in zip(actual, expected, strict=True):
        grid = torch.stack(latents).unflatten(1, (8, 16))
        torch.testing.assert_close(tokens, to_window_order(grid), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cuts", [[25, 33], [9, 17, 25, 33], [17]])
def test_chunks_equal_one_call(projection: LowResProjection, frames: torch.Tensor, cuts: list[int]) -> None:
    whole = projection(frames, ProjectionState())
    state = ProjectionState()
    parts = [projection(frames[a:b], state) for a, b in zip([0, *cuts], [*cuts, N_FRAMES], strict=True)]
    for layer, tokens in enumerate(whole):
        torch.testing.assert_close(torch.cat([part[layer] for part in parts]), tokens, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("has_kernels", [False, pytest.param(True, marks=in_the_interpreter)])
def test_clips_at_once_are_clips_one_by_one(
    projection: LowResProjection, frames: torch.Tensor, has_kernels: bool
) -> None:
    """What a GPU does; here on a CPU."""
    if has_kernels:
        projection.use_kernels()
    at_once, by_clips = ProjectionState(), ProjectionState()
    first = frames[:1].expand(4, -1, -1, -1)
    for clips in (first, frames[1:9], frames[9:25]):
        torch.testing.assert_close(
            projection._mix_at_once(clips, at_once), projection._mix_by_clips(clips, by_clips), rtol=1e-4, atol=1e-5
        )


def test_folded_weights_compute_the_same(
    make_random: Callable[..., LowResProjection], version: str, frames: torch.Tensor
) -> None:
    projection = make_random(LowResProjection(CONFIG, version))
    before = projection(frames[:9], ProjectionState())
    projection.fold_constants()
    for one, two in zip(projection(frames[:9], ProjectionState()), before, strict=True):
        assert torch.equal(one, two)


def test_linear_layers_differ(projection: LowResProjection, frames: torch.Tensor) -> None:
    first, second, third = projection(frames[:9], ProjectionState())
    assert not torch.allclose(first, second, atol=0.1)
    assert not torch.allclose(second, third, atol=0.1)


@pytest.mark.parametrize("version", ["v1"], indirect=True)
def test_first_clip_of_v1_has_no_effect(projection: LowResProjection, frames: torch.Tensor) -> None:
    other = torch.cat((-frames[:1], frames[1:]))
    for one, two in zip(projection(frames, ProjectionState()), projection(other, ProjectionState()), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("version", ["v1.1"], indirect=True)
def test_first_clip_of_v1_1_reaches_the_first_latents(projection: LowResProjection, frames: torch.Tensor) -> None:
    other = torch.cat((-frames[:1], frames[1:]))
    pairs = zip(projection(frames, ProjectionState()), projection(other, ProjectionState()), strict=True)
    for one, two in pairs:
        # Latents 0 and 1 share a window; from latent 2 on the first clip is out of reach.
        assert not torch.allclose(one[:256], two[:256], atol=1e-3)
        torch.testing.assert_close(one[256:], two[256:])


def test_versions_differ(make_random: Callable[..., LowResProjection], frames: torch.Tensor) -> None:
    (one, *_), (two, *_) = (
        make_random(LowResProjection(CONFIG, version))(frames, ProjectionState()) for version in ("v1", "v1.1")
    )
    assert (one - two).norm() > 0.1 * one.norm()
