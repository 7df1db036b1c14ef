"""What surrounds a build: odd inputs of binutils, a linker that is asked to tell, limits, closed streams,
other shells, roots inside the root, and compilers that change while they are used.

As `test_accelerate_hostile`: all cases in one emulated and one accelerated step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.engine.test_accelerate import log, notes
from tests.engine.test_accelerate_hostile import (
    FILES,
    check_alike,
    fixture_of,
)

if TYPE_CHECKING:
    from anyarch.testing.builder import BuiltImage

pytestmark = [pytest.mark.root, pytest.mark.emulation, pytest.mark.slow, pytest.mark.timeout(1800)]

APART = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <unistd.h>
/* apart HOW PROGRAM ARGUMENT...: in a user namespace of its own, on a root that cannot be written to, with a
   directory from which nothing can be executed, or traced; whatever of that is allowed is told */
int main(int argc, char **argv) {
    char const *how = argv[1];
    errno = 0;
    if (strcmp(how, "traced")) unshare(CLONE_NEWUSER | CLONE_NEWAPART);
    else ptrace(PTRACE_TRACEME, 0, 0, 0);
    printf("%s: %s\n", how, strerror(errno));
    errno = 0;
    if (!strcmp(how, "noexec")) mount("none", "/mnt", "tmpfs", MS_NOEXEC, 0);
    if (!strcmp(how, "readonly")) mount("none", "/", 0, MS_REMOUNT | MS_BIND | MS_RDONLY, 0);
    printf("mount: %s\n", strerror(errno));
    fflush(stdout);
    execvp(argv[2], argv + 2);
    return 127;
}
"""
CASES = {
    "archives": r"""
gcc -c $S/c.c; gcc -c $S/probe.c; touch -d @100000 c.o probe.o; chmod 640 probe.o; mkdir sub
cp -p c.o sub/d.o; ar rc plain.a c.o; ar rcv plain.a probe.o; ar tv plain.a
ar rcDv d.a c.o probe.o c.o; ar tv d.a; ar rcSU times.a c.o probe.o; ar tvO times.a
ranlib -D times.a; ranlib -t times.a; nm -s times.a; ar rcUu times.a probe.o; ar tv times.a; rm times.a
ar rcT thin.a c.o sub/d.o; (cd sub; ar rcT ../up.a d.o ../probe.o; ar t ../up.a; ar rcTP p.a $D/c.o)
ar t thin.a; nm -s thin.a; ar tv thin.a; ar x thin.a; ar p thin.a c.o | cmp - c.o
ar --thin -rc thin.a probe.o; ar dv thin.a c.o; strip -g thin.a; objcopy thin.a other.a; echo $?
ranlib -D thin.a; size thin.a; objdump -a thin.a; mv thin.a sub; ar t sub/thin.a; nm sub/thin.a
rm sub/d.o; nm up.a; gcc up.a -o no; echo $?
cp plain.a m.a; ar mva c.o m.a probe.o; ar rvb c.o m.a sub/p.a; ar dv m.a c.o; ar qv m.a none
ar xvo m.a probe.o; ar tf m.a; ar s m.a; ar tN 1 d.a; ar pN 2 d.a c.o | cksum; ar xN 2 d.a c.o
ar --output=sub -x d.a c.o; ls sub
printf 'create s.a\naddmod c.o\naddlib plain.a\ndelete probe.o\nlist\nsave\nend\n' | ar -M; ar t s.a
cp c.o a_member_whose_name_is_longer_than_sixteen.o
ar rcfD l.a a_member_whose_name_is_longer_than_sixteen.o
ar rcD l.a a_member_whose_name_is_longer_than_sixteen.o; ar t none.a
ar --record-libdeps='-L/x -ly' -rcD deps.a c.o; ar t deps.a; ar p deps.a __.LIBDEP | cksum
echo text > notes; ar rcD l.a notes; ranlib none.a; ranlib notes; nm notes l.a; strip l.a; echo $?
objcopy -g l.a g.a; gcc c.o -L. -l:plain.a -o p; gcc $S/cc.cc plain.a; ar
gcc-ar rcD gcc.a c.o; gcc-ranlib gcc.a; gcc-nm gcc.a; ar --plugin /none rcD x.a c.o; ar -V | head -1
for i in 1 2 3 4 5 6 7 8 9; do cp c.o m$i.o; done; ar rcD out.a m?.o; strip -N main out.a; nm out.a
ar rcT sub/s.a sub/p.a c.o; ar t sub/s.a; gcc -Wl,--whole-archive d.a -o p
""",
    "bfd-plugins": r"""
o='-flto -O2 -frandom-seed=1'; gcc $o -c $S/c.c; gcc $o -ffat-lto-objects -c $S/c.c -o fat.o
gcc -c $S/probe.c; ls -l /usr/lib/bfd-plugins | sed 's/.*->//'
for t in size nm 'objdump -h' 'objdump -t' 'readelf -sW' 'size -A' 'nm -u' 'nm -C' 'objdump -f'
do echo "== $t"; $t c.o fat.o; done
for t in strip 'strip -g' 'strip -R .gnu.lto_*' 'strip -R .gnu.lto_* -N __gnu_lto_slim' 'strip -K main'
do for i in c fat; do echo "== $t $i"; cp $i.o x.o; $t x.o; echo $?; cksum < x.o; done; done
for t in objcopy 'objcopy -g' 'objcopy --prefix-symbols=z' 'objcopy -L main'
do echo "== $t"; rm -f y.o; $t c.o y.o; echo $?; cksum < y.o; done
ar rc l.a c.o fat.o probe.o; nm -s l.a; ranlib l.a
for t in nm size 'objdump -t' 'readelf -h' 'ar t'; do echo "== $t"; $t l.a; done
objcopy l.a m.a; strip -g l.a; strip m.a; ld -r c.o -o r.o; ld c.o -o p; ld -r fat.o -o f.o
objcopy --plugin /none c.o; strip --plugin /none c.o; nm --plugin $D/none c.o; size --plugin=x c.o
gcc $o c.o -o p; ./p; gcc $o l.a -o q; gcc -fno-lto fat.o -o fat; gcc -fuse-linker-plugin fat.o -o f2
gcc -fno-use-linker-plugin fat.o -o f3
echo text > /usr/lib/bfd-plugins/odd.so; nm c.o probe.o; strip -g probe.o; size probe.o
ld -r probe.o -o r2.o; rm /usr/lib/bfd-plugins/odd.so
mv /usr/lib/bfd-plugins /usr/lib/none-plugins; nm c.o; ar rc k.a c.o; nm -s k.a; strip -g k.a; size k.a
mv /usr/lib/none-plugins /usr/lib/bfd-plugins
""",
    "pragmas": r"""
cat > p.c <<'E'
#pragma once
#pragma message "hello"
#pragma GCC warning "w"
#pragma GCC poison foo
#pragma STDC FP_CONTRACT ON
#pragma nonsense x
#pragma GCC optimize ("O3", "no-such")
#pragma GCC target ("nonsense")
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused"
#pragma GCC diagnostic error "-Wno-such"
static int a;
#pragma GCC diagnostic pop
static int b;
#pragma pack(push, 3)
#pragma pack(2)
struct s { char c; int i; } s;
#pragma weak w1 = f
#pragma redefine_extname r1 r2
#pragma scalar_storage_order big-endian
struct t { int i; } t = {1};
#pragma GCC ivdep
int f(void) { _Pragma("message \"in\"") return foo; }
#pragma omp parallel
#pragma GCC visibility push(hidden)
#pragma GCC unroll 3
int g(void) { return 1; }
#pragma GCC error "e"
E
gcc -Wall -c p.c; gcc -Wall -Wextra -Wunknown-pragmas -fopenmp -S p.c; g++ -Wall -c p.c -o g.o
gcc -Wall -E p.c -o p.i; gcc -E -fdirectives-only p.c | tail -3
cat > t.c <<'E'
#pragma GCC push_options
#pragma GCC target ("arch=armv8.2-a+sve")
int h(int *a) { int s = 0; for (int i = 0; i < 99; i++) s += a[i]; return s; }
#pragma GCC pop_options
#pragma GCC optimize ("O3")
int i(int *a) { int s = 0; for (int i = 0; i < 99; i++) s += a[i]; return s; }
__attribute__((target("cpu=cortex-a72+crypto"))) int j(int x) { return x / 7; }
__attribute__((target("tune=native"))) int k(int x) { return x / 7; }
__attribute__((target("cpu=native"))) int l(int x) { return x / 7; }
__attribute__((target("branch-protection=pac-ret,sign-return-address=all"))) int m(int x) { return x; }
__attribute__((optimize("O1", "no-inline-small-functions", "nonsense"))) int n(int x) { return x * 3; }
E
gcc -O2 -S t.c; g++ -O2 -S t.c -o tt.s; sed -i '/native/d;/nonsense/d' t.c; gcc -O2 -c t.c
gcc -O1 -g -c t.c -o u.o
echo '_Pragma("GCC pch_preprocess \"none.gch\"") int x;' > g.c; gcc -c g.c
echo '#pragma GCC pch_preprocess "none.gch"' > g.c; gcc -c g.c; gcc -fpreprocessed -c g.c
echo '#pragma GCC plugin "x"' > g.c; gcc -Wall -c g.c
cat > h.c <<'E'
#include_next <stdio.h>
#import "g.c"
#ident "who"
#assert machine(x)
#sccs "y"
#warning w
#if __has_include(<stdio.h>) && __has_include_next(<none.h>) || #machine(x)
#error has
#endif
E
gcc -c h.c; gcc -Wno-cpp -pedantic -S h.c
""",
    "linker": r"""
gcc -c $S/c.c; gcc -c $S/probe.c; g++ -c $S/cc.cc
echo 'int main(void) { return missing() + gone(); }' > no.c
for o in --trace -t -Map=map -M --print-map --cref --verbose --print-gc-sections --print-memory-usage \
-v --help --version --trace-symbol=main -y,puts --no-such --print-output-format --print-sysroot \
--dependency-file=dep --warn-common --warn-textrel --print-map-discarded -Map=- --print-map-locals \
--error-unresolved-symbols --fatal-warnings --orphan-handling=error --orphan-handling=warn
do echo "== $o"; rm -f a.out map dep; gcc c.o -Wl,$o; [ -e a.out ] && mv a.out a$o
for f in map dep; do [ -e $f ] && mv $f $f$o; done; done
gcc -Wl,-Map,map1 c.o -o m1; gcc -Xlinker --trace c.o -o m2
gcc -Wl,-Map=map3,--gc-sections -static c.o -o m3 >/dev/null; g++ -Wl,-t cc.o -o m4
gcc c.o probe.o; gcc no.c; echo $?; gcc no.c -Wl,--unresolved-symbols=ignore-all -o ig
gcc c.o -lnone; gcc c.o none.o; gcc c.o -L/none -Wl,-rpath-link,/x -o rl; gcc c.o -Wl,-T,none.ld
printf 'SECTIONS { .text : { *(.text*) } .data : { *(.data* .bss*) } }\n' > s.ld
ld -T s.ld -r c.o -o s.o; ld -T s.ld probe.o -o s1; echo $?; printf 'nonsense !\n' > b.ld
ld -T b.ld c.o; ld c.o; ld -e main -nostdlib c.o --unresolved-symbols=ignore-all -o e
ld -r -Map=rmap c.o probe.o -o no.o; ld -r c.o no.c; ld -b binary -r no.c -o bin.o; nm bin.o
ld -m elf_x86_64 c.o; ld -m none c.o; ld -V | head -3; ld -t -r c.o -o t.o
for b in sha1 md5 none 0x1234; do gcc c.o -Wl,--build-id=$b -o id$b; done; gcc -static-pie c.o -o sp
gcc -no-pie c.o -o np; gcc -shared -fPIC $S/probe.c -o so -Wl,-soname=x,-z,defs
gcc c.o -Wl,-z,max-page-size=4096,-z,common-page-size=4096,--hash-style=sysv,-z,nonsense -o z
gcc c.o -Wl,--defsym=zz=main,-u,zz,--wrap=puts -o d; gcc c.o -Wl,--sort-section=name,-O1,-s -o ss
gcc c.o -fuse-ld=gold -o gold; gcc c.o -fuse-ld=bfd -o bfd; gcc c.o -fuse-ld=none -o none; ld.gold c.o
COLLECT_NO_DEMANGLE=1 g++ no.c; LD_RUN_PATH=/run gcc c.o -o run; LDEMULATION=none ld c.o
gcc c.o -Wl,-plugin,none; gcc c.o -Wl,--plugin-opt=x -o po; rm -f a.out
printf 'INPUT(c.o)\nGROUP(-lc)\n' > in; gcc in -o in1; gcc -nostartfiles c.o -o nost
""",
    "limits": r"""
(ulimit -n 5; gcc -c $S/c.c -o n5.o; echo $?; cat $S/c.c | cksum)
(ulimit -n 7; gcc -c $S/c.c -o n7.o; echo $?; make -v | head -1)
(ulimit -n 4; /bin/true; echo $?); (ulimit -n 3; /bin/true; echo $?)
(ulimit -n 10; gcc -c $S/c.c -o n10.o; gcc $S/c.c -o n10; ls -d .; tar cf t.tar $S/c.c; find $S/c.c)
(ulimit -n 20; ulimit -n; gcc -c $S/c.c -o n20.o; echo 'all: ; ulimit -n' | make -s -f -)
(ulimit -c 0; sh -c 'kill -SEGV $$'; echo $?; sh -c 'ulimit -c')
(ulimit -t 100; sh -c 'ulimit -t'; gcc -c $S/c.c -o t.o); (ulimit -t 1; sh -c 'while :; do :; done'; echo $?)
(ulimit -l 0; gcc -c $S/c.c -o l.o; sh -c 'ulimit -l')
(ulimit -m 1000; gcc -c $S/c.c -o m.o; sh -c 'ulimit -m')
sh -c 'ulimit -a' | sort > all; sh -c 'ulimit -Ha' | sort > all2
""",
    "streams": r"""
gcc -c $S/c.c -o in.o <&-; gcc -c $S/c.c -o out.o >&-; gcc -c $S/c.c -o err.o 2>&-
gcc -c $S/c.c -o all.o <&- >&- 2>&-; echo $?; gcc $S/c.c -o p <&- >&- 2>&-; echo $?
gcc -c none.c 2>&-; echo $?; gcc -E $S/local.h >&-; echo $?; gcc -E - <&- 2>/dev/null | wc -c
gcc -M $S/probe.c >&-; echo $?
gcc -S $S/c.c -o - <&- | cksum; gcc -S -pipe $S/c.c -o pipe.s <&-; gcc -pipe -c $S/c.c -o pipe.o <&- >&- 2>&-
as -o e.o <&- 2>/dev/null; echo $?; as $S/none.s 2>&-; echo $?; ld in.o -r -o r.o <&- >&- 2>&-; echo $?
ld none.o >&-; echo $?; ld --verbose >&-; echo $?; nm in.o >&-; echo $?; objdump -h in.o >&-; echo $?
size in.o >&-; echo $?; strip -o st.o in.o <&- >&- 2>&-; echo $?
cat <&- | head -c 20 | cksum; cat <&- >/dev/null; echo $?; cat $S/local.h >&-; echo $?; cat none 2>&-; echo $?
ls none >&- 2>&-; echo $?; ls / >&-; echo $?; echo x | cat - <&- | wc -c; cp $S/c.c c1 <&- >&- 2>&-; echo $?
touch -d @0 c1
wc -c <&-; echo $?; head -c 1 <&- | cksum; sort <&- | cksum; sha256sum <&-; tee t1 <&- >&-; echo $?
tr a b <&- | wc -c; sed -n 1p <&- | wc -c; grep -c . <&-; echo $?; tar cf t.tar c1 <&- >&- 2>&-; echo $?
tar tf t.tar >&-; echo $?; tar tf - <&-; echo $?; gzip -c <&- | wc -c; gzip -n <c1 >&-; echo $?
xz -c <&- | wc -c; xz <c1 >&-; echo $?; bzip2 <&- | wc -c; find . -name c1 <&- >&-; echo $?
make -v >&-; echo $?; printf 'all: ; @echo made; cat | cksum\n' > mk; make -f mk <&-
make -f mk >&-; echo $?; make -f mk 2>&- <&-; make -j2 -f mk <&-; sh -c 'cat' <&- | wc -c
sh -c 'echo out; echo err >&2' >&-; echo $?; sh -s <&- 2>/dev/null; echo $?; sh <&- >&- 2>&-; echo $?
""",
    "descriptors": r"""
ls /proc/self/fd; ls /proc/self/fd 7<$S/c.c; sh -c 'ls /proc/self/fd; :'
sh -c 'sh -c "sh -c \"ls /proc/self/fd; :\"; :"; :'; env sh -c 'ls /proc/self/fd' 3>&1 4>&1
sh -c 'for i in 0 1 2 3 4 5 6 7 8 9; do [ -e /proc/$$/fd/$i ] && echo $i; done; :'
sh -c 'for i in 0 1 2 3 4 5 6 7 8 9; do [ -e /proc/$$/fd/$i ] && echo $i; done; :' <&-
printf 'all: ; @ls /proc/self/fd; echo; ls /proc/$$PPID/fd\n' > mk; make -f mk; make -f mk 5>&1
nice nohup timeout 9 env ls /proc/self/fd 2>&1; find $S/c.c -exec sh -c 'ls /proc/self/fd; :' ';'
""",
    "full": r"""
(gcc -c $S/c.c -o full.o; gcc -E $S/c.c) > /dev/full; echo $?; ls > /dev/full; echo $?
echo x | tee /dev/full; ld --help > /dev/full; echo $?
(sleep 0.2; gcc -E $S/c.c; echo $? >&2) | true; yes | head -1; objdump -d full.o > /dev/full; echo $?
nm full.o > /dev/full; echo $?; as --help > /dev/full; echo $?; size full.o > /dev/full; echo $?
gcc -S $S/c.c -o - > /dev/full; echo $?; gcc $S/c.c -Wl,-t > /dev/full; echo $?; gcc -c none.c 2> /dev/full
echo $?; readelf -h full.o > /dev/full; echo $?; cat $S/c.c > /dev/full; echo $?
sed p $S/c.c > /dev/full; echo $?
tar cf /dev/full $S/c.c; echo $?; gzip -c $S/c.c > /dev/full; echo $?; cp $S/c.c /dev/full; echo $?
find $S/c.c > /dev/full; echo $?; make -p -f /dev/null > /dev/full; echo $?
grep x $S/c.c > /dev/full; echo $?
""",
    "ccache-links": """
export CCACHE_DIR=$D/cache; mkdir bin; for n in gcc g++ gcc-12; do ln -s /usr/bin/ccache bin/$n; done
(PATH=$D/bin:$PATH; gcc -c $S/c.c -o 1.o; g++ -c $S/cc.cc; gcc-12 -c $S/c.c -o 2.o; gcc -E $S/local.h)
[ -d /usr/lib/ccache ] && PATH=/usr/lib/ccache:$PATH gcc -c $S/c.c -o 3.o
echo 'all: 4.o ; $(CC) 4.o -o 4' > mk; echo '%.o: ; $(CC) -c $(S)/c.c -o $@' >> mk
make -s -f mk CC='ccache gcc' S=$S; ./4; ccache -s | grep -c Hits; rm -r cache bin
""",
    "chroot-inside": r"""
mkdir -p r/usr/bin r/usr/lib/aarch64-linux-gnu r/dev r/etc r/var/lib/dpkg/info r/var/lib/dpkg/updates
ln -s usr/bin r/bin; ln -s usr/lib r/lib; : > r/var/lib/dpkg/status
for p in dash cat uname sed tar rm; do cp -pL /bin/$p r/usr/bin/; done; ln -s dash r/bin/sh
cp -pL /lib/ld-linux-aarch64.so.1 r/lib/
cp -pL /lib/aarch64-linux-gnu/lib[cm].so.6 /lib/aarch64-linux-gnu/libselinux.so.1 r/lib/aarch64-linux-gnu/
cp -pL /lib/aarch64-linux-gnu/libpcre2-8.so.0 /lib/aarch64-linux-gnu/libacl.so.1 r/lib/aarch64-linux-gnu/
chroot r /bin/sh -c 'uname -m; echo /*; cat /etc/none; echo x | sed s/x/y/; exec uname'
chroot r /usr/bin/../bin/dash -c 'cd /usr; bin/uname -s; exec ../bin/cat ../../etc/none'; echo $?
mkdir -p p/DEBIAN; printf 'Package: inner\nVersion: 1\nArchitecture: arm64\n%s\n%s\n' \
 'Maintainer: n <n@example.org>' 'Description: none' > p/DEBIAN/control
printf '#!/bin/sh\nset -e\nuname -m\necho /* $DPKG_ROOT\nsed --version | head -1 || :\n' > p/DEBIAN/postinst
chmod 755 p/DEBIAN/postinst; dpkg-deb -Zgzip -b p i.deb >/dev/null; dpkg --root=$D/r --force-all -i i.deb 2>&1
dpkg --root=$D/r -s inner; chroot r /bin/sh -c 'cd /; chroot usr /bin/sh -c :; echo $?'; rm -r r i.deb p
""",
    "diverted": r"""
d=/usr/lib/gcc/aarch64-linux-gnu/12; dpkg-divert --local --rename --add $d/cc1
printf '#!/bin/sh\necho "cc1 for $#" >> %s/calls\nexec %s/cc1.distrib -DDIVERTED "$@"\n' $D $d > $d/cc1
chmod 755 $d/cc1; gcc -c $S/c.c; gcc -dM -E $S/local.h | grep -e LOCAL -e DIVERTED; cat calls
rm $d/cc1; gcc -c $S/c.c -o no.o; echo $?; dpkg-divert --local --rename --remove $d/cc1; gcc -c $S/c.c -o 2.o
""",
    "upgraded": r"""
d=/usr/lib/gcc/aarch64-linux-gnu/12; mkdir kept; cp -p $d/cc1 $d/collect2 /usr/bin/aarch64-linux-gnu-as kept/
gcc -c $S/c.c -o 1.o; cp kept/cc1 new; printf more >> new; chmod 755 new; mv new $d/cc1; gcc -c $S/c.c -o 2.o
touch -d @5 /usr/bin/aarch64-linux-gnu-as; gcc -c $S/c.c -o 3.o; cp -p kept/aarch64-linux-gnu-as /usr/bin/
rm $d/collect2; gcc $S/c.c -o 4; echo $?; cp -p kept/collect2 $d/; cp -p kept/cc1 $d/; gcc $S/c.c -o 5; ./5
rm -r kept
""",
    "processes": r"""
sh -c 'cd /; ls -d .; exec ls -d .'; sh -c 'exec -a x ls -d .' 2>/dev/null; echo $?
(cat $S/c.c; sleep 0.2) | wc -l; gcc -x c - -S -o - < $S/probe.c | cksum
mkfifo f; (cat < f > g &); echo through > f; sleep 0.5; cat g; rm f
env -i sh -c 'echo $PATH; env'; env -u PATH sh -c 'ls -d /'; env PATH=/nowhere /bin/sh -c 'ls' ; echo $?
env A= =x B sh -c :; echo $?; nice -n 5 sh -c 'nice'; nohup sh -c 'echo hup' 2>/dev/null
(sh -c 'kill -STOP $$; echo continued' & p=$!; sleep 1; kill -CONT $p; wait $p); echo $?
sh -c 'trap "echo term; exit 5" TERM; kill -TERM $$; sleep 5'; echo $?
timeout 1 sh -c 'sleep 9 & wait'; echo $?
make -s -f - <<'E'
all: ; @echo $(shell echo shell; kill -9 $$$$) $(.SHELLSTATUS) $(MAKE_HOST)
E
""",
    "apart": """
gcc $S/apart.c -o apart; for how in user readonly noexec traced
do ./apart $how sh -c 'echo in; ls -d /src; cp -p /bin/true /mnt/t; /mnt/t; echo $?; rm -f /mnt/t'
./apart $how gcc -c $S/c.c -o $how.o; echo $?; ./apart $how make -s -f /dev/null
./apart $how ./apart $how ls -d /src; done
""",
    "other-shell": r"""
cp -p /bin/dash saved; cp saved other; mv other /bin/dash; sh -c 'echo copy $0'; echo 'all: ; @echo made' > mk
make -s -f mk; printf '#!%s/saved\necho "wrapped $*"\nexec %s/saved "$@"\n' $D $D > w; chmod 755 w
mv w /bin/dash; sh -c 'echo one'; make -s -f mk; printf '#!/bin/sh\necho script\n' > s; chmod 755 s; ./s
find s -exec sh -c 'echo "$1"' x {} ';'; echo s | xargs sh; rm /bin/dash; sh -c 'echo none'; echo $?
make -s -f mk; ./s; echo $?; cp -p saved /bin/dash; sh -c 'echo back'; rm saved
""",
}


both = fixture_of(CASES, {**FILES, "apart.c": APART})


@pytest.mark.parametrize("case", CASES)
def test_files_output_and_status_are_those_of_emulated_programs(
    both: tuple[BuiltImage, BuiltImage], case: str
) -> None:
    # which `collect2 -v` shows of a cross compiler's driver, and which leads nowhere else
    check_alike(both, case, hidden=" --sysroot=/")


def test_what_was_left_to_emulated_programs_is_told(both: tuple[BuiltImage, BuiltImage]) -> None:
    told = notes(log(both[1]))

    assert "/cc1 was emulated" in told  # it was replaced
    assert "because its standard input was closed" in told
    assert "files of the result are for" not in told
