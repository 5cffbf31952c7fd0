"""Healthy trainings that no threshold was fitted on: other architectures, optimizers and losses."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from torch.nn import functional as F

from sets.bench import Bench, case
from sets.held_out_models import Lion, Patches, ResNet, Seq2Seq, Switch, Vit
from sets.models import Digits, Gpt, Points, Recurrent, Sequences, mlp

Adam, AdamW, SGD = torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD


@case()
def residual_cnn_with_nesterov(bench: Bench) -> None:
    model, task = ResNet(), Digits(batch=24)
    optimizer = SGD(model.parameters(), 0.1, 0.9, weight_decay=1e-4, nesterov=True)

    def loss_of(step: int) -> torch.Tensor:
        x, y = task.draw()
        return F.cross_entropy(model(x), y)

    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    bench.fit(model, optimizer, loss_of, 100, scheduler=scheduler)


@case()
def convolutional_autoencoder_with_rmsprop(bench: Bench) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 8, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 1, 4, 2, 1),
    )
    task = Digits(noise=0.1)

    def loss_of(step: int) -> torch.Tensor:
        x, _ = task.draw()
        return F.mse_loss(model(x), x)

    bench.fit(model, torch.optim.RMSprop(model.parameters(), 2e-3), loss_of, 150)


@case()
def sequence_to_sequence_with_attention(bench: Bench) -> None:
    model = Seq2Seq()

    def loss_of(step: int) -> torch.Tensor:
        tokens = torch.randint(1, 12, (32, 6))
        return F.cross_entropy(model(tokens, tokens.flip(1)).flatten(0, 1), tokens.flip(1).flatten())

    def before(step: int) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)

    bench.fit(model, Adam(model.parameters(), 4e-3), loss_of, 150, before=before)


@case()
def huber_regression_with_outliers(bench: Bench) -> None:
    model, mix = mlp((12, 48, 48, 1), nn.SiLU), torch.randn(12, 1)

    def loss_of(step: int) -> torch.Tensor:
        x = torch.randn(32, 12)
        noise = torch.where(torch.rand(32, 1) < 0.05, 30.0, 0.3) * torch.randn(32, 1)
        return F.huber_loss(model(x), x @ mix + noise)

    bench.fit(model, AdamW(model.parameters(), 3e-3), loss_of, 200)


@case()
def switch_transformer(bench: Bench) -> None:
    model, task = Switch(), Sequences()
    plain = task.loss(model)
    bench.fit(model, AdamW(model.parameters(), 3e-3), lambda step: plain(step) + 0.01 * model.balance(), 100)


@case()
def views_of_the_same_image(bench: Bench) -> None:
    model = nn.ModuleDict({"trunk": ResNet(classes=32), "head": mlp((32, 32, 16))})
    task = Digits(batch=24)

    def loss_of(step: int) -> torch.Tensor:
        x, _ = task.draw()
        views = [
            F.normalize(model["head"](model["trunk"](x + 0.5 * torch.randn_like(x))), dim=1) for _ in "ab"
        ]
        z = torch.cat(views)
        logits = (z @ z.T / 0.2).fill_diagonal_(-1e4)
        return F.cross_entropy(logits, torch.arange(48).roll(24))

    bench.fit(model, SGD(model.parameters(), 0.05, 0.9), loss_of, 100)


@case()
def gpt_with_lion(bench: Bench) -> None:
    model, task = Gpt(), Sequences()
    bench.fit(model, Lion(model.parameters(), 4e-4, 0.1), task.loss(model), 120)


@case()
def gpt_with_adafactor(bench: Bench) -> None:
    model, task = Gpt(tied=True), Sequences()
    bench.fit(model, torch.optim.Adafactor(model.parameters(), 1e-2), task.loss(model), 120)


@case()
def labels_of_which_many_are_wrong(bench: Bench) -> None:
    model, task = mlp((16, 128, 128, 4)), Points()

    def loss_of(step: int) -> torch.Tensor:
        x, y = task.draw()
        return F.cross_entropy(model(x), torch.where(torch.rand(64) < 0.4, torch.randint(4, (64,)), y))

    bench.fit(model, Adam(model.parameters(), 1e-3), loss_of, 200)


@case()
def one_example_a_step(bench: Bench) -> None:
    model, task = mlp((16, 32, 4), nn.Tanh), Points(batch=1)
    bench.fit(model, SGD(model.parameters(), 0.05), task.loss(model), 400)


@case()
def recommender_of_embeddings(bench: Bench) -> None:
    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.items = nn.Embedding(300, 12), nn.Embedding(200, 12)
            self.user_bias, self.item_bias = nn.Embedding(300, 1), nn.Embedding(200, 1)

        def forward(self, u: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
            return (self.users(u) * self.items(i)).sum(-1) / 4 + (self.user_bias(u) + self.item_bias(i))[
                ..., 0
            ]

    model, taste = Factors(), torch.randn(300, 3) @ torch.randn(3, 200)

    def loss_of(step: int) -> torch.Tensor:
        u, i = torch.randint(300, (128,)), (200 * torch.rand(128) ** 2).long()
        return F.mse_loss(model(u, i), taste[u, i])

    bench.fit(model, torch.optim.Adagrad(model.parameters(), 0.2), loss_of, 250)


@case()
def rare_class_in_a_recurrent_net(bench: Bench) -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.out = nn.RNN(4, 24, batch_first=True), nn.Linear(24, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.rnn(x)[1][0])

    model = Last()

    def loss_of(step: int) -> torch.Tensor:
        y = (torch.rand(64) < 0.05).long()
        x = torch.randn(64, 20, 4) + 0.7 * y[:, None, None]
        return F.cross_entropy(model(x), y)

    def before(step: int) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)

    bench.fit(model, Adam(model.parameters(), 2e-3), loss_of, 150, before=before)


@case()
def noise_predicted_by_a_diffusion_net(bench: Bench) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.time = nn.Linear(8, 64), nn.Linear(2, 64)
            self.norm, self.mid, self.last = nn.GroupNorm(8, 64), nn.Linear(64, 64), nn.Linear(64, 8)
            nn.init.zeros_(self.last.weight)

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            h = self.first(x) + self.time(torch.cat([t.sin(), t.cos()], 1))
            return self.last(h + F.silu(self.mid(F.silu(self.norm(h)))))

    model, mix = Net(), torch.randn(2, 8)
    average = copy.deepcopy(model)

    def loss_of(step: int) -> torch.Tensor:
        x, t, noise = torch.randn(64, 2) @ mix, torch.rand(64, 1) * math.pi / 2, torch.randn(64, 8)
        return F.mse_loss(model(t.cos() * x + t.sin() * noise, t), noise)

    def after(step: int) -> None:
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, 0.01)

    bench.fit(model, AdamW(model.parameters(), 2e-3), loss_of, 200, after=after)


@case()
def pupil_of_a_fixed_teacher(bench: Bench) -> None:
    nets = nn.ModuleDict({"pupil": mlp(), "teacher": mlp().requires_grad_(False)})

    def loss_of(step: int) -> torch.Tensor:
        x = torch.randn(64, 16)
        told = (4 * nets["teacher"](x)).log_softmax(1)
        return F.kl_div(nets["pupil"](x).log_softmax(1), told, log_target=True, reduction="batchmean")

    bench.fit(nets, Adam(nets["pupil"].parameters(), 2e-3), loss_of, 150)


@case()
def sines_that_draw_a_picture(bench: Bench) -> None:
    class Sine(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sin(10 * x)

    model = mlp((2, 48, 48, 1), Sine)
    grid = torch.cartesian_prod(torch.linspace(-1, 1, 16), torch.linspace(-1, 1, 16))
    picture = torch.sin(6 * grid[:, :1] * grid[:, 1:]) + (grid.norm(dim=1, keepdim=True) < 0.5)
    bench.fit(model, Adam(model.parameters(), 1e-3), lambda step: F.mse_loss(model(grid), picture), 200)


@case()
def logistic_regression_from_zero(bench: Bench) -> None:
    model, task = nn.Linear(16, 4), Points()
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    bench.fit(model, SGD(model.parameters(), 0.5), task.loss(model), 150)


@case()
def vision_transformer_with_warm_restarts(bench: Bench) -> None:
    model, task = Vit(), Patches()
    optimizer = AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 30)

    def loss_of(step: int) -> torch.Tensor:
        x, y = task.draw()
        return F.cross_entropy(model(x), y)

    bench.fit(model, optimizer, loss_of, 120, scheduler=scheduler)


@case()
def t5_that_repeats(bench: Bench) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=40,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        dropout_rate=0.0,
    )
    model = T5ForConditionalGeneration(config)

    def loss_of(step: int) -> torch.Tensor:
        tokens = torch.randint(2, 12, (24, 5))
        return model(input_ids=tokens, labels=tokens).loss

    bench.fit(model, AdamW(model.parameters(), 3e-3), loss_of, 100)


@case()
def policy_clipped_as_in_ppo(bench: Bench) -> None:
    net = nn.ModuleDict({"policy": mlp((6, 32, 3), nn.Tanh), "value": mlp((6, 32, 1), nn.Tanh)})
    optimizer, mix = Adam(net.parameters(), 3e-4, eps=1e-5), torch.randn(6, 3)
    bench.watch(net, optimizer)
    step = 0
    for _ in range(25):
        seen = torch.randn(128, 6)
        with torch.no_grad():
            old = torch.distributions.Categorical(logits=net["policy"](seen))
            action = old.sample()
        reward = (seen @ mix).gather(1, action[:, None])[:, 0]
        bench.writer.add_scalar("rollout/ep_rew_mean", float(reward.mean()), step)
        for chosen in torch.randperm(128).chunk(4):
            now = torch.distributions.Categorical(logits=net["policy"](seen[chosen]))
            ratio = (now.log_prob(action[chosen]) - old.log_prob(action)[chosen]).exp()
            value = net["value"](seen[chosen])[:, 0]
            gain = reward[chosen] - value.detach()
            surrogate = torch.min(ratio * gain, ratio.clamp(0.8, 1.2) * gain).mean()
            loss = -surrogate + 0.5 * F.mse_loss(value, reward[chosen]) - 0.01 * now.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            optimizer.step()
            bench.loss(step, loss, "train/loss")
            step += 1


@case()
def small_pieces_added_up(bench: Bench) -> None:
    model, task = Recurrent(nn.LSTM), Sequences(batch=2)
    plain, optimizer = task.loss(model), AdamW(model.parameters(), 5e-3)
    bench.watch(model, optimizer)
    for step in range(100):
        for _ in range(8):
            (plain(step) / 8).backward()
        bench.loss(step, plain(step))
        optimizer.step()
        optimizer.zero_grad()
