"""Inputs as people have them, and the line that each one gives: its description, or the error that stops it.

Elsewhere: whole trees of splits in layouts/test_class_folders.py and test_layouts.py, tables behind URLs and in
buckets in remote/, delimiters and encodings by themselves in tables/test_text_format.py, pictures of 12 bits in
../normalize/test_ranges.py, damaged downloads in ../normalize/test_reasons.py, modes and DICOM in ../decoding/.
"""

from __future__ import annotations

import csv
import io
import os
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imageset.exceptions import UserError
from imageset.sources.factory import open_source
from tests.helpers.high_bit_depth import encode_png16
from tests.helpers.images import encode_noise

NAMES = ("cat", "dog", "cow")


def put(folder: Path, num: int = 3, ending: str = ".png", name: str = "{}") -> list[Path]:
    """Different pictures in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number in range(num):
        seed = zlib.crc32(f"{folder.name} {name} {number}".encode())
        files.append(folder / f"{name.format(number)}{ending}")
        files[-1].write_bytes(encode_noise(seed, 8, 8))
    return files


def put_tree(root: Path, *folders: str, num: int = 3) -> Path:
    for folder in folders:
        put(root / folder, num)
    return root


def put_table(
    root: Path,
    header: tuple[str, ...] = ("path", "label"),
    row: Callable[[str, str, int], tuple[str, ...]] = lambda path, label, number: (path, label),
    *,
    name: str = "labels.csv",
    delimiter: str = ",",
    encoding: str = "utf-8",
    end: str = "",
) -> Path:
    """root/img/cat0.png ... and a table of them."""
    files = [(f"img/{file.name}", label) for label in NAMES for file in put(root / "img", 4, name=label + "{}")]
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerows(
        [*([header] if header else []), *(row(path, label, n) for n, (path, label) in enumerate(files))]
    )
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes((text.getvalue() + end).encode(encoding))
    return root / name


def put_splits(root: Path, names: tuple[str, ...] = ("train", "val", "test")) -> Path:
    return put_tree(root, *(f"{split}/{label}" for split in names for label in NAMES[:2]))


def pack(root: Path, archive: str, rename: Callable[[str], str] = str) -> Path:
    files = sorted(file for file in root.rglob("*.png"))
    target = root / archive
    if archive.endswith(".zip"):
        with zipfile.ZipFile(target, "w") as zipped:
            for file in files:
                zipped.writestr(zipfile.ZipInfo(rename(str(file.relative_to(root)))), file.read_bytes())
    else:
        with tarfile.open(target, "w:gz") as packed:
            for file in files:
                packed.add(file, rename(str(file.relative_to(root))))
    return target


def put_file(root: Path, name: str, data: bytes) -> Path:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(data)
    return root / name


def put_links(root: Path) -> None:
    put_tree(root, "a", "d")
    os.symlink(put_tree(root.parent / "store", "b") / "b", root / "b")


def put_linked_pictures(root: Path) -> None:
    put_tree(root, "a", "b")
    (root / "c").mkdir()
    for file in put(root.parent / "store" / "c"):
        os.symlink(file, root / "c" / file.name)


def put_thumbnails(root: Path) -> None:
    for file in list(put_tree(root, "a", "b").rglob("*.png")):
        put(file.parent / "@eaDir" / file.name, 1, ".jpg", "SYNOPHOTO_THUMB_M")


def put_metadata(root: Path) -> None:
    for split in ("train", "test"):
        rows = [f"{file.name},{label}" for label in NAMES for file in put(root / split, 2, name=label + "{}")]
        (root / split / "metadata.csv").write_text("\n".join(["file_name,label", *rows, ""]))


def put_unicode_forms(root: Path) -> None:
    for split, form in (("train", "NFC"), ("val", "NFC"), ("test", "NFD")):
        put_tree(root, *(f"{split}/{unicodedata.normalize(form, name)}" for name in ("café", "señal")))


def table(*arguments: Any, **options: Any) -> Callable[[Path], Path]:
    return lambda root: put_table(root, *arguments, **options)


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "flat splits": (
        lambda root: put_tree(root, "train", "test"),
        "STOP: SOURCE: the pictures of test (3 pictures) and train (3 pictures) are in no class "
        "folder; move them into one sub-folder per class; if they are classes: "
        "'SOURCE?split_folders=none'",
    ),
    "flat splits, numbered": (
        lambda root: put_tree(root, "train", "test1"),
        "STOP: SOURCE: the pictures of test1 (3 pictures) and train (3 pictures) are in no class "
        "folder; move them into one sub-folder per class; if they are classes: "
        "'SOURCE?split_folders=none'",
    ),
    "splits and unlabeled": (
        lambda root: put_tree(put_splits(root), "unlabeled"),
        "SOURCE: 18 pictures in 2 classes (cat 9, dog 9); splits test 6, train 6, val 6; passed "
        "over: 3 pictures in unlabeled",
    ),
    "seg": (
        lambda root: put_tree(
            root, *(f"seg_{s}/seg_{s}/{n}" for s in ("train", "test") for n in NAMES), "seg_pred/seg_pred"
        ),
        "SOURCE: 18 pictures in 3 classes (cat 6, cow 6, dog 6); splits test 9, train 9; "
        "seg_test is test, seg_train is train; passed over: 3 pictures in seg_pred",
    ),
    "eval": (
        lambda root: put_splits(root, ("train", "eval")),
        "SOURCE: 12 pictures in 2 classes (cat 6, dog 6); splits train 6, val 6; eval is val",
    ),
    "holdout": (
        lambda root: put_splits(root, ("train", "holdout")),
        "SOURCE: 12 pictures in 2 classes (cat 6, dog 6); splits test 6, train 6; holdout is test",
    ),
    "metadata beside": (
        put_metadata,
        "SOURCE: 12 pictures in 3 classes (cat 4, cow 4, dog 4); splits test 6, train 6; labels from "
        "test/metadata.csv and train/metadata.csv; columns path: file_name, label: label",
    ),
    "class then split": (
        lambda root: put_tree(root, *(f"{n}/{s}" for n in NAMES for s in ("train", "val", "test"))),
        "SOURCE: 27 pictures in 3 classes (cat 9, cow 9, dog 9); splits test 9, train 9, val 9; "
        "splits below the classes",
    ),
    "taxonomy": (
        lambda root: put_tree(root, "cats/siamese", "cats/persian", "dogs/pug"),
        "SOURCE: 9 pictures in 2 classes (cats 6, dogs 3); 2 levels of folders, the first is the "
        "class (?level=2 takes the second)",
    ),
    "level": (
        lambda root: f"{put_tree(root, 'cats/siamese', 'cats/persian', 'dogs/pug')}?level=2",
        "SOURCE: 9 pictures in 3 classes (persian 3, pug 3, siamese 3); 2 levels of folders, the "
        "second is the class",
    ),
    "unknown splits": (
        table(
            ("path", "label", "split"),
            lambda path, label, number: (path, label, ("train", "eval", "holdout")[number % 3]),
        ),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); splits test 4, train "
        "4, val 4; columns path: path, label: label, split: split; in the column 'split' 'eval' "
        "is val, 'holdout' is test",
    ),
    "some splits": (
        table(
            ("path", "label", "split"),
            lambda path, label, number: (path, label, ("train", "val", "holdout")[number % 3]),
        ),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); splits test 4, train "
        "4, val 4; columns path: path, label: label, split: split; in the column 'split' "
        "'holdout' is test",
    ),
    "extra in test": (
        lambda root: put_tree(root, "train/k0", "train/k1", "test/k0", "test/k1", "test/k2"),
        "SOURCE: 15 pictures in 3 classes (k0 6, k1 6, k2 3); splits test 9, train 6",
    ),
    "nfc nfd": (
        put_unicode_forms,
        "SOURCE: 18 pictures in 2 classes (café 9, señal 9); splits test 6, train 6, val 6; "
        "class names in Unicode NFC without blanks around them, as 'café'",
    ),
    "case only": (
        lambda root: put_tree(root, "Cat", "cat", "dog"),
        "SOURCE: 9 pictures in 3 classes (Cat 3, cat 3, dog 3)",
    ),
    "label spaces": (
        table(row=lambda path, label, number: (path, label + " " * (number % 2))),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); columns path: path, "
        "label: label; blanks around labels removed, as in 'cat '",
    ),
    "label case": (
        table(row=lambda path, label, number: (path, label.upper() if number % 2 else label)),
        "SOURCE/labels.csv: 12 pictures in 6 classes (CAT 2, COW 2, DOG 2, cat 2, cow 2, dog 2); "
        "columns path: path, label: label",
    ),
    "bool labels": (
        table(row=lambda path, label, number: (path, ("TRUE", "False", "True", "FALSE")[number % 4])),
        "SOURCE/labels.csv: 12 pictures in 4 classes (FALSE 3, False 3, TRUE 3, True 3); columns "
        "path: path, label: label",
    ),
    "semicolon": (
        table(delimiter=";"),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); separated by "
        "semicolons; columns path: path, label: label",
    ),
    "tab": (
        table(delimiter="\t"),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); separated by tabs; "
        "columns path: path, label: label",
    ),
    "ragged": (
        table(end="img/cat0.png,cat,,\n"),
        "SOURCE/labels.csv: 13 pictures in 3 classes (cat 5, cow 4, dog 4); 1 row with empty "
        "cells at the end; columns path: path, label: label",
    ),
    "cp1252": (
        table(row=lambda path, label, number: (path, "Käfer" if label == "cow" else label), encoding="cp1252"),
        "SOURCE/labels.csv: 12 pictures in 3 classes (Käfer 4, cat 4, dog 4); read as "
        "Windows-1252 since it is not UTF-8; columns path: path, label: label",
    ),
    "utf16": (
        table(delimiter="\t", encoding="utf-16"),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); in UTF-16; separated "
        "by tabs; columns path: path, label: label",
    ),
    "bom": (
        table(encoding="utf-8-sig"),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); columns path: path, label: label",
    ),
    "blank rows": (
        table(end=",\n\n,\n"),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); columns path: path, "
        "label: label; passed over: 2 empty rows",
    ),
    "header spaces": (
        table(("path", " label")),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); columns path: path, label: label",
    ),
    "header case": (
        table(("Image Path", "Class Label")),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); columns path: Image "
        "Path, label: Class Label",
    ),
    "no header": (
        table(()),
        "STOP: SOURCE/labels.csv: its first line is that of a picture (img/cat0.png, cat) and "
        "does not name the columns; write a line before it, such as: path,label",
    ),
    "backslash": (
        table(row=lambda path, label, number: (path.replace("/", "\\"), label)),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); columns path: path, "
        "label: label; 12 paths repaired (backslashes read as slashes 12): 'img\\cat0.png' is "
        "img/cat0.png",
    ),
    "dot backslash": (
        table(row=lambda path, label, number: (".\\" + path.replace("/", "\\"), label)),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); columns path: path, "
        "label: label; 12 paths repaired (backslashes read as slashes 12): '.\\img\\cat0.png' is "
        "img/cat0.png",
    ),
    "windows absolute": (
        table(row=lambda path, label, number: ("C:\\Users\\someone\\" + path.replace("/", "\\"), label)),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); columns path: path, "
        "label: label; 12 paths repaired (backslashes read as slashes 12, their beginning left "
        "out 12): 'C:\\Users\\someone\\img\\cat0.png' is img/cat0.png",
    ),
    "absolute elsewhere": (
        table(row=lambda path, label, number: ("/home/x/" + path, label)),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); columns path: path, "
        "label: label; 12 paths repaired (their beginning left out 12): '/home/x/img/cat0.png' "
        "is img/cat0.png",
    ),
    "slash paths": (
        table(row=lambda path, label, number: ("/" + path, label)),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); columns path: path, "
        "label: label; 12 paths repaired (their beginning left out 12): '/img/cat0.png' is "
        "img/cat0.png",
    ),
    "table beside": (
        table(row=lambda path, label, number: ("../" + path, label), name="meta/labels.csv"),
        "SOURCE/meta/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); columns path: "
        "path, label: label; 12 of 12 paths have no file: '../img/cat0.png': is outside the "
        "table's folder, in a folder above it; ?root=FOLDER names the folder of the pictures",
    ),
    "path spaces": (
        table(row=lambda path, label, number: (f" {path} ", label)),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); columns path: path, "
        "label: label; 12 paths repaired (blanks around them removed 12): ' img/cat0.png ' is "
        "img/cat0.png",
    ),
    "percent": (
        table(row=lambda path, label, number: (path.replace("cat", "%63at"), label)),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); columns path: path, "
        "label: label; 4 paths repaired (percent signs decoded 4): 'img/%63at0.png' is "
        "img/cat0.png",
    ),
    "upper ending": (
        table(row=lambda path, label, number: (path.replace("png", "PNG"), label)),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); columns path: path, "
        "label: label; 12 paths repaired (found in another case or Unicode form 12): "
        "'img/cat0.PNG' is img/cat0.png",
    ),
    "bare ids": (
        table(("id_code", "diagnosis"), lambda path, label, number: (path[4:-4], label)),
        "SOURCE: 12 pictures in 3 classes (cat 4, cow 4, dog 4); labels from labels.csv; columns path: id_code, "
        "label: diagnosis; 12 paths repaired (an ending added 12): 'cat0' is cat0.png",
    ),
    "bare ids of other pictures": (
        table(("id_code", "diagnosis"), lambda path, label, number: (f"x{number}", label)),
        "STOP: SOURCE/labels.csv: no column looks like the path (columns: id_code, diagnosis); "
        "name the column with SOURCE/labels.csv?path=COLUMN",
    ),
    "file names only": (
        table(("filename", "label"), lambda path, label, number: (path[4:], label)),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); columns path: "
        "filename, label: label; 12 paths repaired (found by name in a folder below 12): "
        "'cat0.png' is img/cat0.png",
    ),
    "empty labels": (
        table(row=lambda path, label, number: (path, "" if number % 4 == 0 else label)),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 3, cow 3, dog 3); columns path: path, "
        "label: label; 3 rows have no label: the cell is empty",
    ),
    "one hot": (
        table(
            ("image", *NAMES), lambda path, label, number: (path, *("1.0" if label == x else "0.0" for x in NAMES))
        ),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); columns path: image; "
        "one label a picture, as exactly one of 3 columns is 1 in each row (guessed; for "
        "multi-label, give SOURCE/labels.csv?labels=cat,dog,cow)",
    ),
    "two label columns": (
        table(("image", "target", "class"), lambda path, label, number: (path, str(NAMES.index(label)), label)),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); columns path: image, "
        "label: class; the column 'target' holds the same classes by other names (?label=target "
        "takes it)",
    ),
    "two equal label columns": (
        table(("image", "label", "class"), lambda path, label, number: (path, label, label)),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); columns path: image, label: label",
    ),
    "is_valid": (
        table(("path", "label", "is_valid"), lambda path, label, number: (path, label, str(number % 4 == 0))),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); splits train 9, val "
        "3; columns path: path, label: label, split: is_valid; in the column 'is_valid' true is "
        "val, false is train; SOURCE/labels.csv?split= ignores it",
    ),
    "index column": (
        table(("", "path", "label"), lambda path, label, number: (str(number), path, label)),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); columns path: path, label: label",
    ),
    "comma labels": (
        table(
            row=lambda path, label, number: (
                path,
                {"cat": "crane, bird", "dog": "crane, machine"}.get(label, label),
            )
        ),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cow 4, crane, bird 4, crane, machine 4); "
        "columns path: path, label: label; a cell with ',' is read as one label; ?separator=, "
        "makes it several labels",
    ),
    "linked class": (
        put_links,
        "STOP: SOURCE/b: the class folder is a link, and links are not followed; put the files "
        "themselves in their place, or leave it out: 'SOURCE?ignore=b'",
    ),
    "linked pictures": (
        put_linked_pictures,
        "STOP: SOURCE/c: all 3 pictures of the class folder are links, and links are not "
        "followed; put the files themselves in their place, or leave it out: 'SOURCE?ignore=c'",
    ),
    "no ending": (
        lambda root: (put(root / "a", 3, ""), put(root / "b", 3, "")),
        "SOURCE: 6 pictures in 2 classes (a 3, b 3); 6 pictures have no ending and are known by the content",
    ),
    "nas": (
        put_thumbnails,
        "SOURCE: 6 pictures in 2 classes (a 3, b 3); passed over: 2 system folders (@eaDir)",
    ),
    "system folders": (
        lambda root: (
            put_tree(root, "a", "b", "$RECYCLE.BIN", "System Volume Information"),
            (root / "lost+found").mkdir(),
        ),
        "SOURCE: 6 pictures in 2 classes (a 3, b 3); passed over: 1 system folder "
        "($RECYCLE.BIN), 1 system folder (System Volume Information), 1 system folder "
        "(lost+found)",
    ),
    "docs": (
        lambda root: (put_tree(root, "cat", "dog"), put_file(root, "docs/README.md", b"x")),
        "SOURCE: 6 pictures in 2 classes (cat 3, dog 3); 1 folder holds no pictures: docs; "
        "passed over: 1 file of another kind",
    ),
    "backslash zip": (
        lambda root: pack(put_splits(root, ("train", "test")), "back.zip", lambda n: n.replace("/", "\\")),
        "SOURCE/back.zip: 12 pictures in 2 classes (cat 6, dog 6); splits test 6, train 6",
    ),
    "tar": (
        lambda root: pack(put_splits(root, ("train", "test")), "set.tar.gz", lambda n: "./set/" + n),
        "SOURCE/set.tar.gz: 12 pictures in 2 classes (cat 6, dog 6); splits test 6, train 6",
    ),
    "7z": (
        lambda root: put_file(root, "x.7z", b"7z\xbc\xaf\x27\x1c" + bytes(60)),
        "STOP: SOURCE/x.7z: a 7z archive is not read; unpack it with `7z x`, or pack it as zip or tar",
    ),
    "page.zip": (
        lambda root: put_file(root, "page.zip", b"<!DOCTYPE html><html>scan warning</html>"),
        "STOP: SOURCE/page.zip: damaged archive: File is not a zip file; download it again",
    ),
    "xlsx": (
        lambda root: put_file(root, "labels.xlsx", b"PK\3\4" + bytes(200)),
        "STOP: SOURCE/labels.xlsx: an Excel workbook is not read; save the sheet as CSV UTF-8 "
        "with a first line such as `path,label`",
    ),
    "json list": (
        lambda root: put_file(root, "labels.json", b'[{"file_name":"img/a.png","label":"cat"}]'),
        "STOP: SOURCE/labels.json: not a document of COCO, CVAT for images 1.1, FiftyOne, Label Studio, "
        "Pascal VOC or YOLO; convert it to one, or to a table (CSV, JSON lines)",
    ),
    "list txt": (
        lambda root: put_file(root, "train.txt", b"img/a.png 0\nimg/b.png 1\n"),
        "STOP: SOURCE/train.txt: a text file is not read as a table; write a CSV file with a "
        "first line such as `path,label` and a line for each picture",
    ),
    "tfrecord": (
        lambda root: put_file(root, "train.tfrecord", bytes(400)),
        "STOP: SOURCE/train.tfrecord: TFRecord files are not read; write their pictures as "
        "files, one sub-folder per class",
    ),
    "npz": (
        lambda root: put_file(root, "d.npz", b"PK\3\4" + bytes(200)),
        "STOP: SOURCE/d.npz: NumPy arrays are not read; write them as PNG files, one sub-folder per class",
    ),
    "question": (
        lambda root: put_table(root / "who?"),
        "SOURCE/who?/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); columns path: path, label: label",
    ),
    "masks": (
        lambda root: put_tree(root, "images", "masks"),
        "SOURCE: 6 pictures in 2 classes (images 3, masks 3)",
    ),
    "empty class": (
        lambda root: (put_tree(root, "a", "b"), (root / "c").mkdir()),
        "SOURCE: 6 pictures in 2 classes (a 3, b 3); 1 folder holds no pictures: c",
    ),
    "single class": (
        lambda root: put_tree(root, "a"),
        "STOP: SOURCE: a single class 'a'; at least two are needed to learn a difference",
    ),
    "pictures only": (
        lambda root: put(root),
        "STOP: SOURCE: the pictures are in no class folder; move them into one sub-folder per class",
    ),
    "jupyter": (
        lambda root: put_tree(root, "a", "b", "a/.ipynb_checkpoints"),
        "SOURCE: 6 pictures in 2 classes (a 3, b 3); passed over: 1 hidden",
    ),
    "valid and dev": (
        lambda root: put_splits(root, ("train", "valid", "dev")),
        "SOURCE: 18 pictures in 2 classes (cat 9, dog 9); splits train 6, val 12; dev is val, valid is val",
    ),
    "Testing": (
        lambda root: put_splits(root, ("Training", "Testing")),
        "SOURCE: 12 pictures in 2 classes (cat 6, dog 6); splits test 6, train 6; Testing is "
        "test, Training is train",
    ),
    "class called test": (
        lambda root: put_tree(root, "test", "pass"),
        "STOP: SOURCE: test (3 pictures) is named like a split, but without class folders, "
        "beside pass; if it is a class: 'SOURCE?split_folders=none'",
    ),
    "numbers with float": (
        table(row=lambda path, label, number: (path, f"{NAMES.index(label)}.0")),
        "SOURCE/labels.csv: 12 pictures in 3 classes (0 4, 1 4, 2 4); columns path: path, label: "
        "label; numbers with a fraction of zeros read as integers, as '0.0'",
    ),
    "fold": (
        table(("path", "label", "fold"), lambda path, label, number: (path, label, str(number % 5))),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); columns path: path, "
        "label: label; the column 'fold' is not used ('0', '1', '2', '3', '4' are no splits); "
        "?group=fold keeps the pictures of each value in one split",
    ),
    "escape name": (
        lambda root: put_tree(root, "cat", "do\x1b[31mg"),
        "SOURCE: 6 pictures in 2 classes (cat 3, do\\x1b[31mg 3)",
    ),
    "spreadsheet names": (
        lambda root: put_tree(root, "=1+1", "@cat"),
        "SOURCE: 6 pictures in 2 classes (=1+1 3, @cat 3)",
    ),
    "train copy": (
        lambda root: put_tree(root, "cat", "dog", "data/cat", "data/dog"),
        "SOURCE: 6 pictures in 2 classes (cat 3, dog 3); passed over: 6 pictures in data (a copy)",
    ),
    "one empty csv": (
        lambda root: put_file(root, "labels.csv", b""),
        "STOP: SOURCE/labels.csv: not readable as a table: Empty CSV file",
    ),
    "only header": (
        lambda root: put_file(root, "labels.csv", b"path,label\n"),
        "STOP: SOURCE/labels.csv: holds no rows",
    ),
    "tsv named csv with cr": (
        lambda root: (
            put(root / "img", 2) and put_file(root, "labels.csv", b"path\tlabel\rimg/0.png\tcat\rimg/1.png\tdog\r")
        ),
        "SOURCE/labels.csv: 2 pictures in 2 classes (cat 1, dog 1); separated by tabs; columns "
        "path: path, label: label",
    ),
    "quoted": (
        table(row=lambda path, label, number: (f'"{path}"', label)),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); columns path: path, "
        "label: label; 12 of 12 paths have no file: '\"img/cat0.png\"': no such file; ?root=FOLDER "
        "names the folder of the pictures",
    ),
    "file url": (
        table(row=lambda path, label, number: (f"file:///data/{path}", label)),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); columns path: path, "
        "label: label; 12 of 12 paths have no file: 'file:///data/img/cat0.png': a URL: only "
        "files below the table's folder are read",
    ),
    "missing half": (
        table(row=lambda path, label, number: (path if number % 2 else f"img/none{number}.png", label)),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); columns path: path, "
        "label: label; 6 of 12 paths have no file: 'img/none0.png': no such file; ?root=FOLDER "
        "names the folder of the pictures",
    ),
    "no such folder": (
        lambda root: root / "typo",
        "STOP: SOURCE/typo: no such folder; give a folder that holds one sub-folder per class",
    ),
    "deep": (
        lambda root: put_tree(root, "x/y/cat", "x/y/dog"),
        "STOP: SOURCE: a single class 'x'; at least two are needed to learn a difference",
    ),
    "split mixed case col": (
        table(
            ("path", "label", "Subset"),
            lambda path, label, number: (path, label, ("Train", "Valid", "TEST")[number % 3]),
        ),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); splits test 4, train "
        "4, val 4; columns path: path, label: label, split: Subset; in the column 'Subset' "
        "'Valid' is val",
    ),
    "multi labels": (
        table(("path", "labels"), lambda path, label, number: (path, f"{label};{NAMES[number % 3]}")),
        "SOURCE/labels.csv: 12 pictures in 3 labels (cat 6, cow 6, dog 6); columns path: path, "
        "label: labels; multi-label, separated by ';' (guessed; SOURCE/labels.csv?separator= "
        "makes each cell one label)",
    ),
    "deep csv in tree": (
        lambda root: (
            put_tree(root, "train/cat", "train/dog", "test"),
            (root / "train.csv").write_text("id,label\n"),
        ),
        "SOURCE: 6 pictures in 2 classes (cat 3, dog 3); splits train 6; passed over: 1 file of "
        "another kind, 3 unlabelled pictures of a split",
    ),
    "16 bit": (
        lambda root: (put_tree(root, "cat", "dog") / "cat" / "deep.png").write_bytes(
            encode_png16(np.zeros((8, 8), np.uint16))
        ),
        "SOURCE: 7 pictures in 2 classes (cat 4, dog 3)",
    ),
    "dicom endings": (
        lambda root: (put(root / "a", 2, ".dcm"), put(root / "b", 2, ".DICOM")),
        "SOURCE: 4 pictures in 2 classes (a 2, b 2)",
    ),
    "different label columns": (
        table(("path", "label", "category"), lambda path, label, number: (path, label, "ab"[number % 2])),
        "STOP: SOURCE/labels.csv: the columns 'label' and 'category' both look like the label "
        "and hold different classes; choose one with SOURCE/labels.csv?label=label or "
        "SOURCE/labels.csv?label=category",
    ),
    "flags that are none": (
        table(("path", "label", "is_valid"), lambda path, label, number: (path, label, str(number % 3))),
        "SOURCE/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); columns path: path, "
        "label: label; the column 'is_valid' is not used: it holds more than true and false",
    ),
    "options after a question mark": (
        lambda root: f"{put_table(root / 'who?', ('path', 'breed'))}?label=breed",
        "SOURCE/who?/labels.csv: 12 pictures in 3 classes (cat 4, cow 4, dog 4); columns path: path, label: breed",
    ),
    "webp named jpg": (
        lambda root: (put(root / "a", 2, ".jpg"), put(root / "b", 2, ".webp")),
        "SOURCE: 4 pictures in 2 classes (a 2, b 2)",
    ),
    "rar": (
        lambda root: put_file(root, "x.rar", b"Rar!" + bytes(60)),
        "STOP: SOURCE/x.rar: a RAR archive is not read; unpack it with `unrar x`, or pack it as zip or tar",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_input_gives_its_line(name: str, tmp_path: Path) -> None:
    make, expected = CASES[name]
    (root := tmp_path / "SOURCE").mkdir()
    made = make(root)
    try:
        line = open_source(str(made if isinstance(made, (str, Path)) else root)).describe()
    except UserError as error:
        line = f"STOP: {error}"
    assert line.replace(str(root), "SOURCE") == expected
