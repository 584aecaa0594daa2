"""The SQL of the service: every query has a name and stands in a .sql file beside this one."""

import re
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType

_QUERY = re.compile(r"^-- (?P<name>[a-z_]+) --\n(?P<text>.*?)(?=^-- [a-z_]+ --\n|\Z)", re.MULTILINE | re.DOTALL)


def load_queries() -> Mapping[str, str]:
    """Return the text of each query by its name, which is unique over all files.

    A query begins with a line `-- its_name --`, a comment that says what it does follows, then the SQL.
    """
    queries: dict[str, str] = {}
    for file in sorted(resources.files(__name__).iterdir(), key=lambda file: file.name):
        if file.name.endswith(".sql"):
            for match in _QUERY.finditer(file.read_text(encoding="utf-8")):
                if match["name"] in queries:
                    msg = f"{file.name}: a query named {match['name']} stands twice"
                    raise ValueError(msg)
                queries[match["name"]] = match["text"].strip().rstrip(";")
    return MappingProxyType(queries)
