"""The part of Go's text/template that `--format` is used for.

Fields (`.Manifest.Digest`), `index`, `json`, `len`, `print`, `println`, `printf` with %s %d %v %q, `eq`,
`ne`, `not`, `and`, `or`, pipes, parentheses, `if`/`else`, `range` (with `$key, $value :=`), `with`, variables
and trimming (`{{-`). Data are JSON values; a field name finds a key without regard to case and punctuation
(`.OSVersion`: `os.version`).
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn, Protocol, runtime_checkable

from anyarch.errors import UsageError

__all__ = ["Fields", "execute", "to_json"]

_TAG = re.compile(r"\{\{(-\s)?\s*(.*?)\s*(\s-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r'\s*(?:("(?:[^"\\]|\\.)*"|`[^`]*`)|(-?\d+)|(:=|[|(),=])|(\$\w*)|((?:\.\w+)+)|(\.)|(\w+))'
)
_FUNCTIONS = frozenset(
    [
        "json",
        "index",
        "len",
        "print",
        "println",
        "printf",
        "eq",
        "ne",
        "not",
        "and",
        "or",
        "lower",
        "upper",
        "join",
    ]
)


@runtime_checkable
class Fields(Protocol):
    """A value whose fields are made on demand."""

    def field(self, name: str) -> Any: ...

    def json(self) -> Any: ...


def execute(template: str, data: Any) -> str:
    """Raises `UsageError` on a template that cannot be parsed or does not fit `data`."""
    try:
        return _Template(template).run(data)
    except RecursionError:
        _fail("it is nested too deeply")


def to_json(value: Any) -> str:
    """As Go's MarshalIndent with two spaces: also `<`, `>` and `&` are escaped."""
    if isinstance(value, Fields):
        value = value.json()
    text = json.dumps(value, indent=2, ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


class _Template:
    def __init__(self, text: str) -> None:
        self._parts = _split(text)
        self._position = 0

    def run(self, data: Any) -> str:
        variables = {"$": data}
        nodes, end = self._block(())
        assert not end
        return "".join(_emit(nodes, data, variables))

    def _block(self, ends: tuple[str, ...]) -> tuple[list[Any], str]:
        """Nodes up to one of the keywords `ends`, and that keyword."""
        nodes: list[Any] = []
        while self._position < len(self._parts):
            kind, text = self._parts[self._position]
            self._position += 1
            if kind == "text":
                nodes.append(("text", text))
                continue
            tokens = _tokens(text)
            word = tokens[0][1] if tokens and tokens[0][0] == "word" else ""
            if word in ("end", "else"):
                if word not in ends:
                    _fail(f"unexpected {{{{{word}}}}}")
                if word == "else" and len(tokens) > 1:
                    # {{else if x}}: the rest is an if of its own, which shares our end.
                    self._parts.insert(self._position, ("tag", text.removeprefix("else").strip()))
                    return nodes, "else if"
                return nodes, word
            if word in ("if", "range", "with"):
                variables, pipeline = _declared(_Parser(tokens[1:]))
                body, end = self._block(("end", "else"))
                other: list[Any] = []
                if end == "else if":
                    other = self._one_if()
                elif end == "else":
                    other, _ = self._block(("end",))
                nodes.append((word, variables, pipeline, body, other))
            elif text.startswith("/*"):
                continue
            else:
                variables, pipeline = _declared(_Parser(tokens))
                nodes.append(("set", variables, pipeline) if variables else ("print", pipeline))
        if ends:
            _fail("{{end}} is missing")
        return nodes, ""

    def _one_if(self) -> list[Any]:
        _, text = self._parts[self._position]
        self._position += 1
        tokens = _tokens(text)
        variables, pipeline = _declared(_Parser(tokens[1:]))
        body, end = self._block(("end", "else"))
        other: list[Any] = []
        if end == "else if":
            other = self._one_if()
        elif end == "else":
            other, _ = self._block(("end",))
        return [("if", variables, pipeline, body, other)]


def _split(text: str) -> list[tuple[str, str]]:
    parts: list[tuple[str, str]] = []
    position = 0
    trim_next = False
    for match in _TAG.finditer(text):
        before = text[position : match.start()]
        if trim_next:
            before = before.lstrip()
        if match[1]:
            before = before.rstrip()
        parts += [("text", before), ("tag", match[2])]
        trim_next = bool(match[3])
        position = match.end()
    rest = text[position:]
    if "{{" in rest:
        _fail(f"unclosed action in {text!r}")
    parts.append(("text", rest.lstrip() if trim_next else rest))
    return parts


def _tokens(text: str) -> list[tuple[str, str]]:
    if text.startswith("/*"):
        return []
    tokens: list[tuple[str, str]] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            if text[position:].strip():
                _fail(f"{text[position:].strip()!r} is not understood")
            break
        kind = ("string", "number", "sign", "variable", "field", "dot", "word")[(match.lastindex or 1) - 1]
        # `.A` right behind a value is a field of it; with a space before it is an argument.
        is_behind = match.start(match.lastindex or 1) == position and bool(tokens)
        if kind == "field" and is_behind and (tokens[-1] == ("sign", ")") or tokens[-1][0] == "variable"):
            kind = "of"
        tokens.append((kind, match[match.lastindex or 1]))
        position = match.end()
    return tokens


def _declared(parser: _Parser) -> tuple[list[str], Any]:
    """`$a, $b := pipeline`, or just a pipeline."""
    names = [text for kind, text in parser.tokens if kind == "variable"]
    for count in (2, 1):
        head = parser.tokens[: 2 * count]
        is_declaration = len(head) == 2 * count and head[-1] in (("sign", ":="), ("sign", "="))
        if is_declaration and all(kind == "variable" for kind, _ in head[0:-1:2]):
            parser.position = 2 * count
            return names[:count], parser.pipeline(is_whole=True)
    return [], parser.pipeline(is_whole=True)


class _Parser:
    """Expressions: ("field", base, names), ("call", name, arguments), ("value", v), ("variable", name),
    ("dot",)."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens = tokens
        self.position = 0

    def _peek(self) -> tuple[str, str]:
        return self.tokens[self.position] if self.position < len(self.tokens) else ("", "")

    def pipeline(self, *, is_whole: bool = False) -> Any:
        result = self._command(None)
        while self._peek() == ("sign", "|"):
            self.position += 1
            result = self._command(result)
        if is_whole and self._peek() != ("", ""):
            _fail(f"unexpected {self._peek()[1]!r}")
        return result

    def _command(self, piped: Any) -> Any:
        kind, text = self._peek()
        if kind == "word" and text not in ("true", "false", "nil"):
            if text not in _FUNCTIONS:
                _fail(f"function {text!r} not defined")
            self.position += 1
            arguments = []
            while self._peek() != ("", "") and self._peek() not in (("sign", "|"), ("sign", ")")):
                arguments.append(self._operand())
            if piped is not None:
                arguments.append(piped)
            return ("call", text, arguments)
        if piped is not None:
            _fail(f"{text!r} is no function and cannot be piped to")
        return self._operand()

    def _operand(self) -> Any:
        kind, text = self._peek()
        self.position += 1
        result: Any
        match kind:
            case "string":
                result = ("value", _unquote(text))
            case "number":
                result = ("value", int(text))
            case "variable":
                result = ("variable", text)
            case "field":
                result = ("field", ("dot",), text[1:].split("."))
            case "dot":
                result = ("dot",)
            case "word" if text in ("true", "false", "nil"):
                result = ("value", {"true": True, "false": False, "nil": None}[text])
            case "word" if text in _FUNCTIONS:
                result = ("call", text, [])
            case "sign" if text == "(":
                result = self.pipeline()
                if self._peek() != ("sign", ")"):
                    _fail("unclosed parenthesis")
                self.position += 1
            case _:
                _fail(f"unexpected {text!r}" if text else "an expression is missing")
        while self._peek()[0] == "of":
            result = ("field", result, self._peek()[1][1:].split("."))
            self.position += 1
        return result


def _unquote(text: str) -> str:
    if text[0] == "`":
        return text[1:-1]
    try:
        result: str = json.loads(text, strict=False)
    except ValueError:
        _fail(f"{text} is no string")
    return result


def _emit(nodes: list[Any], dot: Any, variables: dict[str, Any]) -> list[str]:
    out: list[str] = []
    for node in nodes:
        match node:
            case ("text", text):
                out.append(text)
            case ("print", pipeline):
                out.append(_show(_value(pipeline, dot, variables)))
            case ("set", names, pipeline):
                variables[names[-1]] = _value(pipeline, dot, variables)
            case (word, names, pipeline, body, other):
                value = _value(pipeline, dot, variables)
                inner = dict(variables)
                if word == "range":
                    items = _items(value)
                    for key, item in items:
                        inner.update(zip(reversed(names), (item, key), strict=False))
                        out += _emit(body, item, inner)
                    if not items:
                        out += _emit(other, dot, inner)
                    continue
                for name in names:
                    inner[name] = value
                if _is_true(value):
                    out += _emit(body, value if word == "with" else dot, inner)
                else:
                    out += _emit(other, dot, inner)
    return out


def _items(value: Any) -> list[tuple[Any, Any]]:
    if value is None:
        return []
    if isinstance(value, dict):
        return sorted(value.items())
    if isinstance(value, list):
        return list(enumerate(value))
    _fail("range needs a list or a map")


def _is_true(value: Any) -> bool:
    return isinstance(value, Fields) or bool(value)


def _value(node: Any, dot: Any, variables: dict[str, Any]) -> Any:
    match node:
        case ("value", value):
            return value
        case ("dot",):
            return dot
        case ("variable", name):
            if name not in variables:
                _fail(f"undefined variable {name!r}")
            return variables[name]
        case ("field", base, names):
            value = _value(base, dot, variables)
            for name in names:
                value = _field(value, name)
            return value
        case ("call", name, arguments):
            return _call(name, [_value(argument, dot, variables) for argument in arguments])
    raise AssertionError(node)


def _field(value: Any, name: str) -> Any:
    if isinstance(value, Fields):
        try:
            return value.field(name)
        except KeyError:
            _fail(
                f"there is no field .{name}", hint="there are .Name, .Manifest, .Image, .Provenance and .SBOM"
            )
    if isinstance(value, dict):
        if name in value:
            return value[name]
        plain = name.lower()
        for key, found in value.items():
            if re.sub(r"[._-]", "", key).lower() == plain:
                return found
        return None
    if value is None:
        return None
    _fail(f"there is no field .{name} in a {_KINDS.get(type(value), 'value')}")


_KINDS = {str: "text", int: "number", list: "list", bool: "truth value", float: "number"}


def _call(name: str, values: list[Any]) -> Any:
    try:
        match name, values:
            case "json", [value]:
                return to_json(value)
            case "index", [value, *keys]:
                for key in keys:
                    value = _element(value, key)
                return value
            case "len", [value]:
                return len(value)
            case "print", _:
                return "".join(_show(value) for value in values)
            case "println", _:
                return " ".join(_show(value) for value in values) + "\n"
            case "printf", [str(form), *arguments]:
                return _printf(form, arguments)
            case "eq", [first, *others]:
                return any(first == other for other in others)
            case "ne", [first, second]:
                return first != second
            case "not", [value]:
                return not _is_true(value)
            case "and", [_, *_]:
                return next((value for value in values if not _is_true(value)), values[-1])
            case "or", [_, *_]:
                return next((value for value in values if _is_true(value)), values[-1])
            case "lower", [value]:
                return str(value).lower()
            case "upper", [value]:
                return str(value).upper()
            case "join", [list(value), str(separator)]:
                return separator.join(_show(item) for item in value)
    except (TypeError, ValueError):
        _fail(f"{name} cannot be used on these arguments")
    _fail(f"wrong number of arguments for {name}")


def _element(value: Any, key: Any) -> Any:
    if isinstance(value, dict):
        return value.get(key)
    if isinstance(value, list):
        if isinstance(key, int) and 0 <= key < len(value):
            return value[key]
        _fail(f"index out of range: {key}")
    if value is None:
        return None
    _fail("index needs a list or a map")


def _printf(form: str, arguments: list[Any]) -> str:
    left = list(arguments)

    def one(match: re.Match[str]) -> str:
        if match[2] == "%":
            return "%"
        if not left:
            return f"%!{match[2]}(MISSING)"
        value = left.pop(0)
        shown = json.dumps(value, ensure_ascii=False) if match[2] == "q" else _show(value)
        flags = match[1]
        width = int(flags.lstrip("-0") or 0) if flags else 0
        return shown.ljust(width) if flags.startswith("-") else shown.rjust(width)

    return re.sub(r"%(-?\d*)([%svdq])", one, form)


def _show(value: Any) -> str:
    """As Go prints a value with %v, near enough: lists `[a b]`, maps `map[k:v]`."""
    if isinstance(value, Fields):
        value = value.json()
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{' '.join(_show(item) for item in value)}]"
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{_show(item)}' for key, item in sorted(value.items()))}]"
    return str(value)


def _fail(message: str, *, hint: str | None = None) -> NoReturn:
    raise UsageError(
        f"--format: {message}", hint=hint or "for example '{{json .Manifest}}' or '{{.Manifest.Digest}}'"
    )
