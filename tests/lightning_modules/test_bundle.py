import json
import shutil

import pytest

from imageset.exceptions import UserError
from lightning_modules.bundle import Bundle, hash_manifest


@pytest.fixture
def bundle_folder(trained, tmp_path):
    return shutil.copytree(trained / "data/models/classifier", tmp_path / "bundle")


def test_weights_that_were_changed_are_refused(bundle_folder):
    path = bundle_folder / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"not the weights that bundle\.json names"):
        Bundle.load(bundle_folder)


def test_a_manifest_that_was_changed_is_refused(bundle_folder):
    path = bundle_folder / "bundle.json"
    path.write_text(path.read_text().replace('"channels": 1', '"channels": 3'))
    with pytest.raises(UserError, match=r"bundle\.json: was changed after it was written"):
        Bundle.load(bundle_folder)


def test_a_bundle_written_before_there_were_all_these_fields_still_loads(bundle_folder):
    path = bundle_folder / "bundle.json"
    manifest = json.loads(path.read_text())
    later = ("temperature", "abstain_below", "git_commit", "lock_sha256")
    info = {name: value for name, value in manifest["info"].items() if name not in later}
    path.write_text(json.dumps({"format": 1, "weights_sha256": manifest["weights_sha256"], "info": info}))
    (bundle_folder / "reference.safetensors").unlink()
    old = Bundle.load(bundle_folder).info
    assert (old.temperature, old.abstain_below, old.git_commit) == (1.0, None, None)


def test_a_field_that_only_a_later_convoy_knows_is_named(bundle_folder):
    path = bundle_folder / "bundle.json"
    manifest = json.loads(path.read_text())
    manifest["info"]["mood"] = "good"
    path.write_text(json.dumps(manifest | {"sha256": hash_manifest(manifest)}))
    with pytest.raises(UserError, match="contains mood, which only a later Convoy understands"):
        Bundle.load(bundle_folder)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"format": 99}'])
def test_a_manifest_that_is_no_manifest_is_refused(bundle_folder, content):
    (bundle_folder / "bundle.json").write_bytes(content)
    with pytest.raises(UserError, match=r"bundle\.json"):
        Bundle.load(bundle_folder)


def test_a_folder_without_a_bundle_is_refused(tmp_path):
    with pytest.raises(UserError, match="train first with `dvc repro`"):
        Bundle.load(tmp_path)
