#!/usr/bin/env bash
# All that one GPU has to show, in order of value, within 8 minutes:
#
#   1  whether it computes what a CPU does: packed = solo, adapters, retentions, quantised bases
#   2  the plain engine, the pool and DeepSpeed (ZeRO 0, 2, 3) on it
#   5  whole commands: `doctor`, `plan`, a sweep by the pool and one by Ray Train
#   3  what a training step costs with an adapter (Llama-1B)
#   4  packed throughput beside the frozen base's ceiling (Llama-1B)
#
#   bash benchmarks/gpu_day.sh                           # writes into ./gpu_day
#   bash benchmarks/gpu_day.sh --out DIR --wheels DIR    # or $OUT and $WHEELS
#   bash benchmarks/gpu_day.sh --only 4                  # only the steps whose names begin so
#   bash benchmarks/gpu_day.sh --device cpu --tiny --slack 5   # tries every step without a GPU,
#                                                              # five times the time for each
#
# Needs Python with torch, transformers and peft, and no network. Wheels of what else a step needs
# (step 2: pydantic, deepspeed; step 5: all that the project needs; packages.json says what is
# missing) may lie in one folder, with all that they need; they are installed beside the rest, into a folder of their own.
#
# Every step keeps its JSON part by part, and has a time limit of its own: what fails or hangs stops
# no other. The exit status is 1 if any step failed.
set -u
cd "$(dirname "$0")/.." || exit 1

out=${OUT:-gpu_day} wheels=${WHEELS:-} python=${PYTHON:-python3} device=cuda tiny= slack=1 only=
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=$2; shift 2 ;;
    --wheels) wheels=$2; shift 2 ;;
    --python) python=$2; shift 2 ;;
    --device) device=$2; shift 2 ;;
    --tiny) tiny=--tiny; shift ;;
    --slack) slack=$2; shift 2 ;;
    --only) only=$2; shift 2 ;;
    -h|--help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) echo "gpu_day.sh: unknown option '$1'; it takes --out, --wheels, --python, --device, --tiny, --slack, --only" >&2; exit 2 ;;
  esac
done

whole=$((470 * slack))                      # seconds of everything, with some left of the 8 minutes
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 1
log=$out/gpu_day.log status=0
: >"$log"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
export TOKENIZERS_PARALLELISM=false
# Where no bytecode was kept, every process would compile torch and transformers anew: seconds each.
unset PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX=${TMPDIR:-/tmp}/gpu_day_bytecode

say() { echo "[$SECONDS s] $*" | tee -a "$log"; }

# step NAME SECONDS SCRIPT [OPTION...]: SCRIPT gets 10 s less, to end by itself.
step() {
  local name=$1 limit=$(($2 * slack)) script=$3 lacking code
  shift 3
  [ "${name#"$only"}" != "$name" ] || [ -z "$only" ] || return
  if [ $((whole - SECONDS)) -lt "$limit" ]; then limit=$((whole - SECONDS)); fi
  if [ "$limit" -lt 20 ]; then
    say "$name: left out, time is up"
    echo '{"left_out": "time was up"}' >"$out/$name.json"
    return
  fi
  if ! lacking=$("$python" benchmarks/gpu_packages.py --lacks "$name" 2>>"$log"); then
    say "$name: left out: $lacking"
    echo "${lacking:-{\"failed\": \"see gpu_day.log\"\}}" >"$out/$name.json"
    return
  fi
  say "$name: $limit s at most"
  timeout -k 5 "$limit" "$python" "benchmarks/$script" --json "$out/$name.json" \
    --until $(($(date +%s) + limit - 10)) "$@" 2>&1 | tee -a "$log" | cut -c1-400
  code=${PIPESTATUS[0]}
  if [ "$code" -ne 0 ]; then
    status=1
    say "$name: ended with $code"
    [ -s "$out/$name.json" ] || echo "{\"failed\": \"exit code $code, see gpu_day.log\"}" >"$out/$name.json"
  fi
}

if [ -n "$wheels" ]; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  if timeout $((60 * slack)) "$python" -m pip install -q --no-index --find-links "$wheels" --no-deps --no-compile \
    --target "$site" "$wheels"/*.whl >>"$log" 2>&1
  then export PYTHONPATH="$site:$PYTHONPATH"
  else say "the wheels in $wheels cannot be installed: see gpu_day.log"; status=1
  fi
fi
timeout $((60 * slack)) "$python" benchmarks/gpu_packages.py --json "$out/packages.json" 2>&1 | tee -a "$log"

shape=llama-1b
[ -z "$tiny" ] || shape=tiny
step 1_same 80 gpu_same.py --device "$device" $tiny
step 2_engines 90 gpu_engines.py --device "$device" $tiny
step 5_sweeps 180 gpu_sweeps.py --device "$device" $tiny --parts doctor plan pool train
step 3_adapter_step 60 adapter_step.py --shape $shape --ranks 16 --rounds 6
step 4_throughput 150 packed_gpu.py --device "$device" $tiny --rows 1 --each 1
say "done; the records are in $out"
exit $status
