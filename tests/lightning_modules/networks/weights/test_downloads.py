import hashlib
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch
import torchvision
from safetensors.torch import save

from imageset.exceptions import UserError
from lightning_modules.networks.weights.downloads import download_weights

NETWORK = "test_resnet"  # timm's smallest network with published weights
CODE = f"""
from lightning_modules.networks.weights.downloads import download_weights
network = {{"class_path": "lightning_modules.networks.TimmNet", "init_args": {{"name": "{NETWORK}"}}}}
download_weights(network)
state = download_weights(network)
print(float(state["fc.bias"].sum()), len(state))
"""


@pytest.fixture(scope="module")
def published():
    """The weights that the local hub gives out: those of timm's network, with a bias of ones."""
    import timm

    network = timm.create_model(NETWORK)
    network.fc.bias.data.fill_(1.0)
    return save(network.state_dict())


@pytest.fixture
def hub(published):
    """Hugging Face's hub, as far as one download needs it, on 127.0.0.1; yields its address and the requests."""
    requests: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self, with_body: bool = True) -> None:
            requests.append(f"{self.command} {self.path}")
            is_weights = self.path.endswith("model.safetensors")
            self.send_response(200 if is_weights else 404)
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", f'"{hashlib.sha256(published).hexdigest()}"')
            self.send_header("Content-Length", str(len(published) if is_weights else 0))
            self.end_headers()
            if is_weights and with_body:
                self.wfile.write(published)

        def do_HEAD(self) -> None:
            self.do_GET(with_body=False)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", requests
    server.shutdown()


def run_download(tmp_path, endpoint: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_DISABLE_TELEMETRY": "1",
                        "HF_HUB_DISABLE_XET": "1"}  # fmt: skip
    return subprocess.run([sys.executable, "-c", CODE], env=env, capture_output=True, text=True, check=False)


def test_the_weights_of_a_network_of_timm_come_from_its_hub_once(hub, tmp_path):
    endpoint, requests = hub
    done = run_download(tmp_path, endpoint)
    assert done.returncode == 0, done.stderr
    total, num_tensors = done.stdout.split()
    assert float(total) == 1000 and int(num_tensors) > 10
    assert sum(request.startswith("GET") and request.endswith("model.safetensors") for request in requests) == 1


@pytest.mark.long
def test_without_the_hub_one_line_names_the_installed_network(tmp_path):
    done = run_download(tmp_path, "http://127.0.0.1:9")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert f"the weights of timm/{NETWORK} cannot be downloaded" in last
    assert last.endswith("give a file, or network: efficientnet_lite0, whose weights are installed")


class Payload:
    """An object that must never be unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def test_a_file_in_torchs_cache_that_is_no_weights_runs_nothing(tmp_path, monkeypatch):
    url = torchvision.models.get_model_weights("squeezenet1_1").DEFAULT.url
    cached = tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]
    cached.parent.mkdir(parents=True)
    torch.save(Payload(), cached)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = {"class_path": "lightning_modules.networks.TorchvisionNet", "init_args": {"name": "squeezenet1_1"}}
    with pytest.raises(UserError, match="cannot be downloaded"):
        download_weights(network)
