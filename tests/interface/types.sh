#!/usr/bin/env bash
# The types of the page's client, from what its comments say; the page is held to them on the way. After a change of the client:
# tests/interface/types.sh target/tools > hub/portal/client.d.ts
set -euo pipefail
cd "$(dirname "$0")/../.."
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cp -r hub/portal/. docs/konstruct-chat.d.ts "$work"
# What others wrote is theirs to check.
rm -f "$work"/client.d.ts "$work"/vendor/*
echo 'export class Marked { constructor(options: object); parse(text: string): string }' > "$work/vendor/marked.esm.d.ts"
echo 'export {}' > "$work/vendor/purify.min.d.ts"
check=(--allowJs --checkJs --strict --target es2022 --module esnext --moduleResolution bundler --lib "es2023,dom,dom.iterable")
tools="$(cd "$1" && pwd)"
tsc="$tools/node/node_modules/.bin/tsc"
"$tsc" "$work/page.js" "${check[@]}" --noEmit >&2
"$tsc" "$work/client.js" "${check[@]}" --declaration --emitDeclarationOnly --outDir "$work/made" >&2
cat "$work/made/client.d.ts"
