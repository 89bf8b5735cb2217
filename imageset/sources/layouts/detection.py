"""The detection of the layout of folders: classes, splits, and the layouts of ImageNet and GTSRB.

A layout is detected from the names alone (POSIX paths relative to the source) and from a few small text files, so
that folders, archives and listings of buckets are understood alike.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from imageset.class_names import normalize_class_name
from imageset.sources.layouts import imagenet
from imageset.sources.layouts.class_folders import build_class_layout
from imageset.sources.layouts.gtsrb import TEST_FOLDERS, TEST_LABELS, build_gtsrb_layout, is_gtsrb
from imageset.sources.layouts.imagenet import build_imagenet_layout, is_imagenet
from imageset.sources.layouts.layout import Layout
from imageset.sources.layouts.options import NO_OPTIONS, FolderOptions

# The text files that a layout may need, and the folders that they may be in.
LAYOUT_FILES = (*imagenet.LAYOUT_FILES, TEST_LABELS)
LAYOUT_FILE_FOLDERS = (*imagenet.LAYOUT_FILE_FOLDERS, *TEST_FOLDERS)


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
        options: decisions of the user; the layouts of ImageNet and GTSRB have none.
        other_folders: folders without images that may be ignored.

    Raises:
        UserError: ImageNet's validation images without a file that gives their labels, or an option that names a
            folder that is not there.
    """
    if options == NO_OPTIONS and is_imagenet(names, layout_files):
        return build_imagenet_layout(label, names, layout_files)
    if options == NO_OPTIONS and is_gtsrb(names):
        return build_gtsrb_layout(names, layout_files)

    def build(names: Sequence[str], other_folders: Collection[str]) -> Layout:
        return build_class_layout(
            label, names, options, skip_common_folders=skip_common_folders, other_folders=other_folders
        )

    folders = {name.rpartition("/")[0] for name in names}
    if all(normalize_folder(folder) == folder for folder in (*folders, *other_folders)):
        return build(names, other_folders)
    layout = build([normalize_path(name) for name in names], set(map(normalize_folder, other_folders)))
    return layout._replace(
        parse_path=lambda name: layout.parse_path(normalize_path(name)),
        find_skip_cause=lambda name: layout.find_skip_cause(normalize_path(name)),
        find_class_depth=lambda folder: layout.find_class_depth(normalize_folder(folder)),
        note="; ".join(filter(None, [layout.note, _describe_normalization(layout, names)])),
    )


def normalize_folder(folder: str) -> str:
    """Return the path of a folder with each of its names in one spelling (imageset.class_names)."""
    return "/".join(normalize_class_name(name) or name for name in folder.split("/"))


def normalize_path(path: str) -> str:
    """Return the path of a file with the names of its folders in one spelling."""
    folder, slash, name = path.rpartition("/")
    return normalize_folder(folder) + slash + name


def _describe_normalization(layout: Layout, names: Sequence[str]) -> str:
    """Return a clause that names a class of another spelling, or "" if no class has one."""
    example_by_folder = {name.rpartition("/")[0]: name for name in names}
    for folder, name in sorted(example_by_folder.items()):
        found = layout.parse_path(normalize_path(name))
        if (
            found
            and found.label
            and any(
                part != found.label and normalize_class_name(part) == found.label for part in folder.split("/")
            )
        ):
            return f"class names in Unicode NFC without blanks around them, as '{found.label}'"
    return ""
