#!/bin/sh
printf 'Content-Type: text/plain\r\n\r\nscript %s\nquery %s\n' "$SCRIPT_NAME" "$QUERY_STRING"
