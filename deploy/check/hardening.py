"""What must hold of every rendered chart: rules that give findings, and charts that break one each."""

import copy
import ipaddress

import yaml

SERVICES = {
    "integration-api": {"integration.pub", "leak.pub"},
    "identity-sync-worker": {"integration.key"},
    "credential-validator": {"integration.key", "leak.key", "digest.hex"},
    "mitigation-executor": {"integration.key"},
    "audit-writer": {"checkpoint.pem"},
}
INTERNET = {"identity-sync-worker", "credential-validator", "mitigation-executor"}
SECRET_HOLDERS = INTERNET | {"audit-writer"}
NAMESPACED = {
    "Certificate",
    "CiliumNetworkPolicy",
    "ConfigMap",
    "Deployment",
    "HorizontalPodAutoscaler",
    "Ingress",
    "Job",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "PodMonitor",
    "PrometheusRule",
    "ScaledObject",
    "Service",
    "ServiceAccount",
    "TriggerAuthentication",
}
VOLUMES = {
    "projected",
    "emptyDir",
    "configMap",
    "secret",
    "csi",
    "downwardAPI",
    "persistentVolumeClaim",
    "ephemeral",
}


def component(thing):
    return thing["metadata"].get("labels", {}).get("app.kubernetes.io/component")


def config_of(objects, name):
    """The configuration of a service, as it reads it."""
    for thing in objects:
        if thing["kind"] == "ConfigMap" and component(thing) == name:
            return yaml.safe_load(thing["data"]["config.yaml"])
    return None


def files_of(pod):
    """Path below /etc/parapet of every file that a pod is given."""
    files = {}
    for volume in pod["volumes"]:
        for source in volume.get("projected", {}).get("sources", []):
            # A token of the service account is no file of anybody's Secret.
            for given in (source.get(kind) for kind in ("secret", "configMap")):
                for item in given["items"] if given else []:
                    files[item["path"]] = given
    return files


def findings(objects, values):
    """Everything that is wrong."""
    found = []
    say = found.append
    seen = set()
    for thing in objects:
        kind, name = thing["kind"], thing["metadata"]["name"]
        if (kind, name) in seen:
            say(f"{kind} {name} is there twice")
        seen.add((kind, name))
        if kind not in NAMESPACED:
            say(f"{kind} {name} is of the whole cluster, or unknown to this check")
        if thing["metadata"].get("namespace") != "identity":
            say(f"{kind} {name} names no namespace")
        if len(name) > 63:
            say(f"{kind} {name} has too long a name")
        if kind == "ServiceAccount" and thing.get("automountServiceAccountToken") is not False:
            say(f"{name} mounts a token")
    deployed = {component(t): t for t in objects if t["kind"] == "Deployment"}
    if set(deployed) != set(SERVICES):
        say(f"the deployments are {sorted(deployed)}")
    for name, thing in deployed.items():
        found += deployment(name, thing, objects)
        found += pod(name, thing["spec"]["template"]["spec"])
    for thing in objects:
        if thing["kind"] == "Job":
            found += pod("migration", thing["spec"]["template"]["spec"])
            if thing["spec"].get("backoffLimit") != 0 or not thing["spec"].get("activeDeadlineSeconds"):
                say("the migration is repeated, or may take for ever")
    if values.get("networkPolicy", {}).get("enabled", True):
        found += policies(objects, values)
    return found


def pod(name, spec):
    found = []
    need = lambda holds, what: None if holds else found.append(f"{name}: {what}")
    security = spec.get("securityContext", {})
    need(
        security.get("runAsNonRoot") is True and security.get("runAsUser") == 65532,
        "runs as root, or as whoever",
    )
    need(security.get("seccompProfile", {}).get("type") == "RuntimeDefault", "has no seccomp profile")
    need(spec.get("automountServiceAccountToken") is False, "mounts a token")
    need(spec.get("enableServiceLinks") is False, "is told of all services by variables")
    need(
        not any(spec.get(f) for f in ("hostNetwork", "hostPID", "hostIPC")),
        "shares a namespace with its node",
    )
    for volume in spec["volumes"]:
        need(set(volume) - {"name"} <= VOLUMES, f"has a volume {sorted(volume)}")
        need("emptyDir" not in volume or volume["emptyDir"].get("sizeLimit"), f"{volume['name']} has no size")
        need(
            volume.get("projected", {}).get("defaultMode", 0o440) == 0o440,
            "files can be read by others, or be written",
        )
    for container in spec.get("initContainers", []) + spec["containers"]:
        here = container["name"]
        security = container.get("securityContext", {})
        need(security.get("allowPrivilegeEscalation") is False, f"{here} may gain privileges")
        need(security.get("readOnlyRootFilesystem") is True, f"{here} can write to its root")
        need(security.get("capabilities") == {"drop": ["ALL"]}, f"{here} has capabilities")
        need(not security.get("privileged"), f"{here} is privileged")
        resources = container.get("resources", {})
        need({"cpu", "memory"} <= set(resources.get("requests", {})), f"{here} requests no cpu or memory")
        need("memory" in resources.get("limits", {}), f"{here} has no limit of memory")
        need(
            ":latest" not in container["image"] and ":" in container["image"].split("/")[-1],
            f"{here} has no fixed image",
        )
        need(
            not any("valueFrom" in v for v in container.get("env", [])),
            f"{here} has a secret in its environment",
        )
        need(
            all(m.get("readOnly") for m in container["volumeMounts"] if m["name"] == "files"),
            f"{here} can write its files",
        )
        if name in SECRET_HOLDERS:
            limit = resources.get("limits", {}).get("memory")
            need(
                limit == resources.get("requests", {}).get("memory"),
                f"{here} may be killed for want of memory",
            )
    return found


def deployment(name, thing, objects):
    found = []
    need = lambda holds, what: None if holds else found.append(f"{name}: {what}")
    spec, template = thing["spec"], thing["spec"]["template"]["spec"]
    need(
        spec["strategy"].get("rollingUpdate") == {"maxUnavailable": 0, "maxSurge": 1},
        "a rollout takes a pod away first",
    )
    need(spec.get("minReadySeconds", 0) >= 10, "a rollout hurries")
    config = config_of(objects, name)
    grace, drain = (config["common"]["lifecycle"][f] for f in ("grace_seconds", "drain_seconds"))
    need(template["terminationGracePeriodSeconds"] > grace + 7 > drain, "is killed before it has ended")
    if name == "credential-validator":
        need(grace >= 50, "a started attempt may need 50 s")
    if name == "integration-api":
        need(drain >= 5, "callers have no time to notice")
    container = template["containers"][0]
    ports = {p["name"] for p in container["ports"]}
    for probe, path in (
        ("startupProbe", "/livez"),
        ("livenessProbe", "/livez"),
        ("readinessProbe", "/readyz"),
    ):
        get = container.get(probe, {}).get("httpGet", {})
        need(
            get == {"path": path, "port": "http"} and "http" in ports,
            f"{probe} is not {path} of the plain port",
        )
    keys = {path.split("/")[1] for path in files_of(template) if path.startswith("keys/")}
    vaulted = {
        f"{p}.key"
        for p, source in config.get("keys", {}).items()
        if isinstance(source, dict) and "vault" in source
    }
    need(keys == SERVICES[name] - vaulted, f"is given {sorted(keys)}")
    scaled = any(
        t["kind"] in ("ScaledObject", "HorizontalPodAutoscaler") and component(t) == name for t in objects
    )
    need(scaled != ("replicas" in spec), "replicas are set by two")
    budget = [t for t in objects if t["kind"] == "PodDisruptionBudget" and component(t) == name]
    need(
        len(budget) == (1 if scaled or spec.get("replicas", 0) > 1 else 0),
        "has a budget for one pod, or none for several",
    )
    for one in budget:
        need(
            one["spec"].get("maxUnavailable") == 1 and "minAvailable" not in one["spec"],
            "its budget can block a drain",
        )
        need(one["spec"].get("unhealthyPodEvictionPolicy") == "AlwaysAllow", "broken pods block a drain")
    return found


def policies(objects, values):
    found = []
    need = lambda holds, what: None if holds else found.append(what)
    by = {component(t): t["spec"] for t in objects if t["kind"] == "NetworkPolicy"}
    everything = by.get(None, {})
    need(
        everything.get("policyTypes") == ["Ingress", "Egress"] and "ingress" not in everything,
        "not everything is denied",
    )
    need(
        "app.kubernetes.io/component" not in everything.get("podSelector", {}).get("matchLabels", {}),
        "some pods are left out",
    )
    need(
        all({p["port"] for p in rule["ports"]} == {53} for rule in everything.get("egress", [])),
        "all may reach more than names",
    )
    cilium = values.get("networkPolicy", {}).get("cilium", {}).get("enabled", False)
    for name in SERVICES:
        spec = by.get(name)
        if spec is None:
            found.append(f"{name} has no network policy")
            continue
        wide = []
        for rule in spec["egress"]:
            for peer in rule.get("to") or []:
                block = peer.get("ipBlock", {})
                if block and ipaddress.ip_network(block["cidr"]).prefixlen < 8:
                    wide.append((block, rule["ports"]))
        need(
            bool(wide) == (name in INTERNET and not cilium),
            f"{name}: the Internet is open, or not where it must be",
        )
        for block, ports in wide:
            need([p["port"] for p in ports] == [443], f"{name} reaches the Internet beside port 443")
            need(
                block["cidr"] != "0.0.0.0/0" or "169.254.0.0/16" in block.get("except", []),
                f"{name} reaches metadata",
            )
        for rule in spec.get("ingress", []):
            if [p["port"] for p in rule["ports"]] == [8443] and name != "integration-api":
                callers = [
                    p.get("podSelector", {}).get("matchLabels", {}).get("app.kubernetes.io/component")
                    for p in rule["from"]
                ]
                need(callers == ["integration-api"], f"{name} is called by {callers}")
        if cilium and (name in INTERNET or name == "integration-api"):
            hosts = [t for t in objects if t["kind"] == "CiliumNetworkPolicy" and component(t) == name]
            need(
                len(hosts) == 1 and any("toFQDNs" in r for r in hosts[0]["spec"]["egress"]),
                f"{name} names no hosts",
            )
    return found


def _at(objects, kind, name, change):
    changed = copy.deepcopy(objects)
    for thing in changed:
        if thing["kind"] == kind and component(thing) == name:
            change(thing)
    return changed


def broken(objects):
    """Charts that differ from a good one by one protection."""
    template = lambda t: t["spec"]["template"]["spec"]
    first = lambda t: template(t)["containers"][0]
    validator = lambda change: _at(objects, "Deployment", "credential-validator", change)
    yield "root", validator(lambda t: template(t)["securityContext"].update(runAsUser=0))
    yield "seccomp", validator(lambda t: template(t)["securityContext"].pop("seccompProfile"))
    yield "token", validator(lambda t: template(t).pop("automountServiceAccountToken"))
    yield "host network", validator(lambda t: template(t).update(hostNetwork=True))
    yield (
        "host path",
        validator(lambda t: template(t)["volumes"].append({"name": "x", "hostPath": {"path": "/"}})),
    )
    yield "tmp without a size", validator(lambda t: template(t)["volumes"][1].update(emptyDir={}))
    yield "escalation", validator(lambda t: first(t)["securityContext"].pop("allowPrivilegeEscalation"))
    yield "writable root", validator(lambda t: first(t)["securityContext"].pop("readOnlyRootFilesystem"))
    yield "capabilities", validator(lambda t: first(t)["securityContext"].pop("capabilities"))
    yield "overcommitted memory", validator(lambda t: first(t)["resources"]["limits"].update(memory="1Gi"))
    yield (
        "secret in a variable",
        validator(lambda t: first(t).update(env=[{"name": "P", "valueFrom": {"secretKeyRef": {}}}])),
    )
    yield "latest", validator(lambda t: first(t).update(image="x:latest"))
    yield (
        "liveness by the database",
        validator(lambda t: first(t)["livenessProbe"]["httpGet"].update(path="/readyz")),
    )
    yield "short grace", validator(lambda t: template(t).update(terminationGracePeriodSeconds=30))
    yield "rollout", validator(lambda t: t["spec"]["strategy"]["rollingUpdate"].update(maxUnavailable=1))
    leak = {"secret": {"name": "k", "items": [{"key": "leak.key", "path": "keys/leak.key"}]}}
    yield (
        "leak key for the executor",
        _at(
            objects,
            "Deployment",
            "mitigation-executor",
            lambda t: template(t)["volumes"][0]["projected"]["sources"].append(leak),
        ),
    )
    yield (
        "budget that blocks",
        _at(objects, "PodDisruptionBudget", "audit-writer", lambda t: t["spec"].update(maxUnavailable=0)),
    )
    yield (
        "budget for the healthy",
        _at(
            objects,
            "PodDisruptionBudget",
            "audit-writer",
            lambda t: t["spec"].pop("unhealthyPodEvictionPolicy"),
        ),
    )
    world = {"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"port": 443}]}
    yield (
        "the Internet for the audit writer",
        _at(objects, "NetworkPolicy", "audit-writer", lambda t: t["spec"]["egress"].append(world)),
    )
    yield (
        "metadata for the validator",
        _at(
            objects,
            "NetworkPolicy",
            "credential-validator",
            lambda t: [
                p["ipBlock"].pop("except", None)
                for r in t["spec"]["egress"]
                for p in r.get("to") or []
                if "ipBlock" in p
            ],
        ),
    )
    yield (
        "anybody calls the executor",
        _at(
            objects,
            "NetworkPolicy",
            "mitigation-executor",
            lambda t: [r.update({"from": [{"podSelector": {}}]}) for r in t["spec"]["ingress"]],
        ),
    )
    yield "no default", [t for t in objects if not (t["kind"] == "NetworkPolicy" and component(t) is None)]
    yield (
        "cluster role",
        objects + [{"kind": "ClusterRole", "metadata": {"name": "x", "namespace": "identity"}}],
    )
    yield "repeated migration", _at(objects, "Job", "migration", lambda t: t["spec"].update(backoffLimit=6))
