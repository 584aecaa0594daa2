"""Every query has a name and a description, and is used."""

import re
from importlib import resources
from pathlib import Path

import pytest

import metering
from metering.store.sql import load_queries

SERVICE = Path(str(resources.files(metering)))
SQL = SERVICE / "store" / "sql"
QUERIES = load_queries()
PYTHON = "\n".join(file.read_text(encoding="utf-8") for file in SERVICE.rglob("*.py"))


def test_every_header_in_the_files_is_a_query() -> None:
    headers = [
        line.strip("- ")
        for file in sorted(SQL.glob("*.sql"))
        for line in file.read_text(encoding="utf-8").splitlines()
        if re.fullmatch(r"--.*--\s*", line)
    ]
    assert sorted(headers) == sorted(QUERIES)


def test_nothing_stands_before_the_first_query_of_a_file() -> None:
    for file in SQL.glob("*.sql"):
        assert file.read_text(encoding="utf-8").startswith("-- "), file.name
        assert re.match(r"-- [a-z_]+ --\n", file.read_text(encoding="utf-8")), file.name


@pytest.mark.parametrize("name", QUERIES)
def test_every_query_is_described_and_is_one_statement(name: str) -> None:
    first, *_ = QUERIES[name].splitlines()
    assert re.fullmatch(r"-- [A-Z$].{10,}", first), "a query begins with a sentence that says what it does"
    code = re.sub(r"--.*|'[^']*'", "", QUERIES[name])
    assert code.strip(), "nothing but a comment"
    assert ";" not in code


@pytest.mark.parametrize("name", QUERIES)
def test_the_parameters_of_a_query_are_numbered_without_a_gap(name: str) -> None:
    numbers = {int(number) for number in re.findall(r"\$(\d+)", re.sub(r"--.*", "", QUERIES[name]))}
    assert numbers == set(range(1, len(numbers) + 1))


@pytest.mark.parametrize("name", QUERIES)
def test_every_query_is_used(name: str) -> None:
    assert f'"{name}"' in PYTHON


def test_every_query_that_is_asked_for_by_name_is_there() -> None:
    asked_for = re.findall(r'(?:sql\[|\.fetch\(|\.fetchrow\()\s*"([a-z_]+)"', PYTHON)
    assert len(asked_for) > 20
    assert set(asked_for) <= set(QUERIES)


def test_the_queries_cannot_be_changed() -> None:
    queries = load_queries()
    with pytest.raises(TypeError):
        queries["fold"] = "DROP TABLE calls"  # type: ignore[index]


def write(directory: Path, **files: str) -> None:
    for name, text in files.items():
        (directory / f"{name}.sql").write_text(text, encoding="utf-8")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory that queries are read from."""
    monkeypatch.setattr(resources, "files", lambda _: tmp_path)
    return tmp_path


def test_a_query_reaches_to_the_next_header_or_the_end_of_its_file(files: Path) -> None:
    write(
        files,
        a="-- one --\n-- Says one.\nSELECT 1;\n\n-- two --\n-- Says two.\nSELECT\n    2;\n",
        b="-- b --\nSELECT 3",
    )
    (files / "notes.txt").write_text("-- no_query --\nSELECT 4", encoding="utf-8")
    assert load_queries() == {
        "one": "-- Says one.\nSELECT 1",
        "two": "-- Says two.\nSELECT\n    2",
        "b": "SELECT 3",
    }


@pytest.mark.parametrize("other", ["a", "b"])
def test_two_queries_of_one_name_are_refused_even_in_different_files(files: Path, other: str) -> None:
    once = "-- one --\nSELECT 1;\n"
    write(files, **({"a": once + once} if other == "a" else {"a": once, "b": once}))
    with pytest.raises(ValueError, match=rf"{other}\.sql: a query named one stands twice"):
        load_queries()
