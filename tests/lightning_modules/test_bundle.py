import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from imageset.exceptions import UserError
from lightning_modules.bundle import Bundle, BundleInfo, check_bundle, hash_manifest, save_bundle
from lightning_modules.inference import dask_workers
from lightning_modules.networks.factory import make_network
from lightning_modules.project_code.code_copy import CodeCopy


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
    later = ("temperature", "abstain_below", "git_commit", "lock_sha256", "fitted_splits")
    info = {name: value for name, value in manifest["info"].items() if name not in later}
    path.write_text(json.dumps({"format": 1, "weights_sha256": manifest["weights_sha256"], "info": info}))
    (bundle_folder / "reference.safetensors").unlink()
    old = Bundle.load(bundle_folder).info
    assert (old.temperature, old.abstain_below, old.git_commit) == (1.0, None, None)
    assert old.fitted_splits is None


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


MODULE = """\
from torch import nn
from {helper} import WIDTH
class Net(nn.Sequential):
    def __init__(self, in_channels, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(32 * 32, WIDTH), nn.Linear(WIDTH, num_classes))
"""


def save_own_network(folder: Path, width: int, **options) -> dict[str, bytes]:
    """Save a bundle whose network is of a module that is nowhere else."""
    code = {"own_net.py": MODULE.format(helper="parts.sizes").encode(),
            "parts/sizes.py": f"WIDTH = {width}".encode()}  # fmt: skip
    spec = {"class_path": "own_net.Net", "init_args": {}}
    decode = {"size": 32, "channels": 1, "fit": "crop", "interpolation": "bilinear", "max_pixels": 10**6}
    info = BundleInfo(spec, ("a", "b"), decode, (0.3,), (0.3,), {"fingerprint": "f", "name": "n"}, {})
    folder.mkdir(exist_ok=True)
    save_bundle(folder, info, make_network(spec, 1, 2, CodeCopy(code)), **{"code": code, **options})
    return code


def test_bundles_hold_the_code_of_their_networks_and_never_each_others(tmp_path):
    code = save_own_network(tmp_path / "three", 3)
    save_own_network(tmp_path / "four", 4)
    first, second = Bundle.load(tmp_path / "three"), Bundle.load(tmp_path / "four")
    assert (first.network[1].out_features, second.network[1].out_features) == (3, 4)
    assert first.code == code and first.digest != second.digest


def test_code_that_was_changed_or_removed_is_refused(tmp_path):
    save_own_network(tmp_path, 3)
    path = tmp_path / "code/parts/sizes.py"
    path.write_text("WIDTH = 5")
    with pytest.raises(UserError, match=r"sizes\.py: this is not the code that bundle\.json names"):
        check_bundle(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=r"sizes\.py: No such file"):
        Bundle.load(tmp_path)


def test_a_bundle_of_before_there_was_code_imports_the_module_of_the_project(tmp_path, monkeypatch):
    code = save_own_network(tmp_path, 3, code=None)
    assert not (tmp_path / "code").exists()
    with pytest.raises(UserError, match=r"'own_net\.Net' cannot be imported"):
        Bundle.load(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "project")
    for name, data in code.items():
        (tmp_path / "project" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "project" / name).write_bytes(data)
    assert Bundle.load(tmp_path).network[1].out_features == 3
    for name in ("own_net", "parts", "parts.sizes"):
        sys.modules.pop(name)


def test_saving_a_bundle_removes_the_code_of_the_one_before(tmp_path):
    save_own_network(tmp_path, 3)
    save_own_network(tmp_path, 3, code=None)
    assert not (tmp_path / "code").exists()


def test_workers_of_a_cluster_get_the_code_too(tmp_path):
    save_own_network(tmp_path, 3)
    bundle = Bundle.load(tmp_path)
    files = dask_workers.pack_bundle(bundle)
    assert set(files) == {"bundle.json", "weights.safetensors", "code/own_net.py", "code/parts/sizes.py"}
    before = torch.get_num_threads()
    dask_workers.prepare_worker("one", files)
    torch.set_num_threads(before)
    assert dask_workers._scorers.pop("one")[0].code == bundle.code
