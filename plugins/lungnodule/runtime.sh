#!/bin/bash
# Installs the ONNX Runtime shared library that the plugin loads, and nothing
# else: out of pinned wheels, checked by SHA-256, into
# .cache/runtime/<name>-<version>/ of the project, with the link
# .cache/runtime/current beside it. Run again it does nothing.
#
#   plugins/lungnodule/runtime.sh [--cache FOLDER] [auto|openvino|cuda|plain]
#
# auto (the default) takes cuda where there is an NVIDIA driver, else openvino
# on x86-64, else plain. Needs python3 with pip; no Python code of the wheels runs.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # also when started by sh
set -euo pipefail

fail() { echo "runtime.sh: $*" >&2; exit 1; }

cache="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/.cache/runtime"
kind=auto
while (($#)); do
  case $1 in
    --cache) cache=${2:?--cache needs a folder}; shift 2 ;;
    auto | openvino | cuda | plain) kind=$1; shift ;;
    *) fail "unknown argument $1; use: runtime.sh [--cache FOLDER] [auto|openvino|cuda|plain]" ;;
  esac
done

arch=$(uname -m)
if [[ $kind == auto ]]; then
  kind=plain
  if [[ $arch == x86_64 ]]; then
    kind=openvino
    if [[ -e /proc/driver/nvidia/version ]] || nvidia-smi >/dev/null 2>&1; then kind=cuda; fi
  fi
fi

# Wheels as "package==version sha256". onnxruntime_go v1.27.0 asks for the C API
# of ONNX Runtime 1.24 or later. The CUDA 12 libraries work with drivers from 525.
case $kind-$arch in
  openvino-x86_64)
    name=onnxruntime-openvino-1.24.1
    wheels=("onnxruntime-openvino==1.24.1 3007c803634cc69c6d52af1dea7ce729d9bb62b9a11070fd2f959119199007a8")
    ;;
  plain-x86_64)
    name=onnxruntime-1.24.4
    wheels=("onnxruntime==1.24.4 e54ad52e61d2d4618dcff8fa1480ac66b24ee2eab73331322db1049f11ccf330")
    ;;
  plain-aarch64)
    name=onnxruntime-1.24.4
    wheels=("onnxruntime==1.24.4 046ff290045a387676941a02a8ae5c3ebec6b4f551ae228711968c4a69d8f6b7")
    ;;
  cuda-x86_64)
    name=onnxruntime-gpu-1.24.4
    wheels=(
      "onnxruntime-gpu==1.24.4 c2a698659271c28220b3f56fe9b63f70eae3b3c36afa544201bf750b929a36dc"
      "nvidia-cublas-cu12==12.9.3.13 d7d51055f161b317c7105ddaae90e71eda059026074ffef93cf7cde2886bfe72"
      "nvidia-cuda-runtime-cu12==12.9.79 25bba2dfb01d48a9b59ca474a1ac43c6ebf7011f1b0b8cc44f54eb6ac48a96c3"
      "nvidia-cuda-nvrtc-cu12==12.9.86 210cf05005a447e29214e9ce50851e83fc5f4358df8b453155d5e1918094dcb4"
      "nvidia-cudnn-cu12==9.28.0.42 9ff58b7f36dacd0a93e89f8f2957b52466889217963701daa15e577317cfa375"
      "nvidia-cufft-cu12==11.4.1.4 c67884f2a7d276b4b80eb56a79322a95df592ae5e765cf1243693365ccab4e28"
      "nvidia-curand-cu12==10.3.10.19 49b274db4780d421bd2ccd362e1415c13887c53c214f0d4b761752b8f9f6aa1e"
      "nvidia-nvjitlink-cu12==12.9.86 e3f1171dbdc83c5932a45f0f4c99180a70de9bd2718c1ab77d14104f6d7147f9"
    )
    ;;
  *) fail "there is no pinned $kind runtime for $arch; pin one in ${BASH_SOURCE[0]}, or name your own library with HILUM_ONNXRUNTIME" ;;
esac

point_current() {
  # A link is replaced by renaming another over it, so there always is one.
  ln -sfn "$name" "$cache/.current.$$"
  mv -fT "$cache/.current.$$" "$cache/current"
}

mkdir -p "$cache"
if [[ -d $cache/$name ]]; then # it appears only when complete
  point_current
  echo "ONNX Runtime is installed: $cache/$name" >&2
  exit 0
fi
python3 -m pip --version >/dev/null 2>&1 || fail "python3 with pip is needed to fetch $name; on Debian: apt-get install python3-pip"

temp=$(mktemp -d "$cache/.new.XXXXXX")
trap 'rm -rf "$temp"' EXIT
mkdir "$temp/lib"
for wheel in "${wheels[@]}"; do
  read -r package sum <<<"$wheel"
  echo "fetching $package" >&2
  rm -rf "$temp/wheel" && mkdir "$temp/wheel"
  # One fixed wheel whatever python3 is at hand: its Python part is not used.
  python3 -m pip --disable-pip-version-check download --quiet --no-deps --only-binary=:all: \
    --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none \
    --platform "manylinux_2_28_$arch" --platform "manylinux_2_27_$arch" \
    --platform "manylinux2014_$arch" --platform "manylinux_2_17_$arch" \
    --platform "manylinux2010_$arch" --platform "manylinux1_$arch" \
    --dest "$temp/wheel" "$package" || fail "$package could not be fetched; is the package index reachable?"
  file=$(echo "$temp"/wheel/*.whl)
  got=$(sha256sum "$file" | cut -d' ' -f1)
  [[ $got == "$sum" ]] || fail "$package has SHA-256 $got but $sum is pinned: it is not the file that was tested, nothing was installed"
  # Shared libraries and licences only. Some libraries are in a wheel under three
  # names: the copies become links. Left out: the Python module, the tools of
  # other devices (OpenVINO's GPU and NPU, TensorRT).
  python3 - "$file" "$temp/lib" <<'PYTHON'
import os, re, sys, zipfile

wheel, folder = sys.argv[1:]
skip = re.compile(r"pybind11|_gpu_plugin|_npu_plugin|tensorrt")
seen = {}
with zipfile.ZipFile(wheel) as archive:
    for item in sorted(archive.infolist(), key=lambda i: i.filename):
        base = os.path.basename(item.filename)
        if re.search(r"\.so(\.[0-9.]+)?$", base) and not skip.search(base):
            target, key = os.path.join(folder, base), (item.CRC, item.file_size)
            if key in seen:
                os.symlink(seen[key], target)
                continue
            seen[key] = base
        elif re.match(r"(LICENSE|ThirdPartyNotices|License)", base):
            target = os.path.join(folder, os.path.basename(wheel).split("-")[0] + "-" + base)
        else:
            continue
        with archive.open(item) as source, open(target, "wb") as out:
            while block := source.read(1 << 20):
                out.write(block)
            out.flush()
            os.fsync(out.fileno())
PYTHON
done
compgen -G "$temp/lib/libonnxruntime.so*" >/dev/null || fail "$name holds no libonnxruntime.so"
chmod 755 "$temp/lib"
# Another run may have been faster: then its folder stays.
mv -nT "$temp/lib" "$cache/$name"
point_current
echo "ONNX Runtime installed: $cache/$name" >&2
