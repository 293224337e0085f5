#!/bin/sh
# The browser tests drive the system's Chromium: install Debian's package as root, otherwise name the command.
set -eu
if command -v chromium >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1 || [ -n "${CHROMIUM:-}" ]; then
    exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing Chromium for the browser tests ..."
    apt-get update -qq && apt-get install -y -qq chromium >/dev/null
else
    echo "The browser tests need Chromium. Install it:  sudo apt-get install chromium" >&2
    echo "or name another build of it:  CHROMIUM=/path/to/chrome make test" >&2
    exit 1
fi
