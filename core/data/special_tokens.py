"""Names of special tokens: those that every tokenizer made here reserves, and what others call the same."""

END_OF_TEXT = "<|endoftext|>"
PAD = "<|pad|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
FIM_PREFIX = "<|fim_prefix|>"
FIM_MIDDLE = "<|fim_middle|>"
FIM_SUFFIX = "<|fim_suffix|>"
SPARES = tuple(f"<|spare_{i}|>" for i in range(64))
SPECIALS = (END_OF_TEXT, PAD, TURN_START, TURN_END, FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX, *SPARES)
"""what every tokenizer that is made here reserves, in this order"""

# The first name that a tokenizer has is taken; a role that its configuration names comes before all of them.
MASKS = ("[MASK]", "<mask>", SPARES[0])
"""stands for a token that is to be guessed"""
CLASSES = ("[CLS]", SPARES[1])
"""stands before a text that an encoder reads"""
SEPARATORS = ("[SEP]", SPARES[2])
"""stands behind each of them"""
SENTINELS = (tuple(f"<extra_id_{i}>" for i in range(100)), SPARES[3:])
"""stand for the holes of a text; all or a first part of a family are there"""
INFILLINGS = (
    (FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>"),
    ("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),
)
"""stand before prefix, suffix and middle (Qwen and ours, StarCoder, SantaCoder, Code Llama, DeepSeek)"""

# Chat models of others name the end of a turn in these ways (ChatML, Llama 3, Gemma, Phi 3).
TURN_ENDS = (TURN_END, "<|eot_id|>", "<end_of_turn>", "<|end|>")
END_OF_TEXTS = (END_OF_TEXT, "<|end_of_text|>")
