"""The JSON Schema of the job file, for editors: what they check and explain while a person writes."""

from __future__ import annotations

import inspect
import re
from typing import Any

from pydantic import BaseModel

from attention_core.health import MEASURES
from attention_core.job import Job

DIALECT = "https://json-schema.org/draft/2020-12/schema"
VARIABLE = {"$ref": "#/$defs/Variable"}
_NAMES = re.compile(r"(?:^|(?<=[.;] )(?:or )?)(\w+(?:, \w+)*): ", re.MULTILINE)


def schema() -> dict[str, Any]:
    """The schema (draft 2020-12): the form of each entry, and what the classes say of it.

    What only a look at several entries or at the data can tell is left to `farol check`.
    """
    plain = Job.model_json_schema(by_alias=True)
    defs = plain.pop("$defs")
    for model in _models(Job):
        _explain(plain if model is Job else _of(model, defs), model)
    _measures(plain["properties"]["expect"])
    opened = _opened({**plain, "$defs": defs}, defs)
    opened["$defs"]["Variable"] = {
        "type": "string",
        "pattern": r"\$\{.+\}",
        "description": "${NAME} is what the environment variable NAME holds.",
    }
    return {"$schema": DIALECT, **opened, "title": "A job file of Farol"}


def _models(base: type[BaseModel]) -> list[type[BaseModel]]:
    """A model and all that its fields can hold."""
    found = [base]
    for model in found:
        for field in model.model_fields.values():
            found += [m for m in _named(field.annotation) if m not in found]
    return found


def _named(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in getattr(annotation, "__args__", ()) for model in _named(inner)]


def _of(model: type[BaseModel], defs: dict[str, Any]) -> dict[str, Any]:
    """The definition of a model; two classes of one name are told apart by their modules."""
    long = f"{model.__module__}.{model.__qualname__}".replace(".", "__")
    found: dict[str, Any] = defs.get(long) or defs[model.__name__]
    return found


def _explain(form: dict[str, Any], model: type[BaseModel]) -> None:
    """Gives each field what its class says of it, and takes away titles that say no more than the name."""
    told = explained(model)
    for name, field in form.get("properties", {}).items():
        field.pop("title", None)
        if name in told:
            field["description"] = told[name]
    if "kind" in form["properties"]:
        form["title"] = form["properties"]["kind"].pop("default")
        form["required"] = ["kind", *form.get("required", ())]


def explained(model: type[BaseModel]) -> dict[str, str]:
    """What the documentation of a class says of its fields, as `name: text` or `name, name: text`."""
    fields = {field.alias or name for name, field in model.model_fields.items()}
    doc = inspect.getdoc(model) or ""
    told = dict[str, str]()
    marks = [m for m in _NAMES.finditer(doc) if m[1] == "Source" or fields.issuperset(m[1].split(", "))]
    for mark, after in zip(marks, [*marks[1:], None], strict=False):
        text = " ".join(doc[mark.end() : after.start() if after else None].split("\n\n")[0].split())
        told = {name: text.rstrip(";") for name in mark[1].split(", ")} | told  # what is said first is what it is
    told.pop("Source", None)
    return told


def _measures(expect: dict[str, Any]) -> None:
    """What can be expected of the source, and of a rule."""
    bounds: Any = expect["additionalProperties"]
    bound = bounds["additionalProperties"]
    expect["properties"] = {"source": {**bounds, "propertyNames": {"enum": ["batches", "rows"]}}}
    expect["additionalProperties"] = {
        "type": "object",
        "properties": {measure: bound for measure in MEASURES},
        "additionalProperties": False,
    }


def _opened(node: Any, defs: dict[str, Any]) -> Any:
    """The same, open to what a file may also say: a kind by its bare word, ${NAME} for a number or a word."""
    if isinstance(node, list):
        return [_opened(item, defs) for item in node]
    if not isinstance(node, dict):
        return node
    node = {k: v for k, v in node.items() if k != "format" or not isinstance(v, str)}  # times have more than one
    told = {k: v for k, v in node.items() if k in ("title", "description", "default")}
    if _word(node):
        return {**told, "anyOf": [{k: v for k, v in node.items() if k not in told}, VARIABLE]}
    if "discriminator" in node:
        return {**told, "anyOf": _kinds(node, defs)}
    if forms := node.get("anyOf", node.get("oneOf")):
        opened = [{"type": "string"} if _text(f) else f if _word(f) else _opened(f, defs) for f in forms]
        variable = [VARIABLE] if any(map(_word, forms)) and not any(map(_text, forms)) else []
        return {**told, "anyOf": [f for i, f in enumerate(opened) if f not in opened[:i]] + variable}
    # the word of a kind stays as it is: editors tell by it which kind is meant
    return {k: v if k in ("kind", "propertyNames", "default") else _opened(v, defs) for k, v in node.items()}


def _kinds(node: dict[str, Any], defs: dict[str, Any]) -> list[Any]:
    """The forms of a kind: its bare word, its mappings, and a variable in place of the word."""
    refs = node["discriminator"]["mapping"]
    bare = [word for word, ref in refs.items() if defs[ref.removeprefix("#/$defs/")]["required"] == ["kind"]]
    by_variable = {"type": "object", "properties": {"kind": VARIABLE}, "required": ["kind"]}
    return [{"enum": bare}, *node["oneOf"], VARIABLE, by_variable]


def _word(form: dict[str, Any]) -> bool:
    """Whether this is a number, true or false, or one of a few words."""
    return form.get("type") in ("number", "integer", "boolean") or "enum" in form or "const" in form


def _text(form: dict[str, Any]) -> bool:
    """Whether this is any text."""
    return form.get("type") == "string" and not _word(form)
