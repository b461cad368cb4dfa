"""The network's operations, one per file: a Triton kernel, and the same mathematics in plain PyTorch.

An operation has one name, which its file, its public function (with a final `_` if that works in place), its rule in
`dispatch`, its launchers, its kernels and its test share. Its file has one order: public function, plain PyTorch twin,
autograd function, launchers, kernels.

`dispatch` chooses between kernel and twin. `launch` defines and starts kernels. `rope` has no kernel of its own: the
kernels of `attention` rotate what they load.
"""
