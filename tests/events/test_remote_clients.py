"""tensorboardX's own s3:// and gs:// writers, with doubles in the places of their clients."""

from __future__ import annotations

import gc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sink_files import steps_in
from tensorboardX import record_writer

import fastlog
from fastlog.writer.encode import embeddings


class Cloud:
    """Objects by bucket and name, each upload, and what the next ones raise."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], bytes] = {}
        self.uploads: list[int] = []
        self.error: Exception | None = None

    def upload(self, bucket: str, name: str, content: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.objects[bucket, name] = content
        self.uploads.append(len(content))

    # boto3
    def client(self, service: str, endpoint_url: str | None) -> SimpleNamespace:
        assert service == "s3"
        return SimpleNamespace(
            upload_fileobj=lambda file, bucket, name: self.upload(bucket, name, file.read())
        )

    # google.cloud.storage
    def Client(self) -> None:
        return None

    def Bucket(self, client: None, name: str) -> str:
        return name

    def Blob(self, name: str, bucket: str) -> SimpleNamespace:
        def upload_from_string(data: bytes, if_generation_match: int | None) -> None:
            assert if_generation_match == blob.generation
            self.upload(bucket, name, data)
            blob.generation = (blob.generation or 0) + 1

        blob = SimpleNamespace(generation=None, upload_from_string=upload_from_string)
        return blob


@pytest.fixture
def cloud(monkeypatch):
    cloud = Cloud()
    for name in ("boto3", "storage"):
        monkeypatch.setattr(record_writer, name, cloud, raising=False)
    for name in ("S3_ENABLED", "GCS_ENABLED"):
        monkeypatch.setattr(record_writer, name, True)
    monkeypatch.setattr(embeddings, "_remote_configs", {})
    return cloud


def stored_steps(cloud: Cloud, tmp_path: Path) -> list[int]:
    for (bucket, name), content in cloud.objects.items():
        assert (bucket, name.rpartition("/")[0]) == ("bucket", "team/run")
        (tmp_path / name.rpartition("/")[2]).write_bytes(content)
    return steps_in(tmp_path)


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_the_file_is_uploaded_at_flush_and_once_at_close(cloud, tmp_path, scheme):
    writer = fastlog.SummaryWriter(f"{scheme}://bucket/team/run")
    for step in range(100):
        writer.add_scalar("x", step, step)
    assert cloud.uploads == []
    writer.flush()
    writer.flush()
    assert len(cloud.uploads) == 1
    writer.add_scalar("x", 100, 100)
    writer.close()
    assert len(cloud.uploads) == 2
    del writer  # tensorboardX's writers upload in __del__ too
    assert len(cloud.uploads) == 2
    assert stored_steps(cloud, tmp_path) == list(range(101))


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_cloud_that_was_down_has_everything_when_it_is_back(cloud, tmp_path, scheme):
    with fastlog.SummaryWriter(f"{scheme}://bucket/team/run") as writer:
        writer.add_scalar("x", 0, 0)
        cloud.error = ConnectionError("no route to the bucket")
        with pytest.warns(fastlog.FastlogWarning, match="no route to the bucket"):
            writer.flush()
        writer.add_scalar("x", 1, 1)
        cloud.error = None
        writer.flush(timeout=30)
        stats = writer.stats()
        assert (stats["written"], stats["dropped"], stats["errors"] > 0) == (2, {}, True)
    assert stored_steps(cloud, tmp_path) == [0, 1]


@pytest.mark.parametrize(
    ("scheme", "switch", "package"),
    [("s3", "S3_ENABLED", "boto3"), ("gs", "GCS_ENABLED", "google-cloud-storage")],
)
def test_the_package_that_is_missing_is_named_at_once_and_nothing_else_is_said(
    monkeypatch, scheme, switch, package
):
    monkeypatch.setattr(record_writer, switch, False)
    with pytest.raises(ImportError, match=package):
        fastlog.SummaryWriter(f"{scheme}://bucket/run")
    gc.collect()  # tensorboardX's writer, half made, would fail in __del__


def test_a_client_that_cannot_be_made_says_why_and_nothing_else(monkeypatch):
    def no_credentials():
        raise PermissionError("no credentials")

    monkeypatch.setattr(record_writer, "GCS_ENABLED", True)
    monkeypatch.setattr(record_writer, "storage", SimpleNamespace(Client=no_credentials), raising=False)
    with pytest.raises(PermissionError, match="no credentials"):
        fastlog.SummaryWriter("gs://bucket/run")
    gc.collect()


# ---- what add_embedding writes beside the events


def log_embeddings(writer: fastlog.SummaryWriter) -> None:
    for step in range(2):
        writer.add_embedding(np.eye(3) + step, ["a", "b", "c"], np.ones((3, 3, 4, 4)), step, "points")


def check_projector(read: dict[str, bytes], local: Path) -> None:
    """The files of a remote log directory, by path below it, are those that a local one has."""
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    with fastlog.SummaryWriter(local) as writer:
        log_embeddings(writer)
    expected = {
        path.relative_to(local).as_posix(): path.read_bytes()
        for path in local.rglob("*")
        if path.is_file() and "tfevents" not in path.name
    }
    assert {path: content for path, content in read.items() if "tfevents" not in path} == expected
    config = text_format.Parse(read["projector_config.pbtxt"].decode(), ProjectorConfig())
    paths = [one.tensor_path for one in config.embeddings]
    assert paths == ["00000/points/tensors.tsv", "00001/points/tensors.tsv"]


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_embeddings_are_uploaded_and_nothing_is_written_here(cloud, scheme, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with fastlog.SummaryWriter(f"{scheme}://bucket/team/run") as writer:
        log_embeddings(writer)
    assert not any(tmp_path.iterdir())
    read = {name.removeprefix("team/run/"): content for (_, name), content in cloud.objects.items()}
    check_projector(read, tmp_path / "local")


def test_embeddings_go_through_fsspec_and_are_added_to_those_there(tmp_path, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setattr(embeddings, "_remote_configs", {})
    monkeypatch.chdir(tmp_path)
    memory = fsspec.filesystem("memory")
    try:
        with fastlog.SummaryWriter("memory://bucket/run") as writer:
            log_embeddings(writer)
        assert not any(tmp_path.iterdir())
        read = {
            path.removeprefix("/bucket/run/"): memory.cat_file(path) for path in memory.find("/bucket/run")
        }
        check_projector(read, tmp_path / "local")
        embeddings._remote_configs.clear()  # another process
        with fastlog.SummaryWriter("memory://bucket/run") as writer:
            writer.add_embedding(np.eye(3), tag="later")
        config = memory.cat_file("/bucket/run/projector_config.pbtxt")
        assert config.startswith(read["projector_config.pbtxt"]) and b"later" in config
    finally:
        memory.rm("/bucket", recursive=True)


def test_an_embedding_that_cannot_be_uploaded_is_said(cloud):
    writer = fastlog.SummaryWriter("s3://bucket/team/run")
    writer.flush()
    cloud.error = ConnectionError("no route to the bucket")
    writer.add_embedding(np.eye(3), tag="points")
    with pytest.warns(fastlog.FastlogWarning) as said:
        writer.flush()
        cloud.error = None
        writer.close()
    texts = [str(warning.message) for warning in said]
    assert any("add_embedding('points'): ConnectionError: no route" in text for text in texts)
    assert texts[-1] == "fastlog: 1 of 1 events were dropped: invalid 1"
