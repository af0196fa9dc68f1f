"""What is refused on machines that the tests do not have, by made-up trainers."""

import re
from types import SimpleNamespace

import pytest

from curlora.retention.learner import Learner
from curlora.retention.protocol import Retention
from curlora.retention.trainer_checks import check_trainer

ARGUMENTS = {
    "world_size": 1, "n_gpu": 1, "label_smoothing_factor": 0.0, "auto_find_batch_size": False,
    "gradient_accumulation_steps": 1, "dataloader_num_workers": 0, "fp16": False,
    "torch_compile": False, "load_best_model_at_end": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def learner(build_base):
    return Learner(build_base(), Retention(), tasks=2)


def trainer_of(learner, *, args=(), **changed):
    return SimpleNamespace(**{
        "model": learner.model, "args": SimpleNamespace(**ARGUMENTS | dict(args)),
        "is_deepspeed_enabled": False, "is_fsdp_enabled": False, "compute_loss_func": None,
        "train_dataset": [1],
    } | changed)  # fmt: skip


def test_a_plain_trainer_is_let_pass(learner):
    check_trainer(trainer_of(learner), learner)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"is_deepspeed_enabled": True}, "DeepSpeed and FSDP"),
        ({"is_fsdp_enabled": True}, "DeepSpeed and FSDP"),
        ({"args": {"world_size": 4}}, "4 processes"),
        ({"args": {"n_gpu": 2}}, "2 processes or on as many GPUs"),
        ({"args": {"fp16": True}}, "`fp16` skips steps"),
        ({"compute_loss_func": print}, "`compute_loss_func`"),
        ({"train_dataset": None}, "got NoneType"),
        ({"model": object()}, "another model"),
    ],
)
def test_each_reason_is_named(learner, changed, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        check_trainer(trainer_of(learner, **changed), learner)


def test_all_reasons_are_named_at_once(learner):
    both = trainer_of(learner, args={"fp16": True, "n_gpu": 2})
    with pytest.raises(ValueError, match=r"(?s)as many GPUs.*`fp16`"):
        check_trainer(both, learner)
