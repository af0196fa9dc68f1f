"""Curvature against brute force: the explicit forward form in float64, through torch.func."""

import functools

import pytest
import torch
from peft import LoraConfig, get_peft_model

import curlora
from curlora import CurloraConfig, forward_form
from curlora.cur import fused_form
from curlora.curvature import observation
from curlora.curvature.derivatives import observe
from curlora.curvature.forms import coupled_form, diagonal_form, full_form, kronecker_form
from curlora.curvature.layers import adapted_layers, lora_pairs
from curlora.curvature.sums import (
    averaged,
    sum_factors,
    sum_outer_products,
    sum_squares,
    sum_weight_squares,
)

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")

TARGETS = {"llama": ["q_proj", "v_proj"], "gpt2": ["c_attn"]}
RANK = 3
EVERYTHING = ("gradients", "linear", "weights")
CASES = [("lora", "llama"), ("lora", "gpt2"), ("curlora", "llama"), ("curlora", "gpt2")]
every_case = pytest.mark.parametrize(("kind", "family"), CASES)


def exactly(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


@pytest.fixture(scope="session")
def build(build_base, train):
    def adapted(kind, family, *, dtype=torch.float64, moved=True):
        configs = {
            "lora": LoraConfig(r=RANK, lora_alpha=6, target_modules=TARGETS[family]),
            "curlora": CurloraConfig(r=RANK, alpha=1.5, target_modules=TARGETS[family]),
        }
        with torch.random.fork_rng():
            torch.manual_seed(4)
            base = build_base(family)
            base.set_attn_implementation("eager")  # torch.func has no rule for the fused kernels
            model = get_peft_model(base, configs[kind]).to(dtype).eval()
        if moved:
            train(model)
        return model

    return adapted


@pytest.fixture
def examples():
    generator = torch.Generator().manual_seed(2)
    return list(torch.randint(0, 64, (3, 5), generator=generator))


def log_probability(model, example):
    """Of every token after the first, summed."""
    logits = model(example[None]).logits[0, :-1]
    return logits.log_softmax(-1).gather(-1, example[1:, None]).sum()


def observed(model, examples, what=EVERYTHING):
    params = curlora.trainable_parameters(model)
    forward = functools.partial(log_probability, model)
    return params, list(observe(model, forward, params, examples, what))


def brute_gradients(model, params, examples):
    """Jacobian of all examples' log-probabilities: by parameter, (examples, *shape)."""

    def log_probabilities(values):
        def one(example):
            logits = torch.func.functional_call(model, values, (example[None],)).logits[0, :-1]
            return logits.log_softmax(-1).gather(-1, example[1:, None]).sum()

        return torch.stack([one(example) for example in examples])

    values = {name: p.detach() for name, p in params.items()}
    with forward_form(model, "explicit"):
        return torch.func.jacrev(log_probabilities)(values)


@every_case
def test_gradients_and_fishers_equal_the_jacobian(kind, family, build, examples):
    model = build(kind, family)
    params, seen = observed(model, examples)
    jacobian = brute_gradients(model, params, examples)

    diagonal = averaged(sum_squares(params, seen))
    for name in params:
        exactly(torch.stack([one.gradients[name] for one in seen]), jacobian[name])
        exactly(diagonal[f"diagonal.{name}"], jacobian[name].square().mean(0))
    if kind == "curlora":
        full = averaged(sum_outer_products(params, seen))
        for name in params:
            flat = jacobian[name].flatten(1)
            exactly(full[f"full.{name}"], flat.t() @ flat / len(examples))


@every_case
def test_inputs_and_output_gradients_are_those_of_the_matrix(kind, family, build, examples):
    model = build(kind, family)
    params, seen = observed(model, examples)
    with forward_form(model, "explicit"):
        for name in list(params)[:2]:
            brute = [perturbed(model, name, example) for example in examples]
            for one, (h, g) in zip(seen, brute, strict=True):
                exactly(one.linear[name][0], h)
                exactly(one.linear[name][1], g)
    for one in seen:
        for name in params:
            h, g = one.linear[name]
            exactly(g.t() @ h, one.gradients[name])


def perturbed(model, name, example):
    """h, and d log p / d z as the derivative in something added to z = P h."""
    layer_name = name.rpartition(".lora_")[0] or name.partition(".cur_U.")[0]
    layer = model.get_submodule(layer_name)
    kept = []
    if ".cur_U." in name:
        module, factors = layer, layer.factors("default")
        alpha = layer.cur_settings["default"].alpha
    else:
        module = model.get_submodule(name.removesuffix(".weight"))

    def log_p(extra):
        def add(_, inputs, output):
            if ".cur_U." in name:
                kept.append(inputs[0][0] @ factors.R.t())
                return output + alpha * extra @ factors.C.t()
            kept.append(inputs[0][0])
            return output + extra

        handle = module.register_forward_hook(add)
        try:
            return log_probability(model, example)
        finally:
            handle.remove()

    rows = dict(model.named_parameters())[name].shape[0]
    zero = torch.zeros(len(example), rows, dtype=torch.float64)
    gradient = torch.func.grad(log_p)(zero)
    with torch.no_grad():
        kept.clear()
        log_p(zero)
    return kept[0], gradient


@every_case
def test_weight_gradients_are_those_of_the_base_weight(kind, family, build, examples):
    model = build(kind, family)
    params, seen = observed(model, examples)
    layers = adapted_layers(model, params)
    weights = {name: model.get_submodule(name).get_base_layer().weight for name in layers}
    expected = dict.fromkeys(layers, 0)
    with forward_form(model, "explicit"):
        for weight in weights.values():
            weight.requires_grad_(True)
        for example in examples:
            gradients = torch.autograd.grad(log_probability(model, example), list(weights.values()))
            for name, g in zip(layers, gradients, strict=True):
                square = (g.t() if family == "gpt2" else g).square()
                expected[name] = expected[name] + square / len(examples)
    shapes = {name: layer.shape for name, layer in layers.items()}
    like = next(iter(params.values()))
    actual = averaged(sum_weight_squares(shapes, seen, like=like))
    for name in layers:
        exactly(actual[f"weights.{name}"], expected[name])


@every_case
def test_adapted_layers_describe_the_update(kind, family, build):
    model = build(kind, family)
    params = curlora.trainable_parameters(model)
    layers = adapted_layers(model, params)
    assert len(layers) == 2 * len(TARGETS[family])
    for name, layer in layers.items():
        factors = [params[f] if isinstance(f, str) else f for f in layer.factors]
        delta = layer.scale * torch.linalg.multi_dot(factors)
        dense = model.get_submodule(name).get_delta_weight("default")
        exactly(delta, dense.t() if family == "gpt2" else dense)
        assert delta.shape == layer.shape


@pytest.mark.parametrize("kind", ["lora", "curlora"])
def test_parameters_that_zero_3_releases_between_passes_are_observed_alike(kind, build, examples):
    model = build(kind, "llama")
    params, expected = observed(model, examples, frozenset({"linear"}))
    shapes = {n: layer.shape for n, layer in adapted_layers(model, params).items()}
    whole = {name: p.data for name, p in params.items()}

    def gather(*_):
        for name, p in params.items():
            p.data = whole[name]

    for p in params.values():
        p.ds_shape, p.data = p.shape, p.data.new_empty(0)
    assert {n: layer.shape for n, layer in adapted_layers(model, params).items()} == shapes
    with model.register_forward_pre_hook(gather):
        _, seen = observed(model, examples, frozenset({"linear"}))
    for one, other in zip(seen, expected, strict=True):
        assert one.linear.keys() == other.linear.keys() == params.keys()
        for name in params:
            exactly(one.linear[name], other.linear[name])


def test_lora_at_its_start_has_a_zero_fisher_for_its_first_factor(build, examples):
    params, seen = observed(build("lora", "llama", moved=False), examples)
    diagonal = averaged(sum_squares(params, seen))
    for A, B in lora_pairs(params):
        assert not diagonal[f"diagonal.{A}"].any()
        assert diagonal[f"diagonal.{B}"].max() > 0
    factors = averaged(sum_factors(params, seen, coupled=True))
    for A, _ in lora_pairs(params):
        assert not factors[f"outputs.{A}"].any()
        assert not factors[f"outputs_between.{A}"].any()

    params, seen = observed(build("curlora", "llama", moved=False), examples)
    diagonal = averaged(sum_squares(params, seen))
    assert all(diagonal[f"diagonal.{name}"].min() > 0 for name in params)


# ------------------------------------------------------------------------ quadratic forms


def kron(A, G):
    """The matrix of the form over rows-first entries of (m, n): G over m, A over n."""
    return torch.kron(G, A)


def random_factors(generator, tokens, *widths):
    return [
        torch.randn(tokens, width, generator=generator, dtype=torch.float64) for width in widths
    ]


@pytest.mark.parametrize("seed", range(5))
def test_forms_equal_the_dense_matrices_and_are_never_negative(seed):
    generator = torch.Generator().manual_seed(seed)
    d_in, r, d_out = 4, 2, 3
    h_A, h_B, g_A, g_B = random_factors(generator, 1 + seed, d_in, r, r, d_out)
    A, B = random_factors(generator, 1, r * d_in, d_out * r)
    A, B = A.view(r, d_in), B.view(d_out, r)
    inputs = (h_A.t() @ h_A, h_B.t() @ h_B, h_A.t() @ h_B)
    outputs = (g_A.t() @ g_A, g_B.t() @ g_B, g_A.t() @ g_B)

    own = kron(inputs[0], outputs[0])
    exactly(kronecker_form(inputs[0], outputs[0], A), A.flatten() @ own @ A.flatten())
    exactly(full_form(own, A), A.flatten() @ own @ A.flatten())
    exactly(diagonal_form(own.diagonal().view_as(A), A), A.flatten() ** 2 @ own.diagonal())

    between = torch.kron(outputs[2], inputs[2])
    dense = torch.cat(
        [
            torch.cat([own, between], dim=1),
            torch.cat([between.t(), kron(inputs[1], outputs[1])], dim=1),
        ]
    )
    step = torch.cat([A.flatten(), B.flatten()])
    exactly(coupled_form(inputs, outputs, A, B), step @ dense @ step)
    eigenvalues = torch.linalg.eigvalsh(dense)
    assert eigenvalues[0] > -1e-12 * eigenvalues[-1]

    # The bound is the data's, not the formula's: a coupling too strong for its blocks breaks it.
    scale = torch.ones_like(dense)
    scale[: A.numel(), A.numel() :] = scale[A.numel() :, : A.numel()] = 3
    assert torch.linalg.eigvalsh(dense * scale)[0] < -1e-3 * eigenvalues[-1]


def test_rounding_never_makes_a_form_negative():
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        h_A, h_B, g_A, g_B = (t.float() for t in random_factors(generator, 1, 6, 2, 2, 5))
        inputs = (h_A.t() @ h_A, h_B.t() @ h_B, h_A.t() @ h_B)
        outputs = (g_A.t() @ g_A, g_B.t() @ g_B, g_A.t() @ g_B)
        A = torch.randn(2, 6, generator=generator)
        A -= (A @ h_A.t()) @ h_A / h_A.square().sum()  # the form's true value is 0
        assert kronecker_form(inputs[0], outputs[0], A) >= 0
        assert coupled_form(inputs, outputs, A, torch.zeros(5, 2)) >= 0


def test_kronecker_factors_are_exact_for_one_example_of_one_token(build):
    model = build("curlora", "llama")
    params, seen = observed(model, [torch.tensor([7, 9])])
    # The last token is scored by nothing, so its gradient is zero: halve the inputs' mean.
    factors, full = averaged(sum_factors(params, seen)), averaged(sum_outer_products(params, seen))
    name = list(params)[-1]
    h, g = seen[0].linear[name]
    assert not g[1].any()
    exactly(factors[f"inputs.{name}"], h.t() @ h / 2)
    one_token = kron(torch.outer(h[0], h[0]), factors[f"outputs.{name}"])
    exactly(one_token, full[f"full.{name}"])


def test_factors_are_means_over_tokens_and_over_examples(build, examples):
    params, seen = observed(build("lora", "llama"), [examples[0], examples[1][:3]])
    factors = averaged(sum_factors(params, seen, coupled=True))
    (A, B) = lora_pairs(params)[0]
    h_A, h_B = (torch.cat([one.linear[name][0] for one in seen]) for name in (A, B))
    g_A, g_B = (torch.cat([one.linear[name][1] for one in seen]) for name in (A, B))
    assert len(h_A) == 8
    exactly(factors[f"inputs.{A}"], h_A.t() @ h_A / 8)
    exactly(factors[f"outputs.{B}"], g_B.t() @ g_B / 2)
    exactly(factors[f"inputs_between.{A}"], h_A.t() @ h_B / 8)
    exactly(factors[f"outputs_between.{A}"], g_A.t() @ g_B / 2)


# ------------------------------------------------------------------------ the collector's manners


@pytest.mark.parametrize("kind", ["lora", "curlora"])
def test_observing_leaves_no_trace(kind, build, examples):
    model = build(kind, "llama").train()
    model.get_submodule("base_model.model.model.layers.0").eval()
    modes = [module.training for module in model.modules()]
    marks = {name: torch.ones_like(p) for name, p in curlora.trainable_parameters(model).items()}
    for name, parameter in curlora.trainable_parameters(model).items():
        parameter.grad = marks[name]
    with torch.no_grad():
        _, seen = observed(model, examples)
    assert len(seen) == 3
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())
    for name, parameter in curlora.trainable_parameters(model).items():
        assert parameter.grad is marks[name]
        assert (parameter.grad == 1).all()


def test_dropout_is_off_and_examples_are_computed_as_they_are_read(build_base, examples):
    config = LoraConfig(r=RANK, target_modules=["q_proj"], lora_dropout=0.5)
    model = get_peft_model(build_base("llama"), config).double().train()
    _, first = observed(model, examples)
    _, second = observed(model, examples)
    name = next(iter(first[0].gradients))
    assert all(
        torch.equal(a.gradients[name], b.gradients[name])
        for a, b in zip(first, second, strict=True)
    )

    taken = []
    params = curlora.trainable_parameters(model)
    stream = (taken.append(i) or example for i, example in enumerate(examples))
    forward = functools.partial(log_probability, model)
    next(observe(model, forward, params, stream, ["gradients"]))
    assert taken == [0]
    assert model.training


@pytest.mark.parametrize("kind", ["lora", "curlora"])
def test_a_bfloat16_model_gives_float32_statistics(kind, build, examples):
    expected_params, expected = observed(build(kind, "llama", dtype=torch.float32), examples)
    params, seen = observed(build(kind, "llama", dtype=torch.bfloat16), examples)
    reference = averaged(sum_squares(expected_params, expected))
    actual = averaged(sum_squares(params, seen))
    for name in params:
        key = f"diagonal.{name}"
        assert actual[key].dtype == torch.float32
        assert (actual[key] - reference[key]).norm() < 0.2 * reference[key].norm()
        assert seen[0].linear[name][0].dtype == torch.float32


def test_curlora_is_observed_through_its_cheapest_form(build, examples, monkeypatch):
    used = []
    real = fused_form.fused
    monkeypatch.setattr(
        fused_form,
        "fused",
        lambda *a, **k: used.append(1) or real(*a, **k),
    )
    observed(build("curlora", "llama"), examples[:1])
    assert used


def test_what_cannot_be_observed_is_refused(build_base, build, examples):
    model = build("lora", "llama")
    params = curlora.trainable_parameters(model)
    vector = lambda example: model(example[None]).logits[0, 0]  # noqa: E731
    with pytest.raises(ValueError, match="0-dim log-probability"):
        next(observe(model, vector, params, examples, ["gradients"]))
    detached = lambda example: log_probability(model, example).detach()  # noqa: E731
    with pytest.raises(ValueError, match="requires_grad=False"):
        next(observe(model, detached, params, examples, ["gradients"]))
    config = LoraConfig(r=RANK, target_modules=["q_proj"], use_dora=True)
    dora = get_peft_model(build_base("llama"), config)
    with pytest.raises(ValueError, match="none of lora_A, lora_B and cur_U"):
        observed(dora, examples, ["linear"])
    with pytest.raises(ValueError, match="no example was observed"):
        averaged(sum_squares(params, []))
    with pytest.raises(ValueError, match="has no derivative for"):
        sum_factors(params, [observation.Observation()])
    with pytest.raises(ValueError, match="those of a matrix"):
        sum_factors({"bias": torch.zeros(3)}, [])
    broken = observation.Observation({name: p.detach() * torch.nan for name, p in params.items()})
    with pytest.raises(ValueError, match="is not finite"):
        averaged(sum_squares(params, [broken]))
