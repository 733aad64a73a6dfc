"""The names of the weights of diffusers' AutoencoderKLWan, and ours."""

from m2dit_jax.models.key_rules import Rule


def _conv(torch: str, jax: str, change: str = "conv") -> list[Rule]:
    return [Rule(f"{torch}.weight", f"{jax}.kernel", change), Rule(f"{torch}.bias", f"{jax}.bias")]


def _resnet(torch: str, jax: str) -> list[Rule]:
    return [
        Rule(f"{torch}.norm1.gamma", f"{jax}.norm1.scale", "video_scale"),
        *_conv(f"{torch}.conv1", f"{jax}.conv1"),
        Rule(f"{torch}.norm2.gamma", f"{jax}.norm2.scale", "video_scale"),
        *_conv(f"{torch}.conv2", f"{jax}.conv2"),
        *_conv(f"{torch}.conv_shortcut", f"{jax}.conv_shortcut", "patch"),
    ]


def _resample(torch: str, jax: str) -> list[Rule]:
    return [
        *_conv(f"{torch}.resample.1", f"{jax}.conv"),
        *_conv(f"{torch}.time_conv", f"{jax}.time_conv"),
    ]


def _middle(name: str) -> list[Rule]:
    attention = f"{name}.mid_block.attention"
    resnet = f"{name}.mid_block.resnets.{{layer}}"
    return [
        *_resnet(resnet, resnet),
        Rule(f"{attention}s.0.norm.gamma", f"{attention}.norm.scale", "image_scale"),
        *_conv(f"{attention}s.0.to_qkv", f"{attention}.to_qkv"),
        *_conv(f"{attention}s.0.proj", f"{attention}.proj"),
    ]


def _ends(name: str) -> list[Rule]:
    return [
        *_conv(f"{name}.conv_in", f"{name}.conv_in"),
        Rule(f"{name}.norm_out.gamma", f"{name}.norm_out.scale", "video_scale"),
        *_conv(f"{name}.conv_out", f"{name}.conv_out"),
    ]


_DOWN, _UP = "encoder.down_blocks.{block}", "decoder.up_blocks.{block}"
_COMMON = (
    *_ends("encoder"),
    *_middle("encoder"),
    *_conv("quant_conv", "quant_conv", "patch"),
    *_conv("post_quant_conv", "post_quant_conv", "patch"),
    *_ends("decoder"),
    *_middle("decoder"),
    *_resnet(f"{_UP}.resnets.{{layer}}", f"{_UP}.resnets.{{layer}}"),
)
# 2.1 has the layers of its encoder flat, and lists of upsamplers; 2.2 blocks with one of each.
VAE = (
    *_COMMON,
    *_resnet(_DOWN, _DOWN),
    *_resample(_DOWN, _DOWN),
    *_resample(f"{_UP}.upsamplers.0", f"{_UP}.upsamplers.0"),
    *_resnet(f"{_DOWN}.resnets.{{layer}}", f"{_DOWN}.resnets.{{layer}}"),
    *_resample(f"{_DOWN}.downsampler", f"{_DOWN}.downsampler"),
    *_resample(f"{_UP}.upsampler", f"{_UP}.upsampler"),
)
