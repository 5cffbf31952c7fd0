"""A second round of held-out runs, written when what the first one had shown was mended."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from torch.nn import functional as F

from sets.bench import Bench, case
from sets.held_out_models import ResNet
from sets.models import Digits, Gpt, Loss, Points, Recurrent, Sequences, mlp, warm_up_and_decay

Adam, AdamW, SGD = torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD


def classify(model: nn.Module, task: Digits | Points) -> Loss:
    def loss_of(step: int) -> torch.Tensor:
        x, y = task.draw()
        return F.cross_entropy(model(x), y)

    return loss_of


# ---- planted


@case("lr-too-high", also=("dead-units", "loss-diverging", "exploding-gradients", "saturated-activations"))
def lstm_at_one(bench: Bench) -> None:
    model, task = Recurrent(nn.LSTM), Sequences()
    bench.fit(model, Adam(model.parameters(), 1.0), task.loss(model), 80)


@case("lr-too-high", also=("dead-units", "loss-diverging", "exploding-gradients", "nonfinite", "loss-spike"))
def cnn_with_sgd_at_fifty(bench: Bench) -> None:
    from sets.models import Cnn

    model = Cnn(norm=False)
    bench.fit(model, SGD(model.parameters(), 5.0, 0.9), classify(model, Digits()), 60)


@case("lr-too-high", also=("dead-units", "loss-diverging", "exploding-gradients"))
def gpt_in_bfloat16_autocast_at_a_tenth(bench: Bench) -> None:
    model, task = Gpt(depth=2), Sequences()

    def loss_of(step: int) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return task.loss(model)(step)

    bench.fit(model, AdamW(model.parameters(), 0.15), loss_of, 80)


@case("not-optimised", tensors=("wte.weight",), first=0)
def embedding_resized_after_the_optimizer(bench: Bench) -> None:
    model, task = Gpt(), Sequences()
    optimizer = AdamW(model.parameters(), 1e-3)
    model.wte = nn.Embedding(32, 32)
    bench.fit(model, optimizer, task.loss(model), 40)


@case("no-gradient", tensors=("0.weight", "2.weight"), first=0)
def code_taken_by_data(bench: Bench) -> None:
    model, mix = mlp((24, 32, 6, 32, 24)), torch.randn(5, 24)

    def loss_of(step: int) -> torch.Tensor:
        x = torch.randn(32, 5) @ mix
        return F.l1_loss(model[3:](model[:3](x).data), x)

    bench.fit(model, Adam(model.parameters(), 1e-3), loss_of, 40)


@case("vanishing-gradients", tensors=("0.weight",), also=("not-learning",))
def deep_convolutions_with_sigmoids(bench: Bench) -> None:
    layers: list[nn.Module] = [nn.Conv2d(1, 8, 3, 1, 1), nn.Sigmoid()]
    for _ in range(7):
        layers += [nn.Conv2d(8, 8, 3, 1, 1), nn.Sigmoid()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    bench.fit(model, SGD(model.parameters(), 0.1), classify(model, Digits()), 80)


@case("nonfinite", severity="error", first=0)
def scaler_that_can_not_help(bench: Bench) -> None:
    model, task = mlp(), Points()
    optimizer, scaler = SGD(model.parameters(), 0.1), torch.amp.GradScaler("cpu", init_scale=2.0**16)
    bench.watch(model, optimizer)
    for step in range(60):
        x, y = task.draw()
        with torch.autocast("cpu", dtype=torch.float16):
            logits = model(x * 1e5)
        optimizer.zero_grad()
        loss = F.cross_entropy(logits.float(), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        bench.loss(step, loss)


@case("nonfinite", first=20, severity="error")
def distance_of_two_points_that_are_one(bench: Bench) -> None:
    model = mlp((8, 32, 4))

    def loss_of(step: int) -> torch.Tensor:
        a, b = torch.randn(2, 32, 8)
        b = torch.where(torch.arange(32)[:, None] == 3, a, b) if step >= 20 else b
        return (model(a) - model(b)).square().sum(1).sqrt().sub(1).square().mean()

    bench.fit(model, Adam(model.parameters(), 1e-3), loss_of, 40)


@case("dead-units", tensors=("conv1.bias",))
def convolution_with_a_low_bias(bench: Bench) -> None:
    from sets.models import Cnn

    model = Cnn(norm=False)
    with torch.no_grad():
        model.conv1.bias[:7] -= 30
    bench.fit(model, AdamW(model.parameters(), 1e-3), classify(model, Digits()), 60)


@case("weight-outlier", tensors=("blocks.1.attn.value.weight",))
def one_matrix_with_a_rate_of_its_own(bench: Bench) -> None:
    model, task = Gpt(depth=5), Sequences()
    value = model.blocks[1].attn.value.weight
    groups = [{"params": [value], "lr": 0.05}, {"params": [p for p in model.parameters() if p is not value]}]
    bench.fit(model, AdamW(groups, 5e-4), task.loss(model), 80)


# ---- healthy


@case()
def segmentation_by_dice_and_entropy(bench: Bench) -> None:
    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down1, self.down2 = nn.Conv2d(1, 8, 3, 1, 1), nn.Conv2d(8, 16, 3, 2, 1)
            self.up, self.out = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(16, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a = F.relu(self.down1(x))
            return self.out(torch.cat([a, F.relu(self.up(F.relu(self.down2(a))))], 1))

    model = UNet()

    def loss_of(step: int) -> torch.Tensor:
        centre = torch.randint(3, 9, (16, 2, 1, 1)).float()
        at = torch.arange(12.0)
        mask = ((at[:, None] - centre[:, 0]) ** 2 + (at - centre[:, 1]) ** 2 < 9).float()[:, None]
        logits = model(mask + 0.7 * torch.randn(16, 1, 12, 12))
        share = logits.sigmoid()
        dice = 1 - 2 * (share * mask).sum() / (share.sum() + mask.sum())
        return F.binary_cross_entropy_with_logits(logits, mask) + dice

    bench.fit(model, AdamW(model.parameters(), 3e-3), loss_of, 120)


@case()
def masked_language_model(bench: Bench) -> None:
    from transformers import BertConfig, BertForMaskedLM

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    model, task = BertForMaskedLM(BertConfig(vocab_size=26, max_position_embeddings=32, **shape)), Sequences()
    optimizer = AdamW(model.parameters(), 3e-3, weight_decay=0.01)

    def loss_of(step: int) -> torch.Tensor:
        tokens = task.draw()
        hidden = torch.rand(tokens.shape) < 0.2
        labels = torch.where(hidden, tokens, -100)
        return model(input_ids=torch.where(hidden, 25, tokens), labels=labels).loss

    bench.fit(model, optimizer, loss_of, 120, scheduler=warm_up_and_decay(optimizer, 120, 12))


@case()
def mixed_images_at_a_high_rate(bench: Bench) -> None:
    model, task = ResNet(), Digits(batch=24)

    def loss_of(step: int) -> torch.Tensor:
        x, y = task.draw()
        share = float(torch.rand(()))
        logits = model(share * x + (1 - share) * x.flip(0))
        return share * F.cross_entropy(logits, y) + (1 - share) * F.cross_entropy(logits, y.flip(0))

    optimizer = SGD(model.parameters(), 0.4, 0.9)
    bench.fit(model, optimizer, loss_of, 100, scheduler=warm_up_and_decay(optimizer, 100, 10))


@case()
def forecast_by_absolute_errors(bench: Bench) -> None:
    model = nn.Sequential(nn.Conv1d(1, 16, 5, padding=2), nn.ELU(), nn.Conv1d(16, 16, 5, padding=2), nn.ELU())
    whole = nn.Sequential(model, nn.Flatten(), nn.Linear(16 * 24, 6))

    def loss_of(step: int) -> torch.Tensor:
        start, pace = 6 * torch.rand(32, 1), 0.2 + 0.3 * torch.rand(32, 1)
        series = torch.sin(start + pace * torch.arange(30)) + 0.1 * torch.randn(32, 30)
        return F.l1_loss(whole(series[:, None, :24]), series[:, 24:])

    bench.fit(whole, torch.optim.NAdam(whole.parameters(), 2e-3), loss_of, 150)


@case()
def angles_with_a_margin(bench: Bench) -> None:
    class Arc(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.centres = mlp((16, 64, 16)), nn.Parameter(torch.randn(6, 16))

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            cosine = F.normalize(self.trunk(x), dim=1) @ F.normalize(self.centres, dim=1).T
            angle = torch.acos(cosine.clamp(-0.999, 0.999))
            return F.cross_entropy(12 * torch.cos(angle + 0.3 * F.one_hot(y, 6)), y)

    model, centres = Arc(), torch.randn(6, 16)

    def loss_of(step: int) -> torch.Tensor:
        y = torch.randint(6, (48,))
        return model(centres[y] + 0.8 * torch.randn(48, 16), y)

    bench.fit(model, torch.optim.RAdam(model.parameters(), 5e-3), loss_of, 150)


@case()
def critic_with_a_gradient_penalty(bench: Bench) -> None:
    generator, critic = mlp((6, 48, 8)), mlp((8, 48, 1), nn.SiLU)
    for_g, for_c = (Adam(net.parameters(), 5e-4, (0.0, 0.9)) for net in (generator, critic))
    bench.watch(generator, for_g)
    bench.watch(critic, for_c)
    mix = torch.randn(3, 8)
    for step in range(100):
        for _ in range(2):
            real, fake = torch.tanh(torch.randn(48, 3) @ mix), generator(torch.randn(48, 6)).detach()
            share = torch.rand(48, 1)
            between = (share * real + (1 - share) * fake).requires_grad_()
            (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
            loss = critic(fake).mean() - critic(real).mean() + 10 * (slope.norm(dim=1) - 1).square().mean()
            for_c.zero_grad()
            loss.backward()
            for_c.step()
        for_g.zero_grad()
        ahead = -critic(generator(torch.randn(48, 6))).mean()
        ahead.backward()
        for_g.step()
        bench.loss(step, loss, "loss/critic")
        bench.loss(step, ahead, "loss/generator")


@case()
def gpt2_with_lora_in_bfloat16_autocast(bench: Bench) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    base = GPT2LMHeadModel(GPT2Config(vocab_size=24, n_positions=32, n_embd=32, n_layer=2, n_head=4))
    config = LoraConfig(target_modules=["c_attn", "c_fc"], r=8, lora_alpha=32, fan_in_fan_out=True)
    model, task = get_peft_model(base, config), Sequences(noise=0.0)
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)

    def loss_of(step: int) -> torch.Tensor:
        tokens = task.draw()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(input_ids=tokens, labels=tokens).loss

    bench.fit(model, optimizer, loss_of, 120, scheduler=warm_up_and_decay(optimizer, 120, 10))


@case()
def preferences_against_a_fixed_reference(bench: Bench) -> None:
    nets = nn.ModuleDict({"policy": mlp((12, 48, 8))})
    nets["reference"] = copy.deepcopy(nets["policy"]).requires_grad_(False)
    mix = torch.randn(12, 8)

    def loss_of(step: int) -> torch.Tensor:
        x = torch.randn(64, 12)
        pair = torch.randint(8, (64, 2))
        worth = (x @ mix).gather(1, pair)
        pair = torch.where((worth[:, :1] > worth[:, 1:]), pair, pair.flip(1))
        ahead = nets["policy"](x).log_softmax(1) - nets["reference"](x).log_softmax(1)
        chosen, other = ahead.gather(1, pair).unbind(1)
        return -F.logsigmoid(0.5 * (chosen - other)).mean()

    bench.fit(nets, Adam(nets["policy"].parameters(), 1e-3), loss_of, 120)


@case()
def all_of_the_data_at_each_step(bench: Bench) -> None:
    model = mlp((6, 24, 24, 1), nn.Sigmoid)
    x = torch.randn(128, 6)
    y = torch.sin(x @ torch.randn(6, 1)) * math.pi
    optimizer = SGD(model.parameters(), 0.05, 0.9)
    bench.fit(model, optimizer, lambda step: F.mse_loss(model(x), y), 900, every=6)
