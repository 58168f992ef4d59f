"""YAML in, a checked value out; every error says the line, the column, the entry, what is wrong, and the fix."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Generic, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from attention_core.errors import JobError, dotted, nearest, printable

M = TypeVar("M", bound=BaseModel)
At = tuple[str | int, ...]

MOST_NODES = 100_000  # a file that says more is no job, but a few aliases of aliases
MOST_DEEP = 100
MOST_ERRORS = 10
_TAG = "tag:yaml.org,2002:"
_VARIABLE = re.compile(r"\$\$(?=\$*\{)|\$\{([^}]*)\}|\$(?=\{)")
_STEP = re.compile(r"([^.\[\]]+)|\[(\d{1,9})\]")
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_WRONG_TYPE = ("_type", "_parsing", "_from_float", "is_instance_of", "literal_error", "none_required", "finite_number")


@dataclass
class Node:
    """A value of the file and where it stands: `value` is a mapping or a list of nodes, or plain data."""

    value: Any
    where: str
    keys: dict[str, str]

    def inside(self) -> dict[str | int, Node]:
        """What stands in it, by key or by number."""
        if isinstance(self.value, list):
            return dict(enumerate(self.value))
        return dict(self.value) if isinstance(self.value, dict) else {}

    def plain(self) -> Any:
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        return [node.plain() for node in self.value] if isinstance(self.value, list) else self.value


@dataclass(frozen=True)
class Loaded(Generic[M]):
    """A checked job file, which can still say where its entries stand."""

    value: M
    root: Node

    def where(self, at: At) -> str:
        """Where an entry stands: file, line and column."""
        return _where(self.root, at)

    def located(self, error: JobError) -> JobError:
        """The error with the line and column of its entry, or of what stands nearest above it."""
        if not error.at:
            return error
        where = _where(self.root, error.at)
        said = error.what if where == f"--set {dotted(error.at)}" else str(error)
        return JobError(f"{where}: {printable(said)}")


def load(path: Path, model: type[M], overrides: Sequence[str] = ()) -> Loaded[M]:
    """Reads a YAML 1.2 file, fills in ${NAME} from the environment, and checks it against a model.

    overrides: `dotted.path=value` each, the value in YAML; paths in them are relative to the working directory.

    Raises:
        JobError: one line for each thing that is wrong, ten at most.
    """
    root = _read(path)
    replaced = [_override(root, text) for text in overrides]
    folder = path.absolute().parent

    def base(entry: str) -> Path:
        mine = any(entry == r or entry.startswith((f"{r}.", f"{r}[")) for r in replaced)
        return Path.cwd() if mine else folder

    try:
        return Loaded(model.model_validate(root.plain(), context={"base": base}), root)
    except ValidationError as error:
        raise JobError("\n".join(_lines(error, model, root))) from None


def checked(given: Any, model: type[M], name: str) -> M:
    """Plain data checked against a model, with the same words as a file's; `name` stands where a file has its place.

    Raises:
        JobError: one line for each thing that is wrong.
    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise JobError("\n".join(_lines(error, model, _tree(given, name)))) from None


def _tree(given: Any, name: str) -> Node:
    if isinstance(given, dict):
        return Node({k: _tree(v, name) for k, v in given.items()}, name, dict.fromkeys(given, name))
    if isinstance(given, list | tuple):
        return Node([_tree(v, name) for v in given], name, {})
    return Node(given, name, {})


def _read(path: Path) -> Node:
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise JobError(f"{printable(str(path))}: not a job file: byte {error.start} is not UTF-8 text") from None
    except OSError as error:
        raise JobError(f"{printable(str(path))}: cannot be read: {error.strerror}") from None
    root = _parsed(text, printable(path.name))
    if not isinstance(root.value, dict):
        raise JobError(
            f"{root.where}: a job file holds `name:`, `source:`, `sink:` and `attention:`; this one does not"
        )
    return root


def _parsed(text: str, name: str) -> Node:
    try:
        yaml = YAML(typ="safe", pure=True)
        yaml.composer.warn_double_anchors = False  # YAML 1.2 lets an anchor be used again
        composed = yaml.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        said = ", ".join(part for part in (error.context, error.problem) if part)
        line = "".join(text.splitlines()[mark.line : mark.line + 1]) if mark else ""
        hint = '; inside {...} or [...], quote it: "${NAME}"' if "${" in line else ""
        if not hint and re.search(r"block (collection|mapping)|'\\t'", said):
            hint = (
                "; look at the indentation of this line and of those above: spaces, as many for each entry of a mapping"
            )
        raise JobError(f"{where}: not YAML: {printable(said)}{hint}") from None
    except ReaderError as error:
        before = text[: error.position]
        where = f"{name}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"
        raise JobError(f"{where}: not YAML: the character {text[error.position]!r} has no place in it") from None
    except RecursionError:
        raise JobError(f"{name}:1:1: nested more than {MOST_DEEP} deep") from None
    except Exception as error:  # what the parser did not foresee, as a character beyond Unicode
        raise JobError(f"{name}:1:1: not YAML: {printable(str(error))}") from None
    if composed is None:
        return Node(None, f"{name}:1:1", {})
    return _Reader(name, yaml).node(composed, ())


class _Reader:
    """Makes nodes of what YAML composed."""

    def __init__(self, name: str, yaml: YAML) -> None:
        self.name, self.yaml, self.seen = name, yaml, 0

    def node(self, composed: Any, above: tuple[int, ...]) -> Node:
        where = f"{self.name}:{composed.start_mark.line + 1}:{composed.start_mark.column + 1}"
        self.seen += 1
        if id(composed) in above:
            raise JobError(f"{where}: an alias stands inside what it repeats; write it out")
        if len(above) > MOST_DEEP:
            raise JobError(f"{where}: nested more than {MOST_DEEP} deep")
        if self.seen > MOST_NODES:
            raise JobError(f"{where}: more than {MOST_NODES:,} entries, with those that aliases repeat")
        within = (*above, id(composed))
        match composed:
            case MappingNode() if composed.tag == _TAG + "map":
                return self._mapping(composed, where, within)
            case SequenceNode() if composed.tag == _TAG + "seq":
                return Node([self.node(item, within) for item in composed.value], where, {})
            case ScalarNode():
                return Node(self._scalar(composed, where), where, {})
        raise self._meaningless(composed, where)

    def _mapping(self, composed: MappingNode, where: str, within: tuple[int, ...]) -> Node:
        found, keys = dict[str, Node](), dict[str, str]()
        for key, value in composed.value:
            at = f"{self.name}:{key.start_mark.line + 1}:{key.start_mark.column + 1}"
            if not isinstance(key, ScalarNode) or not key.value:
                raise JobError(f"{at}: a key must be a word")
            if key.value in found:
                raise JobError(f"{at}: {_short(key.value)} is here twice; the first is at {keys[key.value]}")
            keys[key.value] = at
            found[_text(key, at)] = self.node(value, within)
            if isinstance(value, ScalarNode) and value.start_mark.index == value.end_mark.index:
                found[key.value].where = at  # nothing is given, and the mark is that of whatever comes next
        return Node(found, where, keys)

    def _scalar(self, composed: ScalarNode, where: str) -> Any:
        tag = str(composed.tag).removeprefix(_TAG)
        if tag in ("str", "timestamp"):  # times are read by whoever wants one, with their zone
            return _filled(_text(composed, where), where)
        if tag in ("int", "float", "bool", "null"):
            try:
                return self.yaml.constructor.construct_object(composed)
            except (ValueError, ArithmeticError, LookupError):
                raise JobError(f"{where}: {_short(composed.value)} cannot be read as {tag}") from None
        raise self._meaningless(composed, where)

    def _meaningless(self, composed: Any, where: str) -> JobError:
        tag = printable(str(composed.tag).replace(_TAG, "!!"))
        return JobError(f"{where}: the tag {tag} has no meaning here; leave it out")


def _text(composed: ScalarNode, where: str) -> str:
    """What the scalar says, if files and columns can be called so."""
    text = str(composed.value)
    if odd := _NO_TEXT.search(text):
        raise JobError(f"{where}: {_short(text)} holds {odd[0]!r}, which is no character")
    return text


def _filled(text: str, where: str) -> str:
    """The text with ${NAME} from the environment; $${ stands for ${ itself."""

    def one(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        if found[1] is None:
            raise JobError(f"{where}: ${{ without an end; write ${{NAME}}, or $${{ for the text itself")
        if found[1] not in os.environ:
            fix = f"set it, as in `export {found[1]}=...`" if found[1].isidentifier() else "write ${NAME}"
            raise JobError(f"{where}: the environment variable {found[1]!r} is not set; {fix}")
        return os.environ[found[1]]

    return _VARIABLE.sub(one, text)


def _override(root: Node, text: str) -> str:
    """Puts `dotted.path=value` into the tree; returns the path."""
    entry, equals, value = text.partition("=")
    steps = [name or int(number) for name, number in _STEP.findall(entry)]
    if not equals or not steps or dotted(steps) != entry:
        raise JobError(f"--set {printable(text)}: write it as path=value, as in --set sink.path=out")
    node, where = root, f"--set {printable(entry)}"
    for step, ahead in zip(steps, [*steps[1:], None], strict=True):
        node = _put(node, step, _parsed(value, where) if ahead is None else None, where)
    return entry


def _put(node: Node, step: str | int, last: Node | None, where: str) -> Node:
    if isinstance(step, int):
        if not isinstance(node.value, list) or step >= len(node.value):
            raise JobError(f"{where}: the job file has no entry {step} there")
        if last is not None:
            node.value[step] = Node(last.value, where, last.keys)
        return node.value[step]  # type: ignore[no-any-return]
    if isinstance(node.value, str):  # a bare word is {kind: word}
        node.value, node.keys = {"kind": Node(node.value, node.where, {})}, {"kind": node.where}
    if isinstance(node.value, list):
        raise JobError(f"{where}: there is a list there; say which entry, as in [0].{printable(step)}")
    if not isinstance(node.value, dict):
        node.value, node.keys = {}, {}
    if last is not None or step not in node.value:
        node.value[step] = Node(last.value, where, last.keys) if last is not None else Node({}, where, {})
        node.keys[step] = where
    return node.value[step]  # type: ignore[no-any-return]


def _lines(error: ValidationError, model: type[BaseModel], root: Node) -> list[str]:
    """One line for each entry that is wrong, in the order of the file."""
    found: dict[At, list[Any]] = {}
    for one in error.errors():
        loc = (*one["loc"], *one.get("ctx", {}).get("at", ()))
        found.setdefault(_real(loc, root, one["type"]), []).append(one)
    told = {}
    for at, errors in found.items():
        below = any(len(d) > len(at) and d[: len(at)] == at for d in found)
        if below and all(_is_type(e) or e["type"] == "too_short" for e in errors):
            continue  # a form of the entry that was not meant, or a list that lost what is wrong in it
        unknown = errors[0]["type"] in ("extra_forbidden", "unknown_entry")
        where = _where(root, at, unknown)
        entry = f"{dotted(at)}: " if at and where != f"--set {dotted(at)}" else ""
        told[at] = f"{where}: {printable(entry + _said(errors, at, model))}"
    meant = {(*at[:-1], near) for at in told for near in re.findall(r"; did you mean '(\w+)'\?$", told[at])}
    told = {at: said for at, said in told.items() if not (at in meant and said.endswith("is missing"))}
    lines = [told[at] for at in sorted(told, key=lambda at: _order(root, at))]
    more = [f"and {len(lines) - MOST_ERRORS} more"] if len(lines) > MOST_ERRORS else []
    return lines[:MOST_ERRORS] + more


def _real(loc: Sequence[str | int], root: Node, kind: str) -> At:
    """A path of the file, from one that also names the forms that were tried."""
    node = root
    at: list[str | int] = []
    for i, step in enumerate(loc):
        if step in node.inside():
            node = node.inside()[step]
            at.append(step)
        elif kind == "missing" and i == len(loc) - 1:
            at.append(step)
    if kind.startswith("union_tag") and ("kind" in node.inside() or isinstance(node.value, str)):
        at.append("kind")  # which a bare word is
    return tuple(at)


def _order(root: Node, at: At) -> list[int]:
    """Sorts as the file does; what is missing goes before what is there."""
    node, order = root, list[int]()
    for step in at:
        inside = node.inside()
        if step not in inside:
            return [*order, -1]
        order.append(list(inside).index(step))
        node = inside[step]
    return order


_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}


def _is_type(error: Any) -> bool:
    return str(error["type"]).endswith(_WRONG_TYPE)


def _said(errors: list[Any], at: At, model: type[BaseModel]) -> str:
    """What is wrong with one entry, from what each form of it says."""
    first = next((e for e in errors if not _is_type(e)), errors[0])
    given, context = first["input"], first.get("ctx", {})
    match first["type"]:
        case "extra_forbidden":
            name = str(at[-1])
            near = nearest(name, _names(model, first["loc"][:-1]))
            return f"not known here{near if near.startswith('; did') else _home(name, model) + near}"
        case "missing":
            return "is missing"
        case "union_tag_invalid":
            what = str(at[-2] if at[-1] == "kind" else at[-1])
            known = [w.strip("' ") for w in context["expected_tags"].split(",")]
            word = _word(given["kind"])
            meant = _elsewhere(word, model, first["loc"][:-1]) or nearest(word, known)
            return f"{_short(given['kind'])} is not a {what}{meant}"
        case "union_tag_not_found":
            return "needs a kind, as in {kind: ...}"
        case "value_error":
            return str(context["error"])
        case "too_short" | "string_too_short" if context["min_length"] == 1:
            return "must not be empty"
        case "too_long":
            return f"holds {context['actual_length']} entries, and {context['max_length']} is the most"
        case bound if bound in _BOUNDS:
            word, name = _BOUNDS[bound]
            return f"{_short(given)} is not {word} {str(context[name]).removesuffix('.0')}"
        case _ if _is_type(first):
            return f"{_short(given)} is not {' or '.join(dict.fromkeys(w for e in errors for w in _wanted(e)))}" + (
                _advice(given, errors) or _as_mapping(given, errors, model)
            )
    return f"{first['msg'][0].lower()}{first['msg'][1:]}"


def _wanted(error: Any) -> list[str]:
    kind, context = str(error["type"]), error.get("ctx", {})
    if kind == "literal_error":
        return [w.strip("' ") for w in re.split(r",| or ", context["expected"])]
    words = {
        "string_type": "a text", "tuple_type": "a list", "model_type": "a mapping",
        "model_attributes_type": "a word or a mapping", "dict_type": "a mapping",
        "float_type": "a number", "float_parsing": "a number", "finite_number": "a finite number",
        "int_type": "a whole number",
        "int_parsing": "a whole number", "int_from_float": "a whole number", "bool_type": "true or false",
        "bool_parsing": "true or false", "datetime_type": "a timestamp", "datetime_parsing": "a timestamp",
        "date_type": "a date", "date_parsing": "a date", "path_type": "a path",
    }  # fmt: skip
    for start, word in words.items():
        if kind.startswith(start):
            return [word]
    return ["a timestamp"] if kind.startswith(("date", "datetime")) else [str(error["msg"])]


def _advice(given: Any, errors: list[Any]) -> str:
    words = [w for e in errors if e["type"] == "literal_error" for w in _wanted(e)]
    near = nearest(given, words) if isinstance(given, str) and words else ""
    if not near.startswith("; did"):
        near = ""
    quotes = isinstance(given, int | float) and any(e["type"] == "string_type" for e in errors)
    return "; put it in quotes" if quotes else near


def _as_mapping(given: Any, errors: list[Any], model: type[BaseModel]) -> str:
    """How the value is written where a list is wanted, or a mapping with a field that is likely meant."""
    if isinstance(given, str) and all(e["type"] == "tuple_type" for e in errors):
        return f"; write [{given}]"
    tried = [e["loc"] for e in errors if str(e["type"]).startswith("model_")]
    models = _models(model, tried[0]) if len(tried) == 1 else []
    if len(models) != 1 or isinstance(given, bool) or not isinstance(given, str | int | float | list):
        return ""
    fields = models[0].model_fields
    if isinstance(given, str) and given in fields:
        return f"; write {{{given}: ...}}"
    needed = [name for name, field in fields.items() if field.is_required()]
    name = (needed or list(fields))[0]
    forms = _forms(fields[name].annotation)
    if len(needed) != 1 and not (isinstance(given, int | float) and {int, float}.intersection(forms)):
        return ""
    items = ", ".join(map(str, given)) if isinstance(given, list) else str(given)
    lists = any(get_origin(form) is tuple for form in forms) and (str not in forms or isinstance(given, list))
    return f"; write {{{fields[name].alias or name}: {f'[{items}]' if lists else items}}}"


def _names(model: Any, loc: Sequence[str | int]) -> list[str]:
    """The fields of the model that stands at a path of pydantic's."""
    return [field.alias or name for m in _models(model, loc) for name, field in m.model_fields.items()]


def _home(name: str, model: type[BaseModel]) -> str:
    """Where an entry is known that is not where it stands: at the top, or right under that."""
    fields = {f.alias or n: f for n, f in model.model_fields.items()}
    found = ["at the top"] if name in fields else []
    for field, f in fields.items():
        lists = any(get_origin(form) is tuple for form in _forms(f.annotation))
        found += [f"under {field}[]" if lists else f"under {field}"] * (
            name in _names(model, [field, 0] if lists else [field])
        )
    return f", but {' or '.join(found)}" if found else ""


def _elsewhere(word: str, model: Any, loc: Sequence[str | int]) -> str:
    """The entry beside it that takes a word that is not known here, at a path of pydantic's."""
    beside = [(name, _forms(f.annotation)) for m in _models(model, loc) for name, f in m.model_fields.items()]
    found = [name for name, forms in beside if word in map(_kind, forms)]
    return f"; it is a {found[0]}, as in {found[0]}: {word}" if found else ""


def _models(model: Any, loc: Sequence[str | int]) -> list[type[BaseModel]]:
    """The models that may stand at a path of pydantic's."""
    forms = [model]
    for step in loc:
        forms = (
            [inner for form in forms for inner in _inside(form, step)]
            or [f for f in forms if _called(f, step)]
            or forms
        )
    return [f for f in forms if isinstance(f, type) and issubclass(f, BaseModel)]


def _inside(form: Any, step: str | int) -> list[Any]:
    """The forms that a field, an item or a value of this form can have."""
    if isinstance(form, type) and issubclass(form, BaseModel):
        fields = {f.alias or name: f for name, f in form.model_fields.items()}
        return _forms(fields[step].annotation) if step in fields else []
    arguments = get_args(form)
    origin = get_origin(form)
    if origin is dict:
        return _forms(arguments[1])
    return _forms(arguments[0]) if origin is tuple and isinstance(step, int) else []


def _forms(annotation: Any) -> list[Any]:
    if get_origin(annotation) in (Union, UnionType):
        return [form for argument in get_args(annotation) for form in _forms(argument)]
    if hasattr(annotation, "__metadata__"):
        return _forms(get_args(annotation)[0])
    return [annotation]


def _called(form: Any, step: str | int) -> bool:
    return isinstance(form, type) and issubclass(form, BaseModel) and step in (form.__name__, _kind(form))


def _kind(form: Any) -> Any:
    """The word of a kind; None of what is none."""
    kind = getattr(form, "model_fields", {}).get("kind")
    return None if kind is None else kind.default


def _where(root: Node, at: At, key: bool = False) -> str:
    """Line and column of an entry, of its key if asked; where it is not there, of what stands above it."""
    node, where = root, root.where
    for i, step in enumerate(at):
        inside = node.inside()
        if step not in inside:
            return where
        if key and i == len(at) - 1 and isinstance(step, str):
            return node.keys[step]
        node = inside[step]
        where = node.where
    return where


def _short(given: Any) -> str:
    match given:
        case None | bool():
            text = {None: "null", True: "true", False: "false"}[given]
        case _:
            text = repr(given)
    return text if len(text) <= 60 else text[:57] + "..."


def _word(given: Any) -> str:
    """A word as it was given; nothing is like what is none."""
    return given if isinstance(given, str) else ""
