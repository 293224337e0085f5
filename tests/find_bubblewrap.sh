#!/bin/sh
# The sandbox's tests need bubblewrap: install Debian's package as root, otherwise name the command; they skip without it.
set -eu
if command -v bwrap >/dev/null 2>&1 || [ "$(uname -s)" != Linux ]; then
    exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing bubblewrap for the sandbox's tests ..."
    apt-get update -qq && apt-get install -y -qq bubblewrap >/dev/null
else
    echo "The sandbox's tests are left out without bubblewrap. Install it:  sudo apt-get install bubblewrap" >&2
fi
