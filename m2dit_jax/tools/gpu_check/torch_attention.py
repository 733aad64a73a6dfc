"""The yardstick: PyTorch's attention with the same groups of the symmetric mask, and dense.

It imports neither jax nor the package's other rooms: two libraries that both take a GPU's memory
do not share a process.

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
    tokens = scenes * (text + video)
    inputs = [
        torch.randn(1, heads, tokens, head_dim, device=device, dtype=dtype, requires_grad=True)
        for _ in range(3)
    ]
    attend = torch.nn.functional.scaled_dot_product_attention
    pairs = scenes * (text * (text + video) + video * (text + scenes * video))
    flops = 4 * pairs * heads * head_dim

    def grouped() -> Any:
        query, key, value = inputs
        texts, videos = scenes * text, scenes * video  # all text comes before all video
        parts = []
        for i in range(scenes):
            of_text = slice(i * text, (i + 1) * text)
            of_video = slice(texts + i * video, texts + (i + 1) * video)
            both = [torch.cat([x[:, :, of_text], x[:, :, of_video]], 2) for x in (key, value)]
            parts.append((of_text.start, attend(query[:, :, of_text], *both)))
            seen = [torch.cat([x[:, :, of_text], x[:, :, texts:]], 2) for x in (key, value)]
            parts.append((of_video.start, attend(query[:, :, of_video], *seen)))
        assert videos + texts == tokens
        return torch.cat([part for _, part in sorted(parts, key=lambda part: part[0])], 2)

    for name, compute in (("by groups", grouped), ("dense mask", None)):
        if compute is None:
            mask = _dense_mask(scenes, text, video, device)
            compute = lambda: attend(*inputs, attn_mask=mask)  # noqa: B023,E731
        for phase, times in (("forward", 1), ("forward and gradient", 3)):
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            seconds = _fastest(compute, inputs, phase != "forward", repeats)
            row = {
                "what": f"PyTorch {torch.__version__}, {name}, {phase}",
                "seconds": seconds,
                "flops_per_second": times * flops / seconds,
            }
            if device == "cuda":
                row["peak_device_bytes"] = torch.cuda.max_memory_allocated()
            yield row


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


def _dense_mask(scenes: int, text: int, video: int, device: str) -> Any:
    """True where query may attend to key: [text_1 .. text_S, video_1 .. video_S] both ways."""
    import torch  # pyright: ignore[reportMissingImports]

    scene = torch.cat(
        [torch.arange(scenes).repeat_interleave(n) for n in (text, video)],
    ).to(device)
    is_video = torch.arange(len(scene), device=device) >= scenes * text
    same = scene[:, None] == scene[None, :]
    return same | (is_video[:, None] & is_video[None, :])
