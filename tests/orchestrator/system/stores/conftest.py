"""A store in the memory of this process, a working folder for it, and a server of S3."""

import uuid

import pytest

from orchestrator.system.stores.mirror import mirror_of, settle
from orchestrator.system.stores.store import Store
from tests.s3_server import s3_server


@pytest.fixture
def store():
    return Store(f"memory://{uuid.uuid4().hex}/prefix", patience_s=1.0)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A working folder and the store that it stands for."""
    monkeypatch.setenv("ORCHESTRATOR_STORES", str(tmp_path / "stores"))
    root = (tmp_path / "stores").resolve() / "one"
    settle(root, f"memory://{uuid.uuid4().hex}/prefix")
    return mirror_of(root)


@pytest.fixture
def another(mirror, tmp_path):
    """The working folder of another machine for the same store."""
    root = (tmp_path / "stores").resolve() / "two"
    settle(root, mirror.address)
    return mirror_of(root)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def bucket(server, monkeypatch):
    """The address of an empty bucket."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{server.bucket()}"
