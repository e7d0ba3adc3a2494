#!/usr/bin/env bash
# Simulate a click funnel, train a PLE on it, judge it on the test rows, score them, and write the report.
set -euo pipefail
work=${1:-runs/example}
rows=${2:-100000}

recmtl simulate "$work/data" --rows "$rows" --seed 1
recmtl doctor "$work/data/spec.yaml"
recmtl train "$work/data/spec.yaml" --out "$work/run" tower=ple train.epochs=1
recmtl eval "$work/run" --data "$work/data/test.parquet"
recmtl score "$work/run" --data "$work/data/test.parquet" --out "$work/scores" --keep user_id,item_id
recmtl report "$work/run"
