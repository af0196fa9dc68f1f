"""What every method costs: trained numbers, disk, a step, activations, a task's end, state.

    .venv/bin/python benchmarks/methods.py           # measures and prints
    .venv/bin/python benchmarks/methods.py --write   # and keeps it: methods.json, docs/methods.md
    .venv/bin/python benchmarks/methods.py --redraw  # draws the page's tables from the file again
    .venv/bin/python benchmarks/methods.py --only lora curlora --base .demo/SmolLM2-135M-Instruct

`--write` with another `--base` adds a record and a table of that base, of the methods that `--only`
names.

Everything is compared with the *frozen base's step*: forward, loss, and backward down to the input
embeddings with nothing trained. No step that trains the lowest layers can do much less. A method's
steps and frozen steps alternate, and each is divided by the frozen one beside it. Times are seconds
of the process on a core: waiting for a core that others use is not counted, but what others do to
caches and clock is.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import re
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from pydantic import ValidationError
from results_page import machine, table
from torch import Tensor
from torch._subclasses import FakeTensor
from transformers import LlamaConfig, LlamaForCausalLM

import curlora
from curlora_kinds.adapters.table import ADAPTERS, quantisation_refuses
from curlora_kinds.retentions.sizes import state_size
from curlora_kinds.retentions.table import RETENTIONS
from orchestrator.base.loading import load_base
from orchestrator.data.items import Example
from orchestrator.engines.linear_heads import LinearHeads
from orchestrator.engines.plain import PlainEngine
from orchestrator.engines.row_batches import padded, scored_example
from orchestrator.engines.scored_model import ScoredModel
from orchestrator.planning.method_sizes import is_target, targets_of
from orchestrator.spec.adapter_settings import adapter_options
from orchestrator.spec.methods import MethodSpec
from orchestrator.spec.presets import PRESETS
from orchestrator.spec.retention_settings import retention_options
from orchestrator.spec.sections import ModelSpec, TrainingSpec

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "benchmarks" / "methods.json"
PAGE = ROOT / "docs" / "methods.md"
HEAD = "measured"
SMALL = "small Llama"
MIB = 2**20


@dataclass(frozen=True)
class Case:
    """One method to be measured."""

    name: str
    table: str
    """Which table it stands in: adapters, retentions or presets."""
    method: Mapping[str, Any]
    """What stands under `method` in a file."""


@dataclass(frozen=True)
class Sizes:
    """What all measurements share."""

    base: Path | None
    """A folder with a model; None: the small Llama of `small_base`."""
    targets: str | tuple[str, ...]
    rank: int
    steps: int
    """Pairs of a method's step and a frozen one."""
    examples: int = 32
    """Training examples of each task, all of which the retention observes."""
    batch: int = 8
    length: int = 64
    """Scored tokens of an example."""


def small_base() -> LlamaForCausalLM:
    """A random Llama of four layers, the same every time."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=4096, hidden_size=256, intermediate_size=688, num_hidden_layers=4,
            num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=128,
            tie_word_embeddings=True,
        )
    )  # fmt: skip


def fresh_base(sizes: Sizes) -> Any:
    """The base without an adapter."""
    return (
        small_base() if sizes.base is None else load_base(ModelSpec(name=str(sizes.base)), "fp32")
    )


# ------------------------------------------------------------------------------- what is measured


def cases(sizes: Sizes) -> Iterator[Case]:
    """Every adapter alone, every retention on adapters it fits, every preset as it is."""
    plain: list[tuple[str, dict[str, Any]]] = []
    for kind in ADAPTERS:
        plain.append((kind, {}))
        if kind == "secura":
            plain += [
                ("secura, norm none", {"norm": "none"}),
                ("secura, norm released", {"norm": "released"}),
                ("secura, norm released, M1", {"norm": "released", "merge": "M1"}),
            ]
    for name, settings in plain:
        yield Case(name, "adapters", {"adapter": _adapter(name.partition(",")[0], sizes, settings)})
    pairs: list[tuple[str, dict[str, Any]]] = [
        ("lora", {"kind": "ewc"}),
        ("lora", {"kind": "ewc_weight"}),
        *(("lora", {"kind": "laplace", "curvature": c}) for c in ("diag", "kfac", "tri_kfac")),
        *(("lora", {"kind": kind}) for kind in ("replay", "ilora", "olora")),
        ("curlora", {"kind": "ewc"}),
        ("curlora", {"kind": "ewc_weight"}),
        *(("curlora", {"kind": "laplace", "curvature": c}) for c in ("kfac", "full")),
        ("curlora", {"kind": "replay"}),
    ]
    for kind, retention in pairs:
        name = " ".join([kind, "+", *retention.values()])
        yield Case(
            name, "retentions", {"adapter": _adapter(kind, sizes, {}), "retention": retention}
        )
    for name in PRESETS:
        yield Case(f"preset {name}", "presets", {"preset": name})


def _adapter(kind: str, sizes: Sizes, settings: Mapping[str, Any]) -> dict[str, Any]:
    known = ADAPTERS[kind].settings
    own: dict[str, Any] = {"r": sizes.rank, "target_modules": sizes.targets}
    if kind == "randlora":
        # Its rank is that of each of many bases; 32 with alpha 640 is published.
        own |= {"r": 4 * sizes.rank, "alpha": 80.0 * sizes.rank}
    own = {name: value for name, value in own.items() if name in known}
    source = {"source": "the text"} if kind == "corda" else {}
    return {"kind": kind, **own, **source, **settings}


def random_examples(count: int, sizes: Sizes, vocabulary: int, head: str | None) -> list[Example]:
    """Random tokens, all scored but the first; with a head a label follows that alone is scored."""
    generator = torch.Generator().manual_seed(count)
    drawn = torch.randint(0, vocabulary, (count, sizes.length + 1), generator=generator).tolist()
    if head is None:
        return [Example(tuple(tokens), scored_from=1) for tokens in drawn]
    return [
        Example((*tokens[:-1], index % 2), scored_from=sizes.length, head=head)
        for index, tokens in enumerate(drawn)
    ]


class FrozenBase:
    """The step that everything is compared with."""

    def __init__(self, base: Any, examples: Sequence[Example]) -> None:
        """Freeze the base.

        Args:
            base: A causal language model; its embeddings are made to ask for a gradient.
            examples: The batch of every step.
        """
        base.requires_grad_(False)
        base.get_input_embeddings().register_forward_hook(lambda _, __, out: out.requires_grad_())
        self._scored = ScoredModel(base).train()
        self._rows = [scored_example(example) for example in examples]

    def step(self) -> None:
        """Forward, loss, and backward to the input embeddings."""
        found, _ = self._scored(*padded(self._rows, torch.device("cpu")))
        (-found.mean()).backward()


class Saved:
    """Counts the bytes of what autograd holds for backward passes, each storage once."""

    def __init__(self, ignored: set[int]) -> None:
        """Count nothing yet.

        Args:
            ignored: Addresses of storages that need no further memory.
        """
        self._ignored = ignored
        self._holders: Counter[int] = Counter()
        self._held = 0
        self.peak = 0
        """Most bytes held at a time."""

    def pack(self, tensor: Tensor) -> Held | Tensor:
        """Take in a tensor that is saved."""
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if address in self._ignored:
            return tensor
        self._holders[address] += 1
        if self._holders[address] == 1:
            self._held += storage.nbytes()
            self.peak = max(self.peak, self._held)
        # Detached: an output held as it is would hold its own graph, for ever.
        return Held(tensor.detach(), self)

    def release(self, tensor: Tensor) -> None:
        """Note that one place holds a tensor no longer."""
        storage = tensor.untyped_storage()
        self._holders[storage.data_ptr()] -= 1
        if not self._holders[storage.data_ptr()]:
            self._held -= storage.nbytes()


class Held:
    """A saved tensor; autograd drops it with the graph, often before any backward pass."""

    def __init__(self, tensor: Tensor, saved: Saved) -> None:
        self.tensor = tensor
        self._saved = saved

    def __del__(self) -> None:
        self._saved.release(self.tensor)


def kept_bytes(step: Callable[[], object]) -> int:
    """What a step keeps for its backward pass.

    Args:
        step: Computes and calls backward.

    Returns:
        Most bytes at a time of the storages that autograd holds, each counted once, without those
        that were there before: weights of base and adapter, and what a retention carries.
    """
    gc.collect()
    # All of them, because some adapters keep frozen factors outside parameters and buffers.
    # Fake tensors, which something else in the process may have left, have no data.
    tensors = [
        found
        for found in gc.get_objects()
        if issubclass(type(found), Tensor) and not issubclass(type(found), FakeTensor)
    ]
    saved = Saved({tensor.untyped_storage().data_ptr() for tensor in tensors})

    def unpack(packed: Held | Tensor) -> Tensor:
        return packed.tensor if isinstance(packed, Held) else packed

    with torch.autograd.graph.saved_tensors_hooks(saved.pack, unpack):
        step()
    return saved.peak


def seconds(step: Callable[[], object]) -> float:
    """Seconds of this process on a core."""
    began = time.process_time()
    step()
    return time.process_time() - began


class MeasuringError(Exception):
    """A step that was to be timed did not compute what it should."""


def measure(case: Case, sizes: Sizes, frozen: FrozenBase, frozen_bytes: int) -> dict[str, Any]:
    """Measure one method through two tasks; its steps in the second.

    Args:
        case: The method.
        sizes: Of batch, task and adapter.
        frozen: The step to compare with, on a base of its own.
        frozen_bytes: What that step keeps.

    Returns:
        A line of the record: `refused` with a reason, or numbers.

    Raises:
        MeasuringError: A loss is not finite.
    """
    line: dict[str, Any] = {"name": case.name, "table": case.table}
    try:
        engine, method, shapes = prepared(case, sizes)
    except ValueError as error:
        return line | {"refused": reason_of(error)}
    examples = random_examples(sizes.examples, sizes, vocabulary_of(engine), head_of(method))
    batch = examples[: sizes.batch]

    def step(task: int, number: int) -> None:
        drawn = engine.retention.rows(len(batch), task, number)
        loss = engine.train_step(batch, number, [examples[place] for _, place in drawn])
        if loss != loss:
            raise MeasuringError(f"The loss of {case.name!r} is not finite at step {number}.")

    def between_tasks() -> None:
        engine.end_task(0, examples)
        engine.begin_task(1, sizes.steps, examples)

    engine.begin_sequence(2, [])
    engine.begin_task(0, sizes.steps, examples)
    step(0, 0)
    step(0, 1)
    between = seconds(between_tasks)
    step(1, 0)  # the optimiser makes its moments
    kept = kept_bytes(lambda: step(1, 1))
    ratios, floors = [], []
    frozen.step()
    for number in range(sizes.steps):
        own: Callable[[], None] = lambda number=number: step(1, 2 + number)  # noqa: E731
        # Each goes first in every second pair, so that neither always finds the other's caches.
        floor = seconds(frozen.step) if number % 2 else 0.0
        taken = seconds(own)
        floor = floor or seconds(frozen.step)
        ratios.append(taken / floor)
        floors.append(floor)
    engine.end_task(1, examples)
    with tempfile.TemporaryDirectory() as folder:
        engine.save_adapter(Path(folder))
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        tensors = sum(path.stat().st_size for path in files if path.suffix == ".safetensors")
        everything = sum(path.stat().st_size for path in files)
    low, middle, high = statistics.quantiles(ratios, n=4)
    floor = statistics.median(floors)
    return line | {
        "refused": None,
        **predict(method, sizes, engine, shapes),
        "trained": sum(p.numel() for p in engine.trainable.values()),
        "disk_bytes": tensors,
        "disk_bytes_with_text": everything,
        "step": {"median": middle, "low": low, "high": high, "frozen_seconds": floor},
        "activations": kept / frozen_bytes,
        "between_tasks": between / floor,
        "observed": min(engine.retention.max_examples, sizes.examples),
        "state_bytes": engine.retention.state_bytes(),
    }


Shapes = dict[str, tuple[int, int]]


def prepared(case: Case, sizes: Sizes) -> tuple[PlainEngine, MethodSpec, Shapes]:
    """Put a method on a fresh base.

    Args:
        case: The method.
        sizes: Which base.

    Returns:
        An engine, the method, and (d_out, d_in) of the layers that are adapted, by name.

    Raises:
        ValueError: The method cannot be, or not on this base.
    """
    method = MethodSpec.model_validate(dict(case.method))
    kind = method.adapter.kind
    options = retention_options(method.retention, 0)
    row = RETENTIONS[method.retention.kind]
    reason = row.refuses(kind, {**options, "r": getattr(method.adapter, "r", None)})
    if reason:
        raise ValueError(reason)
    if "max_examples" in options:
        options["max_examples"] = sizes.examples
    base = fresh_base(sizes)
    vocabulary, hidden = base.config.vocab_size, base.config.hidden_size
    text = None
    if kind == "corda":
        rows = random_examples(sizes.examples, sizes, vocabulary, None)
        text = [torch.tensor([row.tokens for row in rows])]
    settings = adapter_options(method.adapter)
    named = targets_of(method.adapter, base.config.model_type)
    shapes = shapes_of(base, named)
    if "target_modules" in settings:
        settings["target_modules"] = named if isinstance(named, str | None) else list(named)
    with contextlib.redirect_stdout(io.StringIO()):  # CorDA of PEFT prints each layer
        model = curlora.attach(base, kind, settings, seed=0, text=text)
    heads = LinearHeads({"task": 2}, hidden) if head_of(method) else None
    spec = TrainingSpec(learning_rate=1e-4, precision="fp32", batch_size=sizes.batch)
    return PlainEngine(model, spec, heads=heads, retention=row.build(options)), method, shapes


def head_of(method: MethodSpec) -> str | None:
    """Whose linear head is trained: without one `head_only` would train nothing."""
    return "task" if method.adapter.kind == "head_only" else None


def vocabulary_of(engine: PlainEngine) -> int:
    """How many tokens the base knows."""
    return int(engine.scored.model.config.vocab_size)


def shapes_of(base: Any, targets: Any) -> Shapes:
    """(d_out, d_in) of the layers that an adapter goes on, by name."""
    return {
        name: (module.out_features, module.in_features)
        for name, module in base.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not base.get_output_embeddings()
        if targets is not None and is_target(name, targets)
    }


def predict(
    method: MethodSpec, sizes: Sizes, engine: PlainEngine, shapes: Shapes
) -> dict[str, Any]:
    """What shapes alone say: numbers kept beside the base, bytes of the retention's state."""
    settings = adapter_options(method.adapter)
    state = state_size(
        method.retention.kind,
        retention_options(method.retention, 0),
        adapter_kind=method.adapter.kind,
        r=settings.get("r") or 1,
        layers=shapes,
        trained=sum(p.numel() for p in engine.scored.adapter.values()),
        tasks=2,
        tokens_per_example=sizes.length,
    )
    frozen = ADAPTERS[method.adapter.kind].frozen(settings, shapes)
    return {
        "adapter": method.adapter.kind,
        "retention": method.retention.kind,
        "frozen": frozen,
        "predicted_state_bytes": state.bytes,
    }


def reason_of(error: ValueError) -> str:
    """Why a method was refused, in one line."""
    if isinstance(error, ValidationError):
        return "; ".join(str(e["msg"]).removeprefix("Value error, ") for e in error.errors())
    return " ".join(str(error).split())


# --------------------------------------------------------------------------------- what is shown


def described(sizes: Sizes) -> dict[str, Any]:
    """The machine and the settings, before anything is measured."""
    return {
        **machine(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "base": SMALL if sizes.base is None else sizes.base.name,
        "targets": sizes.targets if isinstance(sizes.targets, str) else list(sizes.targets),
        "rank": sizes.rank,
        "pairs": sizes.steps,
        "examples": sizes.examples,
        "batch": [sizes.batch, sizes.length],
    }


def measured(
    sizes: Sizes, only: Sequence[str] = (), *, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Measure every case, or those that are named.

    Args:
        sizes: Of batch, task and adapter.
        only: Names of cases; empty: all.
        tell: Hears of each that is done.

    Returns:
        The record.

    Raises:
        ValueError: A name is none of a case.
    """
    torch.set_num_threads(1)
    wanted = list(cases(sizes))
    unknown = sorted(set(only) - {case.name for case in wanted})
    if unknown:
        known = ", ".join(case.name for case in wanted)
        raise ValueError(f"There is no case {unknown[0]!r}. Cases: {known}")
    record = described(sizes)
    base = fresh_base(sizes)
    batch = random_examples(sizes.examples, sizes, base.config.vocab_size, None)[: sizes.batch]
    frozen = FrozenBase(base, batch)
    frozen.step()
    frozen_bytes = kept_bytes(frozen.step)
    record |= {
        "base_parameters": sum(p.numel() for p in base.parameters()),
        "frozen_activation_bytes": frozen_bytes,
        "frozen_seconds": statistics.median(seconds(frozen.step) for _ in range(sizes.steps)),
        "methods": [],
    }
    for case in wanted:
        if only and case.name not in only:
            continue
        line = measure(case, sizes, frozen, frozen_bytes)
        record["methods"].append(line)
        tell("| " + " | ".join(cells_of(line)) + " |")
    return record


COLUMNS = (
    "", "trained", "frozen", "on disk", "step", "activations", "between tasks",
    "carried after 2 tasks",
)  # fmt: skip


def cells_of(line: Mapping[str, Any]) -> list[str]:
    """A method's cells."""
    if line["refused"]:
        return [f"`{line['name']}`", f"refused: {line['refused']}", *[""] * (len(COLUMNS) - 2)]
    step = line["step"]
    state, predicted = line["state_bytes"], line["predicted_state_bytes"]
    verdict = "as predicted" if state == predicted else f"predicted {readable(predicted)}"
    kept = line["retention"] != "none"
    return [
        f"`{line['name']}`",
        f"{line['trained']:,}",
        f"{line['frozen']:,}",
        readable(line["disk_bytes"]),
        f"{step['median']:.2f} ({step['low']:.2f}-{step['high']:.2f})",
        f"{line['activations']:.2f}",
        f"{line['between_tasks']:.1f}" if kept else "",
        f"{readable(state)} ({verdict})" if kept else "",
    ]  # fmt: skip


def readable(count: float) -> str:
    """Bytes in a unit that fits."""
    if count < 1024:
        return f"{count:.0f} B"
    return f"{count / 1024:.1f} KiB" if count < MIB else f"{count / MIB:.2f} MiB"


def facts_of(record: Mapping[str, Any]) -> str:
    """On what a record was measured."""
    batch, length = record["batch"]
    named = record["targets"]
    targets = named if isinstance(named, str) else ", ".join(named)
    load = ", ".join(f"{value:g}" for value in record["load_average"])
    return "\n".join([
        f"- Base: {record['base']} with {record['base_parameters']:,} parameters, fp32; adapters "
        f"of rank {record['rank']} on {targets}.",
        f"- Batches of {batch} x {length} tokens, all scored; {record['pairs']} pairs of steps a "
        f"method; tasks of {record['examples']} examples.",
        f"- The frozen step: {record['frozen_seconds'] * 1000:.0f} ms of one core, "
        f"{readable(record['frozen_activation_bytes'])} kept for the backward pass.",
        f"- {record['cpu']}, {record['cores']} cores, one thread, load average at the start "
        f"{load}; Python {record['python']}, torch {record['torch']}, peft {record['peft']}, "
        f"transformers {record['transformers']}.",
    ])  # fmt: skip


def blocks_of(records: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What the page gets of records by base, by the name of the place."""
    blocks = {f"{HEAD} elsewhere": ""}
    for base, record in records.items():
        lines = record["methods"]
        if base != SMALL:
            part = f"{facts_of(record)}\n\n{table([COLUMNS, *map(cells_of, lines)])}"
            blocks[f"{HEAD} elsewhere"] += f"\n\n### On {base}\n\n{part}"
            continue
        blocks[HEAD] = facts_of(record)
        for name in ("adapters", "retentions", "presets"):
            rows = [cells_of(line) for line in lines if line["table"] == name]
            blocks[f"{HEAD} {name}"] = table([COLUMNS, *rows])
    return {name: block.strip() for name, block in blocks.items()}


def known_blocks() -> dict[str, str]:
    """What the page gets of the tables in the code: nothing of it is measured."""
    adapters = []
    for kind in ADAPTERS.values():
        refused = quantisation_refuses(kind.name, "nf4")
        reason = (refused or "").partition(f"{kind.name!r} ")[2].partition(";")[0]
        quantised = f"no: {reason}" if refused else "yes"
        adapters.append([f"`{kind.name}`", kind.summary, kind.changes_base, quantised])
    pairs = []
    for row in RETENTIONS.values():
        for choice in row.settings["curvature"].choices if "curvature" in row.settings else ("",):
            settings = {"curvature": choice} if choice else {}
            refused = {a: reason for a in ADAPTERS if (reason := row.refuses(a, settings))}
            fitting = ", ".join(f"`{a}`" for a in ADAPTERS if a not in refused)
            # One reason stands for all: they differ in the adapter's name.
            reasons = [reason for a, reason in refused.items() if a != "head_only"]
            few = list(refused) == ["head_only"]
            goes = "all but `head_only`" if few else fitting if refused else "all"
            pairs.append([f"`{row.name}` {choice}".strip(), goes, *(reasons[:1] or [""])])
    presets = [
        [
            f"`{name}`",
            p.summary,
            p.source,
            "" if p.learning_rate is None else f"{p.learning_rate:g}",
        ]
        for name, p in PRESETS.items()
    ]
    return {
        "known adapters": table(
            [["", "what it is", "base written", "on a quantised base"], *adapters]
        ),
        "known pairs": table(
            [["retention", "goes with", "the answer to the first that does not"], *pairs]
        ),
        "known presets": table([["preset", "method", "settings from", "published rate"], *presets]),
    }


def write_page(blocks: Mapping[str, str], page: Path) -> None:
    """Put blocks into their places on the page."""
    text = page.read_text(encoding="utf-8")
    for name, block in blocks.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text, count = re.subn(
            pattern, lambda m, b=block: f"{m[1]}\n{b}\n\n{m[2]}", text, flags=re.DOTALL
        )
        if count != 1:
            raise SystemExit(f"{page}: expected one block <!-- {name} --> ... <!-- end -->.")
    page.write_text(text, encoding="utf-8")


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--base", type=Path, help="a model's folder instead of the small Llama")
    parser.add_argument("--targets", nargs="+", default=["all-linear"], help="endings of names")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8, help="pairs of steps a method")
    parser.add_argument("--only", nargs="+", default=[], help="names of methods, as in the tables")
    parser.add_argument("--write", action="store_true", help="keep the record and write the page")
    parser.add_argument("--redraw", action="store_true", help="write the page from the record")
    given = parser.parse_args()
    if given.write and given.only and given.base is None:
        parser.error("--write replaces the small base's whole record: leave out --only")
    if given.steps < 2:
        parser.error(f"--steps must be at least 2 to have a spread, got {given.steps}")
    return given


def main() -> None:
    """Measure and print, or redraw."""
    given = arguments()
    if given.redraw:
        records = json.loads(RECORD.read_text(encoding="utf-8"))
        write_page(blocks_of(records) | known_blocks(), PAGE)
        return
    warnings.simplefilter("ignore")  # PEFT's remarks on what is not done here, once a method
    targets = given.targets[0] if given.targets == ["all-linear"] else tuple(given.targets)
    sizes = Sizes(given.base, targets, given.rank, given.steps)
    began = time.monotonic()
    print(table([COLUMNS]))
    record = measured(sizes, given.only, tell=lambda line: print(line, flush=True))
    print(f"\n{facts_of(record)}\n- Took {time.monotonic() - began:.0f} s.")
    if given.write:
        kept = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
        records = kept | {record["base"]: record}
        RECORD.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
        write_page(blocks_of(records) | known_blocks(), PAGE)


if __name__ == "__main__":
    main()
