import numpy as np

from lightning_modules.bundle import Bundle
from lightning_modules.explain.instrumentation import InstrumentedModel


def test_the_eye_says_what_is_served(trained):
    from imageset.store.reader import ImageStore
    from lightning_modules.scoring import Scorer

    bundle = Bundle.load(trained / "data/models/classifier")
    images = ImageStore.open(trained / "data/normalized").split("test").read_batch(np.arange(5))
    assert np.allclose(
        InstrumentedModel(bundle).probabilities(images), Scorer(bundle).probabilities(images), atol=1e-4
    )
