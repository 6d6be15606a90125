#!/usr/bin/env bash
# The running product, asked by programs that nobody here wrote what its documents say of it. Starts the local stack and ends
# it. `.ci/run` calls it with the folder of its tools; by hand: tests/interface/run.sh target/tools
set -euo pipefail
cd "$(dirname "$0")/../.."
tools="$(mkdir -p "$1" && cd "$1" && pwd)"
here="tests/interface"

# Kept between runs, until a version here changes.
pip_tool() {
  local folder="$tools/$1" pinned="${*:2}"
  [ "$(cat "$folder/pinned" 2>/dev/null)" = "$pinned" ] && return
  rm -rf "$folder"
  python3 -m venv "$folder"
  "$folder/bin/pip" install --quiet --disable-pip-version-check "${@:2}"
  printf '%s' "$pinned" > "$folder/pinned"
}
npm_tool() {
  local folder="$tools/$1" pinned="${*:2}"
  [ "$(cat "$folder/pinned" 2>/dev/null)" = "$pinned" ] && return
  rm -rf "$folder"
  mkdir -p "$folder"
  npm install --silent --no-audit --no-fund --prefix "$folder" "${@:2}"
  printf '%s' "$pinned" > "$folder/pinned"
}

pip_tool interface schemathesis==4.32.5 openapi-spec-validator==0.9.0
"$tools/interface/bin/openapi-spec-validator" docs/openapi.json

if command -v npm > /dev/null; then
  npm_tool node @asyncapi/parser@3.6.6 typescript@5.9.3 @grafana/grafana-foundation-sdk@0.0.21
  NODE_PATH="$tools/node/node_modules" node "$here/asyncapi.js" docs/asyncapi.json
  "$tools/node/node_modules/.bin/tsc" --strict --noEmit "$here/sample.ts"
  tests/interface/types.sh "$tools" | diff - hub/portal/client.d.ts
  cat "$here/dashboard.ts" docs/grafana-dashboard.json > "$tools/node/dashboard.ts"
  "$tools/node/node_modules/.bin/tsc" --strict --noEmit --skipLibCheck --module nodenext --target es2022 "$tools/node/dashboard.ts"
  echo "docs/asyncapi.json, docs/konstruct-chat.d.ts, hub/portal/client.d.ts, docs/grafana-dashboard.json: OK"
else
  echo "NOT CHECKED: docs/asyncapi.json, docs/konstruct-chat.d.ts, docs/grafana-dashboard.json and hub/portal, since node is not here"
fi

work="$(mktemp -d)"
cargo build --quiet --package harness --bin local
target/debug/local --ready-file "$work/ready.json" > "$work/local.log" 2>&1 &
stack=$!
trap 'kill "$stack" 2>/dev/null || true; wait "$stack" 2>/dev/null || true; rm -rf "$work"' EXIT
for _ in $(seq 600); do
  [ -s "$work/ready.json" ] && break
  kill -0 "$stack" || { cat "$work/local.log" >&2; exit 1; }
  sleep 0.1
done

# Each kind of caller, a while each, and one case at a time: side by side its generator trips over its own caches. The same cases
# each time, as far as time goes; SEED=… looks elsewhere.
failed=0
for caller in nobody ben@acme ada@acme root; do
  echo "-- as $caller"
  python3 "$here/prepare.py" "$work/ready.json" "$caller" > "$work/caller"
  # shellcheck disable=SC1091
  . "$work/caller"
  auth=()
  [ "$caller" = nobody ] || auth=(--header "Authorization: Bearer $TOKEN")
  INTERFACE_IDS="$IDS" SCHEMATHESIS_HOOKS="$here/hooks.py" "$tools/interface/bin/schemathesis" \
    --config-file "$here/schemathesis.toml" run docs/openapi.json --url "$REST" \
    "${auth[@]}" --seed "${SEED:-7}" --max-time 18 --warnings off --no-color > "$work/report" 2>&1 || failed=1
  if [ "$failed" = 1 ]; then
    cat "$work/report" >&2
    exit 1
  fi
  grep -E '^(Test cases:|  *[0-9]+ generated)' "$work/report" || true
done
