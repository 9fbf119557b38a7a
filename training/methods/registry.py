"""The methods by name. A new one: one file beside this one and one line here."""

from training.methods.moco import MoCoV2

METHODS = {"moco_v2": MoCoV2}
