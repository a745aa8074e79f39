"""What a forward pass asks of a device: how many kernels it starts, and how often the host has to wait for it.

Counted on any machine, at the depth of the real model: neither depends on its width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_WHOLE = {F.scaled_dot_product_attention, F.rms_norm}
"""Functions that are one kernel on a GPU, whatever they are made of here."""
_WAITING = frozenset({"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_consecutive"})
"""Operations whose result, or its shape, the host has to wait for."""
_FREE = frozenset({"empty", "empty_strided", "new_empty", "detach", "_assert_async", "lift_fresh"})


class Counts(TorchDispatchMode):
    """Counts within its ``with`` block: ``kernels`` by operation, ``waits`` by operation."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self._functions = _Functions(self)
        self.inside = False

    def __enter__(self) -> Counts:
        super().__enter__()
        self._functions.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._functions.__exit__(*error)
        super().__exit__(*error)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in _WAITING or (name in ("index", "index_put_", "index_put") and _has_mask(args)):
            self.waits[name] += 1
        if not (self.inside or func.is_view or name in _FREE or name in _WAITING):
            self.kernels[name] += 1
        return func(*args, **(kwargs or {}))


class _Functions(TorchFunctionMode):
    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self._counts = counts

    def __torch_function__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.tolist:
            self._counts.waits["tolist"] += 1
        if func not in _WHOLE or self._counts.inside:
            return func(*args, **(kwargs or {}))
        self._counts.kernels[func.__name__] += 1
        self._counts.inside = True
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self._counts.inside = False


def _has_mask(args: Sequence[Any]) -> bool:
    """True if one is indexed by truth values: how many are true has to be known first."""
    indices = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else ()
    return any(isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)


def count(compute: Callable[[], object]) -> Counts:
    """Run ``compute`` once and count."""
    with Counts() as counts:
        compute()
    return counts
