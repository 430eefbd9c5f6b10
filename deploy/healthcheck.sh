#!/usr/bin/env bash
# Whether a version of $HEALTH_MODEL is served. The image has bash, but no curl.
set -euo pipefail
exec 3<>"/dev/tcp/127.0.0.1/${HEALTH_PORT:-8501}"
printf 'GET /v1/models/%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$HEALTH_MODEL" >&3
grep -q '"state": "AVAILABLE"' <&3
