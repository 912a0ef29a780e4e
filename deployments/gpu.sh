#!/usr/bin/env bash
# Everything that a GPU machine without raster libraries and Prefect can run: weights for a release, the five
# rows, both schedules, the baselines and the frontier. A call that was ended goes on from its last checkpoint.
#   OUT=results deployments/gpu.sh [STEPS] [SEEDS]
# Needs Python with the packages torch, torchvision, lightning, numpy, scipy, pydantic, pyyaml, safetensors and
# pillow. PYTHON names the interpreter, FORM the form of the release, RELEASE_STEPS its steps (0: none), ONLY the
# experiments, LIMIT_S the seconds after which to stop and keep what there is.
set -euo pipefail
cd "$(dirname "$0")/.."
STEPS=${1:-3000}
SEEDS=${2:-3}
OUT=${OUT:?the folder for weights and tables}
PYTHON=${PYTHON:-python3}
FORM=${FORM:-slopewatch-s2}
RELEASE_STEPS=${RELEASE_STEPS:-$((2 * STEPS))}
ONLY=${ONLY:-five-rows baselines schedules}
LIMIT_S=${LIMIT_S:-0}    # 0: none
export PYTHONPATH=$PWD OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PYTHONUNBUFFERED=1

networks() {
  local left=0
  if [ "$LIMIT_S" -gt 0 ]; then
    left=$((LIMIT_S - SECONDS))
    [ "$left" -gt 0 ] || { echo "the time is up: the same call goes on" >&2; exit 124; }
  fi
  timeout --signal=INT --kill-after=20 "$left" "$PYTHON" -m components.evaluation.networks \
    --config deployments/gpu.yaml --work "$OUT/trainings" --out "$OUT/experiments" "$@"
}

mkdir -p "$OUT"
WEIGHTS=()
if [ "$RELEASE_STEPS" -gt 0 ]; then
  networks --steps "$RELEASE_STEPS" --release "$OUT/release" --set "train.model=$FORM"
  WEIGHTS=(--weights "$FORM=$OUT/release/weights.safetensors")
fi
for name in $ONLY; do
  networks --only "$name" --steps "$STEPS" --seeds "$SEEDS"
done
# One training of each form stands on the frontier, beside the weights of the release.
SEEN=" $FORM "
for file in "$OUT"/trainings/*-s0-*/weights.safetensors; do
  [ -f "$file" ] || continue
  folder=$(basename "$(dirname "$file")")
  name=${folder%-s0-*}
  case "$SEEN" in *" $name "*) continue ;; esac
  SEEN="$SEEN$name "
  WEIGHTS+=(--weights "$name=$file")
done
[ "${#WEIGHTS[@]}" -eq 0 ] || networks --only frontier "${WEIGHTS[@]}"
