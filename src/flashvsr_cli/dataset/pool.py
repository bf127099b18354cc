"""A pool of clips held ready in memory, from which every step takes its own.

What a pool holds follows from the seed and its number alone, so every process and every resumed run has the same.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flashvsr_cli.dataset.batch import Batch
from flashvsr_cli.dataset.compress import compress_video
from flashvsr_cli.dataset.degrade import Degraded, degrade_clip, resize_clip
from flashvsr_cli.dataset.sources import ShardSource, Source, draw_pictures, list_photos, load_photos, read_index
from flashvsr_cli.errors import InputError
from flashvsr_cli.schedule import FIRST_CHUNK_READS, LOOKAHEAD, NEXT_CHUNK_READS
from flashvsr_cli.train.config import DataConfig
from flashvsr_cli.train.random import Purpose, StepRandom, generator_of, to_device

STILL_READS = 9
"""Frames of a still picture's clip: two latents."""
PROCEDURAL_PICTURES = 48
_PICTURES, _CLIPS, _STILLS = 1, 2, 3


@dataclass(frozen=True)
class Clips:
    """Clips in memory: high (N, T - 4, 3, H, W) and low (N, T, 3, h, w), both uint8."""

    high: Tensor
    low: Tensor


class ClipPool:
    """Makes the pool and the batches.

    Args:
        config: where clips come from.
        seed: of the run.
        device: where clips are made and kept.
    """

    def __init__(self, config: DataConfig, seed: int, device: torch.device) -> None:
        self._config = config
        self._seed = seed
        self._device = device
        self._sources, self._shares = self._open_sources()
        self._number = -1
        self._clips: Clips | None = None
        self._stills: Clips | None = None

    def _open_sources(self) -> tuple[list[Source], list[float]]:
        config, device = self._config, self._device
        sources: list[tuple[Source, float]] = []
        if config.procedural > 0:
            rng = generator_of(self._seed, _PICTURES)
            count = min(PROCEDURAL_PICTURES, max(2, config.pool_clips // 4 or PROCEDURAL_PICTURES))
            sources.append((draw_pictures(rng, count, max(512, 2 * max(config.sides)), device), config.procedural))
        videos = read_index(config.shards, "video", without=config.hold_out)
        photos = [path for path, _ in read_index(config.shards, "photo", without=config.hold_out)]
        photos += list_photos(config.photos, without=config.hold_out)
        share = (1 - config.procedural) / max(1, bool(videos) + bool(photos))
        if photos:
            sources.append((load_photos(photos, device), share))
        if videos:
            sources.append((ShardSource(videos, device), share))
        if not sources:
            raise InputError("There is no source of clips.", "Set data.procedural, data.photos or data.shards.")
        return [source for source, _ in sources], [share for _, share in sources]

    def prepare(self, step: int) -> None:
        """Make the pool that a step draws from, unless it is the one at hand."""
        every, n_clips = self._config.pool_steps, self._config.pool_clips
        number = step // every if every else 0
        if number == self._number or not n_clips:
            return
        self._clips = self._make(number, _CLIPS, range(n_clips))
        if self._config.image_share > 0:
            self._stills = self._make(number, _STILLS, range(self._count_stills(n_clips)))
        self._number = number

    def _count_stills(self, n_clips: int) -> int:
        return max(1, round(n_clips * self._config.image_share))

    def _make(self, number: int, kind: int, places: Sequence[int]) -> Clips:
        """Clips that follow from the seed, the pool's number, and their place in it."""
        reads = STILL_READS if kind == _STILLS else FIRST_CHUNK_READS + NEXT_CHUNK_READS * (self._config.n_chunks - 1)
        height, width = self._config.sides
        low_size = height // self._config.scale, width // self._config.scale
        count, device = len(places), self._device
        high = torch.empty((count, reads - LOOKAHEAD, 3, height, width), dtype=torch.uint8, device=device)
        low = torch.empty((count, reads, 3, *low_size), dtype=torch.uint8, device=device)
        with ThreadPoolExecutor(self._config.workers) as executor:
            jobs = []
            for i_clip, place in enumerate(places):
                rng = generator_of(self._seed, number, place, kind, Purpose.DATA)
                source = self._sources[
                    int(rng.choice(len(self._sources), p=np.array(self._shares) / sum(self._shares)))
                ]
                clip = source.clip(rng, 1 if kind == _STILLS else reads, (height, width))
                clip = clip.expand(reads, -1, -1, -1)
                high[i_clip] = clip[: reads - LOOKAHEAD].round().to(torch.uint8)
                degraded = degrade_clip(clip, rng, self._config.degradation, self._config.scale)
                low[i_clip] = degraded.clip
                if degraded.compression is not None:
                    jobs.append((i_clip, executor.submit(_compress, degraded, degraded.clip.cpu())))
            for i_clip, job in jobs:
                low[i_clip] = job.result().to(self._device)
        return Clips(high, low)

    def batch(self, random: StepRandom, i_pack: int, pack: int) -> Batch:
        """The clips of a pack, turned and mirrored at random, on the device."""
        self.prepare(random.step)
        indices = list(range(i_pack * pack, (i_pack + 1) * pack))
        images = None
        if self._config.image_share > 0:
            count = self._count_stills(pack)
            # Numbers past those of the clips, so that no two share their noise.
            first = 10_000 + i_pack * count
            images = self._take(_STILLS, self._stills, random, list(range(first, first + count)), i_pack)
        batch = self._take(_CLIPS, self._clips, random, indices, i_pack)
        return Batch(batch.high_res, batch.low_res, indices, i_pack, images)

    def _take(self, kind: int, pool: Clips | None, random: StepRandom, indices: list[int], i_pack: int) -> Batch:
        clips = self._make(random.step, kind, indices) if pool is None else pool
        n_turns = 8 if clips.high.shape[-1] == clips.high.shape[-2] else 4
        draws = [random.numpy(index, Purpose.DATA) for index in indices]
        # Drawn even where it is not used, so that turns do not depend on there being a pool.
        i_clips = [int(rng.integers(len(clips.high))) for rng in draws]
        turns = self._places([int(rng.integers(n_turns)) for rng in draws])
        rows = self._places(i_clips if pool is not None else range(len(indices)))
        if self._config.stills:
            frames = self._places([int(rng.integers(clips.high.shape[1])) for rng in draws])
            high, low = clips.high[rows, frames][:, None], clips.low[rows, frames][:, None]
        else:
            high, low = clips.high[rows], clips.low[rows]
        high, low = _turn(high, turns), _turn(low, turns)
        # The same enlargement as inference's, all frames at once.
        enlarged = resize_clip(low.flatten(0, 1).float(), self._config.sides)
        low_res = enlarged.unflatten(0, low.shape[:2]) / 127.5 - 1
        return Batch(high.float() / 127.5 - 1, low_res, indices, i_pack)

    def _places(self, numbers: Sequence[int]) -> Tensor:
        return to_device(numbers, self._device, torch.int64)


def _turn(clips: Tensor, turns: Tensor) -> Tensor:
    """One of the eight symmetries of the square for each of (B, T, C, H, W); a rectangle has the first four.

    All clips together: on a GPU a launch for each would cost more than the copies saved.
    """

    def where(bit: int, turned: Tensor) -> Tensor:
        return torch.where((turns & bit).bool()[:, None, None, None, None], turned, clips)

    clips = where(1, clips.flip(-1))
    clips = where(2, clips.flip(-2))
    return where(4, clips.transpose(-1, -2)) if clips.shape[-1] == clips.shape[-2] else clips


def _compress(degraded: Degraded, clip: Tensor) -> Tensor:
    compression = degraded.compression
    assert compression is not None
    frames = np.ascontiguousarray(clip.permute(0, 2, 3, 1).numpy())
    compressed = compress_video(frames, crf=compression.crf, codec=compression.codec, repeatable=True)
    return torch.from_numpy(compressed).permute(0, 3, 1, 2)
