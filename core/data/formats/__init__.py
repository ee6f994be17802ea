"""Dataset formats: how one record of a file is read. One file each; this dict is the list.

A format is a module-level class with `kind`, `keys` (those that make a record one of it), `yields` (an example type)
and `parse(record) -> Example`, which raises `ValueError` with what is wrong, what is allowed and what to do. The same
`parse` validates an upload and feeds training.
"""

from typing import Literal

from core.data.formats.chat import Chat
from core.data.formats.prompt_completion import PromptCompletionFormat
from core.data.formats.text import Text

FormatName = Literal["text", "chat", "prompt_completion"]
FORMATS: dict[str, type[Text] | type[Chat] | type[PromptCompletionFormat]] = {
    "text": Text,
    "chat": Chat,
    "prompt_completion": PromptCompletionFormat,
}
