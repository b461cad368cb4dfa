"""A GPU that is not there: tensors on "cuda" without contents, on a machine without a GPU.

PyTorch's FakeTensorMode gives tensors a shape, a dtype and a device, and runs nothing. It raises an error where tensors
of two devices meet. Two parts are missing in a build for CPUs, and stand here: a device guard, which autograd asks for
each tensor's stream, and the backward pass, since autograd's engine refuses a device that it does not have.

The index of a device says which chip it is: cuda:89 is an L4, of compute capability 8.9. Tensors that the package
keeps by device then stay apart.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

_CUDA, _META = 1, 14  # in c10::DeviceType
_REGISTRY = "_ZN3c104impl26device_guard_impl_registryE"  # c10::impl::device_guard_impl_registry


def _number(tensor: torch.Tensor) -> bool | int | float:
    return False if tensor.dtype is torch.bool else 0.0 if tensor.is_floating_point() else 0


def _places(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.numel(), tensor.ndim, dtype=torch.int64, device=tensor.device)


# The host waits for the result of these, since it or its size depends on numbers on the device. FakeTensorMode refuses
# all others of this kind.
_READS = {aten._local_scalar_dense.default: _number, aten.item.default: _number, aten.nonzero.default: _places}
_NAMES = {aten._local_scalar_dense.default: "a number", aten.item.default: "a number", aten.nonzero.default: "places"}
# With a bool index these look for its places.
_INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


def why_not() -> str | None:
    """Return why no GPU can be faked here, None where one can."""
    if torch.cuda.is_available():
        return "there is a GPU, and the tests marked gpu run on it"
    try:
        _guards()
    except (OSError, ValueError) as error:
        return f"PyTorch's table of device guards is not found ({error})"
    return None


def chip(capability: int) -> torch.device:
    """Return the faked GPU of a compute capability (89 is 8.9)."""
    return torch.device("cuda", capability)


class Witness(TorchDispatchMode):
    """Counts the waits of the host for a device, and the launches of our kernels, by name.

    A number that is read is 0, and every element counts as not zero. A copy between host and device waits unless it is
    `non_blocking`, which the package asks for with page-locked memory only.
    """

    def __init__(self):
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _READS and args[0].device.type == "cuda":
            self.waits[_NAMES[func]] += 1
            return _READS[func](args[0])
        if func in _INDEXED:
            args = (args[0], self._without_bools(args[1]), *args[2:])
        if func is aten._to_copy.default and not kwargs.get("non_blocking"):
            self._copied(args[0].device, torch.device(kwargs.get("device") or args[0].device))
        if func is aten.copy_.default and not (len(args) > 2 and args[2]):
            self._copied(args[1].device, args[0].device)
        if func.namespace == "hrm_offline":
            devices = {tensor.device for tensor in pytree.tree_leaves(args) if isinstance(tensor, torch.Tensor)}
            assert len(devices) == 1, f"{func}: tensors on {devices}"
            self.launches[func.__name__.partition(".")[0]] += 1
        return func(*args, **kwargs)

    def _without_bools(self, indices: list[torch.Tensor | None]) -> list[torch.Tensor | None]:
        """Return indices with the places of a bool index in its stead."""
        found: list[torch.Tensor | None] = []
        for index in indices:
            if index is None or index.dtype is not torch.bool:
                found.append(index)
            else:
                self.waits["places"] += index.device.type == "cuda"
                found.extend(_places(index).unbind(1))
        return found

    def _copied(self, source: torch.device, target: torch.device) -> None:
        if source.type != target.type:
            self.waits[f"copy from {source.type} to {target.type}"] += 1


@contextlib.contextmanager
def faked(monkeypatch) -> Iterator[None]:
    """Within, tensors are fake, and GPUs of every compute capability are there."""
    from hrm_offline.ops import launch

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: divmod(torch.device(device).index, 10))
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(torch.Tensor, "data_ptr", lambda tensor: id(tensor))
    monkeypatch.setattr(torch.Tensor, "backward", _backward)
    monkeypatch.setattr(launch, "failure", lambda device: None)
    guards = _guards()
    before, guards[_CUDA] = guards[_CUDA], guards[_META]  # that of tensors without contents does nothing
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        guards[_CUDA] = before


def _guards() -> ctypes.Array:
    """Return PyTorch's table of device guards, by type of device. Raises `OSError` or `ValueError`."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    return (ctypes.c_void_p * (_META + 1)).in_dll(library, _REGISTRY)


@torch.no_grad()
def _backward(root: torch.Tensor) -> None:
    """Run a backward pass node by node, each once all its gradients have arrived, as autograd's engine does."""
    start = root.grad_fn
    missing: Counter = Counter()  # by node, the gradients that are still to come
    seen, stack = {start}, [start]
    while stack:
        for node in _following(stack.pop()):
            missing[node] += 1
            if node not in seen:
                seen.add(node)
                stack.append(node)
    arrived: dict = {node: [None] * len(node._input_metadata) for node in seen}
    arrived[start] = [torch.ones_like(root)]
    ready = [start]
    while ready:
        node = ready.pop()
        for (following, place), gradient in zip(_edges(node), _gradients(node, arrived.pop(node)), strict=True):
            if gradient is not None:
                gradient = _fitted(gradient, following._input_metadata[place])
                before = arrived[following][place]
                arrived[following][place] = gradient if before is None else before + gradient
            missing[following] -= 1
            if not missing[following]:
                ready.append(following)


def _edges(node) -> list[tuple]:
    """Return the nodes that take the node's gradients, each with the place of the gradient there."""
    return [(following, place) for following, place in node.next_functions if following is not None]


def _fitted(gradient: torch.Tensor, expected) -> torch.Tensor:
    """Return the gradient in the shape and dtype of the tensor that it is for."""
    assert gradient.device == expected.device, f"a gradient on {gradient.device} of a tensor on {expected.device}"
    if gradient.shape != expected.shape:  # of a tensor that was broadcast
        gradient = gradient.sum_to_size(expected.shape)
    return gradient if gradient.dtype is expected.dtype else gradient.to(expected.dtype)


def _following(node) -> list:
    return [following for following, _ in _edges(node)]


def _gradients(node, arrived: list[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """Return the gradient for each of the node's edges."""
    edges = node.next_functions
    if all(gradient is None for gradient in arrived):
        return [None] * len(_edges(node))
    if not isinstance(node, torch.autograd.function.BackwardCFunction):
        results = node(*arrived)
        results = results if isinstance(results, tuple) else (results,)
        return [result for result, (following, _) in zip(results, edges) if following is not None]
    # A function of ours takes zeros for gradients that did not arrive, and gives one gradient for each argument.
    full = [
        torch.zeros(expected.shape, dtype=expected.dtype, device=expected.device) if gradient is None else gradient
        for gradient, expected in zip(arrived, node._input_metadata, strict=True)
    ]
    results = node.apply(*full)
    results = results if isinstance(results, tuple) else (results,)
    return [result for result, needed in zip(results, node.needs_input_grad, strict=True) if needed]
