#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in one run: trains, exports, compares PyTorch and ONNX Runtime on CUDA with the CPU,
# builds and runs engines of whatever TensorRT is installed, runs the tests marked gpu, and prints one table. A section that
# cannot run here is skipped with the reason; a failed one does not stop the others.
#
#   scripts/gpu_check.sh [FOLDER]     keeps what it makes in FOLDER; PYTHON=... chooses the interpreter
#
# Exit code: 0 every section passed; 1 one failed; 2 none failed, but some could not run here.
set -uo pipefail

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${1:-.}" || exit 1
work=$(cd "${1:-$(mktemp -d "${TMPDIR:-/tmp}/gpu_check.XXXXXX")}" && pwd) || exit 1
cd "$here/.." || exit 1
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=$(command -v "$python" || command -v python3) || { echo "no python3 here; set PYTHON" >&2; exit 1; }
mkdir -p "$work/logs"
rows=()
failed=0 skipped=0

# section NAME COMMAND...: exit code 0 is passed, 77 skipped (as Automake has it), anything else failed. The last line that
# the command prints is the detail.
section() {
  local name=$1 log="$work/logs/${1//[^A-Za-z0-9]/_}.log" start=$SECONDS state detail
  shift
  printf '%s ... ' "$name" >&2
  "$@" >"$log" 2>&1 </dev/null
  case $? in
    0) state=passed ;;
    77) state=skipped skipped=1 ;;
    *) state=failed failed=1 ;;
  esac
  detail=$(grep -v '^[[:space:]]*$' "$log" | tail -n 1 | cut -c1-220)
  rows+=("| $name | $state | $((SECONDS - start)) s | ${detail//|//} |")
  echo "$state: $detail" >&2
}

dmdkit() { "$python" -m dmdkit.cli "$@"; }
py() { "$python" scripts/gpu_sections.py "$1" "$work" "${@:2}"; }
have() { "$python" -c "import $1" 2>/dev/null; }
skip() { echo "$*"; return 77; }

gpu() {
  command -v nvidia-smi >/dev/null || { skip "no NVIDIA driver: nvidia-smi is not here (a Jetson has none: see the engine sections)"; return; }
  nvidia-smi --query-gpu=name,driver_version,compute_cap,clocks.max.sm,power.limit --format=csv,noheader
}

sample() { dmdkit data sample --out "$work/sample.npz" --force; }

train_on_cuda() {
  py torch_cuda || return
  sample && dmdkit train --data "$work/sample.npz" --config small --out "$work/run" --device cuda --force &&
    tail -n 1 "$work/run/history.csv"
}

# Without CUDA the sections after it still need a run: two epochs on the CPU.
a_run() {
  [ -f "$work/run/model.safetensors" ] && { echo "the one trained on CUDA"; return; }
  have torch || { skip "torch is not installed (extra 'train')"; return; }
  sample && dmdkit train --data "$work/sample.npz" --config small --out "$work/run" --device cpu --epochs 2 --force &&
    echo "two epochs on the CPU"
}

export_run() {
  [ -f "$work/run/model.safetensors" ] || { skip "no run: the section before did not make one"; return; }
  have onnxscript || { skip "onnxscript is not installed (extra 'export')"; return; }
  local forms=()
  have modelopt && forms=(--int8 --fp16)
  dmdkit export "$work/run" "${forms[@]}" --out "$work/check.dmd" --force
  local code=$?
  [ "$code" -eq 0 ] || [ "$code" -eq 2 ] || return "$code"
  local said="exported"
  [ "$code" -eq 2 ] && said+="; a verdict did not pass on this little training, see the log"
  [ "${#forms[@]}" -eq 0 ] && said+=" in fp32 alone: modelopt is not installed (extra 'quantize')"
  echo "$said"
}

gpu_tests() {
  have pytest || { skip "pytest is not installed (extra 'dev')"; return; }
  "$python" -m pytest -q -rs -m gpu tests
  local code=$?
  [ "$code" -eq 0 ] && ! "$python" -c 'from dmdkit.runtime.engines.gpu import find_gpu; find_gpu()' 2>/dev/null && return 77
  return "$code"
}

rm -rf "$work/run" "$work/check.dmd" "$work/words" "$work/words.dmd" # what an earlier call left must not pass for this one's
section "GPU" gpu
section "PyTorch CUDA" py torch_cuda
section "train on CUDA" train_on_cuda
section "a run" a_run
section "export" export_run
section "PyTorch parity, CUDA against CPU" py torch_parity
section "ONNX Runtime CUDA" py onnxruntime_cuda
for precision in fp32 fp16 int8; do section "engine $precision" py engine "$precision"; done
section "a text encoder" py text_bundle
for precision in fp32 fp16 int8; do section "words, engine $precision" py engine "$precision" words.dmd; done
section "tests marked gpu" gpu_tests

echo
echo "$(date -u +%Y-%m-%d), $(uname -m), $("$python" -c 'import dmdkit; print("dmdkit", dmdkit.__version__)' 2>/dev/null || echo "dmdkit is not installed")"
echo
echo "| section | state | time | detail |"
echo "|---|---|---|---|"
printf '%s\n' "${rows[@]}"
echo
echo "logs: $work/logs"
[ "$failed" -eq 1 ] && exit 1
[ "$skipped" -eq 1 ] && exit 2
exit 0
