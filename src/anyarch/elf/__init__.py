"""ELF headers: what a program file is for, and tiny programs to try an architecture with."""
