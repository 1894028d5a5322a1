"""The engine on a GPU: request state on the device, one graph a step, steps queued ahead.

The same core runs on CPU tensors with an eager stream, which is how it is tested without a GPU.
``scheduler``, ``launch`` and ``run_ahead`` import no torch.
"""
