"""Job files that are broken at random."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from flows import cli

WHOLE = (
    """\
name: flights
source:
  path: in
  hive: auto
  where: "p >= 0"
sink:
  path: out
  columns: {except: [t]}
  compression: zstd
  gone: refuse
attention:
  - name: late
    key: x
    value: [x, y]
    score: {kind: threshold, above: 0.5}
    weight: {kind: step, high: 2.0, low: 1.0}
  - name: recent
    key: t
    value: y
    score: {kind: recency, unit: days, now: latest}
    weight: {kind: exponential, half_life: 30}
    rename: {weighted: "{value}_recent"}
  - key: y
    over: {group: [g]}
    score: zscore
    weight: {kind: softmax, temperature: 0.5}
    mask: "x < 1 AND g IS NOT NULL"
    fit: "h <= 2"
    missing: propagate
    keep: {top_p: 0.9}
    clip: [0.0, 0.2]
    apply: weights
    rename: {weight: standing}
  - name: sample
    score: {kind: expression, sql: "late_x_weight * COALESCE(recent_weight, 0)"}
    scale: {mean: 1.0}
    apply: weights
expect:
  source: {batches: {min: 1}, rows: {min: 3}}
  recent: {null_fraction: {max: 0.9}, mean: {min: -1e9, max: 1.6}}
statistics: fresh
chunk_rows: auto
workers: 2
device: cpu
""",
    """\
# every sort of entry
name: more
source: {path: ["in/*/*.parquet"], drift: fill, hive: true}
sink: {path: out, columns: none, work: elsewhere/w}
attention:
  - {name: a, key: {match: "^[xy]$", type: float, except: [z]}, weight: sigmoid, apply: weights}
  - {name: near, key: [x, y], score: {kind: cosine, query: [1, 2], standardise: true}, weight: linear, apply: weights}
  - {name: rare, key: g, score: {kind: rarity, form: effective, beta: 0.99}, weight: proportional, apply: weights}
  - {name: top, key: x, score: {kind: top_k, k: 3}, weight: identity, keep: {top_k: 2}, apply: weights}
  - {name: q, key: x, score: {kind: quantile, q: 0.9, side: below}, scale: {sum_at_most: 3}, apply: weights}
  - {name: r, key: [x, y], over: row, weight: {kind: entmax, alpha: 1.5}, apply: weights}
  - {name: b, key: x, over: batch, score: robust_zscore, weight: {kind: huber, at: 1.3}, missing: 0.5, apply: none}
  - {name: pooled, key: x, value: y, over: {group: [g, h]}, weight: softmax, apply: {pool: mean}}
""",
    "{name: small, source: {path: in}, sink: {path: out}, attention: [{key: x, score: zscore, weight: softmax}]}\n",
)
SQL = (
    "SELECT 1", "(SELECT max(x) FROM t)", "read_parquet('in/p=0/a.parquet')", "x > (SELECT 1)", "EXISTS (SELECT 1)",
    "x; DROP TABLE t", "x OVER ()", "SUM(x) OVER (PARTITION BY g)", "CURRENT_DATE", "NOW()", "x IN (SELECT x FROM t)",
    "read_csv('/etc/passwd')", "COLUMNS('.*')", "*", "x.*", "(((((x)))))", "CASE WHEN x THEN", "x::STRUCT<a INT>", "''",
    "CAST(x AS VARCHAR)", "x LIKE '%" + "a" * 999 + "'", "x + " * 400 + "1", "(" * 200 + "x" + ")" * 200, "-" * 3000,
    "1/0", "x > 'a'", "POW(x, 1e308)", "REPEAT('a', 1000000000)", "LPAD(g, 1000000000, 'x')", "GETENV('HOME')",
    "g ~ '(a+)+$'", "x = ANY(ARRAY[1,2])", "ARRAY[x, y]", "STRUCT(x)", "INTERVAL '1 day'",
    "t + INTERVAL '9999999 years'",
    "DATE(g)", "\x1b[31mx", "NOT", "NULL", "TRUE", "x /* ", "x -- ", "x" * 100_000, "ж > 1", '"x" > 1', "`x`", "$1",
    "?",
)  # fmt: skip
ODD = (
    "", "~", "null", "true", "no", ".inf", "-.inf", ".nan", "1e999", "-0.0", "0x1F", "0o17", "1_000", "9" * 400,
    "-" + "9" * 30, "1e-999", "2001-01-01", "2001-02-30T25:61:61Z", "12:30:45", "[]", "{}", "[[]]", "[[[[[[]]]]]]",
    "{a: }",
    "{? [a] : b}", "!!binary aGVsbG8=", "!!python/object/apply:os.system ['touch pwned']", "!!python/name:os.system",
    "!!set {a, b}", "!!omap [a: 1]", "!!str", "!local x", "!<tag:yaml.org,2002:int> 7", "!!int abc", "!!float [1]",
    "&a [*a]", "*nobody", "&a {k: &a 1}", "{<<: *x}", "{<<: {name: b}}", "| \n   text", "'\\0'", '"\\0"', '"\\ud800"',
    '"\\U0010FFFF"', '"\\e[31mred"', '"\\a\\b\\r"', '"\u202egnp"', "\u2028", "\ufeff", "\x85", "\x7f", '"\\x9b31m"',
    "../../../../etc/passwd", "/etc/passwd", "in/../in", "in\\p", "'~root'", "/dev/null", "/proc/self/environ",
    "s3://bucket/x", "file:///etc/passwd", "http://127.0.0.1:1/x.parquet", "'{}'", '"{value.__class__}"', '"{0}"',
    '"{value!r:>99999999}"', "${HOME}", "${NO_SUCH}", "${", "$${x}", "${${HOME}}", "'%s%n'", '"a\\tb"', "'*'", "'^x$'",
    "'^(x+x+)+y$'", "'('", "x" * 300, "'" + "x" * 100_000 + "'", "on", "'..'", "'.'", "'/'", "a/b", "'a\\nb'", "cuda",
    "cuda:99",
    "1000000000000", "-1", "0", "1e308", "5e-324", "0.1", "1.5", "'source'", "x", "y", "g", "h", "t", "p", "_weight",
)  # fmt: skip
KEYS = (
    "name", "key", "value", "over", "score", "weight", "mask", "fit", "missing", "keep", "clip", "scale", "apply",
    "rename",
    "kind", "path", "source", "sink", "attention", "columns", "work", "group", "match", "except", "from", "expect",
    "sql",
    "__class__", "model_config", "", "on", "<<", "0", "a.b", "a[0]", "\x1b[2J", "source ", "Name", "k" * 5000,
)  # fmt: skip
BYTES = (
    b"\0", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x1b[31m", b"\xe2\x80\xae",
    b"\xe2\x80\xa8", b"\xc2\x85", b"\r", b"\t", b"\n---\n", b"\n...\n", b"%YAML 9.9\n---\n", b"%TAG ! x\n", b": ",
    b"- ",
    b"? ", b"&a ", b"*a", b"!", b"!!", b"|", b">", b"'", b'"', b"{", b"}", b"[", b"]", b",", b"#", b"@", b"`", b"\\",
    b"$", b"${",
)  # fmt: skip


def made(dice: random.Random, folder: Path) -> tuple[Callable[[], Any], bool]:
    """Writes a job file; gives what is to be done with it, and whether that may write to the sink: never."""
    text = dice.choice(WHOLE)
    path = folder / "job.yaml"
    path.write_bytes(dice.choice(WAYS)(dice, text))
    command = dice.choice(["check", "plan", "preview", "preview"])
    sets = [f"--set={override(dice)}"] if dice.random() < 0.1 else []
    if command == "plan":
        sets += dice.choice([[], ["--json"], ["--all"]])
    if command == "preview" and dice.random() < 0.3:
        sets.append("--rows=3")
    return lambda: cli.app([command, str(path), *sets], exit_on_error=False, print_error=False), False


def override(dice: random.Random) -> str:
    steps = dice.choices([*KEYS, "[0]", "[1]", "[99]", "[-1]", "["], k=dice.randrange(1, 5))
    path = dice.choice(["sink.path", "attention[0].key", "attention[0].score.kind", ".".join(steps), "source.path"])
    return path + dice.choice(["=", "=", "=", ""]) + dice.choice(ODD)


def in_bytes(dice: random.Random, text: str) -> bytes:
    """Bytes flipped, put in, taken out and doubled."""
    raw = bytearray(text.encode())
    for _ in range(dice.choice([1, 1, 2, 3, 10, 100])):
        if not raw:
            break
        i, j = sorted((dice.randrange(len(raw) + 1), dice.randrange(len(raw) + 1)))
        i = max(i, j - dice.choice([1, 3, 30]))
        match dice.randrange(5):
            case 0:
                raw[i % len(raw)] ^= 1 << dice.randrange(8)
            case 1:
                raw[i:i] = dice.choice(BYTES)
            case 2:
                del raw[i:j]
            case 3:
                raw[i:i] = raw[i:j]
            case _:
                raw[i:j] = bytes(dice.randrange(256) for _ in range(dice.randrange(4)))
    return bytes(raw)


def in_tokens(dice: random.Random, text: str) -> bytes:
    """Words of the file replaced by odd ones."""
    lines = text.splitlines(keepends=True)
    for _ in range(dice.choice([1, 1, 1, 2, 4])):
        i = dice.randrange(len(lines))
        before, colon, after = lines[i].partition(": ")
        if colon and dice.random() < 0.7:
            lines[i] = f"{before}: {dice.choice(ODD)}\n" if dice.random() < 0.5 else _instead(dice, lines[i])
        else:
            match dice.randrange(4):
                case 0:
                    lines.insert(dice.randrange(len(lines)), lines[i])
                case 1:
                    del lines[i]
                case 2:
                    lines[i] = " " * dice.randrange(9) + lines[i].lstrip()
                case _:
                    lines[i] = _instead(dice, lines[i])
        if not lines:
            break
    return "".join(lines).encode(errors="surrogatepass")


def _instead(dice: random.Random, line: str) -> str:
    words = line.split(" ")
    words[dice.randrange(len(words))] = dice.choice([*ODD, *KEYS])
    return " ".join(words) + ("" if line.endswith("\n") and words[-1].endswith("\n") else "\n")


def in_tree(dice: random.Random, text: str) -> bytes:
    """Entries of the tree taken out, renamed, put elsewhere, and given values of other types."""
    tree = YAML(typ="safe", pure=True).load(text)
    for _ in range(dice.choice([1, 1, 2, 3, 6])):
        places = list(_places(tree))
        holder, key = dice.choice(places)
        match dice.randrange(7):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[dice.choice(KEYS)] = holder.pop(key)
            case 2:
                other, there = dice.choice(places)
                holder[key] = copy.deepcopy(other[there]) if _has(other, there) else None
            case 3:
                holder[key] = [holder[key]] * dice.choice([0, 1, 2, 50])
            case 4:
                holder[key] = _value(dice)
            case 5 if isinstance(holder, dict):
                holder[dice.choice(KEYS)] = _value(dice)
            case _:
                holder[key] = str(holder[key]) + dice.choice(["", " ", "\0", "x", "\x1b[0m", "é", "\n"])
        if not list(_places(tree)):
            break
    return json.dumps(tree, indent=1, ensure_ascii=dice.random() < 0.7).encode(errors="surrogatepass")


def _places(node: Any) -> Any:
    for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield node, key
        yield from _places(node[key])


def _has(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def _value(dice: random.Random) -> Any:
    return dice.choice(
        [None, True, False, 0, -1, 1, 2, 3, 1e308, -1e308, 5e-324, 0.0, 0.5, 10**18, 10**40, -(10**400), "", "x", "y",
        [], {}, "g",
         "latest", "zscore", "softmax", [1, 2], ["x"], ["x", "y"], [[]], {"kind": "softmax"}, {"column": "x"},
         {"a": {"a": {}}},
         {"table": "job.yaml", "match": ["g"], "column": "x"}, {"table": "in/p=0/a.parquet", "match": ["g"],
         "column": "x"},
         {"kind": "additive", "query": [1], "parameters": "in/p=0/a.parquet"}, {"match": ".*"}, {"min": 0},
         {"from": "out"},
         dice.choice(SQL), dice.choice(SQL), dice.choice(ODD), float("inf"), float("nan")]
    )  # fmt: skip


def in_sql(dice: random.Random, text: str) -> bytes:
    """Expressions that are none, or want more than their row."""
    words = ["x", "y", "g", "h", "t", "(", ")", "+", "*", ">", "AND", "OR", "NOT", "IN", "SELECT", "FROM", "CASE",
    "WHEN", "END",
             "1", "'a'", ",", "SUM", "MAX", "OVER", "BETWEEN", "IS", "NULL", "CAST", "AS", "::", "INT", "[", "]", "||",
             "->", "^@"]  # fmt: skip
    sql = dice.choice(SQL) if dice.random() < 0.6 else " ".join(dice.choices(words, k=dice.randrange(1, 12)))
    tree = YAML(typ="safe", pure=True).load(text)
    match dice.randrange(4):
        case 0:
            tree["source"]["where"] = sql
        case 1:
            tree["attention"].append({"name": "sql", "score": {"kind": "expression", "sql": sql}, "apply": "weights"})
        case _:
            dice.choice(tree["attention"])[dice.choice(["mask", "fit"])] = sql
    return json.dumps(tree).encode()


def bombs(dice: random.Random, text: str) -> bytes:
    """What grows as it is read: nesting, aliases of aliases, long words."""
    deep = dice.choice([50, 150, 1000, 20_000])
    match dice.randrange(8):
        case 0:
            return ("[" * deep + "]" * dice.choice([0, deep])).encode()
        case 1:
            return text.encode() + b"x: " + b"{a: " * deep + b"1" + b"}" * deep
        case 2:
            laughs = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
            laughs += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, dice.choice([3, 9, 40]))]
            return "\n".join([*laughs, text]).encode()
        case 3:
            return b"a: &a {b: *a}\n" + text.encode()
        case 4:
            return text.replace("x", "x" * dice.choice([1000, 100_000]), 3).encode()
        case 5:
            return "".join(f"{'  ' * i}k:\n" for i in range(min(deep, 1500))).encode()
        case 6:
            return b"- " * min(deep, 5000) + b"x"
        case _:
            rules = ", ".join(f"{{name: r{i}, key: x, apply: weights}}" for i in range(dice.choice([50, 300])))
            return f"name: n\nsource: {{path: in}}\nsink: {{path: out}}\nattention: [{rules}]\n".encode()


WAYS: tuple[Callable[[random.Random, str], bytes], ...] = (
    in_bytes, in_bytes, in_tokens, in_tokens, in_tree, in_tree, in_tree, in_sql, bombs,
)  # fmt: skip
