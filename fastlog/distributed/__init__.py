"""Summaries of tensors that several ranks hold: each value counted once, merged on one rank.

``shards`` says which part of a tensor this rank has to count, ``exchange`` is the one collective, ``merger``
the thread that takes part in it, so that training never waits.

Knows torch.distributed and summaries. Knows no event and no writer.
"""
