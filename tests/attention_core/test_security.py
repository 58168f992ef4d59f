"""What a file, a folder's name or a job file says is data: it reads and runs nothing, and no terminal obeys it."""

import io
import os
import stat
from contextlib import redirect_stdout

import polars as pl
import pytest
from test_run import DOUBLE, SOFTMAX, Folder, frame

from attention_core.errors import DataError, FarolError, JobError
from attention_core.run import opened
from attention_core.sql import row_expression
from flows import cli

ODD = "\x1b[31mred\x9b2J\u202e"  # colours, clears the screen, turns the direction of reading
POOL = {"name": "pool", "key": "x", "over": {"group": ["g"]}, "weight": "sigmoid", "apply": "pool"}


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def farol(*tokens):
    """What the command line prints, or says is wrong."""
    out = io.StringIO()
    try:
        with redirect_stdout(out):
            cli.app([str(t) for t in tokens], exit_on_error=False, print_error=False)
    except SystemExit:
        pass
    except FarolError as error:
        return f"{out.getvalue()}{error}"
    return out.getvalue()


def printable(text):
    return all(c.isprintable() or c == "\n" for c in text)


# The job file


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.mkdir [pwned]",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!python/object/new:os.mkdir [pwned]",
        "!!binary cHduZWQ=",
        "!local x",
    ],
)
def test_no_tag_of_a_job_file_makes_anything(folder, monkeypatch, value):
    monkeypatch.chdir(folder.path)
    folder.job().put("a.parquet", [1, 6])
    for entry in (f"name: {value}", f"name: job\nmore: {value}"):
        (folder.path / "job.yaml").write_text(f"{entry}\nsource: {{path: in}}\nsink: {{path: out}}\n")
        with pytest.raises(JobError, match="has no meaning here"):
            opened(folder.path / "job.yaml")
    assert not (folder.path / "pwned").exists()


@pytest.mark.parametrize("name", ["../evil", "a/b", "..", ".", "/tmp/evil", "a\nb", ODD, "n" * 300])
def test_no_name_of_a_rule_leads_out_of_the_folder_of_tables(folder, name):
    folder.job({**POOL, "name": name, "over": "dataset"}).put("a.parquet", [1.0])
    with pytest.raises(JobError, match="cannot be the name of a file"):
        folder.run()
    assert [p.name for p in folder.path.rglob("*.parquet")] == ["a.parquet"]


@pytest.mark.parametrize("rename", ["{value.__class__}", "{0}", "{value!r}", "{value:>9}", "{key[0]}"])
def test_a_new_name_looks_into_no_object(folder, rename):
    folder.job({**DOUBLE, "rename": {"weighted": rename}}).put("a.parquet", [1.0])
    with pytest.raises(JobError, match="may stand in braces"):
        opened(folder.path / "job.yaml")


# Expressions

BEYOND = [
    "read_csv('{}')", "read_parquet('{}')", "scan_parquet('{}')", "getenv('HOME')", "version()", "(SELECT 1)",
    "x IN (SELECT 1)",
    "EXISTS (SELECT 1)", "x; SELECT 1", "(TABLE x)", "COLUMNS('.*')", "(FROM read_csv('{}'))", "(SELECT * FROM '{}')",
    "NOW()",
]  # fmt: skip
TABLES = [f"(SELECT * FROM read_{kind}('{{}}'))" for kind in ("csv", "parquet", "ipc", "json")]


@pytest.mark.parametrize("sql", BEYOND + TABLES)
def test_an_expression_that_wants_more_than_its_row_is_refused(tmp_path, sql):
    (tmp_path / "a.csv").write_text("x\n1\n")
    with pytest.raises(ValueError, match="beyond its row|is not a Polars SQL|not of the row"):
        row_expression(sql.format(tmp_path / "a.csv"))


@pytest.mark.parametrize("sql", TABLES)
def test_it_is_refused_before_it_opens_a_file(tmp_path, sql):
    with pytest.raises(ValueError) as error:
        row_expression(sql.format(tmp_path / "nowhere"))
    assert "No such file" not in str(error.value)


@pytest.mark.parametrize("sql", ["s = '--' OR t < NOW()", "s = '/*' OR t < NOW() OR s = '*/'"])
def test_marks_of_comments_in_a_text_hide_no_clock(sql):
    with pytest.raises(ValueError, match="not of the row"):
        row_expression(sql)


# Names of files and folders


@pytest.mark.parametrize(
    "name", ["..=x", "a=..", "a=%2e%2e%2f%2e%2e%2fx", "..%2f=1", "=x", "a=", "a=%00", "a=%ff", "x=1", "*=1", "farol=1"]
)
def test_what_a_folder_says_leads_nowhere(folder, name):
    folder.job().put(f"{name}/a.parquet", [1, 6])
    folder.run()
    assert list(folder.held()) == [f"{name}/a.parquet"] and folder.run().plan.nothing
    assert {p.name for p in folder.path.iterdir()} == {"in", "out", "out.farol", "job.yaml"}


def test_names_of_columns_name_no_files(folder):
    rule = {"key": "../../x", "score": "zscore", "weight": "softmax"}
    folder.job(rule).put("a.parquet", pl.DataFrame({"../../x": [1.0, 2.0]}))
    folder.run()
    (published,) = (folder.path / "out.farol/statistics").iterdir()
    assert sorted(p.name for p in published.iterdir()) == ["00-..%2F..%2Fx_weight.parquet", "statistics.json"]
    assert {p.name for p in folder.path.iterdir()} == {"in", "out", "out.farol", "job.yaml"}


@pytest.mark.parametrize("path", ["in", "in/**/*.parquet"])
def test_links_to_folders_are_not_followed_and_one_to_a_file_is_refused(folder, path):
    folder.job(source={"path": path}).put("a.parquet", [1, 6])
    folder.put("../elsewhere/b.parquet", [2])
    (folder.path / "in/folder").symlink_to(folder.path / "elsewhere")
    (folder.path / "in/loop").symlink_to(folder.path / "in")
    (folder.path / "in/nowhere.parquet").symlink_to(folder.path / "nowhere.parquet")
    folder.run()
    assert sorted(folder.held()) == ["a.parquet"]
    (folder.path / "in/b.parquet").symlink_to(folder.path / "elsewhere/b.parquet")
    with pytest.raises(JobError, match=r"in/b.parquet is a link to .*elsewhere/b.parquet; put the file itself there"):
        folder.run()
    folder.run(f"source.path={folder.path}/in/b.parquet", f"sink.path={folder.path}/named")  # who names it, means it
    assert folder.rows("b.parquet", "named")["x"].to_list() == [2]


def test_the_source_itself_may_be_a_link(folder):
    folder.job(source={"path": "current"}).put("d/a.parquet", [1, 6])
    (folder.path / "current").symlink_to(folder.path / "in")
    folder.run()
    assert sorted(folder.held()) == ["d/a.parquet"]


def test_what_is_no_file_is_passed_over(folder):
    folder.job().put("a.parquet", [1, 6])
    os.mkfifo(folder.path / "in/pipe.parquet")
    (folder.path / "in/endless.parquet").symlink_to("/dev/zero")  # which is no file either
    (folder.path / "in/folder.parquet").mkdir()
    folder.run()
    assert sorted(folder.held()) == ["a.parquet"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into any folder")
def test_a_folder_that_cannot_be_looked_into_is_an_error(folder):
    folder.job(sink={"gone": "remove"}).put("a.parquet", [1, 6])
    closed = folder.put("d/b.parquet", [2]).parent
    folder.run()
    closed.chmod(0)
    try:
        with pytest.raises(FarolError):
            folder.run()
    finally:
        closed.chmod(0o700)
    assert len(folder.held()) == 2


def test_what_an_output_is_a_link_to_is_not_written(folder):
    folder.job().put("a.parquet", [1, 6])
    folder.put("../mine.parquet", [3])
    (folder.path / "out").mkdir()
    (folder.path / "out/a.parquet").symlink_to(folder.path / "mine.parquet")
    with pytest.raises(JobError, match="was not written by Farol"):
        folder.run()
    assert pl.read_parquet(folder.path / "mine.parquet")["x"].to_list() == [3]


# The terminal


@pytest.mark.parametrize("command", ["check", "plan", "preview"])
def test_no_name_of_a_column_steers_the_terminal(folder, command):
    folder.job({**SOFTMAX, "key": ODD, "name": ODD}).put("a.parquet", pl.DataFrame({ODD: [1.0, 6.0]}))
    assert printable(farol(command, folder.path / "job.yaml"))


def test_no_text_in_the_data_does(folder):
    rule = {"name": "rare", "key": "s", "score": "rarity", "apply": "weights"}
    folder.job(rule).put("a.parquet", pl.DataFrame({"s": [ODD, "a\r\x07\x08b"]}))
    assert printable(farol("preview", folder.path / "job.yaml"))


@pytest.mark.parametrize("name", [f"{ODD}.parquet", f"p={ODD}/a.parquet", "a\nb.parquet"])
def test_no_name_of_a_file_does(folder, name):
    path = folder.job().put(name, [1, 6])
    folder.put("p=1/b.parquet" if "/" in name else "b.parquet", [1])
    assert printable(farol("plan", folder.path / "job.yaml"))
    folder.run()
    whole = path.read_bytes()
    path.write_bytes(b"PAR1")
    said = farol("plan", folder.path / "job.yaml")
    assert printable(said) and "\n" not in said
    path.write_bytes(whole)
    path.unlink()
    with pytest.raises(JobError) as error:
        folder.run()
    assert printable(str(error.value))


def test_what_the_plan_says_to_programs_is_printable(folder):
    folder.job().put(f"{ODD}.parquet", [1, 6])
    said = farol("plan", folder.path / "job.yaml", "--json")
    assert "\x1b" not in said and "\\u001b" in said


# What is written


@pytest.mark.parametrize("mask", [0o077, 0o027, 0o022, 0o002])
def test_files_and_folders_follow_the_umask(folder, mask):
    folder.job(SOFTMAX, POOL, workers=1)
    folder.put("d/a.parquet", frame(30))
    given = {p for p in folder.path.rglob("*")}
    before = os.umask(mask)
    try:
        folder.run()
    finally:
        os.umask(before)
    made = [p for p in folder.path.rglob("*") if p not in given]
    modes = {p.relative_to(folder.path).as_posix(): stat.S_IMODE(p.stat().st_mode) for p in made}
    assert len(made) > 9
    assert modes == {n: (0o777 if (folder.path / n).is_dir() else 0o666) & ~mask for n in modes}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_sink_that_is_read_only_is_a_clear_error(folder):
    folder.job().put("a.parquet", [1, 6])
    (folder.path / "out").mkdir(mode=0o555)
    with pytest.raises(DataError, match="cannot be written to; change its permissions or sink.path"):
        folder.run()
