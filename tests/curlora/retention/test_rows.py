"""The log-probability of a row, whatever its collator pads."""

import pytest
import torch

from curlora.retention.rows import RowScorer

ROW = {"input_ids": [5, 9, 3, 7, 2], "labels": [-100, -100, 3, 7, 2]}


def collator(length, *, left=False):
    """Pads to a length."""

    def pad(values, filler):
        missing = [filler] * (length - len(values))
        return torch.tensor([[*missing, *values] if left else [*values, *missing]])

    def collate(rows):
        [row] = rows
        return {
            "input_ids": pad(row["input_ids"], 1),
            "labels": pad(row["labels"], -100),
            "attention_mask": pad([1] * len(row["input_ids"]), 0),
        }

    return collate


@pytest.mark.parametrize("collate", [collator(5), collator(8), collator(8, left=True)])
def test_it_is_the_sum_over_scored_tokens(build_base, collate):
    model = build_base(dtype=torch.float64)
    scorer = RowScorer(model, collate)
    inputs, targets = scorer.batch_of(ROW)
    assert inputs["input_ids"].tolist() == [ROW["input_ids"][:-1]]
    assert targets.tolist() == ROW["labels"][1:]
    own = model(input_ids=torch.tensor([ROW["input_ids"]])).logits[0].log_softmax(-1)
    expected = own[1, 3] + own[2, 7] + own[3, 2]
    assert scorer.log_probability(ROW).item() == pytest.approx(expected.item(), rel=1e-12)
    assert scorer.scored == 3


def test_a_row_of_one_token_predicts_nothing(build_base):
    scorer = RowScorer(build_base(), collator(3))
    assert scorer.log_probability({"input_ids": [4], "labels": [4]}).item() == 0.0
    assert scorer.scored == 0


def test_labels_that_are_not_of_tokens_are_refused(build_base):
    scorer = RowScorer(build_base(), lambda _: {"input_ids": torch.ones(1, 3, dtype=torch.long),
                                                "labels": torch.tensor([1])})  # fmt: skip
    with pytest.raises(ValueError, match=r"`labels` \(1,\)"):
        scorer.log_probability(ROW)
