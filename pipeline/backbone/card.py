"""The README beside exported weights: what they are, where they come from, how to load them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from pipeline.core.architectures import TIMM, classifier_names, max_pool_name, plain_network
from pipeline.images.preprocessing import Preprocessing

if TYPE_CHECKING:  # the format writes the card: at run time the import points one way
    from pipeline.backbone.folder import BackboneInfo

DIGITS = 12
"""Of a digest, as far as people compare it."""


class Figure(NamedTuple):
    """One result of an evaluation."""

    protocol: str
    data: str
    percent: float
    interval: tuple[float, float]


def model_card(
    info: "BackboneInfo",
    *,
    usages: Sequence[tuple[str, str]] = (),
    figures: Sequence[Figure] = (),
) -> str:
    """The card, as Markdown.

    Args:
        info: of the weights; its digest is filled in.
        usages: per further format its name and the Python that loads it.
        figures: results; none: the card says that there are none.
    """
    parts = [
        f"# {info.architecture}: {info.feature_dim} features an image",
        _facts(info),
        "## How an image is prepared",
        _preparation(info.preprocessing),
        "## Figures",
        _figures(figures),
        "## Load it",
        f"```python\n{plain_usage(info)}\n```",
        "Where salmask is installed, with the preparation in front:",
        "```python\nfrom pipeline.backbone.image_encoder import load_image_encoder\n\nencoder = "
        'load_image_encoder(".")  # uint8 RGB [B, 3, H, W] in, features out\n```',
    ]
    for name, code in usages:
        parts += [f"### {name}", f"```python\n{code}\n```"]
    return "\n\n".join(parts) + "\n"


def _facts(info: "BackboneInfo") -> str:
    known = info.provenance
    config = known.get("config")
    rows = [
        ("weights (sha256)", info.weights_sha256[:DIGITS]),
        ("pretraining data (digest)", str(known.get("data_digest", "not known"))[:DIGITS]),
        ("encoder", known.get("encoder", "query")),
        ("trained", _trained(known)),
        ("recipe", recipe(config) if isinstance(config, Mapping) else "not known"),
    ]
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows)


def _trained(known: Mapping[str, Any]) -> str:
    if "step" not in known:
        return "not known"
    return f"{known.get('epochs', 0):.4g} epochs, {known['step']} steps"


def recipe(config: Mapping[str, Any]) -> str:
    """The settings of a run that matter most, in a line; what a config lacks is left out."""

    def at(name: str) -> Any:  # noqa: ANN401  (JSON)
        value: Any = config
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    shown = {
        "method": at("method.name"),
        "epochs": at("epochs"),
        "batch": at("batch_size"),
        "view": at("views.size"),
        "stem": at("encoder.stem"),
        "fill": at("fill"),
        "masks": at("masks.strategy"),
        "hard negatives": at("method.hard_negatives"),
        "lr": at("optim.lr"),
        "seed": at("seed"),
    }
    return ", ".join(f"{name} {value}" for name, value in shown.items() if value is not None)


def _preparation(wanted: Preprocessing) -> str:
    lines = [
        f"1. shorter side to {wanted.resize} px (bilinear, antialiased, 8-bit pixels)",
        f"2. centre crop of {wanted.view_size} px",
        f"3. RGB / 255, minus mean {_three(wanted.mean)}, over std {_three(wanted.std)}",
    ]
    if wanted.high_pass is not None:
        filtered = wanted.high_pass
        lines.append(
            f"4. **high-pass**: minus its own Gaussian blur, kernel {filtered.kernel}, sigma "
            f"{filtered.sigma:.6g}, borders reflected. The backbone was trained so: without this "
            "filter its features are wrong. No library's transform knows it; the ONNX graph has "
            "it inside."
        )
    return "\n".join(lines) + "\n\n`backbone.json` holds the same as JSON."


def _three(values: tuple[float, float, float]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"


def _figures(figures: Sequence[Figure]) -> str:
    if not figures:
        return "None were measured before this card was written."
    head = "| protocol | data | top-1 or AP, % | 95 % interval |\n|---|---|---|---|\n"
    return head + "\n".join(
        f"| {protocol} | {data} | {percent:.2f} | {low:.2f} to {high:.2f} |"
        for protocol, data, percent, (low, high) in figures
    )


def plain_usage(info: "BackboneInfo") -> str:
    """Python that loads `backbone.pth` with nothing but the network's own library."""
    name = info.architecture
    if name.startswith(TIMM):
        built = f'network = timm.create_model("{name.removeprefix(TIMM)}", num_classes=0)'
        library = "timm"
    else:
        library = "torchvision"
        classifiers = "".join(
            f"\nnetwork.set_submodule({part!r}, torch.nn.Identity())".replace("'", '"')
            for part in classifier_names(name)
        )
        built = f"network = torchvision.models.{name}(){classifiers}"
    if not info.max_pool:
        with torch.random.fork_rng(devices=[]):  # a run that writes its card draws the same after
            network, _ = plain_network(name)
        part = max_pool_name(network, name)
        built += f'\nnetwork.set_submodule("{part}", torch.nn.Identity())'
    return (
        f"import {library}\nimport torch\n\n{built}\n"
        'network.load_state_dict(torch.load("backbone.pth", weights_only=True))\n'
        "network.eval()"
    )
