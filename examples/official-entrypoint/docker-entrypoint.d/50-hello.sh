#!/bin/sh
echo "50-hello.sh: what a script of the official image does, it does here as well"
