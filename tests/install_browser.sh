#!/usr/bin/env bash
# Installs Debian's Chromium for the browser tests where that is possible; elsewhere those tests skip and say so.
[ -n "${SPLATSEG_BROWSER:-}" ] || exit 0 # the browser tests are asked for by this variable
command -v chromium >/dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1 ||
    echo "chromium could not be installed: the browser tests will skip" >&2
else
  echo "chromium not found (Debian: apt-get install chromium): the browser tests will skip" >&2
fi
exit 0
