"""Problems of class folders: those that are links, and a single one."""

from __future__ import annotations

from collections.abc import Collection

from imageset.rejections import escape_control_characters
from imageset.sources.files import Links
from imageset.sources.layouts.folder_tree import find_ignored
from imageset.sources.layouts.layout import Layout
from imageset.sources.layouts.options import FolderOptions, quote_name
from imageset.utils.text import format_count


def describe_linked_class(
    label: str, links: Links, layout: Layout, folders: Collection[str], options: FolderOptions
) -> str | None:
    """Return the problem of a class folder that is a link or holds only links, or None.

    Args:
        label: name of the source in messages.
        links: the links of the source.
        layout: its layout.
        folders: the folders that hold pictures.
        options: decisions of the user.
    """
    linked = [folder for folder in links.folders if folder.count("/") < layout.find_class_depth(folder)]
    linked = [folder for folder in linked if not find_ignored(folder, options.ignore)]
    if linked:
        return _build_message(label, linked, "the class folder is a link", options)
    filled = {_cut_to_class(folder, layout) for folder in folders}
    classes = dict.fromkeys(
        _cut_to_class(folder, layout)
        for folder in links.pictures
        if folder and layout.find_class_depth(folder) and not find_ignored(folder, options.ignore)
    )
    only_links = [folder for folder in classes if folder not in filled]
    if not only_links:
        return None
    first = only_links[0]
    num = sum(num for folder, num in links.pictures.items() if f"{folder}/".startswith(f"{first}/"))
    noun = format_count(num, "picture of the class folder is a link", "pictures of the class folder are links")
    return _build_message(label, only_links, f"all {noun}" if num > 1 else f"the {noun}", options)


def hint_at_lower_folders(label: str, folders: Collection[str], layout: Layout, options: FolderOptions) -> str:
    """Return a hint at the level of folders below that of the classes, if there are several; or ""."""
    paths = [(folder.split("/"), layout.find_class_depth(folder)) for folder in folders]
    lower = {path[depth] for path, depth in paths if depth < len(path)}
    spec = options.format_spec(label, level=str((options.level or 1) + 1))
    return f" (did you mean {spec}?)" if len(lower) > 1 else ""


def _cut_to_class(folder: str, layout: Layout) -> str:
    return "/".join(folder.split("/")[: layout.find_class_depth(folder)])


def _build_message(label: str, folders: list[str], fact: str, options: FolderOptions) -> str:
    others = f" (and {len(folders) - 1:,} more like it)" if len(folders) > 1 else ""
    hint = options.format_spec(label, ignore=",".join(map(quote_name, folders)))
    return (
        f"{label}/{escape_control_characters(folders[0])}: {fact}{others}, and links are not followed; put "
        f"the files themselves in their place, or leave it out: {hint}"
    )
