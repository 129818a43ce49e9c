#!/bin/sh
# Makes a Debian package in target/debian. Takes cargo-deb (`cargo install cargo-deb`).
# PROFILE=dev makes one of a debug build, for tests.
set -eu
cd "$(dirname "$0")/.."
profile=${PROFILE:-release}
folder=$profile
[ "$profile" = dev ] && folder=debug
[ -n "${NO_BUILD:-}" ] || cargo build --profile "$profile" --locked -p longshore-cli --features kafka-tls
program=${CARGO_TARGET_DIR:-target}/$folder/longshore
made=${CARGO_TARGET_DIR:-target}/packaging
rm -rf "$made"
mkdir -p "$made/man"
"$program" man "$made/man"
gzip -9n "$made"/man/*
for shell in bash zsh fish; do "$program" completions "$shell" > "$made/longshore.$shell"; done
(cd "$made" && env -u LONGSHORE_CONFIG "$OLDPWD/$program" config init >/dev/null)
exec cargo deb -p longshore-cli --no-build --profile "$profile"
