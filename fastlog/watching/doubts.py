"""What can be told of a watch before training: that it will log nothing, or not all that was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from fastlog.watching import selection, series
from fastlog.watching.plan import Plan

_NAMED = 3  # parameters, of those that one sentence is about
_OF_MODULES = frozenset({series.ACTIVATIONS, series.ACTIVATION_GRADIENTS})


def doubts(model: nn.Module, optimizers: Sequence[Optimizer], plan: Plan) -> Iterator[str]:
    """What to say, with the remedy."""
    yield from _of_optimizers(model, optimizers)
    if plan.log - _OF_MODULES:
        yield from _of_parameters(model, plan)
    if plan.log & _OF_MODULES:
        yield from _of_modules(model, plan)
    options = plan.options
    of_tensors = (options.histograms or options.tensor_scalars) and options.top_k != 0
    if not (of_tensors or options.scalars):
        yield "nothing will be logged with " + (
            "top_k=0 and scalars=(). Choose one or more"
            if options.top_k == 0
            else "histograms=False, scalars=() and tensor_scalars=(). Choose one"
        )


def without_elements(model: nn.Module, plan: Plan) -> Iterator[str]:
    """What to say of chosen parameters that have no elements, on any rank."""
    chosen = selection.parameters(model, plan.names) if plan.log - _OF_MODULES else []
    # A lazy parameter has no size yet.
    if empty := [name for name, param in chosen if not is_lazy(param) and not param.numel()]:
        more = f" and {len(empty) - _NAMED} more" if len(empty) > _NAMED else ""
        have, are = ("has", "is") if len(empty) == 1 else ("have", "are")
        yield (
            f"{', '.join(empty[:_NAMED])}{more} {have} no elements (a dimension of size 0) and {are} left"
            " out: check the sizes that the model was made with, or exclude= them"
        )


def _of_optimizers(model: nn.Module, optimizers: Sequence[Optimizer]) -> Iterator[str]:
    params = {id(param) for param in model.parameters()}
    for optimizer in optimizers:
        owned = [id(param) for group in optimizer.param_groups for param in group["params"]]
        if owned and params.isdisjoint(owned):
            yield (
                f"the optimizer {type(optimizer).__name__} steps none of the parameters of this"
                f" {type(model).__name__}: they are another model's, or copies. Make the optimizer after the"
                " model (and after fully_shard), and watch both"
            )


def _of_parameters(model: nn.Module, plan: Plan) -> Iterator[str]:
    everything = selection.parameters(model, selection.Names(None, None))
    chosen = selection.parameters(model, plan.names)
    if not everything:
        yield f"this {type(model).__name__} has no parameters: nothing of {_kinds(plan)} will be logged"
    elif not chosen:
        yield (
            f"include= and exclude= leave none of the {len(everything)} parameters, such as"
            f" {everything[0][0]}: nothing of {_kinds(plan)} will be logged"
        )
    elif not plan.frozen and not any(param.requires_grad for _, param in chosen):
        yield (
            f"all {len(chosen)} parameters are frozen: nothing of {_kinds(plan)} will be logged before one"
            " requires gradients. Pass frozen=True to log frozen ones, too"
        )


def _of_modules(model: nn.Module, plan: Plan) -> Iterator[str]:
    if selection.compiled(model):
        yield "activations inside of what torch.compile has compiled cannot be seen"
    if scripted := selection.scripted(model):
        first = next(iter(scripted.values())) or type(model).__name__
        yield f"activations inside of what torch.jit has scripted, as of {first}, cannot be seen"
    elif not selection.modules(model, plan.names, plan.modules) and not selection.compiled(model):
        yield "modules=, include= and exclude= leave no module whose activations could be seen"


def _kinds(plan: Plan) -> str:
    return ", ".join(sorted(plan.log - _OF_MODULES))
