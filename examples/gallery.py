"""Use every ``add_*`` once: the run that docs/gallery.md shows.

    python examples/gallery.py runs/gallery                          # by fastlog
    python examples/gallery.py runs/gallery --library tensorboardX   # by tensorboardX, for comparison

Needs matplotlib, pillow, moviepy and onnx; for tensorboardX's audio soundfile too.
"""

from __future__ import annotations

import argparse
import importlib
import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot
import numpy as np
import onnx
import torch

matplotlib.use("Agg")
STEPS = 30
OPENVINO = """<net><layers>
  <layer id="0" name="image" type="Parameter"/> <layer id="1" name="conv" type="Convolution"/>
  <layer id="2" name="relu" type="ReLU"/> <layer id="3" name="prob" type="SoftMax"/>
</layers><edges>
  <edge from-layer="0" to-layer="1"/> <edge from-layer="1" to-layer="2"/> <edge from-layer="2" to-layer="3"/>
</edges></net>"""


def add_series(writer: Any, rng: np.random.Generator) -> None:
    """What changes from step to step: scalars, histograms, a precision-recall curve."""
    for step in range(STEPS):
        loss = math.exp(-step / 10)
        writer.add_scalar("loss/train", loss + 0.05 * rng.normal(), step)
        writer.add_scalars("loss/both", {"train": loss, "validation": loss + 0.1}, step)
        for name, noise in (("mean", 0.0), ("low", -0.2), ("high", 0.2)):
            writer.add_scalar(f"margin/{name}", loss + noise, step)
        writer.add_histogram("weights/layer", rng.normal(step / 20, 1 - step / 60, 20_000), step)
        limits = [-3.0, -2, -1, 0, 1, 2, 3]
        counts = [0, 1, 5 + step, 20, 20, 5, 1]
        writer.add_histogram_raw("weights/raw", -3, 3, sum(counts), 0, 50, limits, counts, step)
        labels = rng.integers(0, 2, 500)
        scores = (labels * step / STEPS + rng.random(500)) / 2
        writer.add_pr_curve("quality/all", labels, scores, step)
        positive = 100 - np.arange(0.0, 100, 10)
        writer.add_pr_curve_raw(
            "quality/raw",
            positive,
            positive * 0.5,
            100 - positive * 0.5,
            100 - positive,
            np.full(10, 2 / 3),
            positive / 100,
            step,
            num_thresholds=10,
        )


def add_media(writer: Any, rng: np.random.Generator) -> None:
    """Pictures, moving pictures, sound, text, meshes, points and one whole tensor."""
    x, y = np.meshgrid(np.linspace(0, 1, 64), np.linspace(0, 1, 64))
    picture = np.stack([x, y, 1 - x])
    writer.add_image("pictures/one", picture, 1)
    writer.add_images("pictures/batch", torch.from_numpy(np.stack([picture, 1 - picture])), 1)
    boxes = np.array([[8, 8, 30, 30], [34, 20, 60, 56]])
    writer.add_image_with_boxes("pictures/boxes", picture, boxes, 1)
    figure, axes = matplotlib.pyplot.subplots(figsize=(3, 2))
    axes.plot(np.sin(np.linspace(0, 10, 200)))
    writer.add_figure("pictures/figure", figure, 1)
    frames = np.stack([np.roll(picture, 4 * i, axis=2) for i in range(16)])[None]
    writer.add_video("pictures/video", (frames * 255).astype(np.uint8), 1, fps=8)
    writer.add_audio("sound", np.sin(np.arange(22_050) * 440 * 2 * math.pi / 22_050)[:, None], 1, 22_050)
    writer.add_text("notes", "# A note\n\n| step | loss |\n| --- | --- |\n| 1 | **0.9** |", 1)
    angle = np.linspace(0, 20, 2000)
    spiral = np.stack([np.cos(angle), np.sin(angle), angle / 10], axis=1)[None]
    colors = (np.stack([angle / 20, 1 - angle / 20, angle * 0], axis=1)[None] * 255).astype(np.uint8)
    writer.add_mesh("spiral", torch.from_numpy(spiral), torch.from_numpy(colors), global_step=1)
    centers = rng.normal(size=(3, 16)) * 3
    points = np.concatenate([center + rng.normal(size=(50, 16)) for center in centers])
    writer.add_embedding(points, [f"cluster {i // 50}" for i in range(150)], global_step=1)
    if hasattr(writer, "add_tensor"):
        writer.add_tensor("tensor", torch.eye(3), 1)


def add_structure(writer: Any, graphs: list[Any], folder: Path) -> None:
    """Graphs (a run shows one, so two have runs of their own), layouts of charts, hyperparameters."""
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    writer.add_graph(model, torch.zeros(1, 8))
    tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["h"]), onnx.helper.make_node("Exp", ["h"], ["y"])],
        "net",
        [tensor("x", onnx.TensorProto.FLOAT, [1, 3])],
        [tensor("y", onnx.TensorProto.FLOAT, [1, 3])],
    )
    onnx.save(onnx.helper.make_model(graph), folder / "net.onnx")
    (folder / "net.xml").write_text(OPENVINO)
    graphs[0].add_onnx_graph(str(folder / "net.onnx"))
    graphs[1].add_openvino_graph(str(folder / "net.xml"))
    margin = ["Margin", ["margin/mean", "margin/low", "margin/high"]]
    writer.add_custom_scalars({"charts": {"loss": ["Multiline", ["loss/.*"]], "margin": margin}})
    for rate in (0.1, 0.01, 0.001):
        writer.add_hparams({"lr": rate, "layers": 2}, {"accuracy": 0.9 - rate}, f"trial-{rate}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("logdir", type=Path)
    parser.add_argument("--library", default="fastlog", choices=["fastlog", "tensorboardX"])
    args = parser.parse_args()
    writer_of = importlib.import_module(args.library).SummaryWriter
    rng = np.random.default_rng(0)
    with writer_of(str(args.logdir)) as writer:
        graphs = [writer_of(str(args.logdir / name)) for name in ("onnx", "openvino")]
        add_series(writer, rng)
        add_media(writer, rng)
        add_structure(writer, graphs, args.logdir)
        for other in graphs:
            other.close()
    print(f"see it with: tensorboard --logdir {args.logdir}")


if __name__ == "__main__":
    main()
