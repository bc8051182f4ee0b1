#!/usr/bin/env bash
# Build Kubernetes 1.20 from Debian's source package: the newest control plane that Debian ships as
# source. Once per machine, 15 to 40 minutes, 5 GB; needs root on Debian bookworm.
set -euo pipefail
top="$(mkdir -p "${1:?usage: build.sh DIRECTORY}" && cd "$1" && pwd)"
cd "$top"
mkdir -p apt/lists/partial apt/cache/archives/partial packages bin
keys=/usr/share/keyrings/debian-archive-keyring.gpg
for kind in deb deb-src; do
    echo "$kind [signed-by=$keys] http://deb.debian.org/debian bookworm main"
done >apt/sources.list
apt=(-o "Dir::Etc::sourcelist=$top/apt/sources.list" -o Dir::Etc::sourceparts=/nonexistent
    -o "Dir::State::lists=$top/apt/lists" -o "Dir::Cache=$top/apt/cache" -o APT::Sandbox::User=root)
apt-get "${apt[@]}" update -qq
apt-get install -y -qq --no-install-recommends docker.io iptables conntrack dnsmasq-base >/dev/null
cd packages
apt-get "${apt[@]}" source --download-only kubernetes
apt-get "${apt[@]}" download golang-1.19-go golang-1.19-src etcd-server
for package in *.deb; do dpkg -x "$package" ../unpacked; done
rm -rf ../source && dpkg-source -x --no-check kubernetes*.dsc ../source
cd ..

# Debian parts Go in two; the compiler wants one tree.
rm -rf go && cp -a unpacked/usr/lib/go-1.19 go
for link in src test api misc pkg/include; do
    rm "go/$link" && cp -a "unpacked/usr/share/go-1.19/$link" "go/$link"
done
mkdir -p path/src/k8s.io && rm -rf path/src/k8s.io/kubernetes
mv source path/src/k8s.io/kubernetes
export GOROOT="$top/go" GOPATH="$top/path" GOCACHE="$top/cache" PATH="$top/go/bin:$PATH" \
    GO111MODULE=off GOPROXY=off CGO_ENABLED=0 GOFLAGS=

# The API server serves an OpenAPI description that is generated, not shipped.
cd path/src/k8s.io/kubernetes
go build -o "$top/bin/openapi-gen" k8s.io/kubernetes/vendor/k8s.io/kube-openapi/cmd/openapi-gen
described="$(grep -rl --include=*.go '+k8s:openapi-gen=' pkg staging/src vendor | xargs -n1 dirname |
    sed 's#^staging/src/#vendor/#' | sort -u |
    grep -v 'kube-openapi/test\|testdata\|code-generator\|sample-apiserver\|apiextensions-apiserver/examples' |
    sed 's#^#k8s.io/kubernetes/#' | paste -sd,)"
"$top/bin/openapi-gen" -i "$described" -p k8s.io/kubernetes/pkg/generated/openapi \
    -O zz_generated.openapi -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt \
    -r "$top/violations.txt"
for program in kube-proxy kube-scheduler kubelet kube-controller-manager kube-apiserver; do
    go build -ldflags '-s -w' -o "$top/bin/$program" "k8s.io/kubernetes/cmd/$program"
done
cp "$top/unpacked/usr/bin/etcd" "$top/bin/"
