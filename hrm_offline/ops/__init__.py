"""The network's operations, one per file: a Triton kernel, and the same mathematics in plain PyTorch.

An operation has one name: that of its file, of its public function (with a final `_` where that works in place), of
its rule in `dispatch` and of its launchers and kernels. Its file has one order: public function, plain PyTorch twin,
autograd function, launchers, kernels.

`dispatch` chooses between kernel and twin. `launch` defines and starts kernels. `rope` has no kernel of its own: the
kernels of `attention` rotate what they load.
"""
