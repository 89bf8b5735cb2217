"""Folders of classes, with or without folders of splits above or below them.

Folders of splits are recognized only where nothing else fits; a tree that can be understood in two ways is a
problem, whose message names what was found and the option that decides (imageset.sources.layouts.options).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from imageset.exceptions import UserError
from imageset.rejections import escape_control_characters
from imageset.sources.base import PathLabel
from imageset.sources.layouts.folder_tree import FolderNode, Folders, FolderTree, find_ignored
from imageset.sources.layouts.layout import UNLABELLED_IN_SPLIT, Layout
from imageset.sources.layouts.options import FolderOptions, quote_name
from imageset.sources.layouts.split_names import SPLIT_BY_FOLDER, find_split_names, parse_split_name
from imageset.utils.text import format_count, suggest_name

MAX_FOLDERS_NAMED = 5
# Folders that may lie beside a single folder of a split without making it doubtful.
_NO_CLASS_WORDS = frozenset(
    [
        *(
            "unlabeled",
            "unlabelled",
            "unsorted",
            "unknown",
            "extra",
            "misc",
            "other",
            "others",
            "raw",
            "tmp",
            "temp",
        ),
        *("pred", "predict", "prediction", "predictions", "inference", "output", "outputs", "result", "results"),
        *("doc", "docs", "notes", "readme", "figures", "plots", "runs", "logs", "examples", "demo", "samples"),
        *(
            "masks",
            "labels",
            "annotations",
            "thumbnails",
            "thumbs",
            "backup",
            "old",
            "archive",
            "images",
            "assets",
        ),
    ]
)
_PART = re.compile(
    r"^(.*?)(fold|part|batch|chunk|split|shard|set|group)[-_ ]*\d+$|^.*(train|test|valid)$|^(train|test|valid)",
    re.IGNORECASE,
)


class Reading(NamedTuple):
    """A way to understand a tree.

    Attributes:
        read: returns the label and split of the pictures in a folder, or the cause for which they are passed over.
        find_depth: returns how many folders lead to the classes at or below a folder; 0: there are none.
        notes: facts for the description of the source.
        problem: why no way is clear; "" if this one is.
    """

    read: Callable[[Folders], PathLabel | str]
    find_depth: Callable[[Folders], int]
    notes: tuple[str, ...] = ()
    problem: str = ""


def build_class_layout(
    label: str,
    names: Sequence[str],
    options: FolderOptions,
    *,
    skip_common_folders: bool,
    other_folders: Collection[str] = (),
) -> Layout:
    """Return the layout of a tree of class folders.

    Args:
        label: name of the source in messages.
        names: POSIX paths of the images, relative to the source.
        options: decisions of the user.
        skip_common_folders: leave out the folders around all images, such as an archive's own top folder.
        other_folders: folders without images that may be ignored.

    Raises:
        UserError: an option names a folder that is not there.
    """
    tree = FolderTree(names, options.ignore, skip_common_folders)
    for entry, num in tree.ignored.items():
        if not num and not any(find_ignored(folder, [entry]) for folder in other_folders):
            known = set(tree.root.children) | set(other_folders)
            raise UserError(f"{label}: ignore={_show(entry)}: no pictures are in a folder of this name; "
                            f"{suggest_name(entry, map(_show, known))}")  # fmt: skip
    reading = _read_tree(tree, _Messages(label, options), options)
    found: dict[str, PathLabel | str] = {folder: reading.read(path) for folder, path in tree.folders.items()}
    for folder, ignored in tree.ignored_by_folder.items():
        if ignored:
            found[folder] = f"pictures in {_show(ignored)} (ignored)"

    def parse_path(name: str) -> PathLabel | None:
        value = found[name.rpartition("/")[0]]
        return value if isinstance(value, PathLabel) else None

    def find_skip_cause(name: str) -> str:
        return str(found[name.rpartition("/")[0]])

    def find_class_depth(folder: str) -> int:
        depth = reading.find_depth(tuple(folder.split("/"))[tree.num_common :])
        return depth + tree.num_common if depth else 0

    problem = f"{label}: {reading.problem}" if reading.problem else None
    return Layout(parse_path, "; ".join(reading.notes), find_skip_cause, find_class_depth, problem)


class _Messages:
    """Parts of messages: the source with an option that decides."""

    def __init__(self, label: str, options: FolderOptions) -> None:
        self._label, self._options = label, options

    def hint(self, **changes: str) -> str:
        return self._options.format_spec(self._label, **changes)

    def hint_ignore(self, names: Iterable[str]) -> str:
        return self.hint(ignore=",".join(map(quote_name, names)))

    def hint_splits(self, split_by_name: Mapping[str, str]) -> str:
        return self.hint(
            split_folders=",".join(f"{quote_name(name)}:{split}" for name, split in split_by_name.items())
        )

    @property
    def hint_classes(self) -> str:
        return self.hint(split_folders="none")


def _read_tree(tree: FolderTree, say: _Messages, options: FolderOptions) -> Reading:
    tops, level = tree.root.children, options.level or 1
    if options.split_folders is not None:
        return _read_given_splits(tree, options.split_folders, level, say)
    split_by_top = find_split_names(tops)
    if not split_by_top:
        return _read_classes(tree, say, options)
    nested = {top for top in split_by_top if _unwrap(top, tops[top])[1].children}
    others = [top for top in tops if top not in split_by_top]
    if len(tops) == 1 and "train" not in split_by_top.values() and nested:
        return _read_plain(tree, options)  # a single class, which is a problem of its own
    if not nested:
        return _stop(split_by_top, _describe_flat_splits(tops, split_by_top, others, say))
    if "train" not in {split_by_top[top] for top in nested}:
        return _stop(split_by_top, _describe_no_train(tops, split_by_top, nested, others, say))
    return _read_splits_above(tree, split_by_top, nested, others, level, say)


# ---- splits above the classes --------------------------------------------------------------------------------


def _unwrap(top: str, node: FolderNode) -> tuple[Folders, FolderNode]:
    """Return the path and the node of the folder around the classes of a split: seg_train/seg_train."""
    path: Folders = (top,)
    split = parse_split_name(top)
    while not node.num and len(node.children) == 1:
        (name,) = node.children
        inner = parse_split_name(name)
        if name.lower() != top.lower() and (inner is None or split is None or inner.split != split.split):
            break
        path, node = (*path, name), node.children[name]
    return path, node


def _read_splits_above(
    tree: FolderTree,
    split_by_top: Mapping[str, str],
    nested: Collection[str],
    others: Sequence[str],
    level: int,
    say: _Messages,
) -> Reading:
    tops = tree.root.children
    unwrapped = {top: _unwrap(top, tops[top]) for top in split_by_top}
    class_sets = {top: set(unwrapped[top][1].children) for top in nested}
    classes = {name for names in class_sets.values() for name in names}
    copies: dict[Folders, str] = {}
    split_classes: list[str] = []
    for top, names in class_sets.items():
        for name in sorted(names):
            split = parse_split_name(name)
            path = (*unwrapped[top][0], name)
            if split is None or split.affix:
                continue
            if tree.is_copy(path, classes - {name}):
                copies[path] = f"pictures in {_show('/'.join(path))} (a copy)"
            else:
                split_classes.append("/".join(path))
    if split_classes:
        return _stop({}, _describe_split_classes(split_classes, split_by_top, say))
    train_classes = {name for top in nested if split_by_top[top] == "train" for name in class_sets[top]}
    is_sure = any(split_by_top[top] != "train" and class_sets[top] & train_classes for top in nested)
    if not is_sure and len({split_by_top[top] for top in nested}) > 1:
        return _stop({}, f"{_join(sorted(nested))} are named like splits but share no class folder; "
                         f"if they are splits: {say.hint_splits(split_by_top)}; "
                         f"if they are classes: {say.hint_classes}")  # fmt: skip
    doubtful, causes = [], {}
    for other in others:
        if _holds_name(tops[other], other, classes | split_by_top.keys()):
            if tree.is_copy((other,), classes):
                copies[(other,)] = f"pictures in {_show(other)} (a copy)"
            else:
                doubtful.append(other)
        elif not is_sure and not _is_no_class(other):
            doubtful.append(other)
        else:
            causes[other] = f"pictures in {_show(other)}"
    if doubtful:
        return _stop({}, _describe_doubtful(tree, split_by_top, doubtful, classes, is_sure, say))
    return _build_split_reading(unwrapped, split_by_top, _merge_causes(causes), copies, level, tree)


def _build_split_reading(
    unwrapped: Mapping[str, tuple[Folders, FolderNode]],
    split_by_top: Mapping[str, str],
    causes: Mapping[str, str],
    copies: Mapping[Folders, str],
    level: int,
    tree: FolderTree,
) -> Reading:
    def read(path: Folders) -> PathLabel | str:
        if not path:
            return "pictures beside the folders of the splits"
        for copy, cause in copies.items():
            if path[: len(copy)] == copy:
                return cause
        if path[0] not in split_by_top:
            return causes[path[0]]
        inside = path[len(unwrapped[path[0]][0]) :]
        if not inside:
            return UNLABELLED_IN_SPLIT
        return PathLabel(inside[level - 1] if len(inside) >= level else None, split_by_top[path[0]])

    def find_depth(path: Folders) -> int:
        top = path[0] if path else ""
        if top in split_by_top:
            return len(unwrapped[top][0]) + level
        return int(top not in tree.root.children and parse_split_name(top) is not None)

    depth = max((node.depth for _, node in unwrapped.values()), default=0)
    return Reading(read, find_depth, (*_note_splits(split_by_top), *_note_levels(depth, level)))


def _note_splits(split_by_folder: Mapping[str, str]) -> tuple[str, ...]:
    other = [f"{_show(name)} is {split}" for name, split in split_by_folder.items() if name.lower() != split]
    return (", ".join(sorted(other)),) if other else ()


def _note_levels(depth: int, level: int) -> tuple[str, ...]:
    if depth <= 1 and level == 1:
        return ()
    names = {1: "first", 2: "second", 3: "third"}
    chosen = f"the {names[level]}" if level in names else f"number {level}"
    hint = " (?level=2 takes the second)" if level == 1 else ""
    return (f"{format_count(depth, 'level')} of folders, {chosen} is the class{hint}",)


def _merge_causes(causes: dict[str, str]) -> dict[str, str]:
    """Give the folders after the first few one cause together."""
    names = sorted(causes)
    if len(names) <= MAX_FOLDERS_NAMED:
        return causes
    return dict.fromkeys(names, f"pictures in {_join(names)}")


def _holds_name(node: FolderNode, name: str, known: Collection[str]) -> bool:
    """Return whether a folder, or one up to two levels below it, is named like a class or a split."""
    if name in known or name.lower() in SPLIT_BY_FOLDER:
        return True
    inner = [*node.children.items()]
    inner += [pair for child in node.children.values() for pair in child.children.items()]
    return any(child in known or child.lower() in SPLIT_BY_FOLDER for child, _ in inner)


def _is_no_class(name: str) -> bool:
    return any(word in _NO_CLASS_WORDS for word in re.split(r"[\W_]+", name.lower()))


def _describe_flat_splits(
    tops: Mapping[str, FolderNode], split_by_top: Mapping[str, str], others: Sequence[str], say: _Messages
) -> str:
    counts = _join([f"{name} ({format_count(tops[name].total, 'picture')})" for name in split_by_top], 2)
    if not others or (len(others) < 2 and len(split_by_top) > 1):  # too few to be the classes
        classes = f"; if they are classes: {say.hint_classes}" if len(tops) > 1 else ""
        return f"the pictures of {counts} are in no class folder; move them into one sub-folder per class{classes}"
    is_one = len(split_by_top) == 1
    leave = (
        f"; to leave {'it' if is_one else 'them'} out: {say.hint_ignore(split_by_top)}" if len(others) > 1 else ""
    )
    return (
        f"{counts} {'is' if is_one else 'are'} named like a split, but without class folders, beside "
        f"{_join(others)}; if {'it is a class' if is_one else 'they are classes'}: {say.hint_classes}{leave}"
    )


def _describe_no_train(
    tops: Mapping[str, FolderNode],
    split_by_top: Mapping[str, str],
    nested: Collection[str],
    others: Sequence[str],
    say: _Messages,
) -> str:
    flat_train = [top for top, split in split_by_top.items() if split == "train"]
    named = f"{_join(sorted(nested))} {_choose_number(nested, 'is', 'are')} named like a split"
    if flat_train:
        return (
            f"{named} with class folders, but the pictures of {_join(flat_train)} are in no class folder; "
            "move them into one sub-folder per class"
        )
    largest = max(others, key=lambda top: tops[top].total, default="")
    if largest and tops[largest].children:
        train = f"; if {_show(largest)} is for training: {say.hint_splits({**split_by_top, largest: 'train'})}"
    else:
        train = (
            f"; to leave {_choose_number(nested, 'it', 'them')} out: {say.hint_ignore(sorted(nested))}"
            if others
            else ""
        )
    return f"{named}, but there is no folder train{train}; if they are classes: {say.hint_classes}"


def _describe_split_classes(paths: Sequence[str], split_by_top: Mapping[str, str], say: _Messages) -> str:
    return (
        f"the folder {_show(paths[0])} is named like a split; if it is a class: {say.hint_splits(split_by_top)}; "
        f"to leave it out: {say.hint_ignore(paths)}"
    )


def _describe_doubtful(
    tree: FolderTree,
    split_by_top: Mapping[str, str],
    doubtful: Sequence[str],
    classes: Collection[str],
    is_sure: bool,
    say: _Messages,
) -> str:
    first, leave = doubtful[0], _choose_number(doubtful, "it", "them")
    alike = [name for name in doubtful if tree.root.children[name].children.keys() & classes]
    if not is_sure and not alike:
        return (
            f"{_join(sorted(split_by_top))} {_choose_number(split_by_top, 'is', 'are')} named like a split, "
            f"beside {_join(doubtful)}; to leave {leave} out: {say.hint_ignore(doubtful)}; "
            f"if all are classes: {say.hint_classes}"
        )
    if first in classes:
        found = f"{_show(first)} is a class below {_join(sorted(split_by_top))} and a folder beside them"
        use, doubtful = "", ["/" + "/".join((*tree.common, name)) for name in doubtful]
    else:
        holds = _choose_number(alike or doubtful, "holds", "hold")
        found = f"{_join(alike or doubtful)}, beside {_join(sorted(split_by_top))}, {holds} folders like theirs"
        guesses = {name: split.split if (split := parse_split_name(name)) else "test" for name in alike}
        meant = ", ".join(f"{_show(name)} is for {split}" for name, split in guesses.items())
        use = f"; if {meant}: {say.hint_splits({**split_by_top, **guesses})}" if alike else ""
    return f"{found}; to leave {leave} out: {say.hint_ignore(doubtful)}{use}"


# ---- no splits above the classes -----------------------------------------------------------------------------


def _read_classes(tree: FolderTree, say: _Messages, options: FolderOptions) -> Reading:
    tops = tree.root.children
    split_by_child = find_split_names(dict.fromkeys(name for node in tops.values() for name in node.children))
    divided = [top for top, node in tops.items() if node.children.keys() & split_by_child.keys()]
    kinds = {split_by_child[name] for top in divided for name in tops[top].children if name in split_by_child}
    if len(tops) > 1 and divided and (len(kinds) > 1 or len(divided) == len(tops)):
        return _read_splits_below(tree, split_by_child, divided, say, options)
    for top, node in tops.items():
        split = parse_split_name(top)
        if len(tops) > 1 and split and split.split == "train" and len(node.children) > 1:
            others = sorted(tops.keys() - {top})
            hint = say.hint_splits({top: "train"})
            return _stop({}, f"{_show(top)} may be the split train, beside {_join(others)}; if so: "
                             f"{hint}; if all are classes: {say.hint_classes}")  # fmt: skip
    if options.level is None and (problem := _describe_parts(tops, say)):
        return _stop({}, problem)
    copies: dict[Folders, str] = {}
    for top, node in tops.items():
        if node.num or len(node.children) < 2 or not node.children.keys() <= tops.keys() - {top}:
            continue
        if not tree.is_copy((top,), tops.keys() - {top}):
            inner = _join(sorted(node.children))
            return _stop({}, f"{_show(top)} holds folders that are also beside it ({inner}); to leave it out: "
                             f"{say.hint_ignore([top])}; if it is a class: {say.hint_classes}")  # fmt: skip
        copies[(top,)] = f"pictures in {_show(top)} (a copy)"
    return _read_plain(tree, options, copies)


def _read_plain(tree: FolderTree, options: FolderOptions, copies: Mapping[Folders, str] | None = None) -> Reading:
    level, copies = options.level or 1, copies or {}

    def read(path: Folders) -> PathLabel | str:
        if path[:1] in copies:
            return copies[path[:1]]
        return PathLabel(path[level - 1] if len(path) >= level else None, None)

    parents: dict[str, set[Folders]] = {}
    for path in tree.folders.values() if level > 1 else ():
        if len(path) >= level:
            parents.setdefault(path[level - 1], set()).add(path[: level - 1])
    shared = sorted(name for name, above in parents.items() if len(above) > 1)
    notes = (f"folders of one name are one class: {_join(shared)}",) if shared else ()
    depth = max((node.depth + 1 for top, node in tree.root.children.items() if (top,) not in copies), default=0)
    return Reading(read, lambda path: level, (*_note_levels(depth, level), *notes))


def _describe_parts(tops: Mapping[str, FolderNode], say: _Messages) -> str:
    """Return the problem of folders that are parts of one set, such as folds, with the same classes; or ""."""
    if len(tops) < 2 or not all(_PART.match(top) for top in tops):
        return ""
    child_sets = [set(node.children) for node in tops.values()]
    if not set.intersection(*child_sets):
        return ""
    names = sorted(tops)
    splits = dict.fromkeys(names, "train") | {names[-1]: "test"}
    splits |= {
        name: SPLIT_BY_FOLDER[word]
        for name in names
        for word in ("train", "test", "valid")
        if word in name.lower()
    }
    return (
        f"{_join(names)} look like parts of one set, each with the folders {_join(sorted(child_sets[0]))}; "
        f"if these are the classes: {say.hint(level='2')}, or with splits: {say.hint_splits(splits)}; "
        f"if the parts are the classes: {say.hint_classes}"
    )


def _read_splits_below(
    tree: FolderTree,
    split_by_child: Mapping[str, str],
    divided: Sequence[str],
    say: _Messages,
    options: FolderOptions,
) -> Reading:
    """Read cat/train, cat/test, dog/train, ...: the class above its splits."""
    tops = tree.root.children
    found = f"the folders {_join(sorted(split_by_child))} are below {_join(divided)}"
    undivided = [top for top, node in tops.items() if node.num or node.children.keys() - split_by_child.keys()]
    if undivided:
        leave = f"; to leave it out: {say.hint_ignore(undivided)}" if len(tops) - len(undivided) > 1 else ""
        return _stop({}, f"{found}, but {_show(undivided[0])} holds other pictures, too; move them into its splits"
                         f"{leave}; if they are no splits: {say.hint_classes}")  # fmt: skip
    if "train" not in split_by_child.values():
        return _stop({}, f"{found}, but no folder train; if they are no splits: {say.hint_classes}")
    depth = max(node.depth for node in tops.values())
    if depth > 1 and options.level is None:
        below = sorted(
            {name for node in tops.values() for child in node.children.values() for name in child.children}
        )
        first, second = say.hint(level="1"), say.hint(level="2")
        return _stop({}, f"{found}, with folders below them ({_join(below)}); if {_join(sorted(tops))} are "
                         f"the classes: {first}; if {_join(below)} are: {second}")  # fmt: skip
    return _build_below_reading(tree, split_by_child, options.level or 1)


def _build_below_reading(tree: FolderTree, split_by_child: Mapping[str, str], level: int) -> Reading:
    def read(path: Folders) -> PathLabel | str:
        if len(path) < 2 or path[1] not in split_by_child:
            return f"pictures in {_show('/'.join(path[:2]))}" if path else "pictures beside the class folders"
        inside = (path[0], *path[2:])
        return PathLabel(inside[level - 1] if len(inside) >= level else None, split_by_child[path[1]])

    depth = max((node.depth for node in tree.root.children.values()), default=0)
    notes = ("splits below the classes", *_note_splits(split_by_child), *_note_levels(depth, level))
    return Reading(read, lambda path: level + 1, notes)


def _read_given_splits(tree: FolderTree, split_by_name: Mapping[str, str], level: int, say: _Messages) -> Reading:
    tops = tree.root.children
    if not split_by_name:
        return _read_plain(tree, FolderOptions(level=level))
    children = {name for node in tops.values() for name in node.children}
    if split_by_name.keys() <= tops.keys():
        unwrapped = {top: _unwrap(top, tops[top]) for top in split_by_name}
        causes = _merge_causes({top: f"pictures in {_show(top)}" for top in tops if top not in split_by_name})
        return _build_split_reading(unwrapped, split_by_name, causes, {}, level, tree)
    if split_by_name.keys() <= children:
        return _build_below_reading(tree, split_by_name, level)
    missing = next(name for name in split_by_name if name not in tops and name not in children)
    known = map(_show, [*tops, *children])
    return _stop(
        {}, f"split_folders names {_show(missing)}, which holds no pictures; {suggest_name(missing, known)}"
    )


# ---- messages ------------------------------------------------------------------------------------------------


def _stop(split_by_top: Mapping[str, str], problem: str) -> Reading:
    """Return the reading of a tree that is not understood: no labels, and only the splits that are."""
    return Reading(
        lambda path: PathLabel(None, split_by_top.get(path[0]) if path else None), lambda path: 1, (), problem
    )


def _show(name: str) -> str:
    return escape_control_characters(name)


def _join(names: Iterable[str], num: int = MAX_FOLDERS_NAMED) -> str:
    shown = [_show(name) for name in names]
    if len(shown) > num + 1:
        return f"{', '.join(shown[:num])} and {len(shown) - num:,} more"
    return " and ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))


def _choose_number(names: Collection[str], singular: str, plural: str) -> str:
    return singular if len(names) == 1 else plural
