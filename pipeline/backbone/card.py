"""The README beside exported weights: what they are, where they come from, how to load them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.backbone.info import BackboneInfo
from pipeline.core.architectures import (
    TIMM,
    NoInitialWeights,
    classifier_names,
    max_pool_name,
    plain_network,
    stem_name,
)
from pipeline.images.pixel_format import RGB

DIGITS = 12
"""Digits of a digest that people compare."""
RECIPE = {
    "method": "method.name",
    "epochs": "epochs",
    "batch": "batch_size",
    "view": "views.size",
    "stem": "encoder.stem",
    "fill": "fill",
    "masks": "masks.strategy",
    "hard negatives": "method.hard_negatives",
    "lr": "optim.lr",
    "seed": "seed",
}
"""The settings of a run that matter most: as the card calls them, and where a config has them."""


NARROWED = """for name, value in weights.items():  # each tensor gets the shape of the narrower one
    module, _, part = name.rpartition(".")
    getattr(network.get_submodule(module), part).data = value"""
"""Python that gives a network the shapes of narrower weights."""
NARROWER = (
    "**A plain {} cannot load these weights**: inner channels of its blocks were removed "
    "(`backbone.json` says how many are left). The loop narrows the network first."
)


class Figure(NamedTuple):
    """One result of an evaluation."""

    protocol: str
    data: str
    percent: float
    interval: tuple[float, float]


def model_card(
    info: BackboneInfo, *, usages: Mapping[str, str] | None = None, figures: Sequence[Figure] = ()
) -> str:
    """The card, as Markdown.

    Args:
        info: of the weights, with their digest.
        usages: per further format its name and the Python that loads it.
        figures: results; none: the card says that there are none.
    """
    known = info.provenance
    config, trained = known.get("config"), "not known"
    if "step" in known:
        epochs = known.get("epochs", 0)
        told = f"{epochs:.4g}" if isinstance(epochs, int | float) else epochs
        trained = f"{told} epochs, {known['step']} steps"
    facts = {
        "weights (sha256)": info.weights_sha256[:DIGITS],
        "pretraining data (digest)": str(known.get("data_digest", "not known"))[:DIGITS],
        "encoder": known.get("encoder", "query"),
        "trained": trained,
        "recipe": recipe(config) if isinstance(config, Mapping) else "not known",
    }
    rows = [table_row((name, str(fact))) for name, fact in facts.items()]
    parts = [
        f"# {info.architecture}: {info.feature_dim} features an image",
        "\n".join(["| | |", "|---|---|", *rows]),
        "## How an image is prepared",
        _preparation(info),
        "## Figures",
        _figures(figures),
        "## Load it",
        *([NARROWER.format(info.architecture)] if info.channels else []),
        f"```python\n{plain_usage(info)}\n```",
        "Where salmask is installed, with the preparation in front:",
        "```python\nfrom pipeline.backbone.image_encoder import load_image_encoder\n\nencoder = "
        'load_image_encoder(".")  # uint8 [B, C, H, W] in, features out\n```',
    ]
    for name, code in (usages or {}).items():
        parts += [f"### {name}", f"```python\n{code}\n```"]
    return "\n\n".join(parts) + "\n"


def recipe(config: Mapping[str, Any]) -> str:
    """The `RECIPE` of a run in a line; what a config lacks is left out."""
    shown = []
    for name, path in RECIPE.items():
        value: Any = config
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            shown.append(f"{name} {value}")
    return ", ".join(shown)


def _preparation(info: BackboneInfo) -> str:
    wanted, pixels = info.preprocessing, info.pixels
    mean, std = (", ".join(f"{v:.6g}" for v in values) for values in (wanted.mean, wanted.std))
    lines = [
        f"1. shorter side to {wanted.resize} px (bilinear, antialiased, 8-bit pixels)",
        f"2. centre crop of {wanted.view_size} px",
        f"3. {'RGB' if pixels.channels == RGB else f'{pixels.channels} channels'} / 255, minus "
        f"mean ({mean}), over std ({std})",
    ]
    if pixels.integers or pixels.floats:
        lines.insert(
            0,
            f"0. images of more than 8 bits ({pixels.words}): level = floor(256 (value - low) / "
            "(high - low)), clipped to 0..255; `backbone.json` has low and high of each channel",
        )
    if wanted.high_pass is not None:
        lines.append(
            f"4. **high-pass**: minus its own Gaussian blur, kernel {wanted.high_pass.kernel}, "
            f"sigma {wanted.high_pass.sigma:.6g}, borders reflected. The backbone was trained so: "
            "without this filter its features are wrong. No library's transform knows it; the "
            "ONNX graph has it inside."
        )
    return "\n".join(lines) + "\n\n`backbone.json` holds the same as JSON."


def _figures(figures: Sequence[Figure]) -> str:
    if not figures:
        return "None were measured before this card was written."
    head = "| protocol | data | top-1 or AP, % | 95 % interval |\n|---|---|---|---|\n"
    return head + "\n".join(
        table_row((protocol, data, f"{percent:.2f}", f"{low:.2f} to {high:.2f}"))
        for protocol, data, percent, (low, high) in figures
    )


def table_row(cells: Sequence[str]) -> str:
    """A row of a Markdown table; links, pictures, tags and lines in a cell are shown as text."""
    shown = (re.sub(r"[\\|\[]", r"\\\g<0>", " ".join(cell.split())) for cell in cells)
    return f"| {' | '.join(re.sub(r'<(?=[a-zA-Z/!?])', '&lt;', cell) for cell in shown)} |"


def plain_usage(info: BackboneInfo) -> str:
    """Python that loads `backbone.pth` with nothing but the network's own library."""
    name, identities = info.architecture, classifier_names(info.architecture)
    if name.startswith(TIMM):
        library, identities = "timm", ()
        built = f'timm.create_model("{name.removeprefix(TIMM)}", num_classes=0)'
    else:
        library, built = "torchvision", f"torchvision.models.{name}()"
    if not info.max_pool:
        with NoInitialWeights():
            identities = (*identities, max_pool_name(plain_network(name)[0], name))
    lines = [f"import {library}\nimport torch\n", f"network = {built}"]
    lines += [f'network.set_submodule("{part}", torch.nn.Identity())' for part in identities]
    if info.pixels.channels != RGB:
        with NoInitialWeights():
            network = plain_network(name, channels=info.pixels.channels)[0]
        stem = stem_name(network)
        lines.append(f'network.set_submodule("{stem}", torch.nn.{network.get_submodule(stem)})')
    weights = 'torch.load("backbone.pth", weights_only=True)'
    if info.channels:
        lines += [f"weights = {weights}", NARROWED]
        weights = "weights"
    lines += [f"network.load_state_dict({weights})"]
    return "\n".join([*lines, "network.eval()"])
