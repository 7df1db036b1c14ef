"""The shell patterns of `${name#pattern}` and its like."""

from __future__ import annotations

from anyarch.errors import DockerfileError

__all__ = ["Glob"]

_STAR = "*"
_ANY = "?"


class Glob:
    """A shell pattern of `*`, `?`, escapes and literal characters; no wildcard takes a line feed.

    Tokens are one character each, literals with a backslash in front. Matching advances a set of pattern
    positions over the text: linear in both, whatever the pattern (a backtracking engine takes ages on
    `*a*a*a*a*b`).
    """

    __slots__ = ("tokens",)

    def __init__(self, pattern: str) -> None:
        self.tokens: list[str] = []
        pos = 0
        while pos < len(pattern):
            char = pattern[pos]
            pos += 1
            if char == "\\":
                escaped = pattern[pos : pos + 1]
                pos += 1
                # } and / are delimiters of the substitution; the rest that may be escaped is what has a
                # meaning.
                if not escaped or escaped not in "}/*?\\":
                    shown = escaped or "\ufffd"
                    raise DockerfileError(
                        f"invalid pattern ({pattern}) in substitution: invalid escape '\\{shown}'"
                    )
                self.tokens.append("\\" + escaped)
            elif char in (_STAR, _ANY):
                self.tokens.append(char)
            else:
                self.tokens.append("\\" + char)

    def ends(self, text: str, start: int, tokens: list[str], *, longest: bool) -> int:
        """Where the match that begins at `start` ends, -1 without one."""
        final = len(tokens)
        states = self.closure({0}, tokens)
        found = start if final in states else -1
        if found >= 0 and not longest:
            return found
        for pos in range(start, len(text)):
            char = text[pos]
            following = set()
            for state in states:
                if state < final:
                    token = tokens[state]
                    if token == _STAR:
                        if char != "\n":
                            following.add(state)
                    elif (char != "\n") if token == _ANY else token[1] == char:
                        following.add(state + 1)
            if not following:
                break
            states = self.closure(following, tokens)
            if final in states:
                found = pos + 1
                if not longest:
                    return found
        return found

    @staticmethod
    def closure(states: set[int], tokens: list[str]) -> set[int]:
        for state in tuple(states):
            position = state
            while position < len(tokens) and tokens[position] == _STAR:
                position += 1
                states.add(position)
        return states

    def without_prefix(self, value: str, *, longest: bool) -> str:
        end = self.ends(value, 0, self.tokens, longest=longest)
        return value[end:] if end > 0 else value

    def without_suffix(self, value: str, *, longest: bool) -> str:
        end = self.ends(value[::-1], 0, self.tokens[::-1], longest=longest)
        return value[: len(value) - end] if end > 0 else value

    def replaced(self, value: str, replacement: str, *, everywhere: bool) -> str:
        out: list[str] = []
        pos = copied = 0
        previous_end = -1
        while pos <= len(value):
            end = self.ends(value, pos, self.tokens, longest=True)
            # An empty match right behind another match does not count.
            if end < 0 or (end == pos and pos == previous_end):
                pos += 1
                continue
            out.append(value[copied:pos])
            out.append(replacement)
            copied = previous_end = end
            if not everywhere:
                break
            pos = end if end > pos else pos + 1
        out.append(value[copied:])
        return "".join(out)
