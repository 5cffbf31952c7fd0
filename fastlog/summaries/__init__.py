"""From a value to its summary: which engine reads a tensor, and what a summary tells.

Knows the engines in csrc and torch's tensors. Knows no event, no file and no writer.
"""
