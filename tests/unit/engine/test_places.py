from __future__ import annotations

import pytest

from anyarch.engine.places import Place, place_of


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("[linux/amd64->arm64 build  2/15] RUN make", Place("build", "RUN make")),
        ("[linux/arm/v7 stage-1 2/5] COPY . /", Place("stage-1", "COPY . /")),
        ("[build 2/5] RUN a/b 1/2", Place("build", "RUN a/b 1/2")),
        ("[2/5] RUN make", Place("stage-0", "RUN make")),
        ("[linux/arm64 2/3] RUN make", Place("stage-0", "RUN make")),
        ("[2/2] RUN <<EOF (a...)\nb", Place("stage-0", "RUN <<EOF (a...)\nb")),
        ("[internal] load build context", Place("", "[internal] load build context")),
        ("[linux/arm64 internal] load metadata", Place("", "[linux/arm64 internal] load metadata")),
    ],
)
def test_place_of_a_step_is_read_from_its_name(name: str, place: Place) -> None:
    assert place_of(name) == place
