"""What every room stands on: the compiled core, notices, what torch.compile leaves out.

Knows no tensor, no event and no writer.
"""
