"""What a checkpoint says about itself that no tensor's shape shows: the strings in a single file's header.

The released files carry none, and the defaults here are theirs.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from flashvsr_cli.errors import UsageError, WeightsError
from flashvsr_cli.model.config import DEFAULT_HEAD_DIM
from flashvsr_cli.options import Settings

RESIDUAL, PICTURE = "residual", "picture"
_SETTINGS_PREFIX = "settings."
# Chosen clip by clip, whatever the model was trained with.
_USER_SETTINGS = ("seed", "strength", "grain", "scene_cut")
_NEXT_STEP = "Save it again with a version of flashvsr-cli that knows this model."


@dataclass(frozen=True)
class Traits:
    """How the tensors are to be used.

    Attributes:
        head_dim: channels of one attention head.
        decoder_output: what the tiny decoder's last layer means: the "picture" in [0, 1], or the "residual" to the
            enlarged input in units of [-1, 1].
        settings: what the model was trained with, for everything that the user does not choose.
    """

    head_dim: int = DEFAULT_HEAD_DIM
    decoder_output: str = PICTURE
    settings: Settings = field(default_factory=Settings)

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> "Traits":
        """Read them from a header; what it does not say has the released models' value.

        Raises:
            WeightsError: if a value means nothing.
        """
        decoder_output = metadata.get("decoder_output", PICTURE)
        if decoder_output not in (RESIDUAL, PICTURE):
            raise WeightsError(f"The checkpoint's decoder_output {decoder_output!r} is not known here.", _NEXT_STEP)
        types: dict[str, Callable[[str], Any]] = {name: type(value) for name, value in asdict(Settings()).items()}
        chosen = {
            key: value
            for name, value in metadata.items()
            if name.startswith(_SETTINGS_PREFIX) and (key := name.removeprefix(_SETTINGS_PREFIX)) in types
        }
        try:
            head_dim = int(metadata.get("head_dim", DEFAULT_HEAD_DIM))
            settings = Settings(**{key: types[key](value) for key, value in chosen.items()})
        except (ValueError, UsageError) as error:
            raise WeightsError(f"The checkpoint's header cannot be understood: {error}.", _NEXT_STEP) from error
        return cls(head_dim, decoder_output, settings)

    def to_metadata(self) -> dict[str, str]:
        """The strings that `of` reads."""
        settings = {
            f"{_SETTINGS_PREFIX}{option.name}": str(getattr(self.settings, option.name))
            for option in fields(Settings)
            if option.name not in _USER_SETTINGS
        }
        return {"head_dim": str(self.head_dim), "decoder_output": self.decoder_output, **settings}
