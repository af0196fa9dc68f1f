"""Retentions over the trainers of transformers and TRL, beside the plain engine."""

import gc
import random
import re
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models
from transformers import (
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer

import curlora
from curlora.retention import RETENTIONS
from curlora.retention.trainer import ContinualTraining
from curlora.retention.trainer_mixin import RetentionMixin
from orchestrator.data.items import Example
from orchestrator.engines.plain import PlainEngine
from orchestrator.spec.sections import TrainingSpec

RATE, SEED, BATCH = 5e-3, 3, 4
ACTING = {"strength": 30.0, "max_examples": 6, "capacity": 8, "lambda2": 0.01}
"""Settings, where a kind has them, by which it does something in a few steps."""

CASES = {
    **{kind: (kind, {k: v for k, v in ACTING.items() if k in RETENTIONS[kind].settings})
       for kind in RETENTIONS},
    "ewc auto": ("ewc", {"max_examples": 6, "strength": "auto", "pull": 2.0}),
    "laplace kfac": ("laplace", {"curvature": "kfac", "strength": 30.0, "max_examples": 6}),
    "secura": ("none", {}),
    "laplace of texts": ("laplace", {"source": "texts", "prior_precision": 1.0, "strength": 9.0}),
}  # fmt: skip

MECHANISMS = ("ewc auto", "laplace kfac", "ilora", "olora")
"""A case of everything that a retention may do to a step or to a task."""


def rows_of(task, count=8):
    """Rows of a data set: the token ids, of which the last few are learnt."""
    draw = random.Random(f"rows of {task}")
    rows = []
    for _ in range(count):
        tokens = [draw.randrange(2, 64) for _ in range(draw.randrange(4, 12))]
        start = draw.randrange(1, len(tokens) - 1)
        rows.append({"input_ids": tokens, "labels": [-100] * start + tokens[start:]})
    return rows


def example(row):
    """A row as the plain engine takes it."""
    return Example(tuple(row["input_ids"]), row["labels"].count(-100))


SECURA = {"kind": "secura", "m": 6, "merge": "M1"}
TASKS = [rows_of(task) for task in range(3)]
SOURCE = rows_of("source", 5)


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch):
    """A trainer collects garbage as it begins, over all that the tests before have loaded."""
    monkeypatch.setattr(gc, "collect", lambda *_: 0)


@pytest.fixture(scope="module")
def tokenizer():
    words = {"<unk>": 0, "<pad>": 1} | {f"w{i}": i for i in range(2, 64)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<unk>")),
        unk_token="<unk>", pad_token="<pad>", eos_token="<pad>",
    )  # fmt: skip


@pytest.fixture
def adapted(build_base):
    """Give a function that attaches the same adapter to the same base again and again."""

    def attach(kind="lora", **settings):
        chosen = {"r": 4, "target_modules": ["q_proj", "v_proj"]} | settings
        return curlora.attach(build_base(dtype=torch.float64), kind, chosen, seed=0)

    return attach


@pytest.fixture(scope="module")
def unprotected(build_base):
    """The losses of all tasks where nothing protects the earlier ones."""
    settings = {"r": 4, "target_modules": ["q_proj", "v_proj"]}
    model = curlora.attach(build_base(dtype=torch.float64), "lora", settings, seed=0)
    return by_engine(model, "none", {})


@pytest.fixture
def arguments(tokenizer, tmp_path):
    """Give a function that makes what a trainer takes."""

    def make(base, rows, **changed):
        kind = SFTConfig if issubclass(base, SFTTrainer) else TrainingArguments
        chosen = {
            "output_dir": str(tmp_path), "per_device_train_batch_size": BATCH,
            "learning_rate": RATE, "num_train_epochs": 2, "weight_decay": 0.0,
            "train_sampling_strategy": "sequential", "save_strategy": "no", "logging_steps": 1,
            "dataloader_pin_memory": False, "use_cpu": True, "report_to": "none",
            "disable_tqdm": True, "activation_checkpointing": False, "bf16": False,
        }  # fmt: skip
        if kind is SFTConfig:
            chosen["dataset_kwargs"] = {"skip_prepare_dataset": True}
        given = {"args": kind(**chosen | changed), "processing_class": tokenizer}
        if base is Trainer:
            given["data_collator"] = DataCollatorForSeq2Seq(tokenizer, padding=True)
            return {**given, "train_dataset": rows}
        return {**given, "train_dataset": Dataset.from_list(rows)}

    return make


def by_trainer(training, base, arguments, **changed):
    """The losses of all tasks, as a trainer logs them."""
    losses = []
    for rows in TASKS[: training.learner.tasks]:
        trainer = training.trainer(base, **arguments(base, rows, **changed))
        trainer.train()
        losses += [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return losses


def by_engine(model, kind, settings, batch_size=BATCH, accumulation=1):
    """The losses of all tasks, as the plain engine computes them on the same batches."""
    seed = {"seed": SEED} if "seed" in RETENTIONS[kind].settings else {}
    retention = RETENTIONS[kind].build({**seed, **settings})
    spec = TrainingSpec(
        learning_rate=RATE, schedule="linear", warmup_fraction=0.0, weight_decay=0.0,
        seed=SEED, accumulation=accumulation,
    )  # fmt: skip
    engine = PlainEngine(model, spec, retention=retention)
    texts = settings.get("source") == "texts"
    engine.begin_sequence(len(TASKS), [[example(row) for row in SOURCE]] if texts else [])
    learnt, losses = [], []
    for index, rows in enumerate(TASKS):
        examples = [example(row) for row in rows]
        size = batch_size * accumulation
        batches = [examples[i : i + size] for i in range(0, len(examples), size)] * 2
        engine.begin_task(index, len(batches), examples)
        for step, batch in enumerate(batches):
            again = [learnt[t][p] for t, p in retention.rows(len(batch), index, step)]
            losses.append(engine.train_step(batch, step, again))
        engine.end_task(index, examples)
        learnt.append(examples)
    return losses


@pytest.mark.parametrize(
    ("base", "case"),
    [*((Trainer, case) for case in CASES), *((SFTTrainer, case) for case in MECHANISMS)],
)
def test_losses_are_those_of_the_plain_engine(adapted, arguments, unprotected, base, case):
    kind, settings = CASES[case]
    sources = [SOURCE] if settings.get("source") == "texts" else []
    model, same = (adapted(**SECURA) if case == "secura" else adapted() for _ in range(2))
    training = ContinualTraining(
        model, kind, settings, tasks=len(TASKS), seed=SEED, sources=sources
    )
    found = by_trainer(training, base, arguments)
    assert found == pytest.approx(by_engine(same, kind, settings), rel=1e-6)
    if case != "none":
        assert found != pytest.approx(unprotected, rel=1e-4)


@pytest.mark.parametrize("base", [Trainer, SFTTrainer])
def test_accumulated_micro_batches_add_the_penalty_once(adapted, arguments, base):
    kind, settings = CASES["ewc"]
    training = ContinualTraining(adapted(), kind, settings, tasks=len(TASKS), seed=SEED)
    # Micro-batches of 3, 3 and 2 rows: the second step has one alone.
    changed = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 3}
    found = by_trainer(training, base, arguments, **changed)
    expected = by_engine(adapted(), kind, settings, batch_size=3, accumulation=2)
    assert found == pytest.approx(expected, rel=1e-6)


def test_checkpointed_activations_change_nothing(adapted, arguments):
    kind, settings = CASES["ilora"]
    losses = []
    for checkpointing in (False, True):
        training = ContinualTraining(adapted(), kind, settings, tasks=2, seed=SEED)
        losses.append(
            by_trainer(training, SFTTrainer, arguments, activation_checkpointing=checkpointing)
        )
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_a_trainer_that_is_used_again_is_as_a_new_one(adapted, arguments):
    kind, settings = CASES["ewc"]
    training = ContinualTraining(adapted(), kind, settings, tasks=len(TASKS), seed=SEED)
    trainer = training.trainer(Trainer, **arguments(Trainer, TASKS[0]))
    losses = []
    for rows in TASKS:
        trainer.train_dataset = rows
        trainer.train()
        losses += [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses == pytest.approx(by_engine(adapted(), kind, settings), rel=1e-6)


def test_an_optimiser_of_the_users_is_for_one_task(adapted, arguments):
    training = ContinualTraining(adapted(), "ewc", tasks=2)
    chosen = torch.optim.SGD(training.learner.params.values(), lr=0.1)
    trainer = training.trainer(
        Trainer, **arguments(Trainer, TASKS[0], max_steps=1), optimizers=(chosen, None)
    )
    trainer.train()
    with pytest.raises(ValueError, match="new trainer"):
        trainer.train()


def test_the_penalty_is_logged_and_no_part_of_the_evaluation(adapted, arguments):
    training = ContinualTraining(adapted(), "ewc", CASES["ewc"][1], tasks=2)
    for rows in TASKS[:2]:
        trainer = training.trainer(
            Trainer, **arguments(Trainer, rows, eval_strategy="epoch"), eval_dataset=TASKS[2]
        )
        trainer.train()
    logged = trainer.state.log_history
    penalties = [line["retention_penalty"] for line in logged if "retention_penalty" in line]
    assert penalties[0] == 0.0  # nothing has moved yet
    assert max(penalties) > 0.0
    plain = Trainer(training.learner.model, **arguments(Trainer, TASKS[0]), eval_dataset=TASKS[2])
    evaluated = [line["eval_loss"] for line in logged if "eval_loss" in line]
    assert evaluated[-1] == pytest.approx(plain.evaluate()["eval_loss"], rel=1e-9)


def test_a_fresh_adapter_for_each_task_is_written_as_one(adapted, arguments, build_base, tmp_path):
    base = build_base(dtype=torch.float64)
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    training = ContinualTraining(model, "olora", tasks=2)
    by_trainer(training, Trainer, arguments)
    assert len(training.learner.retention.earlier) == 2
    tokens = torch.tensor([TASKS[0][0]["input_ids"]])
    folder = training.save_adapter(tmp_path / "adapter")
    loaded = curlora.load_adapter(build_base(dtype=torch.float64), folder)
    with torch.no_grad():
        found, written = (m.eval()(input_ids=tokens).logits for m in (model, loaded))
    assert torch.allclose(found, written, atol=1e-6)


REFUSED = {
    "gradient_accumulation_steps": (2, "replay", "whole step"),
    "dataloader_num_workers": (1, "replay", "dataloader_num_workers"),
    "label_smoothing_factor": (0.1, "ewc", "label_smoothing_factor"),
    "torch_compile": (True, "ewc", "torch_compile"),
    "auto_find_batch_size": (True, "ewc", "auto_find_batch_size"),
    "load_best_model_at_end": (True, "olora", "frozen or merged"),
    "packing": (True, "ewc", "single examples"),
    "padding_free": (True, "ewc", "single examples"),
    "loss_type": ("dft", "ewc", "loss_type"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("argument", REFUSED)
def test_what_would_compute_something_else_is_refused(adapted, arguments, argument):
    value, kind, words = REFUSED[argument]
    base = SFTTrainer if argument in {"packing", "padding_free", "loss_type"} else Trainer
    training = ContinualTraining(adapted(), kind, tasks=2)
    other = {"max_length": None} if argument == "padding_free" else {}
    if argument == "load_best_model_at_end":
        other = {"eval_strategy": "epoch", "save_strategy": "epoch"}
    given = arguments(base, TASKS[0], **{argument: value}, **other)
    if "eval_strategy" in other:
        given["eval_dataset"] = TASKS[1]
    with pytest.raises(ValueError, match=words):
        training.trainer(base, **given)


def test_data_without_positions_or_labels_are_refused(adapted, arguments, tokenizer):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from TASKS[0]

    training = ContinualTraining(adapted(), "ewc", tasks=2)
    given = arguments(Trainer, Stream(), max_steps=1)
    with pytest.raises(ValueError, match="Stream"):
        training.trainer(Trainer, **given)
    given = arguments(Trainer, [{"input_ids": [2, 3]}]) | {
        "data_collator": DataCollatorWithPadding(tokenizer)
    }
    with pytest.raises(ValueError, match="`input_ids` and `labels`"):
        training.trainer(Trainer, **given).train()


def test_a_task_that_was_interrupted_is_not_taken_for_learnt(adapted, arguments):
    class Failing(TrainerCallback):
        def on_step_end(self, *_, **__):
            raise KeyboardInterrupt

    training = ContinualTraining(adapted(), "ewc", tasks=2)
    trainer = training.trainer(Trainer, **arguments(Trainer, TASKS[0]), callbacks=[Failing()])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    with pytest.raises(ValueError, match="Task 1 of 2 was begun"):
        training.trainer(Trainer, **arguments(Trainer, TASKS[0])).train()


def test_more_tasks_another_model_or_a_checkpoint_are_refused(adapted, arguments):
    training = ContinualTraining(adapted(), "none", tasks=1)
    trainer = training.trainer(Trainer, **arguments(Trainer, TASKS[0], max_steps=1))
    with pytest.raises(ValueError, match="checkpoint"):
        trainer.train(resume_from_checkpoint=True)
    trainer.train()
    with pytest.raises(ValueError, match="All 1 tasks"):
        trainer.train()
    with pytest.raises(ValueError, match="another model"):
        RetentionMixinTrainer(
            learner=training.learner, model=adapted(), **arguments(Trainer, TASKS[0])
        )


class RetentionMixinTrainer(RetentionMixin, Trainer):
    """What `ContinualTraining.trainer` makes, for another model."""


@pytest.mark.parametrize(
    ("adapter", "kind", "settings", "words"),
    [
        ("lora", "ewcc", {}, "Did you mean 'ewc'"),
        ("lora", "ewc", {"strenght": 1.0}, "Did you mean 'strength'"),
        ("curlora", "olora", {}, "LoRA's factor A"),
        ("dora", "olora", {}, "LoRA's factor A"),
        ("lora", "laplace", {"curvature": "full"}, "small `U` only"),
    ],
)
def test_a_retention_that_does_not_fit_is_refused(adapted, adapter, kind, settings, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        ContinualTraining(adapted(adapter), kind, settings, tasks=2)


def test_the_lines_of_the_documentation_run(adapted, arguments):
    text = (Path(__file__).parents[3] / "docs" / "use.md").read_text(encoding="utf-8")
    [code] = [c for c in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "Continual" in c]
    given = arguments(SFTTrainer, TASKS[0], dataset_kwargs=None)
    names = {"model": adapted(), "SFTTrainer": partial_of(given), "args": given["args"]}
    names["data_sets"] = [Dataset.from_list(rows) for rows in TASKS]
    exec(code, names)
    assert names["training"].learner.finished == len(TASKS)


def partial_of(given):
    """SFTTrainer with the tokenizer that a model of the hub would bring along."""

    class WithTokenizer(SFTTrainer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs, processing_class=given["processing_class"])

    return WithTokenizer
