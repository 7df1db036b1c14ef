"""What else could make the files of an accelerated step others: options, variables and circumstances that
reach a compiler or tool by ways of their own.

As `test_accelerate_hostile`: all cases in one emulated and one accelerated step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.engine.test_accelerate_hostile import (
    FILES,
    check_alike,
    fixture_of,
)

if TYPE_CHECKING:
    from anyarch.testing.builder import BuiltImage

pytestmark = [pytest.mark.root, pytest.mark.emulation, pytest.mark.slow, pytest.mark.timeout(1800)]

CASES = {
    "dates": r"""
echo 'char const *t = __DATE__ __TIME__ __TIMESTAMP__;' > t.c; touch -d @86400 t.c
for e in 0 1234567890 4102444800; do SOURCE_DATE_EPOCH=$e TZ=UTC-5 gcc -S t.c -o $e.s; done
SOURCE_DATE_EPOCH=x gcc -S t.c; SOURCE_DATE_EPOCH=1 gcc -Wdate-time -S t.c -o w.s
""",
    "character-sets": r"""
printf 'char const s[] = "\344";\n' > l.c; gcc -finput-charset=ISO-8859-1 -S l.c
printf 'char const s[] = "\303\244";\n' > u.c; gcc -fexec-charset=ISO-8859-15 -S u.c
gcc -finput-charset=UTF-8 -S u.c -o v.s; gcc -finput-charset=nonsense -S u.c -o n.s
printf '#include <wchar.h>\nwchar_t w[] = L"\303\244"; ' > w.c; gcc -fwide-exec-charset=UTF-16BE -S w.c
""",
    "locales": r"""
printf 'int f(void) { return x; }\n' > e.c
for l in C C.UTF-8 de_DE.UTF-8; do LC_ALL=$l gcc -c e.c; LANG=$l LANGUAGE=de gcc -c e.c
LC_ALL=$l ls /no; done
""",
    "recorded-options": """
gcc -frecord-gcc-switches -O2 -c $S/c.c; gcc -g -gno-record-gcc-switches -c $S/c.c -o n.o
gcc -g -fdebug-prefix-map=$S=/y -fmacro-prefix-map=$S=/z -c $S/c.c -o p.o; strings c.o | sort
""",
    "profile-use": """
gcc -O2 -fprofile-use=none.gcda -c $S/c.c; gcc -O2 -fauto-profile=none -c $S/c.c -o a.o
gcc -O2 -fbranch-probabilities -c $S/c.c -o b.o
""",
    "libraries-of-libraries": """
mkdir -p /opt/deep; echo 'int deep(void) { return 5; }' > d.c
echo 'int deep(void); int up(void) { return deep(); }' > u.c
gcc -shared -fPIC -Wl,-soname,libdeep.so d.c -o /opt/deep/libdeep.so
gcc -shared -fPIC u.c -o libup.so -L/opt/deep -ldeep
echo 'int up(void); int main(void) { return up(); }' > m.c
gcc m.c -o no -L. -lup; echo /opt/deep > /etc/ld.so.conf.d/deep.conf; gcc m.c -o yes -L. -lup
rm /etc/ld.so.conf.d/deep.conf
gcc m.c -o rpath -L. -lup -Wl,-rpath,/opt/deep; gcc m.c -o link -L. -lup -Wl,--rpath-link,/opt/deep
""",
    "assembler-files": r"""
printf '#define N 4\n .text\n .globl f\nf: mov w0, N\n ret\n .byte 1\n' > a.S; gcc -g -c a.S
gcc -c -Wa,-adhln=list a.S -o l.o
gcc -c -Wa,-march=armv8.5-a+memtag a.S -o m.o; gcc -c -Wa,-march=none a.S
gcc -Wa,--version -c a.S | head -1; as --target-help | head -3
as -Z a.S -o z.o; as --gstabs a.S -o g.o; objdump -i | head -4; objcopy --info | head -3
strip -I elf64-x86-64 l.o
""",
    "proc": """
readlink /proc/self/exe; ls -l /proc/self/exe | sed 's/.*->//'; tr '\\0' ' ' < /proc/self/cmdline
cat /proc/self/cmdline | tr '\\0' ' '
realpath /proc/self/exe; head -c 4 /proc/self/exe | cksum; cp /proc/self/exe e; cksum < e; rm e
grep -c . /proc/cpuinfo
""",
    "modes": """
for u in 077 000 0777; do (umask $u; gcc $S/c.c -o p$u
gcc -c $S/c.c -o o$u.o; ar rcD a$u.a o$u.o; cp o$u.o c$u; mkdir d$u); done
stat -c '%a %n' *; chmod 755 *
chroot --userspec=65534:65534 / sh -c 'id -u; echo x > no; cat /etc/shadow
cd /tmp && gcc -c /src/c.c && stat -c "%u %a" c.o; rm -f c.o'
""",
    "jobserver": r"""
printf 'all: a b c\na b c: ; @+$(MAKE) -s -f sub T=$@\n' > top
printf 'all: 1$(T) 2$(T) 3$(T)\n%%: ; @gcc -c $(S)/c.c -o $@.o\n' > sub
make -s -f top -j3 S=$S; sh -c "make -s -f top -j2 -B S=$S"; make -s -f sub -j T=z S=$S; echo "$MAKEFLAGS"
printf 'all: ; false\n' > bad; make -s -f bad; echo $?; printf 'all: ; @kill -9 $$$$\n' > bad
make -s -f bad; echo $?
""",
    "huge": r"""
x=$(head -c 100000 /dev/zero | tr '\0' y); for i in 1 2 3 4 5 6 7 8 9; do export "BIG$i=$x"; done
gcc -c $S/c.c; env | wc -c; env -i A=1 env; gcc -DX="$x" -c $S/c.c -o x.o; /bin/true "$x$x"; echo $?
""",
    "killed": r"""
printf '#!/bin/sh\nkill -9 $PPID\nsleep 9\n' > as; chmod 755 as; (PATH=$D:$PATH; sh -c 'as'; echo $?)
rm as
(trap '' PIPE; yes | head -1 >/dev/null); sh -c 'trap "" INT; kill -INT $$; gcc -c /src/c.c -o i.o'
timeout 0.2 cat < /dev/zero > /dev/null; echo $?
""",
    "headers": """
mkdir -p a b; echo '#define V 1' > a/v.h; echo '#define V 2' > b/v.h
echo '#include <v.h>\nint v = V;' > v.c
for d in '-I a -I b' '-isystem b -I a' '-idirafter a' '-iquote b -I a' '-nostdinc -I b' \
 '-I /usr/include -I a' '-I- -I b' '-iprefix b/ -iwithprefix .'
do gcc $d -E v.c; done
OBJC_INCLUDE_PATH=a CPLUS_INCLUDE_PATH=b g++ -E -xc++ v.c; CPATH=:a gcc -E v.c; CPATH=a:b gcc -E -I b v.c
mkdir -p /usr/local/include/aarch64-linux-gnu
echo '#define V 3' > /usr/local/include/aarch64-linux-gnu/v.h; gcc -E v.c
g++ -E -xc++ v.c; rm /usr/local/include/aarch64-linux-gnu/v.h
""",
    "packages": r"""
mkdir -p p/DEBIAN p/usr/share/odd; echo x > p/usr/share/odd/x
printf 'Package: odd\nVersion: 1\nArchitecture: arm64\n%s\n%s\n' 'Maintainer: n <n@example.org>' \
 'Description: none' > p/DEBIAN/control
printf '#!/bin/sh\nset -e\necho "$0 $* $DPKG_MAINTSCRIPT_ARCH $DPKG_RUNNING_VERSION"\n' > p/DEBIAN/postinst
sed -i '$s/$/ | sed "s,.*\/,,"/' p/DEBIAN/postinst
cp p/DEBIAN/postinst p/DEBIAN/prerm; chmod 755 p/DEBIAN/p*
touch -d @0 p/usr/share/odd/x p/usr/share/odd p/usr/share p/usr
dpkg-deb -Zgzip -b p odd.deb; dpkg -i odd.deb; dpkg -s odd; dpkg -L odd; dpkg -S /usr/share/odd/x
dpkg -l odd; dpkg --print-architecture
dpkg --print-foreign-architectures; dpkg --version | head -1; dpkg --add-architecture amd64
dpkg --print-foreign-architectures
dpkg --remove-architecture amd64; dpkg-query -W -f '${Package} ${Architecture} ${Version}\n'
dpkg --compare-versions 1~ lt 1; echo $?
dpkg-divert --add --rename --divert /usr/share/odd/y /usr/share/odd/x
dpkg-statoverride --add root root 600 /usr/share/odd/y; dpkg -V odd
sed s/arm64/amd64/ -i p/DEBIAN/control; dpkg-deb -Zgzip -b p other.deb; dpkg -i other.deb
dpkg --root=/nowhere -l; dpkg -r odd; dpkg -P odd
dpkg-trigger --by-package=x --no-await t; dpkg --configure -a; dpkg --audit; rm *.deb
cp /var/lib/dpkg/status /var/lib/dpkg/diversions .
""",
}


both = fixture_of(CASES, FILES)


@pytest.mark.parametrize("case", CASES)
def test_files_output_and_status_are_those_of_emulated_programs(
    both: tuple[BuiltImage, BuiltImage], case: str
) -> None:
    check_alike(both, case)
