"""What the parts of a sitting run on: the released size with random weights on a GPU, or something tiny."""

import math
from dataclasses import replace
from pathlib import Path

SIZES = {"768": (768, 1408), "1152": (1152, 1920), "1536": (1536, 2688), "2176": (2176, 4096)}
BF16, BF16_LOW_CACHE, FP8 = (False, "model"), (False, "fp8"), (True, "fp8")
"""(whether products take e4m3, how keys and values are remembered)."""


class Setup:
    """Devices, sizes and numbers of chunks; `is_dry` makes everything tiny."""

    def __init__(self, is_dry):
        import torch

        import flashvsr_kernels

        self.is_dry = is_dry
        self.is_cuda = torch.cuda.is_available()
        self.device = torch.device("cuda" if self.is_cuda else "cpu")
        self.backend = "triton" if flashvsr_kernels.is_available(self.device) else "torch"
        self.has_fp8 = flashvsr_kernels.supports_fp8(self.device)
        self.n_chunks = 1 if is_dry else 12
        self.n_warm = 1 if is_dry else 6
        if is_dry:
            shrink_released_size()

    def size(self, name="768"):
        return (128, 128) if self.is_dry else SIZES[name]

    def formats(self, *wanted):
        """Those that run here."""
        return [(fp8, cache) for fp8, cache in wanted if self.has_fp8 or (not fp8 and cache == "model")]

    def network(self, dtype=None, *, backend=None, fp8=False, rounded_to=None, device=None):
        """Random weights, the same for every dtype if they are rounded to one first."""
        import torch

        from flashvsr_cli.model.full_size import full_size_states, random_states
        from flashvsr_cli.model.network import build_network
        from flashvsr_cli.model.traits import Traits
        from flashvsr_cli.weights_registry import ROLES

        dtype = dtype or torch.bfloat16
        states = random_states(full_size_states("tiny"), device=device or self.device, dtype=rounded_to or dtype)
        for state in states.values():
            for key in state:
                state[key] = state[key].to(dtype)
        names = dict.fromkeys(ROLES, "random weights")
        return build_network(states, names, "v1.1", Traits(), backend or self.backend, fp8=fp8)

    def runner(self, network, kv_precision="model"):
        from flashvsr_cli.bench_model import ChunkRunner
        from flashvsr_cli.options import Settings

        return ChunkRunner(network, self.size(), Settings(kv_precision=kv_precision))

    def begin_to_count(self):
        import torch

        if self.is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_bytes(self):
        import torch

        return torch.cuda.max_memory_allocated() if self.is_cuda else 0


def shrink_released_size():
    """Makes `full_size` describe a tiny network of the same kind."""
    from flashvsr_cli.model import full_size

    full_size.DIT = replace(full_size.DIT, dim=128, n_heads=1, n_blocks=2, ffn_dim=256, freq_dim=64, text_dim=64)
    full_size.PROJECTION = replace(full_size.PROJECTION, hidden1=32, hidden2=32, dim=128)
    full_size.TINY_DECODER = replace(full_size.TINY_DECODER, channels=(32, 32, 16, 16))
    full_size.PROMPT_SHAPE = (1, 16, 64)


def name_of(fp8, kv_precision):
    return f"{'fp8' if fp8 else 'bf16'}, cache {kv_precision}"


def estimated_bytes(size, fp8, kv_precision):
    """What `flashvsr info` says of the released model, in half precision."""
    from flashvsr_cli.geometry import plan_geometry
    from flashvsr_cli.model.full_size import full_size_states
    from flashvsr_cli.model.memory import estimate_memory
    from flashvsr_cli.options import Settings

    geometry = plan_geometry((size[0] // 4, size[1] // 4), 4)
    return estimate_memory(full_size_states("tiny"), geometry, Settings(kv_precision=kv_precision), 2, fp8=fp8).total


def save_random_checkpoint(setup, path: Path):
    """The released size with random weights as one file of this project, bfloat16."""
    import torch

    from flashvsr_cli.model.full_size import full_size_states, random_states
    from flashvsr_cli.model.loading import save_single_file

    states = random_states(full_size_states("tiny"), device=setup.device, dtype=torch.bfloat16)
    save_single_file(path, states, {"version": "v1.1"})


def noise_images(size, n_frames):
    """(n_frames, H / 4, W / 4, 3) uint8."""
    import torch

    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n_frames, size[0] // 4, size[1] // 4, 3), generator=generator, dtype=torch.uint8)


def compute_chunks(network, size, settings, n_chunks, draw_images=noise_images):
    """Latents and frames of a stream's first chunks, float32 on the host."""
    import torch

    from flashvsr_cli.enlarge import SignedFrames, enlarge_levels
    from flashvsr_cli.geometry import plan_geometry
    from flashvsr_cli.model.stream import Stream, draw_noise
    from flashvsr_cli.schedule import plan_chunk

    geometry = plan_geometry((size[0] // 4, size[1] // 4), 4)
    images = draw_images(size, plan_chunk(n_chunks - 1).read.stop)
    low_res = enlarge_levels(images.to(network.device), geometry)
    stream = Stream(network, geometry, settings)
    latents, frames = [], []
    for chunk in map(plan_chunk, range(n_chunks)):
        for group in chunk.split_read():
            stream.project(SignedFrames(low_res[group.start : group.stop]))
        noise = draw_noise(0, chunk.index, stream.noise_shape(chunk)).to(network.device)
        x = stream.denoise(chunk, stream.take_features(), noise)
        latents.append(x.float().cpu())
        emit = SignedFrames(low_res[chunk.emit.start : chunk.emit.stop])
        frames += [group.float().cpu() for group in stream.decode(x, emit)]
    return torch.cat(latents, dim=2), torch.cat(frames)


def decibels(x, exact, peak):
    error = (x.double() - exact.double()).square().mean().item()
    return round(10 * math.log10(peak**2 / error), 2) if error > 0 else math.inf


def compare(got, exact):
    """Decibels of latents (peak: their range) and of frames (peak 2)."""
    peak = (exact[0].max() - exact[0].min()).item()
    return decibels(got[0], exact[0], peak), decibels(got[1], exact[1], 2)
