"""CURLoRA: `curlora.adapters.curlora`."""

from __future__ import annotations

from typing import Any

from curlora_kinds.adapters.counts import core, two_factors
from curlora_kinds.adapters.kind import AdapterKind
from curlora_kinds.adapters.rank_and_dropout import RANK
from curlora_kinds.settings import Choice, Flag, Number, Targets, Whole

COLDEST_WITH_REPLACEMENT = 0.05
"""With replacement and a colder law than this, a few columns take nearly every draw."""


AUTHOR_EPS = 1e-3
"""`eps` of the author's code, which draws with replacement."""


def _agree(values: dict[str, Any]) -> None:
    author = values["preset"] == "author"
    if author and values["eps"] not in {0.0, AUTHOR_EPS}:
        raise ValueError(
            f"`preset: author` means `eps` {AUTHOR_EPS}, got {values['eps']!r}. Drop one of the "
            "two."
        )
    replaced = values["with_replacement"] or author
    if replaced and values["temperature"] < COLDEST_WITH_REPLACEMENT:
        raise ValueError(
            f"`temperature` must be at least {COLDEST_WITH_REPLACEMENT} when `with_replacement` is "
            f"true, got {values['temperature']!r}: nearly every draw would be the same column. "
            "Raise it, or draw without replacement."
        )


KIND = AdapterKind(
    name="curlora",
    summary="CURLoRA (Fawi 2024, arXiv 2408.14572): W + alpha C U R, trains U (r, r).",
    settings={
        "r": RANK,
        "target_modules": Targets(),
        "alpha": Number(1.0, "Factor on C U R.", nonzero=True),
        "temperature": Number(
            1.0,
            "Of the inverted sampling law; towards 0 the smallest energies, to infinity uniform.",
            above=0,
            advice="Towards 0 it picks the columns of least energy; for the limit of infinity set "
            "`selection: uniform`.",
        ),
        "selection": Choice(
            "inverted",
            "The paper's law, or a control.",
            choices=("inverted", "uniform", "energy"),
        ),
        "selection_seed": Whole(
            0, "Where the indices come from, with each module's name.", least=0
        ),
        "eps": Number(
            0.0,
            "Added to each share of energy before it is inverted; the author's code has 1e-3.",
            least=0,
        ),
        "with_replacement": Flag(
            False, "Draw as the author's code does, where a column may come twice."
        ),
        "preset": Choice(
            None,
            "`author`: eps 1e-3 with replacement; a file has the preset `curlora-author`.",
            choices=("author",),
            optional=True,
            in_file=False,
        ),
    },
    check=_agree,
    made_by="curlora.adapters.curlora_config:CurloraConfig",
    count_trained=core,
    count_frozen=two_factors,
    linear_factors="core",
    additive=True,
    quantised=None,
    packs_as="core",
)
