"""Drains a directory of each provider from the simulator, page by page, and prints rates and the simulator's memory.

    ~/.cache/parapet/tools/clients/python/bin/python tests/clients/drain.py target/release/idp-simulator 1000000
"""

import http.client
import json
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.parse
import uuid

import jwt

import run
import stage

SELECT = (
    "id,userPrincipalName,displayName,mail,otherMails,proxyAddresses,accountEnabled,userType,"
    "lastPasswordChangeDateTime,onPremisesSyncEnabled"
)


MEMORY = ("VmRSS", "VmHWM")


class Client:
    """One connection, and the headers of the directory that is drained."""

    def __init__(self, process, listen: str):
        self.process, self.base = process, f"http://{listen}"
        self.connection = http.client.HTTPConnection(listen)
        self.headers = {}

    def call(self, method: str, path: str, form=None):
        body = urllib.parse.urlencode(form) if form else None
        kind = {"Content-Type": "application/x-www-form-urlencoded"} if form else {}
        self.connection.request(method, path, body, {**self.headers, **kind})
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status} {text[:500]!r}")
        return answer, json.loads(text)

    def token(self, path: str, form: dict) -> None:
        self.headers = {}
        _, granted = self.call("POST", path, form)
        self.headers = {"Authorization": f"Bearer {granted['access_token']}"}

    def drain(self, what: str, path: str) -> None:
        accounts, pages, began = 0, 0, time.monotonic()
        while path:
            answer, body = self.call("GET", path)
            pages += 1
            if isinstance(body, list):  # Okta
                accounts += len(body)
                lines = [value for name, value in answer.getheaders() if name.lower() == "link"]
                links = [line[1:].split(">")[0] for line in lines if 'rel="next"' in line]
                following = links[0] if links else None
            else:
                accounts += len(body["value"])
                following = body.get("@odata.nextLink")
            path = following and following.removeprefix(self.base)
        seconds = time.monotonic() - began
        print(f"{what}: {accounts} in {pages} pages, {accounts / seconds:.0f}/s; {self.memory()}", flush=True)

    def memory(self) -> str:
        lines = pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        kib = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in lines) if name in MEMORY}
        return f"resident {kib['VmRSS'] // 1024} MiB, at the peak {kib['VmHWM'] // 1024}"


def main() -> None:
    binary, count = sys.argv[1], int(sys.argv[2])
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        tenant, org = stage.prepare(folder)
        key = (folder / "okta.pem").read_text()
        process = subprocess.Popen([binary], stdout=subprocess.PIPE, text=True)
        addresses = dict(word.split("=") for word in process.stdout.readline().split()[1:])
        try:
            org["provider"]["okta"]["buckets"] = None
            for directory in (tenant, org):
                directory["generated"]["count"] = count
                run.call(f"http://{addresses['control']}", "PUT", "/directories", directory)
            client = Client(process, addresses["listen"])
            print(f"idle: {client.memory()}")
            entra(client)
            okta(client, key)
        finally:
            process.terminate()
            process.wait(10)


def entra(client: Client) -> None:
    form = {
        "grant_type": "client_credentials",
        "client_id": stage.APP,
        "client_secret": stage.SECRET,
        "scope": f"{client.base}/graph/.default",
    }
    client.token(f"/entra-login/{stage.TENANT}/oauth2/v2.0/token", form)
    client.drain("Entra ID, list", f"/graph/v1.0/users?$top=999&$select={SELECT}")
    client.drain("Entra ID, first round of a delta", f"/graph/v1.0/users/delta?$select={SELECT}")


def okta(client: Client, key: str) -> None:
    path = "/okta/acme/oauth2/v1/token"
    app = stage.OKTA_PLAIN_APP
    claims = {"iss": app, "sub": app, "aud": client.base + path, "exp": int(time.time()) + 300, "jti": str(uuid.uuid4())}
    form = {
        "grant_type": "client_credentials",
        "scope": "okta.users.read",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": jwt.encode(claims, key, "RS256", {"kid": stage.KEY_ID}),
    }
    client.token(path, form)
    client.drain("Okta, list", "/okta/acme/api/v1/users?limit=200")


main()
