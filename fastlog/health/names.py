"""What the names of tensors say: their layer, and their role in it."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)")


def layer_of(name: str) -> str:
    """The layer that a tensor belongs to: the name up to its first number, else the name of its module.

    >>> layer_of("encoder.layer.3.attention.query.weight"), layer_of("embeddings.position.weight")
    ('encoder.layer.3', 'embeddings.position')
    """
    parts = name.split(".")
    for i, part in enumerate(parts[:-1]):
        if part.isdigit():
            return ".".join(parts[: i + 1])
    return ".".join(parts[:-1]) or name


def role_of(name: str) -> str:
    """The name without its numbers: what the tensors of all blocks have in common.

    >>> role_of("encoder.layer.3.attention.query.weight")
    'encoder.layer.#.attention.query.weight'
    """
    return _NUMBER.sub("#", name)
