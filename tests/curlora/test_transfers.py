import pytest
import torch

from curlora.transfers import on_device, read_together
from tests.host_waits import HostWaits


def test_tensors_are_read_unrounded_one_after_the_other():
    wide = torch.tensor([1 / 3, 2.0**-40], dtype=torch.float64)
    narrow = torch.tensor(1 / 3, requires_grad=True)
    assert read_together([wide, narrow]) == [1 / 3, 2.0**-40, float(narrow.detach())]
    assert read_together([]) == []


def test_any_number_of_tensors_is_one_wait():
    tensors = [torch.ones(()) for _ in range(9)]
    with HostWaits() as waits:
        read_together(tensors)
    assert len(waits.found) == 1


def test_on_a_cpu_a_tensor_is_there_already():
    tensor = torch.arange(3)
    assert on_device(tensor, torch.device("cpu")) is tensor


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_tensor_arrives_whole():
    device = torch.device("cuda", 0)
    for numbers in (torch.arange(100_000), torch.tensor([1 / 3]), torch.zeros(0)):
        sent = on_device(numbers, device)
        assert sent.device == device
        assert torch.equal(sent.cpu(), numbers)


def test_every_way_of_waiting_is_noted():
    x, mask = torch.ones(3), torch.tensor([True, False, True])
    ways = {
        "item": x[0].item, "float": lambda: float(x[0]), "bool": lambda: bool(x[0] > 0),
        "int": lambda: int(x[0]), "tolist": x.tolist, "list of a number": x[0].tolist,
        "numpy": x.numpy, "cpu": x.cpu, "to": lambda: x.to("cpu"), "nonzero": x.nonzero,
        "mask": lambda: x[mask], "written by a mask": lambda: x.index_put((mask,), x[:2]),
        "equal": lambda: torch.equal(x, x),
        "sent": lambda: torch.tensor([1.0], device=torch.device("cpu")),
    }  # fmt: skip
    for name, way in ways.items():
        with HostWaits() as waits:
            way()
        assert len(waits.found) == 1, (name, waits.found)
    with HostWaits() as waits:
        (x * 2 + x[torch.tensor([0, 2, 1])]).to(torch.float64).sum()
    assert waits.found == []
    with HostWaits(on_host=[x]) as waits:
        x.tolist()
    assert waits.found == []
