"""Two things that pyproject.toml cannot say: where dependencies and configs come from."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface


class Dependencies(MetadataHookInterface):
    """The dependencies are those of requirements.txt, without its comments."""

    def update(self, metadata: dict[str, Any]) -> None:
        lines = Path(self.root, "requirements.txt").read_text(encoding="utf-8").splitlines()
        requirements = (line.partition("#")[0].strip() for line in lines)
        metadata["dependencies"] = [requirement for requirement in requirements if requirement]


class Configs(BuildHookInterface):
    """configs/ lies beside the package in a checkout and within it in a wheel.

    `m2dit_jax.config.files` looks for it in both places.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        # An editable installation, the other version there is, uses the checkout's.
        if version == "standard":
            build_data["force_include"]["configs"] = "m2dit_jax/config/shipped"
