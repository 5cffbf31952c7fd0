"""fastlog's writers in the places of the libraries' own: in a process, and by ``python -m fastlog run``."""

import importlib
import os
import pickle
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorboardX
import tensorboardX.global_writer
import torch
import torch.utils.tensorboard
from event_files import events, files, scalars, values
from tensorboard.compat.proto.summary_pb2 import Summary

import fastlog
from fastlog.install import TorchSummaryWriter

TBX, TORCH = tensorboardX.SummaryWriter, torch.utils.tensorboard.SummaryWriter
GLOBAL = tensorboardX.GlobalSummaryWriter
PLACES = [
    ("tensorboardX", "SummaryWriter", TBX, fastlog.SummaryWriter),
    ("tensorboardX.writer", "SummaryWriter", TBX, fastlog.SummaryWriter),
    ("tensorboardX", "GlobalSummaryWriter", GLOBAL, fastlog.GlobalSummaryWriter),
    ("tensorboardX.global_writer", "GlobalSummaryWriter", GLOBAL, fastlog.GlobalSummaryWriter),
    ("torch.utils.tensorboard", "SummaryWriter", TORCH, TorchSummaryWriter),
    ("torch.utils.tensorboard.writer", "SummaryWriter", TORCH, TorchSummaryWriter),
]


@pytest.fixture
def installed() -> Iterator[None]:
    fastlog.install()
    yield
    fastlog.uninstall()


def in_place() -> list[type]:
    return [getattr(importlib.import_module(module), name) for module, name, *_ in PLACES]


def test_install_and_uninstall() -> None:
    theirs, ours = [place[2] for place in PLACES], [place[3] for place in PLACES]
    for _ in range(2):
        fastlog.install()
        fastlog.install()
        assert in_place() == ours
        fastlog.uninstall()
        fastlog.uninstall()
        assert in_place() == theirs
    assert TBX in fastlog.SummaryWriter.__mro__


def test_modules_that_have_the_name_already(monkeypatch: pytest.MonkeyPatch) -> None:
    early, late = types.ModuleType("early"), types.ModuleType("late")
    for module in (early, late):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(
        "from torch.utils.tensorboard import SummaryWriter as W\nfrom tensorboardX import SummaryWriter",
        vars(early),
    )
    fastlog.install()
    try:
        exec("from tensorboardX.writer import SummaryWriter", vars(late))
        assert (early.W, early.SummaryWriter) == (TorchSummaryWriter, fastlog.SummaryWriter)
        assert late.SummaryWriter is fastlog.SummaryWriter
        early.W = str  # somebody else's business from now on
    finally:
        fastlog.uninstall()
    assert (early.W, early.SummaryWriter) == (str, TBX)


@pytest.mark.usefixtures("installed")
def test_our_base_class_stays_tensorboardXs_own(tmp_path: Path) -> None:
    with tensorboardX.SummaryWriter(tmp_path) as writer:
        assert isinstance(writer, TBX) and type(writer) is fastlog.SummaryWriter
        writer.add_custom_scalars_multilinechart(["a"])  # inherited: calls tensorboardX's code
        writer.add_scalar("loss (train)", 1.0, 1)
        copy = pickle.loads(pickle.dumps(writer))
        copy.add_scalar("copy", 1.0, 1)
        copy.close()
    assert {"custom_scalars__config__", "loss__train_", "copy"} == set(values(tmp_path))


def torchs_calls(writer: Any) -> None:
    """What torch writes with a tag of the caller's."""
    tag, pixels = "a (b)/ü:c", np.zeros((3, 4, 4), np.uint8)
    writer.add_scalar("/" + tag, 1.0, 1, 5.0)
    writer.add_scalar(tag + "new", 1.0, 1, 5.0, new_style=True)
    writer.add_scalars(tag, {"x y": 1.0, "d/e": 2.0}, 1, 5.0)
    writer.add_histogram(tag + "h", np.arange(5.0), 1, walltime=5.0)
    writer.add_histogram(tag + "hb", np.arange(5.0), 1, "auto", 5.0)
    writer.add_image(tag + "i", pixels, 1, 5.0)
    writer.add_images(tag + "is", pixels[None], 1, 5.0)
    writer.add_image_with_boxes(tag + "b", pixels, np.array([[0, 0, 2, 2]]), 1, 5.0)
    writer.add_text(tag + "t", "text", 1, 5.0)
    writer.add_pr_curve(tag + "p", np.array([0, 1]), np.array([0.1, 0.9]), 1, walltime=5.0)
    writer.add_tensor(tag + "x", torch.ones(2), 1, 5.0)
    writer.add_mesh(tag + "m", np.zeros((1, 2, 3)), np.zeros((1, 2, 3)), np.zeros((1, 1, 3)), None, 1, 5.0)
    writer.add_hparams({"l (r)": 0.1}, {"m (x)": 1.0}, run_name="run (1)", global_step=1)


def tags_by_directory(logdir: Path) -> dict[str, list[str]]:
    """Sorted: what takes long to encode stands behind what does not."""
    return {
        str(path.parent.relative_to(logdir)): sorted(
            value.tag for event in events(path) for value in event.summary.value
        )
        for path in files(logdir)
    }


def test_torchs_names_go_on(tmp_path: Path) -> None:
    with TORCH(str(tmp_path / "theirs")) as writer:
        torchs_calls(writer)
    fastlog.install()
    try:
        with torch.utils.tensorboard.SummaryWriter(tmp_path / "ours") as writer:
            torchs_calls(writer)
    finally:
        fastlog.uninstall()
    assert tags_by_directory(tmp_path / "ours") == tags_by_directory(tmp_path / "theirs")
    assert (
        scalars(tmp_path / "ours/run (1)")[-1]
        == scalars(tmp_path / "theirs/run (1)")[-1]
        == ("m (x)", 1, 1.0)
    )


@pytest.mark.parametrize("step", [None, 0, 5, torch.tensor(7)])
def test_a_session_of_hyperparameters_has_the_step_that_torch_gives_it(step: Any, tmp_path: Path) -> None:
    def steps(name: str) -> list[tuple[int, list[str]]]:
        (path,) = files(tmp_path / name / "trial")
        return [(event.step, [value.tag for value in event.summary.value]) for event in events(path)[1:]]

    for kind, name in ((TORCH, "theirs"), (TorchSummaryWriter, "ours")):
        with kind(str(tmp_path / name)) as writer:
            writer.add_hparams({"lr": 0.1}, {"loss": 1.0}, run_name="trial", global_step=step)
    assert steps("ours") == steps("theirs")
    assert {number for number, _ in steps("ours")} == {int(step or 0)}


WRONG_HPARAMS: dict[str, tuple[Any, Any, Any]] = {
    "hyperparameters in a list": ([], {}, None),
    "metrics in a list": ({}, [], None),
    "a list": ({"a": [1, 2]}, {"m": 1.0}, None),
    "a dict": ({"a": {}}, {"m": 1.0}, None),
    "a function": ({"a": print}, {"m": 1.0}, None),
    "a path": ({"a": Path("a")}, {"m": 1.0}, None),
    "a metric that is a list": ({"a": 1.0}, {"m": [1, 2]}, None),
    "a metric that is a dict": ({"a": 1.0}, {"m": {"f1": 1.0}}, None),
    "values of another type": ({"a": 1.0}, {"m": 1.0}, {"a": [True]}),
    "values of no hyperparameter": ({"a": 1.0}, {"m": 1.0}, {"b": []}),
}


@pytest.mark.parametrize("name", WRONG_HPARAMS)
def test_hyperparameters_that_torch_refuses_raise_what_torch_raises(name: str, tmp_path: Path) -> None:
    hparams, metrics, domain = WRONG_HPARAMS[name]
    with TORCH(str(tmp_path / "theirs")) as writer, pytest.raises(Exception) as theirs:
        writer.add_hparams(hparams, metrics, domain)
    with TorchSummaryWriter(tmp_path / "ours") as writer, pytest.raises(theirs.type) as ours:
        writer.add_hparams(hparams, metrics, domain)
    assert type(ours.value) is theirs.type and str(ours.value).startswith("add_hparams('")
    assert len(files(tmp_path / "ours")) == 1 and values(tmp_path / "ours") == {}


@pytest.mark.usefixtures("installed")
def test_torchs_file_writer_calls(tmp_path: Path) -> None:
    # as Lightning and older Trainers write hyperparameters
    with torch.utils.tensorboard.SummaryWriter(tmp_path, purge_step=3) as writer:
        summary = Summary(value=[Summary.Value(tag="s (1)", simple_value=2.0)])
        writer.file_writer.add_summary(summary, 3)
        writer._get_file_writer().add_summary(summary)
    assert scalars(tmp_path) == [("s (1)", 3, 2.0), ("s (1)", 0, 2.0)]


@pytest.mark.usefixtures("installed")
def test_a_subclass_that_opens_torchs_files_itself(tmp_path: Path) -> None:
    # written for torch: a copy of its add_scalars, with the differences that somebody needed
    class Subclass(torch.utils.tensorboard.SummaryWriter):  # type: ignore[misc]
        def add_scalars(self, main_tag: str, numbers: dict[str, float], step: Any = None) -> None:
            for tag, number in numbers.items():
                directory = f"{self._get_file_writer().get_logdir()}/{tag}"
                if directory not in self.all_writers:
                    self.all_writers[directory] = torch.utils.tensorboard.FileWriter(
                        directory, self.max_queue, self.flush_secs, self.filename_suffix
                    )
                summary = torch.utils.tensorboard.summary.scalar(main_tag, number)
                self.all_writers[directory].add_summary(summary, step)

    writer = Subclass(log_dir=tmp_path)
    writer.add_scalars("loss", {"a": 1.0}, 1)
    writer.flush()
    assert scalars(tmp_path) == [("loss", 1, 1.0)]
    writer.add_scalars("loss", {"a": 2.0}, 2)
    writer.close()
    assert scalars(tmp_path) == [("loss", 1, 1.0), ("loss", 2, 2.0)]
    assert writer.all_writers is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning:transformers")
@pytest.mark.filterwarnings("ignore:.*'pin_memory' argument is set as true:UserWarning")
@pytest.mark.usefixtures("installed")
def test_trainers_own_callback(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
    from transformers.integrations import TensorBoardCallback

    class Tokens(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 8

        def __getitem__(self, i: int) -> dict[str, Any]:
            return {"input_ids": torch.arange(i, i + 4), "labels": torch.tensor(i % 2)}

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertForSequenceClassification(BertConfig(vocab_size=20, max_position_embeddings=8, **sizes))
    settings = {
        "max_steps": 4,
        "logging_steps": 2,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
    }
    callback = TensorBoardCallback()
    trainer = Trainer(
        model,
        TrainingArguments(output_dir=str(tmp_path), disable_tqdm=True, **settings),
        train_dataset=Tokens(),
        callbacks=[callback],
    )
    writers = []
    trainer.add_callback(WriterOf(callback, writers))
    trainer.train()
    assert [type(writer) for writer in writers] == [TorchSummaryWriter]
    logged = [
        (tag, step, value) for tag, step, value in scalars(Path(writers[0].logdir)) if tag == "train/loss"
    ]
    assert logged == [
        ("train/loss", entry["step"], pytest.approx(entry["loss"]))
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    assert len(logged) == 2


def WriterOf(callback: Any, writers: list[Any]) -> Any:
    """A callback that keeps the other one's writer, which is gone after the training."""
    from transformers import TrainerCallback

    class Keeper(TrainerCallback):
        def on_log(self, *args: Any, **kwargs: Any) -> None:
            if callback.tb_writer not in writers:
                writers.append(callback.tb_writer)

    return Keeper()


@pytest.mark.usefixtures("installed")
def test_lightnings_own_logger(tmp_path: Path) -> None:
    loggers = pytest.importorskip("lightning.pytorch.loggers")
    logger = loggers.TensorBoardLogger(tmp_path, log_graph=True)
    assert type(logger.experiment) is TorchSummaryWriter
    logger.log_metrics({"loss (train)": 1.0, "group": {"a": 2.0}}, 3)
    logger.log_hyperparams({"lr": 0.1}, {"best": 1.0})
    logger.finalize("success")
    found = scalars(Path(logger.log_dir))
    assert {("loss (train)", 3, 1.0), ("group", 3, 2.0), ("best", 0, 1.0)} <= set(found)
    assert "_hparams_/session_start_info" in {tag for tag, *_ in found}
    assert (Path(logger.log_dir) / "group_a").is_dir()


@pytest.mark.usefixtures("installed")
def test_accelerates_own_tracker(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(log_with="tensorboard", project_dir=tmp_path, cpu=True)
    accelerator.init_trackers("run", config={"lr": 0.1})
    accelerator.log({"loss (train)": 0.5}, step=2)
    assert type(accelerator.get_tracker("tensorboard").writer) is TorchSummaryWriter
    accelerator.end_training()
    assert ("loss (train)", 2, 0.5) in scalars(tmp_path)


SCRIPT = """
import sys
from pathlib import Path
import helper
from torch.utils.tensorboard import SummaryWriter
if __name__ == "__main__":
    assert Path(sys.argv[0]).name == Path(__file__).name, sys.argv
    assert sys.modules["__main__"].SummaryWriter is SummaryWriter
    with SummaryWriter(sys.argv[1]) as writer:
        print(type(writer).__module__, helper.NAME, sys.argv[2:], sys.path[0] == helper.HERE)
        writer.add_scalar("loss (train)", 0.5, 1)
    sys.exit(7)
"""


@pytest.mark.parametrize("as_module", [False, True])
def test_run(as_module: bool, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "helper.py").write_text(
        "import os\nNAME = 'helper'\nHERE = os.path.dirname(os.path.realpath(__file__))"
    )
    (tmp_path / "elsewhere").mkdir()
    program = ["-m", "train"] if as_module else ["../train.py"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "fastlog",
            "run",
            *program,
            str(tmp_path / "run"),
            "--lr",
            "1",
            "-m",
            "x",
            "--help",
        ],
        cwd=tmp_path if as_module else tmp_path / "elsewhere",
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (7, "")
    assert done.stdout == "fastlog helper ['--lr', '1', '-m', 'x', '--help'] True\n"
    assert scalars(tmp_path / "run") == [("loss (train)", 1, 0.5)]


def run_command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "fastlog", "run", *arguments], capture_output=True, text=True
    )


def test_run_of_what_fails(tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text("raise ZeroDivisionError('in the script')")
    failed = run_command(str(tmp_path / "fails.py"))
    assert failed.returncode == 1 and failed.stderr.endswith("ZeroDivisionError: in the script\n")
    missing = run_command(str(tmp_path / "missing.py"))
    assert missing.returncode == 1 and "No such file" in missing.stderr
    nothing = run_command()
    assert nothing.returncode == 2 and "usage: python -m fastlog run (SCRIPT | -m MODULE)" in nothing.stderr


WANDB = """
import sys, wandb, fastlog
run = wandb.init(project="test", mode="offline", sync_tensorboard=True, dir=sys.argv[1])
with fastlog.SummaryWriter(sys.argv[1] + "/direct") as writer:
    writer.add_scalar("from_fastlog", 1.0, 1)
fastlog.install()
from torch.utils.tensorboard import SummaryWriter
with SummaryWriter(sys.argv[1] + "/installed") as writer:
    writer.add_scalar("from (torch)", 1.0, 1)
run.finish()
"""


def test_wandb_syncs_what_we_write(tmp_path: Path) -> None:
    environment = {**os.environ, "WANDB_SILENT": "true", "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", WANDB, str(tmp_path)], check=True, env=environment, timeout=120)
    (record,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    for tag in (b"from_fastlog", b"from (torch)"):
        assert tag in record.read_bytes()


WITHOUT_TENSORBOARD = """
import importlib.util, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "tensorboard" else real(name, package)
sys.modules["tensorboard"] = None
import fastlog
fastlog.install()
assert "torch.utils.tensorboard" not in sys.modules
try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError:
    from tensorboardX import SummaryWriter
assert SummaryWriter is fastlog.SummaryWriter
fastlog.uninstall()
"""


def test_without_tensorboard() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_TENSORBOARD], check=True)
