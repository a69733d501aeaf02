#!/bin/sh
# Build etcd, a Kubernetes API server, its controllers and helm once, for tests, and print their folder. Needs Go, memory and many minutes. With --built it only says whether they are there.
set -eu
kubernetes=1.37.2 etcd=3.7.0 helm=4.3.1 operator=0.85.0
home=${XDG_CACHE_HOME:-$HOME/.cache}/barograph/cluster-$kubernetes-$etcd-$helm-$operator

if [ "${1:-}" = --built ]; then exec test -d "$home"; fi
if [ ! -d "$home" ]; then
    mkdir -p "$(dirname "$home")"
    place=$(mktemp -d "$home.XXXXXX")
    trap 'rm -rf "$place"' EXIT
    mkdir "$place/bin" "$place/bin/crds" "$place/kubernetes" "$place/helm"
    export CGO_ENABLED=0 GOFLAGS="-trimpath -mod=mod"
    (
        # Kubernetes replaces its parts by folders of its own repository, which nobody else has: we name their releases instead.
        cd "$place/kubernetes"
        go mod init cluster
        modfile=$(go mod download -json "k8s.io/kubernetes@v$kubernetes" | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
        sed -n 's|^\t\(k8s.io/[a-z-]*\) => ./staging/.*|\1|p' "$modfile" | while read -r part; do
            go mod edit -replace "$part=$part@v0.${kubernetes#*.}"
        done
        go get "k8s.io/kubernetes/cmd/kube-apiserver@v$kubernetes" "go.etcd.io/etcd/server/v3@v$etcd"
        # Without a version of its own a server says 0.0.0, which no chart takes. One after the other: each linker wants much memory.
        version="-X k8s.io/component-base/version.gitVersion=v$kubernetes"
        go build -ldflags "-s -w" -o ../bin/etcd go.etcd.io/etcd/server/v3
        go build -ldflags "-s -w $version" -o ../bin/kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver
        go build -ldflags "-s -w $version" -o ../bin/kube-controller-manager k8s.io/kubernetes/cmd/kube-controller-manager

        cd ../helm
        go mod init cluster
        go get "helm.sh/helm/v4/cmd/helm@v$helm"
        go build -ldflags "-s -w" -o ../bin/helm helm.sh/helm/v4/cmd/helm

        # The kinds that the operator of Prometheus brings.
        module=$(go mod download -json "github.com/prometheus-operator/prometheus-operator@v$operator" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
        for kind in servicemonitors prometheusrules; do
            cp "$module/example/prometheus-operator-crd/monitoring.coreos.com_$kind.yaml" ../bin/crds
        done
        chmod -R u+w ../bin/crds
    ) >"$place/log" 2>&1 || { tail -20 "$place/log" >&2; exit 1; }
    mv -T "$place/bin" "$home" 2>/dev/null || [ -d "$home" ] # another build was quicker
fi
echo "$home"
