"""What `upscale` would do with an input, without doing it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from flashvsr_cli.geometry import Geometry, plan_geometry
from flashvsr_cli.model.full_size import full_size_states
from flashvsr_cli.model.memory import MemoryEstimate, estimate_memory
from flashvsr_cli.model.network import choose_dtype, choose_model, resolve_device
from flashvsr_cli.model.shapes import load_shapes
from flashvsr_cli.model.traits import Traits
from flashvsr_cli.options import InputOptions, ModelOptions, Settings
from flashvsr_cli.scenes import LOOKAHEAD as CUT_LOOKAHEAD
from flashvsr_cli.schedule import FIRST_CHUNK_READS, count_chunks
from flashvsr_cli.video.info import SourceInfo
from flashvsr_cli.video.reader import open_source
from flashvsr_cli.weights import resolve_checkpoint
from flashvsr_cli.weights_registry import read_registry


@dataclass(frozen=True)
class Plan:
    """What would be done.

    Attributes:
        source: facts about the input.
        geometry: sizes on the way.
        n_chunks: steps of the model; None if the input's length is not known.
        device: where it would run.
        memory: estimated bytes on that device.
        notices: what the user should know.
        lookahead: input frames needed before the first output frame.
    """

    source: SourceInfo
    geometry: Geometry
    n_chunks: int | None
    device: str
    memory: MemoryEstimate
    notices: tuple[str, ...]
    lookahead: int

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; sizes are [height, width]."""
        return {
            "input": self.source.facts(),
            "output_size": self.geometry.target,
            "padded_size": self.geometry.padded,
            "chunks": self.n_chunks,
            "lookahead_frames": self.lookahead,
            "device": self.device,
            "memory_bytes": {**asdict(self.memory), "total": self.memory.total},
            "notices": self.notices,
        }


def inspect_input(
    location: str,
    scale: float,
    model: ModelOptions,
    options: InputOptions,
    choose_settings: Callable[[Settings], Settings] = lambda defaults: defaults,
) -> Plan:
    """Look at an input's header and the model's sizes; no frame is upscaled and nothing is downloaded.

    Args:
        location: as for `open_source`.
        scale: output side over input side.
        model: which model, where.
        options: what the input cannot say about itself.
        choose_settings: from the model's settings to those that would be used.

    Raises:
        InputError: the input cannot be opened.
        WeightsError: the model does not exist.
        DeviceError: there is no such device.
    """
    device = resolve_device(model.device)
    with open_source(location, options) as source:
        info, notices = source.info, tuple(source.notices)
    geometry = plan_geometry(info.size, scale)
    states, defaults = _look_at(replace(model, model=choose_model(model.model, model.device)))
    dtype = choose_dtype(model.dtype, device)
    settings = choose_settings(defaults)
    memory = estimate_memory(states, geometry, settings, dtype.itemsize, fp8=model.fp8)
    lookahead = FIRST_CHUNK_READS + (CUT_LOOKAHEAD if settings.scene_cut == "auto" else 0)
    n_chunks = count_chunks(info.n_frames) if info.n_frames else None
    return Plan(info, geometry, n_chunks, str(device), memory, notices, lookahead)


def _look_at(model: ModelOptions) -> tuple[dict[str, dict[str, Tensor]], Settings]:
    """Shapes of the model's tensors and its settings; models to be downloaded have the released sizes, here or not."""
    known = read_registry().models.get(model.model)
    if known is not None and not any(file.is_packaged for file in known.files):
        return full_size_states(model.decoder), Settings()
    checkpoint = resolve_checkpoint(model.model, version=model.version, decoder=model.decoder, download=False)
    return load_shapes(checkpoint), Traits.of(checkpoint.metadata).settings
