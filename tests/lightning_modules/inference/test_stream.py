import numpy as np

from imageset.raw.shards import read_image_bytes
from imageset.store.reader import ImageStore
from lightning_modules.bundle import Bundle
from lightning_modules.inference.stream import score_stream


def test_a_picture_that_cannot_be_read_never_shifts_another(trained):
    store = ImageStore.open(trained / "data/normalized")
    ids = store.split("test").image_ids[:5]
    good = [data for _, data in read_image_bytes(trained / "data/raw", ids)]
    bundle = Bundle.load(trained / "data/models/classifier")
    clean = list(score_stream(bundle, enumerate(good), batch_size=2, num_workers=1))
    mixed = list(score_stream(bundle, enumerate([*good[:2], b"text", *good[2:]]), batch_size=2, num_workers=1))
    assert mixed[2].probabilities is None and mixed[2].reason == "not_an_image"
    kept = [s.probabilities for s in mixed if s.probabilities is not None]
    assert np.allclose(kept, [s.probabilities for s in clean], atol=1e-5)
