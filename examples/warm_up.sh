#!/usr/bin/env bash
# Teach texts that answers will resemble (past answers, documents, code) to a memory of their own.
# The first request then drafts as if it had answered such things for weeks.
set -euo pipefail
CORPUS=${1:-$(dirname "$0")/README.md}

lookahead trie learn "$CORPUS" --namespace examples
lookahead trie list --prefix examples
lookahead generate --namespace examples --learn none --max-tokens 48 "$(head -n 3 "$CORPUS")"
