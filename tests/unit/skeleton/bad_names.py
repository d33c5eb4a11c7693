"""Names that no service can have, one for each way in which a name can be wrong."""

from __future__ import annotations

BAD_NAMES = (
    *("", " ", "-", ".", "..", "../evil", "/etc/passwd", "a/b", "a\\b", "~root"),
    *("Hello", "hello world", "hello_world", "hello-", "-hello", "he--llo", "2fast", "hello.api", "hello\n", "x" * 41),
    *("{{ cookiecutter }}", "[[ 7*7 ]]", "{% raw %}", "${HOME}", "$(id)", "`id`", "a;b", "a'b", 'a"b', "a\x00b"),
    *(
        "café",
        "\uff48ello",
        "привет",
        "class",
        "match",
        "async",
        "json",
        "email",
        "test",
        "list",
        "print",
        "con",
        "lpt1",
    ),
    *("flask", "redis", "sqlalchemy", "prometheus-client", "smartservice", "healthcheck", "tests", "migrations"),
    *("localhost", "nul", "--help", "%s", "xn--e1afmkfd"),
)
