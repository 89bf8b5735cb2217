import base64
import io

import numpy as np
import pytest
from PIL import Image

from flows.prediction.summary import THUMBNAIL_PX, _encode_data_uri


@pytest.mark.parametrize(
    "size, shown", [((16, 12), (96, 72)), ((96, 96), (96, 96)), ((224, 112), (96, 48)), ((60, 60), (60, 60))]
)
def test_a_thumbnail_can_be_seen_however_small_the_picture(size, shown):
    width, height = size
    uri = _encode_data_uri(np.zeros((height, width, 3), np.uint8))
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert picture.size == shown and max(picture.size) <= THUMBNAIL_PX
