"""Healthy trainings: small versions of the classic examples."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from torch.nn import functional as F

from sets.bench import Bench, case
from sets.models import (
    Cnn,
    Digits,
    Gpt,
    Points,
    Recurrent,
    Sequences,
    mlp,
    warm_up_and_decay,
)

Adam, AdamW, SGD = torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD
ALL = ("weights", "gradients", "updates", "optimizer_state", "activations", "activation_gradients")


@case(quick=True)
def mlp_with_adam(bench: Bench) -> None:
    model, task = mlp(), Points()
    bench.fit(model, Adam(model.parameters()), task.loss(model), 150, log=ALL)


@case(quick=True)
def cnn_with_momentum(bench: Bench) -> None:
    model, task = Cnn(), Digits()

    def loss_of(step: int) -> torch.Tensor:
        x, y = task.draw()
        return F.cross_entropy(model(x), y)

    bench.fit(
        model, SGD(model.parameters(), 0.02, 0.9, weight_decay=5e-4, nesterov=True), loss_of, 120, log=ALL
    )


@case()
def vae(bench: Bench) -> None:
    class Vae(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.mean, self.log_var = nn.Linear(144, 64), nn.Linear(64, 8), nn.Linear(64, 8)
            self.fc3, self.fc4 = nn.Linear(8, 64), nn.Linear(64, 144)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            h = F.relu(self.fc1(x))
            mean, log_var = self.mean(h), self.log_var(h)
            z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
            return torch.sigmoid(self.fc4(F.relu(self.fc3(z)))), mean, log_var

    model, task = Vae(), Digits()

    def loss_of(step: int) -> torch.Tensor:
        x = torch.sigmoid(task.draw()[0]).flatten(1)
        out, mean, log_var = model(x)
        kl = -0.5 * torch.sum(1 + log_var - mean.square() - log_var.exp())
        return (F.binary_cross_entropy(out, x, reduction="sum") + kl) / len(x)

    bench.fit(model, Adam(model.parameters(), 1e-3), loss_of, 150)


@case()
def vae_whose_divergence_is_phased_in(bench: Bench) -> None:
    model = mlp((16, 64, 16))
    decoder = mlp((8, 64, 16))
    whole = nn.ModuleDict({"encoder": model, "decoder": decoder})
    mix = torch.randn(16, 16) / 4

    def loss_of(step: int) -> torch.Tensor:
        x = torch.randn(64, 16) @ mix
        mean, log_var = model(x).chunk(2, 1)
        out = decoder(mean + torch.exp(0.5 * log_var) * torch.randn_like(mean))
        kl = -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum(1).mean()
        return (out - x).square().sum(1).mean() + min(1.0, step / 150) * 0.3 * kl

    bench.fit(whole, Adam(whole.parameters(), 2e-3), loss_of, 220)


@case()
def gan(bench: Bench) -> None:
    generator = nn.Sequential(nn.Linear(8, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 16), nn.Tanh())
    critic = nn.Sequential(nn.Linear(16, 64), nn.LeakyReLU(0.2), nn.Dropout(0.3), nn.Linear(64, 1))
    for_g, for_d = (
        Adam(generator.parameters(), 2e-4, (0.5, 0.999)),
        Adam(critic.parameters(), 2e-4, (0.5, 0.999)),
    )
    bench.watch(generator, for_g, log=("weights", "gradients", "activations"))
    bench.watch(critic, for_d, log=("weights", "gradients", "activations"))
    mix, one, zero = torch.randn(4, 16), torch.ones(64, 1), torch.zeros(64, 1)
    score = F.binary_cross_entropy_with_logits
    for step in range(150):
        real, fake = torch.tanh(torch.randn(64, 4) @ mix), generator(torch.randn(64, 8))
        critic.zero_grad()
        loss_d = score(critic(real), one) + score(critic(fake.detach()), zero)
        loss_d.backward()
        for_d.step()
        generator.zero_grad()
        loss_g = score(critic(fake), one)
        loss_g.backward()
        for_g.step()
        bench.loss(step, loss_d, "loss/discriminator")
        bench.loss(step, loss_g, "loss/generator")


@case()
def gan_in_one_watch(bench: Bench) -> None:
    nets = nn.ModuleDict({"g": mlp((8, 64, 16)), "d": mlp((16, 64, 1))})
    for_g, for_d = (
        Adam(nets["g"].parameters(), 2e-4, (0.5, 0.999)),
        Adam(nets["d"].parameters(), 2e-4, (0.5, 0.999)),
    )
    bench.watch(nets, [for_g, for_d])
    mix, one, zero = torch.randn(4, 16), torch.ones(64, 1), torch.zeros(64, 1)
    score = F.binary_cross_entropy_with_logits
    for step in range(120):
        for_d.zero_grad()
        real, fake = torch.randn(64, 4) @ mix, nets["g"](torch.randn(64, 8))
        loss_d = score(nets["d"](real), one) + score(nets["d"](fake.detach()), zero)
        loss_d.backward()
        for_d.step()
        bench.loss(step, loss_d, "d_loss")
        if step % 5 == 4:  # as Wasserstein GANs do it
            for_g.zero_grad()
            loss_g = score(nets["d"](fake), one)
            loss_g.backward()
            for_g.step()
            bench.loss(step, loss_g, "g_loss")


class Corridor:
    """An agent that has to walk to the end: 4 numbers are seen, 2 actions, episodes of up to 30 steps."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> torch.Tensor:
        self.at, self.time = 0.0, 0
        return self._seen()

    def _seen(self) -> torch.Tensor:
        return torch.tensor([self.at / 5, math.sin(self.at), self.time / 30, 1.0])

    def step(self, action: int) -> tuple[torch.Tensor, float, bool]:
        self.at += (1.0 if action else -1.0) + 0.3 * float(torch.randn(()))
        self.time += 1
        return self._seen(), self.at / 10, self.at > 5 or self.time >= 30


@case()
def reinforce(bench: Bench) -> None:
    policy, env = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.6), nn.ReLU(), nn.Linear(64, 2)), Corridor()
    optimizer = Adam(policy.parameters(), 1e-2)
    bench.watch(policy, optimizer)
    for episode in range(80):
        seen, log_probs, rewards, done = env.reset(), [], [], False
        while not done:
            choice = torch.distributions.Categorical(logits=policy(seen))
            action = choice.sample()
            log_probs.append(choice.log_prob(action))
            seen, reward, done = env.step(int(action))
            rewards.append(reward)
        returns = torch.tensor(
            [sum(r * 0.99**k for k, r in enumerate(rewards[t:])) for t in range(len(rewards))]
        )
        returns = (returns - returns.mean()) / (returns.std() + 1e-6)
        optimizer.zero_grad()
        loss = -(torch.stack(log_probs) * returns).sum()
        loss.backward()
        optimizer.step()
        bench.loss(episode, loss)
        if bench.seed % 2:
            bench.loss(episode, sum(rewards), "reward")


@case()
def actor_critic(bench: Bench) -> None:
    net = nn.ModuleDict({"body": nn.Linear(4, 64), "action": nn.Linear(64, 2), "value": nn.Linear(64, 1)})
    optimizer, env = Adam(net.parameters(), 3e-3), Corridor()
    bench.watch(net, optimizer)
    for episode in range(80):
        seen, saved, rewards, done = env.reset(), [], [], False
        while not done:
            h = F.relu(net["body"](seen))
            choice = torch.distributions.Categorical(logits=net["action"](h))
            action = choice.sample()
            saved.append((choice.log_prob(action), net["value"](h)))
            seen, reward, done = env.step(int(action))
            rewards.append(reward)
        returns = torch.tensor(
            [sum(r * 0.99**k for k, r in enumerate(rewards[t:])) for t in range(len(rewards))]
        )
        loss = torch.stack(
            [
                -p * (r - v.item()) + F.smooth_l1_loss(v, r[None])
                for (p, v), r in zip(saved, returns, strict=True)
            ]
        ).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bench.loss(episode, loss)


@case()
def q_learning_with_a_target_network(bench: Bench) -> None:
    nets = nn.ModuleDict({"q": mlp((4, 64, 2))})
    nets["target"] = copy.deepcopy(nets["q"])
    optimizer, env = Adam(nets["q"].parameters(), 1e-3), Corridor()
    bench.watch(nets, optimizer)
    memory: list[tuple[torch.Tensor, int, float, torch.Tensor, bool]] = []
    seen = env.reset()
    for step in range(300):
        action = int(torch.rand(()) < 0.5) if torch.rand(()) < 0.3 else int(nets["q"](seen).argmax())
        following, reward, done = env.step(action)
        memory.append((seen, action, reward, following, done))
        seen = env.reset() if done else following
        if step >= 64 and step % 2 == 0:
            chosen = [memory[int(i)] for i in torch.randint(len(memory), (32,))]
            s, a, r, n, d = zip(*chosen, strict=True)
            with torch.no_grad():
                best = nets["target"](torch.stack(n)).max(1).values * ~torch.tensor(d)
            value = nets["q"](torch.stack(s)).gather(1, torch.tensor(a)[:, None])[:, 0]
            loss = F.smooth_l1_loss(value, torch.tensor(r) + 0.95 * best)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            bench.loss(step // 2 - 32, loss)
        if step % 50 == 0:
            nets["target"].load_state_dict(nets["q"].state_dict())


@case(quick=True)
def lstm_language_model(bench: Bench) -> None:
    model, task = Recurrent(nn.LSTM), Sequences()

    def before(step: int) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)

    bench.fit(model, SGD(model.parameters(), 2.0), task.loss(model), 120, before=before)


@case()
def gru_with_adam(bench: Bench) -> None:
    model, task = Recurrent(), Sequences()
    bench.fit(model, Adam(model.parameters(), 2e-3), task.loss(model), 120)


@case(quick=True)
def gpt_with_warm_up_from_zero_and_decay_to_zero(bench: Bench) -> None:
    model, task = Gpt(tied=True), Sequences()
    optimizer = AdamW(model.parameters(), 3e-3, (0.9, 0.95), weight_decay=0.1)

    def before(step: int) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)

    bench.fit(
        model,
        optimizer,
        task.loss(model),
        120,
        before=before,
        scheduler=warm_up_and_decay(optimizer, 120, 20),
        log=ALL,
    )


@case()
def siamese_with_a_margin(bench: Bench) -> None:
    net = mlp((16, 64, 8))
    mix = torch.randn(16, 4)
    optimizer = torch.optim.Adadelta(net.parameters(), 1.0)

    def loss_of(step: int) -> torch.Tensor:
        a, b = torch.randn(2, 64, 16)
        same = (torch.rand(64) < 0.5)[:, None]
        b = torch.where(same, a + 0.1 * torch.randn(64, 16), b)
        far = (net(a @ mix @ mix.T / 8) - net(b @ mix @ mix.T / 8)).square().sum(1).add(1e-9).sqrt()
        return torch.where(same[:, 0], far.square(), F.relu(1 - far).square()).mean()

    bench.fit(net, optimizer, loss_of, 150)


@case()
def triplets_until_none_violates_the_margin(bench: Bench) -> None:
    net = mlp((16, 64, 8))
    centres = torch.randn(6, 16)

    def loss_of(step: int) -> torch.Tensor:
        own, other = torch.randint(6, (32,)), torch.randint(1, 6, (32,))
        anchor, positive = (net(centres[own] + 0.4 * torch.randn(32, 16)) for _ in range(2))
        return F.triplet_margin_loss(
            anchor, positive, net(centres[(own + other) % 6] + 0.2 * torch.randn(32, 16)), margin=0.5
        )

    bench.fit(net, Adam(net.parameters(), 1e-3), loss_of, 150)


@case()
def graph_convolution_on_one_graph(bench: Bench) -> None:
    nodes, classes = 200, 5
    labels = torch.randint(classes, (nodes,))
    likely = torch.where(labels[:, None] == labels, 0.06, 0.005)
    edges = (torch.rand(nodes, nodes) < likely).float().triu(1) + torch.eye(nodes)
    edges = edges + edges.T
    degree = edges.sum(1).rsqrt()
    spread = degree[:, None] * edges * degree
    features = (torch.rand(nodes, 64) < 0.05).float() + F.one_hot(labels, 64) * (torch.rand(nodes, 1) < 0.3)
    net = nn.ModuleDict({"gc1": nn.Linear(64, 16), "gc2": nn.Linear(16, classes)})
    known = torch.arange(0, nodes, 4)

    def loss_of(step: int) -> torch.Tensor:
        h = F.dropout(F.relu(spread @ net["gc1"](F.dropout(features, 0.5))), 0.5)
        return F.cross_entropy((spread @ net["gc2"](h))[known], labels[known])

    bench.fit(net, Adam(net.parameters(), 0.01, weight_decay=5e-4), loss_of, 150)


@case()
def autoencoder_with_sigmoids(bench: Bench) -> None:
    model = nn.Sequential(nn.Linear(32, 16), nn.Sigmoid(), nn.Linear(16, 32), nn.Sigmoid())
    mix = torch.randn(4, 32)

    def loss_of(step: int) -> torch.Tensor:
        x = torch.sigmoid(torch.randn(64, 4) @ mix)
        return F.mse_loss(model(x), x)

    bench.fit(
        model, Adam(model.parameters(), 1e-2), loss_of, 150, log=("weights", "gradients", "activations")
    )


@case()
def contrastive_with_a_learnt_temperature(bench: Bench) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image, self.text = mlp((16, 64, 16)), mlp((12, 64, 16))
            self.log_scale = nn.Parameter(torch.tensor(2.0))

    model = Pair()
    one, other = torch.randn(6, 16), torch.randn(6, 12)

    def loss_of(step: int) -> torch.Tensor:
        z = torch.randn(32, 6)
        a, b = F.normalize(model.image(z @ one), dim=1), F.normalize(model.text(z @ other), dim=1)
        logits = a @ b.T * model.log_scale.exp()
        return (F.cross_entropy(logits, torch.arange(32)) + F.cross_entropy(logits.T, torch.arange(32))) / 2

    bench.fit(model, AdamW(model.parameters(), 1e-3), loss_of, 150)


@case()
def regression_at_its_noise_floor(bench: Bench) -> None:
    model = mlp((16, 64, 1))
    mix = torch.randn(16, 1)

    def loss_of(step: int) -> torch.Tensor:
        x = torch.randn(64, 16)
        return F.mse_loss(model(x), x @ mix / 4 + 2 * torch.randn(64, 1))

    bench.fit(model, Adam(model.parameters(), 3e-3), loss_of, 200)
