"""What shells need that typer's completion does not give them."""

from typer import _completion_classes as shells
from typer._click.shell_completion import CompletionItem, add_completion_class


class Bash(shells.BashComplete):
    """bash takes `pt:default:plays` for five words, and wants only the end of the last one."""

    def get_completion_args(self) -> tuple[list[str], str]:
        args, incomplete = super().get_completion_args()
        *whole, last = joined([*args, incomplete])
        self._given = last.rpartition(":")[0] + ":" if ":" in last else ""
        return whole, last

    def format_completion(self, item: CompletionItem) -> str:
        return str(item.value).removeprefix(self._given)


def joined(words: list[str]) -> list[str]:
    """Words again as they were typed."""
    found: list[str] = []
    for word in words:
        if found and word and (word.startswith(":") or found[-1].endswith(":")):
            found[-1] += word
        else:
            found.append(word)
    return found


def _plain(text: str) -> str:
    return text


def prepare() -> None:
    """Called when a shell asks. Our help has no markup; to look for some, typer would load rich at every TAB."""
    add_completion_class(Bash, "bash")
    setattr(shells, "_sanitize_help_text", _plain)  # noqa: B010  (mypy lets nobody assign a function)
