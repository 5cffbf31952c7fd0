"""Two runs side by side: where they part, and what that looks like.

Knows runs, as they are read back, and how health names and shows things. Knows no tensor, no model and no
writer.
"""
