"""Stories of two sources in one order."""

from dataclasses import dataclass

from m2dit_jax.data.worlds import DrawnStory, StorySource


@dataclass(frozen=True)
class Interleaved:
    """Stories of one source, a share spread evenly, and of another between them.

    Either source begins again when it ends.
    """

    source: StorySource
    others: StorySource
    share: float
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> DrawnStory:
        before, after = int(index * self.share), int((index + 1) * self.share)
        if after > before:
            return self.source[before % len(self.source)]
        return self.others[(index - before) % len(self.others)]
