import numpy as np
import pytest

from imageset.exceptions import UserError
from lightning_modules.features.reference_sample import ImageSample
from tests.helpers.models import make_reference_sample


def test_a_reference_survives_its_file_and_nothing_else_is_taken_for_one():
    one = make_reference_sample(20, seed=3)
    other = ImageSample.from_bytes(one.to_bytes())
    assert other.image_id is None and len(other) == 20
    np.testing.assert_array_equal(other.features, one.features)
    for broken in (b"", b"no safetensors", one.to_bytes()[:-3]):
        with pytest.raises(UserError, match=r"reference\.safetensors: not a reference"):
            ImageSample.from_bytes(broken)
