"""Runs the official clients against the simulator, one after the other: `make clients`.

    run.py SIMULATOR NODE_FOLDER [CLIENT...]

The clients are unmodified and call the providers' real host names over TLS. Two settings that they or their runtimes
document lead them here: HTTPS_PROXY names the tunnel below, which connects every host to the simulator, and SSL_CERT_FILE,
REQUESTS_CA_BUNDLE and NODE_EXTRA_CA_CERTS name the CA of the simulator's certificate.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

import stage
import tunnel

HERE = pathlib.Path(__file__).resolve().parent
CLIENTS = {
    "msal (python)": "msal_client.py",
    "msgraph-sdk (python)": "graph_client.py",
    "okta (python)": "okta_client.py",
    "msal-node": "msal.mjs",
    "microsoft-graph-client (node)": "graph.mjs",
    "okta-sdk-nodejs": "okta.mjs",
    "okta-auth-js": "okta_auth.mjs",
}
LIMIT_S = 120


def main() -> int:
    binary, node_folder, *wanted = sys.argv[1:]
    # Node looks for packages beside the scripts.
    for script in (HERE / "node").glob("*.mjs"):
        shutil.copy(script, node_folder)
    failed = []
    with tempfile.TemporaryDirectory(prefix="parapet-clients-") as name:
        folder = pathlib.Path(name)
        directories = stage.prepare(folder)
        simulator, listen, control = start(binary, folder)
        try:
            environment = surroundings(folder, control, tunnel.start(listen))
            for client, script in CLIENTS.items():
                if wanted and not any(word in client for word in wanted):
                    continue
                set_stage(control, directories)
                if not run(client, script, node_folder, environment):
                    failed.append(client)
        finally:
            simulator.terminate()
            simulator.wait(10)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def start(binary: str, folder: pathlib.Path):
    """The simulator on free ports, once it says that it is ready."""
    command = [binary, "--tls-cert", str(folder / "host.pem"), "--tls-key", str(folder / "host.key")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    ready = process.stdout.readline().split()
    addresses = dict(word.split("=") for word in ready[1:])
    return process, addresses["listen"], f"http://{addresses['control']}"


def surroundings(folder: pathlib.Path, control: str, proxy: str) -> dict:
    authority = str(folder / "ca.pem")
    inherited = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    return inherited | {
        "HTTPS_PROXY": proxy,
        "NO_PROXY": "127.0.0.1",
        "SSL_CERT_FILE": authority,
        "REQUESTS_CA_BUNDLE": authority,
        "NODE_EXTRA_CA_CERTS": authority,
        "STAGE": str(folder / "stage.json"),
        "CONTROL": control,
    }


def set_stage(control: str, directories: list) -> None:
    call(control, "POST", "/reset", {})
    for directory in directories:
        call(control, "PUT", "/directories", directory)


def call(control: str, method: str, path: str, body) -> None:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(control + path, json.dumps(body).encode(), headers, method=method)
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30).read()


def run(client: str, script: str, node_folder: str, environment: dict) -> bool:
    """One client; its lines `ok …` and `FAIL …` come out under its name."""
    if script.endswith(".mjs"):
        command = ["node", "--import", "./proxy.mjs", script]
        where = node_folder
    else:
        command, where = [sys.executable, str(HERE / "python" / script)], HERE
    began = time.monotonic()
    try:
        ended = subprocess.run(
            command, cwd=where, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=LIMIT_S,
        )
        output, good = ended.stdout, ended.returncode == 0
    except subprocess.TimeoutExpired as late:
        output, good = (late.stdout or b"").decode() + f"FAIL not done after {LIMIT_S} s\n", False
    steps = [line for line in output.splitlines() if line.startswith(("ok ", "FAIL "))]
    for line in steps:
        word, step = line.split(" ", 1)
        print(f"{word:5}{client}: {step}", flush=True)
    good = good and bool(steps) and not any(line.startswith("FAIL ") for line in steps)
    if not good:
        print(output)
        print(f"FAIL {client} after {time.monotonic() - began:.0f} s", flush=True)
    return good


if __name__ == "__main__":
    sys.exit(main())
