from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imageset.check import check_source
from imageset.decoding import dicom
from imageset.decoding.decoder import decode, read_image_header
from imageset.decoding.spec import DecodeSpec
from imageset.rejections import Rejected
from tests.helpers.datasets import make_store

SPEC = DecodeSpec(20, 1, "stretch", "nearest", 10**6)
PATIENT = "Mustermann^Erika"
RAMP = np.linspace(0, 4095, 400).astype(np.uint16).reshape(20, 20)


def encode_dicom(values: np.ndarray = RAMP, syntax: str = "1.2.840.10008.1.2.1", **elements: Any) -> bytes:
    """(H, W[, 3]) of 8 or 16 bits -> the bytes of a file with these elements."""
    pydicom = pytest.importorskip("pydicom")
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    dataset.PatientName, dataset.Modality = PATIENT, "OT"
    dataset.Rows, dataset.Columns = values.shape[:2]
    dataset.SamplesPerPixel = 3 if values.ndim == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if values.ndim == 3 else "MONOCHROME2"
    dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8 * values.dtype.itemsize
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(values.dtype.kind == "i")
    dataset.PixelData = values.tobytes()
    for name, value in elements.items():
        setattr(dataset, name, value)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def encode_jpeg2000(width: int, height: int) -> bytes:
    """A file whose header says 20 x 20, with a picture of any size in it."""
    encaps, buffer = pytest.importorskip("pydicom.encaps"), io.BytesIO()
    Image.new("L", (width, height)).save(buffer, "JPEG2000")
    data = encaps.encapsulate([buffer.getvalue()])
    return encode_dicom((RAMP // 16).astype(np.uint8), "1.2.840.10008.1.2.4.90", PixelData=data)


def expect(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0, 1) * 255)


HOUNSFIELD = RAMP.astype(int) - 1024
WINDOW = {"WindowCenter": 40, "WindowWidth": 400}


@pytest.mark.parametrize(
    ("data", "levels"),
    [
        (encode_dicom(), RAMP / 4095),
        (encode_dicom(PhotometricInterpretation="MONOCHROME1"), 1 - RAMP / 4095),
        (encode_dicom(RAMP // 2, RescaleSlope=2, RescaleIntercept=0), RAMP // 2 * 2 / 4095),
        (encode_dicom(Modality="CT", RescaleSlope=1, RescaleIntercept=-1024), RAMP / 4095),
        (encode_dicom(HOUNSFIELD.astype(np.int16), Modality="CT"), RAMP / 4095),
        (encode_dicom(RescaleSlope=1, RescaleIntercept=-1024, **WINDOW), (HOUNSFIELD - 39.5) / 399 + 0.5),
        (encode_dicom(WindowCenter=[2000, 40], WindowWidth=[800, 400]), (RAMP - 1999.5) / 799 + 0.5),
        (encode_dicom(WindowCenter=2000, WindowWidth=800, VOILUTFunction="LINEAR_EXACT"), RAMP / 800 - 2),
        (
            encode_dicom(WindowCenter=2000, WindowWidth=800, VOILUTFunction="SIGMOID"),
            1 / (1 + np.exp((2000 - RAMP.astype(float)) / 200)),
        ),
        (encode_dicom((RAMP // 16).astype(np.uint8)), RAMP // 16 / 255),
        (encode_dicom((RAMP // 2048).astype(np.uint8), BitsStored=1, HighBit=0), RAMP // 2048),
    ],
)
def test_grey_values_become_levels(data: bytes, levels: np.ndarray) -> None:
    pixels = decode(data, replace(SPEC, integer_max=4095))[..., 0]
    assert np.abs(pixels - expect(levels)).max() <= 1
    header = read_image_header(data, 10**6)
    assert (header.format, header.width, header.height, header.is_grey) == ("DICOM", 20, 20, True)


def test_colour_is_taken_as_it_is() -> None:
    values = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    data = encode_dicom(values)
    np.testing.assert_array_equal(decode(data, replace(SPEC, channels=3)), values)
    assert not read_image_header(data, 10**6).is_grey


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encode_dicom(NumberOfFrames=24), "unsupported: DICOM of 24 frames; export each as a picture of its own"),
        (encode_dicom()[:-300], "truncated: DICOM whose pixels end too early"),
        (encode_dicom()[:140], "unsupported: DICOM without a picture"),
        (encode_dicom().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0"), "undecodable: DICOM"),
        (encode_dicom(Rows=2000, Columns=2000), "bomb: 2000 x 2000 pixels; the limit is 1,000,000"),
        (encode_dicom(Rows=2, Columns=200), "too_small: 200 x 2 pixels"),
        (encode_dicom(RescaleSlope=1, RescaleIntercept=-9), "unsupported: values from -9 to 4086; 0 to 65535"),
    ],
)
def test_what_has_no_single_picture_is_refused_without_the_patients_name(data: bytes, reason: str) -> None:
    with pytest.raises(Rejected) as caught:
        decode(data, SPEC)
    assert str(caught.value).startswith(reason)
    assert "Mustermann" not in str(caught.value)


def test_a_deflated_file_is_refused_before_it_is_inflated_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_dicom(np.zeros((200, 200), np.uint8), syntax="1.2.840.10008.1.2.1.99")
    assert len(data) < 1000
    assert read_image_header(data, 10**6).width == 200
    monkeypatch.setattr(dicom, "_MAX_INFLATED_BYTES", 39_000)
    monkeypatch.setattr("pydicom.dcmread", lambda *args, **options: pytest.fail("it was read"))
    with pytest.raises(Rejected, match=r"^bomb: DICOM of [0-9]+ bytes that inflates to over 39,000$"):
        read_image_header(data, 10**6)


def test_a_compressed_picture_larger_than_its_header_says_is_refused() -> None:
    assert decode(encode_jpeg2000(20, 20), SPEC).shape == (20, 20, 1)
    with pytest.raises(Rejected, match="DICOM of 20 x 20 pixels that holds a picture of 300 x 200"):
        decode(encode_jpeg2000(300, 200), SPEC)


def test_a_compression_that_pydicom_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from pydicom.encaps import encapsulate

    data = encode_dicom(PixelData=encapsulate([b"\xff\xd8\xff\xf7" + bytes(60)]), syntax="1.2.840.10008.1.2.4.80")
    monkeypatch.setattr(dicom, "_has_decoder", lambda syntax: False)
    with pytest.raises(Rejected, match="compressed as JPEG-LS Lossless Image Compression, which pydicom cannot"):
        decode(data, SPEC)


def test_without_pydicom_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_dicom()
    monkeypatch.setitem(sys.modules, "pydicom", None)  # an import of it fails
    dicom._load_pydicom.cache_clear()
    with pytest.raises(Rejected, match=r"unsupported: DICOM; to decode it: pip install .*\[dicom\]'") as caught:
        decode(data, SPEC)
    with pytest.raises(Rejected, match="DICOM; to decode it"):
        read_image_header(data, 10**6)
    assert caught.value.reason == "unsupported"


def test_a_folder_of_dicom_files_becomes_a_dataset(tmp_path: Path) -> None:
    for position, name in enumerate(("ill", "well")):
        (tmp_path / "source" / name).mkdir(parents=True)
        for number in range(15):
            values = np.random.default_rng(100 * position + number).integers(0, 4096, (20, 20)).astype(np.uint16)
            values[0, 0] = 4095
            ending = ".dcm" if number % 2 else ".DICOM"
            (tmp_path / "source" / name / f"{number}{ending}").write_bytes(encode_dicom(values))
    store = make_store(tmp_path, tmp_path / "source")
    assert len(store.index) == 30 and store.spec.integer_max == 4095 and abs(store.mean[0] - 0.5) < 0.02
    text = check_source(tmp_path / "source", workers=1).to_text()
    assert "30 of 30" in text and "16-bit pictures hold 12 bits: read with a range of 4,095" in text
    assert not any(PATIENT.encode() in file.read_bytes() for file in store.path.iterdir())
