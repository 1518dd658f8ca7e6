#!/bin/sh
# A stand-in for the entrypoint of the official nginx image, for benchmarks alone: the same kinds of work with about as
# many processes, in words of our own. STEPS holds the steps; those that end in .envsh share this shell, others do not.
set -e

case "${1##*/}" in
nginx | nginx-debug)
    if [ -n "$(find "$STEPS" -maxdepth 1 -type f -print -quit)" ]; then
        echo "steps in $STEPS:"
        for step in $(find "$STEPS" -type f -print | sort -V); do
            if [ ! -x "$step" ]; then
                echo "$step has no x bit"
                continue
            fi
            echo "$step"
            case "$step" in
            *.envsh) . "$step" ;;
            *.sh) "$step" ;;
            esac
        done
    fi
    ;;
esac

exec "$@"
