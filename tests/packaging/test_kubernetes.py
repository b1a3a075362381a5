"""packaging/kubernetes: built by kustomize, held against the API's schema, and each pod run as processes."""

import os
import socket
import subprocess
import unittest
import urllib.error
import urllib.request

import kubernetes_validate
import yaml

from client import Client
from cluster import Pod, kustomize, manifests
from machine import Machine, until
from repository import PACKAGING, skipped

PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
# The oldest release that is promised to work (sidecars are on by default since 1.29), and the newest that is known.
RELEASES = ["1.29", "1.37"]


class Files(unittest.TestCase):
    def test_the_schema_of_the_api_knows_every_field_before_anything_is_built(self):
        count = 0
        for file in (PACKAGING / "kubernetes").rglob("*.yaml"):
            for it in yaml.safe_load_all(file.read_text()):
                if it["kind"] != "Kustomization":
                    kubernetes_validate.validate(it, RELEASES[-1], strict=True)
                    count += 1
        self.assertGreaterEqual(count, 8)


@unittest.skipUnless(kustomize(), "neither kustomize nor kubectl is on PATH")
class Manifests(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.objects, _ = manifests({})

    def of(self, kind):
        return [it for it in self.objects if it["kind"] == kind]

    def pods(self):
        return [it["spec"]["template"] for it in self.of("Deployment") + self.of("StatefulSet")]

    def test_the_schema_of_the_api_knows_every_field(self):
        for release in RELEASES:
            for it in self.objects:
                with self.subTest(release=release, kind=it["kind"], name=it["metadata"]["name"]):
                    kubernetes_validate.validate(it, release, strict=True)
        broken = dict(self.of("Service")[0], spec={"prots": []})
        with self.assertRaises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(broken, RELEASES[-1], strict=True)

    def test_a_service_reaches_the_pods_of_its_own_route_and_no_others(self):
        for service in self.of("Service"):
            wanted = service["spec"]["selector"].items()
            reached = [pod for pod in self.pods() if wanted <= pod["metadata"]["labels"].items()]
            self.assertEqual(len(reached), 1, service["metadata"]["name"])
            ports = [port["name"] for it in reached[0]["spec"]["containers"] for port in it["ports"]]
            self.assertIn(service["spec"]["ports"][0]["targetPort"], ports)
        for route in self.of("StatefulSet"):
            self.assertEqual(route["spec"]["replicas"], 1)
            self.assertEqual(route["spec"]["serviceName"], route["metadata"]["name"])
            self.assertTrue([it for it in self.of("Service") if it["metadata"]["name"] == route["metadata"]["name"]])

    def test_only_mcp_authd_is_let_in_to_a_route(self):
        policies = {it["metadata"]["name"]: it["spec"] for it in self.of("NetworkPolicy")}
        for pod in self.pods():
            fitting = [it for it in policies.values() if it["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()]
            self.assertEqual(len(fitting), 1)
            self.assertEqual(fitting[0]["policyTypes"], ["Ingress", "Egress"])
        [rule] = policies["serena"]["ingress"]
        [peer] = rule["from"]
        wanted = peer["podSelector"]["matchLabels"].items()
        let_in = [it["metadata"]["name"] for it in self.of("Deployment") + self.of("StatefulSet")
                  if wanted <= it["spec"]["template"]["metadata"]["labels"].items()]
        self.assertEqual(let_in, ["mcp-authd"])

    def test_pods_are_what_the_restricted_profile_allows(self):
        [namespace] = self.of("Namespace")
        self.assertEqual(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted")
        for pod in self.pods():
            context = pod["spec"]["securityContext"]
            self.assertTrue(context["runAsNonRoot"])
            self.assertEqual(context["seccompProfile"], {"type": "RuntimeDefault"})
            self.assertFalse(pod["spec"]["automountServiceAccountToken"])
            for container in pod["spec"]["containers"] + pod["spec"].get("initContainers", []):
                own = container["securityContext"]
                self.assertIs(own["allowPrivilegeEscalation"], False)
                self.assertEqual(own["capabilities"], {"drop": ["ALL"]})
                self.assertIn("memory", container["resources"]["limits"])

    def test_nobody_but_the_snapshots_has_the_key_of_the_bucket(self):
        for pod in self.pods():
            for container in pod["spec"]["containers"]:
                self.assertNotIn("envFrom", container)
        holders = [it["name"] for pod in self.pods() for it in pod["spec"].get("initContainers", []) if "envFrom" in it]
        self.assertEqual(holders, ["snapshotd", "snapshotd"])


@unittest.skipUnless(kustomize(), "neither kustomize nor kubectl is on PATH")
class Pods(unittest.TestCase):
    def test_a_token_leads_to_the_route_of_its_owner_through_crashes_and_a_new_disk(self):
        with Machine() as machine, Store(machine) as store:
            objects, token = manifests(store.settings)
            [authd] = [it for it in objects if it["kind"] == "Deployment"]
            [alice] = [it for it in objects if (it["kind"], it["metadata"]["name"]) == ("StatefulSet", "serena-alice")]
            route = Pod(machine, objects, alice).start()
            for spec in route.spec["initContainers"] + route.spec["containers"]:
                self.assertEqual(route.probe(spec, "livenessProbe"), 200, spec["name"])
            # The name under which mcp-authd asks for it is known, others are not.
            named = Client(machine.port(9121), host="serena-alice:9121").open()
            named.call("tools/list")
            self.assertEqual(Client(machine.port(9121), host="serena-bob:9121").post(PING)[0], 421)
            # Another pod has this port for itself; here both share a machine.
            machine.forget_port(9464)
            front = Pod(machine, objects, authd).start()
            client = Client(machine.port(9120), token, host="mcp.example.org").open()
            client.call("tools/list")
            self.assertEqual(Client(machine.port(9120), host="mcp.example.org").post(PING)[0], 401)
            for name, container in route.containers.items():
                container.crash()
                container.start()
                client.call("tools/list")
            home = route.volumes["state"] / "home"
            (home / "serena_config.yml").write_text("projects: []\n")
            route.stop()
            self.assertTrue(store.has("serena-alice-0/HEAD"))
            # The pod is back elsewhere, on an empty disk; a call waits for it.
            (home / "serena_config.yml").unlink()
            subprocess.run(["rm", "-rf", route.volumes["state"]], check=True)
            route.volumes["state"].mkdir()
            route.start()
            client.call("tools/list")
            self.assertEqual((home / "serena_config.yml").read_text(), "projects: []\n")
            front.stop()
            route.stop()

    def test_every_setting_is_checked_by_its_own_daemon(self):
        with Machine() as machine:
            objects, _ = manifests({})
            for workload in [it for it in objects if it["kind"] in ("Deployment", "StatefulSet")]:
                pod = Pod(machine, objects, workload)
                for container in [*pod.sidecars.values(), *pod.containers.values()]:
                    flags = [word for word in container.command[1:] if word not in ("run", "serve")]
                    if "--observe" in flags and container.command[0] != "mcp-sessiond":
                        at = flags.index("--observe")
                        del flags[at:at + 2]
                    code, said = container.run([container.command[0], "check", *flags])
                    self.assertEqual(code, 0, f"{container.name}: {said}")


class Store:
    """A bucket of moto, or a directory where that is not installed."""

    def __init__(self, machine):
        self.process, self.address = None, None
        self.directory = machine.directory("bucket")
        moto = os.environ.get("MOTO")
        if not moto:
            skipped("snapshots of a pod to a bucket because moto is not installed (tests/setup)")
            self.settings = {"SNAPSHOT_STORE": f"file://{self.directory}"}
            return
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        with (machine.root / "moto.log").open("w") as log:
            self.process = subprocess.Popen([moto, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
        self.settings = {
            "SNAPSHOT_STORE": "s3://serena-state/homes", "AWS_ENDPOINT_URL_S3": self.address,
            "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}

    def __enter__(self):
        if self.address:
            until("moto answers", lambda: self._ask("PUT", "/serena-state") == 200)
        return self

    def __exit__(self, *_):
        if self.process:
            self.process.terminate()
            self.process.wait()

    def has(self, key):
        if self.address:
            return self._ask("HEAD", f"/serena-state/homes/{key}") == 200
        return (self.directory / key).is_file()

    def _ask(self, method, path):
        # It wants to see whose request this is; it checks no signature.
        scope = "Credential=testing/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
        headers = {"Authorization": f"AWS4-HMAC-SHA256 {scope}"}
        request = urllib.request.Request(self.address + path, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None


def load_tests(_loader, tests, _pattern):
    if not kustomize():
        skipped("packaging/kubernetes because neither kustomize nor kubectl is on PATH")
    return tests


if __name__ == "__main__":
    unittest.main()
