"""What a page lets its reader save: the video that it holds, and the storyboard."""

import json
from typing import NamedTuple

from m2dit_jax.report.document import data_uri
from m2dit_jax.report.record import StoryRecord


class Downloads(NamedTuple):
    """Names of a story's files, and its storyboard as a data URI.

    The video is on the page already: the script makes the link from its player.
    """

    video_name: str
    storyboard_name: str
    storyboard: str


def downloads(story: StoryRecord, name: str) -> Downloads:
    """The downloads of a story called `name`."""
    name = name.replace("/", "_")
    text = json.dumps(story.storyboard, indent=2)
    uri = data_uri("application/json", text.encode())
    return Downloads(f"{name}.mp4", f"{name}_storyboard.json", uri)
