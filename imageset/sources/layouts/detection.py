"""The detection of the layout of folders: classes, splits, and the layouts of ImageNet and Tiny ImageNet.

A layout is detected from the names alone (POSIX paths relative to the source) and from a few small text files, so
that folders, archives and listings of buckets are understood alike.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from imageset.class_names import normalize_class_name
from imageset.sources.base import PathLabel
from imageset.sources.layouts.class_folders import build_class_layout
from imageset.sources.layouts.imagenet import build_imagenet_layout, is_imagenet
from imageset.sources.layouts.layout import Layout
from imageset.sources.layouts.options import NO_OPTIONS, FolderOptions


def detect_layout(
    label: str,
    names: Sequence[str],
    layout_files: Mapping[str, bytes],
    *,
    skip_common_folders: bool,
    options: FolderOptions = NO_OPTIONS,
    other_folders: Collection[str] = (),
) -> Layout:
    """Return the layout of a source.

    Args:
        label: name of the source in messages.
        names: POSIX paths of the images, relative to the source.
        layout_files: content by name of the files in LAYOUT_FILES.
        skip_common_folders: ignore folders that are around all images, such as an archive's own top folder.
        options: decisions of the user; ImageNet's layouts have none.
        other_folders: folders without images that may be ignored.

    Raises:
        UserError: ImageNet's validation images without a file that gives their labels, or an option that names a
            folder that is not there.
    """
    if options == NO_OPTIONS and is_imagenet(names, layout_files):
        return build_imagenet_layout(label, names, layout_files)
    layout = build_class_layout(
        label, names, options, skip_common_folders=skip_common_folders, other_folders=other_folders
    )
    return normalize_labels(layout, names)


def normalize_labels(layout: Layout, names: Iterable[str]) -> Layout:
    """Return a layout whose labels have one spelling (imageset.class_names); unchanged if they have already."""
    example_by_folder = {name.rpartition("/")[0]: name for name in names}
    labels = {found.label for name in example_by_folder.values() if (found := layout.parse_path(name))}
    odd = sorted(label for label in labels if label is not None and normalize_class_name(label) != label)
    if not odd:
        return layout

    def parse_path(name: str) -> PathLabel | None:
        found = layout.parse_path(name)
        return found and PathLabel(normalize_class_name(found.label or "") or None, found.split)

    note = f"class names in Unicode NFC without blanks around them, as '{normalize_class_name(odd[0])}'"
    return layout._replace(parse_path=parse_path, note="; ".join(filter(None, [layout.note, note])))
