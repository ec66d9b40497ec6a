#!/usr/bin/env bash
# Installs Debian's Chromium for the browser tests where that is possible; elsewhere those tests skip and say so.
[ "${SPLATSEG_BROWSER:-auto}" = 0 ] && exit 0
for name in chromium chromium-browser google-chrome; do command -v "$name" >/dev/null && exit 0; done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  { timeout 120 apt-get update -qq && timeout 300 apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1 ||
    echo "chromium could not be installed: the browser tests will skip" >&2
else
  echo "chromium not found (Debian: apt-get install chromium): the browser tests will skip" >&2
fi
exit 0
