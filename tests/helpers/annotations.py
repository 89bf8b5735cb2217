"""Documents of annotations as the tools write them, each with the same pictures and labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from tests.helpers.images import encode_noise

Labels = Mapping[str, Sequence[str]]  # labels by the name of a picture


def write_pictures(folder: Path, names: Sequence[str]) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encode_noise(sum(map(ord, name)) * 1000 + number))


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def list_classes(labels: Labels) -> list[str]:
    return sorted({name for names in labels.values() for name in names})


def build_coco(labels: Labels) -> dict[str, Any]:
    classes = list_classes(labels)
    boxes = [(number, name) for number, names in enumerate(labels.values()) for name in [*names, *names]]
    return {
        "info": {"year": 2017},
        "images": [{"id": number, "file_name": name, "width": 20} for number, name in enumerate(labels)],
        "annotations": [
            {"id": number, "image_id": image, "category_id": classes.index(name) + 1, "bbox": [1, 2, 3, 4]}
            for number, (image, name) in enumerate(boxes)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes, start=1)],
    }


def write_coco(folder: Path, labels: Labels, split: str = "") -> Path:
    """annotations/instances_SPLIT2017.json beside SPLIT2017/."""
    write_pictures(folder / f"{split}2017" if split else folder / "images", list(labels))
    name = f"instances_{split}2017.json" if split else "instances.json"
    return write(folder / "annotations" / name, build_coco(labels))


def write_yolo(folder: Path, labels: Labels) -> Path:
    classes = list_classes(labels)
    write_pictures(folder / "images", list(labels))
    for name, names in labels.items():
        lines = [f"{classes.index(label)} 0.5 0.5 0.1 0.1" for label in [*names, *names]]
        write(folder / "labels" / name.replace(".png", ".txt"), "\n".join(lines))
    quoted = ", ".join(map(json.dumps, classes))
    return write(folder / "data.yaml", f"path: .\ntrain: images\nnc: {len(classes)}\nnames: [{quoted}]\n")


def write_voc(folder: Path, labels: Labels) -> Path:
    write_pictures(folder / "JPEGImages", list(labels))
    write_pictures(folder / "SegmentationClass", list(labels)[:2])
    for name, names in labels.items():
        boxes = "".join(f"<object><name>{escape(label)}</name><bndbox/></object>" for label in [*names, *names])
        text = f"<annotation><folder>VOC</folder><filename>{escape(name)}</filename>{boxes}</annotation>"
        write(folder / "Annotations" / name.replace(".png", ".xml"), text)
    return folder / "Annotations"


def write_cvat(folder: Path, labels: Labels, kind: str = "box") -> Path:
    write_pictures(folder / "images", list(labels))
    images = []
    for number, (name, names) in enumerate(labels.items()):
        boxes = "".join(
            f'<{kind} label={quoteattr(label)} source="manual"></{kind}>' for label in [*names, *names]
        )
        images.append(f'<image id="{number}" name={quoteattr(name)} width="20" height="20">{boxes}</image>')
    return write(
        folder / "annotations.xml",
        f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version><meta/>{"".join(images)}'
        "</annotations>",
    )


def build_task(number: int, picture: str, labels: Sequence[str], kind: str = "choices") -> dict[str, Any]:
    type_ = "choices" if kind == "choices" else "rectanglelabels"
    result = [{"from_name": "label", "to_name": "image", "type": type_, "value": {type_: list(labels)}}]
    answer = {"id": number, "completed_by": 1, "was_cancelled": False, "result": result,
              "created_at": "2024-03-01T10:00:00.000Z"}  # fmt: skip
    return {"id": number, "data": {"image": picture}, "annotations": [answer] if labels else [], "predictions": []}


def write_label_studio(folder: Path, labels: Labels, kind: str = "choices") -> Path:
    write_pictures(folder / "images", list(labels))
    tasks = [
        build_task(number, f"/data/local-files/?d=images/{name}", names, kind)
        for number, (name, names) in enumerate(labels.items())
    ]
    return write(folder / "project-1.json", tasks)


def write_label_studio_min(folder: Path, labels: Labels) -> Path:
    write_pictures(folder / "images", list(labels))
    tasks: list[dict[str, Any]] = []
    for number, (name, names) in enumerate(labels.items()):
        task = {"image": f"images/{name}", "id": number, "annotator": None, "lead_time": 0}
        if names:
            task |= {"choice": names[0] if len(names) == 1 else {"choices": list(names)}, "annotator": 1}
            task |= {"annotation_id": number, "created_at": "2024-03-01T10:00:00.000Z"}
        tasks.append(task)
    return write(folder / "min.json", tasks)


def write_fiftyone(folder: Path, labels: Labels) -> Path:
    classes = list_classes(labels)
    write_pictures(folder / "data", list(labels))
    targets: dict[str, Any] = {}
    for name, names in labels.items():
        numbers = [classes.index(label) for label in names]
        targets[name.removesuffix(".png")] = numbers[0] if len(numbers) == 1 else numbers or None
    return write(folder / "labels.json", {"classes": classes, "labels": targets})


# The basis, as the description of the source names it, and the writer of each format.
FORMATS: dict[str, tuple[str, Callable[[Path, Labels], Path]]] = {
    "COCO": ("boxes", write_coco),
    "YOLO": ("boxes", write_yolo),
    "Pascal VOC": ("boxes", write_voc),
    "CVAT": ("boxes", write_cvat),
    "CVAT tags": ("tags", lambda folder, labels: write_cvat(folder, labels, "tag")),
    "Label Studio": ("choices", write_label_studio),
    "Label Studio boxes": ("boxes", lambda folder, labels: write_label_studio(folder, labels, "boxes")),
    "Label Studio min": ("choices", write_label_studio_min),
    "FiftyOne": ("labels", write_fiftyone),
}
