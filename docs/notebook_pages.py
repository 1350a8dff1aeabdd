"""Shows notebooks with their outputs as pages: mkdocs reads the Markdown that nbconvert makes."""

from __future__ import annotations

from typing import Any

from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter


class NotebookFile(File):
    """A notebook that mkdocs takes for a page, so that its links are checked like any other's."""

    def is_documentation_page(self) -> bool:
        """Whether it is a page, and not a file to copy."""
        return True


def on_files(files: Files, config: Any) -> Files:
    """Take each notebook for a page."""
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            files.remove(file)
            page = NotebookFile(
                file.src_uri, config["docs_dir"], config["site_dir"], config["use_directory_urls"]
            )
            files.append(page)
    return files


def on_page_read_source(page: Any, config: Any) -> str | None:
    """Return the Markdown of a notebook; None leaves other pages to mkdocs."""
    if not isinstance(page.file, NotebookFile):
        return None
    # Pictures stay inside the page.
    exporter = MarkdownExporter(preprocessors=[], default_preprocessors=[])
    markdown, _ = exporter.from_filename(page.file.abs_src_path)
    return str(markdown)
