"""Where the host would wait for a device: counted on a CPU, where all of it can be seen."""

import traceback
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
_READS = {
    _aten._local_scalar_dense.default,  # item, bool, float, int
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten.equal.default,
    _aten._unique2.default,
    _aten.repeat_interleave.Tensor,
}
"""Operations whose result, or its size, the host needs."""
_INDEXES = {
    _aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default,
    _aten._index_put_impl_.default,
}  # fmt: skip
_COPIES = {Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__array__}
_SENDS = {torch.tensor, torch.as_tensor}


class HostWaits:
    """Within it every wait is noted: `found` has a line for each, with where it was asked for."""

    def __init__(self, on_host=()):
        self.found = []
        self._on_host = {tensor.data_ptr() for tensor in on_host}
        self._within = False
        self._stack = ExitStack()

    def __enter__(self):
        self._stack.enter_context(_Calls(self))
        self._stack.enter_context(_Operations(self))
        return self

    def __exit__(self, *error):
        return self._stack.__exit__(*error)

    def note(self, what, tensor=None):
        """A wait; none if the tensor stays on the host anyway, or is part of one noted already."""
        if self._within or (tensor is not None and tensor.data_ptr() in self._on_host):
            return
        hidden = (Path(__file__).name, "torch/_compile.py", "torch/_dynamo/eval_frame.py")
        frames = [f for f in traceback.extract_stack() if not f.filename.endswith(hidden)]
        self.found.append(f"{what} at {frames[-1].filename}:{frames[-1].lineno}")


class _Operations(TorchDispatchMode):
    def __init__(self, waits):
        super().__init__()
        self._waits = waits

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in _READS:
            self._waits.note(str(func), args[0])
        if func in _INDEXES and any(i is not None and i.dtype == torch.bool for i in args[1]):
            self._waits.note(f"{func} by a mask")
        return func(*args, **kwargs or {})


class _Calls(TorchFunctionMode):
    def __init__(self, waits):
        super().__init__()
        self._waits = waits

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, waits = kwargs or {}, self._waits
        if func in _COPIES:
            waits.note(func.__name__, args[0])
        elif func is Tensor.to and "cpu" in (*args[1:2], kwargs.get("device")):
            waits.note("to('cpu')", args[0])
        elif func in _SENDS and kwargs.get("device") is not None:
            waits.note(f"{func.__name__}(device=...)")
        outer, waits._within = waits._within, waits._within or func in _COPIES
        try:
            return func(*args, **kwargs)
        finally:
            waits._within = outer
