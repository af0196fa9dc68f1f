"""A model that computes only what is scored: linear heads, log-probabilities, rows to tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from curlora.adapter_files import AdapterError, check_tensors
from curlora.retention.protocol import Retention
from orchestrator.base_model import ModelError
from orchestrator.batches import Scored
from orchestrator.checkpoints import read_tensors
from orchestrator.encoding import Example

LOGIT_ROWS = 1024
"""Scored positions whose logits are held at a time when nothing is learnt."""

FULL_PASS = 1024
"""Padded tokens from which on a batch may be closed to save padding. With fewer a GPU is not full,
and one more pass would cost more than the padding."""

SHORTEST_ROW = 0.85
"""A row with at least this share of a full batch's longest row still joins that batch."""

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

        Raises:
            AdapterError: If the file is damaged, or is not of heads.
        """
        shapes = check_tensors(path)
        tasks = [name.removesuffix(".weight") for name in shapes if name.endswith(".weight")]
        whole = {f"{task}.{kind}" for task in tasks for kind in ("weight", "bias")} == set(shapes)
        widths = {shapes[f"{task}.weight"][1:] for task in tasks}
        if (
            not whole
            or len(widths) != 1
            or any(shapes[f"{task}.bias"] != shapes[f"{task}.weight"][:1] for task in tasks)
        ):
            raise AdapterError(
                f"`{path}` holds no linear heads: a weight (labels, hidden) and a bias (labels,) "
                f"of each task are needed, got {shapes}. Save or copy the adapter again."
            )
        tensors = read_tensors(path)
        weights = {task: tensors[f"{task}.weight"] for task in tasks}
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


HeadChoice: TypeAlias = str | Mapping[str | None, Tensor] | None
"""Whose linear head is read: one task's, nobody's, or for each its places among those read."""


@dataclass(frozen=True)
class Comparison:
    """Replayed tokens whose hidden states are compared with those under the slow adapter."""

    places: Tensor
    """Which tokens, as indices into the flattened (B * L)."""
    slow: tuple[Tensor, ...]
    """Of each layer, the hidden states (tokens, hidden) under the slow adapter."""
    share: float
    """These tokens' share of all replayed tokens of the step."""


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
        self.adapter = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.retention = Retention()

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        targets: Tensor | None,
        head: HeadChoice = None,
        comparison: Comparison | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The log-probability of each target.

        Rows are padded on the right and carry no mask: causal attention never looks at what
        follows, and nothing is read at a padded place.

        Args:
            input_ids: Token ids (B, L).
            positions: Where to read, as indices into the flattened (B * L), shape (N,).
            targets: The tokens, or labels of a head, whose log-probability is wanted, shape (N,);
                None asks for the hidden states (N, hidden) instead, float32.
            head: Whose linear head is read; None: the model's own output layer.
            comparison: What hidden states are compared with, where the retention does so.

        Returns:
            Log-probabilities (N,), in nats, float32 (float64 of a base in that). In training mode a
            pair: these, and what the retention adds to the loss, a scalar.
        """
        backbone, _ = self._parts
        deep = comparison is not None
        states = backbone(input_ids=input_ids, use_cache=False, output_hidden_states=deep)
        hidden = states.last_hidden_state
        picked = hidden.reshape(-1, hidden.shape[-1])[positions]
        if targets is None:
            return picked.float()
        if isinstance(head, Mapping):
            found = _wide(picked.new_zeros(len(targets)))
            for name, places in head.items():
                part = self._read(picked[places], targets[places], name)
                found = found.index_put((places,), part.to(found.dtype))
        else:
            found = self._read(picked, targets, head)
        if not self.training:
            return found
        # Within this forward, because that is when ZeRO-3 has the parameters gathered.
        extra = self.retention.penalty(self.adapter)
        if comparison is not None:
            fast = _at(states.hidden_states, comparison.places)
            extra = extra + self.retention.hidden_loss(fast, comparison.slow) * comparison.share
        return found, extra

    def states(self, input_ids: Tensor, places: Tensor) -> tuple[Tensor, ...]:
        """The hidden states of every layer at some tokens.

        Args:
            input_ids: Token ids (B, L).
            places: Which tokens, as indices into the flattened (B * L), shape (N,).

        Returns:
            (N, hidden) of each layer, the embeddings first.
        """
        backbone, _ = self._parts
        found = backbone(input_ids=input_ids, use_cache=False, output_hidden_states=True)
        return _at(found.hidden_states, places)

    def _read(self, picked: Tensor, targets: Tensor, head: str | None) -> Tensor:
        """Log-probabilities (N,) at hidden states (N, hidden), by one head."""
        _, output = self._parts
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
        logits = _wide(head(hidden)) * self._scale
        if self._softcap is not None:
            logits = self._softcap * torch.tanh(logits / self._softcap)
        return -nn.functional.cross_entropy(logits, targets, reduction="none")


def _wide(tensor: Tensor) -> Tensor:
    """At least float32."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _at(states: Sequence[Tensor], places: Tensor) -> tuple[Tensor, ...]:
    return tuple(layer.reshape(-1, layer.shape[-1])[places] for layer in states)


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
        got = scored.eval()(tokens, torch.arange(7, device=device), tokens[0, 1:]).float()
    if not torch.allclose(got, expected, atol=0.15, rtol=0.02):
        raise ModelError(
            f"{type(scored.model).__name__} transforms its logits in a way that is not supported: "
            f"log-probabilities of 7 tokens should be {expected.tolist()}, got {got.tolist()}."
        )


def trainable_parameters(scored: ScoredModel) -> dict[str, nn.Parameter]:
    """What is trained: the adapter's parameters, then those of the heads."""
    heads = dict(scored.heads.named_parameters(prefix="heads")) if scored.heads else {}
    return scored.adapter | heads


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


def heads_of(rows: Sequence[Scored], device: torch.device) -> HeadChoice:
    """Whose linear head is read at each pick of some rows, as `ScoredModel` takes it."""
    owners = [row.head for row in rows for _ in row.picks]
    names = list(dict.fromkeys(owners))
    if len(names) <= 1:
        return names[0] if names else None
    places = {name: [i for i, owner in enumerate(owners) if owner == name] for name in names}
    return {name: torch.tensor(found, device=device) for name, found in places.items()}


def token_places(rows: Sequence[Scored], chosen: Sequence[bool], device: torch.device) -> Tensor:
    """The tokens of the chosen rows, without padding, as indices into the flattened (B * L)."""
    length = max(len(row.tokens) for row in rows)
    found = [
        index * length + place
        for index, (row, wanted) in enumerate(zip(rows, chosen, strict=True))
        if wanted
        for place in range(len(row.tokens))
    ]
    return torch.tensor(found, dtype=torch.long, device=device)


def scored_example(example: Example) -> Scored:
    """A training example as a row: every token from `scored_from` on is a target."""
    picks = tuple(
        (i - 1, example.tokens[i]) for i in range(example.scored_from, len(example.tokens))
    )
    return Scored(example.tokens[:-1], picks, example.head)


def bucketed(
    rows: Sequence[Scored], batch_tokens: int, *, shortest: float = SHORTEST_ROW
) -> list[list[int]]:
    """Sort rows by length into batches with little padding.

    Args:
        rows: What is to be computed.
        batch_tokens: Padded tokens of a batch at most; a batch has at least one row.
        shortest: Share of the longest row's tokens, 0 to 1, below which a row opens another batch
            once `FULL_PASS` padded tokens are reached; 0 fills every batch.

    Returns:
        Indices of the rows, longest first.
    """
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i].tokens), i))
    batches: list[list[int]] = []
    for index in order:
        # Longest first: the first row of a batch is its padded length.
        longest = len(rows[batches[-1][0]].tokens) if batches else 0
        count = len(batches[-1]) if batches else 0
        fits = bool(batches) and (count + 1) * longest <= batch_tokens
        is_short = len(rows[index].tokens) < shortest * longest
        if fits and not (is_short and count * longest >= FULL_PASS):
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def first_pick(row: Scored) -> Scored:
    """The row with its first pick only."""
    return Scored(row.tokens, row.picks[:1])
