"""The model on whole batches of clips, all chunks at once: what streaming computes, with gradients.

Letters: B clips of a pack; F latents of a clip, 4F - 3 frames out, 4F + 1 frames in.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from flashvsr_cli.errors import UsageError
from flashvsr_cli.model.dit import DiT, DiTBlock, Rotary, SelfAttend
from flashvsr_cli.model.lq_projection import BLOCK, CACHED_SLICES, KERNEL_FRAMES, LowResProjection
from flashvsr_cli.model.rope import rotary_table
from flashvsr_cli.model.tiny_decoder import MemBlock, TinyDecoder, unshuffle_detail
from flashvsr_cli.model.windows import to_window_order
from flashvsr_cli.schedule import FRAMES_PER_LATENT
from flashvsr_cli.train.encoder import group_frames, stack_pixels

ONE_STEP_TIMESTEP = 1000.0


def project_clips(projection: LowResProjection, low_res: Tensor) -> list[Tensor]:
    """Low-resolution tokens of whole clips.

    Args:
        projection: of any version.
        low_res: (B, 4F + 1, 3, H, W) in [-1, 1].

    Returns:
        Per linear layer (B * F * h * w, D), clips one after the other, each in window order.
    """
    first = low_res[:, :1].expand(-1, FRAMES_PER_LATENT, -1, -1, -1)
    x = F.pixel_unshuffle(torch.cat((first, low_res[:, 1:]), dim=1).flatten(0, 1), BLOCK)
    x = x.unflatten(0, (low_res.shape[0], -1))
    x = F.silu(_norm(projection, "norm1", _causal_conv(projection, "conv1", x, slices_per_clip=4)))
    x = F.silu(_norm(projection, "norm2", _causal_conv(projection, "conv2", x, slices_per_clip=2)))
    # The first clip of four only fills the caches.
    tokens = x[:, 1:].permute(0, 1, 3, 4, 2)
    tokens = torch.cat([to_window_order(clip) for clip in tokens])
    return [linear(tokens) for linear in projection.linear_layers]


def _norm(projection: LowResProjection, name: str, x: Tensor) -> Tensor:
    return projection.get_submodule(name)(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def _causal_conv(projection: LowResProjection, name: str, x: Tensor, *, slices_per_clip: int) -> Tensor:
    """Convolve (B, T, C, h, w) to (B, T / 2, C', h, w) by the version's rule for what stands in front."""
    conv = cast(nn.Conv3d, projection.get_submodule(name))
    clips = x.unflatten(1, (-1, slices_per_clip))
    if projection.version == "v1":
        in_front = clips[:, :, -CACHED_SLICES:]
    else:
        start = x[:, :1].expand(-1, CACHED_SLICES, -1, -1, -1)[:, None]
        in_front = torch.cat((start, clips[:, :-1, -CACHED_SLICES:]), dim=1)
    slices = torch.cat((in_front, clips), dim=2)
    taps = slices.unfold(2, KERNEL_FRAMES, 2).movedim(-1, 3).flatten(3, 4).flatten(0, 2)
    weight = conv.weight.transpose(1, 2).flatten(1, 2)
    y = F.conv2d(F.pad(taps, (1, 1, 1, 1), mode="replicate"), weight, conv.bias)
    return y.unflatten(0, (x.shape[0], -1))


@lru_cache(maxsize=16)
def _rotary(lengths: tuple[int, ...], grid: tuple[int, int], head_dim: int, device: torch.device) -> Rotary:
    tables = [rotary_table(range(n), grid, head_dim, device) for n in lengths]
    return torch.cat([cosine for cosine, _ in tables]), torch.cat([sine for _, sine in tables])


def predict_velocity(
    dit: DiT, prompt: Tensor, noisy: Sequence[Tensor], time: Tensor, tokens: Sequence[Tensor], attend: SelfAttend
) -> list[Tensor]:
    """The transformer on a pack of clips at one time.

    Args:
        dit: the transformer, its embeddings not folded.
        prompt: (1, n_text, text_dim).
        noisy: clips (C, F, H/8, W/8); their lengths may differ.
        time: () in [0, 1]; 1 is noise.
        tokens: per linear layer (n_tokens, D), clips one after the other.
        attend: self-attention of a layer over the whole pack.

    Returns:
        Per clip the velocity `noise - x0`, float32.
    """
    lengths = tuple(clip.shape[1] for clip in noisy)
    height, width = noisy[0].shape[-2:]
    rotary = _rotary(lengths, (height // 2, width // 2), dit.config.head_dim, noisy[0].device)
    conditioning = dit.condition(time.reshape(1) * ONE_STEP_TIMESTEP, prompt)
    packed = torch.cat(list(noisy), dim=1)[None]
    velocity = dit(packed, tokens, conditioning, rotary, attend)
    return list(velocity[0].float().split(lengths, dim=1))


def decode_clips(decoder: TinyDecoder, latents: Tensor, low_res: Tensor) -> Tensor:
    """Decode whole clips, all time steps at once.

    Args:
        decoder: the tiny decoder.
        latents: (B, C, F, H/8, W/8).
        low_res: (B, 4F - 3, 3, H, W) in [-1, 1]; (B, 4F, 3, H, W) for clips that begin inside a stream.

    Returns:
        Like `low_res`, not clamped.
    """
    batch = latents.shape[0]
    groups = group_frames(low_res)
    x = torch.cat((stack_pixels(groups), latents.transpose(1, 2).flatten(0, 1)), dim=1)

    def remember(_index: int, block: MemBlock, x: Tensor) -> Tensor:
        steps = x.unflatten(0, (batch, -1))
        past = torch.cat((torch.zeros_like(steps[:, :1]), steps[:, :-1]), dim=1).flatten(0, 1)
        return block.combine(x, past)

    condition = groups.flatten(0, 2)
    x = decoder.run_layers(x.contiguous(memory_format=torch.channels_last), condition, remember)
    frames = decoder.finish(x.float(), condition).unflatten(0, (batch, -1))
    return frames[:, -low_res.shape[1] :]


def decode_stills(decoder: TinyDecoder, low_res: Tensor) -> Tensor:
    """Still pictures through everything behind the first stage, which adds nothing.

    What a decoder with detail makes of a clip's first frame, for a fraction of the work. No memory block sees a past:
    weights that learned to take the picture itself for its past would show ghosts where it moves.

    Args:
        decoder: with detail.
        low_res: (B, 3, H, W) in [-1, 1].

    Returns:
        Like `low_res`, not clamped.
    """
    if decoder.detail is None:
        raise UsageError("Only a decoder with detail learns from still pictures.", "Set model.decoder_detail.")
    x = decoder.detail(unshuffle_detail(low_res))
    x = decoder.run_from_second_stage(x, lambda _index, block, x: block.combine(x, torch.zeros_like(x)))
    return decoder.finish(x.float(), low_res)


def checkpoint_blocks(stage: nn.Module) -> None:
    """Let every transformer block compute its activations again in the backward pass."""
    for block in stage.modules():
        if isinstance(block, DiTBlock):
            plain = block.forward

            def recomputed(*inputs: Any, plain: Any = plain) -> Any:
                return checkpoint(plain, *inputs, use_reentrant=False)

            block.forward = recomputed  # type: ignore[method-assign, assignment]
