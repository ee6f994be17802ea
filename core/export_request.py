"""What the api asks a generator for when somebody wants a model as a file for llama.cpp: an `ExportRequest`, and the
bytes of the file back. No torch, no HTTP."""

from typing import Literal

from core.generation_request import ServedModel
from core.spec import Spec

Quantization = Literal["f32", "f16", "q8_0", "q4_0"]
"""of the matrices, as llama.cpp calls them"""


class ExportRequest(Spec):
    model: ServedModel
    quantization: Quantization
