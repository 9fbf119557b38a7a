"""From a page to one file of HTML, which needs nothing beside it."""

from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from training.report.page import Key, Page

TEMPLATES = Path(__file__).parent / "templates"


def render(page: Page, made: datetime | None = None) -> str:
    """The report as HTML: styles, drawings and pictures inside.

    Its own security policy forbids a browser to load anything else.

    Args:
        page: what it says.
        made: time in its last line; by default now.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["key_colour"] = _key_colour
    when = made or datetime.now(UTC)
    return environment.get_template("page.html").render(
        page=page,
        style=(TEMPLATES / "page.css").read_text(),
        version=_version(),
        made=when.strftime("%Y-%m-%d at %H:%M %Z"),
    )


def _key_colour(key: Key) -> str:
    return f"var(--{key.colour})" if isinstance(key.colour, str) else f"var(--s{key.colour})"


def _version() -> str:
    try:
        return version("salmask")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "of a checkout"
