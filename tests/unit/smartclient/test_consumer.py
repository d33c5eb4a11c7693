"""Promises of `smartclient consumer`: typed functions from a service's description."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from smartclient import consumer, runtime
from smartclient.__main__ import main
from smartclient.consumed import _filled, _pairs
from smartclient.testing import Calls
from smartrealm.errors import ValidationFailed

EVIL = 'x"""\nimport os\nos.abort()\n"""\\'


def described(**paths: Any) -> dict[str, Any]:
    """A description with these operations, by the last part of their path."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "shop", "version": "1.2"},
        "paths": {f"/{name}": {"get": told} for name, told in paths.items()},
        "components": {"schemas": {"Team": {"type": "object", "properties": {"name": {"type": "string"}}}}},
    }


def answering(schema: Any, status: str = "200", **told: Any) -> dict[str, Any]:
    return {"responses": {status: {"content": {"application/json": {"schema": schema}}}}, **told}


def rendered(document: Any) -> str:
    return consumer.render(document, service="shop", source="here")


def functions(text: str) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "string", "format": "uuid"}, "str"),
        ({"type": "array", "items": {"type": "integer"}}, "list[int]"),
        ({"type": ["number", "null"]}, "float | None"),
        ({"anyOf": [{"type": "null"}, {"type": "string"}, {"type": "string"}]}, "str | None"),
        ({"enum": ["a", "b"]}, 'Literal["a", "b"]'),
        ({"const": 3}, "Literal[3]"),
        ({"type": "object", "additionalProperties": {"type": "boolean"}}, "dict[str, bool]"),
        ({"type": "object"}, "dict[str, Any]"),
        ({"$ref": "#/components/schemas/Team"}, "Team"),
        ({"allOf": [{"$ref": "#/components/schemas/Team"}]}, "Team"),
        ({"enum": [1.5]}, "Any"),
        ({}, "Any"),
        (True, "Any"),
        ({"type": "array", "prefixItems": [{"type": "string"}]}, "list[Any]"),
    ],
)
def test_types(schema: Any, kind: str) -> None:
    """Each kind of schema becomes the type of the JSON that it describes."""
    function = functions(rendered(described(thing=answering(schema, operationId="thing"))))["thing"]
    assert function.returns is not None
    assert ast.unparse(function.returns).replace("'", '"') == kind


def test_what_is_answered() -> None:
    """No content gives None; an answer of several kinds or of an unknown kind gives the Response."""
    document = described(
        gone={"operationId": "gone", "responses": {"204": {"description": "x"}}},
        open={"operationId": "opened", "responses": {"2XX": {"description": "x"}}},
        both={"operationId": "both", "responses": {"200": answering({})["responses"]["200"], "204": {}}},
    )
    returns = {name: ast.unparse(one.returns) for name, one in functions(rendered(document)).items() if one.returns}
    assert returns == {"gone": "None", "opened": "Response", "both": "Response"}


def test_odd_names_become_names() -> None:
    """Whatever parameters and members are called, the code is right and what is sent has their own names."""
    told = answering(
        {"type": "object", "properties": {"only-this": {"$ref": "#/components/schemas/Team"}, "list": {}}},
        operationId="class",
        parameters=[
            {"name": name, "in": "query", "schema": {"type": "string"}}
            for name in ("for", "only-wanted", "options", "body", "str", "9", "only_wanted", "-", "deadline")
        ],
    )
    text = rendered(described(thing=told))
    names = [one.arg for one in functions(text)["class_"].args.kwonlyargs]
    assert names == ["for_", "only_wanted", "options_", "body_", "str_", "n9", "only_wanted_", "value", "deadline_"]
    assert '"only-wanted": only_wanted,' in text
    assert "= TypedDict(" in text


def test_nothing_of_the_description_becomes_code() -> None:
    """Texts that try to end their docstring or literal stay texts."""
    told = answering(
        {"type": "object", "properties": {EVIL: {"enum": [EVIL, EVIL]}}, "description": EVIL},
        operationId=EVIL,
        summary=EVIL,
        description=EVIL,
        parameters=[{"name": EVIL, "in": "query", "schema": {"enum": [EVIL]}}],
    )
    document = described(**{f"a{EVIL}": told})
    document["info"] = {"title": EVIL, "version": EVIL}
    text = consumer.render(document, service="shop", source=EVIL)
    kinds = {type(node) for node in ast.parse(text).body}
    assert kinds <= {ast.Expr, ast.ImportFrom, ast.If, ast.Assign, ast.AnnAssign, ast.ClassDef, ast.FunctionDef}
    assert not any(isinstance(node, ast.Import) for node in ast.walk(ast.parse(text)))


def test_types_that_refer_to_themselves() -> None:
    """A schema within itself, directly or by another, is no endless loop."""
    document = described(thing=answering({"$ref": "#/components/schemas/A"}, operationId="thing"))
    document["components"]["schemas"] = {
        "A": {"anyOf": [{"$ref": "#/components/schemas/A-B"}, {"type": "null"}]},
        "A-B": {
            "type": "array",
            "items": {"anyOf": [{"$ref": "#/components/schemas/A"}, {"$ref": "#/components/schemas/a"}]},
        },
        "a": {"type": "object", "properties": {"x": {"type": "string"}}},
    }
    text = rendered(document)
    assert "class A_(TypedDict):" in text
    assert 'A: TypeAlias = "AB | None"' in text
    assert 'AB: TypeAlias = "list[A | A_]"' in text


def test_the_same_description_gives_the_same_text() -> None:
    """The order in which the description happens to be written changes nothing."""
    document = described(one=answering({}), two=answering({"$ref": "#/components/schemas/Team"}))
    turned = {**document, "paths": dict(reversed(document["paths"].items()))}
    assert rendered(document) == rendered(turned)


def test_release_and_source_are_no_difference() -> None:
    """A file that was written by asking the service is up to date for a check against a file of the same description."""
    document = described(one=answering({}))
    newer = {**document, "info": {**document.get("info", {}), "version": "9"}}
    asked, read = (consumer.render(one, service="identity", source=f"{one is newer}") for one in (document, newer))
    assert asked != read
    assert consumer.without_origin(asked) == consumer.without_origin(read)
    assert "SERVICE = " in consumer.without_origin(read)


@pytest.mark.parametrize("document", [[], {}, {"swagger": "2.0"}, {"openapi": 3}])
def test_what_is_no_description_is_refused(document: Any) -> None:
    """The message names where it came from."""
    with pytest.raises(ValidationFailed, match="here is no OpenAPI 3"):
        rendered(document)


@pytest.mark.parametrize(
    "told",
    [
        {"parameters": [{}]},
        {"parameters": [7]},
        {"requestBody": {"content": {"application/json": 7}}},
        {"responses": [7]},
    ],
)
def test_a_description_that_breaks_its_own_rules_is_refused(told: Any) -> None:
    """It is an error that names where the description is from, not a crash."""
    with pytest.raises(ValidationFailed, match="here breaks the rules"):
        rendered(described(thing=told))


def test_a_reference_that_leads_nowhere_is_refused() -> None:
    """The message names the reference."""
    with pytest.raises(ValidationFailed, match="#/components/schemas/None"):
        rendered(described(thing=answering({"$ref": "#/components/schemas/None"})))


def test_a_variable_stays_in_its_part_of_the_path() -> None:
    """Slashes and other signs are escaped, and what would lead to another path is refused."""
    assert _filled("name", {"name": "a/b c?"}, ()) == "a%2Fb%20c%3F"
    assert _filled("rest", {"rest": "a/b c?"}, ["rest"]) == "a/b%20c%3F"
    for odd in ("..", ".", ""):
        with pytest.raises(ValueError, match="name is"):
            _filled("name", {"name": odd}, ())
    with pytest.raises(ValueError, match="rest is"):
        _filled("rest", {"rest": "a/../../b"}, ["rest"])


def test_the_query_as_it_is_sent() -> None:
    """None is left out, a list is repeated, true and false are words."""
    assert list(_pairs({"query": {"a": 1, "b": [2, 3]}})) == [("a", "1"), ("b", "2"), ("b", "3")]
    sent = list(_pairs({"none": None, "tag": ["a", "b"], "wanted": True, "page": 2}))
    assert sent == [("tag", "a"), ("tag", "b"), ("wanted", "true"), ("page", "2")]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It writes, checks, prints, and never writes over a file that it has not written."""
    source, output = tmp_path / "openapi.json", tmp_path / "shop_client.py"
    source.write_text(json.dumps(described(thing=answering({}))))
    run = ["consumer", "shop", "--url", str(source), "--output", str(output)]
    assert main([*run, "--check"]) == 1
    assert main([*run, "--dry-run"]) == 0
    assert "def get_thing(" in capsys.readouterr().out
    assert not output.exists()
    assert (main(run), main([*run, "--check"])) == (0, 0)
    source.write_text(source.read_text().replace("1.2", "1.3"))
    assert main([*run, "--check"]) == 0
    source.write_text(json.dumps(described(other=answering({}))))
    assert main([*run, "--check"]) == 1
    output.write_text("# mine\n")
    assert main(run) == 4
    assert output.read_text() == "# mine\n"


def test_the_service_itself_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str], service_calls: Calls) -> None:
    """Without --url the description is that of the service; one that it does not publish is said."""
    service_calls.get("service://shop/openapi.json", json=described(thing=answering({})))
    service_calls.get("service://old/openapi.json", status=404)
    token = runtime.enter(runtime.Mesh())
    try:
        assert main(["consumer", "shop", "--output", str(tmp_path / "shop_client.py")]) == 0
        assert main(["consumer", "old", "--output", str(tmp_path / "old_client.py")]) == 3
    finally:
        runtime.leave(token)
    assert "from service://shop/openapi.json; do not edit" in (tmp_path / "shop_client.py").read_text()
    assert "404" in capsys.readouterr().err


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong names, missing files and files that are no JSON end with a sentence and a code of their own."""
    assert main(["consumer", "No Name"]) == 2
    assert main(["consumer", "shop", "--url", str(tmp_path / "none")]) == 3
    (tmp_path / "text").write_text("text")
    assert main(["consumer", "shop", "--url", str(tmp_path / "text")]) == 3
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3
    assert "No such file" in said[1]
    assert "is no JSON" in said[2]
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
