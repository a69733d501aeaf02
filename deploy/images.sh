#!/usr/bin/env bash
# Build the container images without a container engine: deploy/images.sh sidecar | engine | lock [FOLDER]
# Results lie in FOLDER (build/images): an OCI archive and its bill of materials. Needs root, and Debian's buildah and mmdebstrap.
#   BASE=NAME@sha256:…   a base of your own instead of the one that mmdebstrap makes here
#   SNAPSHOT=20261126T000000Z   take Debian as it was then, from snapshot.debian.org, so that the base can be made again to the byte
#   SOURCE_DATE_EPOCH    the time in everything that is made; by default that of the last commit
#   CUDA=1               the engine for NVIDIA; by default the build for CPUs
#   LOCK=FILE            the engine of exactly these wheels: the .lock that an earlier build left beside its archive
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-} out=${2:-build/images}
python=${PYTHON:-.venv/bin/python}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/barograph/images
version=$("$python" -c 'import monitor; print(monitor.__version__)')
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 1767225600)}
export SOURCE_DATE_EPOCH

# Layers by overlay where the kernel lets us mount one, else by copies of all files.
driver=vfs
try=$(mktemp -d)
if mkdir "$try/a" "$try/b" "$try/c" "$try/all" &&
    unshare --mount mount -t overlay overlay -o "lowerdir=$try/a,upperdir=$try/b,workdir=$try/c" "$try/all" 2>/dev/null; then
    driver=overlay
fi
rm -rf "$try"
images() { buildah --root "$cache/$driver" --runroot "$cache/run-$driver" --storage-driver "$driver" "$@"; }

need() {
    for tool; do
        command -v "$tool" >/dev/null || { echo "needs $tool; on Debian: apt install buildah mmdebstrap" >&2; exit 2; }
    done
}

lock() { # every version as constraints.txt has it, with the hashes of all its files
    "$(dirname "$python")/uv" pip compile --quiet --no-header --no-annotate --generate-hashes --python-version 3.11 --python-platform linux \
        --extra sidecar --extra audit --extra otel --constraint constraints.txt --output-file deploy/images/sidecar.lock pyproject.toml
}

# A Debian with these packages, as an image; its digest is what the build is pinned to. Names it.
base() {
    local packages=$1 name tar container mirror=()
    if [ -n "${BASE:-}" ]; then
        case $BASE in *@sha256:*) ;; *) echo "BASE is '$BASE'; expected NAME@sha256:DIGEST, as a tag can be moved" >&2; exit 2 ;; esac
        echo "$BASE"
        return
    fi
    if [ -n "${SNAPSHOT:-}" ]; then
        mirror=("deb [check-valid-until=no] http://snapshot.debian.org/archive/debian/$SNAPSHOT bookworm main"
            "deb [check-valid-until=no] http://snapshot.debian.org/archive/debian-security/$SNAPSHOT bookworm-security main")
    fi
    name=localhost/barograph-base:$(echo "$packages ${SNAPSHOT:-$(date +%Y%m%d)}" | sha256sum | cut -c1-12)
    if ! images inspect "$name" >/dev/null 2>&1; then
        echo "base: Debian 12 with $packages" >&2
        tar=$(mktemp "$cache/base.XXXXXX.tar")
        mmdebstrap --quiet --variant=minbase --include="$packages" \
            --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$tar" "${mirror[@]}" >&2
        container=$(images from scratch)
        images add --quiet "$container" "$tar" / >/dev/null
        images commit --quiet --rm --timestamp "$SOURCE_DATE_EPOCH" "$container" "$name" >/dev/null
        rm -f "$tar"
    fi
    echo "${name%:*}@$(images images --format '{{.Digest}}' "$name" | head -1)"
}

# The wheel of this tree, from its files alone, and its hash behind the lock's.
wheel() {
    local context=$1 place
    place=$(mktemp -d)
    cp -r monitor probes rules pyproject.toml README.md LICENSE "$place"
    find "$place" -name __pycache__ -prune -exec rm -rf {} +
    "$python" -m build --wheel --outdir "$context/wheels" "$place" >"$place/log" 2>&1 || { tail -20 "$place/log" >&2; exit 1; }
    rm -rf "$place"
    sha256sum "$context/wheels/barograph-$version"-*.whl | cut -d' ' -f1
}

wheels() { # what the lock names, fetched once
    local locked=$1 folder
    folder=$cache/wheels-$(sha256sum "$locked" | cut -c1-12)
    if [ ! -d "$folder" ]; then
        "$python" -m pip --disable-pip-version-check --quiet download --require-hashes --no-deps --only-binary :all: --python-version 3.11 \
            --requirement "$locked" --dest "$folder.part"
        mv "$folder.part" "$folder"
    fi
    echo "$folder"
}

sidecar() {
    local context wheel_sha256 base
    context=$(mktemp -d "$cache/context.XXXXXX")
    # shellcheck disable=SC2064
    trap "rm -rf '$context'" EXIT
    base=$(base python3.11,python3-pip,ca-certificates)
    cp -r "$(wheels deploy/images/sidecar.lock)" "$context/wheels"
    wheel_sha256=$(wheel "$context")
    { cat deploy/images/sidecar.lock; echo "barograph==$version --hash=sha256:$wheel_sha256"; } >"$context/requirements.txt"
    cp deploy/images/rootfs.sh "$context"
    build sidecar "$context" "$base" --build-arg "WHEEL_SHA256=$wheel_sha256"
}

# What deploy/venv-vllm.sh installs beside this wheel, resolved and fetched once.
engine_wheels() {
    local kind=$1 folder
    local fetch=("$python" -m pip --disable-pip-version-check --quiet download --only-binary :all: --python-version 3.11)
    if [ -n "${LOCK:-}" ]; then
        folder=$cache/wheels-engine-$(sha256sum "$LOCK" | cut -c1-12)
        [ -d "$folder" ] || { "${fetch[@]}" --require-hashes --no-deps --requirement "$LOCK" --dest "$folder.part" && mv "$folder.part" "$folder"; }
    else
        folder=$cache/wheels-engine-$kind-$(sha256sum pyproject.toml deploy/venv-vllm.sh | sha256sum | cut -c1-12)
        if [ ! -d "$folder" ]; then
            mkdir -p "$folder.part"
            "$python" -m deploy.images.requirements "$kind" "$folder.part" >"$folder.txt"
            "${fetch[@]}" --find-links "$folder.part" --requirement "$folder.txt" --dest "$folder.part"
            mv "$folder.part" "$folder"
        fi
    fi
    echo "$folder"
}

engine() {
    local context base wheel_sha256 kind=cpu
    if [ -n "${CUDA:-}" ]; then kind=cuda; fi
    context=$(mktemp -d "$cache/context.XXXXXX")
    # shellcheck disable=SC2064
    trap "rm -rf '$context'" EXIT
    base=$(base python3.11,python3.11-venv,python3-pip,python3.11-dev,g++,ca-certificates)
    mkdir "$context/wheels"
    ln "$(engine_wheels $kind)"/*.whl "$context/wheels"
    mkdir -p "$out"
    "$python" -m deploy.images.requirements lock "$context/wheels" >"$out/barograph-engine-$version-$kind.lock"
    wheel_sha256=$(wheel "$context")
    { cat "$out/barograph-engine-$version-$kind.lock"; echo "barograph==$version --hash=sha256:$wheel_sha256"; } >"$context/requirements.txt"
    build engine "$context" "$base" --build-arg "WHEEL_SHA256=$wheel_sha256" --build-arg "VLLM=$kind"
}

# Build, write the archive and the bill of materials, and say what came out.
build() {
    local kind=$1 context=$2 base=$3 archive sbom layout
    shift 3
    archive=$out/barograph-$kind-$version.oci.tar sbom=$out/barograph-$kind-$version.cdx.json
    mkdir -p "$out"
    images build --quiet --isolation chroot --layers=false --timestamp "$SOURCE_DATE_EPOCH" --format oci \
        --build-arg "BASE=$base" --build-arg "VERSION=$version" --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)" "$@" \
        --file "deploy/images/$kind.Containerfile" --tag "localhost/barograph-$kind:$version" "$context" >"$out/$kind.log" 2>&1 ||
        { tail -40 "$out/$kind.log" >&2; exit 1; }
    rm -f "$archive"
    images rmi --prune >/dev/null 2>&1 || true # what this name stood for before
    images push --quiet "localhost/barograph-$kind:$version" "oci-archive:$archive:barograph-$kind:$version"
    layout=$(mktemp -d "$cache/layout.XXXXXX") # of an archive syft reads no file beyond 2 GB; of a folder it does
    tar -C "$layout" -xf "$archive"
    "$(dirname "$python")/syft" scan --quiet "oci-dir:$layout" --output "cyclonedx-json=$sbom"
    rm -rf "$layout"
    "$python" -m deploy.images.archive "$archive" "$sbom"
}

mkdir -p "$cache"
case $what in
    sidecar) need buildah mmdebstrap; sidecar ;;
    engine) need buildah mmdebstrap; engine ;;
    lock) lock ;;
    *) sed -n 2,8p "$0" >&2; exit 2 ;;
esac
