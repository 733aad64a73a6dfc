import re
from pathlib import Path

from configs.base import get_config
from m2dit_jax.config.docs import to_markdown
from m2dit_jax.config.fields import declared_fields
from m2dit_jax.config.schema import Config

PAGE = Path(__file__).parent.parent.parent / "docs" / "config.md"


def test_every_field_has_a_sentence():
    for each in declared_fields(Config):
        assert re.fullmatch(r"[A-Z(].*\.", each.rule.sentence), each.name


def test_the_page_of_the_docs_is_up_to_date():
    written = to_markdown(Config.from_dict(get_config()))
    assert PAGE.read_text() == written, "python -m m2dit_jax.config.docs > docs/config.md"


def test_a_row_has_default_range_and_sentence():
    rows = to_markdown(Config.from_dict(get_config())).splitlines()
    assert (
        "| `train.steps` | int | `2000` | between 1 and 1000000000 | `--override` | Optimizer "
        "steps of the run. |" in rows
    )
    (height,) = [row for row in rows if row.startswith("| `data.height`")]
    assert height.endswith("| locked | Height in pixels. Only for pixels and latents. |")
    (log_every,) = [row for row in rows if row.startswith("| `train.log_every`")]
    (mesh,) = [row for row in rows if row.startswith("| `mesh.fsdp`")]
    assert "| free |" in log_every and "| free |" in mesh
