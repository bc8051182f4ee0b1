"""Names of services for a cluster without a DNS of its own: the API's addresses, into dnsmasq.

usage: dns.py DIRECTORY ADDRESS, in the cluster's network namespace.
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

POLL_S = 2.0


def hosts(items: list[dict[str, Any]]) -> str:
    """Return the lines of a hosts file: a service's own address, or its pods' if it has none."""
    services = [one for one in items if one["kind"] == "Service"]
    endpoints = [one for one in items if one["kind"] == "Endpoints"]
    lines = {(_name(one), one["spec"]["clusterIP"]) for one in services}
    headless = {name for name, address in lines if address == "None"}
    lines = {(name, address) for name, address in lines if address != "None"}
    for one in endpoints:
        if _name(one) in headless:
            for subset in one.get("subsets", []):
                for address in subset.get("addresses", []):
                    lines.add((_name(one), address["ip"]))
    return "".join(f"{address} {name}\n" for name, address in sorted(lines))


def _name(one: dict[str, Any]) -> str:
    metadata = one["metadata"]
    return f"{metadata['name']}.{metadata['namespace']}.svc.cluster.local"


def _listed(kubeconfig: Path) -> list[dict[str, Any]]:
    command = ["kubectl", f"--kubeconfig={kubeconfig}", "get", "services,endpoints", "-A"]
    command += ["-o", "json"]
    found = subprocess.run(command, capture_output=True, check=True, timeout=10)
    items: list[dict[str, Any]] = json.loads(found.stdout)["items"]
    return items


def main(directory: Path, address: str) -> None:
    """Run dnsmasq and rewrite its hosts file whenever the API says something new."""
    file = directory / "hosts"
    file.touch()
    options = [f"--listen-address={address}", "--bind-interfaces", f"--addn-hosts={file}"]
    quiet = ["--no-resolv", "--no-hosts", "--local=/cluster.local/", "--local-ttl=1"]
    alone = ["--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file"]
    server = subprocess.Popen(["dnsmasq", *alone, *options, *quiet])
    while server.poll() is None:
        try:
            now = hosts(_listed(directory / "kubeconfig"))
        except (subprocess.SubprocessError, ValueError) as error:
            sys.stderr.write(f"{error}\n")
        else:
            if now != file.read_text():
                file.write_text(now)
                server.send_signal(signal.SIGHUP)
        time.sleep(POLL_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
