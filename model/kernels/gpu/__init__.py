"""The decoder on a GPU: Triton kernels, and the same operations in plain torch beside them.

Every kernel reads fixed addresses and has a grid that depends on the batch bucket alone, so that
a CUDA graph can capture it. ``operations`` says what there is, ``reference`` does it in torch on
any device, ``launch`` with the kernels. Only ``launch`` and the modules named ``*_kernels`` import
Triton.
"""
