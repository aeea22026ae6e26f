#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes an arm64 machine to test on: the op library, cross-compiled, and a Debian root with Python and
# ONNX Runtime's aarch64 wheel, which qemu runs. Everything lands in the folder that is given; the
# cross compiler and qemu alone are installed, where they are missing and this user may.
set -euo pipefail
source=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$1/apt/lists/partial" "$1/apt/archives/partial" "$1/debs" "$1/root/proc" "$1/site"
cd "$1"

# Python and what its modules and onnxruntime link to.
packages="libc6 libstdc++6 libgcc-s1 python3.11-minimal libpython3.11-minimal libpython3.11-stdlib
    libexpat1 zlib1g libssl3 libffi8 libbz2-1.0 liblzma5 libcrypt1 libsqlite3-0 libuuid1"

if ! command -v aarch64-linux-gnu-g++ >/dev/null || ! command -v qemu-aarch64-static >/dev/null; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "arm64 needs: apt-get install g++-aarch64-linux-gnu qemu-user-static" >&2
        exit 1
    fi
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
        g++-aarch64-linux-gnu qemu-user-static >/dev/null
fi

if [ ! -x root/usr/bin/python3.11 ]; then
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" \
        "http://deb.debian.org/debian bookworm main" >apt/sources.list
    options=(-q -oAPT::Architecture=arm64 -oAPT::Architectures=arm64 -oDir::State::status=/dev/null
        -oDir::Etc::sourcelist="$PWD/apt/sources.list" -oDir::Etc::sourceparts=-
        -oDir::State::lists="$PWD/apt/lists" -oDir::Cache="$PWD/apt" -oAPT::Sandbox::User=root)
    apt-get "${options[@]}" update >/dev/null
    (cd debs && apt-get "${options[@]}" download $packages >/dev/null)
    for package in debs/*.deb; do dpkg -x "$package" root; done
    # qemu shows the host's /proc/cpuinfo, on which onnxruntime crashes.
    printf 'processor\t: 0\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd0b\n\n' \
        >root/proc/cpuinfo
fi

if [ ! -d site/onnxruntime ]; then
    "$source/.venv/bin/python" -m pip download -qq --disable-pip-version-check -d wheels \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
        --platform manylinux2014_aarch64 --only-binary=:all: --python-version 3.11 \
        onnxruntime numpy
    for wheel in wheels/*.whl; do python3 -m zipfile -e "$wheel" site; done
fi

"$source/.venv/bin/cmake" -S "$source" -B library -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
    -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
    -DCMAKE_MAKE_PROGRAM="$source/.venv/bin/ninja" >/dev/null
"$source/.venv/bin/cmake" --build library >build.log || { cat build.log; exit 1; }
