"""The tags that a job of the watcher declares."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fastlog
from fastlog.events.aside import Claims
from fastlog.events.items import JOB, tags_of
from fastlog.events.queue import AsyncQueue


@pytest.mark.parametrize("prefix", [None, "net/part"])
def test_a_watcher_declares_what_the_tags_that_it_logs_begin_with(tmp_path, monkeypatch, prefix):
    jobs = []
    put = AsyncQueue.put
    monkeypatch.setattr(AsyncQueue, "put", lambda *args: (jobs.append(args[2]), put(*args))[1])
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.warns(fastlog.FastlogWarning, match="NaN"), fastlog.SummaryWriter(tmp_path) as writer:
        stats = {"scalars": ("norm", "std"), "tensor_scalars": ("zeros",)}
        fastlog.watch(model, writer, optimizer, every=1, log="all", prefix=prefix, **stats)
        for factor in (1.0, float("nan")):
            (model(torch.ones(4, 3)) * factor).sum().backward()
            optimizer.step()
    jobs = [job for job in jobs if job[0] == JOB]
    assert len(jobs) == 2
    for job in jobs:
        claims, sink = Claims(), object()
        claims.add(sink, tags_of(job))
        items = list(job[1]())
        assert len(items) > 20
        assert [item[1] for item in items if not claims.meet(sink, tags_of(item))] == []
        assert not claims.meet(sink, ["train/loss"])
