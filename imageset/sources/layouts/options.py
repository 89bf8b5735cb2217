"""Options of folders, archives and buckets: `pets?split_folders=dev:val,other:test&ignore=docs,notes&level=2`."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from urllib.parse import quote, unquote

from imageset.exceptions import UserError
from imageset.rejections import escape_control_characters
from imageset.sources.layouts.split_names import SPLIT_BY_FOLDER, parse_split_name
from imageset.utils.text import suggest_name

OPTION_KEYS = ("split_folders", "ignore", "level")


@dataclass(frozen=True)
class FolderOptions:
    """Decisions of the user about the folders of a source.

    Attributes:
        split_folders: the split of each folder that is one; empty: no folder is; None: they are recognized.
        ignore: folders that are passed over: names or paths, at any level; "/docs": only at the top.
        level: the level of folders, from 1, that is the class, not counting folders of splits; None: the first.
    """

    split_folders: dict[str, str] | None = None
    ignore: tuple[str, ...] = ()
    level: int | None = None

    def format_spec(self, label: str, **changes: str) -> str:
        """Return the source with these options and others, quoted for a shell, as a hint in a message.

        Args:
            label: name of the source in messages.
            changes: value of each option that changes, as in a query; further folders to ignore.
        """
        values = {}
        if self.split_folders is not None:
            pairs = [f"{quote_name(name)}:{split}" for name, split in self.split_folders.items()]
            values["split_folders"] = ",".join(pairs) or "none"
        if ignored := [*map(quote_name, self.ignore), *filter(None, [changes.pop("ignore", "")])]:
            values["ignore"] = ",".join(ignored)
        if self.level is not None:
            values["level"] = str(self.level)
        query = "&".join(f"{key}={value}" for key, value in (values | changes).items())
        return shlex.quote(f"{escape_control_characters(label)}?{query}")


NO_OPTIONS = FolderOptions()


def parse_folder_options(label: str, query: str) -> FolderOptions:
    """Parse the query of a folder, an archive or a bucket.

    Raises:
        UserError: an option is unknown, or its value is wrong.
    """
    options: dict[str, str] = {}
    for piece in filter(None, query.split("&")):
        key, _, value = piece.partition("=")
        if key not in OPTION_KEYS:
            raise UserError(f"{label}: unknown option '{key}' after the question mark; "
                            f"{suggest_name(key, OPTION_KEYS)}")  # fmt: skip
        if not value:
            raise UserError(f"{label}: the option {key} has no value; give {_EXAMPLES[key]}")
        options[key] = value
    level = options.get("level")
    if level is not None and not re.fullmatch(r"[1-9]\d{0,2}", level):
        raise UserError(f"{label}: level is '{level}'; give the level of folders that is the class, from 1")
    ignore = tuple(unquote(name).rstrip("/") for name in options.get("ignore", "").split(",") if name)
    split_folders = _parse_split_folders(label, options.get("split_folders"))
    return FolderOptions(split_folders, ignore, None if level is None else int(level))


def quote_name(name: str) -> str:
    """Return a folder's name as it is written in a query."""
    return re.sub(r"[%,:&?#\x00-\x1f\x7f]", lambda match: quote(match[0], safe=""), name)


_EXAMPLES = {"split_folders": "split_folders=none or split_folders=FOLDER:train,OTHER:test",
             "ignore": "ignore=FOLDER,OTHER", "level": "level=2"}  # fmt: skip


def _parse_split_folders(label: str, value: str | None) -> dict[str, str] | None:
    if value is None:
        return None
    split_by_name: dict[str, str] = {}
    for item in filter(None, value.split(",")) if value != "none" else ():
        name, colon, word = item.partition(":")
        name = unquote(name)
        parsed = parse_split_name(name)
        split = SPLIT_BY_FOLDER.get(word.lower()) if colon else parsed and parsed.split
        if split is None:
            raise UserError(f"{label}: split_folders does not say which split '{escape_control_characters(name)}' "
                            f"is; write {escape_control_characters(item)}:train, :val or :test"
                            if not colon else f"{label}: split_folders: '{word}' is no split; "
                            "give train, val or test")  # fmt: skip
        split_by_name[name] = split
    return split_by_name
