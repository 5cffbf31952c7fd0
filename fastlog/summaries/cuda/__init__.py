"""Summaries of tensors on CUDA devices: which devices have the engine, and the launches under way.

Knows torch.cuda and the compiled ``fastlog._cuda``. Knows no event and no writer.
"""
