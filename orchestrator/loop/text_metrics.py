"""Written texts compared with references: exact match, final number, BLEU, ROUGE.

References:
    BLEU: Papineni et al. (2002), as signed by sacreBLEU (Post 2018, arXiv 1804.08771).
    ROUGE-L: Lin (2004), F1 with stemming, as in the package rouge-score.
    Final number of GSM8K: Cobbe et al. (2021), arXiv 2110.14168.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

from orchestrator.spec.task_kinds import GenerationTask


def text_metrics(
    written: Sequence[str], references: Sequence[str], task: GenerationTask
) -> tuple[dict[str, float], list[float]]:
    """Compare written texts with references, one each.

    Args:
        written: The texts; not empty.
        references: What they should have been.
        task: Names the metric of each text.

    Returns:
        The metrics over all texts, and the score of each text, in [0, 1]. The headline is the mean
        of these, so that it can be paired and resampled: for BLEU the mean sentence BLEU, with the
        usual corpus BLEU beside it as `bleu`.
    """
    exact = [
        float(_same(text, reference, task)) for text, reference in zip(
            written, references, strict=True
        )
    ]  # fmt: skip
    metrics = {"exact_match": sum(exact) / len(exact)}
    each = exact
    rated = [task.rate(text, ref) for text, ref in zip(written, references, strict=True)]
    own = [value for value in rated if value is not None]
    if len(own) == len(rated):
        each = own
        metrics[task.metric] = sum(own) / len(own)
    elif task.metric == "bleu":
        import sacrebleu

        each = [
            sacrebleu.sentence_bleu(text, [reference]).score / 100.0
            for text, reference in zip(written, references, strict=True)
        ]
        metrics["bleu"] = sacrebleu.corpus_bleu(list(written), [list(references)]).score / 100.0
        metrics["sentence_bleu"] = sum(each) / len(each)
    elif task.metric == "rouge_l":
        from rouge_score import rouge_scorer

        scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
        found = [
            scorer.score(reference, text)
            for text, reference in zip(written, references, strict=True)
        ]
        each = [one["rougeL"].fmeasure for one in found]
        for name, key in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
            metrics[name] = sum(one[key].fmeasure for one in found) / len(found)
    return metrics, each


def _same(text: str, reference: str, task: GenerationTask) -> bool:
    if task.answer == "text":
        return text.strip() == reference.strip()
    wanted = final_number(reference)
    return wanted is not None and final_number(text) == wanted


def final_number(text: str) -> Decimal | None:
    """The last number of a text, thousands separators removed; None when there is none."""
    found = re.findall(r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)", text)
    return Decimal(found[-1].replace(",", "")) if found else None
