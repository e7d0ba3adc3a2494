#!/usr/bin/env bash
# Score a day's log on one machine, from cron. Needs `recmtl[score]`.
#
#   15 3 * * *  /path/to/cron.sh RUN LOGS OUT
#
# LOGS/DAY (a folder of Parquet, DAY as 2026-11-22) is scored into OUT/DAY, and OUT/latest leads to
# it when it is whole and looks like the rows that the run was validated with. A call that was
# killed, or a machine that went down, costs nothing but the time: the next call goes on.
# The exit code is that of `recmtl score`; 3 is drift, or a log that does not fit.

set -euo pipefail
run=$1 logs=$2 out=$3
day=${DAY:-$(date --utc --date=yesterday +%F)}
workers=${WORKERS:-$(nproc)}
recmtl=${RECMTL:-recmtl}

mkdir -p "$out"
exec 9> "$out/.lock"
flock --nonblock 9 || { echo "$out: another call is at work." >&2; exit 1; }

"$recmtl" score "$run" --data "$logs/$day" --out "$out/$day" --workers "$workers" --strict

ln -sfn "$day" "$out/.latest"
mv -T "$out/.latest" "$out/latest" # in one step: readers see yesterday's scores or today's
