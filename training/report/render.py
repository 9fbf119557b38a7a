"""Render a page as one HTML file that needs nothing beside it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from training.report.wording import count, percent

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, page: Mapping[str, object]) -> str:
    """Fill a template; styles, scripts, charts and pictures are inside the result.

    The page's own security policy forbids a browser to load anything else.

    Args:
        template: a file in `templates/` that extends `page.html`.
        page: what the template shows, with `title`, `kicker`, `folder`, `summary` and `facts`.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": count, "percent": percent}
    try:
        release = version("salmask")
    except PackageNotFoundError:  # run from a checkout that was not installed
        release = "of a checkout"
    return environment.get_template(template).render(
        **page,
        contents=[],
        style=(TEMPLATES / "page.css").read_text(),
        script=(TEMPLATES / "page.js").read_text(),
        plotly=get_plotlyjs(),
        version=release,
        made=datetime.now(UTC).strftime("%Y-%m-%d at %H:%M %Z"),
    )
