"""How to install what only some users need: the extras of pyproject.toml."""


def how_to_install(extra: str) -> str:
    """The pip commands for an extra, as part of an error message."""
    return f"""pip install "m2dit_jax[{extra}]", or in a checkout pip install -e ".[{extra}]\""""
