"""Measuring learning rates for a selection, before its experiment is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orchestrator.base.facts import base_facts, vocabulary
from orchestrator.base.files import UNKNOWN
from orchestrator.base.precision import with_precision
from orchestrator.data.preparation import prepare
from orchestrator.planning.speed import LARGEST_BASE
from orchestrator.selection.measured_rates import Range, measured_rates, range_words
from orchestrator.spec.load import LoadedExperiment
from orchestrator.sweep.precision import decide_precision
from orchestrator.sweep.provenance import provenance_now
from orchestrator.system.content_cache import ContentCache
from orchestrator.system.stores.address import working_folder


def scaled_rates(
    loaded: LoadedExperiment,
    names: Sequence[str],
    address: str | None,
    note: Callable[[str], None],
) -> dict[str, Range]:
    """Measure learning rates where this process computes as the workers will.

    Args:
        loaded: The experiment, without a search.
        names: Methods of the portfolio.
        address: Of a cluster, on whose devices nothing is measured; None: this machine.
        note: Told what is measured, or why nothing is.

    Returns:
        Ranges by method; empty where nothing can be measured here.
    """
    why = _why_not(loaded, address)
    if why is not None:
        note(f"learning rates are searched in their stated ranges: {why}")
        return {}
    from orchestrator.base.identity import base_sha256, tokenizer_sha256
    from orchestrator.base.loading import load_tokenizer

    experiment = loaded.experiment
    if experiment.training.precision == "auto":
        loaded = with_precision(loaded, decide_precision(experiment, address).used)
        experiment = loaded.experiment
    sha256 = base_sha256(experiment.model)
    cache = ContentCache(working_folder(experiment.storage).resolve() / "cache")
    data = prepare(
        loaded,
        load_tokenizer(experiment.model),
        note=note,
        cache=cache,
        tokenizer_sha256=tokenizer_sha256(experiment.model, sha256),
        vocabulary=vocabulary(experiment.model),
    )
    made_with = provenance_now()
    follows = {
        "base": sha256,
        "quantization": experiment.model.quantization,
        "data": data.hashes[experiment.tasks[0]],
        "on_gpu": experiment.resources.gpus_per_worker > 0,
        "code": made_with["code"],
        "packages": made_with["packages"],
    }
    kept = None if sha256 == UNKNOWN else cache
    found = measured_rates(experiment, names, data, kept, follows, note)
    note(range_words(found))
    return found


def _why_not(loaded: LoadedExperiment, address: str | None) -> str | None:
    experiment = loaded.experiment
    if address is not None:
        return "the workers are on another cluster"
    if experiment.resources.workers > 1:
        return "a trial has several workers"
    if experiment.resources.gpus_per_worker:
        import torch

        if not torch.cuda.is_available():
            return "the workers have a GPU, and none is here"
    facts = base_facts(experiment.model)
    if facts is None:
        return "the base is not on this machine yet"
    if facts.weight_bytes(4, experiment.model.quantization) > LARGEST_BASE:
        return "the base is too large to be loaded for it"
    return None
