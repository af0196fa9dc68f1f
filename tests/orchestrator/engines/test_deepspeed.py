import math
import random
from pathlib import Path

import pytest
import torch

from curlora import attach
from curlora_kinds.retentions.table import RETENTIONS
from orchestrator.base.errors import ModelError
from orchestrator.base.identity import base_sha256
from orchestrator.base.loading import load_base, load_tokenizer
from orchestrator.data.items import Example, Writing
from orchestrator.data.model_inputs import Scored, apart
from orchestrator.engines.linear_heads import LinearHeads
from orchestrator.engines.optimizer import reach, schedule_factor
from orchestrator.engines.plain import PlainEngine
from orchestrator.engines.row_batches import bucketed, scored_example
from orchestrator.engines.scored_model import ScoredModel, check_logits
from orchestrator.loop.scoring import DivergedError, rows_of, score
from orchestrator.spec.sections import ModelSpec, TrainingSpec
from orchestrator.spec.task_files import parse_task
from tests.process_group import in_two_workers
from tests.questions import flat, questions

VOCABULARY = 30


def examples(count=8, seed=0, head=None):
    generator = random.Random(seed)
    made = []
    for _ in range(count):
        tokens = tuple(
            generator.randrange(2, VOCABULARY) for _ in range(generator.randrange(4, 20))
        )
        if head is None:
            made.append(Example(tokens, 2))
        else:
            label = tokens[0] % HEADS[head]
            made.append(Example((*tokens, label), len(tokens), head, label))
    return tuple(made)


HEADS = {"a": 2, "b": 3}
TASK = parse_task(
    {"name": "t", "kind": "generation", "data": {"files": "."}, "prompt": "{text}",
     "max_new_tokens": 5, "stop": []},
    "t",
)  # fmt: skip
PROMPTS = [(3, 4, 5), (6,), (7, 8), (9, 10, 11, 12), (13, 3)]


def attached(base, kind="curlora", *, seed=0, **fields):
    settings = {"r": 4, "alpha": 2.0, "target_modules": ["q_proj", "v_proj"]}
    settings |= settings_of(kind) | fields
    return attach(base, kind, {k: v for k, v in settings.items() if v is not None}, seed=seed)


def engine(tiny_base: Path, kind="curlora", *, heads=False, **training) -> PlainEngine:
    base = load_base(ModelSpec(name=str(tiny_base)), training.get("precision", "fp32"))
    spec = TrainingSpec(**{"learning_rate": 0.01, "precision": "fp32", **training})
    return PlainEngine(
        attached(base, kind), spec, batch_tokens=64,
        heads=LinearHeads(HEADS, 32, seed=0) if heads else None,
        tokenizer=load_tokenizer(ModelSpec(name=str(tiny_base))),
    )  # fmt: skip


def test_log_probabilities_are_the_models_own(tiny_base):
    """Padding, bucketing and reading at scored places only change nothing."""
    under_test = engine(tiny_base)
    rows = [scored_example(e) for e in examples(13)]
    got = under_test.log_probabilities(rows)
    for row, values in zip(rows, got, strict=True):
        with torch.no_grad():
            logits = under_test.scored.model(input_ids=torch.tensor([row.tokens])).logits[0]
        expected = logits.double().log_softmax(-1)
        for (position, token), value in zip(row.picks, values, strict=True):
            assert value == pytest.approx(float(expected[position, token]), abs=1e-5)


def test_accumulation_changes_no_loss(tiny_base):
    one = engine(tiny_base, batch_size=8)
    four = engine(tiny_base, batch_size=8, accumulation=4)
    one.begin_task(0, 4)
    four.begin_task(0, 4)
    for step in range(4):
        batch = examples(8, seed=step)
        assert four.train_step(batch, step) == pytest.approx(one.train_step(batch, step), abs=1e-5)


@pytest.mark.parametrize("kind", ["curlora", "lora"])
def test_a_resumed_task_goes_on_to_the_same_losses(tiny_base, tmp_path, kind):
    whole = engine(tiny_base, kind)
    whole.begin_task(0, 6)
    losses = []
    for step in range(6):
        if step == 3:
            whole.save(tmp_path, with_optimizer=True)
        losses.append(whole.train_step(examples(seed=step), step))
    assert losses[-1] != losses[0]
    again = engine(tiny_base, kind)
    again.load(tmp_path)
    assert [again.train_step(examples(seed=s), s) for s in range(3, 6)] == losses[3:]
    assert {p.suffix for p in tmp_path.iterdir()} == {".safetensors", ".json"}


def test_a_fresh_task_has_fresh_optimiser_state(tiny_base):
    first, second = engine(tiny_base), engine(tiny_base)
    first.begin_task(0, 2)
    first.train_step(examples(), 0)
    with torch.no_grad():
        for name, parameter in first.trainable.items():
            parameter.copy_(second.trainable[name])
    first.begin_task(0, 2)
    second.begin_task(0, 2)
    for step in range(2):
        assert first.train_step(examples(seed=step), step) == second.train_step(
            examples(seed=step), step
        )


def test_only_the_adapter_trains(tiny_base):
    under_test = engine(tiny_base)
    before = {n: p.clone() for n, p in under_test.scored.named_parameters()}
    under_test.begin_task(0, 1)
    under_test.train_step(examples(), 0)
    changed = {n for n, p in under_test.scored.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {f"model.{name}" for name in under_test.trainable}


def test_a_head_trains_with_its_own_task_alone_and_at_its_own_rate(tiny_base):
    """Weight decay, too, leaves the heads of other tasks as they are."""
    fields = {"weight_decay": 0.1, "max_grad_norm": None}
    under_test = engine(tiny_base, heads=True, head_learning_rate=0.5, **fields)
    before = {n: p.clone() for n, p in under_test.trainable.items()}
    for head in ("a", "b"):
        under_test.begin_task(0, 1)
        under_test.train_step(examples(head=head), 0)
        moved = {
            name: float((p - before[name]).detach().abs().max())
            for name, p in under_test.trainable.items()
        }
        heads = {name for name, by in moved.items() if name.startswith("heads.") and by > 0}
        index = "ab".index(head)
        assert heads == {f"heads.layers.{index}.weight", f"heads.layers.{index}.bias"}
        # Adam's first step is the learning rate itself, whatever the gradient.
        assert moved[f"heads.layers.{index}.bias"] == pytest.approx(0.5, rel=1e-3)
        before = {n: p.clone() for n, p in under_test.trainable.items()}


def test_a_heads_log_probabilities_are_those_of_its_labels(tiny_base):
    under_test = engine(tiny_base, heads=True)
    prompts = [(3, 4, 5), (6, 7)]
    rows = [Scored(p, tuple((len(p) - 1, label) for label in range(3)), "b") for p in prompts]
    got = torch.tensor(under_test.log_probabilities(rows))
    assert got.exp().sum(1).tolist() == pytest.approx([1.0, 1.0])
    states = under_test.hidden_states(rows)
    layer = under_test.scored.heads.layers[1]
    expected = (states @ layer.weight.T + layer.bias).log_softmax(-1)
    assert torch.allclose(got, expected, atol=1e-5)


def test_heads_come_back_from_their_file(tiny_base, tmp_path):
    under_test = engine(tiny_base, heads=True)
    under_test.save_adapter(tmp_path)
    again = LinearHeads.from_file(tmp_path / "heads.safetensors")
    assert again.named_tensors().keys() == under_test.scored.heads.named_tensors().keys()
    for name, tensor in under_test.scored.heads.named_tensors().items():
        assert torch.equal(again.named_tensors()[name], tensor)


def test_writing_in_a_batch_is_writing_one_by_one(tiny_base):
    """Padding on the left changes nothing, and greedy means the likeliest token each time."""
    under_test = engine(tiny_base)
    together = under_test.write(PROMPTS, TASK)
    alone = [under_test.write([prompt], TASK)[0] for prompt in PROMPTS]
    assert together == alone
    tokens = list(PROMPTS[0])
    for _ in range(TASK.max_new_tokens):
        with torch.no_grad():
            logits = under_test.scored.model(input_ids=torch.tensor([tokens])).logits[0, -1]
        tokens.append(int(logits.argmax()))
    tokenizer = load_tokenizer(ModelSpec(name=str(tiny_base)))
    assert together[0] == tokenizer.decode(tokens[3:], skip_special_tokens=True)


def test_writing_ends_before_a_stop_text(tiny_base):
    under_test = engine(tiny_base)
    whole = under_test.write(PROMPTS[:1], TASK)[0]
    words = whole.split()
    stop = next(word for word in words[1:] if word != words[0])
    stopped = under_test.write(PROMPTS[:1], TASK.model_copy(update={"stop": (stop,)}))[0]
    assert stopped == whole[: whole.index(stop)].strip()


def test_buckets_hold_every_row_once_within_the_budget():
    rows = [scored_example(e) for e in examples(50)]
    batches = bucketed(rows, 64)
    assert sorted(i for batch in batches for i in batch) == list(range(50))
    for batch in batches:
        longest = max(len(rows[i].tokens) for i in batch)
        assert len(batch) == 1 or longest * len(batch) <= 64


def test_a_full_bucket_is_closed_before_its_padding_grows():
    """Lengths 1 to 200: one budget for all would pad every row to 200 and waste half."""
    rows = [Scored((0,) * length, ()) for length in range(1, 201)]

    def useful(batches):
        padded = sum(len(b) * max(len(rows[i].tokens) for i in b) for b in batches)
        return sum(len(row.tokens) for row in rows) / padded

    batches = bucketed(rows, 10**6)
    assert sorted(i for batch in batches for i in batch) == list(range(200))
    assert useful(batches) > 0.9
    assert useful(bucketed(rows, 10**6, shortest=0.0)) < 0.51
    assert bucketed(rows[:4], 10**6) == [[3, 2, 1, 0]]  # too little to be worth a second pass


def test_schedules():
    def curve(**fields):
        spec = TrainingSpec(**fields)
        return [round(schedule_factor(spec, step, 8), 4) for step in range(8)]

    assert curve() == [1.0] * 8
    assert curve(schedule="linear") == [1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    assert curve(schedule="linear", warmup_fraction=0.25)[:4] == [0.5, 1.0, 1.0, 0.8333]
    cosine = curve(schedule="cosine")
    assert cosine == sorted(cosine, reverse=True)
    assert cosine[4] == 0.5
    # What AdamW can go in a task: the sum of its learning rates.
    linear = TrainingSpec(learning_rate=0.01, schedule="linear")
    assert reach(linear, 8) == pytest.approx(0.01 * 4.5)


def test_an_unknown_transformation_of_logits_is_refused(tiny_base):
    base = load_base(ModelSpec(name=str(tiny_base)), "fp32")
    scored = ScoredModel(base)
    check_logits(scored, VOCABULARY)
    scored._scale = 3.0
    with pytest.raises(ModelError, match="transforms its logits in a way that is not supported"):
        check_logits(scored, VOCABULARY)


def test_gemma2_softcapping_is_known():
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.05,
        attn_implementation="eager",
    )  # fmt: skip
    check_logits(ScoredModel(Gemma2ForCausalLM(config).eval()), VOCABULARY)


def test_gpt2_is_known():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    check_logits(ScoredModel(GPT2LMHeadModel(config).eval()), VOCABULARY)


def test_a_folder_without_weights_is_refused(tmp_path, tiny_base):
    (tmp_path / "config.json").write_text((tiny_base / "config.json").read_text())
    with pytest.raises(ModelError, match="has no weights"):
        base_sha256(ModelSpec(name=str(tmp_path)))
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_base(ModelSpec(name=str(tmp_path)), "fp32")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_tokenizer(ModelSpec(name=str(tmp_path / "none")))


# --- DeepSpeed: two CPU workers against one plain process ----------------------------------------


CASES = {
    "zero-0": {"stage": 0, "kind": "curlora"},
    "zero-1": {"stage": 1, "kind": "lora", "accumulation": 2},
    "zero-2": {"stage": 2, "kind": "curlora", "accumulation": 2},
    "zero-3": {"stage": 3, "kind": "curlora"},
    "zero-3-lora": {"stage": 3, "kind": "lora"},
    "zero-2-bf16": {"stage": 2, "kind": "curlora", "precision": "bf16"},
    "bf16-buffers": {"stage": 0, "kind": "tinylora", "precision": "bf16"},
    "heads-1": {"stage": 1, "kind": "lora", "heads": True, "accumulation": 2},
    "heads-2": {"stage": 2, "kind": "curlora", "heads": True},
    "heads-3": {"stage": 3, "kind": "curlora", "heads": True},
    "offload": {"stage": 2, "kind": "curlora", "zero": {"offload_optimizer": {"device": "cpu"}}},
    "scheduler": {
        "stage": 1,
        "kind": "curlora",
        "deepspeed": {
            "scheduler": {
                "type": "WarmupLR",
                "params": {"warmup_max_lr": 0.01, "warmup_num_steps": 4, "warmup_type": "linear"},
            }
        },
    },
}


CONTINUAL = {
    "ewc-zero-2": {"stage": 2, "kind": "lora", "retention": {"kind": "ewc", "strength": 50.0}},
    "ewc-zero-3": {"stage": 3, "kind": "lora", "retention": {"kind": "ewc"}},
    "laplace-zero-3": {
        "stage": 3, "kind": "curlora",
        "retention": {"kind": "laplace", "curvature": "full", "strength": 50.0},
    },
    "kfac-zero-1": {
        "stage": 1, "kind": "lora",
        "retention": {"kind": "laplace", "curvature": "tri_kfac", "pull": 3.0},
    },
    "replay-zero-3": {"stage": 3, "kind": "curlora", "retention": {"kind": "replay"}},
    "ilora-zero-2": {"stage": 2, "kind": "lora", "retention": {"kind": "ilora", "strength": 5.0}},
    "olora-zero-1": {"stage": 1, "kind": "lora", "retention": {"kind": "olora"}},
    "ewc_weight-zero-2": {
        "stage": 2, "kind": "curlora", "retention": {"kind": "ewc_weight", "strength": 50.0},
    },
    "full-zero-2": {
        "stage": 2, "kind": "full", "retention": {"kind": "ewc", "strength": 50.0},
    },
    "nf4-zero-2": {
        "stage": 2, "kind": "curlora", "retention": {"kind": "ewc"}, "quantization": "nf4",
    },
    "secura-zero-2": {"stage": 2, "kind": "secura", "retention": {"kind": "none"}},
}  # fmt: skip
TAKEN_OVER = ("kfac-zero-1", "ewc-zero-2", "laplace-zero-3")
"""Those whose first task two workers also take over: one of each stage, as all share that code."""
TASKS = [examples(6, seed=10 + task) for task in range(3)]


def spec_of(base, case):
    return ModelSpec(name=str(base), quantization=case.get("quantization"))


def retention_of(case):
    fields = dict(case["retention"])
    return RETENTIONS[fields.pop("kind")].build(fields)


def settings_of(kind):
    return {
        "secura": {"m": 6, "merge": "M1", "merge_every": 2, "alpha": None},
        "tinylora": {"alpha": None},
        "full": {"r": None, "alpha": None, "target_modules": None},
    }.get(kind, {})


def continue_learning(engine, begin=(0, 0), save=None, taken=None):
    """Three tasks of two steps of three examples; the losses, and what is left at the end.

    Saved is within the second task, and in `learnt` at the end of the first, which may be `taken`.
    """
    if begin == (0, 0):
        engine.begin_sequence(3, ())
    losses = []
    for task in range(begin[0], 3):
        if (task, 0) >= begin:
            engine.begin_task(task, 2, TASKS[task])
        steps = range(begin[1] if task == begin[0] else 0, 2)
        if taken is not None and task == 0:
            steps = ()
            engine.load_learnt(taken, RETENTIONS[engine.retention.kind].follows)
        for step in steps:
            rows = engine.retention.rows(3, task, step)
            replayed = [TASKS[t][place] for t, place in rows]
            batch = TASKS[task][3 * step : 3 * step + 3]
            losses.append(engine.train_step(batch, step, replayed))
            if save is not None and (task, step) == (1, 0):
                engine.save(save, with_optimizer=True)
        engine.end_task(task, TASKS[task])
        if save is not None and task == 0:
            engine.save(save / "learnt", with_optimizer=False)
    rows = [scored_example(e) for e in examples(5, seed=99)]
    return losses, [v for row in engine.log_probabilities(rows) for v in row]


def _run_continual(folder, base, case, *, takes_over):
    from orchestrator.engines.deepspeed import DeepSpeedEngine

    def fresh(weights=None):
        spec = TrainingSpec(
            learning_rate=0.01, precision="fp32", batch_size=8,
            deepspeed={"zero_optimization": {"stage": case["stage"]}},
        )  # fmt: skip
        model = attached(load_base(spec_of(base, case), "fp32"), case["kind"])
        return DeepSpeedEngine(
            model, spec, batch_tokens=64, weights=weights, retention=retention_of(case)
        )

    losses, scores = continue_learning(fresh(), save=folder)
    torch.distributed.barrier()
    again = fresh(folder)
    again.load_retention(folder, inside=True)
    again.load_optimizer(folder)
    resumed, resumed_scores = continue_learning(again, begin=(1, 1))
    found = {"losses": losses, "scores": scores, "resumed": resumed, "again": resumed_scores}
    if takes_over:
        found["taken_over"] = continue_learning(fresh(), taken=folder / "learnt")
    return found


def _worker(rank, folder, base):
    """Every case: six steps, a checkpoint after three, the three again from it, a second task."""
    results = {name: _run_case(folder / name, base, case) for name, case in CASES.items()}
    for name, case in CONTINUAL.items():
        results[name] = _run_continual(folder / name, base, case, takes_over=name in TAKEN_OVER)
    return results


def _run_case(folder, base, case):
    from orchestrator.engines.deepspeed import DeepSpeedEngine

    precision = case.get("precision", "fp32")

    def fresh(weights=None, **fields):
        zero = {"stage": case["stage"], **case.get("zero", {})}
        spec = TrainingSpec(
            learning_rate=0.01, precision=precision, batch_size=8,
            accumulation=case.get("accumulation", 1),
            deepspeed={"zero_optimization": zero, **case.get("deepspeed", {})},
        )  # fmt: skip
        model = load_base(ModelSpec(name=base), precision)
        adapted = attached(model, case["kind"], **fields)
        heads = LinearHeads(HEADS, 32, seed=0) if case.get("heads") else None
        tokenizer = load_tokenizer(ModelSpec(name=base))
        return DeepSpeedEngine(
            adapted, spec, batch_tokens=64, weights=weights, heads=heads, tokenizer=tokenizer
        )

    first, later = ("a", "b") if case.get("heads") else (None, None)
    one = fresh()
    one.begin_task(0, 6)
    losses, rates = [], []
    for step in range(6):
        if step == 3:
            one.save(folder, with_optimizer=True)
            torch.distributed.barrier()
        batch = examples(7 if step == 1 else 8, seed=step, head=first)
        losses.append(one.train_step(batch, step))
        rates.append(one.learning_rate)
    rows = [scored_example(e) for e in examples(13, head=first)]
    scores = one.log_probabilities(rows)
    states, written = one.hidden_states(rows), one.write(PROMPTS, TASK)
    joint = rows_of(questions())
    once = one.log_probabilities(joint)
    apart_rows = [part for row in joint for part in apart(row)]
    alone = flat(one.log_probabilities(apart_rows))
    two = fresh(folder)
    two.load_optimizer(folder)
    resumed = [two.train_step(examples(seed=s, head=first), s) for s in range(3, 6)]
    again = two.log_probabilities(rows)
    one.begin_task(0, 6)
    second = [one.train_step(examples(seed=s, head=later), s) for s in range(2)]
    # A gradient of this size has no finite norm; clipped by it, the step would silently be zero.
    overflow = None
    if settings_of(case["kind"]).get("alpha", 1.0) is not None:
        too_large = fresh(alpha=1e30)
        too_large.begin_task(0, 1)
        overflow = too_large.train_step(examples(head=first), 0)
    return {
        "losses": losses, "rates": rates, "scores": scores, "resumed": resumed, "again": again,
        "second": second, "states": states.tolist(), "written": written, "overflow": overflow,
        "once": flat(once), "alone": alone, "takes_joint_rows": one._joint._taken,
    }  # fmt: skip


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory, tiny_base):
    """What two CPU workers gave in every case."""
    folder = tmp_path_factory.mktemp("two-workers")
    return in_two_workers(_worker, folder, str(tiny_base))[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n for n in CASES if n not in {"zero-2-bf16", "bf16-buffers", "scheduler"}]
)
def test_two_workers_give_the_losses_of_one_process(two_workers, tiny_base, name):
    heads = CASES[name].get("heads", False)
    first, later = ("a", "b") if heads else (None, None)
    plain = engine(tiny_base, CASES[name]["kind"], heads=heads, head_learning_rate=1e-3)
    plain.begin_task(0, 6)
    batches = [examples(7 if step == 1 else 8, seed=step, head=first) for step in range(6)]
    expected = [plain.train_step(batch, step) for step, batch in enumerate(batches)]
    rows = [scored_example(e) for e in examples(13, head=first)]
    expected_scores = plain.log_probabilities(rows)
    expected_states = plain.hidden_states(rows)
    expected_texts = plain.write(PROMPTS, TASK)
    plain.begin_task(0, 6)
    expected_second = [plain.train_step(examples(seed=s, head=later), s) for s in range(2)]

    got = two_workers[name]
    assert got["losses"] == pytest.approx(expected, abs=1e-4)
    flat = [v for row in expected_scores for v in row]
    assert [v for row in got["scores"] for v in row] == pytest.approx(flat, abs=1e-4)
    assert got["second"] == pytest.approx(expected_second, abs=1e-4)
    assert torch.allclose(torch.tensor(got["states"]), expected_states, atol=1e-3)
    assert got["written"] == expected_texts


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in CASES if CASES[n].get("precision") is None])
def test_two_workers_read_a_prompt_once_for_all_its_continuations(two_workers, name):
    got = two_workers[name]
    assert got["takes_joint_rows"]
    assert got["once"] == pytest.approx(got["alone"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CASES))
def test_a_task_goes_on_from_its_checkpoint_to_the_same_losses(two_workers, name):
    got = two_workers[name]
    assert got["resumed"] == got["losses"][3:]
    assert got["again"] == got["scores"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in CASES if n != "bf16-buffers"])
def test_a_gradient_without_a_finite_norm_is_told(two_workers, name):
    assert math.isnan(two_workers[name]["overflow"])


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTINUAL)
def test_two_workers_learn_a_sequence_as_one_process_does(two_workers, tiny_base, name):
    case = CONTINUAL[name]
    plain = continual_engine(tiny_base, case)
    losses, scores = continue_learning(plain)
    assert two_workers[name]["losses"] == pytest.approx(losses, abs=2e-4)
    assert two_workers[name]["scores"] == pytest.approx(scores, abs=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTINUAL)
def test_two_workers_go_on_inside_the_second_task(two_workers, name):
    got = two_workers[name]
    assert got["resumed"] == got["losses"][3:]
    assert got["again"] == got["scores"]


@pytest.mark.slow
@pytest.mark.parametrize("name", TAKEN_OVER)
def test_two_workers_take_over_the_first_task(two_workers, name):
    got = two_workers[name]
    assert got["taken_over"] == (got["losses"][2:], got["scores"])


def continual_engine(tiny_base, case) -> PlainEngine:
    base = load_base(spec_of(tiny_base, case), "fp32")
    spec = TrainingSpec(learning_rate=0.01, precision="fp32", batch_size=8)
    return PlainEngine(
        attached(base, case["kind"]), spec, batch_tokens=64, retention=retention_of(case)
    )


@pytest.mark.parametrize("name", CONTINUAL)
def test_a_sequence_goes_on_inside_the_second_task_to_the_same_numbers(tiny_base, name, tmp_path):
    case = CONTINUAL[name]
    losses, scores = continue_learning(continual_engine(tiny_base, case), save=tmp_path)
    again = continual_engine(tiny_base, case)
    again.load(tmp_path)
    resumed, resumed_scores = continue_learning(again, begin=(1, 1))
    assert resumed == losses[3:]
    assert resumed_scores == scores
    taken = continue_learning(continual_engine(tiny_base, case), taken=tmp_path / "learnt")
    assert taken == (losses[2:], scores)


@pytest.mark.slow
def test_a_schedule_of_deepspeeds_own_is_passed_through(two_workers):
    rates = two_workers["scheduler"]["rates"]
    assert rates == sorted(rates)
    assert rates[0] < rates[2] < rates[-1] == pytest.approx(0.01)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_plain_engine_runs_on_a_gpu(tiny_base):
    base = load_base(ModelSpec(name=str(tiny_base)), "bf16", "cuda")
    spec = TrainingSpec(learning_rate=0.01, precision="bf16")
    on_gpu = PlainEngine(attached(base), spec)
    on_gpu.begin_task(0, 3)
    losses = [on_gpu.train_step(examples(), step) for step in range(3)]
    assert losses[-1] < losses[0]


def test_a_text_of_broken_weights_is_no_text(tiny_base):
    task = parse_task(
        {"name": "echo", "kind": "generation", "data": {"files": "."}, "prompt": "{prompt}",
         "max_new_tokens": 3}, "echo.yaml",
    )  # fmt: skip
    under_test = engine(tiny_base)
    items = [Writing((2, 3), (4,), "film"), Writing((5, 6, 7), (4,), "dog")]
    assert 0.0 <= score(items, task, under_test).value <= 1.0
    with torch.no_grad():
        next(iter(under_test.trainable.values())).fill_(math.nan)
    with pytest.raises(DivergedError, match="when task 'echo' is scored"):
        score(items, task, under_test)
