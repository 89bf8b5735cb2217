from lightning_modules.networks.registry import resolve_stem


def test_the_stem_follows_the_side_of_the_pictures():
    spec = {
        "class_path": "lightning_modules.networks.TorchvisionNet",
        "init_args": {"name": "resnet18", "stem": "auto"},
    }
    stems = {side: resolve_stem(spec, side)["init_args"]["stem"] for side in (28, 63, 64, 224)}
    assert stems == {28: "small", 63: "small", 64: "standard", 224: "standard"}
    assert resolve_stem({**spec, "init_args": {"name": "inception_v3", "stem": "auto"}}, 64)["init_args"] == {
        "name": "inception_v3", "stem": "small",
    }  # fmt: skip
