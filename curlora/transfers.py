"""Numbers between the host and the device: sent without waiting, read together.

A copy to the host, and a copy from ordinary host memory, make the host wait until the device has
done all that it was given before. While it waits it launches nothing, and a small step is launches.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Send a tensor from the host to where it is computed with; the host goes on at once.

    Args:
        tensor: On the host, or there already.
        device: Where it goes.

    Returns:
        The tensor on that device; on a CPU the same one.
    """
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    # Only from pinned memory is the copy left to the device.
    return tensor.pin_memory().to(device, non_blocking=True)


def read_together(tensors: Sequence[Tensor]) -> list[float]:
    """Read the numbers of some tensors in one copy: the host waits once.

    Args:
        tensors: Floating-point tensors of any shapes on one device.

    Returns:
        Their numbers, one tensor after the other, unrounded.
    """
    if not tensors:
        return []
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).tolist()
