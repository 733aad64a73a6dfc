"""The documentation builds, asks nothing of other hosts, and names pages and flags that exist."""

import re
import shlex
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from m2dit_jax.__main__ import COMMANDS, main
from m2dit_jax.config.fields import declared_fields
from m2dit_jax.config.schema import Config

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *ROOT.glob("*.md"), ROOT / "launch" / "README.md"])
CODE = sorted(
    path
    for folder in ("m2dit_jax", "configs", "launch", "tests")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".sh", ".sbatch", ".yaml")
)

# Where a page of the site takes something from: a script, a style, a picture, a frame.
_LOADS = re.compile(
    r"<(?:script|link|img|iframe|source|video)\b[^>]*?\b(?:src|href)=\"?([^\"\s>]+)"
)
_IMPORTS = re.compile(r"(?:@import|url\()\s*[\"']?(https?:)?//")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as launch/test.sh does."""
    if find_spec("mkdocs") is None:
        pytest.skip("optional extra: docs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow  # the theme is written anew each time
def test_the_site_asks_nothing_of_other_hosts(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) >= len(list(DOCS.glob("*.md")))
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = [found for found in _LOADS.findall(text) if found.startswith(("http", "//"))]
        # A page's own address, for search engines, is a link too.
        assert not loaded and not _IMPORTS.search(text), page.name
    for style in site.rglob("*.css"):
        assert not _IMPORTS.search(style.read_text(encoding="utf-8")), style.name


def anchors(page):
    """Names of the headings of a page, as GitHub and the site make them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", title.lower()) for title in titles)
    return {re.sub(r"\s", "-", title.strip()) for title in plain}


def broken_links(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert not list(broken_links(page))


def test_pages_that_the_code_names_are_there():
    for path in CODE:
        for name in re.findall(r"\bdocs/\w+\.(?:md|png|gif)", path.read_text(encoding="utf-8")):
            assert (ROOT / name).exists(), f"{path.relative_to(ROOT)} names {name}"


_MESSAGES_OF_OTHERS = ("RESOURCE_EXHAUSTED", "No space left on device")


def test_messages_in_troubleshooting_are_those_of_the_code():
    source = "\n".join(path.read_text(encoding="utf-8") for path in CODE)
    source = re.sub(r"\"\s*\n\s*(?:\+ )?f?\"", "", source)  # texts over several lines
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (.*?) \| ", page, re.MULTILINE)
    spans = [span for cell in cells for span in re.findall(r"`([^`]+)`", cell)]
    messages = [span for span in spans if " " in span]
    assert len(messages) > 20
    for message in messages:
        if message.startswith(_MESSAGES_OF_OTHERS):
            continue
        # Words in capitals and numbers stand for what a message names.
        for part in re.split(r"\.\.\.|\b[A-Z]+\b|[A-Z]x[A-Z]|\d+|'", message):
            assert part.strip(" :,()") in source, message


def written_commands():
    """Page, command of ours and its arguments, wherever a block of code has one."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"^(?:    )?\S.*$", text, re.MULTILINE):
            found = re.match(r"\s*(?:\w+=\S+ )*(?:m2dit |python -m m2dit_jax\.)(\w+)\b(.*)", line)
            if found and found[1] in COMMANDS:
                yield page.name, found[1], shlex.split(found[2], comments=True)


@pytest.mark.slow  # imports every command
def test_flags_that_are_written_are_there(capsys):
    fields = {field.name for field in declared_fields(Config)}
    helps = {}
    commands = list(written_commands())
    assert len(commands) > 40
    for page, command, arguments in commands:
        program = arguments[:1] if command == "evaluate" and arguments[0].isalpha() else []
        key = (command, *program)
        if key not in helps:
            with suppress(SystemExit):
                main([command, *program, "--help"])
            helps[key] = capsys.readouterr().out
        for flag in re.findall(r"--([\w.-]+)", " ".join(a.split("=")[0] for a in arguments)):
            known = flag.partition(".")[2] in fields or f"--{flag}" in helps[key].replace(
                "[no]", ""
            )
            # Of programs that take a config, by the same parser of flags.
            assert known or flag == "config", f"{page}: m2dit {' '.join(key)} has no --{flag}"
