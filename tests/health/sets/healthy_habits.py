"""Healthy trainings: fine-tuning, precision, schedules, and other habits that look odd."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional as F

from sets.bench import Bench, case
from sets.models import (
    Cnn,
    Digits,
    Gpt,
    Points,
    Reviews,
    Sequences,
    mlp,
    small_bert,
    warm_up_and_decay,
)

Adam, AdamW, SGD = torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD
ALL = ("weights", "gradients", "updates", "optimizer_state", "activations", "activation_gradients")


@case()
def bert_with_a_new_head(bench: Bench) -> None:
    model, task = small_bert(), Reviews()
    optimizer = AdamW(model.parameters(), 1e-3)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 80)
    bench.fit(model, optimizer, lambda step: model(**task.draw()).loss, 80, scheduler=scheduler, log=ALL)


@case()
def sentence_embeddings_past_the_pooler(bench: Bench) -> None:
    model, task = small_bert(), Reviews()
    head = nn.Linear(48, 2)
    whole = nn.ModuleDict({"bert": model.bert, "head": head})

    def loss_of(step: int) -> torch.Tensor:
        batch = task.draw()
        hidden = model.bert(batch["input_ids"], attention_mask=batch["attention_mask"])[0]
        mask = batch["attention_mask"][..., None]
        return F.cross_entropy(head((hidden * mask).sum(1) / mask.sum(1)), batch["labels"])

    bench.fit(whole, AdamW(whole.parameters(), 1e-3), loss_of, 60)


@case()
def lora(bench: Bench) -> None:
    from peft import LoraConfig, get_peft_model

    model = small_bert()
    model = get_peft_model(
        model, LoraConfig(target_modules="all-linear", r=8, lora_alpha=16, task_type="SEQ_CLS")
    )
    task = Reviews()
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)
    bench.fit(
        model,
        optimizer,
        lambda step: model(**task.draw()).loss,
        120,
        scheduler=warm_up_and_decay(optimizer, 120, 10),
    )


@case(quick=True)
def frozen_backbone(bench: Bench) -> None:
    model, task = Cnn(), Digits()
    for name, param in model.named_parameters():
        param.requires_grad_(name.startswith("fc"))

    def loss_of(step: int) -> torch.Tensor:
        x, y = task.draw()
        return F.cross_entropy(model(x), y)

    bench.fit(model, SGD(model.parameters(), 0.02, 0.9, weight_decay=1e-3), loss_of, 100, frozen=True)


@case()
def thawed_layer_by_layer(bench: Bench) -> None:
    model, task = mlp((16, 64, 64, 64, 4)), Points()
    layers = [model[i] for i in (0, 2, 4)]
    for layer in layers:
        layer.requires_grad_(False)

    def after(step: int) -> None:
        if step in (30, 60, 90):
            layers.pop().requires_grad_(True)

    bench.fit(model, Adam(model.parameters()), task.loss(model), 130, after=after)


@case()
def float16_with_a_scaler(bench: Bench) -> None:
    model, task = Cnn(), Digits()
    optimizer, scaler = (
        SGD(model.parameters(), 0.02, 0.9),
        torch.amp.GradScaler("cpu", init_scale=2.0**22, growth_interval=20),
    )
    bench.watch(model, optimizer)
    for step in range(100):
        x, y = task.draw()
        with torch.autocast("cpu", dtype=torch.float16):
            logits = model(x)
        loss = F.cross_entropy(logits.float(), y)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        bench.loss(step, loss)


@case()
def bfloat16_autocast(bench: Bench) -> None:
    model, task = Gpt(), Sequences()

    def loss_of(step: int) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return task.loss(model)(step)

    bench.fit(model, AdamW(model.parameters(), 2e-3), loss_of, 100, log=ALL)


@case()
def bfloat16_weights_and_a_rate_that_fits(bench: Bench) -> None:
    model, task = mlp().bfloat16(), Points()
    bench.fit(model, SGD(model.parameters(), 0.2, 0.9), task.loss(lambda x: model(x.bfloat16())), 120)


@case()
def agent_in_bfloat16_at_a_tiny_rate(bench: Bench) -> None:
    policy = mlp((16, 64, 64, 4)).bfloat16()
    mix = torch.randn(16, 4)
    optimizer = AdamW(policy.parameters(), 1e-6)

    def loss_of(step: int) -> torch.Tensor:
        x = torch.randn(64, 16)
        choice = torch.distributions.Categorical(logits=policy(x.bfloat16()).float())
        action = choice.sample()
        reward = (action == (x @ mix).argmax(1)).float()
        return -(choice.log_prob(action) * (reward - reward.mean())).mean()

    bench.fit(policy, optimizer, loss_of, 80)


@case(quick=True)
def teacher_that_is_a_moving_average(bench: Bench) -> None:
    nets, task = nn.ModuleDict({"student": mlp()}), Points()
    nets["teacher"] = copy.deepcopy(nets["student"]).requires_grad_(False)

    def after(step: int) -> None:
        with torch.no_grad():
            for slow, fast in zip(nets["teacher"].parameters(), nets["student"].parameters(), strict=True):
                slow.lerp_(fast, 0.05)

    def loss_of(step: int) -> torch.Tensor:
        x, y = task.draw()
        out = nets["student"](x)
        return F.cross_entropy(out, y) + 0.1 * F.mse_loss(out, nets["teacher"](x))

    bench.fit(nets, Adam(nets.parameters()), loss_of, 100, after=after, frozen=True)


@case(quick=True)
def until_the_loss_is_zero(bench: Bench) -> None:
    model, task = mlp(), Points(batch=48)
    x, y = task.draw()
    bench.fit(model, Adam(model.parameters(), 1e-2), lambda step: F.cross_entropy(model(x), y), 500, every=3)


@case()
def sgd_until_it_stands_still(bench: Bench) -> None:
    model = mlp((16, 32, 1), nn.Tanh)
    x = torch.randn(64, 16)
    y = torch.tanh(x @ torch.randn(16, 1) / 4)
    bench.fit(model, SGD(model.parameters(), 0.2, 0.9), lambda step: F.mse_loss(model(x), y), 1500, every=10)


@case()
def linear_regression_to_the_last_digit(bench: Bench) -> None:
    model = nn.Sequential(nn.Linear(8, 2))
    x = torch.randn(64, 8)
    y = x @ torch.randn(8, 2) + 1
    bench.fit(model, SGD(model.parameters(), 0.3), lambda step: F.mse_loss(model(x), y), 600, every=5)


@case(quick=True)
def resumed_with_all_of_its_state(bench: Bench) -> None:
    model, task = Gpt(), Sequences()
    optimizer = AdamW(model.parameters(), 1e-3)
    bench.fit(model, optimizer, task.loss(model), 60)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    bench.again()
    model, optimizer = Gpt(), AdamW(model.parameters(), 1e-3)
    model.load_state_dict(saved[0])
    optimizer = AdamW(model.parameters(), 1e-3)
    optimizer.load_state_dict(saved[1])
    bench.fit(model, optimizer, task.loss(model), 50, first=60)


@case()
def resumed_from_a_checkpoint_before(bench: Bench) -> None:
    model, task = mlp(), Points()
    optimizer = Adam(model.parameters())
    bench.fit(model, optimizer, task.loss(model), 50)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    bench.fit(model, optimizer, task.loss(model), 20, first=50)
    bench.again()
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    bench.fit(model, optimizer, task.loss(model), 60, first=50)


@case(quick=True)
def curriculum_that_becomes_harder_at_once(bench: Bench) -> None:
    model, task = mlp((16, 128, 128, 4)), Points()

    def loss_of(step: int) -> torch.Tensor:
        x, y = task.draw()
        if step < 100:
            x = x + 3 * task._map.T[y]
        return F.cross_entropy(model(x), y)

    bench.fit(model, Adam(model.parameters(), 1e-3), loss_of, 220)


@case()
def experts_that_are_seldom_chosen(bench: Bench) -> None:
    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(16, 32)
            self.router = nn.Linear(32, 8)
            self.experts = nn.ModuleList([mlp((32, 32, 32)) for _ in range(8)])
            self.head = nn.Linear(32, 4)
            with torch.no_grad():
                self.router.bias[5] = -30  # never chosen

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = F.relu(self.embed(x))
            weight, chosen = self.router(h).softmax(-1).max(-1)
            out = torch.zeros_like(h)
            for i, expert in enumerate(self.experts):
                mine = chosen == i
                if mine.any():
                    out[mine] = weight[mine, None] * expert(h[mine])
            return self.head(h + out)

    model, task = Mixture(), Points(batch=16)
    bench.fit(model, Adam(model.parameters()), task.loss(model), 120)


@case(quick=True)
def accumulated_and_clipped(bench: Bench) -> None:
    model, task = Gpt(), Sequences()
    plain, optimizer = task.loss(model), AdamW(model.parameters(), 2e-3)
    watcher = bench.watch(model, optimizer, every=2)
    for step in range(60):
        for _ in range(3):
            loss = plain(step) / 3
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        optimizer.step()
        optimizer.zero_grad(set_to_none=bench.seed % 2 == 0)
        bench.loss(step, loss * 3)
    watcher.remove()


@case()
def branches_that_begin_at_zero(bench: Bench) -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(16, 64)
            self.blocks = nn.ModuleList([mlp((64, 64, 64)) for _ in range(3)])
            self.gates = nn.ParameterList([nn.Parameter(torch.zeros(())) for _ in range(3)])
            self.last = nn.Linear(64, 4)
            nn.init.zeros_(self.last.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            for gate, block in zip(self.gates, self.blocks, strict=True):
                x = x + gate * block(x)
            return self.last(x)

    model, task = Gated(), Points()
    optimizer = Adam(model.parameters(), 3e-3)
    bench.fit(model, optimizer, task.loss(model), 120, scheduler=warm_up_and_decay(optimizer, 120, 15))


@case()
def lbfgs_with_a_closure(bench: Bench) -> None:
    model, task = mlp((16, 32, 4)), Points(batch=200)
    x, y = task.draw()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)
    bench.watch(model, optimizer)
    for step in range(40):

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y) + 1e-3 * sum(p.square().sum() for p in model.parameters())
            loss.backward()
            return loss

        bench.loss(step, optimizer.step(closure))


@case()
def embeddings_of_a_large_vocabulary(bench: Bench) -> None:
    model = nn.Sequential(nn.EmbeddingBag(5000, 16, sparse=False), nn.Linear(16, 4))
    favourite = torch.randint(4, (5000,))

    def loss_of(step: int) -> torch.Tensor:
        words = (torch.rand(64, 8) ** 4 * 5000).long()
        return F.cross_entropy(model(words), favourite[words].mode(1).values)

    bench.fit(model, Adam(model.parameters(), 1e-2), loss_of, 150, log=ALL)


@case()
def sparse_embeddings(bench: Bench) -> None:
    model = nn.Sequential(nn.Embedding(500, 16, sparse=True), nn.Flatten(), nn.Linear(64, 4))
    favourite = torch.randint(4, (500,))

    def loss_of(step: int) -> torch.Tensor:
        words = torch.randint(100, (64, 4))
        return F.cross_entropy(model(words), favourite[words[:, 0]])

    bench.fit(model, SGD(model.parameters(), 0.5), loss_of, 200)


@case()
def one_cycle(bench: Bench) -> None:
    model, task = Cnn(), Digits()
    optimizer = SGD(model.parameters(), 0.01, 0.9)

    def loss_of(step: int) -> torch.Tensor:
        x, y = task.draw()
        return F.cross_entropy(model(x), y, label_smoothing=0.1)

    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=120)
    bench.fit(model, optimizer, loss_of, 120, scheduler=scheduler)


@case()
def weights_before_a_normalisation_that_grow(bench: Bench) -> None:
    model = nn.Sequential(
        nn.Linear(16, 64, bias=True),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Linear(64, 64),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Linear(64, 4),
    )
    task = Points()
    bench.fit(model, SGD(model.parameters(), 0.5, 0.9), task.loss(model), 200)


@case()
def epochs_with_validation(bench: Bench) -> None:
    model, task = mlp(), Points(batch=400)
    x, y = task.draw()
    xv, yv = task.draw()

    def after(step: int) -> None:
        if step % 20 == 19:
            with torch.no_grad():
                bench.loss(step, F.cross_entropy(model(xv), yv), "loss/val")

    def loss_of(step: int) -> torch.Tensor:
        chosen = torch.arange(step % 10, 400, 10)
        return F.cross_entropy(model(x[chosen]), y[chosen])

    bench.fit(model, Adam(model.parameters(), 3e-3), loss_of, 200, after=after)
