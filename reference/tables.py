"""The tables of docs/config*.md, from conf/ and the docstrings, and of docs/run-folder.md, from igb.folder.schema.

`python -m reference.tables docs/config.md docs/config-runs.md docs/run-folder.md` fills them in.
"""

import inspect
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra.utils import get_object

from igb._paths import config_folder
from igb.folder import schema
from reproduction.common import fill, markdown

GROUPS = ("loss", "data", "model", "init", "optimizer", "schedule", "noise", "probe", "compute", "trainer", "logger",
          "hydra/launcher")  # fmt: skip
LINE = re.compile(r"^(\w+):([^#]*)(?:# *(.*))?$")


class Key(NamedTuple):
    """A key of an option: its default as the file has it, and the comment behind it."""

    default: str
    comment: str


def keys(file: Path) -> dict[str, Key]:
    """The keys of an option, those that it takes from others among them, in their order."""
    found: dict[str, Key] = {}
    text = file.read_text(encoding="utf-8")
    for other in yaml.safe_load(text).get("defaults", []) if text.strip() else []:
        found |= keys(file.with_name(f"{other}.yaml")) if isinstance(other, str) and other != "_self_" else {}
    for line in text.splitlines():
        if (match := LINE.match(line)) and not match[1].startswith("_") and match[1] not in ("defaults", "hydra"):
            default, comment = match[2].strip(), (match[3] or "").strip()
            found[match[1]] = Key(default, comment or (found[match[1]].comment if match[1] in found else ""))
    return found


def target(file: Path) -> Any:
    """What an option instantiates, or None."""
    content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    if "_target_" in content:
        return get_object(content["_target_"]) if content["_target_"] else None
    others = [one for one in content.get("defaults", []) if isinstance(one, str) and one != "_self_"]
    return target(file.with_name(f"{others[0]}.yaml")) if others else None


def summary(file: Path) -> str:
    """What an option is, in a sentence: the comment that opens its file, or that of its target's docstring."""
    lines = file.read_text(encoding="utf-8").splitlines()
    lines = lines[1:] if lines[0].startswith("# @package") else lines
    comment = list(itertools.takewhile(lambda line: line.startswith("# "), lines))
    found = target(file)
    if comment:
        return re.split(r"(?<=\.)\s", " ".join(line[2:] for line in comment))[0].rstrip(".")
    if found is None:
        return lines[0].partition("# ")[2] if lines else ""
    text = re.sub(
        r" \((?:equation \d+ of )?[A-Z]\. .*?\)", "", " ".join((inspect.getdoc(found) or "").split())
    )  # authors
    return re.split(r"(?<=\.)\s", text)[0].rstrip(".")


def argument(found: Any, key: str) -> str:
    """What the docstring of a target says of one of its arguments."""
    text = inspect.getdoc(found) or ""
    match = re.search(rf"^    {key}: (.*?)(?=^    \w+: |^\S|\Z)", text, re.DOTALL | re.MULTILINE)
    return " ".join(match[1].split()).rstrip(".") if match else ""


def options(group: str) -> list[Path]:
    """The files of a group's options."""
    return sorted((config_folder() / group).glob("*.yaml"))


def of_group(group: str) -> str:
    """Tables of the options of a group and of their keys; a key that not all have names the ones that do."""
    files = options(group)
    found: dict[str, dict[str, list[str]]] = {}
    meanings: dict[str, dict[str, list[str]]] = {}
    for file in files:
        made = target(file)
        for key, (default, comment) in keys(file).items():
            found.setdefault(key, {}).setdefault(default, []).append(file.stem)
            is_own = made is not None and made.__module__.startswith("igb")
            meaning = comment or (argument(made, key) if is_own else "")
            meanings.setdefault(key, {}).setdefault(meaning, []).append(file.stem)
    rows = []
    for key, defaults in found.items():
        names = [name for some in defaults.values() for name in some]
        of = "" if len(names) == len(files) else ", ".join(f"`{name}`" for name in names)
        said = {meaning: some for meaning, some in meanings[key].items() if meaning}
        rows.append([f"`{group.replace('/', '.')}.{key}`", _each(defaults, "`"), _each(said), of])
    named = markdown(["option", ""], [[f"`{file.stem}`", summary(file)] for file in files])
    return f"{named}\n\n{markdown(['key', 'default', '', 'of'], rows)}" if rows else named


def _each(values: dict[str, list[str]], quote: str = "") -> str:
    """The values, with the options that have each where there are several."""
    written = {value: f"{quote}{value}{quote}" if value else "" for value in values}
    if len(values) == 1:
        return next(iter(written.values()))
    return ", ".join(f"{written[value]} ({', '.join(names)})" for value, names in values.items() if value)


def of_config() -> str:
    """A table of the keys that belong to no group."""
    rows = [
        [f"`{key}`", f"`{default}`", comment]
        for key, (default, comment) in keys(config_folder() / "config.yaml").items()
    ]
    return markdown(["key", "default", ""], rows)


def experiments() -> str:
    """A table of the presets."""
    rows = [[f"`{file.stem}`", summary(file)] for file in options("experiment")]
    return markdown(["option", ""], rows)


def columns(names: dict[str, str]) -> str:
    """A table of the columns of a file."""
    return markdown(["column", ""], [[f"`{name}`", meaning] for name, meaning in names.items()])


def tables() -> Iterator[tuple[str, str]]:
    """All tables by their names."""
    for group in GROUPS:
        yield group.replace("hydra/", ""), of_group(group)
    yield "config_keys", of_config()
    yield "experiments", experiments()
    yield "files", markdown(["file", ""], [[f"`{name}`", meaning] for name, meaning in schema.FILES.items()])
    for name in ("metrics", "train", "memorisation", "loss_curve"):
        yield f"{name}_columns", columns(getattr(schema, name.upper()))


def main() -> None:
    """Fill in the pages given."""
    if len(sys.argv) < 2:
        sys.exit("usage: python -m reference.tables PAGE ...")
    found = dict(tables())
    for page in map(Path, sys.argv[1:]):
        page.write_text(fill(page.read_text(encoding="utf-8"), found), encoding="utf-8")


if __name__ == "__main__":
    main()
