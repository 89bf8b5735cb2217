from __future__ import annotations

import os
import sys

import pytest

from imageset.exceptions import UserError
from imageset.executors.factory import check_executor_name, open_executor


def test_an_executor_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dusk://localhost:1", "dask://localhost", "thread"):
        with pytest.raises(UserError, match="must be processes, threads or dask://HOST:PORT"):
            check_executor_name(name)
    monkeypatch.setattr("imageset.executors.dask_cluster.CONNECT_TIMEOUT_S", 0.3)
    nobody = "dask://127.0.0.1:9"
    with pytest.raises(UserError, match=r"no Dask scheduler answers at 127\.0\.0\.1:9"), open_executor(nobody):
        pass
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match="Dask is not installed"), open_executor(nobody):
        pass


def test_the_executor_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVOY_EXECUTOR", "threads")
    with open_executor(None, 1) as crew:
        assert crew.submit(os.getpid).result() == os.getpid()
