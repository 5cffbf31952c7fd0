"""tensorboardX's own s3:// and gs:// writers, with doubles in the places of their clients."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from sink_files import steps_in
from tensorboardX import record_writer

import fastlog


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


# tensorboardX's writer is not prepared to be deleted half made
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_package_that_is_missing_is_named_at_once(monkeypatch):
    monkeypatch.setattr(record_writer, "S3_ENABLED", False)
    with pytest.raises(ImportError, match="boto3"):
        fastlog.SummaryWriter("s3://bucket/run")
