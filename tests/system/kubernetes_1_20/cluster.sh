#!/usr/bin/env bash
# A real single-node Kubernetes in a network namespace of its own, from what build.sh built.
#   cluster.sh up DIRECTORY | down DIRECTORY | run DIRECTORY COMMAND...
# It has no network plug-in, so NetworkPolicies are accepted and not enforced.
set -euo pipefail
verb="${1:?usage: cluster.sh up|down|run DIRECTORY}"
build="$(cd "${2:?a directory that build.sh filled}" && pwd)"
here="$(cd "$(dirname "$0")" && pwd)"
run="$build/run" namespace=lookahead-k8s node=10.98.0.1 pods=10.97.0.1/16 services=10.96.0.0/16
export DOCKER_HOST="unix://$run/docker.sock"
inside=(nsenter "--net=/run/netns/$namespace")

start() { # NAME PROGRAM ARGUMENT...
    local name=$1
    shift
    "${inside[@]}" setsid "$@" >"$run/$name.log" 2>&1 &
    echo $! >"$run/$name.pid"
}

wait_for() { # SECONDS COMMAND...
    local seconds=$1
    shift
    for _ in $(seq "$seconds"); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 1
    done
    echo "gave up after $seconds s: $*" >&2
    exit 1
}

kubectl_() { "${inside[@]}" kubectl --kubeconfig "$run/kubeconfig" "$@"; }
node_is_ready() { kubectl_ get nodes | grep -q ' Ready'; }

certificate() { # NAME SUBJECT ALTERNATIVE_NAMES
    openssl req -newkey rsa:2048 -nodes -keyout "$run/$1.key" -subj "$2" -out "$run/$1.csr" 2>/dev/null
    openssl x509 -req -in "$run/$1.csr" -CA "$run/ca.crt" -CAkey "$run/ca.key" -CAcreateserial \
        -days 30 -out "$run/$1.crt" -extfile <(echo "subjectAltName=$3") 2>/dev/null
}

configure() {
    openssl req -x509 -newkey rsa:2048 -nodes -keyout "$run/ca.key" -days 30 -subj /CN=ca \
        -out "$run/ca.crt" 2>/dev/null
    openssl genrsa -out "$run/accounts.key" 2048 2>/dev/null
    openssl rsa -in "$run/accounts.key" -pubout -out "$run/accounts.pub" 2>/dev/null
    certificate apiserver /CN=kube-apiserver \
        "DNS:kubernetes.default.svc,DNS:localhost,IP:127.0.0.1,IP:10.96.0.1,IP:$node"
    certificate admin /O=system:masters/CN=admin DNS:admin
    cat >"$run/kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://$node:6443", certificate-authority: $run/ca.crt}}]
users: [{name: u, user: {client-certificate: $run/admin.crt, client-key: $run/admin.key}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
YAML
    cat >"$run/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
enforceNodeAllocatable: []
failSwapOn: false
authentication: {anonymous: {enabled: false}, webhook: {enabled: false}, x509: {clientCAFile: $run/ca.crt}}
authorization: {mode: AlwaysAllow}
clusterDNS: [$node]
clusterDomain: cluster.local
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
YAML
    # Where a container may not lower its OOM score, no pod would start.
    cat >"$run/runc-wrapper" <<'PYTHON'
#!/usr/bin/env python3
import json, os, pathlib, sys
if "--bundle" in sys.argv:
    config = pathlib.Path(sys.argv[sys.argv.index("--bundle") + 1], "config.json")
    if config.exists():
        spec = json.loads(config.read_text())
        spec["process"]["oomScoreAdj"] = max(0, spec["process"].get("oomScoreAdj", 0))
        config.write_text(json.dumps(spec))
os.execvp("runc", ["runc", *sys.argv[1:]])
PYTHON
    chmod +x "$run/runc-wrapper"
}

pause_image() {
    cat >"$run/pause.c" <<'C'
#include <signal.h>
#include <unistd.h>
static void leave(int number) { _exit(0); }
int main(void) { signal(SIGTERM, leave); signal(SIGINT, leave); for (;;) pause(); }
C
    gcc -static -O1 -o "$run/pause" "$run/pause.c"
    tar -C "$run" -c pause | docker import --change 'CMD ["/pause"]' - pause:local >/dev/null
}

network() {
    ip netns add "$namespace"
    "${inside[@]}" ip link set lo up
    "${inside[@]}" ip link add node0 type bridge
    "${inside[@]}" ip address add "$node/24" dev node0
    "${inside[@]}" ip link set node0 up
    "${inside[@]}" ip route add default via 10.98.0.254 dev node0
}

up() {
    mkdir -p "$run"
    [ -e "$run/ca.crt" ] || configure
    network
    start etcd "$build/bin/etcd" --data-dir "$run/etcd" --unsafe-no-fsync
    start apiserver "$build/bin/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 \
        --service-cluster-ip-range=$services --advertise-address=$node \
        --authorization-mode=Node,RBAC --client-ca-file="$run/ca.crt" \
        --tls-cert-file="$run/apiserver.crt" --tls-private-key-file="$run/apiserver.key" \
        --service-account-issuer=https://kubernetes --service-account-key-file="$run/accounts.pub" \
        --service-account-signing-key-file="$run/accounts.key" --allow-privileged=true \
        --kubelet-client-certificate="$run/admin.crt" --kubelet-client-key="$run/admin.key" \
        --kubelet-preferred-address-types=InternalIP
    wait_for 90 kubectl_ get --raw /readyz
    start controllers "$build/bin/kube-controller-manager" --kubeconfig="$run/kubeconfig" \
        --service-account-private-key-file="$run/accounts.key" --root-ca-file="$run/ca.crt" \
        --use-service-account-credentials=true
    start scheduler "$build/bin/kube-scheduler" --kubeconfig="$run/kubeconfig"
    start dockerd dockerd --data-root "$run/docker" --exec-root "$run/exec" \
        --pidfile "$run/docker.pid" -H "$DOCKER_HOST" --storage-driver overlay2 --bip $pods \
        --add-runtime wrapped="$run/runc-wrapper" --default-runtime wrapped \
        --exec-opt native.cgroupdriver=cgroupfs
    wait_for 60 docker info
    docker image inspect pause:local >/dev/null 2>&1 || pause_image
    start kubelet "$build/bin/kubelet" --kubeconfig="$run/kubeconfig" \
        --config="$run/kubelet.yaml" --container-runtime=docker --docker-endpoint="$DOCKER_HOST" \
        --pod-infra-container-image=pause:local --hostname-override=node1 --node-ip=$node \
        --root-dir="$run/kubelet" --cert-dir="$run/kubelet-certificates" --network-plugin=
    start proxy "$build/bin/kube-proxy" --kubeconfig="$run/kubeconfig" --hostname-override=node1 \
        --conntrack-max-per-core=0 --proxy-mode=iptables --cluster-cidr=10.97.0.0/16
    start dns python3 "$here/dns.py" "$run" $node
    wait_for 120 node_is_ready
    kubectl_ get nodes
}

end() { # NAME...
    for name in "$@"; do
        if [ -e "$run/$name.pid" ]; then kill "$(cat "$run/$name.pid")" 2>/dev/null || true; fi
    done
}

down() {
    end dns proxy kubelet
    sleep 1
    docker ps -q 2>/dev/null | xargs -r docker kill >/dev/null || true
    end scheduler controllers apiserver etcd dockerd
    sleep 3
    awk -v run="$run/" 'index($2, run) == 1 {print $2}' /proc/mounts | sort -r | xargs -r -n1 umount -l
    ip netns del "$namespace"
}

case "$verb" in
up) up ;;
down) down ;;
run) KUBECONFIG="$run/kubeconfig" "${inside[@]}" "${@:3}" ;;
*) echo "no such verb: $verb" >&2 && exit 2 ;;
esac
