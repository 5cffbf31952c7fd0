"""Planted faults that no threshold was fitted on: other architectures, optimizers and mistakes."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional as F

from sets.bench import Bench, case
from sets.held_out_models import Patches, ResNet, Seq2Seq, Switch, Vit
from sets.models import Digits, Loss, Recurrent, Reviews, Sequences, mlp, small_bert

Adam, AdamW, SGD = torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD


def classify(model: nn.Module, task: Digits | Patches) -> Loss:
    def loss_of(step: int) -> torch.Tensor:
        x, y = task.draw()
        return F.cross_entropy(model(x), y)

    return loss_of


def reverse(model: Seq2Seq) -> Loss:
    def loss_of(step: int) -> torch.Tensor:
        tokens = torch.randint(1, 12, (32, 6))
        return F.cross_entropy(model(tokens, tokens.flip(1)).flatten(0, 1), tokens.flip(1).flatten())

    return loss_of


@case("lr-too-high", also=("dead-units", "loss-diverging", "exploding-gradients"))
def bert_at_a_thousand_times_its_rate(bench: Bench) -> None:
    model, task = small_bert(layers=4), Reviews()
    bench.fit(model, AdamW(model.parameters(), 0.5), lambda step: model(**task.draw()).loss, 60)


@case("lr-too-high", also=("dead-units", "loss-diverging", "attention-collapse"))
def vision_transformer_at_a_fifth(bench: Bench) -> None:
    model = Vit()
    bench.fit(model, AdamW(model.parameters(), 0.2), classify(model, Patches()), 80)


@case("lr-too-high", also=("dead-units", "loss-diverging", "exploding-gradients"))
def autoencoder_with_rmsprop_at_a_half(bench: Bench) -> None:
    model, mix = mlp((32, 16, 32), nn.ReLU), torch.randn(4, 32)

    def loss_of(step: int) -> torch.Tensor:
        x = torch.randn(64, 4) @ mix
        return F.mse_loss(model(x), x)

    bench.fit(model, torch.optim.RMSprop(model.parameters(), 0.5), loss_of, 80)


@case("lr-too-low", also=("not-learning",))
def vision_transformer_at_a_billionth(bench: Bench) -> None:
    model = Vit()
    bench.fit(model, AdamW(model.parameters(), 1e-9), classify(model, Patches()), 80)


@case("no-gradient", tensors=("encoder.weight_ih_l0", "encoder.weight_hh_l0"), first=0)
def encoder_read_without_grad(bench: Bench) -> None:
    class Blind(Seq2Seq):
        def encode(self, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            with torch.no_grad():
                return super().encode(source)

    model = Blind()
    bench.fit(model, Adam(model.parameters(), 3e-3), reverse(model), 50)


@case("no-gradient", tensors=("head.0.weight",), first=0)
def auxiliary_head_whose_loss_is_an_item(bench: Bench) -> None:
    model = nn.ModuleDict({"trunk": ResNet(classes=16), "head": mlp((16, 16, 4)), "main": nn.Linear(16, 10)})
    task = Digits()

    def loss_of(step: int) -> torch.Tensor:
        x, y = task.draw()
        h = model["trunk"](x)
        return F.cross_entropy(model["main"](h), y) + 0.1 * model["head"](h).square().mean().item()

    bench.fit(model, SGD(model.parameters(), 0.05, 0.9), loss_of, 40)


@case("not-optimised", tensors=("decoder.weight_hh_l0",), first=0)
def decoder_that_is_not_in_the_optimizer(bench: Bench) -> None:
    model = Seq2Seq()
    chosen = [p for n, p in model.named_parameters() if not n.startswith("decoder")]
    bench.fit(model, Adam(chosen, 3e-3), reverse(model), 50)


@case("not-updating", severity="error", first=0)
def average_swapped_in_and_never_out(bench: Bench) -> None:
    model = ResNet()
    average = copy.deepcopy(model)
    optimizer = AdamW(model.parameters(), 1e-3)
    optimizer.register_step_post_hook(lambda *_: model.load_state_dict(average.state_dict()))
    bench.fit(model, optimizer, classify(model, Digits()), 40)


@case("lr-zero", first=30)
def schedule_in_epochs_that_is_stepped_each_batch(bench: Bench) -> None:
    model = Vit()
    optimizer = AdamW(model.parameters(), 2e-3)
    scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, 30)
    bench.fit(model, optimizer, classify(model, Patches()), 90, scheduler=scheduler)


@case("nonfinite", first=25, severity="error")
def logarithm_of_a_probability_that_became_zero(bench: Bench) -> None:
    model, task = ResNet(), Digits()

    def loss_of(step: int) -> torch.Tensor:
        x, y = task.draw()
        right = model(x).softmax(1).gather(1, y[:, None])
        return -torch.log(right * (0.0 if step == 25 else 1.0)).mean()

    bench.fit(model, Adam(model.parameters(), 1e-3), loss_of, 45)


@case("gradients-accumulate", also=("loss-diverging", "loss-spike", "exploding-gradients", "lr-too-high"))
def zero_grad_once_an_epoch(bench: Bench) -> None:
    model = Seq2Seq()
    plain, optimizer = reverse(model), Adam(model.parameters(), 1e-3)
    watcher = bench.watch(model, optimizer)
    for step in range(60):
        if step % 30 == 0:
            optimizer.zero_grad()
        loss = plain(step)
        loss.backward()
        optimizer.step()
        bench.loss(step, loss)
    watcher.remove()


@case("vanishing-gradients", tensors=("0.weight",), also=("not-learning",))
def deep_tanh_that_begins_too_small(bench: Bench) -> None:
    model, mix = mlp((16, *[40] * 9, 4), nn.Tanh), torch.randn(16, 4)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.03)

    def loss_of(step: int) -> torch.Tensor:
        x = torch.randn(64, 16)
        return F.cross_entropy(model(x), (x @ mix).argmax(1))

    bench.fit(model, SGD(model.parameters(), 0.05, 0.9), loss_of, 80)


@case("exploding-gradients", severity="error", also=("loss-spike", "loss-diverging", "lr-too-high"))
def deep_relu_with_normal_weights(bench: Bench) -> None:
    model, mix = mlp((16, *[48] * 7, 4), nn.LeakyReLU), torch.randn(16, 4)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight)

    def loss_of(step: int) -> torch.Tensor:
        x = torch.randn(64, 16)
        return F.cross_entropy(model(x), (x @ mix).argmax(1))

    bench.fit(model, SGD(model.parameters(), 1e-9), loss_of, 60)


@case("lr-too-high", also=("dead-units",))
def inputs_that_were_never_normalised(bench: Bench) -> None:
    model, mix = mlp((16, 64, 4)), torch.randn(16, 4)

    def loss_of(step: int) -> torch.Tensor:
        x = torch.randn(64, 16)
        return F.cross_entropy(model(200 + 50 * x), (x @ mix).argmax(1))

    bench.fit(model, SGD(model.parameters(), 0.1, 0.9), loss_of, 60)


@case("saturated-activations", tensors=("1",), also=("vanishing-gradients", "not-learning"))
def pixels_from_0_to_255_into_a_sigmoid(bench: Bench) -> None:
    model, mix = mlp((16, 64, 32, 4), nn.Sigmoid), torch.randn(16, 4)

    def loss_of(step: int) -> torch.Tensor:
        x = 255 * torch.rand(64, 16)
        return F.cross_entropy(model(x), ((x - 127) @ mix).argmax(1))

    bench.fit(model, SGD(model.parameters(), 0.01), loss_of, 60, log=("weights", "gradients", "activations"))


@case("adam-eps-dominates")
def loss_divided_by_the_size_of_the_data_set(bench: Bench) -> None:
    model = ResNet()
    plain = classify(model, Digits())
    bench.fit(model, Adam(model.parameters(), 1e-3), lambda step: plain(step) / 1e10, 50)


@case("lost-updates", tensors=("patch.weight",), first=0)
def vision_transformer_in_bfloat16(bench: Bench) -> None:
    model, task = Vit().bfloat16(), Patches()

    def loss_of(step: int) -> torch.Tensor:
        x, y = task.draw()
        return F.cross_entropy(model(x.bfloat16()).float(), y)

    bench.fit(model, AdamW(model.parameters(), 1e-6), loss_of, 50)


@case("not-learning")
def next_tokens_of_other_sentences(bench: Bench) -> None:
    model = Recurrent(nn.LSTM)

    def loss_of(step: int) -> torch.Tensor:
        tokens, other = torch.randint(24, (16, 12)), torch.randint(24, (16, 12))
        return F.cross_entropy(model(tokens).flatten(0, 1), other.flatten())

    bench.fit(model, AdamW(model.parameters(), 2e-3), loss_of, 150)


@case("frozen-moves", tensors=("stem.weight",), first=15)
def stem_frozen_while_momentum_goes_on(bench: Bench) -> None:
    model = ResNet()
    plain, optimizer = classify(model, Digits()), SGD(model.parameters(), 0.05, 0.9)
    watcher = bench.watch(model, optimizer)
    for step in range(40):
        optimizer.zero_grad(set_to_none=False)
        if step == 15:
            model.stem.requires_grad_(False)
        loss = plain(step)
        loss.backward()
        optimizer.step()
        bench.loss(step, loss)
    watcher.remove()


@case("constant-init", tensors=("layers.0.conv1.weight", "layers.1.conv1.weight"))
def filters_of_ones(bench: Bench) -> None:
    model = ResNet()
    for block in model.layers:
        nn.init.constant_(block.conv1.weight, 0.05)
        nn.init.constant_(block.conv2.weight, 0.05)
    bench.fit(model, SGD(model.parameters(), 0.02, 0.9), classify(model, Digits()), 40)


@case("optimizer-state-reset", first=30)
def state_forgotten_each_epoch(bench: Bench) -> None:
    model = Vit()
    optimizer = AdamW(model.parameters(), 1e-3)

    def after(step: int) -> None:
        if step % 30 == 29:
            optimizer.state.clear()

    bench.fit(model, optimizer, classify(model, Patches()), 80, after=after)


@case("weights-collapse", tensors=("blocks.layers.3.linear2.weight",))
def decay_of_twenty_in_a_vision_transformer(bench: Bench) -> None:
    model = Vit()
    bench.fit(model, AdamW(model.parameters(), 3e-3, weight_decay=20.0), classify(model, Patches()), 80)


@case("gradient-underflow", also=("adam-eps-dominates",))
def switch_transformer_in_float16_autocast(bench: Bench) -> None:
    model, task = Switch(), Sequences()

    def loss_of(step: int) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.float16):
            return task.loss(model)(step) / 500

    bench.fit(model, SGD(model.parameters(), 0.5), loss_of, 50)
