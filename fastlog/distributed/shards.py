"""Which part of a distributed tensor a rank has to count so that each value is counted once."""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

NOTHING = torch.empty(0)

_REMEDY = "use torch.distributed.fsdp.fully_shard (FSDP2), or do not watch this model"


def is_dtensor(value: object) -> bool:
    """Whether it is a ``DTensor``; does not import what nobody has imported yet."""
    module = sys.modules.get("torch.distributed.tensor")
    kind = getattr(module, "DTensor", None)
    return kind is not None and isinstance(value, kind)


def own_part(tensor: Any, name: str, replicas: bool = False) -> tuple[torch.Tensor, int]:
    """The elements of a DTensor that this rank counts; over all ranks, each element comes exactly once.

    That is the rank's shard, of replicas only the one at coordinate 0 of the mesh dimension. Uneven shards
    have no padding here. No communication, no copy.

    Args:
        tensor: a DTensor over a mesh of any shape.
        name: how to call it in errors.
        replicas: of replicas all, to be compared.

    Returns:
        A plain tensor, perhaps without elements; and which part it is, by the rank's place in the dimensions
        of the mesh that shard: ranks with the same place in the same slice of a larger mesh hold the same.

    Raises:
        TypeError: a placement that is neither a shard nor a replica: ``Partial`` addends are no values of the
            tensor, and what others mean is not known.
    """
    first_replica, part = True, 0
    mesh = tensor.device_mesh
    coordinate = mesh.get_coordinate()
    for dim, placement in enumerate(tensor.placements):
        if placement.is_replicate():
            first_replica &= coordinate is not None and coordinate[dim] == 0
        elif placement.is_partial():
            raise TypeError(
                f"{name}: the ranks hold addends of the values ({placement} in {tensor.placements}), which no"
                " histogram of theirs adds up to; pass tensor.redistribute(placements=[Replicate(), ...]), on"
                " all ranks"
            )
        elif not _is_shard(placement):
            raise TypeError(
                f"{name}: the placement {placement!r} is not supported; pass tensor.full_tensor()"
            )
        elif coordinate is not None:
            part = part * mesh.size(dim) + coordinate[dim]
    if coordinate is None or not (first_replica or replicas):
        return NOTHING, part
    with torch.no_grad():
        return settled(tensor.to_local()), part


def is_whole(tensor: Any) -> bool:
    """Whether each rank of the DTensor's mesh holds all of it."""
    return all(placement.is_replicate() for placement in tensor.placements)


def settled(tensor: torch.Tensor) -> torch.Tensor:
    """What a functional collective has returned, waited for; other tensors as they are."""
    module = sys.modules.get("torch.distributed._functional_collectives")
    kind = getattr(module, "AsyncCollectiveTensor", ())
    return tensor.wait() if isinstance(tensor, kind) else tensor


def mesh_ranks(tensor: Any) -> tuple[int, ...]:
    """The ranks of a DTensor's mesh, ascending."""
    return tuple(sorted(tensor.device_mesh.mesh.flatten().tolist()))


def ranks_of(model: nn.Module) -> tuple[int, ...]:
    """The ranks over which a model's parameters are distributed as DTensors, ascending; () without any.

    A mesh that is a slice of another (data parallel and tensor parallel ranks of one pipeline stage, say)
    stands for the whole one, so that all stages are in.
    """
    found: set[int] = set()
    meshes = {id(m): m for p in model.parameters() if is_dtensor(p) for m in [p.device_mesh]}  # type: ignore[attr-defined]
    for mesh in meshes.values():
        found.update(_root(mesh).mesh.flatten().tolist())
    return tuple(sorted(found))


def is_data_parallel(model: nn.Module) -> bool:
    """Whether each rank sees other data: ``fully_shard`` over one dimension, or replicated over another."""
    kind = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", ())
    return any(isinstance(module, kind) for module in model.modules()) and all(
        all(placement.is_replicate() for placement in param.placements[:-1]) and len(param.placements) <= 2  # type: ignore[attr-defined]
        for param in model.parameters()
        if is_dtensor(param)
    )


def refuse_unknown(model: nn.Module) -> None:
    """Raises TypeError for models whose parameters are not what they seem: says which, and what to use."""
    for module in model.modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            raise TypeError(
                "the parameters of FullyShardedDataParallel (FSDP1) are pieces of a flat buffer, not tensors"
                f" of the model; {_REMEDY}"
            )
        if type(module).__module__.partition(".")[0] == "deepspeed":
            raise TypeError(
                f"{type(module).__name__}: DeepSpeed keeps gradients and ZeRO's shards in buffers of its own,"
                f" which are not supported; {_REMEDY}"
            )
    for name, param in model.named_parameters():
        if reason := _why_unknown(param):
            raise TypeError(f"{name} {reason}, which is not supported; {_REMEDY}")


def _why_unknown(param: nn.Parameter) -> str | None:
    """What a library has made of a parameter, by the marks that it leaves there: the wrapper may be away."""
    if hasattr(param, "ds_id"):
        return "is partitioned by DeepSpeed ZeRO-3"
    if hasattr(param, "_hp_mapping"):
        return "is a stale copy of what DeepSpeed ZeRO-1/2 steps, and its gradient is elsewhere"
    if getattr(param, "_fsdp_flattened", False):
        return "is a piece of a flat buffer of FullyShardedDataParallel (FSDP1)"
    if getattr(param, "tensor_model_parallel", False) and not is_dtensor(param):
        return "is a shard by Megatron's tensor parallelism"
    return None


def _is_shard(placement: Any) -> bool:
    strided = getattr(sys.modules["torch.distributed.tensor.placement_types"], "_StridedShard", ())
    return bool(placement.is_shard()) or isinstance(placement, strided)


def _root(mesh: Any) -> Any:
    if hasattr(mesh, "_get_root_mesh"):
        return mesh._get_root_mesh()
    return dist.device_mesh._mesh_resources.get_root_mesh(mesh)  # before torch 2.9
