"""Planted faults: NaN, and what is not connected, does not move, or begins wrongly."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional as F

from sets.bench import Bench, case
from sets.models import Cnn, Digits, Gpt, Points, Recurrent, Reviews, Sequences, mlp, small_bert

Adam, AdamW, SGD = torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD


@case("nonfinite", tensors=("2.weight",), first=30, severity="error", quick=True)
def nan_in_a_weight(bench: Bench) -> None:
    model, task = mlp(), Points()

    def after(step: int) -> None:
        if step == 29:
            with torch.no_grad():
                model[2].weight[3, 5] = float("nan")

    bench.fit(model, Adam(model.parameters()), task.loss(model), 50, after=after)


@case("nonfinite", first=25, severity="error")
def root_of_zero(bench: Bench) -> None:
    model, task = mlp(), Points()
    plain = task.loss(model)

    def loss_of(step: int) -> torch.Tensor:
        extra = (model[0].weight * float(step != 25)).norm() if step >= 20 else 0.0
        return (
            plain(step)
            + 1e-3 * extra
            + (0 * (model[0].weight * 0).square().sum().sqrt() if step == 25 else 0)
        )

    bench.fit(model, Adam(model.parameters()), loss_of, 50)


@case("nonfinite", tensors=("conv1",), first=20, severity="error")
def nan_in_the_data(bench: Bench) -> None:
    model, task = Cnn(), Digits()

    def loss_of(step: int) -> torch.Tensor:
        x, y = task.draw()
        if step == 20:
            x[4, 0, 3, 3] = float("nan")
        return F.cross_entropy(model(x), y)

    bench.fit(
        model, SGD(model.parameters(), 0.05, 0.9), loss_of, 45, log=("weights", "gradients", "activations")
    )


@case("nonfinite", tensors=("blocks.2.attn.softmax",), first=18, severity="error")
def a_row_that_is_masked_wholly(bench: Bench) -> None:
    model, task = Gpt(), Sequences()
    softmax = model.blocks[2].attn.softmax

    class Masked(nn.Softmax):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(
                x if bench.step < 18 else x.masked_fill(torch.ones_like(x[..., :1]).bool(), float("-inf"))
            )

    bench.step = 0
    model.blocks[2].attn.softmax = Masked(softmax.dim)
    plain = task.loss(model)

    def loss_of(step: int) -> torch.Tensor:
        bench.step = step
        return plain(step)

    bench.fit(
        model, AdamW(model.parameters(), 1e-3), loss_of, 30, log=("weights", "gradients", "activations")
    )


@case(
    "no-gradient",
    tensors=("0.weight", "0.bias", "2.weight", "2.bias"),
    first=0,
    only=True,
    severity="error",
    quick=True,
)
def detached_trunk(bench: Bench) -> None:
    model, task = mlp(), Points()
    bench.fit(model, Adam(model.parameters()), task.loss(lambda x: model[4](model[:4](x).detach())), 40)


@case("no-gradient", tensors=("rnn.weight_ih_l0", "embed.weight"), first=0, severity="error")
def hidden_states_without_grad(bench: Bench) -> None:
    model, task = Recurrent(), Sequences()

    def forward(tokens: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            hidden = model.rnn(model.embed(tokens))[0]
        return model.head(hidden)

    bench.fit(model, AdamW(model.parameters(), 1e-3), task.loss(forward), 40)


@case("no-gradient", tensors=("blocks.1.up.weight", "blocks.1.down.weight"), first=0)
def detached_branch_of_a_block(bench: Bench) -> None:
    model, task = Gpt(), Sequences()
    block = model.blocks[1]

    def forward(x: torch.Tensor) -> torch.Tensor:
        x = x + block.attn(block.ln1(x))
        return x + block.down(F.gelu(block.up(block.ln2(x)))).detach()

    block.forward = forward
    bench.fit(model, AdamW(model.parameters(), 1e-3), task.loss(model), 40)


@case("no-gradient", tensors=("extra.weight", "extra.bias"), first=0, only=True)
def module_that_forward_forgets(bench: Bench) -> None:
    model, task = Cnn(), Digits()
    model.extra = nn.Linear(32, 32)

    def loss_of(step: int) -> torch.Tensor:
        x, y = task.draw()
        return F.cross_entropy(model(x), y)

    bench.fit(model, SGD(model.parameters(), 0.05, 0.9), loss_of, 40)


@case("no-gradient", tensors=("2.weight",), first=30)
def detached_in_the_middle_of_the_run(bench: Bench) -> None:
    model, task = mlp(), Points()

    def forward(x: torch.Tensor) -> torch.Tensor:
        hidden = model[:4](x)
        return model[4](hidden.detach() if bench.step >= 30 else hidden)

    plain = task.loss(forward)
    bench.step = 0

    def loss_of(step: int) -> torch.Tensor:
        bench.step = step
        return plain(step)

    bench.fit(model, Adam(model.parameters()), loss_of, 60)


@case("no-gradient", first=0, severity="error")
def lora_that_is_cut_off(bench: Bench) -> None:
    from peft import LoraConfig, get_peft_model

    model, task = (
        get_peft_model(small_bert(), LoraConfig(target_modules=["query", "value"], r=4, task_type="SEQ_CLS")),
        Reviews(),
    )

    def loss_of(step: int) -> torch.Tensor:
        batch = task.draw()
        inner = model.base_model.model
        with torch.no_grad():
            pooled = inner.bert(batch["input_ids"], attention_mask=batch["attention_mask"])[1]
        return F.cross_entropy(inner.classifier(pooled), batch["labels"])

    bench.fit(model, AdamW([p for p in model.parameters() if p.requires_grad], 1e-3), loss_of, 30)


@case(
    "no-gradient",
    tensors=("bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.attention.self.query.weight"),
    first=0,
)
def bert_whose_first_layer_is_cut_off(bench: Bench) -> None:
    model, task = small_bert(), Reviews()
    model.bert.encoder.layer[0].register_forward_hook(
        lambda module, args, output: (
            output.detach() if isinstance(output, torch.Tensor) else (output[0].detach(), *output[1:])
        )
    )
    bench.fit(model, AdamW(model.parameters(), 1e-3), lambda step: model(**task.draw()).loss, 30)


@case("not-optimised", tensors=("4.weight", "4.bias"), first=0, only=True, quick=True)
def head_replaced_after_the_optimizer_was_made(bench: Bench) -> None:
    model, task = mlp(), Points()
    optimizer = Adam(model.parameters())
    model[4] = nn.Linear(64, 4)
    bench.fit(model, optimizer, task.loss(model), 40)


@case("not-optimised", tensors=("conv1.weight", "bn1.weight"), first=0, severity="error")
def optimizer_of_the_head_only(bench: Bench) -> None:
    model, task = Cnn(), Digits()

    def loss_of(step: int) -> torch.Tensor:
        x, y = task.draw()
        return F.cross_entropy(model(x), y)

    bench.fit(model, SGD([*model.fc2.parameters()], 0.05, 0.9), loss_of, 40)


@case("not-optimised", tensors=("bert.encoder.layer.1.output.dense.weight",), first=0)
def bert_with_a_layer_left_out(bench: Bench) -> None:
    model, task = small_bert(), Reviews()
    chosen = [p for n, p in model.named_parameters() if "layer.1" not in n]
    bench.fit(model, AdamW(chosen, 1e-3), lambda step: model(**task.draw()).loss, 30)


@case("not-optimised", first=0, severity="error")
def optimizer_of_a_copy(bench: Bench) -> None:
    model, task = mlp(), Points()
    bench.fit(model, Adam(copy.deepcopy(model).parameters()), task.loss(model), 40)


@case("not-updating", tensors=("0.weight", "4.weight"), first=0, severity="error", quick=True)
def weights_loaded_back_each_step(bench: Bench) -> None:
    model, task = mlp(), Points()
    best = copy.deepcopy(model.state_dict())
    optimizer = Adam(model.parameters())
    optimizer.register_step_post_hook(lambda *_: model.load_state_dict(best))
    bench.fit(model, optimizer, task.loss(model), 40)


@case("not-updating", tensors=("rnn.weight_hh_l0",), first=0, severity="error")
def step_that_does_nothing(bench: Bench) -> None:
    class Idle(SGD):
        def step(self, closure: object = None) -> None:
            return None

    model, task = Recurrent(), Sequences()
    bench.fit(model, Idle(model.parameters(), 0.1), task.loss(model), 40)


@case("not-updating", tensors=("blocks.3.down.weight",), first=20, only=True)
def one_weight_put_back_from_a_step_on(bench: Bench) -> None:
    model, task = Gpt(), Sequences()
    weight = model.blocks[3].down.weight
    kept = weight.detach().clone()
    optimizer = AdamW(model.parameters(), 1e-3)

    def put_back(*_: object) -> None:
        nonlocal kept
        with torch.no_grad():
            if bench.step < 20:
                kept = weight.detach().clone()
            else:
                weight.copy_(kept)

    optimizer.register_step_post_hook(put_back)
    plain = task.loss(model)

    def loss_of(step: int) -> torch.Tensor:
        bench.step = step
        return plain(step)

    bench.fit(model, optimizer, loss_of, 40)


@case("lr-zero", first=40, quick=True)
def schedule_that_ends_too_early(bench: Bench) -> None:
    model, task = mlp(), Points()
    optimizer = Adam(model.parameters(), 3e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / 40))
    bench.fit(model, optimizer, task.loss(model), 80, scheduler=scheduler)


@case("lr-zero", severity="error", first=0)
def learning_rate_of_zero(bench: Bench) -> None:
    model, task = Gpt(), Sequences()
    bench.fit(model, AdamW(model.parameters(), 0.0), task.loss(model), 40)


@case("lr-zero", tensors=("0.weight", "2.weight"), first=0, only=True)
def group_with_a_rate_of_zero(bench: Bench) -> None:
    model, task = mlp(), Points()
    groups = [
        {"params": [model[0].weight, model[2].weight], "lr": 0.0},
        {"params": [p for n, p in model.named_parameters() if n not in ("0.weight", "2.weight")]},
    ]
    bench.fit(model, Adam(groups, 1e-3), task.loss(model), 50)


@case("constant-init", tensors=("0.weight", "2.weight"), only=True, quick=True)
def hidden_layers_of_one_value(bench: Bench) -> None:
    model, task = mlp(activation=nn.Tanh), Points()
    for layer in (model[0], model[2]):
        nn.init.constant_(layer.weight, 0.02)
        nn.init.zeros_(layer.bias)
    nn.init.constant_(model[4].weight, 0.02)
    with torch.no_grad():
        model[4].weight += 0.01 * torch.arange(4)[:, None]
    bench.fit(model, Adam(model.parameters()), task.loss(model), 40)


@case("constant-init", severity="error")
def all_weights_zero(bench: Bench) -> None:
    model, task = mlp(), Points()
    for param in model.parameters():
        nn.init.zeros_(param)
    bench.fit(model, SGD(model.parameters(), 0.1), task.loss(model), 40)


@case("optimizer-state-reset", first=40)
def new_optimizer_state_in_the_middle(bench: Bench) -> None:
    model, task = mlp(), Points()
    optimizer = Adam(model.parameters())

    def after(step: int) -> None:
        if step == 39:
            optimizer.state.clear()

    bench.fit(model, optimizer, task.loss(model), 80, after=after)


@case("optimizer-state-reset", first=50)
def resumed_without_the_optimizer(bench: Bench) -> None:
    model, task = Gpt(), Sequences()
    bench.fit(model, AdamW(model.parameters(), 1e-3), task.loss(model), 50)
    bench.again()
    bench.fit(model, AdamW(model.parameters(), 1e-3), task.loss(model), 30, first=50)


@case("untied", tensors=("head.weight",), first=0)
def output_layer_that_was_cloned(bench: Bench) -> None:
    model, task = Gpt(tied=True), Sequences()
    model.head.weight = nn.Parameter(model.wte.weight.detach().clone())
    bench.fit(model, AdamW(model.parameters(), 1e-3), task.loss(model), 30)


@case("frozen-moves", tensors=("0.weight",), first=20)
def frozen_with_a_gradient_left(bench: Bench) -> None:
    model, task = mlp(), Points()
    plain = task.loss(model)
    optimizer = SGD(model.parameters(), 0.1, 0.9)
    watcher = bench.watch(model, optimizer)
    for step in range(40):
        optimizer.zero_grad(set_to_none=False)
        if step == 20:
            model[0].requires_grad_(False)
        loss = plain(step)
        loss.backward()
        optimizer.step()
        bench.loss(step, loss)
    watcher.remove()
