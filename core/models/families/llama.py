"""The Llama family: RMSNorm, rotary positions, SwiGLU, grouped-query attention (Touvron et al. 2023, arXiv:2302.13971;
SmolLM2 and others share the shape)."""

from core.models.config import Dimensions

PRESETS: dict[str, Dimensions] = {
    # name: about how many parameters with a vocabulary of 8192
    "nano": Dimensions(hidden_size=128, num_layers=4, num_heads=4, num_kv_heads=2, context_length=512),
    "micro": Dimensions(hidden_size=192, num_layers=6, num_heads=6, num_kv_heads=2, context_length=512),
    "mini": Dimensions(hidden_size=384, num_layers=6, num_heads=6, num_kv_heads=2, context_length=1024),
    "small": Dimensions(hidden_size=512, num_layers=12, num_heads=8, num_kv_heads=4, context_length=2048),
    "medium": Dimensions(hidden_size=768, num_layers=16, num_heads=12, num_kv_heads=4, context_length=2048),
    "large": Dimensions(hidden_size=1024, num_layers=24, num_heads=16, num_kv_heads=4, context_length=4096),
    "xl": Dimensions(hidden_size=2048, num_layers=20, num_heads=16, num_kv_heads=8, context_length=4096),
}
