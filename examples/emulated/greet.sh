#!/bin/sh
# Says which machine built this image and which one runs it: both are the target platform.
echo "Hello from $(uname -m), built on $(cat /arch), as $(id -un)"
