"""A base that is sharded over two workers while it is loaded (ZeRO stage 3)."""

import math

import pytest
import torch

from curlora.adapters import cur_factors
from curlora.adapters.attach import attach
from curlora.adapters.curlora_layer import curlora_layers
from curlora_kinds.retentions.table import RETENTIONS
from orchestrator.base.loading import load_base, partitioned
from orchestrator.base.number_formats import memory_footprint
from orchestrator.data.items import Example
from orchestrator.engines.deepspeed import DeepSpeedEngine
from orchestrator.engines.plain import PlainEngine
from orchestrator.engines.scored_model import check_logits
from orchestrator.engines.sharded_base import zero3_config
from orchestrator.spec.sections import ModelSpec, TrainingSpec
from tests.process_group import in_two_workers

pytestmark = pytest.mark.slow

KINDS = ("curlora", "lora")
SETTINGS = {"r": 4, "target_modules": ["q_proj", "v_proj"]}
SPEC = TrainingSpec(
    learning_rate=0.01, precision="fp32", batch_size=8,
    deepspeed={
        "zero_optimization": {
            # So small that every tensor of the base is sharded.
            "stage": 3, "stage3_param_persistence_threshold": 0,
        }
    },
)  # fmt: skip


def examples(seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(2, 30, (8, 10), generator=generator).tolist()
    return tuple(Example(tuple(row[: 5 + i % 5]), 2) for i, row in enumerate(rows))


def learn(engine):
    """Two tasks of two steps, with a curvature between them."""
    engine.begin_sequence(2, ())
    losses = []
    for task in range(2):
        engine.begin_task(task, 2)
        losses += [engine.train_step(examples(2 * task + step), step) for step in range(2)]
        engine.end_task(task, examples(2 * task))
    return losses


def adapted(base, kind):
    return attach(base, kind, SETTINGS, seed=0)


def indices(model):
    layers = curlora_layers(model, "default").values()
    return [layer.factors("default").columns.tolist() for layer in layers]


def whole_parameters(model):
    """Numbers of the base that this worker holds whole at the moment."""
    return sum(p.numel() for p in model.parameters() if not p.requires_grad)


def _worker(rank, folder, base):
    return {kind: _learn(kind, base, folder / kind, rank) for kind in KINDS}


def _learn(kind, base, folder, rank):
    config = zero3_config(SPEC)
    with partitioned(config):
        model = load_base(ModelSpec(name=base), "fp32")
    held, part = whole_parameters(model), memory_footprint(model)["float32"]
    # How much of the base is whole while a layer's columns and rows are chosen and read.
    peak = [0]
    read = cur_factors.CurFactors.read

    def watched(factors, W, bias):
        peak[0] = max(peak[0], whole_parameters(model))
        read(factors, W, bias)

    cur_factors.CurFactors.read = watched
    try:
        with partitioned(config):
            model_with_adapter = adapted(model, kind)
    finally:
        cur_factors.CurFactors.read = read
    retention = RETENTIONS["ewc"].build({"strength": 5.0, "max_examples": 3})
    engine = DeepSpeedEngine(model_with_adapter, SPEC, batch_tokens=64, retention=retention)
    check_logits(engine.scored, 30)  # as every trial does, before anything else is computed
    losses = learn(engine)
    with engine.gathered():
        peak[0] = max(peak[0], whole_parameters(model))
        if rank == 0:
            model_with_adapter.save_pretrained(str(folder))
    factors = [
        tuple(layer.factors("default").C.shape)
        for layer in curlora_layers(model_with_adapter, "default").values()
    ]
    return {
        "held": held, "part": part, "peak": peak[0], "losses": losses, "factors": factors,
        "indices": indices(model_with_adapter),
    }  # fmt: skip


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory, tiny_base):
    """What each of two workers saw, by kind; and the folder of their adapters."""
    folder = tmp_path_factory.mktemp("zero3")
    results = in_two_workers(_worker, folder, str(tiny_base))
    return {(kind, rank): results[rank][kind] for kind in KINDS for rank in range(2)}, folder


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_those_of_one_plain_process(two_workers, tiny_base, kind):
    found, folder = two_workers
    base = load_base(ModelSpec(name=str(tiny_base)), "fp32")
    plain = PlainEngine(
        adapted(base, kind), SPEC.model_copy(update={"deepspeed": {}}), batch_tokens=64,
        retention=RETENTIONS["ewc"].build({"strength": 5.0, "max_examples": 3}),
    )  # fmt: skip
    expected = learn(plain)
    for rank in range(2):
        assert found[kind, rank]["losses"] == pytest.approx(expected, abs=1e-4)

    from peft import PeftModel

    loaded = PeftModel.from_pretrained(
        load_base(ModelSpec(name=str(tiny_base)), "fp32"), str(folder / kind)
    )
    tokens = torch.arange(2, 12)[None]
    with torch.no_grad():
        got = loaded.eval()(input_ids=tokens).logits
        wanted = plain.scored.eval().model(input_ids=tokens).logits
    assert torch.allclose(got, wanted, atol=1e-4)


def test_every_worker_chooses_the_columns_of_the_whole_weight(two_workers, tiny_base):
    found, _ = two_workers
    expected = adapted(load_base(ModelSpec(name=str(tiny_base)), "fp32"), "curlora")
    for rank in range(2):
        assert found["curlora", rank]["indices"] == indices(expected)
        assert found["curlora", rank]["factors"] == [(32, 4), (16, 4)] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_no_worker_holds_more_of_the_base_than_its_part_and_one_layer(two_workers, tiny_base, kind):
    whole = sum(p.numel() for p in load_base(ModelSpec(name=str(tiny_base)), "fp32").parameters())
    found, _ = two_workers
    for rank in range(2):
        result = found[kind, rank]
        assert result["held"] == 0
        assert result["part"] < 4 * (0.51 * whole + 100)
        assert result["peak"] <= math.prod((32, 32))
        assert (result["peak"] > 0) == (kind == "curlora")
