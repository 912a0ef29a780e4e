#!/usr/bin/env bash
# A Prefect server, a process work pool, all deployments and one worker on this machine, in the foreground.
#   deployments/local.sh [PORT]        stop with Ctrl-C
# The interface is then at http://127.0.0.1:PORT. For more than one machine give the server a PostgreSQL
# database (PREFECT_API_DATABASE_CONNECTION_URL) and start workers elsewhere with PREFECT_API_URL set.
set -euo pipefail
set -m   # children in their own process groups: without it a worker started by a script ignores SIGTERM
cd "$(dirname "$0")/.."
PORT=${1:-4200}
BIN=${SLOPEWATCH_BIN:-$PWD/.venv/bin}
export PROJECT_ROOT=$PWD
export PREFECT_API_URL=http://127.0.0.1:$PORT/api PREFECT_UI_API_URL=http://127.0.0.1:$PORT/api
export PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=1
export PREFECT_SERVER_ALLOW_EPHEMERAL_MODE=false PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT=false

"$BIN/prefect" server start --host 127.0.0.1 --port "$PORT" &
SERVER=$!
WORKER=
stop() {
  trap - EXIT INT TERM
  [ -n "$WORKER" ] && kill "$WORKER" 2>/dev/null && wait "$WORKER" 2>/dev/null
  kill "$SERVER" 2>/dev/null && wait "$SERVER" 2>/dev/null
  true
}
trap stop EXIT INT TERM
for _ in $(seq 300); do
  "$BIN/python" -c "import urllib.request as u; u.urlopen('$PREFECT_API_URL/health', timeout=2)" 2>/dev/null && break
  kill -0 "$SERVER" || { echo "the server did not start (is port $PORT taken?)" >&2; exit 1; }
  sleep 0.3
done
"$BIN/prefect" work-pool create slopewatch --type process --overwrite
"$BIN/prefect" --no-prompt deploy --all
"$BIN/prefect" worker start --pool slopewatch --limit 1 &
WORKER=$!
echo "slopewatch: http://127.0.0.1:$PORT"
wait "$WORKER"
