"""Every config with its model, what others published for it, and where weights come from."""

from axial_d2.model_zoo.config_files import config_names, get_config_file
from axial_d2.model_zoo.local_weights import weights_file
from axial_d2.model_zoo.models import ZooModel, get, get_config, list_models
from axial_d2.model_zoo.published import PublicWeights, PublishedResults

__all__ = [
    "PublicWeights",
    "PublishedResults",
    "ZooModel",
    "config_names",
    "get",
    "get_config",
    "get_config_file",
    "list_models",
    "weights_file",
]
