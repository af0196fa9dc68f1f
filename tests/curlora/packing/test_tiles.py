"""Products in tiles: right, and each row's bits its own."""

import pytest
import torch

from curlora.packing import tiles
from curlora.packing.tiles import FrozenMatrix, tiles_of


@pytest.mark.parametrize("shape", [(48, 32), (7, 13), (37, 24), (1, 5), (576, 4)])
@pytest.mark.parametrize("transposed", [False, True])
def test_rows_have_the_same_bits_wherever_they_are(shape, transposed):
    weight = torch.randn(shape[::-1]).t() if transposed else torch.randn(shape)
    matrix, (d_out, d_in) = FrozenMatrix(weight), shape
    x, G = torch.randn(333, d_in), torch.randn(333, d_out)
    y, dx = matrix.times(x), matrix.back(G)
    torch.testing.assert_close(y, x @ weight.t(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(dx, G @ weight, atol=1e-4, rtol=1e-4)
    for begin, end in ((0, 1), (5, 22), (17, 301), (332, 333)):
        assert torch.equal(matrix.times(x[begin:end]), y[begin:end])
        assert torch.equal(matrix.back(G[begin:end]), dx[begin:end])


def test_a_tile_whose_rows_differ_from_those_of_others_is_not_used(monkeypatch):
    """As on a library that computes more than 100 rows in another way."""
    own = torch.mm

    def mm(x, M, **out):
        found = own(x if len(x) <= 100 else x.double(), M if len(x) <= 100 else M.double())
        return out["out"].copy_(found) if out else found.float()

    monkeypatch.setattr(tiles, "_kernels", {})
    monkeypatch.setattr(torch, "mm", mm)
    assert tiles_of(333, torch.randn(64, 48)) == ((64, 64),) * 4 + ((72, 72), (5, 8))
    assert tiles_of(90, torch.randn(64, 48)) == ((88, 88), (2, 8))


def test_a_matrix_is_named_whose_products_depend_on_the_place(monkeypatch, caplog):
    own = torch.mm
    monkeypatch.setattr(tiles, "_kernels", {})
    monkeypatch.setattr(
        torch, "mm", lambda x, M: own(x, M) * (1 + 1e-6 * torch.arange(len(x))[:, None])
    )
    assert tiles_of(70, torch.randn(64, 48)) == ((64, 64), (6, 8))
    assert "depend on where a row is" in caplog.text
