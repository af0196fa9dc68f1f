"""The frozen side of an adapter on one layer: columns and rows of its weight, and its settings."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

FormChoice = Literal["auto", "explicit", "output_reuse", "input_side", "fused"]


@dataclass(frozen=True)
class LayerSettings:
    """What one adapter means on one layer, beside its tensors."""

    alpha: float
    form: FormChoice
    allow_base_mismatch: bool
    base_name: str
    perplexities: tuple[float, float]
    """Of the laws over columns and over rows; NaN for a weight without values."""


class CurFactors(nn.Module):
    """The frozen side of one adapter on one layer: indices, factors and fingerprint.

    Buffers, so that they follow the model to its device. Saved are the indices and the fingerprint,
    as the bits of its float32 values: a cast of the model to 16 bits must not touch them.
    """

    columns: Tensor
    rows: Tensor
    fingerprint_bits: Tensor
    C: Tensor
    R: Tensor
    bias_at_rows: Tensor | None

    def __init__(self, columns: Tensor, rows: Tensor, fingerprint_bits: Tensor) -> None:
        super().__init__()
        self.register_buffer("columns", columns)
        self.register_buffer("rows", rows)
        self.register_buffer("fingerprint_bits", fingerprint_bits)
        self.register_buffer("C", None, persistent=False)
        self.register_buffer("R", None, persistent=False)
        self.register_buffer("bias_at_rows", None, persistent=False)
        self.relative_bias = 0.0
        self._read_for: tuple[Tensor | int, ...] = ()

    @property
    def is_stale(self) -> bool:
        """Whether the indices changed since `C` and `R` were read."""
        now = self._stamps()
        return len(now) != len(self._read_for) or any(
            old is not new if isinstance(new, Tensor) else old != new
            for old, new in zip(self._read_for, now, strict=True)
        )

    def read(self, W: Tensor, bias: Tensor | None) -> None:
        """Read `C`, `R` and the bias at the rows, as copies that outlive a merge.

        Args:
            W: The unmerged weight (d_out, d_in).
            bias: The base's bias (d_out,), or None.
        """
        rows = self.rows.to(W.device)
        self.C = W.index_select(1, self.columns.to(W.device))
        self.R = W.index_select(0, rows)
        self.bias_at_rows = None if bias is None else bias.detach().index_select(0, rows)
        self.relative_bias = self._compare_bias()
        self._read_for = self._stamps()

    def _compare_bias(self) -> float:
        """Give the largest bias at the rows over the size of x R' for x of unit variance."""
        if self.bias_at_rows is None or self.R.is_meta:
            return 0.0
        largest = float(self.bias_at_rows.abs().max())
        typical = float(self.R.float().norm(dim=1).square().mean().sqrt())
        if largest == 0:
            return 0.0
        return largest / typical if typical > 0 else math.inf

    def _stamps(self) -> tuple[Tensor | int, ...]:
        # The tensors themselves, not their ids, which are reused.
        return (
            self.columns,
            self.rows,
            *(0 if t.is_inference() else t._version for t in (self.columns, self.rows)),
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_read_for": self.is_stale}

    def __setstate__(self, state: dict[str, Any]) -> None:
        stale = state["_read_for"]
        super().__setstate__(state)
        self._read_for = () if stale else self._stamps()

    def _apply(self, fn: Any, recurse: bool = True) -> "CurFactors":
        # A move or cast replaces the buffers; it does not make them stale.
        stale = self.is_stale
        super()._apply(fn, recurse)
        if not stale:
            self._read_for = self._stamps()
        return self
