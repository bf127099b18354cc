"""Every value without meaning is refused with the way out."""

from dataclasses import FrozenInstanceError
from fractions import Fraction
from typing import Any

import pytest

from flashvsr_cli.errors import UsageError
from flashvsr_cli.options import EncodeOptions, InputOptions, Settings

NAN, INFINITY = float("nan"), float("inf")

BAD = [
    *((Settings, {"sparse_ratio": value}) for value in (0, -1.0, NAN, INFINITY)),
    *((Settings, {"kv_ratio": value}) for value in (-0.1, 64.5, NAN, INFINITY, -INFINITY)),
    *((Settings, {"local_range": value}) for value in (0, -11)),
    *((Settings, {"color_fix": value}) for value in ("", "Adain", "histogram", None)),
    *((Settings, {"seed": value}) for value in (-1, 2**63)),
    *((InputOptions, {"raw_size": value}) for value in ((0, 4), (4, 0), (-1, 4))),
    *((InputOptions, {"frame_rate": value}) for value in (Fraction(0), Fraction(-25))),
]

GOOD = [
    Settings(),
    *(Settings(sparse_ratio=value) for value in (1e-6, 1.5, 2, 100.0)),
    *(Settings(kv_ratio=value) for value in (0, 0.5, 3, 64)),
    *(Settings(local_range=value) for value in (1, 2, 9, 11, 1000)),
    *(Settings(color_fix=value) for value in ("adain", "wavelet", "none")),
    *(Settings(seed=value) for value in (0, 2**63 - 1)),
    InputOptions(),
    InputOptions(raw_size=(1, 1), frame_rate=Fraction(30000, 1001)),
    EncodeOptions(),
]


@pytest.mark.parametrize(("kind", "values"), BAD, ids=str)
def test_a_bad_value_is_refused_with_a_next_step(kind: type, values: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        kind(**values)
    error = caught.value
    assert error.exit_code == 2
    assert error.message.endswith(".")
    assert error.next_step
    assert error.next_step.endswith(".")
    (value,) = values.values()
    assert str(value) in error.message or repr(value) in error.message


@pytest.mark.parametrize("options", GOOD, ids=str)
def test_good_values_are_kept_and_frozen(options: Any) -> None:
    assert options == type(options)(**vars(options))
    name = next(iter(vars(options)))
    with pytest.raises(FrozenInstanceError):
        setattr(options, name, None)


def test_defaults_are_those_the_weights_were_trained_with() -> None:
    assert vars(Settings()) == {
        "sparse_ratio": 2.0,
        "kv_ratio": 3.0,
        "local_range": 11,
        "color_fix": "adain",
        "kv_precision": "model",
        "seed": 0,
        "strength": 1.0,
        "grain": 0.0,
        "scene_cut": "off",
    }
