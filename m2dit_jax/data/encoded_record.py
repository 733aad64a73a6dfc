"""One record of an encoded dataset: a story as bytes, as tensorflow-datasets has it, and back."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import ml_dtypes
import numpy as np

from m2dit_jax.utils.finite import check_finite

if TYPE_CHECKING:
    from tensorflow_datasets.core.features import FeaturesDict

    from m2dit_jax.data.encoded import EncodedStory

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
Arrays = Mapping[str, tuple[tuple[int, ...], np.dtype]]  # `EncodedInfo.arrays`


def record_features(arrays: Arrays) -> "FeaturesDict":
    """The features of a record, as tensorflow-datasets describes them."""
    from tensorflow_datasets.core import features

    # As bytes: protobuf's lists of numbers take eight times the space and seconds to read.
    tensors = {
        name: features.Tensor(
            shape=(None, *shape),
            dtype=np.uint16 if dtype == BFLOAT16 else dtype,
            encoding="bytes",
            doc="bits of bfloat16" if dtype == BFLOAT16 else None,
        )
        for name, (shape, dtype) in arrays.items()
    }
    texts = {name: features.Sequence(features.Text()) for name in ("captions", "origins")}
    return features.FeaturesDict({"name": features.Text(), **texts, **tensors})


def serialize_story(arrays: Arrays, story: "EncodedStory") -> bytes:
    """The record of a story. Raises ValueError for one that does not have these arrays."""
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    scenes = len(story["captions"])
    for name, (shape, dtype) in arrays.items():
        array = story.get(name)
        if array is None or array.shape != (scenes, *shape) or array.dtype != dtype:
            found = "nothing" if array is None else f"{array.dtype} {array.shape}"
            raise ValueError(
                f"story {story['name']!r}: {name} must be {dtype} {(scenes, *shape)}, is {found}"
            )
        if dtype == BFLOAT16:
            check_finite(f"story {story['name']!r}: {name}", array)
    if not scenes or len(story["origins"]) != scenes:
        raise ValueError(
            f"story {story['name']!r}: {scenes} captions, {len(story['origins'])} origins"
        )
    content: dict[str, Any] = {
        "name": story["name"],
        "captions": story["captions"],
        "origins": [json.dumps(origin) for origin in story["origins"]],
    }
    for name, (_, dtype) in arrays.items():
        content[name] = story[name].view(np.uint16) if dtype == BFLOAT16 else story[name]
    features = record_features(arrays)
    serializer = ExampleSerializer(cast(Any, features.get_serialized_info()))
    example = serializer.get_tf_example(features.encode_example(content))
    return example.SerializeToString(deterministic=True)


def parse_story(arrays: Arrays, record: bytes) -> "EncodedStory":
    """The story of a record, whose arrays cannot be written to."""
    # tensorflow-datasets' own parsing gives the same, with more copies.
    from tensorflow_datasets.proto import tf_example_pb2

    features = cast(Any, tf_example_pb2).Example.FromString(record).features.feature

    def values(name: str) -> Sequence[bytes]:
        return features[name].bytes_list.value

    (name,) = values("name")
    story: dict[str, Any] = {
        key: np.frombuffer(values(key)[0], dtype).reshape(-1, *shape)
        for key, (shape, dtype) in arrays.items()
    }
    story["name"] = name.decode()
    story["captions"] = [text.decode() for text in values("captions")]
    story["origins"] = [json.loads(text) for text in values("origins")]
    return cast("EncodedStory", story)
