"""Who computes: a base model with an adapter, a plain engine, and a DeepSpeed engine.

Both engines share the model wrapper, the loss and the checkpoint format, and give the same losses:
an optimiser step is the mean over the *scored tokens* of the whole batch, however many workers and
micro-batches it is spread over.

A checkpoint is a folder of safetensors and JSON: `weights.safetensors` (the trainable tensors),
`optimizer-rank<r>.safetensors` (each rank's shard of fp32 masters and moments) and `engine.json`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.batches import Scored
from orchestrator.encoding import Example, Tokens
from orchestrator.experiment import ModelSpec, TrainingSpec, default_batch_tokens
from orchestrator.tasks import GenerationTask

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LOGIT_ROWS = 1024
"""Scored positions whose logits are held at a time when nothing is learnt."""


class ModelError(ValueError):
    """A base model that cannot be used; the message says why and what to do."""


# --- the base model ------------------------------------------------------------------------------


def load_tokenizer(spec: ModelSpec) -> Any:
    """The tokenizer of a base model.

    Args:
        spec: The model.

    Returns:
        A Hugging Face tokenizer.

    Raises:
        ModelError: If it cannot be loaded.
    """
    from transformers import AutoTokenizer

    place, options = _source(spec)
    with _loading(spec):
        return AutoTokenizer.from_pretrained(place, **options)


def load_base(spec: ModelSpec, precision: str, device: torch.device | str = "cpu") -> nn.Module:
    """The frozen base model.

    Args:
        spec: The model.
        precision: "fp32" or "bf16".
        device: Where its weights go.

    Returns:
        A causal language model in evaluation mode, no parameter of which is trained.

    Raises:
        ModelError: If it cannot be loaded or has no weights.
    """
    from transformers import AutoModelForCausalLM

    place, options = _source(spec)
    # On CPU in bf16 the fused attention's backward is several times slower than the plain one.
    attention = "eager" if torch.device(device).type == "cpu" else "sdpa"
    with _loading(spec):
        model: Any = AutoModelForCausalLM.from_pretrained(
            place, dtype=DTYPES[precision], attn_implementation=attention, **options
        )
    model.requires_grad_(False)
    model.config.use_cache = False
    return model.to(device).eval()


def _source(spec: ModelSpec) -> tuple[str, dict[str, Any]]:
    if spec.gguf is not None:
        path = Path(spec.gguf)
        return str(path.parent), {"gguf_file": path.name}
    return str(spec.name), {"revision": spec.revision} if spec.revision else {}


@contextmanager
def _loading(spec: ModelSpec) -> Iterator[None]:
    name = spec.gguf or spec.name
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        text = " ".join(str(error).split())[:300]
        raise ModelError(
            f"The model {name!r} cannot be loaded: {text}. `model.name` is a Hugging Face name or "
            "a folder with config.json, safetensors weights and a tokenizer; `make demo` fetches "
            "the demo's."
        ) from None


def base_sha256(spec: ModelSpec) -> str:
    """A hash of the base's weights: of the files of a folder, or the commit of a hub model.

    Args:
        spec: The model.

    Returns:
        A hexadecimal sha256 (folder, GGUF), or the hub's commit hash.

    Raises:
        ModelError: If a folder holds no weights.
    """
    place = Path(spec.gguf or str(spec.name))
    if place.is_file():
        files = [place]
    elif place.is_dir():
        files = sorted(place.glob("*.safetensors")) or sorted(place.glob("*.bin"))
        if not files:
            raise ModelError(
                f"The model folder {place} has no weights (*.safetensors). "
                "Save the model there with save_pretrained, or fix `model.name`."
            )
    else:
        from transformers import AutoConfig

        with _loading(spec):
            config: Any = AutoConfig.from_pretrained(str(spec.name), revision=spec.revision)
        return str(getattr(config, "_commit_hash", None) or "unknown")
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def attach_adapter(base: nn.Module, settings: Mapping[str, Any], seed: int) -> Any:
    """A fresh adapter on a base model.

    Args:
        base: The base model.
        settings: `method.adapter` of an experiment.
        seed: Seed of a random initialisation (LoRA's A); CURLoRA's selection has its own.

    Returns:
        A `peft.PeftModel` whose adapter parameters alone are trained.
    """
    from peft import get_peft_model

    import curlora

    options = {key: value for key, value in settings.items() if key != "kind"}
    if isinstance(options["target_modules"], tuple):
        options["target_modules"] = list(options["target_modules"])
    torch.manual_seed(seed)
    return get_peft_model(base, curlora.adapter_config(settings["kind"], options))  # type: ignore[arg-type]


HEADS_FILE = "heads.safetensors"
"""Beside an adapter's own files: `<task>.weight` (labels, hidden) and `<task>.bias` (labels,)."""


class LinearHeads(nn.Module):
    """A linear classifier for each of some tasks, on the last hidden state.

    Fawi (2024, arXiv 2408.14572, Sec. 4) gives every task a fresh head and keeps those of earlier
    tasks, frozen, for later evaluation.
    """

    def __init__(self, labels: Mapping[str, int], hidden: int, *, seed: int = 0) -> None:
        """Make fresh heads.

        Args:
            labels: Number of labels of each task.
            hidden: Width of the base model.
            seed: Of the weights, normal with standard deviation 0.02; biases are 0.
        """
        super().__init__()
        self.tasks = tuple(labels)
        self.layers = nn.ModuleList(nn.Linear(hidden, labels[task]) for task in self.tasks)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer in self.layers:
                assert isinstance(layer, nn.Linear)
                layer.weight.normal_(0.0, 0.02, generator=generator)
                layer.bias.zero_()

    def forward(self, hidden: Tensor, task: str | None) -> tuple[Tensor | None, Tensor | None]:
        """One task's logits.

        Args:
            hidden: Hidden states (N, hidden).
            task: Whose head is read; None: nobody's.

        Returns:
            The logits (N, labels), float32, and, while gradients are recorded, a zero (a scalar)
            that depends on every other head: an optimiser over several workers needs a gradient
            for each of its parameters.

        Raises:
            KeyError: If the task has no head here.
        """
        logits: Tensor | None = None
        zero: Tensor | None = None
        for name, layer in zip(self.tasks, self.layers, strict=True):
            if name != task and not torch.is_grad_enabled():
                continue
            values = layer(hidden.to(layer.weight.dtype)).float()  # type: ignore[arg-type]
            if name == task:
                logits = values
            else:
                zero = values.sum() * 0.0 if zero is None else zero + values.sum() * 0.0
        if task is not None and logits is None:
            raise KeyError(f"There is no linear head for task {task!r}; there are {self.tasks}.")
        return logits, zero

    def named_tensors(self) -> dict[str, Tensor]:
        """The heads' tensors under their tasks' names."""
        return {
            f"{name}.{kind}": getattr(layer, kind).detach()
            for name, layer in zip(self.tasks, self.layers, strict=True)
            for kind in ("weight", "bias")
        }

    @classmethod
    def from_file(cls, path: Path) -> LinearHeads:
        """The heads that were written to a safetensors file.

        Args:
            path: The file.

        Returns:
            The heads.
        """
        tensors = read_tensors(path)
        weights = {n.removesuffix(".weight"): t for n, t in tensors.items() if n.endswith("weight")}
        hidden = next(iter(weights.values())).shape[1]
        heads = cls({task: weight.shape[0] for task, weight in weights.items()}, hidden)
        with torch.no_grad():
            for name, layer in zip(heads.tasks, heads.layers, strict=True):
                layer.weight.copy_(tensors[f"{name}.weight"])  # type: ignore[operator]
                layer.bias.copy_(tensors[f"{name}.bias"])  # type: ignore[operator]
        return heads


def hidden_size(model: Any) -> int:
    """The width of a causal language model's last hidden state."""
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    return int(inner.config.get_text_config().hidden_size)


class ScoredModel(nn.Module):
    """A causal language model that computes logits only where something is scored."""

    def __init__(self, model: Any, heads: LinearHeads | None = None) -> None:
        """Wrap a model.

        Args:
            model: A causal language model, or a `peft.PeftModel` around one.
            heads: Linear heads of tasks that have one.
        """
        super().__init__()
        self.model = model
        self.heads = heads
        inner = model.get_base_model() if hasattr(model, "peft_config") else model
        # Kept in a tuple: registering them again would give every parameter a second name.
        self._parts = (getattr(inner, inner.base_model_prefix), inner.get_output_embeddings())
        config = inner.config.get_text_config()
        self._softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self._scale = float(getattr(config, "logit_scale", None) or 1.0) / float(
            getattr(config, "logits_scaling", None) or 1.0
        )

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        targets: Tensor | None,
        head: str | None = None,
    ) -> Tensor:
        """The log-probability of each target.

        Rows are padded on the right and carry no mask: causal attention never looks at what
        follows, and nothing is read at a padded place.

        Args:
            input_ids: Token ids (B, L).
            positions: Where to read, as indices into the flattened (B * L), shape (N,).
            targets: The tokens, or labels of a head, whose log-probability is wanted, shape (N,);
                None asks for the hidden states (N, hidden) instead, float32.
            head: The task whose linear head is read; None: the model's own output layer.

        Returns:
            Log-probabilities (N,), float32, in nats.
        """
        backbone, output = self._parts
        hidden = backbone(input_ids=input_ids, use_cache=False).last_hidden_state
        picked = hidden.reshape(-1, hidden.shape[-1])[positions]
        if targets is None:
            return picked.float()
        logits, zero = (None, None) if self.heads is None else self.heads(picked, head)
        if logits is not None:
            found = -nn.functional.cross_entropy(logits, targets, reduction="none")
            return found if zero is None else found + zero
        if torch.is_grad_enabled():
            found = self._log_probabilities(output, picked, targets)
            return found if zero is None else found + zero
        return torch.cat(
            [
                self._log_probabilities(output, part, part_targets)
                for part, part_targets in zip(
                    picked.split(LOGIT_ROWS), targets.split(LOGIT_ROWS), strict=True
                )
            ]
        )

    def _log_probabilities(self, head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
        logits = head(hidden).float() * self._scale
        if self._softcap is not None:
            logits = self._softcap * torch.tanh(logits / self._softcap)
        return -nn.functional.cross_entropy(logits, targets, reduction="none")


def check_logits(scored: ScoredModel, vocabulary: int) -> None:
    """Refuse a model whose own logits differ from `ScoredModel`'s (an unknown transformation).

    Args:
        scored: The wrapped model.
        vocabulary: Number of token ids that may be tried.

    Raises:
        ModelError: If the model does something to its logits that is not known here.
    """
    device = next(scored.parameters()).device
    tokens = torch.arange(1, 9, device=device).remainder(vocabulary)[None]
    with torch.no_grad():
        own = scored.model(input_ids=tokens).logits[0, :-1].float().log_softmax(-1)
        expected = own.gather(-1, tokens[0, 1:, None])[:, 0]
        got = scored(tokens, torch.arange(7, device=device), tokens[0, 1:])
    if not torch.allclose(got, expected, atol=0.15, rtol=0.02):
        raise ModelError(
            f"{type(scored.model).__name__} transforms its logits in a way that is not supported: "
            f"log-probabilities of 7 tokens should be {expected.tolist()}, got {got.tolist()}."
        )


# --- rows to tensors -----------------------------------------------------------------------------


def padded(rows: Sequence[Scored], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """One batch: token ids (B, L), flat positions (N,) and targets (N,)."""
    length = max(len(row.tokens) for row in rows)
    input_ids = torch.zeros((len(rows), length), dtype=torch.long)
    positions: list[int] = []
    targets: list[int] = []
    for index, row in enumerate(rows):
        input_ids[index, : len(row.tokens)] = torch.tensor(row.tokens)
        positions += [index * length + position for position, _ in row.picks]
        targets += [token for _, token in row.picks]
    return (
        input_ids.to(device),
        torch.tensor(positions, dtype=torch.long).to(device),
        torch.tensor(targets, dtype=torch.long).to(device),
    )


def scored_example(example: Example) -> Scored:
    """A training example as a row: every token from `scored_from` on is a target."""
    picks = tuple(
        (i - 1, example.tokens[i]) for i in range(example.scored_from, len(example.tokens))
    )
    return Scored(example.tokens[:-1], picks, example.head)


def bucketed(rows: Sequence[Scored], batch_tokens: int) -> list[list[int]]:
    """Indices of the rows in batches of at most `batch_tokens` padded tokens, longest first."""
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i].tokens), i))
    batches: list[list[int]] = []
    for index in order:
        # Longest first: the first row of a batch is its padded length.
        if batches and (len(batches[-1]) + 1) * len(rows[batches[-1][0]].tokens) <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def first_pick(row: Scored) -> Scored:
    """The row with its first pick only."""
    return Scored(row.tokens, row.picks[:1])


def prompt_batches(
    prompts: Sequence[Tokens], task: GenerationTask, batch_tokens: int
) -> list[list[int]]:
    """Indices of the prompts in batches that are written after together.

    Args:
        prompts: The prompts.
        task: Says how much is written.
        batch_tokens: Padded tokens per batch that are read at a time; a batch holds as many rows as
            fit when each has been written to its end, and at least one.

    Returns:
        The batches, longest prompts first.
    """
    rows = [Scored((0,) * (len(p) + task.max_new_tokens), ()) for p in prompts]
    # A written token costs one row's pass, not a whole sequence: four times the rows fit.
    return bucketed(rows, 4 * batch_tokens)


class _Stops:
    """Ends a row of a generation batch once its new text holds one of some texts."""

    TAIL = 24
    """New tokens decoded to look for them; more than any sensible stop text has."""

    def __init__(self, tokenizer: Any, stop: Sequence[str], begin: int) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._begin = begin

    def __call__(self, input_ids: Tensor, _scores: Any, **_: Any) -> Tensor:
        new = input_ids[:, max(self._begin, input_ids.shape[1] - self.TAIL) :]
        texts = self._tokenizer.batch_decode(new, skip_special_tokens=True)
        done = [any(stop in text.lstrip() for stop in self._stop) for text in texts]
        return torch.tensor(done, device=input_ids.device, dtype=torch.bool)


def write_batch(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Tokens],
    task: GenerationTask,
    device: torch.device,
    *,
    synced: bool = False,
) -> list[str]:
    """Greedy continuations of some prompts.

    Args:
        model: A causal language model, or a `peft.PeftModel` around one.
        tokenizer: Its tokenizer.
        prompts: Token ids; padded on the left, with a mask.
        task: How much is written, and what ends it.
        device: Where the model is.
        synced: Whether workers that are done go on computing for those that are not (ZeRO-3).

    Returns:
        The new texts, cut before the first stop text and stripped. Space before the first word
        does not count as a stop: a chat template may end without the line break.

    Raises:
        ValueError: If there is no tokenizer.
    """
    from transformers import GenerationConfig, StoppingCriteriaList

    if tokenizer is None:
        raise ValueError("Writing needs the model's tokenizer; give the engine one.")
    length = max(len(prompt) for prompt in prompts)
    padding = tokenizer.pad_token_id
    padding = padding if padding is not None else (tokenizer.eos_token_id or 0)
    input_ids = torch.full((len(prompts), length), int(padding), dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    for index, prompt in enumerate(prompts):
        input_ids[index, length - len(prompt) :] = torch.tensor(prompt)
        mask[index, length - len(prompt) :] = 1
    settings = GenerationConfig(
        max_new_tokens=task.max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        pad_token_id=int(padding),
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    with torch.no_grad():
        written = model.generate(
            input_ids=input_ids.to(device),
            attention_mask=mask.to(device),
            generation_config=settings,
            stopping_criteria=StoppingCriteriaList([_Stops(tokenizer, task.stop, length)])  # type: ignore[list-item]
            if task.stop
            else None,
            synced_gpus=synced,
        )
    texts = tokenizer.batch_decode(written[:, length:], skip_special_tokens=True)
    return [_cut(text.lstrip(), task.stop) for text in texts]


def _cut(text: str, stops: Sequence[str]) -> str:
    ends = [text.find(stop) for stop in stops if stop in text]
    return text[: min(ends)].strip() if ends else text.strip()


# --- engines -------------------------------------------------------------------------------------


def schedule_factor(spec: TrainingSpec, step: int, steps: int) -> float:
    """The learning rate of a step as a share of `learning_rate`.

    Args:
        spec: Schedule and warm-up.
        step: Optimiser step within the task, counted from 0.
        steps: Optimiser steps of the task.

    Returns:
        A factor in (0, 1].
    """
    warmup = math.ceil(spec.warmup_fraction * steps)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    match spec.schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1.0 - done
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * done))


@dataclass
class _Place:
    """Which worker this is."""

    rank: int = 0
    world: int = 1


def _shards(
    examples: Sequence[Example], place: _Place, accumulation: int
) -> tuple[list[tuple[list[Scored], bool]], int]:
    """This worker's micro-batches (rows, whether they count) and the batch's scored tokens."""
    # Examples are dealt out by length so that workers have equal work. A worker without an example
    # computes one all the same, with weight 0: the others wait for it in the collectives.
    ordered = sorted(examples, key=lambda e: -len(e.tokens))
    rows = [scored_example(example) for example in ordered]
    shares = place.world * accumulation
    mine: list[tuple[list[Scored], bool]] = []
    for micro in range(accumulation):
        own = rows[micro * place.world + place.rank :: shares]
        mine.append((own or rows[-1:], bool(own)))
    return mine, sum(len(row.picks) for row in rows)


def trainable_parameters(scored: ScoredModel) -> dict[str, nn.Parameter]:
    """What is trained: the adapter's parameters, then those of the heads."""
    adapter = {n: p for n, p in scored.model.named_parameters() if p.requires_grad}
    heads = dict(scored.heads.named_parameters(prefix="heads")) if scored.heads else {}
    return adapter | heads


class PlainEngine:
    """One process, one device, torch's own AdamW."""

    def __init__(
        self,
        model: Any,
        spec: TrainingSpec,
        *,
        batch_tokens: int | None = None,
        heads: LinearHeads | None = None,
        tokenizer: Any = None,
    ) -> None:
        """Wrap a model for training.

        Args:
            model: A `peft.PeftModel`, or a bare base for evaluation only.
            spec: How to train.
            batch_tokens: Padded tokens per evaluation batch; None: what suits the device.
            heads: Linear heads of tasks that have one.
            tokenizer: Needed by `write` only.
        """
        self._device = next(model.parameters()).device
        self.scored = ScoredModel(model, heads and heads.to(self._device))
        self._spec = spec
        self._tokenizer = tokenizer
        self._batch_tokens = batch_tokens or default_batch_tokens(
            on_gpu=self._device.type == "cuda"
        )
        self.trainable = trainable_parameters(self.scored)
        self._optimizer: torch.optim.AdamW | None = None
        self._steps = 1
        self._rate = 0.0

    @property
    def learning_rate(self) -> float:
        """The learning rate of the last step."""
        return self._rate

    def begin_task(self, steps: int) -> None:
        """Start a task with fresh optimiser state."""
        self._steps = steps
        self._optimizer = adamw(self.trainable, self._spec)

    def train_step(self, examples: Sequence[Example], step: int) -> float:
        """Take one optimiser step; see `Engine`."""
        if self._optimizer is None:
            raise RuntimeError("`begin_task` must come before `train_step`.")
        seed_step(self._spec.seed, step, 0)
        self.scored.train()
        micros, total = _shards(examples, _Place(), self._spec.accumulation)
        loss = 0.0
        for rows, counts in micros:
            values = self.scored(*padded(rows, self._device), rows[0].head)
            part = -values.sum() / total * float(counts)
            part.backward()
            loss += float(part.detach())
        norm = nn.utils.clip_grad_norm_(
            list(self.trainable.values()), self._spec.max_grad_norm or math.inf
        )
        if not bool(torch.isfinite(norm)):
            # Clipping by an infinite norm would silently make the step zero.
            return math.nan
        factor = schedule_factor(self._spec, step, self._steps)
        self._rate = self._spec.learning_rate * factor
        set_rates(self._optimizer, self._spec, factor)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss

    def log_probabilities(self, rows: Sequence[Scored]) -> list[list[float]]:
        """The log-probability of every pick of every row."""
        self.scored.eval()
        result: list[list[float]] = [[] for _ in rows]
        with torch.inference_mode():
            for batch in bucketed(rows, self._batch_tokens):
                chosen = [rows[index] for index in batch]
                values = self.scored(*padded(chosen, self._device), chosen[0].head).tolist()
                for index, row in zip(batch, chosen, strict=True):
                    result[index], values = values[: len(row.picks)], values[len(row.picks) :]
        return result

    def hidden_states(self, rows: Sequence[Scored]) -> Tensor:
        """The last hidden state at the first pick of every row: float32 (rows, hidden)."""
        self.scored.eval()
        result = torch.zeros((len(rows), hidden_size(self.scored.model)))
        with torch.inference_mode():
            for batch in bucketed(rows, self._batch_tokens):
                chosen = [first_pick(rows[index]) for index in batch]
                input_ids, positions, _ = padded(chosen, self._device)
                result[batch] = self.scored(input_ids, positions, None).cpu()
        return result

    def write(self, prompts: Sequence[Tokens], task: GenerationTask) -> list[str]:
        """What the model writes after each prompt; see `Engine`."""
        self.scored.eval()
        result = [""] * len(prompts)
        for batch in prompt_batches(prompts, task, self._batch_tokens):
            texts = write_batch(
                self.scored.model, self._tokenizer, [prompts[i] for i in batch], task, self._device
            )
            for index, text in zip(batch, texts, strict=True):
                result[index] = text
        return result

    def save_heads(self, folder: Path) -> None:
        """Write the heads, if there are any, beside an adapter's files."""
        if self.scored.heads is not None:
            write_tensors(folder / HEADS_FILE, self.scored.heads.named_tensors())

    def save(self, folder: Path, *, with_optimizer: bool) -> None:
        """Write weights and, inside a task, optimiser state."""
        tensors = {name: parameter.detach() for name, parameter in self.trainable.items()}
        write_tensors(folder / "weights.safetensors", tensors)
        if with_optimizer and self._optimizer is not None:
            state = flat_state(self._optimizer, stepped_tensors(self._optimizer))
            write_tensors(folder / "optimizer-rank0.safetensors", state)
        _write_json(folder / "engine.json", {"steps": self._steps, "world": 1})

    def load(self, folder: Path) -> None:
        """Go on from `save`: weights, and optimiser state when it was saved inside a task."""
        load_weights(self.trainable, folder)
        shard = folder / "optimizer-rank0.safetensors"
        if shard.is_file():
            self.begin_task(int(_read_json(folder / "engine.json")["steps"]))
            assert self._optimizer is not None
            masters = stepped_tensors(self._optimizer)
            load_flat_state(self._optimizer, masters, read_tensors(shard))

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Nothing is partitioned here."""
        yield


class DeepSpeedEngine:
    """One of n workers under a DeepSpeed engine, ZeRO 0 to 3."""

    def __init__(
        self,
        model: Any,
        spec: TrainingSpec,
        *,
        batch_tokens: int | None = None,
        weights: Path | None = None,
        heads: LinearHeads | None = None,
        tokenizer: Any = None,
    ) -> None:
        """Initialise DeepSpeed around a model; a collective call, torch.distributed must be up.

        Args:
            model: A `peft.PeftModel` with its full weights on every worker.
            spec: How to train; `deepspeed` is passed through.
            batch_tokens: Padded tokens per evaluation batch and worker; None: see
                `default_batch_tokens`.
            weights: A checkpoint folder whose weights replace the adapter's and heads' fresh ones.
            heads: Linear heads of tasks that have one.
            tokenizer: Needed by `write` only.
        """
        import deepspeed

        self._spec = spec
        self._tokenizer = tokenizer
        self._device = next(model.parameters()).device
        self._batch_tokens = batch_tokens or default_batch_tokens(
            on_gpu=self._device.type == "cuda"
        )
        self._model = model
        self.scored = ScoredModel(model, heads and heads.to(self._device))
        self.trainable = trainable_parameters(self.scored)
        if weights is not None:
            load_weights(self.trainable, weights)
        self._place = _Place(torch.distributed.get_rank(), torch.distributed.get_world_size())
        config = deepspeed_config(spec, self._place.world)
        self._stage = int(config["zero_optimization"]["stage"])
        own_optimizer = "optimizer" in config
        client = None if own_optimizer else adamw(self.trainable, spec)
        self._engine: Any
        self._engine, _, _, self._scheduler = deepspeed.initialize(
            model=self.scored,
            model_parameters=list(self.trainable.values()),  # type: ignore[arg-type]
            optimizer=client,
            config=config,
            dist_init_required=False,
        )
        self._optimizer: torch.optim.Optimizer = self._engine.basic_optimizer
        self._fresh_schedule = self._schedule() if "scheduler" in config else None
        self._steps = 1
        self._rate = 0.0

    @property
    def learning_rate(self) -> float:
        """The learning rate of the last step."""
        return self._rate

    def begin_task(self, steps: int) -> None:
        """Start a task with fresh optimiser state and schedule."""
        self._steps = steps
        for state in self._optimizer.state.values():
            for key, value in state.items():
                state[key] = value.zero_() if isinstance(value, Tensor) else type(value)(0)
        if self._fresh_schedule is not None:
            self._set_schedule(self._fresh_schedule)

    def _schedule(self) -> dict[str, Any]:
        """DeepSpeed's own schedule: its state, and the rates that it set last."""
        rates = [float(group["lr"]) for group in self._optimizer.param_groups]
        return {"state": dict(self._scheduler.state_dict()), "rates": rates}

    def _set_schedule(self, schedule: Mapping[str, Any]) -> None:
        self._scheduler.load_state_dict(dict(schedule["state"]))
        for group, rate in zip(self._optimizer.param_groups, schedule["rates"], strict=True):
            group["lr"] = rate

    def train_step(self, examples: Sequence[Example], step: int) -> float:
        """Take one optimiser step together with the other workers; see `Engine`."""
        seed_step(self._spec.seed, step, self._place.rank)
        self._engine.train()
        micros, total = _shards(examples, self._place, self._spec.accumulation)
        # DeepSpeed averages over workers and micro-batches; our loss is a share of the whole batch.
        shares = self._place.world * self._spec.accumulation
        factor = schedule_factor(self._spec, step, self._steps)
        self._rate = self._spec.learning_rate * factor
        if self._fresh_schedule is None:
            set_rates(self._optimizer, self._spec, factor)
        own = torch.zeros((), device=self._device)
        norm: Any = None
        for rows, counts in micros:
            values = self._engine(*padded(rows, self._device), rows[0].head)
            part = -values.sum() / total * float(counts)
            self._engine.backward(part * shares)
            if self._stage == 0:
                # Without ZeRO, DeepSpeed clips plain gradients and does not keep their norm.
                found = [p.grad for p in self.trainable.values() if p.grad is not None]
                norm = torch.nn.utils.get_total_norm(found)
            self._engine.step()
            own += part.detach()
        kept = self._engine.get_global_grad_norm()
        norm = norm if kept is None else kept
        # Where the norm is not finite, ZeRO says -1, or skips the step and says so.
        skipped = bool(getattr(self._engine.optimizer, "overflow", False))
        if skipped or (norm is not None and not 0.0 <= float(norm) < math.inf):
            own.fill_(math.nan)  # a step clipped by an infinite norm would silently be zero
        torch.distributed.all_reduce(own)
        if self._fresh_schedule is not None:
            self._rate = float(self._optimizer.param_groups[0]["lr"])
        return float(own)

    def _share(self, batches: list[list[int]]) -> list[list[int]]:
        """This worker's part of some batches; every worker gets equally many."""
        # A ZeRO-3 forward is a collective, so nobody may run one batch more than the others.
        while len(batches) % self._place.world:
            largest = max(range(len(batches)), key=lambda i: len(batches[i]))
            half = len(batches[largest]) // 2
            if half == 0:
                batches.append(batches[-1])
                continue
            batches.append(batches[largest][half:])
            batches[largest] = batches[largest][:half]
        return batches[self._place.rank :: self._place.world]

    def log_probabilities(self, rows: Sequence[Scored]) -> list[list[float]]:
        """The log-probability of every pick of every row; each worker computes its share."""
        self._engine.eval()
        offsets = [0]
        for row in rows:
            offsets.append(offsets[-1] + len(row.picks))
        whole = torch.zeros(offsets[-1], dtype=torch.float64)
        counted = torch.zeros(offsets[-1], dtype=torch.float64)
        with torch.no_grad():
            for batch in self._share(bucketed(rows, self._batch_tokens)):
                chosen = [rows[index] for index in batch]
                values = self._engine(*padded(chosen, self._device), chosen[0].head)
                places = torch.cat([torch.arange(offsets[i], offsets[i + 1]) for i in batch])
                whole[places] = values.double().cpu()
                counted[places] = 1.0
        both = torch.stack([whole, counted]).to(self._device)
        torch.distributed.all_reduce(both)
        flat = (both[0] / both[1]).tolist()
        return [flat[offsets[i] : offsets[i + 1]] for i in range(len(rows))]

    def hidden_states(self, rows: Sequence[Scored]) -> Tensor:
        """The last hidden state at the first pick of every row; each worker computes its share."""
        self._engine.eval()
        width = hidden_size(self._model)
        # The last column counts how often a row was computed.
        whole = torch.zeros((len(rows), width + 1))
        with torch.no_grad():
            for batch in self._share(bucketed(rows, self._batch_tokens)):
                chosen = [first_pick(rows[index]) for index in batch]
                input_ids, positions, _ = padded(chosen, self._device)
                whole[batch, :width] = self._engine(input_ids, positions, None).cpu()
                whole[batch, width] = 1.0
        gathered = whole.to(self._device)
        torch.distributed.all_reduce(gathered)
        return (gathered[:, :width] / gathered[:, width:]).cpu()

    def write(self, prompts: Sequence[Tokens], task: GenerationTask) -> list[str]:
        """What the model writes after each prompt; each worker writes its share."""
        self._engine.eval()
        mine: dict[int, str] = {}
        for batch in self._share(prompt_batches(prompts, task, self._batch_tokens)):
            texts = write_batch(
                self._model, self._tokenizer, [prompts[i] for i in batch], task, self._device,
                synced=self._stage == 3,
            )  # fmt: skip
            mine |= dict(zip(batch, texts, strict=True))
        parts: list[dict[int, str]] = [{} for _ in range(self._place.world)]
        torch.distributed.all_gather_object(parts, mine)
        whole = {index: text for part in parts for index, text in part.items()}
        return [whole[index] for index in range(len(prompts))]

    def save_heads(self, folder: Path) -> None:
        """Write the heads, if any, beside an adapter's files; within `gathered`, on rank 0."""
        if self.scored.heads is not None:
            write_tensors(folder / HEADS_FILE, self.scored.heads.named_tensors())

    def _masters(self) -> list[Tensor]:
        """This rank's fp32 tensors; ZeRO-3 hands them to the optimiser only while it steps."""
        if self._stage == 3:
            return list(self._engine.optimizer.fp32_partitioned_groups_flat)
        return stepped_tensors(self._optimizer)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Within it every worker sees the trainable tensors whole; a collective call."""
        if self._stage < 3:
            yield
            return
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(self.trainable.values())):
            yield

    def save(self, folder: Path, *, with_optimizer: bool) -> None:
        """Write rank 0's view of the weights and every rank's optimiser shard; a collective."""
        with self.gathered():
            if self._place.rank == 0:
                tensors = {name: p.detach() for name, p in self.trainable.items()}
                write_tensors(folder / "weights.safetensors", tensors)
                _write_json(
                    folder / "engine.json",
                    {"steps": self._steps, "world": self._place.world, "stage": self._stage},
                )
        if with_optimizer:
            shard = folder / f"optimizer-rank{self._place.rank}.safetensors"
            write_tensors(shard, flat_state(self._optimizer, self._masters()))
            if self._fresh_schedule is not None:
                name = f"schedule-rank{self._place.rank}.json"
                _write_json(folder / name, self._schedule())

    def load_optimizer(self, folder: Path) -> None:
        """Go on inside a task: this rank's fp32 masters, moments and schedule.

        Args:
            folder: The checkpoint; its weights were given to the constructor.

        Raises:
            ValueError: If it was written by another number of workers or ZeRO stage.
        """
        facts = _read_json(folder / "engine.json")
        if (facts["world"], facts["stage"]) != (self._place.world, self._stage):
            raise ValueError(
                f"The checkpoint inside a task was written by {facts['world']} workers at ZeRO "
                f"stage {facts['stage']}, now there are {self._place.world} at stage "
                f"{self._stage}. Use the same resources, or start another sweep with --new."
            )
        self.begin_task(int(facts["steps"]))
        load_flat_state(
            self._optimizer,
            self._masters(),
            read_tensors(folder / f"optimizer-rank{self._place.rank}.safetensors"),
        )
        if self._fresh_schedule is not None:
            name = f"schedule-rank{self._place.rank}.json"
            self._set_schedule(_read_json(folder / name))


def deepspeed_config(spec: TrainingSpec, world: int) -> dict[str, Any]:
    """The DeepSpeed configuration of a training spec; what the user wrote is passed through."""
    config: dict[str, Any] = {
        "train_batch_size": spec.batch_size,
        "train_micro_batch_size_per_gpu": spec.batch_size // (world * spec.accumulation),
        "gradient_accumulation_steps": spec.accumulation,
        "gradient_clipping": spec.max_grad_norm or 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
        **spec.deepspeed,
    }
    config["zero_optimization"] = {"stage": 0, **spec.deepspeed.get("zero_optimization", {})}
    if spec.precision == "bf16":
        config["bf16"] = {"enabled": True}
    return config


def adamw(trainable: Mapping[str, nn.Parameter], spec: TrainingSpec) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) with the spec's settings.

    Args:
        trainable: What `trainable_parameters` gave.
        spec: How to train.

    Returns:
        One group for the adapter and, where there are linear heads, one for them: with a rate of
        their own and without decay, which would wear down the heads of earlier tasks.
    """
    adapter = [p for n, p in trainable.items() if not n.startswith("heads.")]
    heads = [p for n, p in trainable.items() if n.startswith("heads.")]
    groups: list[dict[str, Any]] = [{"params": adapter, "weight_decay": spec.weight_decay}]
    if heads:
        groups.append({"params": heads, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=spec.learning_rate, betas=(0.9, 0.999))


def set_rates(optimizer: torch.optim.Optimizer, spec: TrainingSpec, factor: float) -> None:
    """Set the learning rates of one step: the adapter's, and the heads' where there are any."""
    rates = (spec.learning_rate, spec.head_learning_rate)
    for group, rate in zip(optimizer.param_groups, rates, strict=False):
        group["lr"] = rate * factor


def seed_step(seed: int, step: int, rank: int) -> None:
    """Fix the random numbers of one step: a resumed run needs no generator state."""
    torch.manual_seed((seed * 1_000_003 + step) * 4_099 + rank)


# --- checkpoints ---------------------------------------------------------------------------------


def flat_state(optimizer: torch.optim.Optimizer, masters: Sequence[Tensor]) -> dict[str, Tensor]:
    """Parameters and moments as the optimiser holds them.

    Args:
        optimizer: The optimiser.
        masters: The tensors it steps; under ZeRO, this rank's fp32 partitions.

    Returns:
        `<index>.master` and `<index>.<state>` of each.
    """
    tensors: dict[str, Tensor] = {}
    for index, parameter in enumerate(masters):
        tensors[f"{index}.master"] = parameter.detach()
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{index}.{key}"] = torch.as_tensor(value)
    return tensors


def load_flat_state(
    optimizer: torch.optim.Optimizer, masters: Sequence[Tensor], tensors: Mapping[str, Tensor]
) -> None:
    """Put `flat_state` back.

    Args:
        optimizer: An optimiser over the same tensors.
        masters: The tensors it steps.
        tensors: What `flat_state` gave.
    """
    with torch.no_grad():
        for index, parameter in enumerate(masters):
            parameter.copy_(tensors[f"{index}.master"])
            state = optimizer.state[parameter]
            for name, value in tensors.items():
                number, key = name.split(".", 1)
                if int(number) != index or key == "master":
                    continue
                if isinstance(state.get(key), int | float):
                    state[key] = type(state[key])(value.item())
                else:
                    # Adam's step counter stays on the CPU, moments follow their parameter.
                    moved = value.to(parameter.device) if value.dim() else value
                    state[key] = moved.clone()


def stepped_tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The tensors that an optimiser steps, in order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def load_weights(trainable: Mapping[str, nn.Parameter], folder: Path) -> None:
    """Copy a checkpoint's weights into the trainable tensors.

    Args:
        trainable: Name to parameter.
        folder: The checkpoint.

    Raises:
        ValueError: If the checkpoint holds other tensors.
    """
    tensors = read_tensors(folder / "weights.safetensors")
    if set(tensors) != set(trainable):
        missing = sorted(set(trainable) ^ set(tensors))[:3]
        raise ValueError(f"The checkpoint {folder} holds other tensors; differing: {missing}.")
    with torch.no_grad():
        for name, parameter in trainable.items():
            parameter.copy_(tensors[name])


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, whole or not at all."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".half")
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, half)
    half.replace(path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    from safetensors.torch import load_file

    return load_file(path)


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1), encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def build_communication_op() -> str:
    """Compile DeepSpeed's shared-memory operation for CPU workers, once a machine.

    Returns:
        What was done, in words.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from deepspeed.comm.torch import build_shm_op

    built: Callable[..., Any] | Any = build_shm_op()
    return "built" if built is not None else "not needed on this accelerator"
