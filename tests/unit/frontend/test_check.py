from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyarch.errors import DockerfileError
from anyarch.frontend.dockerfile.check import Checker
from anyarch.frontend.dockerfile.lint import excerpt, lint, lint_file
from anyarch.frontend.dockerfile.parser import parse
from anyarch.frontend.dockerfile.rules import RULES, CheckOptions, file_options, parse_check_options
from anyarch.frontend.dockerfile.stage_check import StageChecks
from anyarch.spec.pattern import PatternMatcher
from anyarch.spec.platform import Platform


def found(text: str, **options) -> list[tuple[str, int, str]]:
    return [(w.rule, w.lines[0], w.detail) for w in lint(parse(text.encode()), **options)]


FIRED = [
    (
        "StageNameCasing",
        "FROM scratch AS BadName",
        [(1, "Stage name 'BadName' should be lowercase")],
    ),
    (
        "FromAsCasing",
        "FROM a as b\nFROM a AS c",
        [(1, "'as' and 'FROM' keywords' casing do not match")],
    ),
    (
        "FromAsCasing",
        "from a AS b\nfrom a as c",
        [(1, "'AS' and 'from' keywords' casing do not match")],
    ),
    ("NoEmptyContinuation", "FROM a\nCOPY a \\\n\n b", [(4, "Empty continuation line")]),
    (
        "ConsistentInstructionCasing",
        "FROM a\ncopy a b\nCOPY a b",
        [(2, "Command 'copy' should match the case of the command majority (uppercase)")],
    ),
    (
        "ConsistentInstructionCasing",
        "FROM a\ncopy a b\ncopy a b",
        [(1, "Command 'FROM' should match the case of the command majority (lowercase)")],
    ),
    (
        "ConsistentInstructionCasing",
        "FROM a\nCopy a b",
        [(2, "Command 'Copy' should match the case of the command majority (uppercase)")],
    ),
    (
        "ConsistentInstructionCasing",
        "FROM a\ncopy a b",
        [(2, "Command 'copy' should match the case of the command majority (uppercase)")],
    ),
    (
        "DuplicateStageName",
        "FROM a AS b\nFROM a AS b",
        [(2, 'Duplicate stage name "b", stage names should be unique')],
    ),
    (
        "ReservedStageName",
        "FROM a AS scratch\nFROM a AS context",
        [
            (1, 'Stage name should not use the same name as reserved stage "scratch"'),
            (2, 'Stage name should not use the same name as reserved stage "context"'),
        ],
    ),
    (
        "JSONArgsRecommended",
        "FROM a\nCMD x\nENTRYPOINT y",
        [
            (2, "JSON arguments recommended for CMD to prevent unintended behavior related to OS signals"),
            (
                3,
                "JSON arguments recommended for ENTRYPOINT "
                "to prevent unintended behavior related to OS signals",
            ),
        ],
    ),
    (
        "MaintainerDeprecated",
        "FROM a\nMAINTAINER x",
        [(2, "Maintainer instruction is deprecated in favor of using label")],
    ),
    (
        "UndefinedArgInFrom",
        "ARG MY_ARCH=amd64\nFROM --platform=linux/${MYARCH} a:${version}",
        [
            (2, "FROM argument 'version' is not declared"),
            (2, "FROM argument 'MYARCH' is not declared (did you mean MY_ARCH?)"),
        ],
    ),
    (
        "WorkdirRelativePath",
        "FROM a\nWORKDIR app/\nWORKDIR x",
        [(2, 'Relative workdir "app/" can have unexpected results if the base image changes')],
    ),
    (
        "UndefinedVar",
        "FROM scratch\nARG DIR_ASSETS=a\nCOPY $DIR_ASSET $DIR_ASSET $foo .\nENV PATH=$PAHT:/x",
        [
            (3, "Usage of undefined variable '$DIR_ASSET' (did you mean $DIR_ASSETS?)"),
            (3, "Usage of undefined variable '$foo'"),
            (4, "Usage of undefined variable '$PAHT' (did you mean $PATH?)"),
        ],
    ),
    (
        "UndefinedVar",
        "FROM scratch\nARG aaaa=$b cccc=$aaaa dddd\nUSER $dddd\nWORKDIR /$e\nVOLUME $e\nSTOPSIGNAL $f\n"
        "ADD --checksum=$g a b\n"
        "RUN --mount=target=$h <<EOF\n$i\nEOF\nCOPY <<E <<'F' /x/\n'$j'\nE\n$k\nF\nRUN $l\nCMD $m",
        [
            (line, f"Usage of undefined variable '${name}'")
            for line, name in [(2, "b"), (4, "e"), (5, "e"), (6, "f"), (7, "g"), (8, "h"), (11, "j")]
        ],
    ),
    (
        "MultipleInstructionsDisallowed",
        'FROM a\nCMD ["a"]\nRUN x\nCMD ["b"]\nHEALTHCHECK NONE\nHEALTHCHECK NONE\n'
        "ENTRYPOINT []\nENTRYPOINT []",
        [
            (
                line,
                f"Multiple {name} instructions should not be used in the same stage "
                "because only the last one will be used",
            )
            for line, name in [(2, "CMD"), (5, "HEALTHCHECK"), (7, "ENTRYPOINT")]
        ],
    ),
    (
        "LegacyKeyValueFormat",
        "FROM a\nENV a b\nlabel a b",
        [
            (2, '"ENV key=value" should be used instead of legacy "ENV key value" format'),
            (3, '"label key=value" should be used instead of legacy "label key value" format'),
        ],
    ),
    (
        "RedundantTargetPlatform",
        "FROM --platform=${TARGETPLATFORM} a\nFROM --platform=$BUILDPLATFORM a",
        [
            (
                1,
                "Setting platform to predefined ${TARGETPLATFORM} in FROM is redundant "
                "as this is the default behavior",
            ),
        ],
    ),
    (
        "SecretsUsedInArgOrEnv",
        "FROM a\nARG SECRET_X x_token AUTH\nENV password=1 b=2\nENV apikey=1",
        [
            (line, f"Do not use ARG or ENV instructions for sensitive data ({name})")
            for line, name in [
                (2, 'ARG "SECRET_X"'),
                (2, 'ARG "x_token"'),
                (2, 'ARG "AUTH"'),
                (3, 'ENV "password"'),
                (4, 'ENV "apikey"'),
            ]
        ],
    ),
    (
        "InvalidDefaultArgInFrom",
        "ARG V\nARG SFX=box:\nFROM busybox:$V\nFROM busy${SFX}\nFROM $V",
        [
            (line, f"Default value for ARG {name} results in empty or invalid base image name")
            for line, name in [(3, "busybox:$V"), (4, "busy${SFX}"), (5, "$V")]
        ],
    ),
    (
        "FromPlatformFlagConstDisallowed",
        "FROM --platform=linux/amd64 a\nFROM --platform=linux/amd64 a AS x_amd64\n"
        "FROM --platform=linux/amd64 a AS linux",
        [(1, 'FROM --platform flag should not use constant value "linux/amd64"')],
    ),
    (
        "InvalidDefinitionDescription",
        "# check=experimental=all\n# bar is\nARG foo\n# foo is\nARG foo\n# Foo\nFROM a AS foo\n# x\nARG a b\n"
        "# y\nRUN x",
        [
            (3, "Comment for ARG should follow the format: `# foo <description>`"),
            (7, "Comment for FROM should follow the format: `# foo <description>`"),
            (9, "Comment for ARG should follow the format: `# <arg_key> <description>`"),
        ],
    ),
    (
        "ExposeProtoCasing",
        "FROM a\nEXPOSE 80/TcP 81/udp",
        [(2, "Defined protocol '80/TcP' in EXPOSE instruction should be lowercase")],
    ),
    (
        "ExposeInvalidFormat",
        "FROM a\nEXPOSE 127.0.0.1:80:80 81:82",
        [
            (2, f"EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'")
            for port in ("127.0.0.1:80:80", "81:82")
        ],
    ),
]


@pytest.mark.parametrize(("rule", "text", "expected"), FIRED)
def test_a_rule_fires(rule, text, expected):
    assert [(line, detail) for name, line, detail in found(text) if name == rule] == expected


QUIET = [
    ("FromAsCasing", "From a as b"),
    ("StageNameCasing", "FROM a AS b-c_1.2"),
    ("ReservedStageName", "FROM scratch\nFROM scratch AS a"),
    ("ConsistentInstructionCasing", "from a\nrun <<EOF\nFROM X\nEOF"),
    ("JSONArgsRecommended", 'FROM a AS b\nSHELL ["x"]\nCMD y\nFROM b\nENTRYPOINT z'),
    ("JSONArgsRecommended", 'FROM a\nCMD ["x"]\nENTRYPOINT []\nHEALTHCHECK CMD x'),
    ("WorkdirRelativePath", "FROM a AS b\nWORKDIR /x\nFROM b\nWORKDIR y"),
    ("WorkdirRelativePath", "FROM a\nWORKDIR $HOME/x"),
    ("MultipleInstructionsDisallowed", 'FROM a AS b\nCMD ["x"]\nFROM b\nCMD ["y"]'),
    (
        "UndefinedVar",
        "FROM scratch\nARG foo\nCOPY a$foo .\nENV x=1\nENV y=$x\nRUN $z\nCMD $z\nCOPY '$z' \\$z .",
    ),
    ("UndefinedVar", "FROM scratch AS a\nARG foo=x\nFROM a\nCOPY $foo ."),
    ("UndefinedVar", "FROM alpine\nCOPY $HOME ."),
    ("UndefinedVar", "FROM scratch\nCOPY --from=$x --exclude=$y a b\nEXPOSE $z"),
    ("UndefinedArgInFrom", "ARG V\nFROM a:$V$BUILDARCH$TARGETSTAGE"),
    ("SecretsUsedInArgOrEnv", "FROM a\nARG PUBLIC_KEY TOKEN_FILE monkey AUTH_VERSION\nENV KEYS=1 keyboard=2"),
    (
        "RedundantTargetPlatform",
        "FROM --platform=$TARGETPLATFORM$x a\nFROM --platform=$TARGETOS/$TARGETARCH a",
    ),
    ("InvalidDefaultArgInFrom", "ARG V=1\nARG W\nFROM a:$V\nFROM a:1$W\nFROM a AS Base\nFROM Base"),
    ("FromPlatformFlagConstDisallowed", "FROM --platform=$BUILDPLATFORM a\nFROM --platform=nonsense a"),
    ("InvalidDefinitionDescription", "# nothing\nARG x\nFROM a"),
    ("InvalidDefinitionDescription", "# check=experimental=all\n# x\n#\nARG a\n# z\nFROM a"),
    ("ExposeProtoCasing", "FROM a\nEXPOSE 80/tcp $p/TCP"),
]


@pytest.mark.parametrize(("rule", "text"), QUIET)
def test_a_rule_stays_quiet(rule, text):
    assert [entry for entry in found(text) if entry[0] == rule] == []


@pytest.mark.parametrize(
    ("patterns", "text", "details"),
    [
        (["x"], "COPY x /y\nADD x/z ./x /y", ['Copy file "x"', 'Add file "x/z"', 'Add file "x"']),
        (["x"], "COPY /x y", ['Copy file "/x"']),
        (["x", "!x/y"], "COPY x /y", []),
        (["x"], "COPY --from=a x /y\nADD https://x/y z\nCOPY <<x /z\nx", []),
        ([".*"], "COPY . .", []),
        (["*"], "COPY . .\nCOPY a .", ['Copy file "."', 'Copy file "a"']),
        (["**"], "COPY / .", ['Copy file "/"']),
        (["x"], "COPY $u /y", []),
    ],
)
def test_copying_what_is_ignored_is_noticed(patterns, text, details):
    entries = found("FROM a\n" + text, ignore=PatternMatcher(patterns))
    problems = [entry[2] for entry in entries if entry[0] == "CopyIgnoredFile"]
    assert problems == [f"Attempting to {detail} that is excluded by .dockerignore" for detail in details]


def test_a_base_image_of_another_platform_is_noticed():
    file = parse(b"FROM busybox")
    checker = Checker(file)
    arm, amd = Platform.parse("linux/arm64"), Platform.parse("linux/amd64")
    checker.base_platform(file.stages[0], "busybox", expected=amd, actual=Platform.parse("linux/amd64/v2"))
    assert checker.warnings == []
    checker.base_platform(file.stages[0], "busybox", expected=arm, actual=amd)
    (warning,) = checker.warnings
    assert warning.url == ""
    assert warning.short == (
        'InvalidBaseImagePlatform: Base image busybox was pulled with platform "linux/amd64", '
        'expected "linux/arm64" for current build (line 1)'
    )


def test_known_environments_settle_what_the_file_leaves_open():
    file = parse(b"FROM a\nWORKDIR $D\nENV $K=1\nCOPY $X /\nEXPOSE $P\nCMD x")
    checker = Checker(file)
    checks = StageChecks(checker, has_shell=True)
    for instruction in file.stages[0].instructions:
        checks.check(instruction, {"D": "rel", "K": "TOKEN", "P": "80/TCP 1:2"}, declared={"X": None})
    assert [(w.rule, w.lines[0]) for w in checker.warnings] == [
        ("WorkdirRelativePath", 2),
        ("SecretsUsedInArgOrEnv", 3),
        ("ExposeProtoCasing", 5),
        ("ExposeInvalidFormat", 5),
    ]


def test_windows_paths_are_absolute_with_either_slash():
    file = parse(b"FROM a\nWORKDIR C:/x")
    for os, count in (("windows", 0), ("linux", 1)):
        checker = Checker(file)
        StageChecks(checker, os=os).check(file.stages[0].instructions[0], {})
        assert len(checker.warnings) == count


def test_each_finding_goes_to_the_sink_at_once():
    heard = []
    Checker(parse(b"FROM a AS B"), sink=heard.append).check_file()
    assert [warning.rule for warning in heard] == ["StageNameCasing"]


@pytest.mark.parametrize(
    ("directive", "rules"),
    [
        ("", {"FromAsCasing", "ConsistentInstructionCasing"}),
        ("# check=skip=all\n", set()),
        ("# check=skip=FromAsCasing\n", {"ConsistentInstructionCasing"}),
        (
            "# check = skip = FromAsCasing , ConsistentInstructionCasing trailing words\n",
            {"ConsistentInstructionCasing"},
        ),
        ("# check=skip=FromAsCasing,ConsistentInstructionCasing;error=true\n", set()),
        ("# check=skip=fromascasing\n", {"FromAsCasing", "ConsistentInstructionCasing"}),
        ("# syntax=x\n# check=error=true\n", {"FromAsCasing", "ConsistentInstructionCasing"}),
    ],
)
def test_a_directive_skips_rules(directive, rules):
    text = directive + "FROM a as b\ncopy a b"
    if directive.startswith("# check = "):
        # The directive ends at the first blank of its value, here behind the option's name.
        with pytest.raises(DockerfileError, match="invalid check option"):
            found(text)
        return
    assert {entry[0] for entry in found(text)} == rules


def test_a_comment_skips_rules_for_the_one_instruction_below_it():
    text = (
        "FROM a\n# check=skip=SecretsUsedInArgOrEnv // wanted\nENV key=1\n# check=skip=all\nARG key\n"
        "# check=nonsense\nENV key=1\n# check=skip=JSONArgsRecommended\nCMD x\nENV key=2"
    )
    assert [(rule, line) for rule, line, _ in found(text)] == [
        ("SecretsUsedInArgOrEnv", 7),
        ("SecretsUsedInArgOrEnv", 10),
    ]
    above_from = "# check=skip=RedundantTargetPlatform\n#x\nFROM --platform=$TARGETPLATFORM a"
    assert found("\n" + above_from) == []


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", CheckOptions()),
        ("skip=all", CheckOptions(skip_all=True)),
        (" skip = A , B ", CheckOptions(skip=frozenset("AB"))),
        (
            "skip=A;experimental=all;error=1",
            CheckOptions(skip=frozenset("A"), experimental_all=True, error=True),
        ),
        ("error=false", CheckOptions()),
    ],
)
def test_options_parse(text, options):
    assert parse_check_options(text) == options


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("skip", 'invalid check option "skip"'),
        ("foo=1", 'invalid check option "foo"'),
        ("error=x", 'failed to parse check option "error=x": strconv.ParseBool: parsing "x": invalid syntax'),
        ("skip=a;error=1;experimental=b;error=0", None),
    ],
)
def test_bad_options_are_refused(text, message):
    if message is None:  # what follows the third part belongs to it
        assert parse_check_options(text).experimental == {"b;error=0"}
        return
    with pytest.raises(DockerfileError) as caught:
        parse_check_options(text)
    assert caught.value.message == message


def test_the_build_argument_replaces_the_directive():
    data = b"# check=skip=all\nFROM a as b"
    assert file_options(data).skip_all
    assert file_options(data, "skip=FromAsCasing;error=true") == CheckOptions(
        frozenset(["FromAsCasing"]), error=True
    )
    for override, name in ((None, "check options"), ("x", "BUILDKIT_DOCKERFILE_CHECK")):
        with pytest.raises(DockerfileError, match=f"failed to parse {name}: invalid check option"):
            file_options(b"# check=x\nFROM a", override)


def test_an_error_directive_turns_findings_into_an_error():
    checker = Checker(parse(b"# check=error=true\nFROM a as B\nfrom c"))
    assert checker.error() is None
    checker.check_file()
    assert checker.error().message == (
        "lint violation found for rules: ConsistentInstructionCasing, FromAsCasing, StageNameCasing"
    )
    result = lint_file(b"# check=error=true\nFROM a as b")
    assert (result.error.message, result.status) == ("lint violation found for rules: FromAsCasing", 1)


def test_every_rule_has_a_page_but_one():
    assert len(RULES) == 22
    assert [rule.name for rule in RULES.values() if not rule.url] == ["InvalidBaseImagePlatform"]
    assert RULES["JSONArgsRecommended"].url.endswith("/rule/json-args-recommended/")
    assert RULES["SecretsUsedInArgOrEnv"].url.endswith("/rule/secrets-used-in-arg-or-env/")
    assert [rule.name for rule in RULES.values() if rule.experimental] == ["InvalidDefinitionDescription"]


def test_warnings_found_before_an_error_are_told_with_it():
    result = lint_file(b"\nFROM a AS Bad\nMAINTAINER me\nBADCMD\n", "my.Dockerfile")
    assert [warning.rule for warning in result.warnings] == ["StageNameCasing", "MaintainerDeprecated"]
    assert result.error_text() == (
        "dockerfile parse error on line 4: unknown instruction: BADCMD\nmy.Dockerfile:4\n"
        "--------------------\n   2 |     FROM a AS Bad\n   3 |     MAINTAINER me\n   4 | >>> BADCMD\n"
        "   5 |     \n--------------------\n"
    )
    assert result.status == 1


def test_text_is_laid_out_with_excerpts_in_order_of_lines():
    result = lint_file(b"FROM a\nENV x y\nENV \\\n  key=1\n")
    assert result.text() == (
        "\nWARNING: LegacyKeyValueFormat - https://docs.docker.com/go/dockerfile/rule/legacy-key-value-format/\n"
        '"ENV key=value" should be used instead of legacy "ENV key value" format\nDockerfile:2\n'
        "--------------------\n   1 |     FROM a\n   2 | >>> ENV x y\n   3 |     ENV \\\n   4 |       key=1\n"
        "--------------------\n"
        "\nWARNING: SecretsUsedInArgOrEnv - https://docs.docker.com/go/dockerfile/rule/secrets-used-in-arg-or-env/\n"
        'Do not use ARG or ENV instructions for sensitive data (ENV "key")\nDockerfile:3\n'
        "--------------------\n   2 |     ENV x y\n   3 | >>> ENV \\\n   4 | >>>   key=1\n   5 |     \n"
        "--------------------\n"
    )
    assert result.summary() == "Check complete, 2 warnings have been found!"


def test_json_is_laid_out_as_buildkit_does():
    result = lint_file(b"FROM a\nENV \\\n key=<&>\n", "D")
    document = json.loads(result.json())
    assert list(document) == ["warnings", "sources"]
    (warning,) = document["warnings"]
    assert list(warning) == ["ruleName", "description", "url", "detail", "location"]
    assert warning["location"] == {
        "ranges": [
            {"start": {"line": 2}, "end": {"line": 2}},
            {"start": {"line": 3}, "end": {"line": 3}},
        ]
    }
    assert document["sources"] == [
        {"filename": "D", "data": "RlJPTSBhCkVOViBcCiBrZXk9PCY+Cg==", "language": "Dockerfile"}
    ]
    assert result.json().startswith(
        b'{\n  "warnings": [\n    {\n      "ruleName": "SecretsUsedInArgOrEnv",\n'
    )
    broken = json.loads(lint_file(b"FROM a\n<BAD>", "D").json())
    assert broken["warnings"] is None
    assert broken["buildError"]["location"]["ranges"] == [{"start": {"line": 2}, "end": {"line": 2}}]
    assert b"\\u003cBAD\\u003e" in lint_file(b"FROM a\n<BAD>", "D").json()


def test_a_clean_file_passes():
    result = lint_file(b"FROM a\nRUN x\n")
    assert (result.warnings, result.error, result.status, result.text()) == ((), None, 0, "")
    assert result.summary() == "Check complete, no warnings found."
    assert lint_file(b"FROM a AS B").summary() == "Check complete, 1 warning has been found!"


@pytest.mark.parametrize(
    ("lines", "shown"),
    [((1, 1), "1-3"), ((3, 3), "1-5"), ((9, 9), "7-9"), ((4, 5), "3-6"), ((2, 8), "1-9"), ((1, 30), "1-9")],
)
def test_excerpts_show_lines_around(lines, shown):
    rows = excerpt("D", b"1\n2\n3\n4\n5\n6\n7\n8\n9", lines).splitlines()[2:-1]
    first, last = (int(number) for number in shown.split("-"))
    assert [int(row[:4]) for row in rows] == list(range(first, last + 1))
    assert [int(row[:4]) for row in rows if ">>>" in row] == list(range(lines[0], min(lines[1], 9) + 1))


def test_an_excerpt_of_nowhere_is_empty():
    assert excerpt("D", b"1\n", (7, 7)) == ""


@given(st.binary(max_size=200) | st.text("FROMRUN abc=$\\\n\"'#<:/-", max_size=200).map(str.encode))
def test_any_bytes_can_be_checked(data):
    for text in (data, b"# check=experimental=all\nFROM scratch AS A\n" + data):
        result = lint_file(text)
        assert result.status == int(bool(result.text() or result.error_text()))
        assert json.loads(result.json())["sources"]
