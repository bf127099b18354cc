"""Adapters and their merging."""

import copy

import torch

from flashvsr_cli.train.attend import full_attention
from flashvsr_cli.train.forward import predict_velocity
from flashvsr_cli.train.lora import TARGETS, add_adapters, is_adapter, merge_state
from flashvsr_cli.train.parts import Parts

RANK, ALPHA = 4, 8.0


def velocity(parts: Parts, dit: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn((16, 2, 16, 16), generator=generator)
    with torch.no_grad():
        out = predict_velocity(dit, parts.prompt, [noisy], torch.tensor(0.5), [], full_attention([128], 2))
    return out[0]


def test_merged_weights_compute_the_same_bits(toy_parts: Parts) -> None:
    dit = toy_parts.generator.dit
    before = velocity(toy_parts, dit)
    adapted = copy.deepcopy(dit)
    add_adapters(adapted, RANK, ALPHA, seed=0)
    assert torch.equal(velocity(toy_parts, adapted), before), "a fresh adapter changes nothing"
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, weight in adapted.named_parameters():
            if is_adapter(key):
                weight.normal_(std=0.1, generator=generator)
    changed = velocity(toy_parts, adapted)
    assert not torch.allclose(changed, before, atol=1e-3)

    merged = copy.deepcopy(dit)
    merged.load_state_dict(merge_state(adapted.state_dict(), ALPHA / RANK), strict=True)
    assert torch.equal(velocity(toy_parts, merged), changed)


def test_every_target_of_every_block_has_an_adapter(toy_parts: Parts) -> None:
    dit = toy_parts.generator.dit
    add_adapters(dit, RANK, ALPHA, seed=0)
    adapters = [key for key, _ in dit.named_parameters() if is_adapter(key)]
    assert len(adapters) == 2 * len(TARGETS) * len(dit.blocks)


def test_adapters_follow_from_the_seed(toy_parts: Parts) -> None:
    """Every process, and every resumed run, has the same."""
    plain = toy_parts.generator.dit
    first, again, other = (copy.deepcopy(plain) for _ in range(3))
    for dit, seed in ((first, 3), (again, 3), (other, 4)):
        torch.rand(7)
        add_adapters(dit, RANK, ALPHA, seed)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
