"""What the documentation site needs besides the pages of `docs`; mkdocs.yml names this file.

Pages that lie elsewhere in the repository become pages of the site, and so do examples, notebooks
and a reference for each package that exports names. Links between files of the repository lead to
these pages, or to the repository where there is none. Formulas become MathML, which browsers draw
themselves.
"""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import Any

import latex2mathml.converter
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pages_of_code import example_pages, notebook_pages, packages, reference_pages

ROOT = Path(__file__).resolve().parents[2]
# Pages of the site, by the files of the repository that they are made of.
ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
    "docs/examples/README.md": "examples/index.md",
    "mlhf/pretrained/convnet.md": "pretrained/convnet.md",
    "mlhf/pretrained/resnet.md": "pretrained/resnet.md",
}
_SOURCES = {page: source for source, page in ELSEWHERE.items()}
_LINK = re.compile(r"(!?\[[^\]]*\]\()(?!https?:|mailto:|#)([^)\s]+)(\))")
_FENCE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
_CODE = re.compile(
    r"<code>((?:mlhf|custom_op|replay|train_val)\.[\w.]+)(?:\([^<]*\))?</code>(?!</a>)"
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Makes anchors of headings as GitHub does, and completes the navigation."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = github_anchor
    for section in config.nav or []:
        (title, entries), *_ = section.items()
        if title == "Examples":
            entries += [path for path, _ in notebook_pages(ROOT)]
            entries += [{f"{Path(path).stem}.py": path} for path, _ in example_pages(ROOT)]
        if title == "Reference":
            entries += [path for path, _ in reference_pages(ROOT)[1:]]
    return config


def github_anchor(text: str, separator: str) -> str:
    """Returns the anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w -]", "", text.lower()).strip().replace(" ", separator)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are not files of `docs`."""
    for source, page in ELSEWHERE.items():
        if known := files.get_file_from_path(source.removeprefix("docs/")):
            files.remove(known)
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    for page, text in (
        *example_pages(ROOT),
        *notebook_pages(ROOT),
        *reference_pages(ROOT),
    ):
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leads links between files of the repository to pages of the site."""
    here = page.file.src_uri
    source = _SOURCES.get(here, f"docs/{here}")

    def lead(link: re.Match[str]) -> str:
        before, target, after = link.groups()
        path, sign, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        known = ELSEWHERE.get(path, path.removeprefix("docs/") if path.startswith("docs/") else "")
        if known.startswith(("examples/", "notebooks/")) and known.endswith((".py", ".ipynb")):
            known = f"{known.rpartition('.')[0]}.md"
        if known and files.get_file_from_path(known):
            target = posixpath.relpath(known, posixpath.dirname(here) or ".") + sign + anchor
        elif (ROOT / path).exists():
            kind = "tree" if (ROOT / path).is_dir() else "blob"
            target = f"{config.repo_url}/{kind}/main/{path}"
        return before + target + after

    # Blocks of code contain what looks like links.
    parts = _FENCE.split(markdown)
    return "".join(part if part.startswith("```") else _LINK.sub(lead, part) for part in parts)


def on_page_content(text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Draws formulas, and links public names to the reference."""
    text = _FORMULA.sub(_mathml, text)
    if page.file.src_uri.startswith("reference/"):
        # The table of contents has the names, and not what is inside them.
        for title in page.toc:
            for name in title.children:
                name.children = []
        return text
    known = packages(ROOT)
    root = posixpath.relpath(".", page.file.url or ".")

    def link(code: re.Match[str]) -> str:
        package, _, name = code[1].rpartition(".")
        if name not in known.get(package, ()):
            return code[0]
        return f'<a href="{root}/reference/{package}/#{code[1]}">{code[0]}</a>'

    return _CODE.sub(link, text)


def _mathml(formula: re.Match[str]) -> str:
    display = "block" if formula[1] == "div" else "inline"
    return latex2mathml.converter.convert(html.unescape(formula[2]).strip(), display=display)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuses a page that would fetch something from another host.

    Returns:
      The page as it is.

    Raises:
      ValueError: If it would.
    """
    found: list[Any] = re.findall(
        r"<(?:script|img|iframe)[^>]*\ssrc=\"(?:https?:)?//[^\"]*|"
        r"<link[^>]*rel=\"(?:stylesheet|preconnect)\"[^>]*href=\"(?:https?:)?//[^\"]*",
        output,
    )
    if found:
        raise ValueError(
            f"Expected {page.url} to fetch nothing from other hosts, found {found[0]}."
        )
    return output
