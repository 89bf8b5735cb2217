from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from imageset.__main__ import main
from imageset.raw.ingestion import ingest_source
from tests.helpers.datasets import NORMALIZE_PARAMS
from tests.helpers.images import make_image_folder


def test_the_command_prints_a_summary_and_errors_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ingest_source(make_image_folder(tmp_path / "set"), "data/raw")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"normalize": NORMALIZE_PARAMS}))
    assert main(["normalize"]) == 0
    assert "40 pictures of 16x16x3 in 2 classes" in capsys.readouterr().out
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"normalize": NORMALIZE_PARAMS | {"sise_px": 3}}))
    assert main(["normalize"]) == 2
    assert capsys.readouterr().err == (
        "error: params.yaml: normalize: unknown key 'sise_px'; did you mean 'size_px'?\n"
    )
