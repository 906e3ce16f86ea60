"""The README and the pages of docs/: their commands and their files."""

import re

from igb._paths import config_folder

ROOT = config_folder().parent

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"```(\w+)(?: title=\"(.+?)\")?\n(.*?)```", re.DOTALL)
STAMP = "2026-11-22/12-00-00"


def blocks(page, language):
    return [(title, text) for kind, title, text in BLOCK.findall(page.read_text()) if kind == language]


def commands(page):
    """Those of its blocks, and of the tables' last columns."""
    lines = [line for _, text in blocks(page, "bash") for line in text.splitlines()]
    lines += re.findall(r"\| `((?:igb|igb-\w+|make) [^`]*)` \|$", page.read_text(), re.MULTILINE)
    return [line.partition("#")[0].strip() for line in lines if line.strip()]


def write_files(page, folder):
    """Write the titled blocks of a page; those of one title make one file."""
    for language in ("python", "yaml"):
        for title, text in blocks(page, language):
            if title:
                (folder / title).parent.mkdir(parents=True, exist_ok=True)
                with open(folder / title, "a") as file:
                    file.write(text)
