"""Tensors out of checkpoint files: what is read, what is refused, and how little memory it takes."""

import json
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from flashvsr_cli.errors import WeightsError
from flashvsr_cli.model.loading import (
    PROMPT_KEY,
    check_tensors,
    iter_role,
    iter_tensors,
    load_state_dicts,
    require_keys,
    save_single_file,
)
from flashvsr_cli.weights import Checkpoint, resolve_checkpoint
from flashvsr_cli.weights_registry import ROLES, read_safetensors_header

MINI = Path(__file__).resolve().parents[1] / "golden" / "mini"
DIT = "diffusion_pytorch_model_streaming_dmd.safetensors"


def whole_mini() -> Checkpoint:
    tiny = resolve_checkpoint(str(MINI))
    return Checkpoint("mini", "v1.1", {**tiny.files, "vae": MINI / "Wan2.1_VAE.pth"})


def owns_its_storage(tensor: Tensor) -> bool:
    n_bytes = tensor.numel() * tensor.element_size()
    return tensor.storage_offset() == 0 and tensor.untyped_storage().nbytes() == n_bytes and tensor.is_contiguous()


def test_mini_as_its_own_libraries_read_it():
    state_dicts = load_state_dicts(whole_mini(), ROLES)
    expected = {
        "dit": load_file(MINI / DIT),
        "lq_projection": torch.load(MINI / "LQ_proj_in.ckpt", weights_only=True),
        "tiny_decoder": torch.load(MINI / "TCDecoder.ckpt", weights_only=True),
        "prompt": {PROMPT_KEY: torch.load(MINI / "posi_prompt.pth", weights_only=True)},
    }
    vae = torch.load(MINI / "Wan2.1_VAE.pth", weights_only=True)
    expected["vae"] = {key: vae[key] for key in vae if key.startswith(("decoder.", "conv2."))}
    assert len(expected["vae"]) < len(vae)
    for role in ROLES:
        assert set(state_dicts[role]) == set(expected[role])
        for key, tensor in state_dicts[role].items():
            assert tensor.dtype == expected[role][key].dtype
            assert torch.equal(tensor, expected[role][key])
            assert owns_its_storage(tensor)


def test_views_of_a_shared_storage_are_copied_out(tmp_path: Path):
    shared = torch.arange(100.0)
    torch.save({"a": shared[10:20], "b": shared[20:60].view(8, 5).t()}, tmp_path / "TCDecoder.ckpt")
    tensors = dict(iter_tensors(tmp_path / "TCDecoder.ckpt"))
    assert torch.equal(tensors["a"], torch.arange(10.0, 20.0))
    assert torch.equal(tensors["b"], torch.arange(20.0, 60.0).view(8, 5).t())
    assert all(owns_its_storage(tensor) for tensor in tensors.values())


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.bool]
)
def test_every_dtype_shape_and_order_of_safetensors(tmp_path: Path, dtype: torch.dtype):
    tensors = {"z": torch.ones(2, 3), "scalar": torch.tensor(1), "empty": torch.zeros(0, 4), "a": torch.arange(4) + 1}
    tensors = {key: tensor.to(dtype) for key, tensor in tensors.items()}
    save_file(tensors, tmp_path / "m.safetensors")
    read = dict(iter_tensors(tmp_path / "m.safetensors"))
    assert set(read) == set(tensors)
    for key, tensor in tensors.items():
        assert read[key].dtype == dtype
        assert torch.equal(read[key], tensor)


def test_cast_while_reading():
    cast = dict(iter_role(whole_mini(), "dit", dtype=torch.float32))
    stored = load_file(MINI / DIT)
    assert all(torch.equal(tensor, stored[key].float()) for key, tensor in cast.items())
    assert {tensor.dtype for tensor in cast.values()} == {torch.float32}


def test_integers_keep_their_dtype(tmp_path: Path):
    save_file({"n": torch.tensor([3])}, tmp_path / DIT)
    checkpoint = Checkpoint("m", "v1", {"dit": tmp_path / DIT})
    assert dict(iter_role(checkpoint, "dit", dtype=torch.bfloat16))["n"].dtype == torch.int64


def test_only_one_tensor_is_read_at_a_time(tmp_path: Path):
    """The second tensor's bytes are spoilt after the first was yielded: a reader that had read ahead misses it."""
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.zeros(100_000), "b": torch.zeros(100_000)}, path)
    tensors = iter_tensors(path)
    next(tensors)
    begin = read_safetensors_header(path).entries["b"][2]
    with path.open("r+b") as stream:
        stream.seek(begin + 390_000)
        stream.write(struct.pack("<f", 7.0))
    assert next(tensors)[1].max() == 7.0


def test_stray_prefix_of_the_projection_is_dropped(tmp_path: Path):
    path = tmp_path / "LQ_proj_in.ckpt"
    torch.save({"LQ_proj_in.conv1.bias": torch.ones(3), "conv2.bias": torch.ones(2)}, path)
    checkpoint = Checkpoint("m", "v1", {"lq_projection": path})
    assert set(load_state_dicts(checkpoint, ["lq_projection"])["lq_projection"]) == {"conv1.bias", "conv2.bias"}


def test_the_prompt_bare_or_under_its_key(tmp_path: Path):
    prompt = torch.ones(1, 4, 8)
    torch.save(prompt, tmp_path / "bare.pth")
    torch.save({PROMPT_KEY: prompt}, tmp_path / "keyed.pth")
    save_file({PROMPT_KEY: prompt}, tmp_path / "keyed.safetensors")
    for name in ("bare.pth", "keyed.pth", "keyed.safetensors"):
        state = load_state_dicts(Checkpoint("m", "v1", {"prompt": tmp_path / name}), ["prompt"])["prompt"]
        assert set(state) == {PROMPT_KEY}
        assert torch.equal(state[PROMPT_KEY], prompt)
    save_file({"other": prompt}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"other\.safetensors lacks the tensor posi_prompt"):
        load_state_dicts(Checkpoint("m", "v1", {"prompt": tmp_path / "other.safetensors"}), ["prompt"])


def test_a_missing_key_names_file_and_key():
    path = Path("LQ_proj_in.ckpt")
    require_keys({"a": torch.ones(1)}, ["a"], path)
    with pytest.raises(WeightsError, match=r"^LQ_proj_in\.ckpt lacks the tensor b and 1 more\.$") as raised:
        require_keys({"a": torch.ones(1)}, ["a", "b", "c"], path)
    assert raised.value.next_step


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float, dtype: torch.dtype, suffix: str):
    spoilt = torch.zeros(5, 7, dtype=dtype)
    spoilt[3, 4] = value
    path = tmp_path / f"spoilt{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)({"good": torch.zeros(3), "bad": spoilt}, path)
    checkpoint = Checkpoint("m", "v1", {"dit": path})
    with pytest.raises(WeightsError, match=r"spoilt\.\w+ is damaged: bad has values that are not finite"):
        load_state_dicts(checkpoint, ["dit"])
    with pytest.raises(WeightsError, match="bad has values that are not finite"):
        load_state_dicts(checkpoint, ["dit"], dtype=torch.bfloat16)
    with pytest.raises(WeightsError, match="bad has values"):
        check_tensors(path)


def test_a_value_beyond_the_chosen_dtype_is_not_called_damage(tmp_path: Path):
    save_file({"big": torch.tensor([1e6])}, tmp_path / DIT)
    checkpoint = Checkpoint("m", "v1", {"dit": tmp_path / DIT})
    assert load_state_dicts(checkpoint, ["dit"], dtype=torch.bfloat16)
    with pytest.raises(WeightsError, match="does not fit into") as raised:
        load_state_dicts(checkpoint, ["dit"], dtype=torch.float16)
    assert raised.value.next_step == "Use --precision bf16 or fp32."


@pytest.mark.parametrize("name", [DIT, "LQ_proj_in.ckpt", "TCDecoder.ckpt", "Wan2.1_VAE.pth", "posi_prompt.pth"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.999])
def test_a_file_cut_short_is_refused(tmp_path: Path, name: str, kept: float):
    whole = (MINI / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(WeightsError, match=f"{name} is damaged") as raised:
        list(iter_tensors(path))
    assert raised.value.next_step


def test_a_pickle_that_runs_programs_is_not_run(tmp_path: Path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"a": Evil()}, tmp_path / "zip.ckpt")
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(Evil()))
    for name in ("zip.ckpt", "plain.ckpt"):
        with pytest.raises(WeightsError, match=f"{name} is damaged or holds more than tensors") as raised:
            list(iter_tensors(tmp_path / name))
        assert "never run" in str(raised.value.next_step)
    assert not (tmp_path / "ran").exists()


def test_what_is_no_flat_dict_of_tensors_is_refused(tmp_path: Path):
    torch.save({"state_dict": {"a": torch.ones(1)}}, tmp_path / "nested.ckpt")
    with pytest.raises(WeightsError, match=r"nested\.ckpt holds state_dict, which is not a tensor"):
        list(iter_tensors(tmp_path / "nested.ckpt"))
    torch.save([torch.ones(1)], tmp_path / "list.ckpt")
    with pytest.raises(WeightsError, match="holds a list instead of tensors"):
        list(iter_tensors(tmp_path / "list.ckpt"))
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(WeightsError, match=r"other\.pth is damaged: it is not a readable PyTorch file"):
        list(iter_tensors(tmp_path / "other.pth"))
    with pytest.raises(WeightsError, match=r"absent\.ckpt does not exist"):
        list(iter_tensors(tmp_path / "absent.ckpt"))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 16]}, "the size of a contradicts its shape"),
        ({"dtype": "F8_E4M3", "shape": [16], "data_offsets": [0, 16]}, "stores a as F8_E4M3"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path: Path, entry: dict[str, object], message: str):
    raw = json.dumps({"a": entry}).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(16))
    with pytest.raises(WeightsError, match=message):
        list(iter_tensors(path))


def test_a_file_in_the_old_format_of_torch_loads(tmp_path: Path):
    torch.save({"a": torch.arange(3.0)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(dict(iter_tensors(tmp_path / "old.pth"))["a"], torch.arange(3.0))


def test_a_single_file_round_trip(tmp_path: Path):
    state_dicts = load_state_dicts(whole_mini(), ROLES)
    path = tmp_path / "m.safetensors"
    path.write_text("an older file")
    save_single_file(path, state_dicts, {"version": "v1", "trained_on": "clips"})
    assert [child.name for child in tmp_path.iterdir()] == ["m.safetensors"]
    metadata = read_safetensors_header(path).metadata
    assert metadata == {"format": "flashvsr-cli", "format_version": "1", "version": "v1", "trained_on": "clips"}
    foreign = load_file(path)  # the safetensors library itself accepts it
    assert set(foreign) == {f"{role}.{key}" for role in ROLES for key in state_dicts[role]}

    checkpoint = resolve_checkpoint(str(path), decoder="full")
    assert checkpoint.version == "v1"
    again = load_state_dicts(checkpoint, ROLES)
    for role in ROLES:
        assert set(again[role]) == set(state_dicts[role])
        for key, tensor in again[role].items():
            assert torch.equal(tensor, state_dicts[role][key])
            assert torch.equal(tensor, foreign[f"{role}.{key}"])


def test_saving_takes_strided_tensors_and_refuses_nonsense(tmp_path: Path):
    path = tmp_path / "m.safetensors"
    strided = torch.arange(12.0).view(3, 4).t()
    save_single_file(path, {"dit": {"a": strided, "b": torch.tensor(2.0)}}, {"version": "v1.1"})
    assert torch.equal(dict(iter_tensors(path, prefix="dit."))["a"], strided)
    with pytest.raises(WeightsError, match="needs a version"):
        save_single_file(path, {"dit": {}}, {})
    with pytest.raises(WeightsError, match="cannot be written"):
        save_single_file(tmp_path / "absent" / "m.safetensors", {"dit": {}}, {"version": "v1"})
    assert [child.name for child in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_role_the_checkpoint_lacks():
    with pytest.raises(WeightsError, match="holds no vae weights"):
        load_state_dicts(resolve_checkpoint(str(MINI)), ["vae"])
