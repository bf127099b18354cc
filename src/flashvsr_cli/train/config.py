"""What a stage of the training is told, as frozen dataclasses; `config_file.py` reads them from TOML."""

from dataclasses import dataclass, field
from typing import Literal

from flashvsr_cli.errors import UsageError
from flashvsr_cli.options import ColorFix, Settings

StageName = Literal["decoder", "teacher", "causal", "onestep"]


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a model that starts from random weights; one that starts from files takes theirs.

    Attributes:
        dim, head_dim, n_blocks, ffn_dim, freq_dim, text_dim, latent_channels: of the transformer.
        n_text: tokens of the fixed prompt.
        projection: channels of the low-resolution projection's two convolutions.
        decoder: channels of the tiny decoder's four stages.
        decoder_grow: time steps that a step becomes behind each of the first three; 4 in all.
        decoder_blocks: memory blocks of the first three, at most 3 each.
        decoder_detail: whether the second stage sees the low-resolution frames as well; see `TinyDecoderConfig`.
        encoder: channels of the latent encoder; 0 takes the Wan VAE's.
        vae: the Wan VAE's file; empty looks for it beside `start_from`.
        decoder_output: "residual" to the enlarged input, or "picture".
    """

    dim: int = 128
    head_dim: int = 64
    n_blocks: int = 2
    ffn_dim: int = 256
    freq_dim: int = 64
    text_dim: int = 16
    latent_channels: int = 16
    n_text: int = 8
    projection: tuple[int, int] = (24, 64)
    decoder: tuple[int, int, int, int] = (64, 48, 16, 8)
    decoder_grow: tuple[int, int, int] = (1, 2, 2)
    decoder_blocks: tuple[int, int, int] = (3, 3, 3)
    decoder_detail: bool = False
    encoder: int = 64
    vae: str = ""
    decoder_output: str = "residual"


@dataclass(frozen=True)
class SparsityConfig:
    """What the causal stages train with, and what the saved model is used with unless the user says otherwise.

    Attributes:
        sparse_ratio, kv_ratio, local_range, color_fix: as in `Settings`.
        path: how training computes the sparse attention: "masked" (any device), "flex" (FlexAttention on CUDA; for
            clips whose full mask would not fit), or "dense" (no sparsity within what is visible; for ablations).
    """

    sparse_ratio: float = 2.0
    kv_ratio: float = 3.0
    local_range: int = 11
    color_fix: ColorFix = "adain"
    path: Literal["masked", "flex", "dense"] = "masked"

    def settings(self) -> Settings:
        """The same for inference."""
        return Settings(self.sparse_ratio, self.kv_ratio, self.local_range, self.color_fix)


@dataclass(frozen=True)
class DegradationConfig:
    """How low-resolution clips are made; see `dataset/degrade.py`.

    Attributes:
        clean, mild, strong: shares of the three kinds; clean is the plain bicubic reduction.
        blur_share, noise_share, jpeg_share: how often mild and strong clips get each.
        shuffled: share of mild and strong clips for which blur, resize, noise and JPEG come in random order.
        blur_sigma: upper limits of the blur kernels' width in high-resolution pixels for mild and strong.
        noise_sigma: upper limits in levels of 255 for mild and strong.
        jpeg_quality: lowest qualities for mild and strong.
        video_share: share of mild and strong clips that go through a real video encoder.
        codecs: FFmpeg encoders that know a crf, one of which is drawn.
        best_crf, crf: the encoder's constant quality lies between the former and the latter, for mild and strong.
    """

    clean: float = 0.4
    mild: float = 0.4
    strong: float = 0.2
    blur_share: tuple[float, float] = (0.3, 0.8)
    noise_share: tuple[float, float] = (0.75, 0.8)
    jpeg_share: tuple[float, float] = (0.3, 0.5)
    shuffled: float = 0.0
    blur_sigma: tuple[float, float] = (1.2, 3.0)
    noise_sigma: tuple[float, float] = (8.0, 20.0)
    jpeg_quality: tuple[int, int] = (60, 30)
    video_share: float = 0.5
    codecs: tuple[str, ...] = ("libx264",)
    best_crf: int = 18
    crf: tuple[int, int] = (30, 36)


@dataclass(frozen=True)
class DataConfig:
    """Where training clips come from.

    Attributes:
        photos: folders of photographs, turned into clips by camera motion; those named in `hold_out` are left out.
        shards: folders written by `flashvsr dataset`.
        hold_out: parts of file names that are never used in training.
        procedural: share of clips from the procedural source; the rest comes from photos and shards.
        image_share: still pictures for every clip (teacher stage); 0.25 is one for four.
        stills: single frames of the clips instead, from which the decoder stage learns everything but its first stage.
        size: height of the high-resolution crops; a multiple of 128.
        width: their width; 0 makes them square.
        n_chunks: chunks of the streaming schedule in a clip: 8 * (n_chunks + 2) + 1 frames in.
        scale: enlargement.
        pool_clips: clips kept ready in memory; made anew every `pool_steps` steps (0: never). With 0 clips every step
            makes its own, each process those of its share.
        workers: threads that run video encoders.
    """

    photos: tuple[str, ...] = ()
    shards: tuple[str, ...] = ()
    hold_out: tuple[str, ...] = ()
    procedural: float = 0.3
    image_share: float = 0.0
    stills: bool = False
    size: int = 256
    width: int = 0
    n_chunks: int = 1
    scale: int = 4
    pool_clips: int = 64
    pool_steps: int = 0
    workers: int = 2
    degradation: DegradationConfig = field(default_factory=DegradationConfig)

    @property
    def sides(self) -> tuple[int, int]:
        """(height, width) of the crops."""
        return self.size, self.width or self.size


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and what surrounds it.

    Attributes:
        lr: peak rate; after `warmup` steps it stays ("constant") or falls to `final_lr` ("cosine").
        clip: largest norm of the gradient.
        ema: decay of the averaged weights that are validated and saved; 0 keeps no average.
        rates: factors on `lr` per part ("dit", "projection", "decoder", "encoder", "fake"), and of
            the decoder's first and last layer by themselves ("decoder_input", "decoder_output").
    """

    lr: float = 1e-5
    final_lr: float = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = 0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 1.0
    ema: float = 0.0
    rates: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses; a weight of 0 leaves the term out and does not compute it.

    Attributes:
        flow, dmd, fake_flow, pixel, perceptual: of one-step and flow-matching stages.
        flicker: of the change of the error along the motion, from frame to frame (a small model's addition).
        wan_pixel, wan_perceptual: distance to the full VAE decoder's output (decoder stage at full size).
        pixel_kind: "l2" as in the paper, or "charbonnier".
        pixel_decoder: what turns latents into pixels in the one-step stage: the "tiny" decoder, or the "full" one.
        decoded_latents: latents decoded per clip for pixel losses; 0 decodes all.
        latent_noise: largest deviation of noise added to latents in the decoder stage.
        latent_drop: share of clips whose latents are noise alone in the decoder stage.
        flow_shift: shift of the times of flow matching towards noise (1: uniform).
    """

    flow: float = 1.0
    dmd: float = 1.0
    fake_flow: float = 1.0
    pixel: float = 1.0
    perceptual: float = 2.0
    flicker: float = 0.0
    wan_pixel: float = 0.0
    wan_perceptual: float = 0.0
    pixel_kind: Literal["l2", "charbonnier"] = "l2"
    pixel_decoder: Literal["tiny", "full"] = "tiny"
    decoded_latents: int = 0
    latent_noise: float = 0.0
    latent_drop: float = 0.0
    flow_shift: float = 1.0


@dataclass(frozen=True)
class ValidationConfig:
    """Clips the model is measured on while it trains.

    Attributes:
        every: steps between validations; 0 validates at the end only, a negative number never.
        photos: folders; only files named in `DataConfig.hold_out` are used.
        n_clips, size, n_frames: how many, how large, how long.
        noise_sigma, crf: of the degraded variant, in which every clip is measured too.
    """

    every: int = 0
    photos: tuple[str, ...] = ()
    n_clips: int = 2
    size: int = 256
    n_frames: int = 21
    noise_sigma: float = 5.0
    crf: int = 28


@dataclass(frozen=True)
class RunConfig:
    """How it runs.

    Attributes:
        device: "auto", "cpu" or "cuda".
        dtype: of the arithmetic; weights stay float32.
        checkpointing: recompute activations of the transformer's blocks in the backward pass.
        save_every: steps between training states; 0 saves at the end only.
        log_every: steps between log lines.
        limit_s: stop (and save) after so many seconds of steps; 0 has no limit. The rate then follows time instead of
            steps. Making the first clips comes on top.
    """

    device: str = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    checkpointing: bool = False
    save_every: int = 0
    log_every: int = 50
    limit_s: float = 0.0


@dataclass(frozen=True)
class StageConfig:
    """One stage.

    Attributes:
        stage: which one.
        n_steps: optimizer steps.
        batch: clips per step, over all processes.
        pack: clips computed together, at one time of the flow; `batch` is a multiple of it.
        start_from: where weights come from: a run's folder, a single file, a folder in the released layout, or the
            folder of Wan2.1-T2V-1.3B with a prompt, to which a projection and a tiny decoder are added.
        decoder_from: the same for the tiny decoder, if it is not `start_from`'s.
        teacher: the same for the real score model of `onestep`; default: a copy of what `start_from` holds.
        train: parts that are trained.
        lora_rank: rank of the transformer's adapters; 0 trains its weights themselves.
        lora_alpha: the adapters are scaled by alpha / rank.
    """

    stage: StageName
    n_steps: int
    batch: int = 1
    pack: int = 1
    seed: int = 0
    start_from: str | None = None
    decoder_from: str | None = None
    teacher: str | None = None
    train: tuple[str, ...] = ("dit", "projection")
    lora_rank: int = 0
    lora_alpha: float = 1.0
    model: ModelConfig = field(default_factory=ModelConfig)
    sparsity: SparsityConfig = field(default_factory=SparsityConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        if self.n_steps < 0 or self.batch < 1 or self.pack < 1 or self.batch % self.pack:
            raise UsageError(
                f"batch {self.batch} is no multiple of pack {self.pack}.", "Set batch and pack in the stage's TOML."
            )
        if self.data.stills and self.stage != "decoder":
            raise UsageError(f"The {self.stage} stage does not learn from stills.", "Leave data.stills out.")
        for side in self.data.sides:
            if side % 128:
                raise UsageError(f"data.size or data.width {side} is no multiple of 128.", "Use e.g. 256.")
