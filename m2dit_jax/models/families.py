"""The families of models that exist here; a new one is a folder beside this file and an entry."""

from m2dit_jax.models.cogvideox.family import COGVIDEOX
from m2dit_jax.models.family import SECOND, Family, Json
from m2dit_jax.models.wan.family import WAN

FAMILIES: tuple[Family, ...] = (COGVIDEOX, WAN)
# The family of models made from a training config, and of JSON configs that name no class.
DEFAULT = COGVIDEOX
NETWORK_NAMES = (*DEFAULT.networks, SECOND)
NAMES = tuple(family.name for family in FAMILIES)


def family_named(name: str) -> Family:
    """The family of that name. Raises ValueError if there is none."""
    found = next((family for family in FAMILIES if family.name == name), None)
    if found is None:
        raise ValueError(f"unknown family of models {name!r}; there are {', '.join(NAMES)}")
    return found


def family_of(config: Json) -> Family:
    """The family of the network that a config.json describes.

    Raises ValueError if it names a class of no family.
    """
    return DEFAULT if _class_name(config) is None else network_of(config)[0]


def network_of(config: Json) -> tuple[Family, str]:
    """Family and folder name of the network that a config.json describes, by PyTorch's class.

    Raises ValueError if it names no class, or one of no family.
    """
    found = str(_class_name(config))
    known = {
        network.class_name: (family, name)
        for family in FAMILIES
        for name, network in family.networks.items()
    }
    matching = [class_name for class_name in known if found.endswith(class_name)]
    if not matching:
        raise ValueError(f"needs a class that ends in one of {', '.join(known)}, found {found}")
    return known[max(matching, key=len)]


def _class_name(config: Json) -> str | None:
    """Diffusers writes `_class_name`, transformers a list of `architectures`."""
    architectures = config.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    name = config.get("_class_name") or first
    return None if name is None else str(name)[:100]
