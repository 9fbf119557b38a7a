"""The methods by name. A new one: one file beside this one and one line here."""

from training.methods.byol import BYOL
from training.methods.interface import Method
from training.methods.moco import MoCoV2
from training.methods.simclr import SimCLR
from training.methods.vicreg import VICReg

METHODS: dict[str, type[Method]] = {
    kind.config_type.name: kind for kind in (MoCoV2, SimCLR, BYOL, VICReg)
}
