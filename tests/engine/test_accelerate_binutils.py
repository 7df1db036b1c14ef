"""Archives, symbols and bytecode by native binutils are those of emulated ones, with any plug-ins.

As `test_accelerate_hostile`: all cases in one emulated and one accelerated step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.engine.test_accelerate import log, notes
from tests.engine.test_accelerate_hostile import FILES, check_alike, fixture_of

if TYPE_CHECKING:
    from anyarch.testing.builder import BuiltImage

pytestmark = [pytest.mark.root, pytest.mark.emulation, pytest.mark.slow, pytest.mark.timeout(1800)]

SYMBOLS = """
int common;
int weak(void) __attribute__((weak));
static int local;
int g(void) { return common + weak(); }
int *p(void) { return &local; }
"""
FILES = {**FILES, "sym.c": SYMBOLS}

# the first makes what the others take
CASES = {
    "objects": """
gcc -c $S/c.c -o plain.o; g++ -g -c $S/cc.cc -o cxx.o; gcc -fcommon -c $S/sym.c -o sym.o
gcc -flto -O2 -frandom-seed=1 -c $S/c.c -o lto.o
gcc -flto -fcommon -frandom-seed=3 -c $S/sym.c -o symlto.o
gcc -flto -ffat-lto-objects -O2 -frandom-seed=1 -c $S/c.c -o fat.o
touch -d @86400 *.o; ln -s $D/*.o ..
""",
    "archives": """
ar rcs l.a ../plain.o ../cxx.o; nm l.a; nm -s l.a; ar tv l.a; ar rcsv v.a ../plain.o
ar d l.a plain.o; ar t l.a
ar rcU u.a ../plain.o; TZ=UTC ar tv u.a; rm u.a; ar rcS s.a ../plain.o; nm -s s.a; ar s s.a; nm -s s.a
""",
    "bytecode": """
ar rcs l.a ../lto.o ../symlto.o; nm -s l.a; nm l.a ../lto.o; ar rc q.a ../fat.o ../plain.o ../cxx.o
ranlib q.a
nm -s q.a; nm ../symlto.o ../sym.o ../fat.o; nm -S ../symlto.o; ranlib -D l.a; ar s q.a; ar t q.a
gcc -flto -O2 -Wl,-u,main l.a -o p; ./p; gcc-ar rcs g.a ../lto.o ../symlto.o; gcc-nm g.a; gcc-ranlib g.a
gcc-nm -s g.a
""",
    "thin": """
ar rcsT t.a ../plain.o ../cxx.o; ar t t.a; nm -s t.a; ar rc --thin u.a ../lto.o; nm -s u.a; ar x t.a
ar q u.a ../plain.o; ar rcT v.a t.a; ar t v.a
""",
    "scripts": r"""
printf 'CREATE m.a\nADDMOD ../plain.o\nADDMOD ../sym.o\nLIST\nSAVE\nEND\n' | ar -M; ar tv m.a; cp m.a n.a
printf 'OPEN m.a\nDELETE sym.o\nADDLIB n.a\nVERBOSE\nLIST\nSAVE\nEND\n' | ar -M; nm -s m.a; echo BAD | ar -M
""",
    "errors": """
for p in ar nm ranlib strings addr2line c++filt size objdump readelf strip objcopy; do $p --bad; $p -h; $p -H
$p none; $p -i; done; nm $S/c.c; ar rc; ar x none.a; ar t $S/c.c; ar rcs l.a none.o; ar z
ar rcs /no/l.a none.o
ar rcs /dev/full ../sym.o; ar -X32_64 rc x.a ../sym.o; ar --target=elf64-x86-64 t l.a
nm --target=binary ../sym.o
nm --target=none ../sym.o
""",
    "owners": """
cp ../plain.o o.o; chown 1234567:7654321 o.o; chmod 4751 o.o; touch -d @4102444800 o.o; ar rcU l.a o.o
TZ=UTC ar tv l.a; ar xo l.a; stat -c '%Y %a' o.o; ar t -O l.a; touch -d @-5 o.o; ar rcSU n.a o.o
TZ=UTC ar tv n.a; ar rcu l.a o.o; rm o.o l.a
""",
    "names": """
mkdir d; for n in a_very_long_member_name_of_an_object_file 'with space' short; do cp ../sym.o "d/$n.o"; done
ar rcs l.a d/*.o; ar t l.a; ar rcsf f.a d/*.o; ar t f.a; ar rcsP p.a d/*.o; ar t p.a; ar m l.a short.o
ar t l.a
ar ra short.o l.a ../plain.o; ar rb short.o l.a ../cxx.o; ar t l.a; ar p l.a short.o | cksum
ar xN 1 l.a short.o; ar --output=d x l.a; ls d
""",
    "symbols": """
for o in -a -A -B -C -D -g -n -p -P -r -S -u -l '-t d' '-f sysv' '-f posix' --size-sort --defined-only \
 -fjust-symbols -W --with-symbol-versions; do echo "$o"; nm $o ../cxx.o ../sym.o ../plain.o; done
nm -D $(gcc -print-file-name=libc.so.6); nm -D $(gcc -print-file-name=libstdc++.so) -C | cksum
""",
    "others": """
gcc -g $S/c.c -o p; addr2line -e p -f $(nm p | grep ' T main' | cut -d' ' -f1); addr2line -Cfpi -e p 0x0
strings p | cksum; strings -a -n 8 -t x ../cxx.o | cksum; strings -el p; strings -eS p | cksum
echo _ZNSt6vectorIiSaIiEE9push_backERKi x | c++filt; c++filt _Z1fv -p _ZTI1A _RNvC1a4main
nm ../cxx.o | c++filt | cksum; size ../*.o; size -A ../lto.o; size -t plain ../plain.o
""",
    "stripped": """
for i in lto fat symlto cxx; do cp ../$i.o a.o; strip a.o -o s-$i.o; strip -g a.o -o g-$i.o
objcopy --strip-unneeded a.o u-$i.o; objcopy a.o c-$i.o; done; ar rcs l.a ../lto.o ../plain.o ../symlto.o
strip -g l.a -o g.a; objcopy l.a c.a; nm -s g.a; nm -s c.a; objcopy -g l.a d.a
strip --strip-unneeded l.a -o k.a
objdump -t ../lto.o ../symlto.o; objdump -h ../lto.o; objdump -a l.a; readelf -s ../lto.o; readelf -c l.a; ls
""",
    "named-plug-in": """
P=$(gcc -print-file-name=liblto_plugin.so); ar --plugin $P rcs l.a ../lto.o; nm -s l.a
nm --plugin $P ../lto.o; nm --plugin=none ../lto.o; ar --plugin none rcs m.a ../lto.o; nm -s m.a
strip --plugin $P ../lto.o -o s.o
nm --plug $P ../lto.o; nm --plugin=$P ../lto.o; nm --plugin ./$P ../lto.o
""",
    "files-of-arguments": r"""
echo 'rcs l.a ../lto.o' > a; ar @a; nm -s l.a; echo '-s l.a' > n; nm @n; echo l.a > r; ranlib @r; nm -s l.a
printf '%s\n' -O2 -c $S/c.c -o q.o > q; gcc @q; gcc @none -c $S/c.c -o n.o; echo "-DX='a b' -c $S/c.c" > q2
gcc @q2 -o q2.o; echo "q.o -o p -Wl,-t" > l; gcc @l; ./p; echo '@q' > q3; gcc @q3 -o q3.o; : > e
gcc @e -c $S/c.c; echo '--version' > v; gcc @v | head -1; echo 'ar: @v'; ar @v | head -1; ld @v | head -1
gcc -c @q @l; i=0; while [ $i -lt 3000 ]; do echo -DNAME_$i=some_value; i=$((i+1)); done > m
gcc @m -E -dM -xc /dev/null | sort | cksum; mkfifo f; (echo -O2 > f) & gcc @f -c $S/c.c -o f.o; wait; rm f
""",
    "places": """
A=$(readlink -f /usr/bin/ar); mkdir -p usr/bin usr/lib deep/er/bin; cp -p $A usr/bin/ar
usr/bin/ar rcs l.a ../lto.o; nm -s l.a; cp -p $A deep/er/bin/ar; deep/er/bin/ar rcs m.a ../lto.o; nm -s m.a
ln -s $A link; ./link rcs n.a ../lto.o; nm -s n.a; (PATH=$D/usr/bin:$PATH; ar rcs o.a ../lto.o); nm -s o.a
cd /usr/bin; ./ar rcs $D/p.a $S/out/lto.o; nm -s $D/p.a; cd $D; rm -r usr deep; mkdir -p /opt/bin
cp -p $A /opt/bin/ar; /opt/bin/ar rcs q.a ../lto.o; nm -s q.a
""",
    # now without, and with other plug-ins
    "without": """
mv /usr/lib/bfd-plugins /usr/lib/away; ar rcs l.a ../lto.o; nm -s l.a; nm ../lto.o; ranlib l.a
strip ../lto.o -o s.o; mkdir /usr/lib/bfd-plugins; ar rcs m.a ../lto.o; nm -s m.a
rmdir /usr/lib/bfd-plugins
mv /usr/lib/away /usr/lib/bfd-plugins; nm -s l.a; ranlib l.a; nm -s l.a
""",
    "other": """
gcc -shared -fPIC $S/sym.c -o /usr/lib/bfd-plugins/other.so; ar rcs l.a ../lto.o; nm -s l.a
rm /usr/lib/bfd-plugins/other.so; ar rcs l.a ../lto.o; nm -s l.a
""",
    "replaced": """
mv /usr/lib/bfd-plugins/liblto_plugin.so /tmp/keep
gcc -shared -fPIC $S/sym.c -o /usr/lib/bfd-plugins/liblto_plugin.so
ar rcs l.a ../lto.o; nm -s l.a; mv /tmp/keep /usr/lib/bfd-plugins/liblto_plugin.so
ar rcs l.a ../lto.o; nm -s l.a
""",
}


both = fixture_of(CASES, FILES)


@pytest.mark.parametrize("case", CASES)
def test_files_output_and_status_are_those_of_emulated_programs(
    both: tuple[BuiltImage, BuiltImage], case: str
) -> None:
    check_alike(both, case)


def test_other_plug_ins_and_copies_are_left_to_the_emulated_programs(
    both: tuple[BuiltImage, BuiltImage],
) -> None:
    (step,) = both[1].result.metadata["anyarch.acceleration"]["steps"].values()
    told = notes(log(both[1]))

    assert step["native"] > 300
    assert "4 times because it was a copy in another place, 2 times because plug-ins that only" in told
    assert "files of the result are for" not in told
