"""What aiogram's types don't know."""
from pydantic import BaseModel


def unknown_fields(value, path=""):
    """Names that aiogram's types don't know, at any depth. The types keep them instead of refusing them."""
    if isinstance(value, BaseModel):
        for name in value.model_extra or {}:
            yield f"{path}{name}"
        for name in value.model_fields_set & set(type(value).model_fields):
            yield from unknown_fields(getattr(value, name), f"{path}{name}.")
    elif isinstance(value, (list, tuple)):
        for at, item in enumerate(value):
            yield from unknown_fields(item, f"{path}{at}.")
