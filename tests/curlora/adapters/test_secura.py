"""SECURA: what is chosen, how the change is held back, and how it merges."""

import math

import pytest
import torch
from peft import PeftModel
from torch import nn

import curlora
from curlora import attach
from curlora.adapters.secura_config import bounded_scale, initial_A, least_norm, released_scale
from curlora.adapters.secura_layer import SecuraLinear

TARGETS = ["q_proj", "v_proj"]


@pytest.fixture
def adapted(build_base):
    def build(**settings):
        settings = {"r": 3, "m": 5, "target_modules": TARGETS} | settings
        return attach(build_base().double(), "secura", settings, seed=0).double().eval()

    return build


def layers(model):
    return [module for module in model.modules() if isinstance(module, SecuraLinear)]


def move(model, scale=0.3):
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in curlora.trainable_parameters(model).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)


def change_of(layer):
    """C A B R by hand."""
    W = layer.get_base_layer().weight.detach()
    factors = layer.factors("default")
    columns, rows = factors.columns.long(), factors.rows.long()
    A, B = layer.sec_A["default"].detach(), layer.sec_B["default"].detach()
    return W[:, columns] @ A @ B @ W[rows]


def test_columns_and_rows_of_least_norm_are_chosen():
    W = torch.tensor([[3.0, 0.0, 1.0, 0.0], [0.0, 2.0, 1.0, 0.0], [9.0, 0.0, 0.0, 0.0]])
    chosen = least_norm(W, 2)
    # Norms of the columns 9.5, 2, 1.4, 0 (never chosen); of the rows 3.2, 2.2, 9.
    assert chosen.columns.tolist() == [2, 1]
    assert chosen.rows.tolist() == [1, 0]
    with pytest.raises(ValueError, match="only 3 of 4 columns or rows have energy"):
        least_norm(torch.cat([W, W]), 4)


def test_the_start_is_the_truncated_svd_or_the_corner():
    W = torch.randn(6, 7)
    U, sigma, Vh = torch.linalg.svd(W)
    torch.testing.assert_close(initial_A(W, 3, 5, "released"), W[:3, :5])
    A = initial_A(W, 3, 5, "truncated")
    # U_r A is the first 5 columns of the best approximation of rank 3, whatever the signs in U.
    best = (U[:, :3] * sigma[:3]) @ Vh[:3]
    signs = Vh[:3].gather(1, Vh[:3].abs().argmax(1, keepdim=True)).sign()
    torch.testing.assert_close((U[:, :3] * signs.T) @ A, best[:, :5])


def test_a_decomposition_with_other_signs_gives_the_same_start(monkeypatch):
    W = torch.randn(6, 7)
    expected, svd = initial_A(W, 3, 5, "truncated"), torch.linalg.svd

    def as_a_gpu_may_give_it(*args, **options):
        U, sigma, Vh = svd(*args, **options)
        signs = torch.tensor([1.0, -1.0] * 3)
        return U * signs, sigma, Vh * signs[:, None]

    monkeypatch.setattr(torch.linalg, "svd", as_a_gpu_may_give_it)
    assert torch.equal(initial_A(W, 3, 5, "truncated"), expected)


def test_known_values_of_both_scales():
    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    W, delta = torch.tensor([[2.0, 4.0, 1.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    expected = [2 - sigmoid(6 * 0.5), 2 - sigmoid(0), 2 - sigmoid(-6 * 0.5)]
    torch.testing.assert_close(bounded_scale(delta, W, 6.0), torch.tensor([expected]))
    expected = [2 - sigmoid(6 * 0.5), 2 - sigmoid(6 * 0.25), 1.5]
    torch.testing.assert_close(released_scale(W + delta, W, 6.0), torch.tensor([expected]))
    assert (released_scale(W, W, 6.0) == 2).all()


def test_without_a_norm_the_layer_is_the_plain_product(adapted, tokens):
    model = adapted(norm="none")
    move(model)
    for layer in layers(model):
        torch.testing.assert_close(layer.get_delta_weight("default"), change_of(layer))


def test_the_bounded_update_shrinks_continuously_to_nothing(adapted, build_base, tokens):
    """Halving B at least nearly halves the effect: there is no jump at zero."""
    model, base = adapted(norm="bounded"), build_base().double()(tokens).logits
    move(model)
    gaps = []
    for _ in range(3):
        gaps.append(float((model(tokens).logits - base).detach().abs().max()))
        with torch.no_grad():
            for layer in layers(model):
                layer.sec_B["default"].mul_(1e-3)
    assert gaps[1] < 1e-2 * gaps[0]
    assert gaps[2] < 1e-2 * gaps[1]
    assert gaps[2] > 0


def test_the_bounded_update_is_held_back_within_its_limits(adapted):
    model = adapted(norm="bounded", share=0.99)
    move(model)
    for layer in layers(model):
        change, held = change_of(layer), layer.get_delta_weight("default")
        share = held / change
        assert share.min() >= 1 - 1 / (1 + math.exp(-3)) - 1e-9
        assert share.max() <= 1 - 1 / (1 + math.exp(3)) + 1e-9
        relative = (change / layer.get_base_layer().weight).abs()
        assert share.flatten()[relative.argmax()] == share.min()


def test_the_released_output_jumps_at_the_first_change(adapted):
    """4/3 of the base's output where nothing changed yet: the author's code does this."""
    layer = layers(adapted(norm="released"))[0]
    x = torch.randn(4, 32, dtype=torch.float64)
    base = layer.get_base_layer()(x)
    assert torch.equal(layer(x), base)
    with torch.no_grad():
        layer.sec_B["default"].fill_(1e-12)
    torch.testing.assert_close(layer(x), base * 4 / 3, rtol=1e-5, atol=1e-5)


def test_the_released_output_by_hand(adapted):
    layer = layers(adapted(norm="released"))[0]
    with torch.no_grad():
        layer.sec_B["default"].normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    x = torch.randn(4, 32, dtype=torch.float64)
    base = layer.get_base_layer()(x)
    fused = base + x @ change_of(layer).t()
    scale = 2 - torch.sigmoid(6 * ((fused - base) / (base + 1e-10)).abs())
    assert (scale <= 1.2).double().mean() <= 0.9
    torch.testing.assert_close(layer(x), (base + fused) / scale, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"acts on outputs, so no weight computes the same"):
        layer.get_delta_weight("default")


def test_what_changed_nearly_everywhere_is_damped_on_the_strongest_rows(adapted):
    rules = {"norm": "bounded", "edge": 2.0, "share": 0.5}  # every S is at most 2
    damped, free = adapted(**rules, decay=0.5), adapted(**rules, decay=1.0)
    move(damped)
    move(free)
    for one, other in zip(layers(damped), layers(free), strict=True):
        W = one.get_base_layer().weight
        count = max((len(W) - 3) // 2, len(W) // 4)
        expected = torch.ones(len(W), dtype=W.dtype)
        expected[W.norm(dim=1).topk(count).indices] = 0.5
        torch.testing.assert_close(
            one.get_delta_weight("default"),
            expected[:, None] * other.get_delta_weight("default"),
        )


@pytest.mark.parametrize("rule", ["M1", "M2"])
def test_a_merge_without_a_norm_keeps_the_output_and_the_base(rule, adapted, build_base, tokens):
    model = adapted(norm="none", merge=rule, merge_every=2)
    move(model)
    before = model(tokens).logits
    assert not curlora.after_step(model, 1)
    assert curlora.after_step(model, 2)
    assert all((layer.sec_B["default"] == 0).all() for layer in layers(model))
    torch.testing.assert_close(model(tokens).logits, before, rtol=0, atol=1e-9)
    own = build_base().double().state_dict()
    kept = model.unload().state_dict()
    assert all(torch.equal(kept[name], own[name]) for name in own)


def trained(adapted, tokens, **settings):
    """Losses of a few steps, B's first gradient, A's largest, and whether A stayed."""
    model = adapted(**settings)
    parameters = curlora.trainable_parameters(model)
    first = {name: p for name, p in parameters.items() if "sec_A" in name}
    start = {name: p.detach().clone() for name, p in first.items()}
    optimiser = torch.optim.AdamW(parameters.values(), lr=0.01, eps=1e-20, weight_decay=0.0)
    losses, of_B, of_A = [], None, 0.0
    for step in range(1, 5):
        loss = model(tokens, labels=tokens).loss
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        if of_B is None:
            of_B = torch.cat([p.grad.flatten() for n, p in parameters.items() if "sec_B" in n])
        of_A = max(of_A, *(float(p.grad.abs().max()) for p in first.values()))
        optimiser.step()
        curlora.after_step(model, step)
    return losses, of_B, of_A, all(torch.equal(p, start[name]) for name, p in first.items())


@pytest.mark.parametrize("rule", ["M1", "M2"])
def test_merged_after_every_step_no_norm_acts_and_the_first_factor_stays(rule, adapted, tokens):
    losses, of_B, of_A, still = trained(adapted, tokens, norm="none", merge=rule)
    assert losses[-1] < losses[0] - 1e-3
    assert of_A == 0.0
    assert still
    for norm, scale in {"released": 0.5, "bounded": 1 / (1 + math.exp(-3))}.items():
        # The norm is a factor on B's gradient, and AdamW does not see that.
        other, scaled, of_A, still = trained(adapted, tokens, norm=norm, merge=rule)
        torch.testing.assert_close(scaled, scale * of_B)
        assert other == pytest.approx(losses, rel=1e-6)
        assert of_A == 0.0
        assert still
    # Merged every second step, the norm acts in between and A trains.
    apart, _, of_A, still = trained(adapted, tokens, norm="released", merge=rule, merge_every=2)
    assert apart[1] != pytest.approx(losses[1], rel=1e-3)
    assert of_A > 0
    assert not still


def test_both_rules_accumulate_and_differ_only_in_which_factor_they_use(adapted):
    for rule in ("M1", "M2"):
        model = adapted(norm="none", merge=rule)
        layer = layers(model)[0]
        A1 = layer.sec_A["default"].detach().clone()
        B1, B2 = torch.ones(5, 3).double(), torch.full((5, 3), 2.0).double()
        A2 = 2 * A1
        for step, (A, B) in enumerate([(A1, B1), (A2, B2)], start=1):
            with torch.no_grad():
                layer.sec_A["default"].copy_(A)
                layer.sec_B["default"].copy_(B)
            curlora.after_step(model, step)
        expected = A1 @ B1 + A2 @ B2 if rule == "M1" else A2 @ (B1 + B2)
        torch.testing.assert_close(layer.merged_core("default"), expected)


def test_after_step_leaves_other_models_alone(build_base):
    base = build_base()
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    assert not curlora.after_step(base, 1)
    assert not curlora.after_step(nn.Linear(2, 2), 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())


def test_the_scale_is_not_differentiated(adapted):
    layer = layers(adapted(norm="bounded"))[0]
    with torch.no_grad():
        layer.sec_B["default"].normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    W, change = layer.get_base_layer().weight.detach(), change_of(layer)
    x = torch.randn(4, 32, dtype=torch.float64)
    layer(x).sum().backward()
    factors = layer.factors("default")
    C, R = W[:, factors.columns.long()], W[factors.rows.long()]
    fixed = bounded_scale(change, W, 6.0) - 1
    A, B = layer.sec_A["default"].detach(), layer.sec_B["default"].detach().requires_grad_()
    (x @ (fixed * (C @ A @ B @ R)).t()).sum().backward()
    torch.testing.assert_close(layer.sec_B["default"].grad, B.grad, rtol=1e-6, atol=1e-9)


def test_another_base_is_refused(adapted, build_base, tmp_path):
    model = adapted()
    curlora.save_adapter(model, tmp_path)
    with pytest.raises(ValueError, match=r"differs from the one it was made on"):
        curlora.load_adapter(build_base(seed=9).double(), tmp_path)


def test_a_width_that_does_not_fit_is_refused(adapted):
    with pytest.raises(ValueError, match=r"`m` must be at most d_in = 32 .* got 33"):
        adapted(m=33)


def test_two_active_adapters_with_a_norm_are_refused(adapted, tokens):
    model = adapted(norm="bounded")
    config = curlora.SecuraConfig(r=2, target_modules=TARGETS)
    model.add_adapter("second", config)
    model.base_model.set_adapter(["default", "second"])
    with pytest.raises(ValueError, match=r"active at once, but a `norm` is defined for one"):
        model(tokens)


def test_without_a_norm_it_exports_as_lora(adapted, build_base, tokens, tmp_path):
    model = adapted(norm="none", merge="M1")
    move(model)
    curlora.after_step(model, 1)
    move(model)
    curlora.export_lora(model, tmp_path)
    exported = PeftModel.from_pretrained(build_base().double(), tmp_path)
    torch.testing.assert_close(exported(tokens).logits, model(tokens).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("norm", ["none", "bounded", "released"])
@pytest.mark.parametrize("merge", ["M1", "M2"])
def test_what_was_merged_is_saved(norm, merge, adapted, build_base, tokens, tmp_path):
    model = adapted(norm=norm, merge=merge)
    for step in (1, 2):
        move(model, scale=0.1)
        curlora.after_step(model, step)
    curlora.save_adapter(model, tmp_path)
    loaded = curlora.load_adapter(build_base().double(), tmp_path).double()
    torch.testing.assert_close(loaded(tokens).logits, model(tokens).logits, rtol=0, atol=1e-4)
    assert (model(tokens).logits - build_base().double()(tokens).logits).abs().max() > 1e-3
