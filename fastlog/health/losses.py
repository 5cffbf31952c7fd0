"""Which of the logged scalars is the loss."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_WORDS = re.compile(r"[a-z]+|[0-9]+")
_LOSS = {"loss", "losses", "nll", "mse", "objective", "elbo"}
_TRAINING = {"train", "training", "trn"}
_VALIDATION = {"val", "valid", "validation", "eval", "evaluation", "test", "dev"}
_PLAIN = {"total", "step", "batch", "epoch", "iter", "iteration", "avg", "mean", "running", "all", "overall"}
_ADVERSARIES = {"g", "d", "gen", "generator", "dis", "disc", "discriminator", "critic", "adv", "adversarial"}
_REWARDS = {"reward", "rewards", "return", "returns", "episode", "episodes", "rollout", "rew"}


@dataclass(frozen=True)
class Losses:
    """The losses among the tags of a run.

    Attributes:
        training, validation: their tags; None: there is none, or which one it is cannot be told.
        why_not: why ``training`` is None, or why its course says little.
        comparable: whether it can be expected to fall: not where networks play against each other, or act.
    """

    training: str | None
    validation: str | None
    why_not: str = ""
    comparable: bool = True


def words(tag: str) -> tuple[str, ...]:
    """The words of a tag, in lower case."""
    return tuple(_WORDS.findall(re.sub(r"([a-z])([A-Z])", r"\1 \2", tag).lower()))


def may_matter(tag: str) -> bool:
    """Whether a scalar of this name says something of the loss, or of what kind of training this is."""
    found = set(words(tag))
    return bool(found & (_LOSS | _REWARDS)) or tag.startswith("fastlog/ranks/")


def find_losses(scalars: Mapping[str, Any] | Iterable[str], asked: str | None = None) -> Losses:
    """Chooses by convention (``loss``, ``loss/train``, ``train/loss``, ``train_loss``, ...), or as asked."""
    by_words = {tag: words(tag) for tag in scalars if not tag.startswith("fastlog/")}
    losses = {tag: found for tag, found in by_words.items() if set(found) & _LOSS}
    validation = [tag for tag, found in losses.items() if set(found) & _VALIDATION]
    training = {tag: found for tag, found in losses.items() if tag not in validation}
    rewards = [tag for tag, found in by_words.items() if set(found) & _REWARDS]
    rivals = [tag for tag, found in training.items() if set(found) & _ADVERSARIES]
    plain = sorted(
        (tag for tag in training if _is_plain(training[tag])), key=lambda tag: _rank(training[tag])
    )
    chosen = asked if asked is not None else plain[0] if plain else None
    if chosen is None and len(training) == 1 and not rivals:
        chosen = next(iter(training))
    best = next((tag for tag in validation if _is_plain(_without(losses[tag], _VALIDATION))), None)
    if asked is not None and asked not in by_words:
        return Losses(None, best, f"no scalar {asked!r} is logged")
    if chosen is None:
        why = "which of them is the loss is not known" if training else "no loss is logged"
        listed = f" ({', '.join(sorted(training)[:4])}; say loss=)" if training else " to the same writer"
        return Losses(None, best, why + listed)
    if rewards and asked is None:
        return Losses(chosen, best, f"{rewards[0]} is logged: the loss of an agent need not fall", False)
    if rivals and asked is None:
        return Losses(chosen, best, f"{rivals[0]} is logged: losses of rivals need not fall", False)
    return Losses(chosen, best)


def _without(found: tuple[str, ...], left_out: set[str]) -> tuple[str, ...]:
    return tuple(word for word in found if word not in left_out)


def _is_plain(found: tuple[str, ...]) -> bool:
    rest = _without(found, _LOSS | _TRAINING | _PLAIN)
    return not any(not word.isdigit() for word in rest)


def _rank(found: tuple[str, ...]) -> tuple[Any, ...]:
    return ("epoch" in found, not set(found) & _TRAINING, "loss" not in found, len(found))
