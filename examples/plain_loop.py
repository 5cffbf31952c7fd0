"""The shortest training loop with everything logged: against tensorboardX, only the import line changes."""

import sys

import torch

from fastlog import SummaryWriter  # was: from tensorboardX import SummaryWriter

torch.manual_seed(0)
inputs = torch.randn(512, 16)
targets = inputs.sin().sum(dim=1, keepdim=True)
model = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

with SummaryWriter(sys.argv[1] if len(sys.argv) > 1 else "runs/plain_loop") as writer:
    for step in range(100):
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        writer.add_scalar("loss/train", loss, step)
        for name, param in model.named_parameters():
            writer.add_histogram(f"weights/{name}", param.data, step)
            writer.add_histogram(f"gradients/{name}", param.grad, step)

print(f"loss {loss.item():.4f}; see it with: tensorboard --logdir {writer.logdir}")
