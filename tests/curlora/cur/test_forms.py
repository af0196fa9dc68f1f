"""The forms: against a float64 oracle, by what they keep, and when each is used."""

import copy

import pytest
import torch
from peft import get_peft_model
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.pytorch_utils import Conv1D

from curlora import CurloraConfig, forward_form
from curlora.adapters.cur_factors import CurFactors
from curlora.cur.forms import LARGEST_BIAS, choose_form, explicit, input_side, output_reuse
from curlora.cur.fused_form import fused

FORMS = ("explicit", "output_reuse", "input_side", "fused")
D_IN, D_OUT, R, ALPHA = 24, 20, 5, 1.7
# The fused form carries its update across the base where one side is at least twice as wide.
WIDTHS = [(D_IN, D_OUT), (D_IN, 48), (40, D_OUT)]


def make_case(d_in=D_IN, d_out=D_OUT, *, bias=True, dtype=torch.float64, bias_scale=1.0):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    W = normal(d_out, d_in) / d_in**0.5
    columns, rows = torch.tensor([3, 7, 7, 0, 23]).int(), torch.tensor([19, 2, 2, 2, 11]).int()
    factors = CurFactors(columns, rows, torch.zeros(2 + 64 + 2 * R).int())
    b = normal(d_out) * bias_scale if bias else None
    factors.read(W, b)
    return W, b, factors, normal(R, R) * 0.3, normal(2, 3, d_in)


def apply(form, x, W, b, factors, U):
    def base(z):
        return functional.linear(z, W, b)

    if form == "explicit":
        return explicit(base(x), x, factors.C, U, factors.R, ALPHA)
    if form == "output_reuse":
        return output_reuse(base(x), factors.C, U, factors.rows, factors.bias_at_rows, ALPHA)
    if form.startswith("fused"):
        indices = factors.columns, factors.rows, factors.bias_at_rows
        return fused(x, W, b, factors.C, U, factors.R, *indices, ALPHA, form == "fused")
    return input_side(base, x, U, factors.R, factors.columns, ALPHA)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("form", [*FORMS, "fused from x"])
def test_every_form_equals_the_dense_oracle_with_its_gradients(form, widths, bias):
    """Indices are repeated on purpose: a scatter that overwrites would pass without."""
    W, b, factors, U, x = make_case(*widths, bias=bias)
    U.requires_grad_()
    x.requires_grad_()
    dense = functional.linear(x, W + ALPHA * factors.C @ U @ factors.R, b)
    weights = torch.randn(dense.shape, dtype=torch.float64)
    expected = torch.autograd.grad((dense * weights).sum(), (x, U))

    out = apply(form, x, W, b, factors, U)
    actual = torch.autograd.grad((out * weights).sum(), (x, U))

    torch.testing.assert_close(out, dense, rtol=0, atol=1e-13)
    for got, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


def test_output_reuse_passes_gradcheck():
    _, _, factors, U, x = make_case()
    y = torch.randn(*x.shape[:-1], D_OUT, dtype=torch.float64, requires_grad=True)
    U.requires_grad_()

    def run(y, U):
        return output_reuse(y, factors.C, U, factors.rows, factors.bias_at_rows, ALPHA)

    assert torch.autograd.gradcheck(run, (y, U))


@pytest.mark.parametrize("form", ["fused", "fused from x"])
@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("wanted", ["x and U", "x", "U"])
def test_the_fused_form_passes_gradcheck_whatever_is_wanted(form, widths, wanted):
    W, b, factors, U, x = make_case(*widths)
    x.requires_grad_("x" in wanted)
    U.requires_grad_("U" in wanted)
    assert torch.autograd.gradcheck(lambda x, U: apply(form, x, W, b, factors, U), (x, U))


def test_output_reuse_leaves_the_incoming_gradient_alone():
    W, b, factors, U, x = make_case()
    y = functional.linear(x, W, b).requires_grad_()
    out = output_reuse(y, factors.C, U.requires_grad_(), factors.rows, factors.bias_at_rows, ALPHA)
    gradient = torch.ones_like(out)
    out.backward(gradient)
    assert torch.equal(gradient, torch.ones_like(out))
    assert not torch.equal(y.grad, gradient)


@pytest.mark.parametrize("widths", WIDTHS)
def test_the_fused_form_leaves_input_and_incoming_gradient_alone(widths):
    W, b, factors, U, x = make_case(*widths)
    before = x.clone()
    out = apply("fused", x.requires_grad_(), W, b, factors, U.requires_grad_())
    gradient = torch.ones_like(out)
    out.backward(gradient)
    assert torch.equal(gradient, torch.ones_like(out))
    assert torch.equal(x, before)


@pytest.mark.parametrize("form", ["output_reuse", "fused"])
def test_output_reuse_refuses_a_second_derivative_instead_of_getting_it_wrong(form):
    W, b, factors, U, x = make_case()
    U.requires_grad_()
    out = apply(form, x, W, b, factors, U)
    (first,) = torch.autograd.grad(out.square().sum(), U, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("form", ["explicit", "output_reuse", "fused", "fused from x"])
def test_a_half_precision_base_keeps_its_dtype_and_a_float32_core(form, widths):
    W, _, factors, U, x = make_case(*widths, bias=False)
    expected = apply("explicit", x, W, None, factors, U)
    low = CurFactors(factors.columns, factors.rows, factors.fingerprint_bits)
    low.read(W.bfloat16(), None)
    U = U.float().requires_grad_()
    out = apply(form, x.bfloat16(), W.bfloat16(), None, low, U)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), expected, rtol=0.03, atol=0.06)
    out.float().sum().backward()
    assert U.grad.dtype == torch.float32


# ---------------------------------------------------------------------- in a layer


def wrap(base, form="auto", r=R, **settings):
    model = nn.Sequential(base)
    config = CurloraConfig(r=r, alpha=ALPHA, target_modules=["0"], form=form, **settings)
    model = get_peft_model(model, config)
    layer = model.base_model.model[0]
    with torch.no_grad():
        layer.cur_U["default"].normal_(std=0.3)
    return layer


def linear(d_in=D_IN, d_out=D_OUT, *, bias=True, kind=nn.Linear):
    base = kind(d_in, d_out, bias=bias) if kind is nn.Linear else kind(d_out, d_in)
    with torch.no_grad():
        base.weight.normal_(std=d_in**-0.5)
        if bias:
            base.bias.normal_(std=0.1)
    return base


@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
@pytest.mark.parametrize(("d_in", "d_out"), [(24, 20), (20, 24), (16, 16), (12, 24), (24, 12)])
@pytest.mark.parametrize("form", ["auto", *FORMS])
def test_a_layer_equals_its_dense_update(form, d_in, d_out, kind):
    base = linear(d_in, d_out, kind=kind).double()
    dense = copy.deepcopy(base)
    layer = wrap(base, form).double()
    x = torch.randn(2, 3, d_in, dtype=torch.float64)
    factors = layer.factors("default")
    delta = ALPHA * factors.C @ layer.cur_U["default"] @ factors.R
    with torch.no_grad():
        dense.weight += delta.t() if kind is Conv1D else delta
    torch.testing.assert_close(layer(x), dense(x), rtol=0, atol=1e-12)


def saved_for_backward(run):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        run()
    return saved


@pytest.mark.parametrize(("d_in", "d_out"), [(64, 64), (64, 128), (128, 64)])
@pytest.mark.parametrize("form", FORMS)
def test_nothing_larger_than_n_by_r_is_kept_for_the_backward_pass(form, d_in, d_out):
    N, r = 50, 4
    layer = wrap(linear(d_in, d_out), form, r)
    x = torch.randn(N, d_in, requires_grad=True)
    frozen = {t.data_ptr() for t in (*layer.parameters(), *layer.buffers())}
    beyond = [t for t in saved_for_backward(lambda: layer(x)) if t.data_ptr() not in frozen]
    assert sum(t.numel() for t in beyond) <= N * r + r * r
    assert all(t.numel() <= N * r for t in beyond)


@pytest.mark.parametrize(
    ("d_in", "d_out", "narrow_sums"), [(40, 36, 0), (40, 80, 1), (80, 40, 1), (40, 79, 0)]
)
def test_the_fused_form_sums_on_the_narrow_side_of_a_wide_layer_in_32_bits(
    d_in, d_out, narrow_sums, monkeypatch
):
    """Forward, backward, or neither; never in 16 bits, where x + z would round coarsely."""
    calls = []
    real = torch.Tensor.index_add
    monkeypatch.setattr(
        torch.Tensor, "index_add", lambda t, *a, **k: calls.append(t.dtype) or real(t, *a, **k)
    )
    for dtype in (torch.float32, torch.bfloat16):
        layer = wrap(linear(d_in, d_out).to(dtype).requires_grad_(False), "fused")
        layer(torch.randn(3, d_in, dtype=dtype, requires_grad=True)).sum().backward()
    assert calls == [torch.float32] * narrow_sums


class ShapesMade(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.shapes.add(tuple(tensor.shape))
        return out


@pytest.mark.parametrize("form", FORMS)
def test_no_dense_update_is_ever_built(form):
    layer = wrap(linear(40, 36), form, 4)
    x = torch.randn(3, 7, 40, requires_grad=True)
    layer.base_layer.weight.requires_grad_(False)
    with ShapesMade() as made:
        layer(x).sum().backward()
    with ShapesMade() as made_by_base:
        layer.base_layer(x).sum().backward()

    def dense(shapes):
        return {shape for shape in shapes if set(shape) == {36, 40}}

    assert dense(made.shapes) <= dense(made_by_base.shapes)  # the base transposes its weight


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, "output_reuse"),
        ({"d_in": 8, "d_out": 16}, "input_side"),
        ({"d_in": 8, "d_out": 16, "low_precision": True}, "explicit"),
        ({"exact_base": False}, "explicit"),
        ({"adapters": 2}, "explicit"),
        ({"relative_bias": LARGEST_BIAS}, "output_reuse"),
        ({"relative_bias": LARGEST_BIAS * 1.01}, "explicit"),
        ({"low_precision": True}, "output_reuse"),
        ({"low_precision": True, "relative_bias": 0.01}, "explicit"),
        ({"fusable": True}, "fused"),
        ({"fusable": True, "low_precision": True, "relative_bias": 0.01}, "fused"),
        ({"fusable": True, "adapters": 2}, "explicit"),
        ({"fusable": True, "exact_base": False}, "explicit"),
    ],
)
def test_the_cheapest_exact_form_is_chosen(facts, expected):
    plain = {
        "d_in": 16,
        "d_out": 16,
        "exact_base": True,
        "fusable": False,
        "adapters": 1,
        "relative_bias": 0.0,
        "low_precision": False,
    }
    assert choose_form(**plain | facts) == expected


def test_large_biases_do_not_spoil_a_bfloat16_layer():
    """Qwen2 has biases of 100 and more on q, k and v, and y - b cancels there.

    Only the selected rows get one here, so that the other outputs show the update alone.
    """
    layer = wrap(linear(256, 256, bias=False).bfloat16(), r=16)
    factors = layer.factors("default")
    bias = torch.zeros(256, dtype=torch.bfloat16)
    bias[factors.rows.long()] = 300.0
    layer.base_layer.bias = nn.Parameter(bias, requires_grad=False)
    factors.read(layer.base_layer.weight.detach(), bias)
    x = torch.randn(64, 256).bfloat16()
    delta = ALPHA * factors.C.double() @ layer.cur_U["default"].double() @ factors.R.double()
    expected = (x.double() @ (layer.base_layer.weight.double() + delta).t())[:, bias == 0]

    def error(form):
        with forward_form(layer, form):
            return (layer(x)[:, bias == 0].double() - expected).norm() / expected.norm()

    assert error("auto") < 0.01
    assert error("output_reuse") > 0.1  # what the guard is for


def test_a_hook_on_the_base_makes_the_layer_explicit():
    """A hook may change the output, which then is no longer x W' + bias."""
    layer = wrap(linear())
    x = torch.randn(4, D_IN)
    plain, base = layer(x), layer.base_layer(x)
    layer.base_layer.register_forward_hook(lambda module, args, output: output * 2)
    torch.testing.assert_close(layer(x), base + plain, rtol=1e-5, atol=1e-6)


def _offload(base):  # how accelerate puts weights on the device for a call
    own = base.forward
    base.forward = own


@pytest.mark.parametrize(
    "touch",
    [
        _offload,
        lambda base: base.weight.requires_grad_(),
        lambda base: base.bias.requires_grad_(),
        lambda base: base.register_full_backward_hook(lambda *_: None),
    ],
)
def test_a_base_whose_call_means_more_than_its_weight_is_called(touch):
    layer = wrap(linear())
    x = torch.randn(4, D_IN, requires_grad=True)
    calls = []
    assert layer._form(["default"], x) == "fused"
    expected = layer(x)
    touch(layer.base_layer)
    assert layer._form(["default"], x) == "output_reuse"
    own = layer.base_layer.forward
    layer.base_layer.forward = lambda x: calls.append(1) or own(x)
    torch.testing.assert_close(layer(x), expected)
    assert calls


# Dynamo itself makes an instance of a function that it traces.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(
    ("form", "widths"), [*(("fused", w) for w in WIDTHS[1:]), *((f, WIDTHS[0]) for f in FORMS)]
)
def test_a_layer_is_compiled_as_one_graph(form, widths):
    layer = wrap(linear(*widths), form)
    x = torch.randn(4, widths[0], requires_grad=True)
    layer(x).square().sum().backward()
    expected = (x.grad.clone(), layer.cur_U["default"].grad.clone())
    x.grad = layer.cur_U["default"].grad = None
    torch._dynamo.reset()
    torch.compile(layer, backend="aot_eager", fullgraph=True)(x).square().sum().backward()
    torch.testing.assert_close((x.grad, layer.cur_U["default"].grad), expected)


def test_functorch_gives_gradients_per_sample_in_the_explicit_form():
    layer = wrap(linear())
    x = torch.randn(6, D_IN)
    U = layer.cur_U["default"].detach()

    def loss(U, sample):
        return torch.func.functional_call(layer, {"cur_U.default": U}, (sample,)).square().sum()

    with forward_form(layer, "explicit"):
        per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(U, x)
    layer(x).square().sum().backward()
    torch.testing.assert_close(per_sample.sum(0), layer.cur_U["default"].grad)


def test_forms_are_restored_on_leaving():
    layer = wrap(linear(), "input_side")
    with forward_form(layer, "explicit"):
        assert layer.cur_settings["default"].form == "explicit"
    assert layer.cur_settings["default"].form == "input_side"


@pytest.mark.parametrize("form", ["output_reuse", "input_side"])
def test_a_form_the_base_cannot_give_is_refused(form):
    base = linear()
    base.register_forward_pre_hook(lambda module, args: None)
    with pytest.raises(ValueError, match="needs a plain linear layer, but `0`"):
        wrap(base, form)


def test_autocast_runs_every_form_in_16_bits():
    for form in ("auto", *FORMS):
        layer = wrap(linear(), form)
        x = torch.randn(4, D_IN, requires_grad=True)
        exact = layer(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = layer(x)
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.float(), exact, rtol=0.05, atol=0.05)
        out.float().sum().backward()
        assert layer.cur_U["default"].grad.dtype == torch.float32
