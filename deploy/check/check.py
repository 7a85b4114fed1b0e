"""Checks the chart without a cluster: `make check-deploy`. With --update it writes the golden files anew.

Lint, render of every file of values twice, strict schemas (Kubernetes' own at the oldest, a middle and the
newest version; custom resources by their published types and TypeScript's compiler), hardening, golden files,
the real services' check of the configuration that the chart makes, and the alert rules with their cases.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import helm_python as helm
import kubernetes_validate
import yaml

import hardening

HERE = pathlib.Path(__file__).parent
DEPLOY = HERE.parent
VERSIONS = ["1.27", "1.32", "1.37"]
KNOWN_SECOND_HAND = {"CiliumNetworkPolicy"}
FROM_ELSEWHERE = {"rabbitmq_queue_messages"}
TYPES = {
    "Certificate": "cert-manager/cert-manager.io/v1/Certificate",
    "ScaledObject": "keda/keda.sh/v1alpha1/ScaledObject",
    "TriggerAuthentication": "keda/keda.sh/v1alpha1/TriggerAuthentication",
    "PodMonitor": "prometheus-operator/monitoring.coreos.com/v1/PodMonitor",
    "PrometheusRule": "prometheus-operator/monitoring.coreos.com/v1/PrometheusRule",
}

passed, failures = 0, []


def check(holds, what):
    global passed
    if holds:
        passed += 1
    else:
        failures.append(what)
        print(f"FAILED {what}", file=sys.stderr)


def objects_of(rendered):
    """Every object, in an order of its own."""
    found = []
    for path in sorted(rendered):
        if path.endswith((".yaml", ".yml")):
            found += [thing for thing in yaml.safe_load_all(rendered[path]) if thing]
    return sorted(found, key=lambda t: (t["kind"], t["metadata"]["name"]))


def render(chart, values):
    return chart.render(values, name="parapet", namespace="identity")


def kubernetes(name, objects):
    """Kubernetes' own kinds, strictly, at several versions; returns the others."""
    others = []
    for thing in objects:
        if thing["kind"] in TYPES or thing["kind"] in KNOWN_SECOND_HAND:
            others.append(thing)
            continue
        for version in VERSIONS:
            what = f"{name}: {thing['kind']} {thing['metadata']['name']} fits Kubernetes {version}"
            try:
                kubernetes_validate.validate(thing, version, strict=True)
                check(True, what)
            except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
                check(False, f"{what}: {getattr(error, 'message', error)}")
    return others


def custom(resources, npm):
    """Custom resources as literals of their published types: an unknown field is an error of the compiler."""
    lines = [f'import type {{ I{kind} }} from "@kubernetes-models/{path}";' for kind, path in TYPES.items()]
    typed = [(name, thing) for name, thing in resources if thing["kind"] in TYPES]
    first = len(lines) + 1
    for place, (_, thing) in enumerate(typed):
        lines.append(f"export const r{place}: I{thing['kind']} = {json.dumps(thing)};")
    # A control: the compiler must complain about this one.
    lines.append(
        "export const control: IPodMonitor = "
        '{ apiVersion: "monitoring.coreos.com/v1", kind: "PodMonitor", spek: {} };'
    )
    source = npm / "resources.ts"
    source.write_text("\n".join(lines) + "\n")
    flags = "--noEmit --strict --skipLibCheck --module nodenext --moduleResolution nodenext".split()
    run = subprocess.run(
        ["node", npm / "node_modules/typescript/bin/tsc", *flags, source.name],
        cwd=npm,
        capture_output=True,
        text=True,
    )
    complaints = {}
    for line in run.stdout.splitlines():
        at = re.match(r"resources\.ts\((\d+),", line)
        if at:
            complaints.setdefault(int(at[1]) - first, []).append(line)
        elif line and not line.startswith(" "):
            check(False, line)
    check(complaints.pop(len(typed), None), "the compiler finds an unknown field of a custom resource")
    for place, (name, thing) in enumerate(typed):
        what = f"{name}: {thing['kind']} {thing['metadata']['name']} fits its published type"
        check(place not in complaints, f"{what}: {complaints.get(place)}")


def configurations(name, objects, programs):
    """Gives each service the files that its pod would have, and its own opinion of them."""
    for thing in objects:
        if thing["kind"] != "Deployment":
            continue
        service, pod = hardening.component(thing), thing["spec"]["template"]["spec"]
        container = pod["containers"][0]
        env = {variable["name"]: variable["value"] for variable in container.get("env", [])}
        with tempfile.TemporaryDirectory() as directory:
            etc = pathlib.Path(directory)
            text = yaml.dump(hardening.config_of(objects, service)).replace("/etc/parapet", directory)
            # Vault's token is brought by an agent; it is no file of the chart.
            (etc / "config.yaml").write_text(text)
            run = lambda: subprocess.run(
                [programs / service, "--config", etc / "config.yaml", "--check-config"],
                capture_output=True,
                text=True,
                env=env,
            )
            bare = run()
            files = [path for path in hardening.files_of(pod) if path != "config.yaml"]
            unnamed = [path for path in files if f"{directory}/{path}" not in bare.stderr]
            check(
                bare.returncode == 2 and not unnamed,
                f"{name}: {service} without files names each of them, not {unnamed}: {bare.stderr}",
            )
            for path in files:
                (etc / path).parent.mkdir(exist_ok=True)
                (etc / path).write_text("x")
            full = run()
            check(full.returncode == 0, f"{name}: {service} takes its configuration: {full.stderr}")


class Readable(yaml.SafeDumper):
    """Texts of several lines as such."""


Readable.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


def golden(name, objects, update):
    text = "---\n".join(yaml.dump(thing, Dumper=Readable, sort_keys=True, width=120) for thing in objects)
    file = HERE / "golden" / f"{name}.yaml"
    if update:
        file.write_text(text)
    same = file.exists() and file.read_text() == text
    check(
        same,
        f"{name}: is rendered as golden/{name}.yaml says (read the difference, then ARGS=--update)",
    )


def refusals(chart, good):
    """What is missing is named at once, and what does not exist is refused."""

    def said(values):
        try:
            render(chart, values)
            return ""
        except helm.HelmError as error:
            return str(error)

    text = said({})
    for path in [
        "database.host",
        "broker.host",
        "api.publicUrl",
        "oidc.issuer",
        "oidc.audience",
        "tls.certManager.issuerRef.name",
        "networkPolicy.issuer",
    ]:
        check(
            f"{path}: " in text,
            f"an installation without {path} is refused together with all the rest: {text}",
        )

    def changed(path, value):
        values = json.loads(json.dumps(good))
        at = values
        *parents, last = path.split("/")
        for part in parents:
            at = at.setdefault(part, {})
        at[last] = value
        return values

    for path, value, says in [
        ("databse", {}, "databse"),
        ("services/credential-validator/replica", 3, "replica"),
        ("services/credential-validator/replicas", 5, "5 processes that take 25 % each"),
        ("services/integration-api/drainSeconds", 50, "services.integration-api.drainSeconds"),
        ("image/digests", {"integration-api": "sha256:1"}, "digests"),
        ("autoscaling/credential-validator", {"enabled": True}, "autoscaling.keda.prometheus.serverAddress"),
        ("keys/vault", {"leek": {}}, "keys.vault.leek"),
        ("api/services", [{"san": "a", "roles": ["viewer"]}], "api.tls.clientCa.secret"),
        ("oidc/issuer", "http://issuer.example.com", "issuer"),
    ]:
        text = said(changed(path, value))
        check(says in text, f"{path} = {value} is refused, and said why: {text or 'it was rendered'}")


def operators():
    """The examples for the operators: Kubernetes' own kinds strictly; the others are read, and no more."""
    for file in sorted((DEPLOY / "operators").glob("*.yaml")):
        objects = [thing for thing in yaml.safe_load_all(file.read_text()) if thing]
        check(objects, f"{file.name} has objects")
        for thing in objects:
            if thing["apiVersion"] in ("v1", "policy/v1"):
                kubernetes_validate.validate(thing, VERSIONS[-1], strict=True)
            check(
                "/" in thing["apiVersion"] or thing["apiVersion"] == "v1",
                f"{file.name}: {thing['kind']} has a version",
            )


def readme(chart):
    """The values that the page shows are values that install."""
    blocks = re.findall(r"```yaml\n(.*?)```", (DEPLOY / "README.md").read_text(), re.DOTALL)
    shown = [yaml.safe_load(block) for block in blocks if block.startswith("image:")]
    check(len(shown) == 1, "the page shows one set of values")
    for values in shown:
        found = hardening.findings(objects_of(render(chart, values)), values)
        check(not found, f"the values that the page shows: {found}")


def alerts(npm):
    """Every rule has a page and two cases, one in which it fires, and names what the code exports."""
    rules = sorted((DEPLOY / "alerts").glob("*.yaml"))
    tests = sorted((DEPLOY / "alerts" / "tests").glob("*.yaml"))
    fires, quiet = set(), set()
    for file in tests:
        for case in yaml.safe_load(file.read_text())["tests"]:
            for test in case["alert_rule_test"]:
                (fires if test["exp_alerts"] else quiet).add(test["alertname"])
    sources = " ".join(file.read_text() for file in DEPLOY.parent.glob("crates/*/src/**/*.rs"))
    exported = set(re.findall(r'(?:counter|gauge|histogram)!\(\s*"(\w+)"', sources)) | FROM_ELSEWHERE
    check(len(exported) > 40, f"the code exports metrics: {len(exported)}")
    for file in rules:
        for group in yaml.safe_load(file.read_text())["groups"]:
            for rule in group["rules"]:
                name = rule["alert"]
                check(
                    name in fires and name in quiet,
                    f"{name} has a case in which it fires and one in which it does not",
                )
                page = rule["annotations"].get("runbook_url", "")
                check((DEPLOY.parent / page).is_file() and page.endswith(f"/{name}.md"), f"{name} has a page")
                named = set(re.findall(r"\b(?:parapet|rabbitmq)_\w+", rule["expr"]))
                check(
                    named and named <= exported,
                    f"{name} asks for {sorted(named - exported)}, which nothing exports",
                )
                check(rule["labels"].get("severity") in ("critical", "warning"), f"{name} says how bad it is")
    pages = {page.stem for page in (DEPLOY / "runbooks").glob("*.md")}
    check(pages == fires, f"pages and alerts are the same: {sorted(pages ^ fires)}")
    promtool = shutil.which("promtool") or shutil.which("promtool", path=npm / "prometheus/usr/bin")
    if promtool:
        for verb, files in (("check", rules), ("test", tests)):
            run = subprocess.run([promtool, verb, "rules", *files], capture_output=True, text=True)
            check(run.returncode == 0, f"promtool {verb} rules: {run.stdout}{run.stderr}")
    else:
        print("promtool is not there: the alert rules were not run", file=sys.stderr)


def main():
    npm, programs = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    update = "--update" in sys.argv[3:]
    chart = helm.Chart.load(DEPLOY / "chart")
    resources = []
    sets = {file.stem: yaml.safe_load(file.read_text()) for file in sorted((HERE / "values").glob("*.yaml"))}
    check(len(sets) >= 6, "at least six sets of values")
    for name, values in sets.items():
        report = helm.lint(
            DEPLOY / "chart", values, strict=True, namespace="identity", kube_version=f"v{VERSIONS[-1]}.0"
        )
        bad = [m for m in report["messages"] if m["severity"] >= 2] + report["errors"]
        check(not bad, f"{name}: lint: {bad}")
        rendered = render(chart, values)
        check(rendered == render(chart, values), f"{name}: is rendered the same twice")
        objects = objects_of(rendered)
        resources += [(name, thing) for thing in kubernetes(name, objects)]
        for finding in hardening.findings(objects, values):
            check(False, f"{name}: {finding}")
        check(True, f"{name}: hardening")
        configurations(name, objects, programs)
        golden(name, objects, update)
    custom(resources, npm)
    smallest = objects_of(render(chart, sets["smallest"]))
    for what, objects in hardening.broken(smallest):
        check(hardening.findings(objects, sets["smallest"]), f"a chart with this fault is found: {what}")
    refusals(chart, sets["smallest"])
    operators()
    readme(chart)
    alerts(npm)
    print(f"check-deploy: {passed} passed, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    os.environ.pop("KUBECONFIG", None)
    sys.exit(main())
