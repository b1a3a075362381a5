"""The example overlay as kustomize builds it, with the two files that each user makes, and its pods as processes."""

import base64
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import yaml

from machine import until
from repository import BINARIES, PACKAGING


def kustomize():
    """The command that builds an overlay, or None; neither asks a cluster."""
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    return ["kubectl", "kustomize"] if shutil.which("kubectl") else None


def manifests(store):
    """What `kubectl apply -k` would send, and alice's token; `store` are lines of s3.env that win over the example's."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "kubernetes"
        shutil.copytree(PACKAGING / "kubernetes", copy)
        example = copy / "overlays/example"
        token = subprocess.run(
            [BINARIES / "mcp-authd", "token", "new", "alice", "--tokens", example / "tokens.toml"],
            check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True).stdout.strip()
        lines = dict(line.split("=", 1) for line in (example / "s3.env.example").read_text().splitlines()) | store
        (example / "s3.env").write_text("".join(f"{name}={value}\n" for name, value in lines.items() if value))
        built = subprocess.run([*kustomize(), example], check=True, stdout=subprocess.PIPE, text=True)
        return list(yaml.safe_load_all(built.stdout)), token


class Pod:
    """One pod of a Deployment or StatefulSet: its containers on one machine, with the volumes that they share."""

    def __init__(self, machine, objects, workload):
        self.machine, self.objects = machine, objects
        self.name, self.spec = f"{workload['metadata']['name']}-0", workload["spec"]["template"]["spec"]
        claims = [claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])]
        self.volumes = {name: self._directory(name) for name in claims}
        for volume in self.spec["volumes"]:
            self.volumes[volume["name"]] = self._volume(volume)
        self.sidecars = {it["name"]: self._container(it) for it in self.spec.get("initContainers", [])}
        self.containers = {it["name"]: self._container(it) for it in self.spec["containers"]}

    def object(self, kind, name):
        """The one of that name, which must be there."""
        found = [it for it in self.objects if (it["kind"], it["metadata"]["name"]) == (kind, name)]
        assert len(found) == 1, f"{kind} {name}: {len(found)} of them"
        return found[0]

    def start(self):
        """Sidecars first, each until its startup probe is content; then the others, until they are ready."""
        for spec in self.spec.get("initContainers", []):
            assert spec["restartPolicy"] == "Always"
            self.sidecars[spec["name"]].start().healthy(spec["startupProbe"]["exec"]["command"])
        for container in self.containers.values():
            container.start()
        for spec in self.spec["containers"]:
            container = self.containers[spec["name"]]
            until(f"{container.name} is ready", lambda: container.alive() and self.probe(spec, "readinessProbe") == 200)
        return self

    def probe(self, spec, kind):
        """What the kubelet would hear; the port has a name that the container declares."""
        asked = spec[kind]["httpGet"]
        ports = {port["name"]: port["containerPort"] for port in spec["ports"]}
        container = {**self.sidecars, **self.containers}[spec["name"]]
        return container.answers(ports[asked["port"]], asked["path"])

    def stop(self):
        """The kubelet's order: sidecars last."""
        for container in [*self.containers.values(), *self.sidecars.values()]:
            code = container.stop()
            assert code == 0, f"{container.name}: {code}: {container.said()}"

    def _directory(self, name):
        directory = self.machine.directory(f"{self.name}/{name}")
        # As `fsGroup` leaves a volume: of the group, and handed down.
        directory.chmod(0o2777)
        return directory

    def _volume(self, volume):
        directory = self._directory(volume["name"])
        if "configMap" in volume:
            files = self.object("ConfigMap", volume["configMap"]["name"])["data"]
        elif "secret" in volume:
            data = self.object("Secret", volume["secret"]["secretName"])["data"]
            files = {name: base64.b64decode(value).decode() for name, value in data.items()}
        else:
            assert "emptyDir" in volume, volume
            return directory
        # As the kubelet has it: files in a directory of their own, which links lead to.
        mode = volume.get("secret", {}).get("defaultMode", 0o644)
        (directory / "..data").mkdir()
        for name, text in files.items():
            (directory / "..data" / name).write_text(text)
            (directory / "..data" / name).chmod(mode)
            (directory / name).symlink_to(f"..data/{name}")
        return directory

    def _container(self, spec):
        environment = {}
        for source in spec.get("envFrom", []):
            data = self.object("Secret", source["secretRef"]["name"])["data"]
            environment |= {name: base64.b64decode(value).decode() for name, value in data.items()}
        for variable in spec.get("env", []):
            assert variable["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}, variable
            environment[variable["name"]] = self.name
        # The machine has a /tmp of its own, in which all of this is.
        mounts = {it["mountPath"]: self.volumes[it["name"]] for it in spec["volumeMounts"] if it["mountPath"] != "/tmp"}
        words = [re.sub(r"\$\((\w+)\)", lambda it: environment[it[1]], word) for word in spec["args"]]
        container = self.machine.container(f"{self.name}-{spec['name']}", words, mounts, environment)
        for path in (self.volumes["config"] / "..data").glob("*.toml"):
            path.write_text(container.moved(path.read_text()))
        return container
