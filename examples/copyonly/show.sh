#!/bin/sh
echo "$(uname -m): $(sed -n 's/<p>\(.*\)<\/p>/\1/p' "$PAGE") $(stat -c '%U' "$PAGE")"
