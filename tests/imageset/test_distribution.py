import json
from pathlib import Path

import pytest

from imageset.distribution import format_install_command, get_version


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution of our name, in front of the real one, from an origin as pip records it."""

    def install(origin: dict | None) -> None:
        folder = tmp_path / "site" / "convoy_vision-9.8.7.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: convoy-vision\nVersion: 9.8.7\n")
        if origin is not None:
            (folder / "direct_url.json").write_text(json.dumps(origin))
        monkeypatch.syspath_prepend(str(tmp_path / "site"))

    return install


def test_an_extra_of_a_clone_is_installed_from_the_clone(install, tmp_path, monkeypatch):
    clone = tmp_path / "my clone"
    clone.mkdir()
    install({"url": clone.as_uri(), "dir_info": {"editable": True}})
    assert get_version() == "9.8.7"
    assert format_install_command("s3") == f"pip install -e '{clone}[s3]'"
    monkeypatch.chdir(clone)
    assert format_install_command("s3") == "pip install -e '.[s3]'"


def test_an_extra_of_a_wheel_is_installed_from_the_wheel_while_it_is_there(install, tmp_path):
    wheel = tmp_path / "convoy_vision-9.8.7-py3-none-any.whl"
    wheel.touch()
    install({"url": wheel.as_uri(), "archive_info": {}})
    assert format_install_command("onnx") == f"pip install '{wheel}[onnx]'"
    Path(wheel).unlink()
    assert format_install_command("onnx") == "pip install 'convoy-vision[onnx]'"


def test_an_extra_of_an_index_is_named_by_the_distribution(install):
    install(None)
    assert format_install_command("heic") == "pip install 'convoy-vision[heic]'"
