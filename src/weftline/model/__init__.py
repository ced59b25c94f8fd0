"""A model from its config.json: exact parameters, FLOPs and bytes, operator by operator."""

from weftline.model.ir import Attention, Layer, Model, Operator
from weftline.model.load import bundled_models, load_model
from weftline.model.rows import parameter_table

__all__ = [
    "Attention",
    "Layer",
    "Model",
    "Operator",
    "bundled_models",
    "load_model",
    "parameter_table",
]
