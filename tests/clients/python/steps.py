"""Steps of a client test: each prints one line, a failed one its traceback too, and the rest goes on."""

import contextlib
import json
import os
import sys
import traceback
import urllib.parse
import urllib.request

STAGE = json.load(open(os.environ["STAGE"]))
_failed = []


@contextlib.contextmanager
def step(name: str):
    """`ok name` or `FAIL name: why`."""
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        print(f"FAIL {name}: {type(error).__name__}: {error}".splitlines()[0], flush=True)
        _failed.append(name)
    else:
        print(f"ok {name}", flush=True)


def finish() -> None:
    """Ends the process; the status says whether a step failed."""
    sys.exit(1 if _failed else 0)


def equal(found, wanted) -> None:
    """Fails unless both are the same."""
    if found != wanted:
        raise AssertionError(f"{found!r} instead of {wanted!r}")


def control(method: str, path: str, body=None):
    """A call to the simulator's control port."""
    data = json.dumps(body if body is not None else {}).encode() if method != "GET" else None
    request = urllib.request.Request(os.environ["CONTROL"] + path, data, method=method)
    request.add_header("Content-Type", "application/json")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        return json.load(answer)


def account(directory: str, login: str, suffix: str = "") -> str:
    """The control port's path of an account."""
    return f"/directories/{directory}/accounts/{urllib.parse.quote(login)}{suffix}"
