"""The line protocol that every client program of this folder speaks.

The program prints `ready` once it is connected. Then each line on stdin is one order, carried out before the next is read:
`{"call": "tool", "arguments": {...}}`, `{"list": true}` or `{"quit": true}`. Each of the first two prints one line,
`{"ok": text}` or `{"error": text}`. When the client library itself dies, the program says so as an error and exits 1.
"""

import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

CALL_SECONDS = 150
"""How long one call may take; longer than the longest tool of any story (90 s)."""


def headers() -> dict[str, str]:
    """What goes with every request: `$MCP_TOKEN` as a bearer token, if it is set."""
    token = os.environ.get("MCP_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


class ToolError(Exception):
    """The tool ran and said that it failed (`isError`)."""


def say(line: str) -> None:
    print(line, flush=True)


def text_of(result: Any) -> str:
    """All text of a `tools/call` result; a failed tool is an error here."""
    failed = getattr(result, "isError", None) or getattr(result, "is_error", None)
    text = "".join(getattr(block, "text", "") for block in result.content)
    if failed:
        raise ToolError(text)
    return text


def names_of(result: Any) -> str:
    """The names in a `tools/list` result, in the server's order."""
    return ", ".join(tool.name for tool in result.tools)


def sentence(error: BaseException) -> str:
    """One line for an error; groups are named by what is in them."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(sentence(inner) for inner in error.exceptions)
    return f"{type(error).__name__}: {error}"


async def obey(
    call: Callable[[str, dict[str, Any]], Awaitable[Any]], list_tools: Callable[[], Awaitable[Any]]
) -> None:
    """Carries out orders until `quit` or the end of stdin."""
    say("ready")
    while line := await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        order = json.loads(line)
        if order.get("quit"):
            return
        try:
            if "call" in order:
                answer = {"ok": text_of(await call(order["call"], order.get("arguments", {})))}
            else:
                answer = {"ok": names_of(await list_tools())}
        except Exception as error:
            answer = {"error": sentence(error)}
        say(json.dumps(answer, ensure_ascii=False))


def run(main: Callable[[str], Awaitable[None]]) -> None:
    """Runs `main` with the URL from argv."""
    try:
        anyio.run(main, sys.argv[1])
    except Exception as error:
        say(json.dumps({"error": f"the client died: {sentence(error)}"}))
        sys.exit(1)
