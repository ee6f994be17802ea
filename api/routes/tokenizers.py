"""Tokenizers that jobs have trained."""

from fastapi import APIRouter

from api import views
from api.dependencies import Provided, Reader, Writer
from api.schemas import Deleted, ListOut, TokenizerOut
from core.jobs import models, registry

router = APIRouter(prefix="/v1/tokenizers", tags=["tokenizers"])


@router.get("", summary="List tokenizers, newest first")
def list_tokenizers(caller: Reader, provided: Provided) -> ListOut[TokenizerOut]:
    with provided.database.reading() as session:
        return views.page([views.tokenizer(row) for row in models.list_tokenizers(session, caller.project_id)])


@router.get("/{tokenizer_id}", summary="One tokenizer")
def get_tokenizer(tokenizer_id: str, caller: Reader, provided: Provided) -> TokenizerOut:
    with provided.database.reading() as session:
        return views.tokenizer(registry.get_tokenizer(session, caller.project_id, tokenizer_id))


@router.delete("/{tokenizer_id}", summary="Delete a tokenizer that no job needs; models keep their own copy")
def delete_tokenizer(tokenizer_id: str, caller: Writer, provided: Provided) -> Deleted:
    with provided.database.transaction() as session:
        row = registry.get_tokenizer(session, caller.project_id, tokenizer_id)
        registry.delete(session, row, tokenizer_id)
    return Deleted(id=tokenizer_id, object="tokenizer")
