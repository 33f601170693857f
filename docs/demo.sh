#!/usr/bin/env bash
# The main job end to end: `make demo`, or `docs/demo.sh [FILE.hdf5]` with your own D4RL file.
#
#   D4RL file -> dataset;  environment -> dataset -> policy -> better dataset -> policy;  all of it evaluated.
#
# Writes only to the folder $DEMO_DIR (default: demo), which it makes anew.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -d .venv ] && PATH="$PWD/.venv/bin:$PATH"
out=${DEMO_DIR:-demo}
rm -rf "$out"
mkdir -p "$out"

say() { printf '\n== %s\n' "$*"; }
run() {  # show a command as one would type it, then run it
  local line='$' word
  for word in "$@"; do
    if [[ $word =~ ^[[:alnum:]_./:=-]+$ ]]; then line+=" $word"; else line+=" '$word'"; fi
  done
  echo "$line" >&2
  "$@"
}

say "1. Offline data: a D4RL file becomes a dataset, and every row is compared again"
source=${1:-}
if [ -z "$source" ]; then  # where D4RL keeps its downloads, or a folder data/d4rl here or beside this checkout
  for folder in "${D4RL_DATASET_DIR:-$HOME/.d4rl/datasets}" data/d4rl ../data/d4rl ../*/data/d4rl; do
    for candidate in "$folder"/hopper*.hdf5 "$folder"/*.hdf5; do
      if [ -z "$source" ] && [ -f "$candidate" ]; then source=$candidate; fi
    done
  done
fi
if [ -z "$source" ]; then
  echo "(no D4RL file is at hand, so we write one in that layout: give yours with \`make demo DEMO=FILE.hdf5\`)"
  run rl collect Pendulum-v1 --steps 2k -o "$out/pendulum" --quiet
  source="$out/pendulum-random.hdf5"
  run rl convert "$out/pendulum" "$source" --quiet
fi
run rl convert "$source" "$out/d4rl" --check --quiet
run rl buffer info "$out/d4rl"
run rl buffer verify --deep --semantics "$out/d4rl"

say "2. Collect: 20,000 random steps of CartPole, torch not even imported"
run rl collect CartPole-v1 --policy random --steps 20k --seed 1 -o "$out/random"
run rl buffer stats "$out/random"

say "3. Train online: PPO until CartPole stands"
run rl train ppo --env CartPole-v1 --steps 50k --seed 1 -o "$out/ppo"
run rl show "$out/ppo" --plot "$out/ppo.png" >"$out/ppo.txt"

say "4. Its policy collects a better dataset"
run rl collect CartPole-v1 --policy "$out/ppo" --steps 20k --seed 2 -o "$out/trained"

say "5. Train offline: IQL from files alone, half of its batches from the good data, half from the random"
run rl train iql --from-dataset "$out/trained:0.5" --from-dataset "$out/random:0.5" --updates 3k --eval-every 500 --seed 1 -o "$out/iql"
run rl show "$out/iql" --plot "$out/iql.png" >"$out/iql.txt"

say "6. Evaluate both on the same 20 fresh episodes; a gate makes the exit code the verdict"
run rl eval "$out/ppo" "$out/iql" --episodes 20 --seed 100 -o "$out/evaluation.json" | tee "$out/evaluation.txt"
run rl eval "$out/ppo" --episodes 20 --seed 200 --gate 'mean >= 475'

say "Done in $((SECONDS / 60)) min $((SECONDS % 60)) s: $out/evaluation.txt, $out/ppo.png, $out/iql.png"
