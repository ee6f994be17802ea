"""`Spec`: the base of everything that a user can send, and that is stored and read back as the same class."""

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """Frozen; unknown fields are refused by name; NaN and infinity are refused; accepts field names and aliases."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        populate_by_name=True,
        serialize_by_alias=True,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )
