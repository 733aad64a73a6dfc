"""The yardstick: PyTorch's attention with the same groups of the symmetric mask, and dense.

python -m m2dit_jax.tools.gpu_check.parts torch_attention --output=FILE
"""

import time
from collections.abc import Callable, Iterator
from typing import Any


def torch_attention(
    scenes: int, text: int, video: int, heads: int, head_dim: int, repeats: int
) -> Iterator[dict[str, Any]]:
    """Times of scaled_dot_product_attention: by groups, and with the whole boolean mask."""
    import torch  # pyright: ignore[reportMissingImports]

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    shape = 1, heads, scenes * (text + video), head_dim
    inputs = [torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3)]
    pairs = scenes * (text * (text + video) + video * (text + scenes * video))
    flops = 4 * pairs * heads * head_dim
    ways: dict[str, Callable[..., Any]] = {"by groups": by_groups, "dense mask": with_mask}
    for name, attend in ways.items():
        for phase, times in (("forward", 1), ("forward and gradient", 3)):
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            seconds = _fastest(
                lambda attend=attend: attend(*inputs, scenes, text, video),
                inputs,
                phase != "forward",
                repeats,
            )
            row = {
                "what": f"PyTorch {torch.__version__}, {name}, {phase}",
                "seconds": seconds,
                "flops_per_second": times * flops / seconds,
            }
            if device == "cuda":
                row["peak_device_bytes"] = torch.cuda.max_memory_allocated()
            yield row


def by_groups(query: Any, key: Any, value: Any, scenes: int, text: int, video: int) -> Any:
    """Attention without a mask, a call for each group: text_i and video_i with what they see.

    Tensors are [B N L K], all text before all video.
    """
    import torch  # pyright: ignore[reportMissingImports]

    attend = torch.nn.functional.scaled_dot_product_attention
    texts = scenes * text
    of_texts, of_videos = [], []
    for i in range(scenes):
        own_text = slice(i * text, (i + 1) * text)
        own_video = slice(texts + i * video, texts + (i + 1) * video)
        for own, seen, parts in (
            (own_text, own_video, of_texts),
            (own_video, slice(texts, None), of_videos),
        ):
            both = [torch.cat([x[:, :, own_text], x[:, :, seen]], 2) for x in (key, value)]
            parts.append(attend(query[:, :, own], *both))
    return torch.cat(of_texts + of_videos, 2)


def with_mask(query: Any, key: Any, value: Any, scenes: int, text: int, video: int) -> Any:
    """The same with the whole boolean mask."""
    import torch  # pyright: ignore[reportMissingImports]

    scene = torch.cat([torch.arange(scenes).repeat_interleave(n) for n in (text, video)])
    scene = scene.to(query.device)
    is_video = torch.arange(len(scene), device=query.device) >= scenes * text
    mask = (scene[:, None] == scene[None, :]) | (is_video[:, None] & is_video[None, :])
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def _fastest(compute: Callable[[], Any], inputs: Any, backward: bool, repeats: int) -> float:
    import torch  # pyright: ignore[reportMissingImports]

    def run() -> None:
        if backward:
            torch.autograd.grad(compute().float().sum(), inputs)
        else:
            with torch.no_grad():
                compute()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    run()
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)
