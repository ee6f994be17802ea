"""An operator's offline command, both ways:

    python -m core.models.gguf model.gguf DIR                 a GGUF file becomes a directory that this service imports
    python -m core.models.gguf DIR model.gguf --kind Q8_0     a model's directory becomes a GGUF file

Needs numpy and the `gguf` package. Only for files that the operator trusts.
"""

import argparse
import sys
from pathlib import Path
from typing import get_args

from core.errors import InvalidData
from core.models.gguf import read, write
from core.models.gguf.layout import TensorKind


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m core.models.gguf", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path, help="a GGUF file that you trust, or the directory of a model")
    parser.add_argument("target", type=Path, help="a new directory, or a new file")
    parser.add_argument("--kind", choices=get_args(TensorKind), default="Q8_0", help="of the matrices in a new file")
    arguments = parser.parse_args()
    try:
        if not arguments.source.is_dir():
            read.convert(arguments.source, arguments.target)
        elif arguments.target.exists():
            raise InvalidData(f"{arguments.target} is there already", hint="name a new file")
        else:
            write.export(arguments.source, arguments.target, arguments.kind)
    except InvalidData as error:
        sys.exit(f"{error.message}. {error.hint or ''}".rstrip())


if __name__ == "__main__":
    main()
