"""An operator's command: the first key of a new deployment, which opens all the rest of the API.

    python -m core.jobs.first_key

Prints an admin key of the project `default`, once: where a valid admin key exists, it refuses. Later keys are made with
`POST /v1/keys` or `weightsmith keys create`.
"""

import argparse
import sys

from sqlalchemy import or_, select

from core.jobs import keys
from core.jobs.database import Database
from core.jobs.dialect import now
from core.jobs.tables import ApiKey
from core.settings import settings

PROJECT = "default"


def first_key(database: Database) -> str | None:
    """The new key; None where somebody has one already."""
    with database.transaction() as session:
        valid = select(ApiKey).where(
            ApiKey.revoked_at.is_(None), or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > now())
        )
        if any("admin" in row.scopes for row in session.scalars(valid)):
            return None
        project = keys.ensure_project(session, PROJECT)
        return keys.create_key(session, project, name="first key", scopes=["admin"])[0]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    key = first_key(Database(settings().database_url))
    if key is None:
        sys.exit("There is an admin key already. It makes others: weightsmith keys create --help")
    sys.stdout.write(f"{key}\n")


if __name__ == "__main__":
    main()
