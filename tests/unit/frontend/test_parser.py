from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyarch.errors import DockerfileError
from anyarch.frontend.dockerfile import instructions
from anyarch.frontend.dockerfile.instructions import ArgDefinition, Device, InlineFile, KeyValue
from anyarch.frontend.dockerfile.parser import parse, parse_instruction, parse_leniently, parse_onbuild


def one(text: str):
    """The only instruction of a stage."""
    (instruction,) = parse(f"FROM a\n{text}\n".encode()).stages[0].instructions
    return instruction


def fields(text: str, *names: str) -> tuple[object, ...]:
    instruction = one(text)
    return tuple(getattr(instruction, name) for name in names)


def test_a_file_has_global_args_stages_and_directives():
    file = parse(
        b"# syntax=docker/dockerfile:1\n# escape=`\nARG A=1 B\n\n"
        b"# BUILD Not it\n# build Compiles `everything`\n"
        b"FROM --platform=$BUILDPLATFORM go:$A AS Build\nRUN x `\n y\nfrom scratch\nCOPY --from=build /x /\n",
        "my.Dockerfile",
    )
    assert (file.filename, file.escape) == ("my.Dockerfile", "`")
    assert file.directives.syntax.value == "docker/dockerfile:1"
    assert [arg.args for arg in file.global_args] == [(ArgDefinition("A", "1"), ArgDefinition("B"))]
    first, second = file.stages
    assert (first.name, first.name_text, first.as_keyword, first.keyword) == ("build", "Build", "AS", "FROM")
    assert (first.base_name, first.platform) == ("go:$A", "$BUILDPLATFORM")
    assert (first.comment, first.lines) == ("Compiles `everything`", (7, 7))
    assert first.original == "FROM --platform=$BUILDPLATFORM go:$A AS Build"
    assert first.instructions[0].lines == (8, 9)
    assert (second.name, second.keyword, second.base_name) == ("", "from", "scratch")


@pytest.mark.parametrize(
    ("text", "cmdline", "shell"),
    [
        ("RUN a  b # c", ("a  b # c",), True),
        ('RUN ["a", "b c"]', ("a", "b c"), False),
        ("CMD", (), True),
        ("CMD []", (), False),
        ('CMD ["a",', ('["a",',), True),
        ('CMD ["a"] x', ('["a"] x',), True),
        ("CMD ['a']", ("['a']",), True),
        ("CMD [NaN]", ("[NaN]",), True),
        ("ENTRYPOINT [ -f x ]", ("[ -f x ]",), True),
        ('ENTRYPOINT ["\\u00e9\\ud800\\udc00"]', ("é\U00010000",), False),
        ('CMD ["\\ud800"]', ("\ufffd",), False),
    ],
)
def test_commands_are_json_or_shell(text, cmdline, shell):
    assert fields(text, "cmdline", "prepend_shell") == (cmdline, shell)


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("ENV a=b", [("a", "b")]),
        ("ENV a=\"b c\" d='e f' g=h\\ i", [("a", '"b c"'), ("d", "'e f'"), ("g", "h\\ i")]),
        ("ENV a=b=c d=", [("a", "b=c"), ("d", "")]),
        ('LABEL "a b"=c', [('"a b"', "c")]),
        ("ENV a=b \\\n  c=d", [("a", "b"), ("c", "d")]),
    ],
)
def test_pairs_keep_their_quotes(text, pairs):
    assert one(text).pairs == tuple(KeyValue(key, value) for key, value in pairs)


def test_the_legacy_pair_takes_the_rest_of_the_line():
    assert one("ENV a b  c=d").pairs == (KeyValue("a", "b  c=d", legacy=True),)


def test_args_may_have_values_and_documentation():
    assert one('# b The second\nARG a b=c d="e f" g=').args == (
        ArgDefinition("a"),
        ArgDefinition("b", "c", "The second"),
        ArgDefinition("d", '"e f"'),
        ArgDefinition("g", ""),
    )


def test_run_takes_all_its_flags():
    run = one(
        "RUN --mount=type=cache,target=/x --network=none --security=insecure --mount=src=a,ro "
        "--device=vendor.com/x=1,required make"
    )
    assert [mount.text for mount in run.mounts] == ["type=cache,target=/x", "src=a,ro"]
    assert (run.network, run.security) == ("none", "insecure")
    assert run.devices == (Device("vendor.com/x=1", required=True),)
    assert run.flags_used == {"mount", "network", "security", "device"}
    assert (one("RUN x").network, one("RUN x").security) == ("default", "sandbox")


def test_copy_takes_all_its_flags():
    copy = one(
        "COPY --from=$x --chown=1:$g --chmod=u+x --link --parents=TRUE --exclude=a --exclude=!b a 'b c' d/"
    )
    assert (copy.sources, copy.dest) == (("a", "'b", "c'"), "d/")
    assert (copy.from_, copy.chown, copy.chmod) == ("$x", "1:$g", "u+x")
    assert (copy.link, copy.parents, copy.exclude) == (True, True, ("a", "!b"))
    assert fields('COPY --link=false ["a b", "c"]', "sources", "dest", "link") == (("a b",), "c", False)


def test_add_takes_all_its_flags():
    add = one(
        "ADD --checksum=sha256:x --keep-git-dir=false --unpack --chown=a --chmod=1 --link --exclude=x u d"
    )
    assert (add.checksum, add.keep_git_dir, add.unpack) == ("sha256:x", False, True)
    assert (add.chown, add.chmod, add.link, add.exclude) == ("a", "1", True, ("x",))
    assert fields("ADD a b", "keep_git_dir", "unpack") == (None, None)


def test_heredocs_are_inline_files_of_copy():
    copy = one("COPY a <<EOF <<-'RAW' /d/\n\t$x\nEOF\n\t\tb\n\tc\n\tRAW")
    assert (copy.sources, copy.dest, copy.lines) == (("a",), "/d/", (2, 7))
    assert copy.files == (InlineFile("EOF", "\t$x\n", expand=True), InlineFile("RAW", "b\nc\n", expand=False))
    assert copy.original == "COPY a <<EOF <<-'RAW' /d/"


def test_a_blank_may_stand_before_the_word_of_a_heredoc():
    assert one("COPY << EOF /d\na\nEOF").files == (InlineFile("EOF", "a\n", expand=True),)


def test_heredocs_of_run_are_kept_as_written():
    run = one("RUN <<-EOF cat\n\ta\r\n\tEOF")
    assert run.cmdline == ("<<-EOF cat",)
    assert [(doc.name, doc.content, doc.chomp) for doc in run.heredocs] == [("EOF", "\ta\r\n", True)]
    assert one('RUN ["<<EOF"]').heredocs == ()


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("HEALTHCHECK NONE", (("NONE",), 0, 0, 0, 0, 0)),
        ("HEALTHCHECK none", (("NONE",), 0, 0, 0, 0, 0)),
        ("HEALTHCHECK CMD a b", (("CMD-SHELL", "a b"), 0, 0, 0, 0, 0)),
        ('HEALTHCHECK cmd ["a"]', (("CMD", "a"), 0, 0, 0, 0, 0)),
        (
            "HEALTHCHECK --interval=1m30s --timeout=1.5s --start-period=1ms --start-interval=0 "
            "--retries=3 CMD x",
            (("CMD-SHELL", "x"), 90 * 10**9, 15 * 10**8, 10**6, 0, 3),
        ),
    ],
)
def test_healthchecks(text, values):
    assert fields(text, "test", "interval", "timeout", "start_period", "start_interval", "retries") == values


def test_the_simple_instructions():
    assert one("WORKDIR  /a b ").path == "/a b"
    assert one("USER a b").user == "a b"
    assert one("STOPSIGNAL $s").signal == "$s"
    assert one("MAINTAINER me <a@b>").text == "me <a@b>"
    assert one('SHELL ["a", "-c"]').shell == ("a", "-c")
    assert one("VOLUME /a  /b").volumes == ("/a", "/b")
    assert one('VOLUME ["/a b"]').volumes == ("/a b",)
    assert one("EXPOSE 9 80/tcp $p").ports == ("$p", "80/tcp", "9")


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("ONBUILD RUN a \\\n b", "RUN a  b"),
        ("onbuild   copy a b", "copy a b"),
        ("ONBUILD COPY <<A <<-B /d\n1\nA\n\t2\n\tB", "COPY <<A <<-B /d\n1\nA\n\t2\nB"),
        ("ONBUILD FOO x", "FOO x"),
        ("ONBUILD COPY a", "COPY a"),
    ],
)
def test_onbuild_keeps_the_trigger_for_later(text, expression):
    assert one(text).expression == expression


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("RUNN x", "unknown instruction: RUNN (did you mean RUN?)"),
        ("cpoy a b", "unknown instruction: cpoy (did you mean copy?)"),
        ("XYZZY", "unknown instruction: XYZZY"),
        (
            "COPY a",
            "COPY requires at least two arguments, but only one was provided. "
            "Destination could not be determined",
        ),
        (
            "ADD",
            "ADD requires at least two arguments, but only one was provided. "
            "Destination could not be determined",
        ),
        ("COPY --chwn=1 a b", "unknown flag: --chwn (did you mean chown?)"),
        ("ADD --from=x a b", "unknown flag: --from"),
        ("COPY --chown=1 --chown=2 a b", "duplicate flag specified: --chown"),
        ("COPY --chown a b", "missing a value on flag: --chown"),
        ("COPY --link= a b", "missing a value on flag: --link"),
        ("COPY --link=maybe a b", "expecting boolean value for flag --link, not: maybe"),
        ("COPY a <<EOF", "unterminated heredoc"),
        ("COPY a <<EOF\nEOF", "COPY cannot accept a heredoc as a destination"),
        ("RUN <<EOF\nx", "unterminated heredoc"),
        ("RUN --network=x y", 'invalid network mode "x"'),
        ("RUN --security=x y", 'security "x" is not valid'),
        ("RUN --mount=from=$x y", "'from' doesn't support variable expansion, define alias stage instead"),
        ("RUN --mount= y", "failed to parse csv mounts: EOF"),
        ("RUN --mount='\"a' y", "failed to parse csv mounts: parse error on line 1, column 2"),
        ("CMD --x y", "unknown flag: --x"),
        ("CMD [1]", "when using JSON array syntax, arrays must be comprised of strings only"),
        ('VOLUME ["a", null]', "when using JSON array syntax, arrays must be comprised of strings only"),
        ("VOLUME", "VOLUME requires at least one argument"),
        ("VOLUME []", "VOLUME requires at least one argument"),
        ('VOLUME [" "]', "VOLUME specified can not be an empty string"),
        ("EXPOSE", "EXPOSE requires at least one argument"),
        ("ENV", "ENV requires at least one argument"),
        ("ENV a", "ENV must have two arguments"),
        ("LABEL a", "LABEL must have two arguments"),
        ("ENV a=b c", 'Syntax error - can\'t find = in "c". Must be of the form: name=value'),
        ("ENV =b", "ENV names can not be blank"),
        ("ENV --x a=b", "unknown flag: --x"),
        ("ARG", "ARG requires at least one argument"),
        ("ARG =x", "ARG names can not be blank"),
        ("WORKDIR", "WORKDIR requires exactly one argument"),
        ("USER", "USER requires exactly one argument"),
        ("STOPSIGNAL", "STOPSIGNAL requires exactly one argument"),
        ("MAINTAINER", "MAINTAINER requires exactly one argument"),
        ("SHELL", "SHELL requires at least one argument"),
        ("SHELL []", "SHELL requires at least one argument"),
        ("SHELL bash -c", "SHELL requires the arguments to be in JSON form"),
        ("HEALTHCHECK", "HEALTHCHECK requires at least one argument"),
        ("HEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments"),
        ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK foo x", 'Unknown type "FOO" in HEALTHCHECK (try CMD)'),
        ("HEALTHCHECK --interval=1us CMD x", 'Interval "interval" cannot be less than 1ms'),
        ("HEALTHCHECK --timeout=-1s CMD x", 'Interval "timeout" cannot be less than 1ms'),
        ("HEALTHCHECK --interval=1 CMD x", 'time: missing unit in duration "1"'),
        ("HEALTHCHECK --interval=1x CMD x", 'time: unknown unit "x" in duration "1x"'),
        ("HEALTHCHECK --interval=x CMD x", 'time: invalid duration "x"'),
        ("HEALTHCHECK --retries=-1 CMD x", "--retries cannot be negative (-1)"),
        ("HEALTHCHECK --retries=x CMD x", 'strconv.ParseInt: parsing "x": invalid syntax'),
        (
            "HEALTHCHECK --retries=9999999999 CMD x",
            'strconv.ParseInt: parsing "9999999999": value out of range',
        ),
        ("HEALTHCHECK --foo=1 CMD x", "unknown flag: --foo"),
        ("ONBUILD", "ONBUILD requires at least one argument"),
        ("ONBUILD ONBUILD RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("ONBUILD maintainer x", "MAINTAINER isn't allowed as an ONBUILD trigger"),
        ("ONBUILD CMD [1]", "when using JSON array syntax, arrays must be comprised of strings only"),
        ("ONBUILD RUN <<EOF", "unterminated heredoc"),
        ("FROM a b", "FROM requires either one or three arguments"),
        ("FROM", "FROM requires either one or three arguments"),
        ("FROM --platform x y", "FROM requires either one or three arguments"),
        ("FROM --platfrm=x y", "unknown flag: --platfrm (did you mean platform?)"),
        (
            "FROM a AS 1x",
            'invalid name for build stage: "1x", name can\'t start with a number or contain symbols',
        ),
        ("RUN a\0b", "the instruction holds a NUL byte"),
    ],
)
def test_errors_name_the_line_and_the_problem(text, message):
    data = f"FROM a\n\n{text}".encode()
    with pytest.raises(DockerfileError) as caught:
        parse(data, "x.Dockerfile")
    error = caught.value
    assert error.message.startswith(f"dockerfile parse error on line 3: {message}")
    assert (error.source.filename, error.source.start, error.source.data) == ("x.Dockerfile", 3, data)
    assert error.source.end == 3 + text.count("\n")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the Dockerfile cannot be empty"),
        (b"\n \n", "file with no instructions"),
        (b"# comment\n", "file with no instructions"),
        (b"\xef\xbb\xbf", "file with no instructions"),
        (b"ARG a\n", "dockerfile contains no stages to build"),
        (b"RUN a\nFROM b", "no build stage in current context"),
        (b"ARG a\nENV b=c\nFROM b", "no build stage in current context"),
    ],
)
def test_a_file_without_a_stage_is_refused(data, message):
    with pytest.raises(DockerfileError) as caught:
        parse(data)
    assert caught.value.message == message


def test_an_unreadable_file_is_read_up_to_the_error():
    file, error = parse_leniently(b"ARG a\nFROM b AS C\nRUN d\nNO\nRUN e")
    assert (len(file.global_args), len(file.stages[0].instructions)) == (1, 1)
    assert error.source.start == 4


def test_blank_continuation_lines_are_warned_about_at_the_last_line_of_the_instruction():
    file = parse(b"FROM a\nRUN b \\\n\n c\nCOPY <<E \\\n\n /d\nx\nE\n")
    assert [(warning.rule, warning.line) for warning in file.warnings] == [
        ("NoEmptyContinuation", 4),
        ("NoEmptyContinuation", 7),
    ]


def test_bytes_that_are_not_utf_8_come_through():
    data = b'FROM a\nRUN caf\xe9\nCMD ["\xe9"]\nENV a=\xe9\nCOPY <<E /x\n\xff\nE\n'
    run, cmd, env, copy = parse(data).stages[0].instructions
    for text, raw in (
        (run.cmdline[0], b"caf\xe9"),
        (cmd.cmdline[0], b"\xe9"),
        (env.pairs[0].value, b"\xe9"),
        (copy.files[0].data, b"\xff\n"),
    ):
        assert text.encode("utf-8", "surrogateescape") == raw
    assert not cmd.prepend_shell


def test_flags_keep_letters_of_all_languages():
    assert one("RUN --mount=target=/ä,id=à x").mounts[0].text == "target=/ä,id=à"


def test_a_trigger_is_one_instruction_placed_where_it_fires():
    run = parse_onbuild("RUN <<EOF\na\nEOF", lines=(7, 7))
    assert isinstance(run, instructions.Run)
    assert (run.heredocs[0].content, run.lines) == ("a\n", (7, 7))
    for trigger, message in (
        ("RUN a\nRUN b", "onbuild trigger should be a single expression"),
        ("FROM a", "FROM isn't allowed as an ONBUILD trigger"),
        ("COPY a", "dockerfile parse error on line 1: COPY requires at least two arguments"),
        ("", "file with no instructions"),
    ):
        with pytest.raises(DockerfileError) as caught:
            parse_onbuild(trigger, filename="D", lines=(7, 8), data=b"x")
        assert caught.value.message.startswith(message)
        assert (caught.value.source.start, caught.value.source.end) == (7, 8)


def test_a_lone_instruction_may_use_another_escape_character():
    assert parse_instruction("RUN a `\n b", escape="`").cmdline == ("a  b",)


def test_onbuild_chains_do_not_recurse():
    with pytest.raises(DockerfileError, match="Chaining"):
        one("ONBUILD " * 8000 + "RUN x")


def test_deep_json_is_an_error_not_a_crash():
    with pytest.raises(DockerfileError, match="strings only"):
        one("CMD " + "[" * 5000 + "]" * 5000)


PIECES = st.sampled_from(
    [
        *"\n\n\n\n  \\`\"'[]{}<>=,:$#-\0\t\r",
        *["FROM", "RUN", "COPY", "ADD", "ENV", "LABEL", "ARG", "CMD", "ENTRYPOINT", "EXPOSE", "VOLUME"],
        *["ONBUILD", "SHELL", "HEALTHCHECK", "WORKDIR", "USER", "STOPSIGNAL", "MAINTAINER", "AS", "NONE"],
        *["a", "b", "<<EOF", "<<-'E'", "EOF", "E", "--mount=", "--from=", "--link", "--interval=", "5s"],
        *["type=cache", "target=/x", "# escape=`", "$X", "${X:-y}", "\ufeff", "é", "\u2003", "\x85"],
    ]
)


@settings(max_examples=300)
@given(st.lists(PIECES, max_size=40).map("".join) | st.lists(PIECES, max_size=20).map(" ".join))
def test_parsing_raises_nothing_but_dockerfile_errors_on_words(text):
    _parse_or_refuse(text.encode())
    _parse_or_refuse(b"FROM a\n" + text.encode())


@given(st.binary(max_size=300))
def test_parsing_raises_nothing_but_dockerfile_errors_on_bytes(data):
    _parse_or_refuse(data)
    _parse_or_refuse(b"FROM a\nRUN " + data)


def _parse_or_refuse(data: bytes) -> None:
    file, error = parse_leniently(data)
    if error is None:
        assert file.stages
    else:
        assert error.message
