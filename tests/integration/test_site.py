"""`make docs`: the documents as a site that needs no other host."""

import html.parser
import json
import pathlib
import re
import tomllib
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest

from cli import site
from services.habitat.service import SERVICE

ASSETS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src"}
"""What a page fetches by itself: element → the attribute that names it."""
FETCHED_LINKS = {"stylesheet", "icon", "preload", "preconnect", "modulepreload", "manifest"}


class Page(html.parser.HTMLParser):
    """What a page fetches, what it links to, and the places in it that can be linked to."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__()
        self.text = path.read_text()
        self.assets: set[str] = set()
        self.links: set[str] = set()
        self.ids: set[str] = set()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.ids.add(given.get("id", ""))
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        fetched = tag != "link" or set(given.get("rel", "").split()) & FETCHED_LINKS
        if tag in ASSETS and fetched:
            self.assets.add(given.get(ASSETS[tag], ""))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return site.build(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def pages(built: pathlib.Path) -> dict[str, Page]:
    """By path from the site's root."""
    return {str(path.relative_to(built)): Page(path) for path in built.rglob("*.html")}


def entries(nav: list[dict[str, Any]]) -> Iterator[str]:
    """Every document that the menu names."""
    for item in nav:
        for target in item.values() if isinstance(item, dict) else [item]:
            if isinstance(target, str):
                yield target
            else:
                yield from entries(target)


class TestSite:
    def test_fetches_nothing_from_elsewhere(self, built: pathlib.Path, pages: dict[str, Page]) -> None:
        assert len(pages) > 20
        for name, page in pages.items():
            for asset in page.assets - {""}:
                parts = urllib.parse.urlsplit(asset)
                assert not parts.scheme, f"{name}: {asset}"
                assert not parts.netloc, f"{name}: {asset}"
                if name != "404.html":  # which a web server shows at any depth, and names from the root
                    assert (built / name).parent.joinpath(parts.path).exists(), f"{name}: {asset}"
            assert "fonts.g" not in page.text, name
            assert "unpkg.com" not in page.text, name
        for style in built.rglob("*.css"):
            assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", style.read_text()), style.name

    def test_links_lead_somewhere(self, built: pathlib.Path, pages: dict[str, Page]) -> None:
        for name, page in pages.items():
            if name == "404.html":
                continue
            for link in page.links:
                parts = urllib.parse.urlsplit(link)
                if parts.scheme or parts.netloc:
                    continue
                place = (built / name).parent.joinpath(urllib.parse.unquote(parts.path)).resolve()
                target = name if not parts.path else str(place.relative_to(built.resolve()))
                place = built / target
                assert (place / "index.html" if place.is_dir() else place).exists(), f"{name}: {link}"
                fragment = urllib.parse.unquote(parts.fragment)
                if fragment and target in pages:
                    assert fragment in pages[target].ids, f"{name}: {link}"

    def test_menu_names_the_audiences_and_what_is_there(self, pages: dict[str, Page]) -> None:
        nav = tomllib.loads((site.ROOT / "docs/zensical.toml").read_text())["project"]["nav"]
        titles = [title for item in nav for title in item]
        assert titles == ["Start", "Integrators", "Administrators", "Maintainers", "中文"]
        for entry in entries(nav):
            assert (site.ROOT / entry).exists(), entry
            assert entry.replace("README.md", "index.md").replace(".md", ".html") in pages, entry
        written = {str(p.relative_to(site.ROOT)) for p in (site.ROOT / "docs").glob("*.md")}
        assert written <= set(entries(nav))

    def test_has_both_languages(self, pages: dict[str, Page]) -> None:
        for name, page in pages.items():
            language = "zh" if ".zh-CN" in name else "en"
            assert f'<html lang="{language}"' in page.text, name
            if name != "404.html":
                here = pathlib.PurePosixPath(name).parent
                up = "../" * len(here.parts)
                assert {f"{up}README.zh-CN.html", f"{up}index.html"} <= {
                    link.removeprefix("./") for link in page.links
                }, name

    def test_draws_the_flows_by_a_script_of_its_own(
        self, built: pathlib.Path, pages: dict[str, Page]
    ) -> None:
        drawn = pages["docs/flows.html"].text.count('<pre class="mermaid">')
        assert drawn == len(SERVICE.lifecycles)
        for name in ("docs/flows.html", "docs/integrators.html", "docs/integrators.zh-CN.html"):
            assert "../assets/mermaid.min.js" in pages[name].assets
        assert (built / "assets/mermaid.min.js").stat().st_size > 1_000_000

    def test_has_the_matrix_of_access(self, pages: dict[str, Page]) -> None:
        assert re.search(r"<td>AcceptReport</td>\s*(<td>.*</td>\s*)+", pages["docs/access.html"].text)

    def test_is_searched_in_both_languages_without_a_server(
        self, built: pathlib.Path, pages: dict[str, Page]
    ) -> None:
        index = json.loads((built / "search.json").read_text())
        assert index["config"]["lang"] == ["en", "zh"]
        told = {item["location"].partition("#")[0] for item in index["items"]}
        assert {"docs/integrators.html", "docs/administrators.zh-CN.html", "docs/flows.html"} <= told
        assert (built / "search.js").read_text().removeprefix("var __index = ").startswith('{"config":')
        assert "./assets/iframe-worker.js" in pages["index.html"].assets
