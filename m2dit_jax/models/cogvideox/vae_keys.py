"""The names of the weights of diffusers' AutoencoderKLCogVideoX, and ours."""

from m2dit_jax.models.key_rules import Rule


def _conv(torch: str, jax: str, change: str = "conv") -> list[Rule]:
    return [Rule(f"{torch}.weight", f"{jax}.kernel", change), Rule(f"{torch}.bias", f"{jax}.bias")]


def _group_norm(torch: str, jax: str) -> list[Rule]:
    return [Rule(f"{torch}.weight", f"{jax}.scale"), Rule(f"{torch}.bias", f"{jax}.bias")]


def _spatial_norm(torch: str, jax: str) -> list[Rule]:
    return [
        *_group_norm(f"{torch}.norm_layer", f"{jax}.norm_layer"),
        *_conv(f"{torch}.conv_y.conv", f"{jax}.conv_y", "patch"),
        *_conv(f"{torch}.conv_b.conv", f"{jax}.conv_b", "patch"),
    ]


def _resnets(torch: str, jax: str, norm) -> list[Rule]:
    torch, jax = f"{torch}.resnets.{{layer}}", f"{jax}.{{layer}}"
    return [
        *norm(f"{torch}.norm1", f"{jax}.norm1"),
        *_conv(f"{torch}.conv1.conv", f"{jax}.conv1"),
        *norm(f"{torch}.norm2", f"{jax}.norm2"),
        *_conv(f"{torch}.conv2.conv", f"{jax}.conv2"),
    ]


def _blocks(name: str, resample: str, norm) -> list[Rule]:
    shortcut = f"{name}.resnets.{{layer}}.conv_shortcut"
    return [
        *_resnets(name, f"{name}.resnets", norm),
        *_conv(shortcut, shortcut, "patch"),
        *_conv(f"{name}.{resample}rs.0.conv", f"{name}.{resample}.conv"),
    ]


# AutoencoderKLCogVideoX without use_quant_conv and use_post_quant_conv, as all released ones.
VAE = (
    *_conv("encoder.conv_in.conv", "encoder.conv_in"),
    *_blocks("encoder.down_blocks.{block}", "downsample", _group_norm),
    *_resnets("encoder.mid_block", "encoder.mid_block", _group_norm),
    *_group_norm("encoder.norm_out", "encoder.norm_out"),
    *_conv("encoder.conv_out.conv", "encoder.conv_out"),
    *_conv("decoder.conv_in.conv", "decoder.conv_in"),
    *_resnets("decoder.mid_block", "decoder.mid_block", _spatial_norm),
    *_blocks("decoder.up_blocks.{block}", "upsample", _spatial_norm),
    *_spatial_norm("decoder.norm_out", "decoder.norm_out"),
    *_conv("decoder.conv_out.conv", "decoder.conv_out"),
)
