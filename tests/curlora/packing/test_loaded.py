"""Saved adapters in a pack: with exactly their numbers, and what cannot be one is refused."""

import pytest
import torch

import curlora
from curlora.packing.pack import BARE, PackedModel
from curlora.packing.solo import copy_around_tensors

ALL = ["q_proj", "k_proj", "o_proj", "up_proj", "down_proj"]
SAVED = [
    ("curlora", {"r": 4, "alpha": 1.5}, ALL),
    ("curlora", {"r": 3, "selection_seed": 3}, ["q_proj", "o_proj"]),  # not on every layer
    ("lora", {"r": 3, "alpha": 6.0}, ALL),
    ("rslora", {"r": 5, "alpha": 4.0}, ["up_proj"]),
    ("dora", {"r": 2, "alpha": 5.0}, ALL),
    ("dora", {"r": 4}, ["k_proj", "down_proj"]),
    ("pissa", {"r": 2}, ["q_proj"]),  # saved as a LoRA of twice the rank
]


@pytest.fixture
def saved(build_base, tmp_path):
    """A base, and the folders of adapters that were trained on it, with their settings' numbers."""
    base = build_base("llama")
    folders = []
    for number, (kind, settings, targets) in enumerate(SAVED):
        torch.manual_seed(number)
        model = curlora.attach(
            copy_around_tensors(base) if kind != "pissa" else build_base("llama"),
            kind, {**settings, "target_modules": targets}, seed=number,
        )  # fmt: skip
        with torch.no_grad():
            for parameter in curlora.trainable_parameters(model).values():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        folders.append(curlora.save_adapter(model, tmp_path / str(number)))
    return base, folders


def test_every_row_is_what_its_adapter_gives_alone(saved):
    base, folders = saved
    tokens = torch.arange(24).reshape(2, 12) % 60
    alone = []
    for folder in folders:
        model = curlora.load_adapter(copy_around_tensors(base), folder).eval()
        with torch.no_grad():
            alone.append(model(input_ids=tokens).logits)
    with torch.no_grad():
        bare = base.eval()(input_ids=tokens).logits
    pack = PackedModel(base, ALL, capacity=len(folders))
    for slot, folder in enumerate(folders):
        pack.put(slot, folder)
    owners = [slot for slot in [BARE, *range(len(folders))] for _ in range(2)]
    with torch.no_grad(), pack.rows(owners):
        found = base(input_ids=tokens.repeat(len(owners) // 2, 1)).logits.split(2)
    for one, other in zip(found, [bare, *alone], strict=True):
        assert torch.allclose(one, other, atol=2e-5)
    assert all((one - bare).abs().max() > 1e-3 for one in alone)
    # Another batch, and one less of them.
    pack.leave(0)
    with torch.no_grad(), pack.rows([4, 2]):
        found = base(input_ids=tokens).logits
    assert torch.allclose(found[0], alone[4][0], atol=2e-5)
    assert torch.allclose(found[1], alone[2][1], atol=2e-5)


def test_numbers_are_those_of_the_files(saved):
    from safetensors.torch import load_file

    base, folders = saved
    pack = PackedModel(base, ALL, capacity=1)
    for folder in folders:
        pack.put(0, folder)
        found = {n.replace(".default", ""): t for n, t in pack.state(0).items()}
        state = {n.replace("_vector.weight", "_vector"): t for n, t in found.items()}
        tensors = load_file(folder / "adapter_model.safetensors")
        shared = state.keys() & tensors.keys()
        assert shared == {n for n in tensors if "lora" in n or "cur_U" in n} != set()
        assert all(torch.equal(state[name], tensors[name]) for name in shared)
        with pytest.raises(ValueError, match="from files"):
            pack.solo(0)
        pack.leave(0)


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("randlora", {"r": 2, "target_modules": ["q_proj"]}, "neither CURLoRA nor LoRA"),
        ("lora", {"r": 2, "target_modules": ["v_proj"]}, "none of the pack's layers"),
    ],
)
def test_what_cannot_share_a_pass_is_refused_and_leaves_the_pack(
    build_base, tmp_path, kind, settings, said
):
    base = build_base("llama")
    model = curlora.attach(copy_around_tensors(base), kind, settings, seed=0)
    folder = curlora.save_adapter(model, tmp_path / "a")
    pack = PackedModel(base, ALL, capacity=1)
    with pytest.raises(ValueError, match=said):
        pack.put(0, folder)
    assert pack.slots == []
    pack.join(0, "lora", {"r": 2}, seed=0)
