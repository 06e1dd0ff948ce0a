"""What the pages name exists: links, headings, files, scripts, and the names of the code."""

import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
from harness import TESTS

ROOT = TESTS.parent
PACKAGE = ROOT / "plain_gevent_h2"
PAGES = [PACKAGE / "README.md", PACKAGE / "CHANGELOG.md"]
PAGES += [page for page in ROOT.glob("*.md") if not page.is_symlink()]
PAGES += sorted((ROOT / "docs").glob("*.md"))

#: Where the repository is, as its pages address its files.
ADDRESS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Homepage"]
FILES = (f"{ADDRESS}/blob/main/", f"{ADDRESS}/tree/main/")
RAW_FILES = ADDRESS.replace("github.com", "raw.githubusercontent.com") + "/main/"

LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)$", re.MULTILINE)

#: A path that begins with a folder of the repository or of the package.
PATH = re.compile(
    r"(?<![\w/.-])(?:(?:scripts|tests|docs|load|example|plain_gevent_h2|\.ci)/[\w./-]*\w"
    rf"|(?:{'|'.join(path.name for path in PACKAGE.iterdir() if path.is_dir())})/\w+\.py)"
)
#: A file of the code without its folder.
FILE = re.compile(r"`(\w+\.py)`")
#: Files of the apps that the pages tell their readers to write.
EXAMPLES = {"app/settings.py", "app/patches.py", "app/config.py", "customer.py", "wsgi.py"}

#: In code style, what can only be a name of the code: `Slots.share()`, `MAX_UNSENT`, `Stream`.
NAME = re.compile(r"`([A-Za-z_][\w.]*)(?:\(\))?`")


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    code_removed = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", code_removed, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def sources() -> str:
    return "\n".join(path.read_text() for path in sorted(PACKAGE.rglob("*.py")))


@cache
def file_names() -> set[str]:
    return {
        path.name for folder in (PACKAGE, TESTS, ROOT / "load") for path in folder.rglob("*.py")
    }


def links(page: Path) -> list[str]:
    return [inline or reference for inline, reference in LINK.findall(page.read_text())]


def target(page: Path, link: str) -> Path | None:
    """The file that `link` leads to; None for what is not in the repository."""
    path = link.partition("#")[0]
    for prefix in (*FILES, RAW_FILES):
        if path.startswith(prefix):
            return ROOT / path.removeprefix(prefix)
    if "://" in path:
        return None
    return page.parent / path if path else page


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        file = target(page, link)
        if file is None:
            continue
        assert file.exists(), link
        anchor = link.partition("#")[2]
        if anchor:
            assert anchor in anchors(file), link


def test_readme_is_right_wherever_it_is_shown() -> None:
    """GitHub shows it for two folders, and the package index for none: its links are whole."""
    for link in links(PACKAGE / "README.md"):
        assert link.startswith(("#", "https://")), link


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    for path in PATH.findall(text):
        found = (ROOT / path).exists() or (PACKAGE / path).exists()
        assert found or path in EXAMPLES, path
    for name in FILE.findall(text):
        assert name in file_names() | EXAMPLES, name


def test_constants_are_where_the_page_says() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    found = re.findall(r"`([A-Z_]+)`(?:,| in) `([\w/]+\.py)`", page)
    assert len(found) > 10
    for name, file in found:
        assert re.search(rf"^{name}\b", (PACKAGE / file).read_text(), re.MULTILINE), (name, file)


def test_names_of_the_code_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    names = [name for name in NAME.findall(page) if re.search("[A-Z_]", name)]
    names = [name for name in names if not name.endswith(".py")]
    assert len(names) > 50
    for name in names:
        for part in name.split("."):
            assert re.search(rf"\b{part}\b", sources()), name


def test_the_package_names_its_addresses() -> None:
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    assert set(urls) == {"Homepage", "Documentation", "Changelog", "Issues"}
    for url in urls.values():
        assert url.startswith(ADDRESS)
        file = target(ROOT / "pyproject.toml", url)
        assert file is None or file.exists(), url


def test_the_supported_versions_of_plain_are_those_that_are_allowed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (plain,) = (name for name in project["dependencies"] if name.startswith("plain>"))
    first, bound = re.fullmatch(r"plain>=([\d.]+),<0\.(\d+)", plain).groups()  # type: ignore[union-attr]
    page = (PACKAGE / "README.md").read_text()
    assert f"| 3.13 | {first} |" in page
    assert f" to 0.{int(bound) - 1} |" in page
