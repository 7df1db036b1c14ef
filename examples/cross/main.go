// Hello says which platform it was compiled for. It imports little: each target compiles the standard library anew.
package main

import (
	"os"
	"runtime"
)

func main() {
	os.Stdout.WriteString("Hello from " + runtime.GOOS + "/" + runtime.GOARCH + "\n")
}
