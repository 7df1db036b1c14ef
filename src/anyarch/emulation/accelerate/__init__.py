"""Native twins: programs of this machine that run in the place of emulated ones where the result is the same.

`dispatcher` is what the kernel starts for a foreign program: QEMU with a few instructions of ours in front,
which know the twins. `selection` says what may have a twin, `twins` makes a set of them from the trees of
packages, `archive` fetches packages, `cross` prepares compilers.
"""
