"""The detection of the layout of folders: classes, splits, and the layouts of ImageNet and Tiny ImageNet.

A layout is detected from the names alone (POSIX paths relative to the source) and from a few small text files, so
that folders, archives and listings of buckets are understood alike.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

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
    return build_class_layout(
        label, names, options, skip_common_folders=skip_common_folders, other_folders=other_folders
    )
